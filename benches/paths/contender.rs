//! What moves the bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::network::{Lane, Network};
use crate::path::Path;
use crate::{Result, cubic, pushed};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 4_433);
const OTHER_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 4_434);
/// What the other traffic is given to fill the path.
const AHEAD: Duration = Duration::from_secs(5);

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// `qbulk push`, with the defaults and nothing remembered.
    Qbulk,
    /// quinn's CUBIC, over so many connections.
    Cubic(usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    /// Bytes sent by bytes moved.
    pub(crate) overhead: f64,
    /// What a datagram waited in queues on average, in milliseconds.
    pub(crate) queue_ms: f64,
    /// Connections that were given up.
    pub(crate) condemned: u64,
}

impl Contender {
    /// Those that are to be compared on `path`.
    pub(crate) fn of(path: &Path, alone: bool) -> Vec<Self> {
        match (alone, path.is_shared) {
            (true, _) => vec![Self::Qbulk],
            // Ten would take ten parts of what others have.
            (false, true) => vec![Self::Qbulk, Self::Cubic(1)],
            (false, false) => vec![Self::Qbulk, Self::Cubic(1), Self::Cubic(10)],
        }
    }

    /// Moves `bytes` over `path`.
    pub(crate) fn run(self, path: &Path, bytes: u64, seed: u64, tells: bool) -> Result<Run> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()?;
        runtime.block_on(self.move_bytes(path, bytes, seed, tells))
    }

    async fn move_bytes(self, path: &Path, bytes: u64, seed: u64, tells: bool) -> Result<Run> {
        let lanes = if path.lanes.is_empty() {
            vec![Lane { queue: Duration::from_secs(9), ..Lane::new(1e12, Duration::ZERO) }]
        } else {
            path.lanes.clone()
        };
        let network = Network::start(seed, SERVER, lanes, Some(path.trunk));
        let changing = tokio::spawn(change(Arc::clone(&network), path.clone()));
        let mut competing = None;
        if path.is_shared {
            let (ours, theirs) = (network.host(OTHER), network.host(OTHER_SERVER.ip()));
            competing = Some(tokio::spawn(async move {
                drop(cubic::move_bytes(ours, theirs, OTHER_SERVER, 1, u64::MAX).await);
            }));
            sleep(AHEAD).await;
        }
        let (ours, theirs) = (network.host(CLIENT), network.host(SERVER.ip()));
        let (seconds, condemned) = match self {
            Self::Qbulk => pushed::move_bytes(ours, theirs, SERVER, (bytes, seed), tells).await?,
            Self::Cubic(connections) => {
                let moved = cubic::move_bytes(ours, theirs, SERVER, connections, bytes).await;
                // One dead lane is the end of it.
                (moved.unwrap_or(f64::INFINITY), 0)
            }
        };
        changing.abort();
        if let Some(competing) = competing {
            competing.abort();
        }
        let carried = network.carried(CLIENT);
        let queue = carried.waited / carried.datagrams.max(1);
        Ok(Run {
            seconds,
            overhead: carried.sent_bytes as f64 / bytes as f64,
            queue_ms: queue.as_secs_f64() * 1e3,
            condemned,
        })
    }
}

/// Changes the trunk's rate as the path does.
async fn change(network: Arc<Network>, path: Path) {
    if path.changes.is_empty() {
        return;
    }
    loop {
        let mut before = Duration::ZERO;
        for &(at, factor) in &path.changes {
            sleep(at.saturating_sub(before)).await;
            before = at;
            network.change_trunk(|lane| lane.bytes_per_s = path.trunk.bytes_per_s * factor);
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qbulk => write!(f, "qbulk"),
            Self::Cubic(1) => write!(f, "CUBIC"),
            Self::Cubic(connections) => write!(f, "{connections} x CUBIC"),
        }
    }
}
