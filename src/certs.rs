//! A small certificate authority, for fleets where listing every key on every machine is too much.
//!
//! Certificates end, and each is for serving or for pushing and pulling, not for both unless that is asked for: whoever
//! has a client's cannot pass for a server with it. A key that got lost before its certificate ends is revoked at the
//! servers ([`RevokedKeysFile`](crate::identity::RevokedKeysFile)). All that counts for whoever goes by the authority;
//! to whoever has listed or pinned a key, the key alone counts, as with ssh.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

use crate::identity::{
    IdentityError, NewFiles, create_private_dir, end_of, malformed, parse_certs, read, read_private,
};

/// How long an authority lasts unless something else is asked for: ten years.
pub const CA_LIFE: Duration = Duration::from_secs(3_650 * DAY_S);
/// The same of a certificate: one year.
pub const CERT_LIFE: Duration = Duration::from_secs(365 * DAY_S);

/// The end of 9998, since 1970: years have four digits (RFC 5280, 4.1.2.5.2).
const LAST_TIME: Duration = Duration::from_secs(253_370_764_800);
const DAY_S: u64 = 24 * 3_600;
/// Certificates begin so long before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertUse {
    /// Serving.
    Server,
    /// Pushing, pulling and whatever else a client does.
    Client,
    /// Either.
    Both,
}

impl CertUse {
    fn serves(self) -> bool {
        matches!(self, Self::Server | Self::Both)
    }

    fn is_clients(self) -> bool {
        matches!(self, Self::Client | Self::Both)
    }
}

/// Where a certificate and its private key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertPaths {
    /// The certificate.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Makes an authority that lasts for `life`: `ca.crt`, to be copied to all machines, and `ca.key`, to be kept safe.
pub fn create_ca(dir: &Path, name: &str, life: Duration) -> Result<CertPaths, IdentityError> {
    let bad = |reason| Err(IdentityError::BadName { name: name.to_owned(), reason });
    if name.is_empty() || name.len() > MAX_NAME {
        return bad("an authority's name has 1 to 64 bytes");
    }
    if name.contains(char::is_control) {
        return bad("control characters are not allowed");
    }
    let mut params = params_for(name, Vec::new())?;
    lasts(&mut params, life, None)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let cert = params.self_signed(&key)?;
    write_pair(dir, "ca", &cert, &key)
}

/// Issues a certificate with a new key, as `<subject>.crt` and `<subject>.key` in the authority's folder. It lasts for
/// `life`, and not longer than the authority.
///
/// `sans` are the DNS names and IP addresses that clients will connect to; one that is only a client's needs none.
pub fn issue(
    dir: &Path,
    subject: &str,
    sans: &[String],
    usage: CertUse,
    life: Duration,
) -> Result<CertPaths, IdentityError> {
    check_subject(subject)?;
    sans.iter().try_for_each(|san| check_san(san))?;
    let ca = CertPaths::new(dir, "ca");
    let roots = load_ca(&ca.cert)?;
    let issuer = load_issuer(&ca, &roots)?;
    let ca_end = parse_certs(&ca.cert, &read(&ca.cert)?)?.first().and_then(|cert| end_of(cert));

    let mut params = params_for(subject, sans.to_vec())?;
    lasts(&mut params, life, ca_end)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = [
        (usage.serves(), ExtendedKeyUsagePurpose::ServerAuth),
        (usage.is_clients(), ExtendedKeyUsagePurpose::ClientAuth),
    ]
    .into_iter()
    .filter_map(|(is_so, purpose)| is_so.then_some(purpose))
    .collect();
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let cert = params.signed_by(&key, &issuer)?;

    // Rather now than on the machine it is for.
    is_accepted(cert.der(), roots, usage).map_err(|error| {
        malformed(&ca.key, format!("it is not the key of {} ({error})", ca.cert.display()))
    })?;
    write_pair(dir, subject, &cert, &key)
}

/// Whether those who go by the authority accept a certificate as it is meant to be used.
fn is_accepted(
    cert: &CertificateDer<'_>,
    roots: RootCertStore,
    usage: CertUse,
) -> Result<(), rustls::Error> {
    let (now, provider) = (UnixTime::now(), Arc::new(ring::default_provider()));
    if usage.serves() {
        let algorithms = provider.signature_verification_algorithms.all;
        let cert = ParsedCertificate::try_from(cert)?;
        verify_server_cert_signed_by_trust_anchor(&cert, &roots, &[], now, algorithms)?;
    }
    if usage.is_clients() {
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(cert, &[], now)?;
    }
    Ok(())
}

/// Loads the certificates of authorities to trust (`ca.crt`). One that has ended vouches for nobody.
pub fn load_ca(path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for cert in parse_certs(path, &read(path)?)? {
        if let Some(end) = end_of(&cert).filter(|end| *end < SystemTime::now()) {
            let end = humantime::format_rfc3339_seconds(end);
            let what = format!(
                "the authority has ended at {end}: make another one, with its certificates"
            );
            return Err(malformed(path, what));
        }
        roots.add(cert).map_err(|error| malformed(path, error))?;
    }
    Ok(roots)
}

/// The most bytes a common name may have (RFC 5280, `ub-common-name`).
const MAX_NAME: usize = 64;

impl CertPaths {
    fn new(dir: &Path, name: &str) -> Self {
        Self { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }
}

fn params_for(name: &str, sans: Vec<String>) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::new(sans)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// From now on for `life`, but not beyond `end`.
fn lasts(
    params: &mut CertificateParams,
    life: Duration,
    end: Option<SystemTime>,
) -> Result<(), IdentityError> {
    let now = SystemTime::now();
    let own = now.checked_add(life).filter(|end| *end <= SystemTime::UNIX_EPOCH + LAST_TIME);
    let own = own.ok_or_else(|| IdentityError::BadName {
        name: humantime::format_duration(life).to_string(),
        reason: "no certificate lasts so long",
    })?;
    params.not_before = (now - BACKDATED).into();
    params.not_after = end.map_or(own, |end| own.min(end)).into();
    Ok(())
}

fn write_pair(
    dir: &Path,
    name: &str,
    cert: &rcgen::Certificate,
    key: &KeyPair,
) -> Result<CertPaths, IdentityError> {
    create_private_dir(dir)?;
    let paths = CertPaths::new(dir, name);
    // Before writing anything, as one file without the other would be in the way later on.
    for path in [&paths.cert, &paths.key] {
        if path.symlink_metadata().is_ok() {
            return Err(IdentityError::Exists { path: path.clone() });
        }
    }
    let mut new = NewFiles::default();
    new.write(&paths.key, 0o600, key.serialize_pem())?;
    new.write(&paths.cert, 0o644, cert.pem())?;
    new.publish()?;
    Ok(paths)
}

/// The subject becomes a file name, so it must not lead elsewhere, hide, or look like an option.
fn check_subject(subject: &str) -> Result<(), IdentityError> {
    let bad = |reason| Err(IdentityError::BadName { name: subject.to_owned(), reason });
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if subject.len() > MAX_NAME || !subject.chars().all(plain) {
        return bad("a subject has at most 64 letters (a-z), digits, dots, dashes and underscores");
    }
    if !subject.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad("a subject starts with a letter or digit");
    }
    // In any case, for file systems that do not tell the cases apart.
    if subject.eq_ignore_ascii_case("ca") {
        return bad("it belongs to the authority itself");
    }
    Ok(())
}

fn check_san(san: &str) -> Result<(), IdentityError> {
    match ServerName::try_from(san.strip_prefix("*.").unwrap_or(san)) {
        Ok(_) => Ok(()),
        Err(_) => Err(IdentityError::BadName {
            name: san.to_owned(),
            reason: "expected a DNS name or an IP address",
        }),
    }
}

fn load_issuer(
    ca: &CertPaths,
    roots: &RootCertStore,
) -> Result<Issuer<'static, KeyPair>, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(&read_private(&ca.key)?)
        .map_err(|error| malformed(&ca.key, error))?;
    let key = KeyPair::try_from(&key).map_err(|error| malformed(&ca.key, error))?;
    let name = common_name(&roots.roots[0].subject).ok_or_else(|| {
        malformed(&ca.cert, "not an authority made by qbulk: issue with the tool that made it")
    })?;
    Ok(Issuer::new(params_for(name, Vec::new())?, key))
}

/// The name in an authority's DER subject, which must be laid out as [`create_ca`] does it: one set
/// of one attribute, the common name as UTF-8. Lengths are single bytes because of [`MAX_NAME`].
fn common_name(subject: &[u8]) -> Option<&str> {
    match subject {
        [0x31, _, 0x30, _, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, len, name @ ..]
            if usize::from(*len) == name.len() && name.len() <= MAX_NAME =>
        {
            std::str::from_utf8(name).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;
    use crate::identity::Identity;

    #[test]
    fn issued_certificates_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        // The longest name allowed, in characters of several bytes.
        let ca = create_ca(&certs, &"ü".repeat(MAX_NAME / 2), CA_LIFE).unwrap();
        assert_eq!(ca, CertPaths::new(&certs, "ca"));
        let host = issue(
            &certs,
            "host-1.example",
            &["host-1.example".to_owned()],
            CertUse::Both,
            CERT_LIFE,
        )
        .unwrap();
        assert_eq!(host, CertPaths::new(&certs, "host-1.example"));
        Identity::load_pem(&host.cert, &host.key).unwrap();
        for key in [&ca.key, &host.key] {
            assert_eq!(fs::metadata(key).unwrap().mode() & 0o777, 0o600);
        }
    }

    fn end_of_file(path: &Path) -> SystemTime {
        end_of(&parse_certs(path, &read(path).unwrap()).unwrap()[0]).unwrap()
    }

    #[test]
    fn certificates_end_and_not_after_their_authority() {
        let dir = tempfile::tempdir().unwrap();
        let days = |days| Duration::from_secs(days * DAY_S);
        let ca = create_ca(dir.path(), "fleet", days(30)).unwrap();
        let short = issue(dir.path(), "short", &[], CertUse::Client, days(7)).unwrap();
        let long = issue(dir.path(), "long", &[], CertUse::Server, CERT_LIFE).unwrap();
        let left = |paths: &CertPaths| {
            let left = end_of_file(&paths.cert).duration_since(SystemTime::now()).unwrap();
            (left.as_secs() + DAY_S / 2) / DAY_S
        };
        assert_eq!([left(&ca), left(&short), left(&long)], [30, 7, 30]);
        assert_eq!(end_of_file(&long.cert), end_of_file(&ca.cert));
        let identity = Identity::load_pem(&short.cert, &short.key).unwrap();
        assert_eq!(identity.valid_until(), Some(end_of_file(&short.cert)));
        for life in [Duration::MAX, days(4_000_000)] {
            let error = issue(dir.path(), "endless", &[], CertUse::Both, life).unwrap_err();
            assert!(matches!(error, IdentityError::BadName { .. }), "{error}");
        }
    }

    #[test]
    fn an_authority_that_has_ended_vouches_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), "fleet", Duration::ZERO).unwrap();
        // It has whole seconds.
        let path = dir.path().join("ca.crt");
        for error in [
            load_ca(&path).unwrap_err(),
            issue(dir.path(), "host", &[], CertUse::Both, CERT_LIFE).unwrap_err(),
        ] {
            assert!(error.to_string().contains("the authority has ended at 20"), "{error}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let ca = create_ca(dir.path(), "fleet", CA_LIFE).unwrap();
        let host = issue(dir.path(), "host", &[], CertUse::Both, CERT_LIFE).unwrap();
        let contents = || [&ca.cert, &ca.key, &host.cert, &host.key].map(|p| fs::read(p).unwrap());
        let before = contents();
        for again in [
            create_ca(dir.path(), "fleet", CA_LIFE),
            issue(dir.path(), "host", &[], CertUse::Both, CERT_LIFE),
        ] {
            let error = again.unwrap_err();
            assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
        }
        assert_eq!(contents(), before);

        fs::remove_file(&host.key).unwrap();
        assert!(matches!(
            issue(dir.path(), "host", &[], CertUse::Both, CERT_LIFE),
            Err(IdentityError::Exists { .. })
        ));
        assert!(!host.key.exists(), "left a key without its certificate");
    }

    #[test]
    fn names_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), "fleet", CA_LIFE).unwrap();
        let long = "x".repeat(65);
        for subject in
            ["", ".", "..", ".x", "-x", "ca", "CA", "a/b", "../x", "a b", "a\0", "ü", &long]
        {
            let error = issue(dir.path(), subject, &[], CertUse::Both, CERT_LIFE).unwrap_err();
            assert!(matches!(error, IdentityError::BadName { .. }), "{subject:?}: {error}");
        }
        for san in ["", "a b", "https://a.example", "[::1]", "a.example:1", "1.2.3.4/8"] {
            let error =
                issue(dir.path(), "host", &[san.to_owned()], CertUse::Both, CERT_LIFE).unwrap_err();
            assert!(matches!(error, IdentityError::BadName { .. }), "{san:?}: {error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        for name in ["", "a\nb", &long] {
            assert!(matches!(
                create_ca(&dir.path().join("new"), name, CA_LIFE),
                Err(IdentityError::BadName { .. })
            ));
        }
    }

    #[test]
    fn authority_must_be_whole_and_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let error = issue(&a, "host", &[], CertUse::Both, CERT_LIFE).unwrap_err().to_string();
        assert!(error.starts_with("cannot read") && error.contains("ca.crt"), "{error}");

        let ours = create_ca(&a, "fleet", CA_LIFE).unwrap();
        let theirs = create_ca(&b, "fleet", CA_LIFE).unwrap();
        fs::copy(&theirs.key, &ours.key).unwrap();
        let error = issue(&a, "host", &[], CertUse::Both, CERT_LIFE).unwrap_err().to_string();
        assert!(error.contains("not the key of"), "{error}");

        let mut params = params_for("foreign", Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CountryName, "XX");
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        fs::write(&theirs.cert, cert.pem()).unwrap();
        let error = issue(&b, "host", &[], CertUse::Both, CERT_LIFE).unwrap_err().to_string();
        assert!(error.contains("not an authority made by qbulk"), "{error}");
        assert!(!a.join("host.key").exists() && !b.join("host.key").exists());
    }

    #[test]
    fn file_without_certificate_is_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let ca = create_ca(dir.path(), "fleet", CA_LIFE).unwrap();
        assert_eq!(load_ca(&ca.cert).unwrap().len(), 1);
        let error = load_ca(&ca.key).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("no certificate in it"), "{error}");
    }
}
