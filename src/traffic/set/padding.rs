//! Padding: when connections are primed, and what that may cost.

use std::time::Instant;

use super::super::{ConnId, Output};
use super::conn::{Conn, State};
use super::jobs::{Job, Jobs};
use super::prime::{PrimeConfig, PrimeEnd, Primer};
use super::verdict::Verdict;
use super::{CONDEMN_INTERVAL, Set};

/// Rounds that a priming must have lasted for its result to be held against the connection.
const PRIMING_ROUNDS_TOLD: u32 = 4;
/// While data waits, padding takes at most one part in so many of it, and this much in any case.
const PADDING_SHARE: u64 = 128;
const PADDING_BYTES_MIN: u64 = 128 << 10;
/// All padding costs at most one part in so many of what there is to send; where that is little, at most so
/// much; and nothing for what the first windows hold.
const PADDING_PART: u64 = 8;
const SMALL_JOB_BYTES: u64 = 1_000_000;
const SMALL_JOB_PADDING_BYTES: u64 = 64_000;
const PADDED_JOB_BYTES_MIN: u64 = 128 << 10;

/// What padding has cost the jobs that are there.
#[derive(Debug, Default)]
pub(super) struct Padding {
    /// All that was sent, in bytes.
    sent_bytes: u64,
    /// What of it was sent while data waited, in bytes.
    beside_data_bytes: u64,
}

impl Padding {
    /// So much was sent.
    pub(super) fn spend(&mut self, bytes: u64, jobs: &Jobs) {
        if !jobs.is_empty() {
            self.sent_bytes += bytes;
        }
    }

    /// So much of it was sent in a priming, which data may have waited for.
    pub(super) fn spend_beside_data(&mut self, bytes: u64, jobs: &Jobs) {
        if jobs.are_under_way() {
            self.beside_data_bytes += bytes;
        }
    }

    /// `job` has ended, and `left` are there still. It takes along what it was good for.
    pub(super) fn end(&mut self, job: &Job, left: &Jobs) {
        if left.is_empty() {
            *self = Self::default();
            return;
        }
        let left_bytes = left.size_bytes();
        let good_for = padding_most(left_bytes + job.size_bytes()) - padding_most(left_bytes);
        self.sent_bytes = self.sent_bytes.saturating_sub(good_for);
        let share = job.plan.confirmed_bytes() / PADDING_SHARE;
        self.beside_data_bytes = self.beside_data_bytes.saturating_sub(share);
    }

    /// Data waits, and padding has taken its share of the path.
    fn is_enough(&self, jobs: &Jobs) -> bool {
        let share = jobs.confirmed_bytes() / PADDING_SHARE;
        jobs.are_under_way() && self.beside_data_bytes > PADDING_BYTES_MIN + share
    }

    /// What of it all jobs are good for, and has not been spent, in bytes.
    fn left_bytes(&self, jobs: &Jobs) -> u64 {
        padding_most(jobs.size_bytes()).saturating_sub(self.sent_bytes)
    }
}

/// What padding may cost beside so many bytes that are to be sent.
fn padding_most(bytes: u64) -> u64 {
    match bytes {
        0..PADDED_JOB_BYTES_MIN => 0,
        PADDED_JOB_BYTES_MIN..SMALL_JOB_BYTES => SMALL_JOB_PADDING_BYTES,
        bytes => bytes / PADDING_PART,
    }
}

impl Set {
    /// Opens the window of a connection, as far as padding may still cost something.
    pub(super) fn prime(&mut self, id: ConnId, now: Instant) {
        let budget_bytes = self.padding_budget();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let config = PrimeConfig { budget_bytes, ..self.config.prime };
        conn.used_at = now;
        if budget_bytes == 0 {
            conn.state = State::Reserve;
            return self.reserve.push_back(id);
        }
        conn.is_opened_up = true;
        conn.state = State::Priming(Box::new(Primer::new(config, conn.sample, now)));
        self.outputs.push_back(Output::Prime { conn: id, budget_bytes });
    }

    /// It is over: the connection is ready.
    pub(super) fn end_priming(&mut self, id: ConnId, end: PrimeEnd, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let State::Priming(primer) = &conn.state else { return };
        // Only a priming that ran its course says something about the path.
        if end != PrimeEnd::Data && primer.rounds() >= PRIMING_ROUNDS_TOLD {
            conn.primed_bytes = primer.best_bytes().max(1);
        }
        conn.state = State::Reserve;
        conn.used_at = now;
        conn.meter.remember();
        self.outputs.push_back(Output::StopPrime { conn: id, end });
        if self.is_primed_badly(id) {
            self.reopen_at = now + CONDEMN_INTERVAL;
            self.condemn(id, Verdict::PrimedBadly, now);
        } else {
            self.reserve.push_back(id);
        }
    }

    /// Data waits, and padding has taken its share of the path.
    pub(super) fn is_padding_enough(&self) -> bool {
        self.padding.is_enough(&self.jobs)
    }

    /// What one priming may cost: its share of what is left to all, in bytes.
    fn padding_budget(&self) -> u64 {
        let left = self.padding.left_bytes(&self.jobs);
        self.config.prime.budget_bytes.min(left / self.conns.len().max(1) as u64)
    }

    /// Primes reserves whose windows have closed while they waited for their turn.
    pub(super) fn reprime_idle(&mut self, now: Instant) {
        // While nothing moves, nobody knows when a window will be needed.
        if self.jobs.have_flying() && !self.is_padding_enough() {
            self.prime_unused_until(now, now);
        }
    }

    /// Primes those that were up before anything was found to be sent, but for as many as carry data at once.
    pub(super) fn prime_early_ones(&mut self, now: Instant) {
        if self.padding_budget() == 0 || self.is_padding_enough() {
            return;
        }
        let at_once = if self.jobs.have_waiting() { self.missing_active() } else { 0 };
        let early = self.reserve.iter().filter(|id| !self.conns[id].is_opened_up);
        let early: Vec<ConnId> = early.copied().skip(at_once).collect();
        self.reserve.retain(|id| !early.contains(id));
        for id in early {
            self.prime(id, now);
        }
    }

    /// A job has begun that is not accepted yet. What closed while the set had nothing to do is open by the
    /// time that it is.
    pub(super) fn prime_rested(&mut self, now: Instant) {
        let Some(begun_at) = self.jobs.to_be_accepted_since() else { return };
        if self.padding_budget() > 0 && !self.is_padding_enough() {
            self.prime_unused_until(begun_at, now);
        }
    }

    /// Whether its window may have closed when it is `until`, for want of use.
    pub(super) fn is_unused(&self, conn: &Conn, until: Instant) -> bool {
        let is_old = conn.used_at <= until && until - conn.used_at >= self.config.reprime_after;
        is_old && conn.stripes.is_empty()
    }

    /// Primes reserves that were not used for long when it was `until`, nor since then.
    fn prime_unused_until(&mut self, until: Instant, now: Instant) {
        for _ in 0..self.reserve.len() {
            let Some(id) = self.reserve.pop_front() else { return };
            let Some(conn) = self.conns.get(&id) else { continue };
            if self.is_unused(conn, until) {
                self.prime(id, now);
            } else {
                self.reserve.push_back(id);
            }
        }
    }
}
