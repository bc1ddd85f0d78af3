//! One connection of a simulated network.

use std::collections::VecDeque;
use std::time::Duration;

use qbulk::traffic::{JobId, Sample, StripeId};

/// The smallest congestion window, in bytes.
pub(crate) const WINDOW_BYTES_MIN: f64 = 32_000.0;

/// What becomes of a path that goes bad.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Silent,
    Slow,
    Lossy,
}

/// One connection.
pub(crate) struct Link {
    pub(crate) rate: f64,
    pub(crate) bad: Option<(Duration, Fault)>,
    pub(crate) ends_at: Option<Duration>,
    pub(crate) mute_until: Duration,
    pub(crate) heard_at: Duration,
    pub(crate) sample: Sample,
    pub(crate) priming: bool,
    pub(crate) primed: bool,
    /// Padding since the last sample, in bytes.
    pub(crate) padded: u64,
    /// Stripes, and what of each is left to send.
    pub(crate) queue: VecDeque<((JobId, StripeId), f64)>,
}

impl Link {
    pub(crate) fn fault(&self, at: Duration) -> Option<Fault> {
        self.bad.filter(|&(bad_at, _)| at >= bad_at).map(|(_, fault)| fault)
    }

    pub(crate) fn window(&self) -> f64 {
        self.sample.window_bytes as f64
    }
}
