//! What all commands that connect to a server have in common: whom to trust, and how to get there.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use qbulk::client::first_contact::FirstContact;
use qbulk::client::{CONNECT_TIMEOUT, PeerConfig};
use qbulk::error::Error;
use qbulk::identity::Fingerprint;
use qbulk::net::address::{ServerAddress, parse_local};
use qbulk::net::path::DATAGRAM_BYTES_MAX;

use super::remote::Remote;
use super::url::Destination;
use super::values::{datagram_bytes, duration, time};
use super::{IdentityArgs, trust};

/// What is on another host, as it is typed.
const FORMS: &str = "[USER@]HOST:PATH or qbulk://HOST[:PORT]/PATH";

/// Whom to trust, and who we are.
#[derive(Clone, Debug, Args)]
pub(super) struct TrustArgs {
    /// Accept the server with this key only; repeatable. `qbulk id` on the server shows it.
    #[arg(
        long,
        value_name = "SHA256:...",
        env = "QBULK_FINGERPRINT",
        value_delimiter = ',',
        conflicts_with = "ca",
        help_heading = "Identity"
    )]
    pub(super) fingerprint: Vec<Fingerprint>,
    /// Accept a server that is not known yet, and remember its key, without asking.
    #[arg(long, env = "QBULK_ACCEPT_NEW", help_heading = "Identity")]
    accept_new: bool,
    /// Accept servers with a certificate for their name from this authority.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "fingerprint",
        env = "QBULK_CA",
        help_heading = "Identity"
    )]
    ca: Option<PathBuf>,
    #[command(flatten)]
    pub(super) identity: IdentityArgs,
}

/// How to get to the server.
#[derive(Clone, Debug, Args)]
pub(super) struct NetworkArgs {
    /// Send from this local address; repeatable: connections take turns.
    #[arg(
        long,
        value_name = "IP",
        value_parser = parse_local,
        env = "QBULK_BIND",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    pub(super) bind: Vec<SocketAddr>,
    /// The largest datagram, in bytes of UDP payload; the path's own limit is found anyway.
    #[arg(long, value_name = "BYTES", default_value_t = DATAGRAM_BYTES_MAX, value_parser = datagram_bytes(), env = "QBULK_MTU", help_heading = "Network")]
    pub(super) mtu: u16,
    /// How long to try to reach the server.
    #[arg(long, value_name = "TIME", default_value = time(CONNECT_TIMEOUT), value_parser = duration, env = "QBULK_CONNECT_TIMEOUT", help_heading = "Network")]
    pub(super) connect_timeout: Duration,
}

impl TrustArgs {
    /// What was said about a server.
    pub(super) fn asked(
        &self,
        destination: &Destination,
        servers: &[ServerAddress],
        network: &NetworkArgs,
    ) -> trust::Asked {
        trust::Asked {
            contact: FirstContact {
                server: destination.server(),
                bind: network.bind.clone(),
                timeout: network.connect_timeout,
                ..FirstContact::new(servers.to_vec())
            },
            fingerprints: self.fingerprint.clone(),
            accept_new: self.accept_new,
            ca: self.ca.clone(),
        }
    }
}

/// A server that is asked something, once it is known whom to accept as such.
pub(super) struct Asking {
    pub(super) peer: PeerConfig,
    asked: trust::Asked,
}

impl TrustArgs {
    /// Finds out whom to accept as the server; may ask the user.
    pub(super) async fn asking(
        &self,
        destination: &Destination,
        network: &NetworkArgs,
        stop: impl Future<Output = ()>,
    ) -> Result<Asking, Error> {
        let identity = Arc::new(trust::identity(&self.identity)?);
        let asked = self.asked(destination, &[destination.address()], network);
        let trust = tokio::select! {
            trust = asked.trust(&identity) => trust?,
            () = stop => return Err(Error::Interrupted),
        };
        let peer = PeerConfig {
            bind: network.bind.clone(),
            datagram_bytes_max: network.mtu,
            connect_timeout: network.connect_timeout,
            ..PeerConfig::new(destination.address(), &*destination.host, identity, trust)
        };
        Ok(Asking { peer, asked })
    }
}

impl Asking {
    /// Says more about a failed authentication.
    pub(super) async fn explain<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        let PeerConfig { identity, trust, .. } = &self.peer;
        match result {
            Err(Error::Auth(message)) => Err(self.asked.explain(message, identity, trust).await),
            result => result,
        }
    }
}

/// The sources, and where they go.
pub(super) fn ends(paths: &[OsString]) -> Result<(Vec<PathBuf>, Remote), Error> {
    let Some((last, sources @ [_, ..])) = paths.split_last() else {
        return Err(Error::Usage(format!("expected SRC... and then {FORMS}")));
    };
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    for source in &sources {
        if !source.exists() && matches!(Remote::read("source", source.as_os_str()), Ok(Some(_))) {
            return Err(Error::Usage(format!(
                "{} is on another host: that is what `qbulk pull` is for",
                source.display()
            )));
        }
    }
    Ok((sources, place("destination", last)?))
}

/// A place on another host, as it was typed; `what` it is, for a person.
pub(super) fn place(what: &str, typed: &OsStr) -> Result<Remote, Error> {
    Remote::read(what, typed)?.ok_or_else(|| {
        let typed = typed.to_string_lossy();
        Error::Usage(format!("{what} {typed:?}: expected {FORMS}"))
    })
}

/// What is to be had, all from one host, and where it goes.
pub(super) fn pulled(paths: &[OsString]) -> Result<(Vec<Remote>, PathBuf), Error> {
    let Some((last, sources @ [_, ..])) = paths.split_last() else {
        return Err(Error::Usage(format!("expected {FORMS}, or several, and then DST")));
    };
    let sources = sources.iter().map(|typed| place("source", typed));
    let sources: Vec<Remote> = sources.collect::<Result<_, _>>()?;
    if let Some(other) = sources.iter().find(|other| other.host() != sources[0].host()) {
        return Err(Error::Usage(format!(
            "{} and {} are two servers: pull from one at a time",
            sources[0].host(),
            other.host()
        )));
    }
    if !Path::new(last).exists() && !matches!(Remote::read("destination", last), Ok(None)) {
        return Err(Error::Usage(
            "what is pulled goes to this host: DST is a path here (./NAME if it has a colon)"
                .into(),
        ));
    }
    Ok((sources, last.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn paths_arrive_byte_by_byte() {
        for (typed, path) in [
            (b"qbulk://h/n\xe9" as &[u8], b"n\xe9" as &[u8]),
            (b"qbulk://h/%\xe9/\xff\xfe/", b"%\xe9/\xff\xfe/"),
            (b"qbulk://h/n%E9\xc3", b"n\xe9\xc3"),
            ("qbulk://h/n\u{e9}".as_bytes(), "n\u{e9}".as_bytes()),
        ] {
            let paths = [OsString::from("src"), OsStr::from_bytes(typed).to_owned()];
            let Remote::Server(server) = ends(&paths).unwrap().1 else { panic!("{typed:?}") };
            assert_eq!(server.path, path, "{typed:?}");
        }
        let host = [OsString::from("src"), OsStr::from_bytes(b"qbulk://h\xe9/x").to_owned()];
        assert!(matches!(ends(&host), Err(Error::Usage(_))));
    }
}
