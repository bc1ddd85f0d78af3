//! The traffic manager: which connection carries which bytes, and when one is given up.
//!
//! Pure: no sockets, files, tasks, clocks or randomness of its own, so that thousands of simulated
//! networks can be run over it. [`plan`] knows which bytes are left, [`prime`] when a connection's
//! window is open, and [`health`] how well it does.

pub mod health;
pub mod plan;
pub mod prime;

pub use health::{HealthConfig, Meter, Siblings, Verdict};
pub use plan::{Extent, Item, ItemId, Plan, Stripe, StripeId};
pub use prime::{PrimeConfig, PrimeEnd, Primer};

use std::time::Duration;

/// One connection of a transfer's set. Numbers are never used twice within a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

/// What a connection's transport has measured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Bytes that the receiver has acknowledged since the connection was opened, padding included.
    pub delivered_bytes: u64,
    /// Padding handed to the transport so far, in bytes.
    pub padding_bytes: u64,
    /// Bytes declared lost since the connection was opened.
    pub lost_bytes: u64,
    /// Congestion window, in bytes.
    pub window_bytes: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The least round-trip time seen.
    pub rtt_min: Duration,
}
