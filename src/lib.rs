//! qbulk moves bulk data over primed sets of QUIC connections.
//!
//! A pure core decides, thin shells act. From pure to shell:
//!
//! - [`traffic`]: the traffic manager: which bytes are left, in flight, confirmed.
//! - [`congestion`]: how much may be in flight: one budget for all connections of a transfer.
//! - [`hashtree`]: a file's BLAKE3 hash from the hashes of its pieces.
//! - [`wire`]: the messages, with their limits.
//! - [`identity`] and [`certs`]: a user's key, whom it trusts, and certificates for fleets.
//! - [`net`]: quinn and rustls.
//! - [`push`] and [`serve`]: the two ends, composed of the above; they tell what happens by [`event`]s
//!   and end with an [`error`].

pub mod certs;
pub mod congestion;
pub mod error;
pub mod event;
pub mod hashtree;
pub mod identity;
pub mod net;
pub mod push;
pub mod serve;
pub mod store;
pub mod traffic;
pub mod wire;
