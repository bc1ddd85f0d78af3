//! First sight of a server's key, as ssh has it: the server is asked for its key, somebody decides whether
//! that is the right one, and from then on it is held against what the server shows.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

use super::reach::no_way;
use super::{CONNECT_TIMEOUT, find};
use crate::congestion::cubic;
use crate::error::Error;
use crate::identity::{Fingerprint, Identity, IdentityError, KnownHosts, config_dir};
use crate::mutex::lock;
use crate::net::address::ServerAddress;
use crate::net::dial::{race, unless_barred};
use crate::net::endpoint;
use crate::net::line::LineError;
use crate::net::lookup::{Resolver, SystemResolver};
use crate::net::path::{self, PathMtu};
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::telemetry::Telemetry;
use crate::net::tls::{self, ClientTrust};

/// A server that does not answer is asked from another port this often, and from this many.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);
const ATTEMPTS_MAX: usize = 10;

/// A server whose key is wanted, and how to get there.
#[derive(Clone)]
pub struct FirstContact {
    /// As it is listed among known hosts: `host:port`.
    pub server: String,
    /// Where it is; further addresses of it behind the first.
    pub servers: Vec<ServerAddress>,
    /// How they are looked up.
    pub resolver: Arc<dyn Resolver>,
    /// Local addresses to ask from, with port 0; empty lets the system choose.
    pub bind: Vec<SocketAddr>,
    /// Where connections get their sockets from.
    pub sockets: Arc<dyn Sockets>,
    /// The file that keys are remembered in; `None` if there is no place for one.
    pub known_hosts: Option<PathBuf>,
    /// How long to try to reach it.
    pub timeout: Duration,
}

/// A key that nobody has vouched for yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// What the server shows.
    pub key: Fingerprint,
    /// It is the client's own as well.
    pub is_own: bool,
}

/// How a server's key came to be trusted.
#[derive(Debug)]
pub enum Acquaintance {
    /// It was known before.
    Old,
    /// It is the client's own, on the client's host: there was nothing to decide on.
    Own,
    /// It was decided on, and is remembered in this file.
    Remembered(PathBuf),
    /// It was decided on, and counts this once: it cannot be remembered.
    Once(IdentityError),
}

impl FirstContact {
    /// Contact as it is without any options; `servers` are the addresses of one server, at least one. Its key
    /// is remembered among the user's known hosts.
    pub fn new(servers: Vec<impl Into<ServerAddress>>) -> Self {
        let servers: Vec<ServerAddress> = servers.into_iter().map(Into::into).collect();
        Self {
            server: servers.first().map(ToString::to_string).unwrap_or_default(),
            servers,
            resolver: Arc::new(SystemResolver),
            bind: Vec::new(),
            sockets: Arc::new(SystemSockets),
            known_hosts: config_dir().ok().map(|dir| dir.join("known_hosts")),
            timeout: CONNECT_TIMEOUT,
        }
    }

    /// The server's key: the one that is known, or else the one that it shows, if `decide` has no error. It is
    /// remembered then.
    pub async fn key<F>(
        &self,
        identity: &Identity,
        decide: impl FnOnce(Stranger) -> F,
    ) -> Result<(Fingerprint, Acquaintance), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let known_hosts = self.known_hosts()?;
        // This key and no other, not even one's own: whoever can lead the connection elsewhere could
        // lead it to another server of the same user.
        if let Some(known) = known_hosts.as_ref().and_then(|hosts| hosts.lookup(&self.server)) {
            return Ok((known, Acquaintance::Old));
        }
        let key = self.shown_key(identity).await?;
        let is_own = key == identity.fingerprint();
        let is_sure = is_own && is_here(&self.servers, &self.find(&self.servers).await?);
        if !is_sure {
            decide(Stranger { key, is_own }).await?;
        }
        let remembered = self.remember(known_hosts, key)?;
        Ok((key, if is_sure { Acquaintance::Own } else { remembered }))
    }

    /// Those whose keys are known, if there is a place for them.
    pub fn known_hosts(&self) -> Result<Option<KnownHosts>, IdentityError> {
        self.known_hosts.as_deref().map(KnownHosts::load).transpose()
    }

    /// Adds the key to known hosts. Where that cannot be written, it counts this once: somebody has said that
    /// it is the right one.
    fn remember(
        &self,
        known_hosts: Option<KnownHosts>,
        key: Fingerprint,
    ) -> Result<Acquaintance, IdentityError> {
        let Some(mut hosts) = known_hosts else {
            return Ok(Acquaintance::Once(IdentityError::NoConfigDir));
        };
        match hosts.add(&self.server, key) {
            Ok(()) => Ok(Acquaintance::Remembered(hosts.path().to_owned())),
            Err(error @ IdentityError::Io { .. }) => Ok(Acquaintance::Once(error)),
            Err(error) => Err(error),
        }
    }

    /// Asks the server for its key, without showing it ours.
    pub async fn shown_key(&self, identity: &Identity) -> Result<Fingerprint, Error> {
        let seen = Arc::new(Mutex::new(None));
        let tls = tls::client_config(identity, ClientTrust::Capture(Arc::clone(&seen)))?;
        let tls = Arc::new(tls);
        let addresses = self.find(&self.servers[..1]).await?;
        let ask = || {
            let (tls, seen) = (Arc::clone(&tls), Arc::clone(&seen));
            let (sockets, bind) = (Arc::clone(&self.sockets), self.bind.clone());
            let ask = move |remote| {
                let (tls, seen, sockets) =
                    (Arc::clone(&tls), Arc::clone(&seen), Arc::clone(&sockets));
                attempt(tls, seen, sockets, bind.clone(), remote)
            };
            race(addresses.clone(), std::future::ready(Vec::new()), ask)
        };
        let mut attempts = JoinSet::new();
        let mut next_at = tokio::time::interval(ATTEMPT_INTERVAL);
        let outcome = tokio::time::timeout(self.timeout, async {
            loop {
                tokio::select! {
                    // The first port may be one that a firewall on the way drops.
                    _ = next_at.tick(), if attempts.len() < ATTEMPTS_MAX => {
                        attempts.spawn(ask());
                    }
                    Some(Ok(ended)) = attempts.join_next() => break ended,
                }
            }
        });
        match outcome.await {
            Ok(Ok((_, key))) => Ok(key),
            Ok(Err(error)) => Err(no_way(&self.server, &addresses, "no connection", Some(&error))),
            Err(_) => Err(no_way(&self.server, &addresses, "no answer", None)),
        }
    }

    async fn find(&self, servers: &[ServerAddress]) -> Result<Vec<SocketAddr>, Error> {
        Ok(find(servers, &self.resolver, &self.bind).await?.all())
    }
}

/// Whether a server that was `found` there is on this host without the network having had a say in it: a
/// name that leads here may lead elsewhere a moment later.
fn is_here(servers: &[ServerAddress], found: &[SocketAddr]) -> bool {
    let is_fixed = |server: &ServerAddress| {
        let ServerAddress::Named { host, .. } = server else { return true };
        let host = host.trim_end_matches('.');
        host.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
    };
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    servers.iter().all(is_fixed) && found.iter().all(is_loopback)
}

/// The key of a server that has been seen.
type Seen = Arc<Mutex<Option<Fingerprint>>>;

/// Tries to connect, from a port of its own. That fails once the server's key is `seen`.
async fn attempt(
    tls: Arc<QuicClientConfig>,
    seen: Seen,
    sockets: Arc<dyn Sockets>,
    bind: Vec<SocketAddr>,
    remote: SocketAddr,
) -> Result<Fingerprint, LineError> {
    let local = path::local_for(&bind, remote, 0).ok_or(LineError::NoAddress)?;
    let connected = async {
        let mtu = PathMtu::of(remote, path::DATAGRAM_BYTES_MIN);
        let config = endpoint::client_config(tls, mtu, cubic(), Arc::new(Telemetry::default()));
        let endpoint = endpoint::client(&*sockets, local, mtu)?;
        let ended = endpoint.connect_with(config, remote, "localhost")?.await;
        let key = *lock(&seen);
        match (key, ended) {
            (Some(key), _) => Ok(key),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(LineError::Protocol("it showed no key".into())),
        }
    };
    unless_barred(&*sockets, local, remote, connected).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_name_service_decides_is_here() {
        for (servers, found, is) in [
            (&["127.0.0.1"] as &[&str], &["127.0.0.1:1"] as &[&str], true),
            (&["::1"], &["[::1]:1"], true),
            (&["localhost"], &["[::1]:1"], true),
            (&["a.localhost"], &["127.0.0.1:1"], true),
            (&["127.0.0.1", "127.9.9.9:2"], &["127.0.0.1:1", "127.9.9.9:2"], true),
            (&["::ffff:127.0.0.1"], &["[::ffff:127.0.0.1]:1"], true),
            (&["127.0.0.1", "192.0.2.1"], &["127.0.0.1:1", "192.0.2.1:1"], false),
            (&["127.0.0.1", "backup.example"], &["127.0.0.1:1", "127.0.0.1:1"], false),
            (&["backup.example"], &["127.0.0.1:1"], false),
            (&["notlocalhost"], &["127.0.0.1:1"], false),
            (&["192.0.2.1"], &["192.0.2.1:1"], false),
            (&["localhost"], &["192.0.2.1:1"], false),
        ] {
            let given = servers.iter().map(|server| ServerAddress::parse(server, 1).unwrap());
            let found: Vec<_> = found.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(is_here(&given.collect::<Vec<_>>(), &found), is, "{servers:?}");
        }
    }
}
