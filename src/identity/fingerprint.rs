//! Short names for public keys.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use rustls::{pki_types::CertificateDer, server::ParsedCertificate};
use sha2::{Digest, Sha256};

use super::IdentityError;

const PREFIX: &str = "SHA256:";

/// The SHA-256 of a public key (its DER SubjectPublicKeyInfo), written `SHA256:` and 43 base64
/// characters.
///
/// It names the key and not the certificate around it, so it stays the same when a certificate is
/// renewed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of the key in a certificate; fails if the certificate cannot be parsed.
    pub fn of_cert(cert: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let spki = ParsedCertificate::try_from(cert)?.subject_public_key_info();
        Ok(Self(Sha256::digest(&spki).into()))
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        text.strip_prefix(PREFIX)
            .and_then(|hash| BASE64_STANDARD_NO_PAD.decode(hash).ok())
            .and_then(|hash| hash.try_into().ok())
            .map(Self)
            .ok_or_else(|| IdentityError::BadFingerprint(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};

    use super::*;

    #[test]
    fn names_the_key_and_not_the_certificate() {
        let cert = |key: &KeyPair, name: &str| {
            CertificateParams::new([name.to_owned()]).unwrap().self_signed(key).unwrap()
        };
        let key = KeyPair::generate().unwrap();
        let one = Fingerprint::of_cert(cert(&key, "a").der()).unwrap();
        assert_eq!(one, Fingerprint(Sha256::digest(key.subject_public_key_info()).into()));
        assert_eq!(one, Fingerprint::of_cert(cert(&key, "b").der()).unwrap());
        let other = KeyPair::generate().unwrap();
        assert_ne!(one, Fingerprint::of_cert(cert(&other, "a").der()).unwrap());
        Fingerprint::of_cert(&CertificateDer::from_slice(b"no certificate")).unwrap_err();
    }

    #[test]
    fn shown_as_ssh_shows_it() {
        // `printf '' | sha256sum | xxd -r -p | base64`
        let empty = Fingerprint(Sha256::digest(b"").into());
        assert_eq!(empty.to_string(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "SHA256:",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF",
            "SHA256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
            // Differs only in bits beyond the 256th: one key must not have several spellings.
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV",
            " SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        ] {
            let error = bad.parse::<Fingerprint>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("43 base64"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn parses_what_it_shows(hash: [u8; 32]) {
            let shown = Fingerprint(hash).to_string();
            prop_assert_eq!(shown.len(), 7 + 43);
            prop_assert_eq!(shown.parse::<Fingerprint>().unwrap(), Fingerprint(hash));
        }
    }
}
