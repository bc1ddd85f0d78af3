//! Whom to trust.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use rustls::RootCertStore;

use crate::identity::{AuthorizedKeysFile, Fingerprint, Grant, RevokedKeysFile};
use crate::mutex::lock;

/// Which servers a client accepts.
#[derive(Clone, Debug)]
pub enum ClientTrust {
    /// Servers with one of these keys.
    ///
    /// As with ssh, the key alone decides: names in the certificate and its dates do not matter,
    /// since whoever pinned the key has said which host it stands for, and until when.
    Pinned(BTreeSet<Fingerprint>),
    /// No server: notes the key the server proved to have and fails the handshake, before the
    /// client shows a certificate of its own. For asking the user on first contact.
    Capture(Arc<Mutex<Option<Fingerprint>>>),
    /// Servers with a valid certificate for the name connected to, from one of these authorities.
    Ca(RootCertStore),
}

/// Which clients a server accepts; every client must show a certificate.
#[derive(Clone, Debug, Default)]
pub struct ServerTrust {
    /// Clients with one of these keys, whatever their certificates say (see
    /// [`ClientTrust::Pinned`]).
    pub allowed: BTreeSet<Fingerprint>,
    /// Clients with one of the keys that this file has at the time.
    pub listed: Option<Arc<AuthorizedKeysFile>>,
    /// Clients with one of the keys that this file has at the time are not accepted, whatever else is said of
    /// them, nor this server's user.
    pub revoked: Option<Arc<RevokedKeysFile>>,
    /// Clients with a valid certificate from one of these authorities.
    pub ca: Option<RootCertStore>,
    /// Those of them that have come and were let in by that alone.
    pub certified: Arc<Certified>,
}

/// Keys that were shown with a valid certificate: as many as the authorities have given one.
#[derive(Debug, Default)]
pub struct Certified(Mutex<BTreeSet<Fingerprint>>);

impl Certified {
    pub(super) fn add(&self, key: Fingerprint) {
        lock(&self.0).insert(key);
    }

    fn has(&self, key: &Fingerprint) -> bool {
        lock(&self.0).contains(key)
    }
}

impl ServerTrust {
    /// What a client that was let in is allowed, as lists and certificates are now. What is said of a key in
    /// the file counts before its certificate.
    pub fn grants(&self, key: &Fingerprint) -> Vec<Grant> {
        if self.revoked.as_ref().is_some_and(|revoked| revoked.contains(key)) {
            return Vec::new();
        }
        if self.allowed.contains(key) {
            return vec![Grant::ALL];
        }
        match self.listed.as_ref().and_then(|listed| listed.grants(key)) {
            Some(grants) => grants,
            None if self.certified.has(key) => vec![Grant::ALL],
            None => Vec::new(),
        }
    }
}
