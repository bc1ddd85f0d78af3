//! Keys, certificates and the files that say whom to trust.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::from_utf8;

use qbulk::certs::{self, CERT_LIFE, CertUse};
use qbulk::identity::{AuthorizedKeys, Fingerprint, Identity, KnownHosts};
use qbulk::net::tls::{ClientTrust, ServerTrust, client_config, server_config};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

/// The key of the authority that the seeds of `certificate` are of. It is used nowhere else.
const CA_KEY: &str = include_str!("ca.key");
const KEY: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

/// A folder of its own with `contents` as a private file.
fn with_file(name: &str, contents: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(name);
    write(&path, contents);
    (dir, path)
}

fn write(path: &Path, contents: &[u8]) {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("a file");
    file.write_all(contents).expect("written");
}

/// The lines of a trust file that say something.
fn entries(data: &[u8]) -> impl Iterator<Item = &str> {
    let text = from_utf8(data).expect("only text is understood");
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Every line of a file that is understood is known; a host that is added is there the next time, and
/// changes nothing else.
pub fn known_hosts(data: &[u8]) {
    let (_dir, path) = with_file("known_hosts", data);
    let Ok(mut hosts) = KnownHosts::load(&path) else { return };
    let known: Vec<(&str, Fingerprint)> = entries(data)
        .map(|line| {
            let (host, key) = line.split_once(char::is_whitespace).expect("a host and a key");
            (host, key.trim().parse().expect("a key"))
        })
        .collect();
    let new = ("new.example:1", KEY.parse().expect("a key"));
    let added = hosts.add(new.0, new.1).is_ok();
    let again = KnownHosts::load(&path).expect("what was added is understood");
    for (host, key) in known.into_iter().chain(added.then_some(new)) {
        assert_eq!(hosts.lookup(host), Some(key));
        assert_eq!(again.lookup(host), Some(key));
    }
}

/// A file that is understood lets in who is in it, and nobody else.
pub fn authorized_keys(data: &[u8]) {
    let (_dir, path) = with_file("authorized_keys", data);
    let Ok(keys) = AuthorizedKeys::load(&path) else { return };
    // What is in front of a key has no colon in it.
    let key = |line: &str| line.split_whitespace().find(|word| word.contains(':')).map(str::parse);
    let listed: BTreeSet<Fingerprint> =
        entries(data).map(|line| key(line).expect("a word").expect("a key")).collect();
    assert_eq!(keys.fingerprints().copied().collect::<BTreeSet<_>>(), listed);
}

/// A key has one spelling.
pub fn fingerprint(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Ok(key) = text.parse::<Fingerprint>() {
        assert_eq!(key.to_string(), text);
    }
}

/// An identity that can be loaded can be used, and one that cannot be is left as it is.
pub fn identity(data: &[u8]) {
    let (dir, path) = with_file("identity.pem", data);
    if let Ok(identity) = Identity::load_or_create(dir.path()) {
        let own = Fingerprint::of_cert(&identity.cert_chain()[0]).expect("a certificate");
        assert_eq!(identity.fingerprint(), own);
        client_config(&identity, ClientTrust::Pinned([own].into())).expect("a client's");
        server_config(&identity, ServerTrust { allowed: [own].into(), ..ServerTrust::default() })
            .expect("a server's");
    }
    assert_eq!(fs::read(&path).expect("still there"), data);
}

/// A certificate names one key. One that is taken for an authority issues certificates that can be used,
/// or nothing at all.
pub fn certificate(data: &[u8]) {
    let der = CertificateDer::from_slice(data);
    let named = Fingerprint::of_cert(&der).ok();
    assert_eq!(named, Fingerprint::of_cert(&der).ok());
    let (dir, path) = with_file("ca.crt", pem(data).as_bytes());
    if named.is_none() || certs::load_ca(&path).is_err() {
        return;
    }
    write(&dir.path().join("ca.key"), CA_KEY.as_bytes());
    let sans = ["host.example".to_owned()];
    match certs::issue(dir.path(), "host", &sans, CertUse::Both, CERT_LIFE) {
        Ok(paths) => {
            let identity = Identity::load_pem(&paths.cert, &paths.key).expect("an identity");
            assert_ne!(Some(identity.fingerprint()), named);
        }
        Err(_) => {
            assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2, "something is left");
        }
    }
}

fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, three) in der.chunks(3).enumerate() {
        let bits = three
            .iter()
            .enumerate()
            .fold(0_u32, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 0x3f;
            text.push(if digit <= three.len() { DIGITS[value as usize].into() } else { '=' });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}
