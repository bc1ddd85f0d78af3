//! qbulk moves bulk data over primed sets of QUIC connections.
//!
//! A pure core decides, thin shells act. From pure to shell:
//!
//! - [`traffic`]: the traffic manager: which bytes are left, in flight, confirmed.
//! - [`hashtree`]: a file's BLAKE3 hash from the hashes of its pieces.
//! - [`wire`]: the messages, with their limits.
//! - [`identity`] and [`certs`]: a user's key, whom it trusts, and certificates for fleets.
//! - [`net`]: quinn and rustls.

pub mod certs;
pub mod hashtree;
pub mod identity;
pub mod net;
pub mod traffic;
pub mod wire;
