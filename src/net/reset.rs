//! Stateless resets that clients still recognise after the server was restarted (RFC 9000, 10.3), so
//! that they come back at once and do not wait for an answer until they time out.

use std::sync::Arc;

use quinn::EndpointConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn_proto::HashedConnectionIdGenerator;

/// Keyed BLAKE3, which is a MAC as it is.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // Comparing hashes takes the same time whatever they are.
        if blake3::keyed_hash(&self.0, data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Has resets and connection ids made from `secret`, which is the same after a restart.
pub(super) fn make_lasting(config: &mut EndpointConfig, secret: &[u8; 32]) {
    config.reset_key(Arc::new(ResetKey(blake3::derive_key("qbulk stateless reset 1", secret))));
    let ids = blake3::derive_key("qbulk connection ids 1", secret);
    let key = ids.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_verified() {
        let key = ResetKey([1; 32]);
        let mut signature = [0; 32];
        key.sign(b"id", &mut signature);
        assert!(key.verify(b"id", &signature).is_ok());
        assert!(key.verify(b"di", &signature).is_err());
        assert!(key.verify(b"id", &signature[1..]).is_err());
        assert!(ResetKey([2; 32]).verify(b"id", &signature).is_err());
    }
}
