//! How to serve.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::limits::Limits;
use crate::event::ServeEvent;
use crate::identity::{Identity, Rights, RootName};
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
    /// What is served.
    pub roots: Roots,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Which clients are let in, and what each is allowed.
    pub trust: ServerTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The most that is taken on at a time.
    pub limits: Limits,
    /// How much memory to take about, in bytes; without it, what the host and control groups allow.
    pub memory: Option<u64>,
    /// How long unfinished files are kept, for the same push to go on with them. With [`Duration::MAX`] nothing
    /// is looked for.
    pub keep_unfinished: Duration,
    /// Whoever is let in is the same user, whatever the key: unfinished transfers of one key are gone on with by
    /// another.
    pub one_user: bool,
    /// Clients may have done what only root can do, if the server runs as root: whose files are, set-user-id bits,
    /// devices, and the attributes of the system.
    pub allows_super: bool,
}

impl ServeConfig {
    /// A server as it is without any options: of one folder, for instance.
    pub fn new(
        listen: SocketAddr,
        roots: impl Into<Roots>,
        identity: Arc<Identity>,
        trust: ServerTrust,
    ) -> Self {
        Self {
            listen,
            sockets: Arc::new(SystemSockets),
            roots: roots.into(),
            identity,
            trust,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            limits: Limits::default(),
            memory: None,
            keep_unfinished: KEEP_UNFINISHED,
            one_user: false,
            allows_super: false,
        }
    }
}

/// What a server serves: one folder, or several that paths tell by their first name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots<P = PathBuf> {
    /// Paths are relative to this folder.
    One(ServedFolder<P>),
    /// Paths begin with the name of one of these.
    Named(BTreeMap<RootName, ServedFolder<P>>),
}

/// A folder that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedFolder<P = PathBuf> {
    /// Where it is.
    pub path: P,
    /// The most that anybody may do below it.
    pub rights: Rights,
}

/// One folder, below which everything may be done.
impl From<PathBuf> for Roots {
    fn from(path: PathBuf) -> Self {
        Self::One(ServedFolder { path, rights: Rights::BOTH })
    }
}

impl<P> Roots<P> {
    /// All folders, with their names if they have some.
    pub fn folders(&self) -> impl Iterator<Item = (Option<&RootName>, &ServedFolder<P>)> {
        let (one, named) = match self {
            Self::One(folder) => (Some(folder), None),
            Self::Named(folders) => (None, Some(folders)),
        };
        let named = named.into_iter().flatten().map(|(name, folder)| (Some(name), folder));
        one.into_iter().map(|folder| (None, folder)).chain(named)
    }
}

/// Called with every event; it must not block for long.
pub type ServeReporter = Arc<dyn Fn(ServeEvent) + Send + Sync>;
