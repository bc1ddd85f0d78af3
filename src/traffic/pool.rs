//! The pool: who is active, who is in reserve, who carries what, and who is given up.

mod hedge;
mod members;
mod verdicts;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{
    ConnId, HealthConfig, Input, ItemId, Meter, Output, Plan, PrimeConfig, PrimeEnd, Primer,
    Sample, StripeId, Tuner, Verdict,
};

/// Sizes and limits of a connection set.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// N, the connections of the set.
    pub connections: usize,
    /// M, how many of them carry data at a time.
    pub active: usize,
    /// M may grow up to this, and N with it, where that brings more; as much as `active` keeps it fixed.
    pub active_max: usize,
    /// The smallest stripe, in bytes; a power of two.
    pub stripe_bytes_min: u64,
    /// The largest stripe, in bytes; a power of two.
    pub stripe_bytes_max: u64,
    /// Bytes that may be sent and not confirmed, over all connections.
    pub flying_bytes_max: u64,
    /// Stripes that a connection carries before a reserve takes its turn.
    pub turn_stripes: u64,
    /// A reserve that was idle for longer is primed again.
    pub reprime_after: Duration,
    /// With no connection for this long once there was one, the transfer is stuck.
    pub stuck_after: Duration,
    /// With no first connection for this long, it is stuck as well.
    pub up_within: Duration,
    /// How connections are primed.
    pub prime: PrimeConfig,
    /// When connections are unsatisfactory.
    pub health: HealthConfig,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connections: 10,
            active: 8,
            active_max: 32,
            stripe_bytes_min: 64 << 10,
            stripe_bytes_max: 1 << 20,
            flying_bytes_max: 96 << 20,
            turn_stripes: 8,
            reprime_after: Duration::from_secs(10),
            stuck_after: Duration::from_secs(30),
            up_within: Duration::from_secs(30),
            prime: PrimeConfig::default(),
            health: HealthConfig::default(),
        }
    }
}

/// What a connection is for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its handshake is under way.
    Opening,
    /// It carries padding.
    Priming,
    /// It is ready and waits for its turn.
    Reserve,
    /// It is given stripes.
    Active,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections opened.
    pub opened: u64,
    /// Connections given up.
    pub condemned: u64,
    /// Connections given up while they carried stripes, which others took over.
    pub takeovers: u64,
    /// Stripes sent again.
    pub stripes_again: u64,
    /// Turns taken by connections; M of them are a sub-transfer.
    pub turns: u64,
}

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(20);
/// Nobody is condemned for being slow twice within this time: the set must settle first.
const CONDEMN_INTERVAL: Duration = Duration::from_millis(500);
/// The first wait before a lost connection is opened again; it doubles up to `REOPEN_MAX`.
const REOPEN_MIN: Duration = Duration::from_millis(50);
const REOPEN_MAX: Duration = Duration::from_secs(5);
/// A connection that is lost so soon after it was up may not have been wanted.
const SHORT_LIFE: Duration = Duration::from_secs(1);
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
/// A stripe should keep a connection busy for about this long, or a round trip.
const STRIPE_TIME: Duration = Duration::from_millis(20);

/// The connection set of one transfer, and its plan.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    plan: Plan,
    tuner: Tuner,
    conns: BTreeMap<ConnId, Conn>,
    /// Reserves, the one that has waited longest first.
    reserve: VecDeque<ConnId>,
    outputs: VecDeque<Output>,
    rng: SmallRng,
    next_conn: u32,
    /// When the receiver has accepted the transfer.
    accepted_at: Option<Instant>,
    source_done: bool,
    drained: bool,
    stuck: bool,
    failures: u32,
    failed_at: Instant,
    reopen_at: Instant,
    tick_at: Instant,
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
    /// What connections have delivered that are gone, in bytes.
    delivered_by_gone: u64,
    /// Padding that was sent while data waited, in bytes.
    padding_beside_data: u64,
    /// Padding that was sent on connections that are gone, in bytes.
    padding_by_gone: u64,
    /// What the source was found to hold, in bytes.
    found_bytes: u64,
    stats: PoolStats,
}

#[derive(Debug)]
struct Conn {
    state: State,
    sample: Sample,
    meter: Meter,
    stripes: BTreeMap<StripeId, Carried>,
    flying_bytes: u64,
    turn_bytes: u64,
    used_at: Instant,
    up_at: Option<Instant>,
    /// What it delivered in its best round trip of priming; 0 before it was fully primed.
    primed_bytes: u64,
}

/// A stripe that a connection has been given.
#[derive(Clone, Copy, Debug)]
struct Carried {
    bytes: u64,
    /// By its own prediction it is confirmed by then.
    due_at: Instant,
}

#[derive(Debug)]
enum State {
    Opening,
    Priming(Box<Primer>),
    Reserve,
    Active,
}

impl Pool {
    /// A set that has yet to be opened: the first outputs say so.
    pub fn new(config: PoolConfig, seed: u64, now: Instant) -> Self {
        assert!(config.stripe_bytes_min.is_power_of_two(), "a stripe is a power of two");
        assert!(config.stripe_bytes_max.is_power_of_two(), "a stripe is a power of two");
        let connections = config.connections;
        let tuner = Tuner::new(config.active, config.active_max);
        let mut pool = Self {
            config,
            plan: Plan::default(),
            tuner,
            conns: BTreeMap::new(),
            reserve: VecDeque::new(),
            outputs: VecDeque::new(),
            rng: SmallRng::seed_from_u64(seed),
            next_conn: 0,
            accepted_at: None,
            source_done: false,
            drained: false,
            stuck: false,
            failures: 0,
            failed_at: now,
            reopen_at: now,
            tick_at: now + TICK,
            condemned_at: None,
            torn_at: None,
            silent_allowed: connections,
            silent_allowed_at: now,
            alive_at: now,
            was_up: false,
            scouted_at: now,
            delivered_by_gone: 0,
            padding_beside_data: 0,
            padding_by_gone: 0,
            found_bytes: 0,
            stats: PoolStats::default(),
        };
        pool.open_missing(now);
        pool
    }

    /// Takes an event in.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Offered(items) => {
                for item in items {
                    self.plan.offer(item);
                }
                self.drained = false;
            }
            Input::Found(bytes) => self.found_bytes = self.found_bytes.max(bytes),
            Input::SourceDone => self.source_done = true,
            Input::Accepted => {
                self.accepted_at.get_or_insert(now);
            }
            Input::Up(conn) => self.on_up(conn, now),
            Input::Sample(conn, sample) => self.on_sample(conn, sample, now),
            Input::Confirmed(conn, stripe) => self.on_confirmed(conn, stripe, now),
            Input::Damaged(conn, stripe) => self.on_damaged(conn, stripe),
            Input::Lost(conn) => self.on_lost(conn, now),
            Input::Cancelled(item) => self.on_cancelled(item),
        }
        self.assign(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When there was a connection last.
    pub fn alive_at(&self) -> Instant {
        self.alive_at
    }

    /// When [`Pool::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Instant {
        self.tick_at
    }

    /// Looks for what time alone brings: silence, idle reserves, connections to open again.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + TICK;
        self.tune(now);
        self.judge_silence(now);
        self.hedge(now);
        self.reprime_idle(now);
        self.open_missing(now);
        self.scout(now);
        let alive = self.conns.values().any(|conn| !matches!(conn.state, State::Opening));
        if alive {
            self.alive_at = now;
        } else if now - self.alive_at >= self.patience() && !self.stuck {
            self.stuck = true;
            self.outputs.push_back(Output::Stuck);
        }
        self.assign(now);
    }

    /// How it was set up.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// M as it is now: how many connections may carry data.
    pub fn active(&self) -> usize {
        self.tuner.active()
    }

    /// What is left, in flight and confirmed.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What happened so far.
    pub fn stats(&self) -> PoolStats {
        self.stats
    }

    /// A connection's role; `None` if it is gone.
    pub fn role(&self, conn: ConnId) -> Option<Role> {
        self.conns.get(&conn).map(|conn| match conn.state {
            State::Opening => Role::Opening,
            State::Priming(_) => Role::Priming,
            State::Reserve => Role::Reserve,
            State::Active => Role::Active,
        })
    }

    /// How many connections have `role`.
    pub fn count(&self, role: Role) -> usize {
        self.conns.keys().filter(|&&conn| self.role(conn) == Some(role)).count()
    }

    /// How long there may be no connection.
    fn patience(&self) -> Duration {
        if self.was_up { self.config.stuck_after } else { self.config.up_within }
    }

    fn on_up(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        self.was_up = true;
        conn.up_at = Some(now);
        self.prime(id, now);
    }

    fn prime(&mut self, id: ConnId, now: Instant) {
        let budget_bytes = self.padding_budget();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let config = PrimeConfig { budget_bytes, ..self.config.prime };
        conn.used_at = now;
        conn.state = State::Priming(Box::new(Primer::new(config, conn.sample, now)));
        self.outputs.push_back(Output::Prime { conn: id, budget_bytes });
    }

    fn on_sample(&mut self, id: ConnId, sample: Sample, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let padding = sample.padding_bytes.saturating_sub(conn.sample.padding_bytes);
        conn.sample = sample;
        conn.meter.on_sample(sample, now);
        match &mut conn.state {
            State::Priming(primer) => {
                let end = primer.on_sample(sample, now);
                if self.is_data_under_way() {
                    self.padding_beside_data += padding;
                }
                let end = end.or_else(|| self.is_padding_enough().then_some(PrimeEnd::Data));
                if let Some(end) = end {
                    self.end_priming(id, end, now);
                }
            }
            State::Active => self.judge(id, now),
            State::Opening | State::Reserve => {}
        }
    }

    fn on_confirmed(&mut self, by: ConnId, stripe: StripeId, now: Instant) {
        // What is up since before the last failure does not show that a new one would do.
        if self.conns.get(&by).and_then(|conn| conn.up_at).is_some_and(|at| at >= self.failed_at) {
            self.failures = 0;
        }
        let Some((holders, bytes)) = self.plan.confirm(stripe) else { return };
        for id in holders {
            if let Some(conn) = self.conns.get_mut(&id) {
                if conn.stripes.remove(&stripe).is_some() {
                    conn.flying_bytes -= bytes;
                }
                conn.used_at = now;
                if id != by {
                    self.outputs.push_back(Output::Abandon { conn: id, stripe });
                }
            }
        }
    }

    fn on_cancelled(&mut self, item: ItemId) {
        for id in self.plan.cancel(item) {
            let Some((stripe, holders)) = self.plan.flying(id) else { continue };
            for &holder in holders {
                let Some(conn) = self.conns.get_mut(&holder) else { continue };
                if let Some(carried) = conn.stripes.get_mut(&id) {
                    conn.flying_bytes -= std::mem::take(&mut carried.bytes);
                }
                let stripe = stripe.clone();
                self.outputs.push_back(Output::Send { conn: holder, stripe, again: true });
            }
        }
    }

    fn on_damaged(&mut self, id: ConnId, stripe: StripeId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Some(carried) = conn.stripes.remove(&stripe) {
            conn.flying_bytes -= carried.bytes;
            self.plan.release(stripe, id);
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

    fn end_priming(&mut self, id: ConnId, end: PrimeEnd, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let State::Priming(primer) = &conn.state else { return };
        // Only a priming that ran its course says something about the path.
        if end != PrimeEnd::Data && primer.rounds() >= PRIMING_ROUNDS_TOLD {
            conn.primed_bytes = primer.best_bytes().max(1);
        }
        conn.state = State::Reserve;
        conn.used_at = now;
        self.outputs.push_back(Output::StopPrime { conn: id, end });
        if self.is_primed_badly(id) {
            self.reopen_at = now + CONDEMN_INTERVAL;
            self.condemn(id, Verdict::PrimedBadly, now);
        } else {
            self.reserve.push_back(id);
        }
    }

    /// Data waits, and padding has taken its share of the path.
    fn is_padding_enough(&self) -> bool {
        let share = self.plan.confirmed_bytes() / PADDING_SHARE;
        self.is_data_under_way() && self.padding_beside_data > PADDING_BYTES_MIN + share
    }

    /// What one priming may cost: its share of what is left to all, in bytes.
    fn padding_budget(&self) -> u64 {
        let most = match self.found_bytes.max(self.plan.offered_bytes()) {
            0..PADDED_JOB_BYTES_MIN => 0,
            PADDED_JOB_BYTES_MIN..SMALL_JOB_BYTES => SMALL_JOB_PADDING_BYTES,
            bytes => bytes / PADDING_PART,
        };
        let sent: u64 = self.conns.values().map(|conn| conn.sample.padding_bytes).sum();
        let left = most.saturating_sub(self.padding_by_gone + sent);
        self.config.prime.budget_bytes.min(left / self.conns.len().max(1) as u64)
    }

    /// Data waits, or the last of it is being sent.
    fn is_data_under_way(&self) -> bool {
        self.accepted_at.is_some() && (self.plan.has_waiting() || self.source_done)
    }

    /// Fills the active subset and gives out stripes.
    fn assign(&mut self, now: Instant) {
        if self.source_done && self.plan.is_drained() && !self.drained {
            self.drained = true;
            self.outputs.push_back(Output::Drained);
        }
        if self.accepted_at.is_none() {
            return;
        }
        while self.plan.has_waiting() && self.count(Role::Active) < self.tuner.active() {
            if !self.activate_next(now) {
                break;
            }
        }
        if !self.plan.has_waiting() {
            return;
        }
        let mut ids = self.active_ids();
        // The emptiest goes first, so that what is left spreads evenly.
        ids.sort_by_key(|id| self.conns[id].flying_bytes);
        for id in ids {
            self.feed(id, now);
        }
    }

    fn active_ids(&self) -> Vec<ConnId> {
        let active = self.conns.iter().filter(|(_, conn)| matches!(conn.state, State::Active));
        active.map(|(&id, _)| id).collect()
    }

    /// Makes the reserve that has waited longest active; without one, a connection that is still being
    /// primed: data has the right of way. False if there is neither.
    fn activate_next(&mut self, now: Instant) -> bool {
        if self.reserve.is_empty() {
            let priming =
                self.conns.iter().find(|(_, conn)| matches!(conn.state, State::Priming(_)));
            let Some((&id, _)) = priming else { return false };
            self.end_priming(id, PrimeEnd::Data, now);
        }
        let Some(id) = self.reserve.pop_front() else { return false };
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.state = State::Active;
        conn.turn_bytes = 0;
        conn.used_at = now;
        self.stats.turns += 1;
        true
    }

    fn feed(&mut self, id: ConnId, now: Instant) {
        loop {
            let Some(conn) = self.conns.get(&id) else { return };
            // Feeding another one may have ended its turn.
            if !matches!(conn.state, State::Active) {
                return;
            }
            let stripe_len = stripe_len(&self.config, conn);
            let share = self.config.flying_bytes_max / self.tuner.active().max(1) as u64;
            if conn.flying_bytes >= flying_target(conn, stripe_len, share) {
                return;
            }
            let flying_total: u64 = self.conns.values().map(|conn| conn.flying_bytes).sum();
            if flying_total + stripe_len > self.config.flying_bytes_max {
                return;
            }
            let Some((stripe, again)) = self.plan.next(id, stripe_len) else { return };
            let Some(conn) = self.conns.get_mut(&id) else { return };
            conn.carry(&stripe, now);
            conn.turn_bytes += stripe.bytes;
            self.stats.stripes_again += u64::from(again);
            let turn_over = conn.turn_bytes >= self.config.turn_stripes * stripe_len;
            self.outputs.push_back(Output::Send { conn: id, stripe, again });
            if turn_over && self.plan.has_waiting() {
                self.rotate(id, now);
                return;
            }
        }
    }

    /// `id` has had its turn: the next reserve becomes active in its place.
    fn rotate(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.turn_bytes = 0;
        if self.reserve.is_empty() {
            self.stats.turns += 1;
            return;
        }
        conn.state = State::Reserve;
        self.reserve.push_back(id);
        if self.activate_next(now) {
            let newest = self.active_ids().into_iter().find(|id| self.conns[id].turn_bytes == 0);
            if let Some(newest) = newest {
                self.feed(newest, now);
            }
        }
    }

    fn reprime_idle(&mut self, now: Instant) {
        // While nothing moves, nobody knows when a window will be needed.
        if self.drained || self.plan.flying_stripes() == 0 || self.is_padding_enough() {
            return;
        }
        let after = self.config.reprime_after;
        for _ in 0..self.reserve.len() {
            let Some(id) = self.reserve.pop_front() else { return };
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.stripes.is_empty() && now - conn.used_at >= after {
                self.prime(id, now);
            } else {
                self.reserve.push_back(id);
            }
        }
    }
}

/// A predetermined amount that fits the connection's window: what it delivers in a round trip, or in
/// `STRIPE_TIME` where the round trip is shorter.
fn stripe_len(config: &PoolConfig, conn: &Conn) -> u64 {
    let goodput = conn.meter.goodput();
    if goodput == 0.0 {
        return (256 << 10_u64).clamp(config.stripe_bytes_min, config.stripe_bytes_max);
    }
    let bytes = goodput * conn.sample.rtt.max(STRIPE_TIME).as_secs_f64();
    let power = (bytes as u64).max(1).next_power_of_two();
    power.clamp(config.stripe_bytes_min, config.stripe_bytes_max)
}

/// How much a connection may have unconfirmed, so that it neither runs dry nor hoards: two windows, but
/// never on the word of a window alone that was not used, and no more than its share.
fn flying_target(conn: &Conn, stripe_len: u64, share: u64) -> u64 {
    let per_round = conn.meter.goodput() * conn.sample.rtt.as_secs_f64();
    let window = (conn.sample.window_bytes as f64).min(per_round * 3.0).max(per_round);
    (2 * stripe_len + 2 * window as u64).min(share.max(stripe_len))
}
