//! What a connection is given up for.

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing comes back although its siblings make progress.
    Silent,
    /// Its RTT-weighted goodput is below the threshold.
    Slow,
    /// Its congestion window has collapsed.
    Collapsed,
    /// Its goodput is below the floor that the user set.
    BelowFloor,
    /// Its round-trip time is above the ceiling that the user set.
    RttTooHigh,
    /// It was primed to much less than its siblings.
    PrimedBadly,
    /// It could not be opened, or the transport lost it.
    Lost,
    /// It did well, but fewer connections are enough.
    Surplus,
}

impl Verdict {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Collapsed => "collapsed",
            Self::BelowFloor => "below_floor",
            Self::RttTooHigh => "rtt_too_high",
            Self::PrimedBadly => "primed_badly",
            Self::Lost => "lost",
            Self::Surplus => "surplus",
        }
    }
}
