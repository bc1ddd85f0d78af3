//! Stripes that go out over a second connection as well, because the one that has them is late.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::Set;
use super::conn::{Carried, Conn, JobStripe, LATE_MARGIN, Role, State};

/// What has arrived over the only connection is confirmed within this time after it was expected, or else another
/// connection is tried: it may tell that nobody there knows of the job any more.
const LONELY_TIME: Duration = Duration::from_secs(1);
/// At this share of its average rate a path is busy.
const BUSY_SHARE: f64 = 0.5;
/// What idle connections are compared by, in bytes.
const TYPICAL_BYTES: u64 = 64 << 10;

impl Set {
    /// `id` is silent, and so may be the whole path: no sibling has had anything to send. Its oldest
    /// stripe goes out over an idle connection too, which either brings the stripe or tells them apart.
    pub(super) fn probe(&mut self, id: ConnId, now: Instant) {
        let busy_and_well = |conn: &Conn| !conn.stripes.is_empty() && !conn.meter.is_quiet(now);
        if self.conns.values().any(busy_and_well) {
            return;
        }
        let Some((&stripe, _)) = self.conns[&id].stripes.first_key_value() else { return };
        match self.best_idle() {
            Some(idle) => {
                self.double(stripe, idle, now);
            }
            None if self.count(Role::Opening) == 0 => self.reinforce(now),
            None => {}
        }
    }

    /// All that the only connection carries has arrived, and nobody confirms it: another one is opened.
    pub(super) fn question_the_only_one(&mut self, now: Instant) {
        let mut conns = self.conns.values();
        let (Some(only), None) = (conns.next(), conns.next()) else { return };
        let is_overdue = |carried: &Carried| now > carried.due_at + LONELY_TIME;
        if only.sample.in_flight_bytes == 0 && only.stripes.values().any(is_overdue) {
            self.reinforce(now);
        }
    }

    /// At the end of a job, what waits for the slowest connection decides how long all of it takes: stripes
    /// that are late go out over an idle connection as well, and so do those that it would bring much sooner.
    pub(super) fn hedge(&mut self, now: Instant) {
        // Where data waits, a copy only takes its place, and not that of what is late itself.
        if !self.jobs.have_waiting() && self.is_path_busy(now) {
            return;
        }
        while let Some(idle) = self.best_idle() {
            let Some(stripe) = self.stripe_for(idle, now) else { return };
            if !self.double(stripe, idle, now) {
                return;
            }
        }
    }

    /// The stripe that is waited for longest and that should go out over `idle` as well.
    fn stripe_for(&self, idle: ConnId, now: Instant) -> Option<JobStripe> {
        let idle = &self.conns[&idle];
        // What is not under way waits for a disk, and a second copy would wait as well.
        let busy = self.conns.values().filter(|conn| conn.sample.in_flight_bytes > 0);
        let flying = busy.flat_map(|conn| &conn.stripes);
        let is_worth_it = |carried: &Carried| {
            let sooner = (idle.time_for(carried.bytes) + LATE_MARGIN) * 2;
            now > carried.due_at || carried.expected_at > now + sooner
        };
        let is_alone = |&(id, stripe): &JobStripe| {
            let job = self.jobs.get(id);
            job.is_some_and(|job| job.is_given_out() && job.plan.holders(stripe) == 1)
        };
        flying
            .filter(|(stripe, carried)| is_worth_it(carried) && is_alone(stripe))
            .max_by_key(|(_, carried)| carried.expected_at)
            .map(|(&stripe, _)| stripe)
    }

    /// Whether those that still have something to send use much of what the path has given so far: a second
    /// copy would only take from the first. Where it has given nothing yet, whatever comes through is much.
    fn is_path_busy(&self, now: Instant) -> bool {
        let average = self.jobs.average_bytes_per_s(now).unwrap_or(0.0);
        let busy = self.conns.values().filter(|conn| !conn.stripes.is_empty());
        let rate: f64 = busy.map(|conn| conn.meter.goodput()).sum();
        rate > 0.0 && rate >= BUSY_SHARE * average
    }

    /// The one that would be fastest of those that have nothing to send.
    fn best_idle(&self) -> Option<ConnId> {
        let is_idle = |conn: &Conn| {
            conn.stripes.is_empty() && !matches!(conn.state, State::Opening | State::Priming(_))
        };
        let idle = self.conns.iter().filter(|(_, conn)| is_idle(conn));
        idle.min_by_key(|(_, conn)| (!conn.is_heard, conn.time_for(TYPICAL_BYTES)))
            .map(|(&id, _)| id)
    }

    /// Sends a stripe over an idle connection as well. False if that has it, or it is confirmed.
    fn double(&mut self, (job, stripe): JobStripe, idle: ConnId, now: Instant) -> bool {
        let plan = self.jobs.plan_mut(job);
        let Some(stripe) = plan.and_then(|plan| plan.double(stripe, idle)) else { return false };
        let Some(conn) = self.conns.get_mut(&idle) else { return false };
        conn.carry(job, &stripe, now);
        self.stats.stripes_again += 1;
        self.outputs.push_back(Output::Send { conn: idle, job, stripe, again: true });
        true
    }
}
