//! Stripes that go out over a second connection as well, because the one that has them is late.

use std::time::Instant;

use super::super::{ConnId, Output};
use super::Set;
use super::conn::{Conn, JobStripe, State};

/// At this share of its average rate a path is busy.
const BUSY_SHARE: f64 = 0.5;

impl Set {
    /// `id` is silent, and so may be the whole path: no sibling has had anything to send. Its oldest
    /// stripe goes out over an idle connection too, which either brings the stripe or tells them apart.
    pub(super) fn probe(&mut self, id: ConnId, now: Instant) {
        let busy_and_well = |conn: &Conn| !conn.stripes.is_empty() && !conn.meter.is_quiet(now);
        if self.conns.values().any(busy_and_well) {
            return;
        }
        let Some((&stripe, _)) = self.conns[&id].stripes.first_key_value() else { return };
        self.double(stripe, now);
    }

    /// At the end of a job, what waits for the slowest connection decides how long all of it takes: stripes
    /// that are late go out over idle connections as well.
    pub(super) fn hedge(&mut self, now: Instant) {
        // Where data waits, a copy only takes its place, and not that of what is late itself.
        if !self.jobs.have_waiting() && self.is_path_busy(now) {
            return;
        }
        let late = |conn: &Conn| -> Vec<JobStripe> {
            // What is not under way waits for a disk, and a second copy would wait as well.
            let stripes = conn.stripes.iter().filter(|_| conn.sample.in_flight_bytes > 0);
            stripes.filter(|(_, carried)| now > carried.due_at).map(|(&stripe, _)| stripe).collect()
        };
        let late: Vec<JobStripe> = self.conns.values().flat_map(late).collect();
        for (id, stripe) in late {
            let Some(job) = self.jobs.get(id) else { continue };
            let is_alone = job.is_given_out() && job.plan.holders(stripe) == 1;
            if is_alone && !self.double((id, stripe), now) {
                return;
            }
        }
    }

    /// Whether those that still have something to send use much of what the path has given so far: a second
    /// copy would only take from the first.
    fn is_path_busy(&self, now: Instant) -> bool {
        let Some(average) = self.jobs.average_bytes_per_s(now) else { return false };
        let busy = self.conns.values().filter(|conn| !conn.stripes.is_empty());
        let rate: f64 = busy.map(|conn| conn.meter.goodput()).sum();
        rate >= BUSY_SHARE * average
    }

    /// Sends a stripe over an idle connection as well. False if none is idle.
    fn double(&mut self, (job, stripe): JobStripe, now: Instant) -> bool {
        let is_idle = |conn: &Conn| {
            conn.stripes.is_empty() && !matches!(conn.state, State::Opening | State::Priming(_))
        };
        let Some((&idle, _)) = self.conns.iter().find(|(_, conn)| is_idle(conn)) else {
            return false;
        };
        let plan = self.jobs.plan_mut(job);
        if let Some(stripe) = plan.and_then(|plan| plan.double(stripe, idle))
            && let Some(conn) = self.conns.get_mut(&idle)
        {
            conn.carry(job, &stripe, now);
            self.stats.stripes_again += 1;
            self.outputs.push_back(Output::Send { conn: idle, job, stripe, again: true });
        }
        true
    }
}
