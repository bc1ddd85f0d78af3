use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use quinn::{ConnectionError, Endpoint};
use rustls::{
    CipherSuite, RootCertStore, SignatureScheme,
    crypto::ring,
    quic::{ClientConnection, ServerConnection, Version},
};
use tempfile::TempDir;

use super::*;
use crate::certs::{self, CA_LIFE, CERT_LIFE, CertUse};
use crate::identity::{AuthorizedKeysFile, Grant, RevokedKeysFile};

/// What each side learns about the other: its key, or why there is no connection.
struct Meeting {
    on_server: Result<Option<Fingerprint>, ConnectionError>,
    on_client: Result<Option<Fingerprint>, ConnectionError>,
}

impl Meeting {
    fn assert_refused(self) {
        let (server, client) = (self.on_server.unwrap_err(), self.on_client.unwrap_err());
        assert!(is_auth_failure(&server), "server: {server:?}");
        assert!(is_auth_failure(&client), "client: {client:?}");
    }
}

/// Lets a client and a server meet over a real connection.
async fn meet(server: QuicServerConfig, client: quinn::ClientConfig, name: &str) -> Meeting {
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let server = Endpoint::server(server, any_port).unwrap();
    let endpoint = Endpoint::client(any_port).unwrap();
    let connecting = endpoint.connect_with(client, server.local_addr().unwrap(), name).unwrap();
    let exchange = async {
        let accepting = async { server.accept().await.unwrap().await };
        let (on_server, on_client) = tokio::join!(accepting, connecting);
        let on_client = match (&on_server, on_client) {
            // The refusal comes after the client's handshake is complete.
            (Err(_), Ok(connection)) => Err(connection.closed().await),
            (_, on_client) => on_client,
        };
        Meeting {
            on_server: on_server.map(|connection| peer_fingerprint(&connection)),
            on_client: on_client.map(|connection| peer_fingerprint(&connection)),
        }
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.unwrap()
}

fn client(identity: &Identity, trust: ClientTrust) -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(client_config(identity, trust).unwrap()))
}

fn pinned(server: &Identity) -> ClientTrust {
    ClientTrust::Pinned([server.fingerprint()].into())
}

fn allowing(client: &Identity) -> ServerTrust {
    ServerTrust { allowed: [client.fingerprint()].into(), ..ServerTrust::default() }
}

/// Two self-signed identities, for a server and a client.
fn two() -> (Identity, Identity) {
    (someone(), someone())
}

fn someone() -> Identity {
    Identity::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
}

fn new_ca(name: &str) -> (TempDir, RootCertStore) {
    let dir = tempfile::tempdir().unwrap();
    let ca = certs::create_ca(dir.path(), name, CA_LIFE).unwrap();
    let roots = certs::load_ca(&ca.cert).unwrap();
    (dir, roots)
}

/// A server's certificate for these names, or a client's.
fn issued(dir: &Path, subject: &str, sans: &[&str]) -> Identity {
    issued_for(dir, subject, sans, if sans.is_empty() { CertUse::Client } else { CertUse::Server })
}

fn issued_for(dir: &Path, subject: &str, sans: &[&str], usage: CertUse) -> Identity {
    let sans: Vec<_> = sans.iter().map(|&san| san.to_owned()).collect();
    let paths = certs::issue(dir, subject, &sans, usage, CERT_LIFE).unwrap();
    Identity::load_pem(&paths.cert, &paths.key).unwrap()
}

#[tokio::test]
async fn pinned_keys_are_accepted_under_any_name() {
    let (s, c) = two();
    for name in ["localhost", "127.0.0.1", "quite.another.name"] {
        let server = server_config(&s, allowing(&c)).unwrap();
        let met = meet(server, client(&c, pinned(&s)), name).await;
        assert_eq!(met.on_server.unwrap(), Some(c.fingerprint()));
        assert_eq!(met.on_client.unwrap(), Some(s.fingerprint()));
    }
}

#[tokio::test]
async fn another_servers_key_is_refused() {
    let (s, c) = two();
    let server = server_config(&s, allowing(&c)).unwrap();
    let met = meet(server, client(&c, pinned(&someone())), "localhost").await;
    assert!(matches!(met.on_client, Err(ConnectionError::TransportError(_))));
    met.assert_refused();
}

#[tokio::test]
async fn unauthorised_client_is_refused() {
    let (s, c) = two();
    let server = server_config(&s, allowing(&someone())).unwrap();
    let met = meet(server, client(&c, pinned(&s)), "localhost").await;
    assert!(matches!(met.on_client, Err(ConnectionError::ConnectionClosed(_))));
    met.assert_refused();
}

#[tokio::test]
async fn client_without_certificate_is_refused() {
    let (s, c) = two();
    let mut bare = rustls_client(&c, pinned(&s), true).unwrap();
    bare.client_auth_cert_resolver = Arc::new(NoCert);
    let bare = QuicClientConfig::try_from(bare).unwrap();
    let server = server_config(&s, allowing(&c)).unwrap();
    meet(server, quinn::ClientConfig::new(Arc::new(bare)), "localhost").await.assert_refused();
}

/// A thief of the certificate, which is no secret, who has another key.
#[tokio::test]
async fn certificate_with_another_key_is_refused() {
    let (s, c) = two();
    let thief = |owner: &Identity| {
        let key = ring::sign::any_supported_type(someone().key()).unwrap();
        Arc::new(Thief(Arc::new(rustls::sign::CertifiedKey::new(owner.cert_chain().to_vec(), key))))
    };
    let mut false_client = rustls_client(&c, pinned(&s), true).unwrap();
    false_client.client_auth_cert_resolver = thief(&c);
    let false_client = QuicClientConfig::try_from(false_client).unwrap();
    let server = server_config(&s, allowing(&c)).unwrap();
    let false_client = quinn::ClientConfig::new(Arc::new(false_client));
    meet(server, false_client, "localhost").await.assert_refused();

    let seen = Arc::default();
    for trust in [pinned(&s), ClientTrust::Capture(Arc::clone(&seen))] {
        let mut false_server = rustls_server(&s, allowing(&c), true).unwrap();
        false_server.cert_resolver = thief(&s);
        let false_server = QuicServerConfig::try_from(false_server).unwrap();
        meet(false_server, client(&c, trust), "localhost").await.assert_refused();
    }
    assert_eq!(*seen.lock().unwrap(), None, "captured a key the server does not have");
}

#[tokio::test]
async fn capture_notes_the_key_and_fails() {
    let (s, c) = two();
    let seen = Arc::default();
    let trust = ClientTrust::Capture(Arc::clone(&seen));
    let server = server_config(&s, allowing(&c)).unwrap();
    meet(server, client(&c, trust), "localhost").await.assert_refused();
    assert_eq!(*seen.lock().unwrap(), Some(s.fingerprint()));
}

#[tokio::test]
async fn authority_vouches_for_both_sides() {
    let (dir, roots) = new_ca("fleet");
    let s = issued(dir.path(), "server", &["127.0.0.1", "::1", "server.example"]);
    let c = issued(dir.path(), "client", &[]);
    let trust = ServerTrust { ca: Some(roots.clone()), ..Default::default() };
    let run = async |who: &Identity, name: &str| {
        let server = server_config(&s, trust.clone()).unwrap();
        meet(server, client(who, ClientTrust::Ca(roots.clone())), name).await
    };
    for name in ["127.0.0.1", "::1", "server.example"] {
        let met = run(&c, name).await;
        assert_eq!(met.on_server.unwrap(), Some(c.fingerprint()));
        assert_eq!(met.on_client.unwrap(), Some(s.fingerprint()));
    }
    run(&c, "127.0.0.2").await.assert_refused();
    run(&c, "other.example").await.assert_refused();
    run(&someone(), "server.example").await.assert_refused();
    let (other_dir, _) = new_ca("another fleet");
    run(&issued(other_dir.path(), "client", &[]), "server.example").await.assert_refused();
    let (twin_dir, _) = new_ca("fleet");
    run(&issued(twin_dir.path(), "client", &[]), "server.example").await.assert_refused();
}

#[tokio::test]
async fn a_certificate_is_for_one_side_unless_it_was_asked_for_both() {
    let (dir, roots) = new_ca("fleet");
    let name = "server.example";
    let [server, client, both] =
        [("s", CertUse::Server), ("c", CertUse::Client), ("b", CertUse::Both)]
            .map(|(subject, usage)| issued_for(dir.path(), subject, &[name], usage));
    let by_ca = || ServerTrust { ca: Some(roots.clone()), ..Default::default() };
    for (serves, pushes, is_right) in [
        (&server, &client, true),
        (&both, &both, true),
        (&client, &client, false),
        (&server, &server, false),
    ] {
        let config = server_config(serves, by_ca()).unwrap();
        let met = meet(config, self::client(pushes, ClientTrust::Ca(roots.clone())), name).await;
        if is_right {
            assert_eq!(met.on_server.unwrap(), Some(pushes.fingerprint()));
        } else {
            met.assert_refused();
        }
    }
    // Whoever has pinned a key has said what it is for.
    let config = server_config(&client, allowing(&server)).unwrap();
    let met = meet(config, self::client(&server, pinned(&client)), name).await;
    assert_eq!(met.on_server.unwrap(), Some(server.fingerprint()));
}

#[tokio::test]
async fn a_revoked_key_is_let_in_by_nothing() {
    let (dir, roots) = new_ca("fleet");
    let (s, c) = (someone(), issued(dir.path(), "client", &[]));
    let path = dir.path().join("revoked");
    std::fs::write(&path, "# nobody yet\n").unwrap();
    let revoked = Some(Arc::new(RevokedKeysFile::load(&path).unwrap()));
    let by_ca = ServerTrust { ca: Some(roots), revoked: revoked.clone(), ..Default::default() };
    let by_key = ServerTrust { revoked, ..allowing(&c) };
    for trust in [by_ca, by_key] {
        std::fs::write(&path, "# nobody yet\n").unwrap();
        let meets = async || {
            let server = server_config(&s, trust.clone()).unwrap();
            meet(server, client(&c, pinned(&s)), "localhost").await
        };
        assert!(meets().await.on_server.is_ok());
        assert_eq!(trust.grants(&c.fingerprint()), [Grant::ALL]);
        std::fs::write(&path, format!("{} a lost laptop\n", c.fingerprint())).unwrap();
        assert!(trust.grants(&c.fingerprint()).is_empty(), "what runs begins nothing more");
        let met = meets().await;
        let Err(ConnectionError::TransportError(error)) = &met.on_server else { panic!() };
        assert_eq!(refusal(error), "its key is revoked");
        met.assert_refused();
    }
}

#[tokio::test]
async fn allowed_keys_work_next_to_an_authority() {
    let (dir, roots) = new_ca("fleet");
    let (s, c) = two();
    let trust = ServerTrust { ca: Some(roots.clone()), ..allowing(&c) };
    for who in [&c, &issued(dir.path(), "client", &[])] {
        let server = server_config(&s, trust.clone()).unwrap();
        let met = meet(server, client(who, pinned(&s)), "localhost").await;
        assert_eq!(met.on_server.unwrap(), Some(who.fingerprint()));
        assert_eq!(trust.grants(&who.fingerprint()), [Grant::ALL]);
    }
    assert!(trust.grants(&someone().fingerprint()).is_empty());
    let server = server_config(&s, trust).unwrap();
    let by_name = client(&c, ClientTrust::Ca(roots));
    meet(server, by_name, "localhost").await.assert_refused();
}

#[tokio::test]
async fn what_is_said_of_a_key_counts_before_its_certificate() {
    let (dir, roots) = new_ca("fleet");
    let (s, c) = (someone(), issued(dir.path(), "client", &[]));
    let path = dir.path().join("authorized_keys");
    std::fs::write(&path, format!("access=read {}\n", c.fingerprint())).unwrap();
    let listed = Some(Arc::new(AuthorizedKeysFile::load(&path).unwrap()));
    let trust = ServerTrust { ca: Some(roots), listed, ..Default::default() };
    let meets = async || {
        let server = server_config(&s, trust.clone()).unwrap();
        meet(server, client(&c, pinned(&s)), "localhost").await
    };
    assert!(meets().await.on_server.is_ok());
    assert_eq!(trust.grants(&c.fingerprint()), [Grant::parse(["access=read"]).unwrap()]);
    std::fs::write(&path, format!("acess=read {}\n", c.fingerprint())).unwrap();
    assert!(trust.grants(&c.fingerprint()).is_empty());
    meets().await.assert_refused();
    // It has come by its line until now: what it may do by its certificate, it may once it has come so.
    std::fs::write(&path, "").unwrap();
    assert!(trust.grants(&c.fingerprint()).is_empty());
    assert!(meets().await.on_server.is_ok());
    assert_eq!(trust.grants(&c.fingerprint()), [Grant::ALL]);
}

#[test]
fn authorities_must_not_be_empty() {
    let (s, c) = two();
    let none = RootCertStore::empty();
    assert!(client_config(&c, ClientTrust::Ca(none.clone())).is_err());
    assert!(server_config(&s, ServerTrust { ca: Some(none), ..Default::default() }).is_err());
}

#[test]
fn aes_only_where_both_sides_are_fast_at_it() {
    let (s, c) = two();
    for (server_aes, client_aes) in [(true, true), (true, false), (false, true), (false, false)] {
        let server = rustls_server(&s, allowing(&c), server_aes).unwrap();
        let client = rustls_client(&c, pinned(&s), client_aes).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut client =
            ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server), Version::V1, Vec::new()).unwrap();
        let mut hello = Vec::new();
        client.write_hs(&mut hello);
        server.read_hs(&hello).unwrap();
        let expected = if server_aes && client_aes {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), expected);
    }
}

#[test]
fn other_failures_are_not_about_authentication() {
    use quinn::{ApplicationClose, ConnectionClose, TransportErrorCode};
    let transport = |error_code| {
        let reason = Vec::new().into();
        ConnectionError::ConnectionClosed(ConnectionClose { error_code, frame_type: None, reason })
    };
    // handshake_failure, no_application_protocol
    for alert in [40, 120] {
        assert!(!is_auth_failure(&transport(TransportErrorCode::crypto(alert))));
    }
    for alert in [42, 43, 44, 45, 46, 48, 49, 51, 116] {
        assert!(is_auth_failure(&transport(TransportErrorCode::crypto(alert))));
    }
    assert!(!is_auth_failure(&transport(TransportErrorCode::NO_ERROR)));
    assert!(!is_auth_failure(&ConnectionError::TimedOut));
    let close = ApplicationClose { error_code: 0x131_u32.into(), reason: Vec::new().into() };
    assert!(!is_auth_failure(&ConnectionError::ApplicationClosed(close)));
}

#[derive(Debug)]
struct NoCert;

impl rustls::client::ResolvesClientCert for NoCert {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Thief(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Thief {
    fn resolve(
        &self,
        _hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
