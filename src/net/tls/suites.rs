//! Which ciphers are used: the one that both sides are fast at.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite,
    crypto::{
        CryptoProvider,
        ring::{
            self,
            cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256},
        },
    },
};

/// Passed to rustls explicitly, as the process-wide default may be another one or none.
pub(super) fn provider(aes: bool) -> Arc<CryptoProvider> {
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
pub(super) fn cpu_has_aes() -> bool {
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
