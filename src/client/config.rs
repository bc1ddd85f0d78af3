//! What a push is told to do, and whom it tells.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::CONNECT_TIMEOUT;
use super::path_memory::PathCache;
use super::query::PeerConfig;
use super::sweep::Delete;
use crate::congestion::{Aggressiveness, Algorithm, BudgetConfig};
use crate::error::Error;
use crate::filter::Filter;
use crate::identity::Identity;
use crate::net::address::ServerAddress;
use crate::net::lookup::{Resolver, SystemResolver};
use crate::net::path::DATAGRAM_BYTES_MAX;
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::tls::ClientTrust;
use crate::send::StreamSource;
use crate::store::pour::Outlet;
use crate::store::source::ReadOptions;
use crate::traffic::SetConfig;
use crate::wire::{Extras, Keep, Packing, Skip};

/// How long to try to go on after an interruption unless told otherwise.
pub const RETRY_FOR: Duration = Duration::from_secs(600);

/// What to push, and where to.
#[derive(Clone)]
pub struct PushConfig {
    /// Files and folders. A trailing slash means a folder's contents.
    pub sources: Vec<PathBuf>,
    /// In place of these, what comes from a pipe. It is read once: an attempt that fails is the last.
    pub stream: Option<StreamSource>,
    /// Where the server is; connections take turns over these. Names are looked up at each attempt, and of
    /// the addresses that one has, one that works is used.
    pub servers: Vec<ServerAddress>,
    /// How they are looked up.
    pub resolver: Arc<dyn Resolver>,
    /// The server's name: for its certificate, and for messages.
    pub server_name: String,
    /// Where to write, relative to the server's root. A trailing slash means a folder.
    pub destination: Vec<u8>,
    /// Local addresses to send from, with port 0; connections take turns over them. Empty: the system
    /// chooses.
    pub bind: Vec<SocketAddr>,
    /// Where connections get their sockets from.
    pub sockets: Arc<dyn Sockets>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Whom we accept.
    pub trust: ClientTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The connection set.
    pub set: SetConfig,
    /// Who decides how much may be in flight.
    pub congestion: Algorithm,
    /// The most to send, in bytes per second.
    pub rate_max: Option<u64>,
    /// How the connections' common budget is kept.
    pub budget: BudgetConfig,
    /// Where paths are remembered; `None` starts every push from nothing.
    pub paths: Option<PathCache>,
    /// Where to write a [receipt](crate::receipt) to; only a push that ends without an error writes one.
    pub receipt: Option<PathBuf>,
    /// What of the sources is sent.
    pub filter: Arc<Filter>,
    /// How sources are read.
    pub read: ReadOptions,
    /// What of metadata is to be kept at the receiver.
    pub keep: Keep,
    /// What beyond permissions and times.
    pub extras: Extras,
    /// What is not sent if it is there already.
    pub skip: Skip,
    /// What is removed there once all else is, if anything.
    pub delete: Option<Delete>,
    /// How long to try for a first connection.
    pub connect_timeout: Duration,
    /// How long to try to go on when the server, or the network, is gone under way.
    pub retry_for: Duration,
}

impl PushConfig {
    /// A push of `sources` to a server, as it is without any options, to the folder that the server
    /// serves.
    pub fn new(
        sources: Vec<PathBuf>,
        servers: Vec<impl Into<ServerAddress>>,
        server_name: impl Into<String>,
        identity: Arc<Identity>,
        trust: ClientTrust,
    ) -> Self {
        Self {
            sources,
            stream: None,
            servers: servers.into_iter().map(Into::into).collect(),
            resolver: Arc::new(SystemResolver),
            server_name: server_name.into(),
            destination: Vec::new(),
            bind: Vec::new(),
            sockets: Arc::new(SystemSockets),
            identity,
            trust,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            set: SetConfig::default(),
            congestion: Algorithm::default(),
            rate_max: None,
            budget: BudgetConfig::default(),
            paths: None,
            receipt: None,
            filter: Arc::default(),
            read: ReadOptions::default(),
            keep: Keep::default(),
            extras: Extras::default(),
            skip: Skip::default(),
            delete: None,
            connect_timeout: CONNECT_TIMEOUT,
            retry_for: RETRY_FOR,
        }
    }
}

impl PushConfig {
    /// The same server, for what is asked over one connection.
    pub(super) fn peer(&self) -> Result<PeerConfig, Error> {
        Ok(PeerConfig {
            server: first(&self.servers)?,
            resolver: Arc::clone(&self.resolver),
            server_name: self.server_name.clone(),
            bind: self.bind.clone(),
            sockets: Arc::clone(&self.sockets),
            identity: Arc::clone(&self.identity),
            trust: self.trust.clone(),
            datagram_bytes_max: self.datagram_bytes_max,
            connect_timeout: self.connect_timeout,
        })
    }
}

fn first(servers: &[ServerAddress]) -> Result<ServerAddress, Error> {
    servers.first().cloned().ok_or_else(|| Error::Usage("no server is given".into()))
}

/// What to pull, and where to.
#[derive(Clone)]
pub struct PullConfig {
    /// Paths below the server's root. A trailing slash means a folder's contents.
    pub sources: Vec<Vec<u8>>,
    /// Where to write, as the destination of a push: one file gets this name, unless that is a folder or
    /// ends in a slash; everything else goes into it.
    pub destination: PathBuf,
    /// What of the sources is wanted.
    pub filter: Arc<Filter>,
    /// Where the server is; connections take turns over these.
    pub servers: Vec<ServerAddress>,
    /// How they are looked up.
    pub resolver: Arc<dyn Resolver>,
    /// The server's name: for its certificate, and for messages.
    pub server_name: String,
    /// Local addresses, with port 0; connections take turns over them. Empty: the system chooses.
    pub bind: Vec<SocketAddr>,
    /// Where connections get their sockets from.
    pub sockets: Arc<dyn Sockets>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Whom we accept.
    pub trust: ClientTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The connection set, which the server keeps to within its own bounds.
    pub set: SetConfig,
    /// Who decides how much may be in flight.
    pub congestion: Algorithm,
    /// How hard the server is to press.
    pub aggressiveness: Aggressiveness,
    /// The most to be sent, in bytes per second.
    pub rate_max: Option<u64>,
    /// Whether the server is to start from what it has learned about the path before, and to remember it.
    pub remembers: bool,
    /// Where to write a [receipt](crate::receipt) to; only a pull that ends without an error writes one.
    pub receipt: Option<PathBuf>,
    /// In place of a destination, where one file is written to in order, as it comes.
    pub outlet: Option<Outlet>,
    /// What of metadata is to be kept.
    pub keep: Keep,
    /// What beyond permissions and times; what root can do is done if this is root.
    pub extras: Extras,
    /// What is not sent if it is here already.
    pub skip: Skip,
    /// Whether the server is to pack what it sends.
    pub packing: Packing,
    /// What is removed here once all else is, if anything.
    pub delete: Option<Delete>,
    /// How long to try for a first connection.
    pub connect_timeout: Duration,
    /// How long to try to go on when the server, or the network, is gone under way.
    pub retry_for: Duration,
}

impl PullConfig {
    /// A pull of `sources` from a server, as it is without any options.
    pub fn new(
        sources: Vec<Vec<u8>>,
        servers: Vec<impl Into<ServerAddress>>,
        server_name: impl Into<String>,
        destination: impl Into<PathBuf>,
        identity: Arc<Identity>,
        trust: ClientTrust,
    ) -> Self {
        Self {
            sources,
            destination: destination.into(),
            filter: Arc::default(),
            servers: servers.into_iter().map(Into::into).collect(),
            resolver: Arc::new(SystemResolver),
            server_name: server_name.into(),
            bind: Vec::new(),
            sockets: Arc::new(SystemSockets),
            identity,
            trust,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            set: SetConfig::default(),
            congestion: Algorithm::default(),
            aggressiveness: Aggressiveness::default(),
            rate_max: None,
            remembers: true,
            receipt: None,
            outlet: None,
            keep: Keep::default(),
            extras: Extras::default(),
            skip: Skip::default(),
            packing: Packing::None,
            delete: None,
            connect_timeout: CONNECT_TIMEOUT,
            retry_for: RETRY_FOR,
        }
    }
}

impl PullConfig {
    /// The same server, for what is asked over one connection.
    pub(super) fn peer(&self) -> Result<PeerConfig, Error> {
        Ok(PeerConfig {
            server: first(&self.servers)?,
            resolver: Arc::clone(&self.resolver),
            server_name: self.server_name.clone(),
            bind: self.bind.clone(),
            sockets: Arc::clone(&self.sockets),
            identity: Arc::clone(&self.identity),
            trust: self.trust.clone(),
            datagram_bytes_max: self.datagram_bytes_max,
            connect_timeout: self.connect_timeout,
        })
    }
}
