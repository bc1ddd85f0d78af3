//! Who the user is and whom the user trusts.
//!
//! This works like ssh: everybody has one long-lived key, is known by the [`Fingerprint`] of its
//! public half, and keeps a list of the fingerprints that are trusted. A certificate only wraps
//! the key because TLS wants one; no certificate authority is needed (see [`crate::certs`] for
//! those who want one).

mod authorized;
mod files;
mod fingerprint;
mod grant;
mod guard;
mod life;
mod revoked;
mod trust;
mod watched;

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use etcetera::{BaseStrategy, base_strategy::Xdg};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

pub use authorized::{AuthorizedKeys, AuthorizedKeysFile};
pub(crate) use files::{NewFiles, create_private_dir, make_private_dir, read, read_private};
pub use fingerprint::Fingerprint;
pub use grant::{Grant, Rights, RootName, Writes};
pub use guard::Fault;
pub(crate) use life::end_of;
pub use revoked::RevokedKeysFile;
pub use trust::KnownHosts;

/// What can go wrong with identities, trust files and certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb ("read", "create").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is neither a home folder nor an explicit configuration folder.
    #[error(
        "cannot tell where the home folder is: set HOME, or QBULK_CONFIG_DIR to the folder to use"
    )]
    NoConfigDir,
    /// There is no identity yet, and none can be made.
    #[error(
        "there is no identity yet, and {} cannot be made: {source}; set QBULK_CONFIG_DIR to a folder that \
         you can write to, or give --cert and --key",
        path.display()
    )]
    NoIdentity {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A private key is open to other users.
    #[error(
        "the private key in {} is open to other users (mode {mode:04o}), so it may no longer be \
         secret; if nobody has read it, run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    KeyTooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else could change a file that decides who is trusted, or has a key of their own in it.
    #[error("{} cannot be trusted: {}", path.display(), fault.told(part))]
    TooLoose {
        /// The file.
        path: PathBuf,
        /// The file, or the folder above it, that has the fault.
        part: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A certificate or key file does not hold what it should.
    #[error("cannot use {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a trust file cannot be understood.
    #[error("{}, line {line}: {reason}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A text is not a fingerprint.
    #[error("{0:?} is not a key fingerprint: expected SHA256: followed by 43 base64 characters")]
    BadFingerprint(String),
    /// A host is already known under another key.
    #[error(
        "{}, line {line}, has the key {known} for {host}, but {offered} was to be added; if the host \
         really has a new key, remove that line first",
        path.display()
    )]
    HostKeyChanged {
        /// The known-hosts file.
        path: PathBuf,
        /// The line with the key on file, counted from one.
        line: usize,
        /// The host and port.
        host: String,
        /// The key on file.
        known: Fingerprint,
        /// The key that was to be added.
        offered: Fingerprint,
    },
    /// A file that must not be replaced is already there.
    #[error("{} already exists and is not overwritten: move it away first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A name for a host or a certificate is not acceptable.
    #[error("the name {name:?} cannot be used: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a key or certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// TLS does not accept the identity or the trusted certificates.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// The folder with the user's identity and trust files: `$QBULK_CONFIG_DIR`, or else `qbulk` in
/// the XDG configuration folder (`~/.config`).
pub fn config_dir() -> Result<PathBuf, IdentityError> {
    if let Some(dir) = env::var_os("QBULK_CONFIG_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let xdg = Xdg::new().map_err(|_| IdentityError::NoConfigDir)?;
    Ok(xdg.config_dir().join("qbulk"))
}

/// A private key with the certificate that goes with it.
pub struct Identity {
    cert_chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
    /// What its secrets come from; without it, the key.
    source: Option<PrivateKeyDer<'static>>,
}

impl Identity {
    /// Loads `identity.pem` from the configuration folder, making folder and file on first use.
    ///
    /// Key and certificate share one file, so that they cannot come apart.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join("identity.pem");
        match Self::load_pem(&path, &path) {
            Err(IdentityError::Io { source, .. }) if files::is_missing(&source) => {}
            loaded => return loaded,
        }
        let pem = generate_pem()?;
        let create = || {
            create_private_dir(dir)?;
            let mut new = NewFiles::default();
            new.write(&path, 0o600, pem)?;
            new.publish()
        };
        match create() {
            // If several processes get here at once, all of them load what the first has made.
            Ok(()) | Err(IdentityError::Exists { .. }) => Self::load_pem(&path, &path),
            Err(IdentityError::Io { source, .. }) => {
                Err(IdentityError::NoIdentity { path, source })
            }
            Err(error) => Err(error),
        }
    }

    /// Loads a certificate (chain, the own certificate first) and its private key from PEM files.
    pub fn load_pem(cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let key_der = PrivateKeyDer::from_pem_slice(&read_private(key)?)
            .map_err(|error| malformed(key, format!("no usable private key in it ({error})")))?;
        let chain = parse_certs(cert, &read(cert)?)?;
        // Only called for its check that the two belong together.
        CertifiedKey::from_der(chain.clone(), key_der.clone_key(), &ring::default_provider())
            .map_err(|error| {
                malformed(
                    key,
                    format!("not the key of the certificate in {} ({error})", cert.display()),
                )
            })?;
        let fingerprint = Fingerprint::of_cert(&chain[0]).map_err(|e| malformed(cert, e))?;
        Ok(Self { cert_chain: chain, key: key_der, fingerprint, source: None })
    }

    /// A new key for one session, which is kept nowhere, and whose [secrets](Self::secret) are those of this one:
    /// what was begun with one is gone on with by another.
    pub fn for_one_session(&self) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let cert = certificate(&key)?;
        let chain = vec![cert.der().clone()];
        let own = Path::new("a key for one session");
        let fingerprint = Fingerprint::of_cert(&chain[0]).map_err(|error| malformed(own, error))?;
        let key =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| malformed(own, error))?;
        let source = self.source.as_ref().unwrap_or(&self.key).clone_key();
        Ok(Self { cert_chain: chain, key, fingerprint, source: Some(source) })
    }

    /// The fingerprint others know this identity by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate chain, the own certificate first.
    pub fn cert_chain(&self) -> &[CertificateDer<'static>] {
        &self.cert_chain
    }

    /// A secret of its own for each `context`, which tells nothing of the private key.
    pub fn secret(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.source.as_ref().unwrap_or(&self.key).secret_der())
    }

    /// When its certificate ends: from then on, whoever goes by an authority accepts it no more. To whoever knows
    /// the key by its fingerprint, that does not matter. `None` if it does not say so.
    pub fn valid_until(&self) -> Option<SystemTime> {
        end_of(&self.cert_chain[0])
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

impl fmt::Debug for Identity {
    /// Leaves out the key, which must not end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The certificates in a PEM file's contents: at least one.
pub(crate) fn parse_certs(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(path, error))?;
    if certs.is_empty() {
        return Err(malformed(path, "no certificate in it (expected PEM: -----BEGIN CERTIFICATE)"));
    }
    Ok(certs)
}

pub(crate) fn malformed(path: &Path, reason: impl fmt::Display) -> IdentityError {
    IdentityError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}

fn generate_pem() -> Result<String, IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    Ok(key.serialize_pem() + &certificate(&key)?.pem())
}

fn certificate(key: &KeyPair) -> Result<rcgen::Certificate, IdentityError> {
    let mut params = CertificateParams::new(["qbulk".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "qbulk");
    Ok(params.self_signed(key)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        sync::Barrier,
        thread,
    };

    use super::*;

    #[test]
    fn created_once_then_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("not/yet/there");
        let first = Identity::load_or_create(&config).unwrap();
        let again = Identity::load_or_create(&config).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.key(), again.key());

        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&config), 0o700);
        assert_eq!(mode(&config.join("identity.pem")), 0o600);
        assert_eq!(fs::read_dir(&config).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_key_for_one_session_is_another_one_with_the_same_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let lasting = Identity::load_or_create(dir.path()).unwrap();
        let once = lasting.for_one_session().unwrap();
        let again = once.for_one_session().unwrap();
        assert_ne!(once.fingerprint(), lasting.fingerprint());
        assert_ne!(once.fingerprint(), again.fingerprint());
        assert_eq!(once.secret("x"), lasting.secret("x"));
        assert_eq!(again.secret("x"), lasting.secret("x"));
        assert_ne!(again.secret("x"), lasting.secret("y"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "it is kept nowhere");
    }

    #[test]
    fn racing_first_uses_agree() {
        const RACERS: usize = 16;
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let start = Barrier::new(RACERS);
            let seen: Vec<_> = thread::scope(|scope| {
                let racers: Vec<_> = (0..RACERS)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            Identity::load_or_create(dir.path()).unwrap().fingerprint()
                        })
                    })
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            assert!(seen.iter().all(|one| *one == seen[0]));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn open_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join("identity.pem");
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::KeyTooOpen { mode: seen, .. } if seen == mode));
            assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        Identity::load_or_create(dir.path()).unwrap();
    }

    #[test]
    fn broken_identity_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        fs::write(&path, "nothing of use").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("identity.pem") && error.contains("private key"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nothing of use");
    }

    #[test]
    fn key_and_certificate_must_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        Identity::load_or_create(&a).unwrap();
        Identity::load_or_create(&b).unwrap();
        let (a, b) = (a.join("identity.pem"), b.join("identity.pem"));
        Identity::load_pem(&a, &a).unwrap();
        let error = Identity::load_pem(&a, &b).unwrap_err().to_string();
        assert!(error.contains("not the key of the certificate in"), "{error}");

        let missing = dir.path().join("missing.crt");
        let error = Identity::load_pem(&missing, &a).unwrap_err().to_string();
        assert!(error.starts_with("cannot read") && error.contains("missing.crt"), "{error}");
    }

    #[test]
    fn debug_shows_only_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let shown = format!("{identity:?}");
        assert_eq!(shown, format!("Identity {{ fingerprint: {}, .. }}", identity.fingerprint()));
    }
}
