//! How to serve.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::limits::Limits;
use crate::event::ServeEvent;
use crate::identity::Identity;
use crate::net::path::DATAGRAM_BYTES_MAX;
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::tls::ServerTrust;

/// How long unfinished files are kept unless told otherwise.
pub const KEEP_UNFINISHED: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where to listen, and what to write to.
#[derive(Clone)]
pub struct ServeConfig {
    /// The UDP address; port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// Where the socket comes from.
    pub sockets: Arc<dyn Sockets>,
    /// The folder that transfers are written below.
    pub root: PathBuf,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Which clients may write.
    pub trust: ServerTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The most that is taken on at a time.
    pub limits: Limits,
    /// How much memory to take about, in bytes; without it, what the host and control groups allow.
    pub memory: Option<u64>,
    /// How long unfinished files are kept, for the same push to go on with them.
    pub keep_unfinished: Duration,
}

impl ServeConfig {
    /// A server as it is without any options.
    pub fn new(
        listen: SocketAddr,
        root: PathBuf,
        identity: Arc<Identity>,
        trust: ServerTrust,
    ) -> Self {
        Self {
            listen,
            sockets: Arc::new(SystemSockets),
            root,
            identity,
            trust,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            limits: Limits::default(),
            memory: None,
            keep_unfinished: KEEP_UNFINISHED,
        }
    }
}

/// Called with every event; it must not block for long.
pub type ServeReporter = Arc<dyn Fn(ServeEvent) + Send + Sync>;
