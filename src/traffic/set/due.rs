//! What time alone brings, and when it is due.

use std::time::{Duration, Instant};

use super::super::Output;
use super::Set;

/// How often those are looked at that carry something.
const TICK: Duration = Duration::from_millis(20);

impl Set {
    /// When [`Set::handle_timeout`] has something to do if nothing is handled before; `None` if never.
    ///
    /// While stripes are under way that is every few milliseconds; a set that rests waits for nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [
            self.tick_at,
            self.reopens_at(),
            self.scouts_at(),
            self.reinforces_at(),
            self.stuck_at(),
        ];
        due.into_iter().flatten().min()
    }

    /// Looks for what time alone brings: silence, idle reserves, connections to open again. Changes
    /// nothing before [`Set::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.note_alive(now);
        if self.tick_at.is_some_and(|at| now >= at) {
            self.tick_at = None;
            self.tune(now);
            self.judge_silence(now);
            self.hedge(now);
            self.question_the_only_one(now);
            self.reprime_idle(now);
        }
        self.reinforce_late(now);
        self.open_missing(now);
        self.scout(now);
        if self.stuck_at().is_some_and(|at| now >= at) {
            self.stuck = true;
            self.outputs.push_back(Output::Stuck);
        }
        self.assign(now);
        self.wind_up(now);
    }

    /// Those that carry something are looked at from now on, if there are any.
    pub(super) fn wind_up(&mut self, now: Instant) {
        if self.tick_at.is_none() && self.is_restless() {
            self.tick_at = Some(now + TICK);
        }
    }

    /// Something may be there to be sent: the set is made ready for it.
    pub(super) fn wake(&mut self, now: Instant) {
        self.weigh_jobs();
        self.open_missing(now);
        self.prime_rested(now);
        self.prime_early_ones(now);
    }

    /// There is a connection, unless there is none.
    pub(super) fn note_alive(&mut self, now: Instant) {
        if self.is_alive() {
            self.alive_at = now;
        }
    }

    fn is_alive(&self) -> bool {
        self.conns.values().any(|conn| !conn.is_opening())
    }

    fn is_restless(&self) -> bool {
        self.conns.values().any(|conn| !conn.stripes.is_empty())
            || !self.tuner.is_at_rest()
            || self.has_idle_surplus()
    }

    /// When there was no connection for too long.
    fn stuck_at(&self) -> Option<Instant> {
        if self.stuck || self.is_alive() {
            return None;
        }
        let patience = if self.was_up { self.config.stuck_after } else { self.config.up_within };
        self.alive_at.checked_add(patience)
    }
}
