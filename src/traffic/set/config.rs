//! How a set of connections is set up, and what it has done.

use std::time::Duration;

use super::health::HealthConfig;
use super::prime::PrimeConfig;

/// Sizes and limits of a connection set.
#[derive(Clone, Debug, PartialEq)]
pub struct SetConfig {
    /// N, the connections of the set.
    pub connections: usize,
    /// What there is to send gets a connection for each so many bytes, up to N: what is small is not worth as many
    /// handshakes. 0 opens all at once.
    pub bytes_per_connection: u64,
    /// M, how many of them carry data at a time.
    pub active: usize,
    /// M may grow up to this, and N with it, where that brings more; as much as `active` keeps it fixed.
    pub active_max: usize,
    /// The smallest stripe, in bytes; a power of two.
    pub stripe_bytes_min: u64,
    /// The largest stripe, in bytes; a power of two.
    pub stripe_bytes_max: u64,
    /// Bytes that may be sent and not confirmed, over all connections.
    pub flying_bytes_max: u64,
    /// Stripes that a connection carries before a reserve takes its turn.
    pub turn_stripes: u64,
    /// A reserve that was idle for longer is primed again.
    pub reprime_after: Duration,
    /// With no connection for this long once there was one, the set is stuck.
    pub stuck_after: Duration,
    /// With no first connection for this long, it is stuck as well.
    pub up_within: Duration,
    /// How connections are primed.
    pub prime: PrimeConfig,
    /// When connections are unsatisfactory.
    pub health: HealthConfig,
}

impl Default for SetConfig {
    fn default() -> Self {
        Self {
            connections: 10,
            bytes_per_connection: 32 << 10,
            active: 8,
            active_max: 32,
            stripe_bytes_min: 64 << 10,
            stripe_bytes_max: 1 << 20,
            flying_bytes_max: 96 << 20,
            turn_stripes: 8,
            reprime_after: Duration::from_secs(10),
            stuck_after: Duration::from_secs(30),
            up_within: Duration::from_secs(30),
            prime: PrimeConfig::default(),
            health: HealthConfig::default(),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetStats {
    /// Connections opened.
    pub opened: u64,
    /// Connections given up.
    pub condemned: u64,
    /// Connections given up while they carried stripes, which others took over.
    pub takeovers: u64,
    /// Stripes sent again.
    pub stripes_again: u64,
    /// Turns taken by connections; M of them are a sub-transfer.
    pub turns: u64,
}
