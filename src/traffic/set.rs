//! A set of connections: who is active, who is in reserve, who carries what, and who is given up.
//!
//! The set belongs to no job: jobs come and go, and the connections that one has warmed carry the next.

mod config;
mod conn;
mod crowd;
mod due;
mod evidence;
mod feed;
pub mod health;
mod hedge;
mod jobs;
mod members;
mod padding;
pub mod prime;
pub mod tuner;
pub mod verdict;
mod verdicts;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub use self::config::{SetConfig, SetStats};
use self::conn::Conn;
pub use self::conn::Role;
use self::conn::State;
use self::crowd::Crowd;
use self::jobs::Jobs;
use self::padding::Padding;
use self::prime::PrimeEnd;
use self::tuner::Tuner;
use self::verdict::Verdict;
use super::plan::{ItemId, Plan, StripeId};
use super::{ConnId, Input, JobId, Output, Sample};

/// Nobody is condemned for being slow twice within this time: the set must settle first.
const CONDEMN_INTERVAL: Duration = Duration::from_millis(500);
/// The first wait before a lost connection is opened again; it doubles up to `REOPEN_MAX`.
const REOPEN_MIN: Duration = Duration::from_millis(50);
const REOPEN_MAX: Duration = Duration::from_secs(5);
/// A connection that is lost so soon after it was up may not have been wanted.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// A set of connections to one receiver, and the jobs that it carries.
#[derive(Debug)]
pub struct Set {
    config: SetConfig,
    jobs: Jobs,
    tuner: Tuner,
    conns: BTreeMap<ConnId, Conn>,
    /// Reserves, the one that has waited longest first.
    reserve: VecDeque<ConnId>,
    outputs: VecDeque<Output>,
    rng: SmallRng,
    next_conn: u32,
    stuck: bool,
    failures: u32,
    failed_at: Instant,
    reopen_at: Instant,
    /// When those are looked at next that carry something; `None` while there are none.
    tick_at: Option<Instant>,
    condemned_at: Option<Instant>,
    /// When a connection was given up last that was up, and of which nothing was heard any more.
    torn_at: Option<Instant>,
    /// How many may be given up for being silent now, and when one more was allowed.
    silent_allowed: usize,
    silent_allowed_at: Instant,
    alive_at: Instant,
    /// There was a connection.
    was_up: bool,
    /// When the last scout was sent.
    scouted_at: Instant,
    /// How many connections are worth their handshakes, up to N.
    worth: usize,
    /// When a connection was opened last.
    opened_at: Instant,
    /// What connections have delivered that are gone, in bytes.
    delivered_by_gone: u64,
    padding: Padding,
    crowd: Crowd,
    stats: SetStats,
}

impl Set {
    /// A set that has yet to be opened: the first outputs say so.
    pub fn new(config: SetConfig, seed: u64, now: Instant) -> Self {
        assert!(config.stripe_bytes_min.is_power_of_two(), "a stripe is a power of two");
        assert!(config.stripe_bytes_max.is_power_of_two(), "a stripe is a power of two");
        let connections = config.connections;
        let tuner = Tuner::new(config.active, config.active_max);
        let mut set = Self {
            config,
            jobs: Jobs::default(),
            tuner,
            conns: BTreeMap::new(),
            reserve: VecDeque::new(),
            outputs: VecDeque::new(),
            rng: SmallRng::seed_from_u64(seed),
            next_conn: 0,
            stuck: false,
            failures: 0,
            failed_at: now,
            reopen_at: now,
            tick_at: None,
            condemned_at: None,
            torn_at: None,
            silent_allowed: connections,
            silent_allowed_at: now,
            alive_at: now,
            was_up: false,
            scouted_at: now,
            worth: 1,
            opened_at: now,
            delivered_by_gone: 0,
            padding: Padding::default(),
            crowd: Crowd::new(now),
            stats: SetStats::default(),
        };
        set.wake(now);
        set
    }

    /// Takes an event in.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.note_alive(now);
        match input {
            Input::Begun { job, weight } => {
                self.jobs.begin(job, weight, now);
                self.wake(now);
            }
            Input::Offered(job, items) => {
                self.jobs.offer(job, items);
                self.wake(now);
            }
            Input::Found(job, bytes) => {
                self.jobs.found(job, bytes);
                self.wake(now);
            }
            Input::SourceDone(job) => self.jobs.end_source(job),
            Input::Accepted(job) => {
                self.jobs.accept(job, now);
                self.scout(now);
            }
            Input::Cancelled(job, item) => self.on_cancelled(job, item),
            Input::Ended(job) => self.on_ended(job, now),
            Input::Up(conn) => self.on_up(conn, now),
            Input::Sample(conn, sample) => self.on_sample(conn, sample, now),
            Input::Confirmed(conn, job, stripe) => self.on_confirmed(conn, job, stripe, now),
            Input::Damaged(conn, job, stripe) => self.on_damaged(conn, job, stripe, now),
            Input::Lost(conn) => self.on_lost(conn, now),
        }
        self.reinforce_late(now);
        self.assign(now);
        self.wind_up(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When there was a connection last.
    pub fn alive_at(&self) -> Instant {
        self.alive_at
    }

    /// So much may be sent and not confirmed from now on, over all connections, in bytes. What is more than that
    /// now is not taken back.
    pub fn limit_flying(&mut self, bytes: u64) {
        self.config.flying_bytes_max = bytes.max(self.config.stripe_bytes_max);
    }

    /// How it was set up.
    pub fn config(&self) -> &SetConfig {
        &self.config
    }

    /// M as it is now: how many connections may carry data.
    pub fn active(&self) -> usize {
        self.tuner.active()
    }

    /// What is left of a job, in flight and confirmed; `None` if it is not there.
    pub fn plan(&self, job: JobId) -> Option<&Plan> {
        self.jobs.get(job).map(|job| &job.plan)
    }

    /// What happened so far.
    pub fn stats(&self) -> SetStats {
        self.stats
    }

    /// A connection's role; `None` if it is gone.
    pub fn role(&self, conn: ConnId) -> Option<Role> {
        self.conns.get(&conn).map(Conn::role)
    }

    /// How many connections have `role`.
    pub fn count(&self, role: Role) -> usize {
        self.conns.values().filter(|conn| conn.role() == role).count()
    }

    fn on_up(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        (self.was_up, self.stuck) = (true, false);
        conn.up_at = Some(now);
        self.prime(id, now);
    }

    fn on_sample(&mut self, id: ConnId, sample: Sample, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let padding = sample.padding_bytes.saturating_sub(conn.sample.padding_bytes);
        self.padding.spend(padding, &self.jobs);
        let is_first = conn.sample.rtt.is_zero();
        conn.is_heard |= !is_first && sample.delivered_bytes > conn.sample.delivered_bytes;
        conn.sample = sample;
        conn.meter.on_sample(sample, now);
        match &mut conn.state {
            State::Priming(primer) => {
                let end = primer.on_sample(sample, now);
                self.padding.spend_beside_data(padding, &self.jobs);
                let end = end.or_else(|| self.is_padding_enough().then_some(PrimeEnd::Data));
                if let Some(end) = end {
                    self.end_priming(id, end, now);
                }
            }
            // One in reserve may still carry what it was given before.
            State::Active | State::Reserve => self.judge(id, now),
            State::Opening => {}
        }
    }

    fn on_confirmed(&mut self, by: ConnId, job: JobId, stripe: StripeId, now: Instant) {
        // What is up since before the last failure does not show that a new one would do.
        if self.conns.get(&by).and_then(|conn| conn.up_at).is_some_and(|at| at >= self.failed_at) {
            self.failures = 0;
        }
        for id in self.jobs.confirm(job, stripe).unwrap_or_default() {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.put_down((job, stripe), now);
                conn.used_at = now;
                if id != by {
                    self.outputs.push_back(Output::Abandon { conn: id, job, stripe });
                }
            }
        }
    }

    fn on_damaged(&mut self, id: ConnId, job: JobId, stripe: StripeId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.put_down((job, stripe), now) {
            self.jobs.release((job, stripe), id);
        }
    }

    fn on_cancelled(&mut self, job: JobId, item: ItemId) {
        let Some(plan) = self.jobs.plan_mut(job) else { return };
        for id in plan.cancel(item) {
            let Some((stripe, holders)) = plan.flying(id) else { continue };
            for &holder in holders {
                let Some(conn) = self.conns.get_mut(&holder) else { continue };
                conn.empty((job, id));
                let stripe = stripe.clone();
                self.outputs.push_back(Output::Send { conn: holder, job, stripe, again: true });
            }
        }
    }

    /// A job is over, or called off: nothing of it is kept, sent or waited for.
    fn on_ended(&mut self, id: JobId, now: Instant) {
        let Some(job) = self.jobs.end(id) else { return };
        self.padding.end(&job, &self.jobs);
        self.outputs.retain(|output| output.job() != Some(id));
        for (&conn, carries) in &mut self.conns {
            for stripe in carries.put_down_all(id, now) {
                self.outputs.push_back(Output::Abandon { conn, job: id, stripe });
            }
        }
        if self.jobs.is_empty() {
            self.rest(now);
        }
    }

    /// Nothing is left to carry: all that are up become reserves, as padding is good for nothing now.
    fn rest(&mut self, now: Instant) {
        let priming = self.conns.iter().filter(|(_, conn)| conn.role() == Role::Priming);
        for id in priming.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.end_priming(id, PrimeEnd::Budget, now);
        }
        for id in self.active_ids() {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.state = State::Reserve;
                self.reserve.push_back(id);
            }
        }
    }

    fn on_lost(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.up_at.is_none_or(|at| now - at < SHORT_LIFE) {
            self.failed_at = now;
            self.failures = self.failures.saturating_add(1);
            let factor = 1_u32 << self.failures.min(10);
            let wait = (REOPEN_MIN * factor).min(REOPEN_MAX);
            self.reopen_at = now + wait.mul_f64(self.rng.random_range(0.5..1.0));
        }
        self.condemn(id, Verdict::Lost, now);
    }
}
