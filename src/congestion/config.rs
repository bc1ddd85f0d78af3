//! How a budget is kept: how hard it competes, and what it starts from.

use std::time::Duration;

/// How hard a transfer competes with the traffic of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggressiveness {
    /// Takes what nobody else wants: gives way as soon as others fill the queue.
    Background,
    /// Takes about what one well-tuned connection would.
    #[default]
    Normal,
    /// Takes all it can get.
    Max,
}

/// What was learned about a path, to start from the next time (RFC 9959).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMemory {
    /// The round-trip time without a queue.
    pub rtt_min: Duration,
    /// What the path held then, in bytes.
    pub in_flight_bytes: u64,
}

/// How a budget is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetConfig {
    /// How hard to compete.
    pub aggressiveness: Aggressiveness,
    /// What is remembered of the path.
    pub memory: Option<PathMemory>,
}

/// Gains of the phases, and how much of others' queue is matched.
pub(super) struct Gains {
    pub(super) cruise: f64,
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) queue_max: f64,
}

impl Aggressiveness {
    pub(super) fn gains(self) -> Gains {
        match self {
            Self::Background => Gains { cruise: 1.0, up: 1.1, down: 0.9, queue_max: 1.0 },
            Self::Normal => Gains { cruise: 1.3, up: 1.5, down: 0.95, queue_max: 1.6 },
            Self::Max => Gains { cruise: 1.5, up: 1.8, down: 1.0, queue_max: 2.0 },
        }
    }
}
