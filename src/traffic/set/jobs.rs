//! The jobs of a set: what is left of each, and whose turn it is.
//!
//! What the connections can carry is shared by start-time fair queueing (Goyal, Vin, Cheng 1996): what a job
//! is given moves it on in a time of its own, by less the more weight it has, and the job that is furthest
//! behind comes next. One that has had nothing to send starts where the others are: it is neither owed
//! anything nor does it wait for more than what is under way.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Instant;

use super::super::plan::{Item, Plan, Stripe, StripeId};
use super::super::{ConnId, JobId};
use super::conn::JobStripe;

/// What a stripe costs beside its bytes: even empty ones must not go on for ever before the others.
const STRIPE_COST_BYTES: u64 = 1_000;
/// Steps of a job's own time per byte, at a weight of one.
const TIME_PER_BYTE: u128 = 1 << 32;

/// All jobs of a set.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    by_id: BTreeMap<JobId, Job>,
    /// Where the job was, in its own time, that was given something last.
    time: u128,
    /// There was a job.
    had_some: bool,
    /// Since when one of them is accepted, and what was confirmed of all of them since, in bytes.
    accepted_since: Option<Instant>,
    confirmed_bytes: u64,
}

/// One job: its plan, and what is known about it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) plan: Plan,
    weight: NonZeroU32,
    begun_at: Instant,
    /// How far it is in its own time.
    time: u128,
    is_accepted: bool,
    source_done: bool,
    /// It was told that all of it is confirmed.
    is_drained: bool,
    /// What its source was found to hold, in bytes.
    found_bytes: u64,
}

impl Jobs {
    /// A job begins. Its number is new.
    pub(super) fn begin(&mut self, id: JobId, weight: NonZeroU32, now: Instant) {
        self.had_some = true;
        self.by_id.entry(id).or_insert_with(|| Job {
            plan: Plan::default(),
            weight,
            begun_at: now,
            time: 0,
            is_accepted: false,
            source_done: false,
            is_drained: false,
            found_bytes: 0,
        });
    }

    /// Forgets a job.
    pub(super) fn end(&mut self, id: JobId) -> Option<Job> {
        let job = self.by_id.remove(&id)?;
        if !self.is_any_accepted() {
            (self.accepted_since, self.confirmed_bytes) = (None, 0);
        }
        Some(job)
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.by_id.get(&id)
    }

    /// The plan of a job; `None` if it has ended.
    pub(super) fn plan_mut(&mut self, id: JobId) -> Option<&mut Plan> {
        self.by_id.get_mut(&id).map(|job| &mut job.plan)
    }

    pub(super) fn offer(&mut self, id: JobId, items: Vec<Item>) {
        let Some(job) = self.by_id.get_mut(&id) else { return };
        for item in items {
            job.plan.offer(item);
        }
        job.is_drained = false;
    }

    /// So many bytes were found by now of what a job is to send.
    pub(super) fn found(&mut self, id: JobId, bytes: u64) {
        if let Some(job) = self.by_id.get_mut(&id) {
            job.found_bytes = job.found_bytes.max(bytes);
        }
    }

    /// Nothing more will be offered.
    pub(super) fn end_source(&mut self, id: JobId) {
        if let Some(job) = self.by_id.get_mut(&id) {
            job.source_done = true;
        }
    }

    /// The receiver has accepted a job.
    pub(super) fn accept(&mut self, id: JobId, now: Instant) {
        if let Some(job) = self.by_id.get_mut(&id) {
            job.is_accepted = true;
            self.accepted_since.get_or_insert(now);
        }
    }

    /// The receiver has a stripe. Returns who was sending it; `None` if that was known.
    pub(super) fn confirm(&mut self, id: JobId, stripe: StripeId) -> Option<Vec<ConnId>> {
        let (holders, bytes) = self.plan_mut(id)?.confirm(stripe)?;
        self.confirmed_bytes += bytes;
        Some(holders)
    }

    /// `conn` will not deliver a stripe. True if it must go out again because nobody else has it.
    pub(super) fn release(&mut self, (id, stripe): JobStripe, conn: ConnId) -> bool {
        self.plan_mut(id).is_some_and(|plan| plan.release(stripe, conn))
    }

    /// The next stripe for `conn`: what another connection failed to deliver, which has had its turn and is
    /// kept in memory, then new data of the job whose turn it is. The flag says that it was sent before.
    pub(super) fn next(&mut self, conn: ConnId, len_max: u64) -> Option<(JobId, Stripe, bool)> {
        let mut again = self.by_id.iter_mut();
        if let Some((id, stripe)) =
            again.find_map(|(&id, job)| job.plan.again(conn).map(|stripe| (id, stripe)))
        {
            return Some((id, stripe, true));
        }
        let time = self.time;
        let waiting = self.by_id.iter_mut().filter(|(_, job)| job.has_waiting());
        let (&id, job) = waiting.min_by_key(|(_, job)| job.time.max(time))?;
        let (stripe, again) = job.plan.next(conn, len_max)?;
        self.time = job.time.max(time);
        let cost = u128::from(stripe.bytes + STRIPE_COST_BYTES) * TIME_PER_BYTE;
        job.time = self.time + cost / u128::from(job.weight.get());
        Some((id, stripe, again))
    }

    /// Jobs of which everything is confirmed since this was last asked.
    pub(super) fn newly_drained(&mut self) -> Vec<JobId> {
        let mut drained = Vec::new();
        for (&id, job) in &mut self.by_id {
            if job.source_done && job.plan.is_drained() && !job.is_drained {
                job.is_drained = true;
                drained.push(id);
            }
        }
        drained
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether there were jobs, and nothing is left to be done.
    pub(super) fn are_done(&self) -> bool {
        self.had_some && self.by_id.values().all(|job| job.is_drained)
    }

    /// Whether something waits that may be sent.
    pub(super) fn have_waiting(&self) -> bool {
        self.by_id.values().any(Job::has_waiting)
    }

    /// Whether the receiver has accepted one.
    pub(super) fn is_any_accepted(&self) -> bool {
        self.by_id.values().any(|job| job.is_accepted)
    }

    /// When the last one began of those that the receiver has yet to accept.
    pub(super) fn to_be_accepted_since(&self) -> Option<Instant> {
        let jobs = self.by_id.values().filter(|job| !job.is_accepted);
        jobs.map(|job| job.begun_at).max()
    }

    /// Whether the receiver waits for something.
    pub(super) fn are_awaited(&self) -> bool {
        self.by_id.values().any(|job| job.is_accepted && !job.is_drained)
    }

    /// Whether data waits, or the last of it is being sent.
    pub(super) fn are_under_way(&self) -> bool {
        let is_under_way =
            |job: &Job| job.is_accepted && (job.plan.has_waiting() || job.source_done);
        self.by_id.values().any(is_under_way)
    }

    /// Whether something is cut and not confirmed.
    pub(super) fn have_flying(&self) -> bool {
        self.by_id.values().any(|job| job.plan.flying_stripes() > 0)
    }

    /// What there is to send in all, as far as it is known, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.by_id.values().map(Job::size_bytes).sum()
    }

    /// What is confirmed of the jobs that are there, in bytes.
    pub(super) fn confirmed_bytes(&self) -> u64 {
        self.by_id.values().map(|job| job.plan.confirmed_bytes()).sum()
    }

    /// What was confirmed per second on average since there was something to send; `None` if that was
    /// nothing.
    pub(super) fn average_bytes_per_s(&self, now: Instant) -> Option<f64> {
        let seconds = (now - self.accepted_since?).as_secs_f64();
        let bytes = self.confirmed_bytes as f64;
        (self.confirmed_bytes > 0).then(|| bytes / seconds.max(1e-3))
    }
}

impl Job {
    /// Whether something of it waits that may be sent.
    fn has_waiting(&self) -> bool {
        self.is_accepted && self.plan.has_waiting()
    }

    /// Whether all of it was given out: what is left of it is under way.
    pub(super) fn is_given_out(&self) -> bool {
        self.source_done && !self.plan.has_waiting()
    }

    /// What there is to send, as far as it is known, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.found_bytes.max(self.plan.offered_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::ItemId;

    const CONN: ConnId = ConnId(0);
    const LEN: u64 = 1 << 16;

    /// Jobs of these weights, each with `bytes` to send.
    fn jobs(weights: &[u32], bytes: u64, now: Instant) -> Jobs {
        let mut jobs = Jobs::default();
        for (id, &weight) in (0..).map(JobId).zip(weights) {
            begin(&mut jobs, id, weight, vec![Item::split(ItemId(0), bytes)], now);
        }
        jobs
    }

    fn begin(jobs: &mut Jobs, id: JobId, weight: u32, items: Vec<Item>, now: Instant) {
        jobs.begin(id, NonZeroU32::new(weight).unwrap(), now);
        jobs.offer(id, items);
        jobs.accept(id, now);
    }

    /// Which jobs the next stripes are of.
    fn order(jobs: &mut Jobs, stripes: usize) -> Vec<u64> {
        (0..stripes).map(|_| jobs.next(CONN, LEN).unwrap().0.0).collect()
    }

    #[test]
    fn turns_go_by_weight_and_what_one_leaves_the_others_share() {
        let mut jobs = jobs(&[1, 2, 3], LEN * 30, Instant::now());
        let mut turns = |stripes, share: [usize; 3]| {
            let turns = order(&mut jobs, stripes);
            for (job, share) in (0..).zip(share) {
                let count = turns.iter().filter(|&&other| other == job).count();
                assert!(count.abs_diff(share) <= 1, "{count} of job {job}: {turns:?}");
            }
        };
        turns(58, [10, 19, 29]);
        turns(2, [0, 1, 1]);
        turns(15, [5, 10, 0]);
    }

    #[test]
    fn one_that_begins_late_neither_waits_nor_catches_up() {
        let now = Instant::now();
        let mut jobs = jobs(&[1], LEN * 100, now);
        order(&mut jobs, 50);
        begin(&mut jobs, JobId(1), 1, vec![Item::split(ItemId(0), LEN * 100)], now);
        let turns = order(&mut jobs, 10);
        assert!(turns[..2].contains(&1), "{turns:?}");
        assert_eq!(turns.iter().filter(|&&job| job == 1).count(), 5, "{turns:?}");
    }

    #[test]
    fn what_was_lost_goes_out_again_before_anything_new() {
        let mut jobs = jobs(&[1, 100], LEN * 100, Instant::now());
        let (id, lost, _) = jobs.next(CONN, LEN).unwrap();
        assert_eq!(order(&mut jobs, 5), [1; 5]);
        jobs.release((id, lost.id), CONN);
        assert_eq!(jobs.next(ConnId(1), LEN), Some((JobId(0), lost, true)));
        assert_eq!(order(&mut jobs, 50), [1; 50]);
    }

    #[test]
    fn stripes_of_nothing_hold_nobody_up_for_ever() {
        let now = Instant::now();
        let mut jobs = jobs(&[1, 1], LEN * 2, now);
        let nothing = vec![Item::split(ItemId(0), 0); 10_000];
        begin(&mut jobs, JobId(2), 1, nothing, now);
        let turns = order(&mut jobs, 300);
        assert_eq!(turns.iter().filter(|&&job| job != 2).count(), 4, "{turns:?}");
    }

    #[test]
    fn what_is_not_accepted_is_not_given_out() {
        let now = Instant::now();
        let mut jobs = Jobs::default();
        jobs.begin(JobId(0), NonZeroU32::MIN, now);
        jobs.offer(JobId(0), vec![Item::split(ItemId(0), 1)]);
        assert!(jobs.next(CONN, LEN).is_none());
        jobs.accept(JobId(0), now);
        assert!(jobs.next(CONN, LEN).is_some());
    }
}
