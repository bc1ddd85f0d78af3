//! One connection of a simulated network.

use std::collections::VecDeque;
use std::time::Duration;

use qbulk::traffic::{JobId, Sample, StripeId};

/// The smallest congestion window, in bytes.
pub(crate) const WINDOW_BYTES_MIN: f64 = 32_000.0;

/// What becomes of a path that goes bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Silent,
    Slow,
    Lossy,
    /// As slow, but what is too much is dropped instead of waiting.
    Policed,
    /// Round trips take longer, and always have.
    Far,
}

impl Fault {
    /// What it leaves of a path's rate.
    pub(crate) fn rate(self) -> f64 {
        match self {
            Self::Silent => 0.0,
            Self::Slow | Self::Policed => SLOW,
            Self::Lossy => 0.1,
            Self::Far => 1.0,
        }
    }

    /// What is lost beside what arrives.
    pub(crate) fn loss(self) -> f64 {
        match self {
            Self::Silent | Self::Slow | Self::Far => 0.0,
            Self::Policed => 1.0,
            Self::Lossy => 0.1,
        }
    }

    /// How many times as long round trips take, at least and now.
    pub(crate) fn rtt(self) -> [u32; 2] {
        match self {
            Self::Silent | Self::Slow | Self::Lossy => [1, 3],
            Self::Policed => [1, 1],
            Self::Far => [FAR, FAR],
        }
    }
}

/// What is left of the rate of a path that has become slow.
pub(crate) const SLOW: f64 = 0.01;
/// How many times as long a round trip takes on a path that goes a long way round.
const FAR: u32 = 8;

/// One connection.
pub(crate) struct Link {
    pub(crate) rate: f64,
    pub(crate) bad: Option<(Duration, Fault)>,
    /// Since when it carries something while something is wrong with it.
    pub(crate) used_at: Option<Duration>,
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

    /// How long a round trip takes where it takes `rtt` if nothing is wrong.
    pub(crate) fn rtt(&self, rtt: Duration, at: Duration) -> Duration {
        rtt * self.fault(at).map_or(1, |fault| fault.rtt()[1])
    }

    pub(crate) fn window(&self) -> f64 {
        self.sample.window_bytes as f64
    }
}
