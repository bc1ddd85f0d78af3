//! Tells of clients that are turned away: once for all connections that a client tries with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quinn::Connection;

use super::config::ServeReporter;
use crate::event::ServeEvent;
use crate::mutex::lock;

/// A client that is turned away is told of once in this time; so many are remembered.
const INTERVAL: Duration = Duration::from_secs(10);
const KNOWN_MAX: usize = 1_024;

/// How long a client may take to hear why.
const HEARD_TIME: Duration = Duration::from_millis(500);

/// Who was turned away lately.
pub(super) struct TurnedAway {
    report: ServeReporter,
    /// Why and when.
    known: Mutex<HashMap<(IpAddr, String), Instant>>,
}

impl TurnedAway {
    pub(super) fn new(report: ServeReporter) -> Self {
        Self { report, known: Mutex::default() }
    }

    /// Tells that a client was turned away.
    pub(super) fn tell(&self, remote: SocketAddr, reason: String) {
        if self.is_new(remote.ip(), &reason) {
            (self.report)(ServeEvent::Refused { remote, reason });
        } else {
            tracing::debug!(%remote, reason, "turned away");
        }
    }

    /// Whether that is to be told: not where there are more than anybody reads.
    fn is_new(&self, ip: IpAddr, reason: &str) -> bool {
        let now = Instant::now();
        let mut known = lock(&self.known);
        known.retain(|_, at| now - *at < INTERVAL);
        known.len() < KNOWN_MAX && known.insert((ip, reason.to_owned()), now).is_none()
    }
}

/// Waits for a client to hear why its connection was closed, before this end forgets the connection.
pub(super) async fn has_heard(connection: &Connection) {
    drop(tokio::time::timeout(HEARD_TIME, connection.closed()).await);
}
