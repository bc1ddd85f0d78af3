//! Whom to trust, as ssh does it: a server's key is remembered at first sight and held against what it
//! shows later.

use std::io::{BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qbulk::certs;
use qbulk::congestion::cubic;
use qbulk::error::Error;
use qbulk::identity::{Fingerprint, Identity, KnownHosts, config_dir};
use qbulk::net::endpoint::{self, PathMtu};
use qbulk::net::sockets::SystemSockets;
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{self, ClientTrust};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::IdentityArgs;

/// A server that does not answer is asked from another port this often, and from this many.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);
const ATTEMPTS_MAX: usize = 10;

/// Who we are: the given certificate, or the user's own identity.
pub(crate) fn identity(args: &IdentityArgs) -> Result<Identity, Error> {
    Ok(match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Identity::load_pem(cert, key)?,
        _ => Identity::load_or_create(&config_dir()?)?,
    })
}

/// What was said about the server.
pub(crate) struct Asked {
    /// As it is listed in `known_hosts`.
    pub(crate) server: String,
    pub(crate) address: SocketAddr,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) accept_new: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) timeout: Duration,
}

impl Asked {
    /// Whom to accept as the server. May ask the user.
    pub(crate) async fn trust(&self, identity: &Identity) -> Result<ClientTrust, Error> {
        if let Some(ca) = &self.ca {
            return Ok(ClientTrust::Ca(certs::load_ca(ca)?));
        }
        if !self.fingerprints.is_empty() {
            return Ok(ClientTrust::Pinned(self.fingerprints.iter().copied().collect()));
        }
        let own = identity.fingerprint();
        let path = config_dir()?.join("known_hosts");
        let mut known_hosts = KnownHosts::load(&path)?;
        if let Some(known) = known_hosts.lookup(&self.server) {
            return Ok(ClientTrust::Pinned([known, own].into()));
        }
        let shown = self.server_key(identity).await?;
        if shown != own && !self.accept_new {
            self.ask(shown).await?;
        }
        // One's own key is remembered as well: it saves the next push from looking.
        known_hosts.add(&self.server, shown)?;
        if shown != own {
            eprintln!("qbulk: {} is now known by {shown} (in {})", self.server, path.display());
        }
        Ok(ClientTrust::Pinned([shown, own].into()))
    }

    async fn ask(&self, shown: Fingerprint) -> Result<(), Error> {
        let server = &self.server;
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Err(Error::Auth(format!(
                "{server} is not known yet, and there is no terminal to ask on. It shows the key {shown}. \
                 If `qbulk id` on that host prints the same, say --fingerprint {shown}, or \
                 --accept-new to take it as it is"
            )));
        }
        eprint!(
            "{server} is not known yet. It shows the key\n  {shown}\n\
             `qbulk id` on that host prints the same if it is the right one. Trust it (yes/no)? "
        );
        let (answered, answer) = oneshot::channel();
        // Not one of the runtime's threads, which the process waits for: this one may read for ever.
        std::thread::spawn(move || {
            let mut answer = String::new();
            drop(std::io::stderr().flush());
            drop(std::io::stdin().lock().read_line(&mut answer));
            drop(answered.send(answer));
        });
        match answer.await {
            Ok(answer) if matches!(answer.trim(), "yes" | "y") => Ok(()),
            _ => Err(Error::Auth(format!("{server} was not trusted"))),
        }
    }

    /// Says more about a failed authentication: which key the server shows, and what was expected.
    pub(crate) async fn explain(&self, message: String, identity: &Identity) -> Error {
        let server = &self.server;
        if self.ca.is_some() {
            return Error::Auth(format!(
                "{message}. The server's certificate must be from the authority of --ca and for the name \
                 that you gave, and the server must accept your certificate"
            ));
        }
        let Ok(shown) = self.server_key(identity).await else { return Error::Auth(message) };
        let own = identity.fingerprint();
        let known = config_dir()
            .and_then(|dir| KnownHosts::load(&dir.join("known_hosts")))
            .ok()
            .and_then(|hosts| hosts.lookup(server));
        let expected =
            if self.fingerprints.is_empty() { known.as_slice() } else { &self.fingerprints };
        if shown == own && self.fingerprints.is_empty() || expected.contains(&shown) {
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
        let known = known.map(|known| known.to_string()).unwrap_or_default();
        Error::Auth(format!(
            "THE KEY OF {server} HAS CHANGED. It was {known} and is now {shown}. Somebody may be between \
             you and the server. If the server really has a new key, remove its line from known_hosts"
        ))
    }

    /// Asks the server for its key, without showing it ours.
    async fn server_key(&self, identity: &Identity) -> Result<Fingerprint, Error> {
        let unreachable = |why: String| {
            Error::Connect(format!(
                "cannot reach {} at {} (UDP): {why}; is `qbulk serve` running there, and does a firewall \
                 let UDP port {} through?",
                self.server,
                self.address,
                self.address.port()
            ))
        };
        let seen = Arc::new(Mutex::new(None));
        let tls = tls::client_config(identity, ClientTrust::Capture(Arc::clone(&seen)))?;
        let mtu = PathMtu::of(self.address, endpoint::DATAGRAM_BYTES_MIN);
        let config =
            endpoint::client_config(Arc::new(tls), mtu, cubic(), Arc::new(Telemetry::default()));
        let mut attempts = JoinSet::new();
        let mut next_at = tokio::time::interval(ATTEMPT_INTERVAL);
        let outcome = tokio::time::timeout(self.timeout, async {
            loop {
                tokio::select! {
                    // The first port may be one that a firewall on the way drops.
                    _ = next_at.tick(), if attempts.len() < ATTEMPTS_MAX => {
                        attempts.spawn(attempt(config.clone(), self.address, mtu));
                    }
                    Some(Ok(ended)) = attempts.join_next() => break ended,
                }
            }
        })
        .await;
        let key = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        key.ok_or_else(|| unreachable(outcome.unwrap_or_else(|_| "no answer".into())))
    }
}

/// Tries to connect, from a port of its own. Returns why that has failed, as it does once the server's
/// key is seen.
async fn attempt(config: quinn::ClientConfig, address: SocketAddr, mtu: PathMtu) -> String {
    let connected = async {
        let endpoint = endpoint::client(&SystemSockets, endpoint::any_local(address), mtu)?;
        let connecting = endpoint.connect_with(config, address, "localhost");
        connecting.map_err(std::io::Error::other)?.await.map_err(std::io::Error::other)
    };
    connected.await.map_or_else(|error| error.to_string(), |_| "it showed no key".into())
}
