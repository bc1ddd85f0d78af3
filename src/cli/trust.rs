//! Whom to trust, as ssh does it: a server's key is remembered at first sight and held against what it
//! shows later.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qbulk::certs;
use qbulk::congestion::cubic;
use qbulk::error::Error;
use qbulk::identity::{Fingerprint, Identity, IdentityError, KnownHosts, config_dir};
use qbulk::net::address::ServerAddress;
use qbulk::net::dial::{race, unless_barred};
use qbulk::net::endpoint::{self, PathMtu};
use qbulk::net::link::LinkError;
use qbulk::net::lookup::SystemResolver;
use qbulk::net::sockets::SystemSockets;
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{self, ClientTrust};
use qbulk::push::{find, no_way};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

use super::IdentityArgs;
use super::question::{can_ask, confirmed};
use crate::report::say;

/// A server that does not answer is asked from another port this often, and from this many.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);
const ATTEMPTS_MAX: usize = 10;

/// Who we are: the given certificate, or the user's own identity.
pub(crate) fn identity(args: &IdentityArgs) -> Result<Identity, Error> {
    let alone = |given, missing| {
        Err(Error::Usage(format!(
            "--{given} goes with --{missing}, and there is no --{missing}: not typed, not in the \
             environment, and not in this command's section of config.toml"
        )))
    };
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Ok(Identity::load_pem(cert, key)?),
        (Some(_), None) => alone("cert", "key"),
        (None, Some(_)) => alone("key", "cert"),
        (None, None) => Ok(Identity::load_or_create(&config_dir()?)?),
    }
}

/// What was said about the server.
pub(crate) struct Asked {
    /// As it is listed in `known_hosts`.
    pub(crate) server: String,
    /// Where it is; further addresses of it behind the first.
    pub(crate) servers: Vec<ServerAddress>,
    /// Local addresses to ask from.
    pub(crate) bind: Vec<SocketAddr>,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) accept_new: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) timeout: Duration,
}

impl Asked {
    /// Whom to accept as the server. May ask the user.
    pub(crate) async fn trust(&self, identity: &Identity) -> Result<ClientTrust, Error> {
        if self.ca.is_some() && !self.fingerprints.is_empty() {
            return Err(Error::Usage("--ca cannot be used with --fingerprint".into()));
        }
        if let Some(ca) = &self.ca {
            return Ok(ClientTrust::Ca(certs::load_ca(ca)?));
        }
        if !self.fingerprints.is_empty() {
            return Ok(ClientTrust::Pinned(self.fingerprints.iter().copied().collect()));
        }
        let known_hosts = known_hosts()?;
        // This key and no other, not even one's own: whoever can lead the connection elsewhere could
        // lead it to another server of the same user.
        if let Some(known) = known_hosts.as_ref().and_then(|hosts| hosts.lookup(&self.server)) {
            return Ok(ClientTrust::Pinned([known].into()));
        }
        let shown = self.server_key(identity).await?;
        let is_own = shown == identity.fingerprint();
        let is_sure = is_own && is_here(&self.servers, &self.find(&self.servers).await?);
        if !(is_sure || self.accept_new) {
            self.ask(shown, is_own).await?;
        }
        let is_told = !is_sure;
        self.remember(known_hosts, shown, is_told)?;
        Ok(ClientTrust::Pinned([shown].into()))
    }

    /// Adds the key to `known_hosts`. Where that cannot be written, it counts this once: the user has said
    /// that it is the right one.
    fn remember(
        &self,
        known_hosts: Option<KnownHosts>,
        shown: Fingerprint,
        is_told: bool,
    ) -> Result<(), Error> {
        let server = &self.server;
        let added = known_hosts.map_or(Err(IdentityError::NoConfigDir), |mut hosts| {
            hosts.add(server, shown).map(|()| hosts.path().to_owned())
        });
        match added {
            Ok(path) if is_told => {
                say(&format!("{server} is now known by {shown} (in {})", path.display()));
            }
            Err(error @ (IdentityError::Io { .. } | IdentityError::NoConfigDir)) if is_told => {
                say(&format!(
                    "warning: {server} is trusted by its key {shown} this once and not \
                     remembered: {error}"
                ));
            }
            Ok(_) | Err(IdentityError::Io { .. } | IdentityError::NoConfigDir) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn ask(&self, shown: Fingerprint, is_own: bool) -> Result<(), Error> {
        let server = &self.server;
        let whose = if is_own { " (your own)" } else { "" };
        if !can_ask() {
            return Err(Error::Auth(format!(
                "{server} is not known yet, and there is no terminal to ask on. It shows the key \
                 {shown}{whose}. If `qbulk id` on that host prints the same, say --fingerprint {shown}, or \
                 --accept-new to take it as it is"
            )));
        }
        let question = format!(
            "{server} is not known yet. It shows the key{whose}\n  {shown}\n\
             `qbulk id` on that host prints the same if it is the right one. Trust it (yes/no)? "
        );
        if confirmed(question).await {
            Ok(())
        } else {
            Err(Error::Auth(format!("{server} was not trusted")))
        }
    }

    /// Says more about a failed authentication: which key the server shows, and which was expected, `trust`.
    pub(crate) async fn explain(
        &self,
        message: String,
        identity: &Identity,
        trust: &ClientTrust,
    ) -> Error {
        let server = &self.server;
        let ClientTrust::Pinned(expected) = trust else {
            return Error::Auth(format!(
                "{message}. The server's certificate must be from the authority of --ca and for the name \
                 that you gave, and the server must accept your certificate"
            ));
        };
        let Ok(shown) = self.server_key(identity).await else { return Error::Auth(message) };
        if expected.contains(&shown) {
            let own = identity.fingerprint();
            return Error::Auth(format!(
                "{server} does not accept your key {own}: on that host, add it to authorized_keys or start \
                 `qbulk serve` with --authorize {own}"
            ));
        }
        if !self.fingerprints.is_empty() {
            return Error::Auth(format!(
                "{server} shows the key {shown}, which --fingerprint does not name"
            ));
        }
        Error::Auth(format!(
            "THE KEY OF {server} HAS CHANGED. It was {} and is now {shown}. Somebody may be between \
             you and the server.{}",
            listed(expected),
            self.place().unwrap_or_default()
        ))
    }

    /// What to do where the server's key has changed, and it is known that it has.
    fn place(&self) -> Option<String> {
        let hosts = known_hosts().ok()??;
        let lines = match hosts.lines(&self.server) {
            [] => return None,
            [line] => format!("line {line}"),
            lines => {
                let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
                format!("lines {}", lines.join(", "))
            }
        };
        Some(format!(
            " If the server really has a new key, remove {lines} of {}",
            hosts.path().display()
        ))
    }

    async fn find(&self, servers: &[ServerAddress]) -> Result<Vec<SocketAddr>, Error> {
        Ok(find(servers, &(Arc::new(SystemResolver) as _), &self.bind).await?.all())
    }

    /// Asks the server for its key, without showing it ours.
    async fn server_key(&self, identity: &Identity) -> Result<Fingerprint, Error> {
        let seen = Arc::new(Mutex::new(None));
        let tls = tls::client_config(identity, ClientTrust::Capture(Arc::clone(&seen)))?;
        let tls = Arc::new(tls);
        let addresses = self.find(&self.servers[..1]).await?;
        let ask = || {
            let (tls, seen, bind) = (Arc::clone(&tls), Arc::clone(&seen), self.bind.clone());
            let ask =
                move |remote| attempt(Arc::clone(&tls), Arc::clone(&seen), bind.clone(), remote);
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

/// The user's known hosts; `None` where there is no place for them.
fn known_hosts() -> Result<Option<KnownHosts>, IdentityError> {
    match config_dir() {
        Ok(dir) => KnownHosts::load(&dir.join("known_hosts")).map(Some),
        Err(IdentityError::NoConfigDir) => Ok(None),
        Err(error) => Err(error),
    }
}

fn listed(keys: &BTreeSet<Fingerprint>) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.join(" or ")
}

/// The key of a server that has been seen.
type Seen = Arc<Mutex<Option<Fingerprint>>>;

/// Tries to connect, from a port of its own. That fails once the server's key is `seen`.
async fn attempt(
    tls: Arc<QuicClientConfig>,
    seen: Seen,
    bind: Vec<SocketAddr>,
    remote: SocketAddr,
) -> Result<Fingerprint, LinkError> {
    let local = endpoint::local_for(&bind, remote, 0).ok_or(LinkError::NoAddress)?;
    let connected = async {
        let mtu = PathMtu::of(remote, endpoint::DATAGRAM_BYTES_MIN);
        let config = endpoint::client_config(tls, mtu, cubic(), Arc::new(Telemetry::default()));
        let endpoint = endpoint::client(&SystemSockets, local, mtu)?;
        let ended = endpoint.connect_with(config, remote, "localhost")?.await;
        let key = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (key, ended) {
            (Some(key), _) => Ok(key),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(LinkError::Protocol("it showed no key".into())),
        }
    };
    unless_barred(&SystemSockets, local, remote, connected).await
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
