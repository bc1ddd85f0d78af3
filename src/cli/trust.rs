//! Whom to trust, as ssh does it: what is asked on a terminal about a key that is not known, and what is said
//! about one that has changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use qbulk::certs;
use qbulk::client::first_contact::{Acquaintance, FirstContact, Stranger};
use qbulk::error::Error;
use qbulk::identity::{Fingerprint, Identity, config_dir};
use qbulk::net::tls::ClientTrust;

use super::IdentityArgs;
use super::question::{can_ask, confirmed};
use crate::report::say;

/// A certificate that ends within this time is told of.
const SOON: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Who we are: the given certificate, or the user's own identity.
pub(crate) fn identity(args: &IdentityArgs) -> Result<Identity, Error> {
    let alone = |given, missing| {
        Err(Error::Usage(format!(
            "--{given} goes with --{missing}, and there is no --{missing}: not typed, not in the \
             environment, and not in this command's section of config.toml"
        )))
    };
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let identity = Identity::load_pem(cert, key)?;
            if let Some(end) = identity.valid_until() {
                warn_of_end(cert, end, SystemTime::now());
            }
            Ok(identity)
        }
        (Some(_), None) => alone("cert", "key"),
        (None, Some(_)) => alone("key", "cert"),
        (None, None) => Ok(Identity::load_or_create(&config_dir()?)?),
    }
}

/// Says that a certificate will soon be accepted no more, while there is time to replace it.
fn warn_of_end(cert: &Path, end: SystemTime, now: SystemTime) {
    let (cert, at) = (cert.display(), humantime::format_rfc3339_seconds(end));
    if end <= now {
        say(&format!(
            "warning: the certificate in {cert} has ended at {at}: whoever goes by its authority refuses it; \
             make another one with `qbulk cert issue`"
        ));
    } else if end < now + SOON {
        say(&format!("warning: the certificate in {cert} ends at {at}: make another one by then"));
    }
}

/// What was said about the server.
pub(crate) struct Asked {
    pub(crate) contact: FirstContact,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) accept_new: bool,
    pub(crate) ca: Option<PathBuf>,
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
        let decide = async |stranger| {
            if self.accept_new { Ok(()) } else { self.ask(stranger).await }
        };
        let (key, acquaintance) = self.contact.key(identity, decide).await?;
        self.tell(key, &acquaintance);
        Ok(ClientTrust::Pinned([key].into()))
    }

    fn tell(&self, key: Fingerprint, acquaintance: &Acquaintance) {
        let server = &self.contact.server;
        match acquaintance {
            Acquaintance::Old | Acquaintance::Own => {}
            Acquaintance::Remembered(path) => {
                say(&format!("{server} is now known by {key} (in {})", path.display()));
            }
            Acquaintance::Once(error) => say(&format!(
                "warning: {server} is trusted by its key {key} this once and not remembered: {error}"
            )),
        }
    }

    async fn ask(&self, stranger: Stranger) -> Result<(), Error> {
        let server = &self.contact.server;
        let Stranger { key: shown, is_own } = stranger;
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
        let server = &self.contact.server;
        let ClientTrust::Pinned(expected) = trust else {
            return Error::Auth(format!(
                "{message}. The server's certificate must be a server's, from the authority of --ca and for the \
                 name that you gave, and the server must accept yours; neither may have ended"
            ));
        };
        let Ok(shown) = self.contact.shown_key(identity).await else { return Error::Auth(message) };
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
        let hosts = self.contact.known_hosts().ok()??;
        let lines = match hosts.lines(&self.contact.server) {
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
}

fn listed(keys: &BTreeSet<Fingerprint>) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.join(" or ")
}
