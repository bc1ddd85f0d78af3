//! TLS for QUIC: both sides show a certificate, and each checks the other's.
//!
//! TLS 1.3 only, without tickets and early data: every handshake proves both keys anew. Whom to trust is
//! fixed when a configuration is made, but for the keys in a server's file: a key that is taken out of it
//! works for no connection from then on.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
};

use quinn::{
    ConnectionError,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, PeerIncompatible, RootCertStore, SignatureScheme, SupportedCipherSuite,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms,
        ring::{
            self,
            cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256},
        },
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use crate::identity::{AuthorizedKeysFile, Fingerprint, Grant, Identity, IdentityError};
use crate::mutex::lock;
use crate::text::printable;

/// The application protocol, whatever its version: a request says that, so that who refuses it can say so.
pub const ALPN: &[u8] = b"qbulk";

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
    /// Clients with a valid certificate from one of these authorities.
    pub ca: Option<RootCertStore>,
    /// Those of them that have come and were let in by that alone.
    pub certified: Arc<Certified>,
}

/// Keys that were shown with a valid certificate: as many as the authorities have given one.
#[derive(Debug, Default)]
pub struct Certified(Mutex<BTreeSet<Fingerprint>>);

impl ServerTrust {
    /// What a client that was let in is allowed, as lists and certificates are now. What is said of a key in
    /// the file counts before its certificate.
    pub fn grants(&self, key: &Fingerprint) -> Vec<Grant> {
        if self.allowed.contains(key) {
            return vec![Grant::ALL];
        }
        match self.listed.as_ref().and_then(|listed| listed.grants(key)) {
            Some(grants) => grants,
            None if lock(&self.certified.0).contains(key) => vec![Grant::ALL],
            None => Vec::new(),
        }
    }
}

/// The client's side of TLS.
pub fn client_config(
    identity: &Identity,
    trust: ClientTrust,
) -> Result<QuicClientConfig, IdentityError> {
    QuicClientConfig::try_from(rustls_client(identity, trust, cpu_has_aes())?).map_err(tls_error)
}

/// The server's side of TLS.
pub fn server_config(
    identity: &Identity,
    trust: ServerTrust,
) -> Result<QuicServerConfig, IdentityError> {
    QuicServerConfig::try_from(rustls_server(identity, trust, cpu_has_aes())?).map_err(tls_error)
}

/// The fingerprint of the peer's key: always there once a handshake with these configurations is
/// complete.
pub fn peer_fingerprint(connection: &quinn::Connection) -> Option<Fingerprint> {
    let certs = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Fingerprint::of_cert(certs.first()?).ok()
}

/// Whether a connection failed because one side did not accept the other's key or certificate, so
/// that trying again is of no use.
///
/// A client learns that a server has refused it only after its own handshake is complete: then not
/// from connecting, but from the first use of the connection.
pub fn is_auth_failure(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return false,
    };
    matches!(
        super::words::alert(code.into()),
        Some(
            AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                // A bad signature, as on a certificate from another authority of the same name.
                | AlertDescription::DecryptError
                | AlertDescription::CertificateRequired
        )
    )
}

fn rustls_client(
    identity: &Identity,
    trust: ClientTrust,
    aes: bool,
) -> Result<rustls::ClientConfig, IdentityError> {
    let provider = provider(aes);
    let signatures = Signatures(provider.signature_verification_algorithms);
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ClientTrust::Pinned(pins) => Arc::new(PinnedServer { pins, signatures }),
        ClientTrust::Capture(seen) => Arc::new(CapturedServer { seen, signatures }),
        ClientTrust::Ca(roots) => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(tls_error)?
        }
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.cert_chain().to_vec(), identity.key().clone_key())
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn rustls_server(
    identity: &Identity,
    trust: ServerTrust,
    aes: bool,
) -> Result<rustls::ServerConfig, IdentityError> {
    let provider = provider(aes);
    let ca = match trust.ca {
        None => None,
        Some(roots) => Some(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(tls_error)?,
        ),
    };
    let signatures = Signatures(provider.signature_verification_algorithms);
    let ServerTrust { allowed, listed, certified, .. } = trust;
    let verifier = Arc::new(AllowedClient { allowed, listed, ca, certified, signatures });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.cert_chain().to_vec(), identity.key().clone_key())
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // The side without AES instructions decides, as it has the most to lose: a server without them
    // insists on its own order (ChaCha20 first), and one with them follows the client's. So AES is
    // used only where both sides are fast at it.
    config.ignore_client_order = !aes;
    Ok(config)
}

/// Passed to rustls explicitly, as the process-wide default may be another one or none.
fn provider(aes: bool) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: cipher_suites(aes), ..ring::default_provider() })
}

/// In order of preference. AES-128-GCM must always be there, as QUIC's first packets use it.
fn cipher_suites(aes: bool) -> Vec<SupportedCipherSuite> {
    let mut suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256];
    if !aes {
        suites.reverse();
    }
    suites
}

/// Whether the CPU has what makes AES-GCM faster than ChaCha20: instructions for AES and for the
/// carry-less multiplication of GCM.
fn cpu_has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

fn tls_error(error: impl fmt::Display) -> IdentityError {
    IdentityError::Tls(error.to_string())
}

/// Why this side has ended a handshake, for a person.
pub fn refusal(error: &quinn_proto::TransportError) -> String {
    // rustls tells what was said of a certificate within its own names for it.
    let said = error.reason.split("OtherError(\"").nth(1).and_then(|rest| rest.split('"').next());
    printable(said.unwrap_or(&error.reason))
}

/// What a client is refused with whose key was not authorized: the server's user needs its fingerprint.
fn unauthorized(cert: &CertificateDer<'_>) -> Error {
    match Fingerprint::of_cert(cert) {
        Ok(fingerprint) => {
            let error = format!("the key {fingerprint} is not authorized");
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::from(Box::<
                dyn std::error::Error + Send + Sync,
            >::from(
                error
            )))))
        }
        Err(_) => untrusted(),
    }
}

/// What a key that nobody trusts is refused with; the peer sees the alert `access_denied`.
fn untrusted() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Checks that the peer has the private key of the certificate it shows, without which a
/// fingerprint would prove nothing.
#[derive(Debug)]
struct Signatures(WebPkiSupportedAlgorithms);

impl Signatures {
    fn verify(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }
}

fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
}

#[derive(Debug)]
struct PinnedServer {
    pins: BTreeSet<Fingerprint>,
    signatures: Signatures,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.contains(&Fingerprint::of_cert(end_entity)?) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(untrusted())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.0.supported_schemes()
    }
}

#[derive(Debug)]
struct CapturedServer {
    seen: Arc<Mutex<Option<Fingerprint>>>,
    signatures: Signatures,
}

impl ServerCertVerifier for CapturedServer {
    /// Only lets the handshake get as far as the signature, where it always ends.
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The user is only ever asked about a key that the server has proved to have.
        self.signatures.verify(message, cert, dss)?;
        let fingerprint = Fingerprint::of_cert(cert)?;
        *lock(&self.seen) = Some(fingerprint);
        Err(untrusted())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.0.supported_schemes()
    }
}

#[derive(Debug)]
struct AllowedClient {
    allowed: BTreeSet<Fingerprint>,
    listed: Option<Arc<AuthorizedKeysFile>>,
    ca: Option<Arc<dyn ClientCertVerifier>>,
    certified: Arc<Certified>,
    signatures: Signatures,
}

impl ClientCertVerifier for AllowedClient {
    /// No hints, also with authorities: they would put off clients that are let in by their keys.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let key = Fingerprint::of_cert(end_entity)?;
        if self.allowed.contains(&key) {
            return Ok(ClientCertVerified::assertion());
        }
        match (self.listed.as_ref().and_then(|listed| listed.grants(&key)), &self.ca) {
            (Some(grants), _) if !grants.is_empty() => Ok(ClientCertVerified::assertion()),
            (None, Some(ca)) => {
                let verified = ca.verify_client_cert(end_entity, intermediates, now)?;
                lock(&self.certified.0).insert(key);
                Ok(verified)
            }
            // Whatever certificate it has, where it is not clear what it may do.
            (Some(_), _) | (None, None) => Err(unauthorized(end_entity)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path, time::Duration};

    use quinn::Endpoint;
    use rustls::{
        CipherSuite,
        quic::{ClientConnection, ServerConnection, Version},
    };
    use tempfile::TempDir;

    use super::*;
    use crate::certs;

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
        let ca = certs::create_ca(dir.path(), name).unwrap();
        let roots = certs::load_ca(&ca.cert).unwrap();
        (dir, roots)
    }

    fn issued(dir: &Path, subject: &str, sans: &[&str]) -> Identity {
        let sans: Vec<_> = sans.iter().map(|&san| san.to_owned()).collect();
        let paths = certs::issue(dir, subject, &sans).unwrap();
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
            Arc::new(Thief(Arc::new(rustls::sign::CertifiedKey::new(
                owner.cert_chain().to_vec(),
                key,
            ))))
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
        for (server_aes, client_aes) in [(true, true), (true, false), (false, true), (false, false)]
        {
            let server = rustls_server(&s, allowing(&c), server_aes).unwrap();
            let client = rustls_client(&c, pinned(&s), client_aes).unwrap();
            let name = "localhost".try_into().unwrap();
            let mut client =
                ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
            let mut server =
                ServerConnection::new(Arc::new(server), Version::V1, Vec::new()).unwrap();
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
            ConnectionError::ConnectionClosed(ConnectionClose {
                error_code,
                frame_type: None,
                reason,
            })
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
}
