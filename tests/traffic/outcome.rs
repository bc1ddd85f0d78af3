//! What a run has shown.

use std::time::Duration;

use qbulk::traffic::{PrimeEnd, SetStats, Verdict};

use crate::job::Job;

/// How a run went.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) is_stuck: bool,
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
    pub(crate) jobs: Vec<Job>,
    pub(crate) stats: SetStats,
    /// What connections were closed for, but for those that were not needed any more.
    pub(crate) verdicts: Vec<Verdict>,
    /// How many of those had a path that nothing was wrong with.
    pub(crate) wronged: usize,
    /// For how long a path on which something was wrong was used, at most.
    pub(crate) borne: Duration,
    pub(crate) surplus: u64,
    pub(crate) prime_ends: Vec<PrimeEnd>,
    /// Primings of connections that had been primed before.
    pub(crate) reprimed: u64,
    /// Stripes that went out over a second connection although the first still had them.
    pub(crate) hedged: u64,
    pub(crate) abandoned: u64,
    pub(crate) damaged: u64,
    pub(crate) padding_bytes: u64,
    pub(crate) padding_beside_bytes: u64,
}
