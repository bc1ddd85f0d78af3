//! That one side does not accept the other's key or certificate, and why.

use std::sync::Arc;

use quinn::ConnectionError;
use rustls::{AlertDescription, CertificateError, Error, OtherError, pki_types::CertificateDer};

use super::super::words;
use crate::identity::Fingerprint;
use crate::text::printable;

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
        words::alert(code.into()),
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

/// Why this side has ended a handshake, for a person.
pub fn refusal(error: &quinn_proto::TransportError) -> String {
    if error.reason.ends_with("Revoked") {
        return "its key is revoked".into();
    }
    // rustls tells what was said of a certificate within its own names for it.
    let said = error.reason.split("OtherError(\"").nth(1).and_then(|rest| rest.split('"').next());
    printable(said.unwrap_or(&error.reason))
}

/// What a client is refused with whose key was not authorized: the server's user needs its fingerprint.
pub(super) fn unauthorized(cert: &CertificateDer<'_>) -> Error {
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
pub(super) fn untrusted() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
