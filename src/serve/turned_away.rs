//! Tells of clients that are turned away: once for all connections that a client tries with, and bounded for whoever
//! tries with ever new keys.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quinn::Connection;
use tokio::time::Instant;

use super::config::ServeReporter;
use super::handshakes::network;
use crate::event::ServeEvent;
use crate::mutex::lock;

/// What is counted is counted in spans of this time.
pub(super) const SPAN: Duration = Duration::from_secs(10);
/// So many are told of in a span, with different reasons, of one address or network, and of all.
const TOLD_PER_NETWORK: usize = 5;
const TOLD_MAX: usize = 50;

/// How long a client may take to hear why.
const HEARD_TIME: Duration = Duration::from_millis(500);

/// Who was turned away lately.
pub(super) struct TurnedAway {
    report: ServeReporter,
    span: Mutex<Span>,
    /// All of them.
    count: AtomicU64,
}

/// What has happened since a moment.
struct Span {
    since: Instant,
    /// What was told of whom.
    told: HashMap<IpAddr, HashSet<String>>,
    told_count: usize,
    /// Those that were not told of.
    untold: u64,
}

impl Span {
    fn begin() -> Self {
        Self { since: Instant::now(), told: HashMap::new(), told_count: 0, untold: 0 }
    }
}

impl TurnedAway {
    pub(super) fn new(report: ServeReporter) -> Self {
        Self { report, span: Mutex::new(Span::begin()), count: AtomicU64::new(0) }
    }

    /// Tells that a client was turned away.
    pub(super) fn tell(&self, remote: SocketAddr, reason: String) {
        self.count.fetch_add(1, Relaxed);
        self.tell_of_the_others();
        if self.is_to_be_told(network(remote.ip()), &reason) {
            (self.report)(ServeEvent::Refused { remote, reason });
        } else {
            tracing::debug!(%remote, reason, "turned away");
        }
    }

    /// How many were turned away, told of or not.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Whether that is new, and not more than anybody reads.
    fn is_to_be_told(&self, network: IpAddr, reason: &str) -> bool {
        let mut span = lock(&self.span);
        let is_full = span.told_count >= TOLD_MAX;
        let own = span.told.get(&network);
        if own.is_some_and(|own| own.contains(reason)) {
            return false;
        }
        if is_full || own.is_some_and(|own| own.len() >= TOLD_PER_NETWORK) {
            span.untold += 1;
            return false;
        }
        span.told.entry(network).or_default().insert(reason.to_owned());
        span.told_count += 1;
        true
    }

    /// Says how many were not told of, when it is time for that.
    pub(super) fn tell_of_the_others(&self) {
        let span = {
            let mut span = lock(&self.span);
            if span.since.elapsed() < SPAN {
                return;
            }
            std::mem::replace(&mut *span, Span::begin())
        };
        if span.untold > 0 {
            let seconds = span.since.elapsed().as_secs_f64();
            (self.report)(ServeEvent::RefusedMore { count: span.untold, seconds });
        }
    }
}

/// Waits for a client to hear why its connection was closed, before this end forgets the connection.
pub(super) async fn has_heard(connection: &Connection) {
    drop(tokio::time::timeout(HEARD_TIME, connection.closed()).await);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What is told while `count` clients with different keys come from `networks`.
    fn told(turned_away: &TurnedAway, networks: u8, count: usize) {
        for number in 0..count {
            let last = number % usize::from(networks);
            let remote = SocketAddr::from(([192, 0, 2, last as u8], 4_433));
            turned_away.tell(remote, format!("the key {number} is not authorized"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ever_new_keys_write_a_few_lines_and_how_many_there_were() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let report = Arc::clone(&events);
        let turned_away = TurnedAway::new(Arc::new(move |event| lock(&report).push(event)));
        let take = || std::mem::take(&mut *lock(&events));
        told(&turned_away, 1, 500);
        assert_eq!(take().len(), TOLD_PER_NETWORK);
        told(&turned_away, 100, 10_000);
        assert_eq!(take().len(), TOLD_MAX - TOLD_PER_NETWORK);
        assert!(lock(&turned_away.span).told_count <= TOLD_MAX, "what is kept is bounded, too");
        turned_away.tell_of_the_others();
        assert!(take().is_empty(), "it is not time yet");
        tokio::time::advance(SPAN).await;
        turned_away.tell_of_the_others();
        let said = take();
        // One of the second lot is the same again.
        let untold = 500 - 5 + 10_000 - 45 - 1;
        assert!(
            matches!(said[..], [ServeEvent::RefusedMore { count, .. }] if count == untold),
            "{said:?}"
        );
        told(&turned_away, 1, 1);
        told(&turned_away, 1, 1);
        assert_eq!(take().len(), 1, "the same again is told once");
        tokio::time::advance(SPAN).await;
        told(&turned_away, 1, 1);
        assert_eq!(take().len(), 1, "there is nothing more to say of the span before");
    }
}
