//! TLS for QUIC: both sides show a certificate, and each checks the other's.
//!
//! TLS 1.3 only, without tickets and early data: every handshake proves both keys anew. Whom to trust is
//! fixed when a configuration is made, but for the keys in a server's files: a key that is taken out of one, or
//! that is revoked, works for no connection from then on.

mod clients;
mod refusal;
mod servers;
mod signatures;
mod suites;
mod trust;

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::CertificateDer,
    server::WebPkiClientVerifier,
    version::TLS13,
};

use self::clients::AllowedClient;
pub use self::refusal::{is_auth_failure, refusal};
use self::servers::{CapturedServer, PinnedServer};
use self::signatures::Signatures;
use self::suites::{cpu_has_aes, provider};
pub use self::trust::{Certified, ClientTrust, ServerTrust};
use crate::identity::{Fingerprint, Identity, IdentityError};

/// The application protocol, whatever its version: a request says that, so that who refuses it can say so.
pub const ALPN: &[u8] = b"qbulk";

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
    let ServerTrust { allowed, listed, revoked, certified, .. } = trust;
    let verifier = Arc::new(AllowedClient { allowed, listed, revoked, ca, certified, signatures });
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

fn tls_error(error: impl fmt::Display) -> IdentityError {
    IdentityError::Tls(error.to_string())
}

#[cfg(test)]
mod tests;
