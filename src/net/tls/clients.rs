//! What a server makes of the certificate that a client shows.

use std::{collections::BTreeSet, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::refusal::unauthorized;
use super::signatures::{Signatures, refuse_tls12};
use super::trust::Certified;
use crate::identity::{AuthorizedKeysFile, Fingerprint, RevokedKeysFile};

#[derive(Debug)]
pub(super) struct AllowedClient {
    pub(super) allowed: BTreeSet<Fingerprint>,
    pub(super) listed: Option<Arc<AuthorizedKeysFile>>,
    pub(super) revoked: Option<Arc<RevokedKeysFile>>,
    pub(super) ca: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) certified: Arc<Certified>,
    pub(super) signatures: Signatures,
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
        if self.revoked.as_ref().is_some_and(|revoked| revoked.contains(&key)) {
            tracing::debug!(%key, "revoked");
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        if self.allowed.contains(&key) {
            return Ok(ClientCertVerified::assertion());
        }
        match (self.listed.as_ref().and_then(|listed| listed.grants(&key)), &self.ca) {
            (Some(grants), _) if !grants.is_empty() => Ok(ClientCertVerified::assertion()),
            (None, Some(ca)) => {
                let verified = ca.verify_client_cert(end_entity, intermediates, now)?;
                self.certified.add(key);
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
        self.signatures.schemes()
    }
}
