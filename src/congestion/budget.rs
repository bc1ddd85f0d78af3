//! How much all connections of a transfer may have in flight together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::config::{Aggressiveness, BudgetConfig, PathMemory};
use super::filter::{MaxFilter, MinFilter};
use super::loss::{self, Baseline, Epoch};
use super::member::{CUT, LIFT, Member, Sent};
use super::rate::Delivery;
use super::round::{RATE_ROUNDS, RTT_FLOOR, RTT_MIN_SPAN, Round};
use super::share;

/// One connection of the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId(u64);

/// What the budget is doing (draft-ietf-ccwg-bbr, 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Doubles every round until the path is full.
    Startup,
    /// Lets the queue drain that start-up has left.
    Drain,
    /// Keeps the path full.
    Cruise,
    /// Asks for more, to see whether the path gives more.
    Up,
    /// Asks for less, so that a queue drains.
    Down,
    /// Asks for much less for a moment, to see the round-trip time without a queue.
    ProbeRtt,
}

/// Rates are measured over this long at least.
const SAMPLE_MIN: Duration = Duration::from_millis(4);
/// The smallest window, in packets.
const WINDOW_PACKETS_MIN: u64 = 4;
/// What they may shrink to where the path holds less than those of all (RFC 9002, 7.2).
const CROWDED_WINDOW_PACKETS_MIN: u64 = 2;
/// Growth of the rate from one round to the next that still counts as growth, and the rounds without
/// it that end the start-up (draft-ietf-ccwg-bbr, 5.3.1.2).
const GROWTH_MIN: f64 = 1.25;
const PLATEAU_ROUNDS: u32 = 3;
/// Gain of the start-up: what it takes to double every round although the measured rate lags behind
/// (draft-ietf-ccwg-bbr, 2.5).
const STARTUP_GAIN: f64 = 2.77;
/// A round trip that is drawn out by more than an eighth of the least, within these bounds, shows a
/// queue (RFC 9406, 4.2).
const QUEUE_MIN: Duration = Duration::from_millis(4);
const QUEUE_MAX: Duration = Duration::from_millis(16);
/// So many acknowledgements in a row, over this share of a round trip, show that the queue is there to stay.
const QUEUED_ACKS_MIN: u32 = 8;
const QUEUED_SHARE: f64 = 0.125;
/// How fast a bound that congestion has left behind is lifted while more is asked for.
const LIFT_UP: f64 = 1.10;
/// Rounds between two attempts to find more.
const CRUISE_ROUNDS: u32 = 6;
const DOWN_ROUNDS: u32 = 2;
/// Growth of the rate that makes an attempt to find more a success.
const PROBE_GROWTH_MIN: f64 = 1.1;
/// For how long the least round-trip time is looked for once it is no longer believed.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Sent packets whose acknowledgement is waited for, at most, in batches.
const STAMPS_MAX: usize = 1 << 15;
/// Acknowledgements alone are no larger than this, in bytes, and do not count.
const ACK_BYTES_MAX: u64 = 128;

/// The budget of one transfer. Tell it of every packet that is sent, acknowledged or lost; it sets the
/// windows that were handed out by [`Budget::join`].
#[derive(Debug)]
pub struct Budget {
    config: BudgetConfig,
    members: BTreeMap<MemberId, Member>,
    next_member: u64,
    delivery: Delivery,
    rate: MaxFilter,
    rtt_min: MinFilter,
    /// The least round-trip time lately: what others' queues add is in it, what ours add is not.
    rtt_lately: MinFilter,
    rtt_min_at: Instant,
    rtt_smoothed: Duration,
    /// The newest round-trip time with when it was measured, and the one that was measured before.
    rtt_latest: (Instant, Duration),
    rtt_before: Duration,
    phase: Phase,
    phase_rounds: u32,
    phase_since: Instant,
    round: Round,
    epoch: Epoch,
    baseline: Baseline,
    /// What was in flight when congestion showed, less the cut.
    bound_bytes: Option<f64>,
    /// The least windows of all were too much for the path.
    is_crowded: bool,
    plateau: Plateau,
    resume: Resume,
    /// Start-up: what was allowed before, and what was acknowledged since.
    startup_bytes: f64,
    /// Start-up: since when all round trips are drawn out, and how many were.
    queued: Option<(Instant, u32)>,
    /// Rounds until more is asked for.
    cruise_rounds: u32,
    /// The rate before more was asked for.
    rate_before_up: f64,
    /// Background: the share of the budget that is left while others fill the queue.
    yielding: f64,
    total_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Plateau {
    rate: f64,
    rounds: u32,
}

/// Where the start from remembered state is (RFC 9959, 3).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resume {
    /// Nothing is remembered, or it has been used.
    Off,
    /// The first round must show that the path is the same.
    Reconnaissance,
    /// So much is allowed at once; the next rounds must show that it arrives.
    Unvalidated { jump_bytes: f64, rounds: u32 },
}

impl Budget {
    /// A budget for connections that have yet to join.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        Self {
            config,
            members: BTreeMap::new(),
            next_member: 0,
            delivery: Delivery::new(now),
            rate: MaxFilter::new(RATE_ROUNDS),
            rtt_min: MinFilter::new(RTT_MIN_SPAN),
            rtt_lately: MinFilter::new(RTT_MIN_SPAN),
            rtt_min_at: now,
            rtt_smoothed: Duration::ZERO,
            rtt_latest: (now, Duration::ZERO),
            rtt_before: Duration::ZERO,
            phase: Phase::Startup,
            phase_rounds: 0,
            phase_since: now,
            round: Round::new(0, now, 0),
            epoch: Epoch::default(),
            baseline: Baseline::default(),
            bound_bytes: None,
            is_crowded: false,
            plateau: Plateau::default(),
            resume: match config.memory {
                Some(_) => Resume::Reconnaissance,
                None => Resume::Off,
            },
            startup_bytes: 0.0,
            queued: None,
            cruise_rounds: 1,
            rate_before_up: 0.0,
            yielding: 1.0,
            total_bytes: 0,
        }
    }

    /// Adds a connection. Its window, in bytes, is kept up to date in the returned cell.
    pub fn join(&mut self, mtu: u16, now: Instant) -> (MemberId, Arc<AtomicU64>) {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let member = Member::new(mtu, now);
        let window = Arc::clone(&member.window);
        self.members.insert(id, member);
        self.share_out();
        (id, window)
    }

    /// Removes a connection; what it had in flight is free for others, and what it has lost is forgotten.
    pub fn leave(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.epoch = self.epoch.without(&member.ledger.now());
        self.share_out();
    }

    /// The largest datagram of a connection has changed, to `mtu` bytes.
    pub fn on_mtu(&mut self, id: MemberId, mtu: u16) {
        if let Some(member) = self.members.get_mut(&id) {
            member.mtu = u64::from(mtu);
            self.share_out();
        }
    }

    /// A connection has sent `bytes`.
    pub fn on_sent(&mut self, id: MemberId, bytes: u64, now: Instant) {
        if bytes <= ACK_BYTES_MAX {
            return;
        }
        let in_flight_bytes = self.in_flight_bytes();
        if in_flight_bytes == 0 {
            self.delivery.restart(now);
        }
        // What leaves room in the budget says what the application has, not what the path can carry.
        let app_limited = in_flight_bytes + bytes < self.usable_bytes() * 7 / 10;
        let all = self.delivery.stamp();
        let Some(member) = self.members.get_mut(&id) else { return };
        let was_idle = member.in_flight_bytes == 0;
        if was_idle {
            member.delivery.restart(now);
            member.app_limited = false;
        }
        member.in_flight_bytes += bytes;
        if member.sent.back().is_none_or(|sent| sent.at < now) && member.sent.len() < STAMPS_MAX {
            let own = member.delivery.stamp();
            member.sent.push_back(Sent { at: now, own, all, app_limited });
        }
        self.round.in_flight_max = self.round.in_flight_max.max(in_flight_bytes + bytes);
        if was_idle {
            self.share_out();
        }
    }

    /// Bytes that a connection sent at `sent` are acknowledged.
    pub fn on_ack(&mut self, id: MemberId, sent: Instant, bytes: u64, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        self.delivery.on_ack(now, sent, bytes);
        if self.phase == Phase::Startup && self.queued.is_none() {
            self.startup_bytes += bytes as f64;
        }
        self.epoch.delivered_bytes += bytes;
        member.delivery.on_ack(now, sent, bytes);
        member.epoch.delivered_bytes += bytes;
        member.ledger.on_ack(bytes);
        member.newest_acked = member.newest_acked.max(Some(sent));
    }

    /// All that one message has acknowledged was told; `in_flight_bytes` and `app_limited` are what the
    /// transport says of the connection now.
    pub fn on_acks_end(
        &mut self,
        id: MemberId,
        in_flight_bytes: u64,
        app_limited: bool,
        now: Instant,
    ) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.in_flight_bytes = in_flight_bytes;
        member.app_limited = app_limited;
        let Some(sent_at) = member.newest_acked.take() else { return };
        let rtt = now.saturating_duration_since(sent_at);
        let older = member.sent.partition_point(|sent| sent.at < sent_at);
        member.sent.drain(..older);
        let sent = member.sent.front().copied().filter(|sent| sent.at == sent_at);

        let least = self.rtt_min.min().unwrap_or(rtt).max(SAMPLE_MIN);
        if let Some(sent) = sent {
            member.on_rtt(rtt, now);
            let own = member.delivery.rate(sent.own, sent_at, least);
            if !app_limited || own > member.rate.max() {
                member.rate.add(member.round.number, own);
            }
            let all = self.delivery.rate(sent.all, sent_at, least);
            if !sent.app_limited || all > self.rate.max() {
                self.rate.add(self.round.number, all);
            }
            self.round.acks += 1;
            self.round.app_limited_acks += u32::from(sent.app_limited);
        }
        if member.round.is_over(sent_at, now) {
            member.end_round(&self.baseline, now);
        }
        self.on_rtt(rtt, now);
        if self.phase == Phase::Startup && self.is_queue_there(rtt, now) {
            self.resume = Resume::Off;
            self.enter(Phase::Drain, now);
        }
        if self.round.is_over(sent_at, now) {
            self.end_round(now);
        }
        self.share_out();
    }

    /// Bytes of a connection are lost. `persistent` says that nothing got through for a long time
    /// (RFC 9002, 7.6); no lost bytes mean that the path marked packets (RFC 9000, 13.4).
    pub fn on_lost(&mut self, id: MemberId, bytes: u64, persistent: bool, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if bytes == 0 {
            self.epoch.marked = true;
            return;
        }
        self.epoch.lost_bytes += bytes;
        member.epoch.lost_bytes += bytes;
        member.ledger.on_lost(bytes);
        member.in_flight_bytes = member.in_flight_bytes.saturating_sub(bytes);
        if persistent {
            member.rate = MaxFilter::new(RATE_ROUNDS);
            member.bound_bytes = None;
            member.round = Round::new(member.round.number + 1, now, member.delivery.bytes());
        }
        self.share_out();
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What all connections together may have in flight, in bytes.
    pub fn budget_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What all connections together have in flight, in bytes.
    pub fn in_flight_bytes(&self) -> u64 {
        self.members.values().map(|member| member.in_flight_bytes).sum()
    }

    /// What the path delivers, in bytes per second.
    pub fn rate(&self) -> f64 {
        self.rate.max()
    }

    /// What is worth remembering of the path; `None` while too little is known.
    pub fn memory(&self) -> Option<PathMemory> {
        let rtt_min = self.rtt_min.min()?;
        let in_flight_bytes = (self.rate.max() * rtt_min.as_secs_f64()) as u64;
        let known = self.phase != Phase::Startup && in_flight_bytes > 0;
        known.then_some(PathMemory { rtt_min, in_flight_bytes })
    }

    fn on_rtt(&mut self, latest: Duration, now: Instant) {
        // A busy host may date an arrival too early: a single short round trip is no evidence.
        if self.rtt_latest.0 != now {
            self.rtt_before = self.rtt_latest.1;
        }
        self.rtt_latest = (now, latest);
        let rtt = latest.max(self.rtt_before);
        // Round trips just above the least are as good as the least.
        let least = self.rtt_min.min();
        if least.is_none_or(|least| rtt <= least + least / 16 + SAMPLE_MIN / 16) {
            self.rtt_min_at = now;
        }
        self.rtt_min.add(now, rtt);
        let smoothed = if self.rtt_smoothed.is_zero() { rtt } else { self.rtt_smoothed };
        self.rtt_smoothed = (smoothed * 15 + rtt) / 16;
        self.rtt_lately.set_span((self.rtt_smoothed * 20).max(Duration::from_millis(500)));
        self.rtt_lately.add(now, rtt);
        self.round.rtt_min = self.round.rtt_min.min(rtt);
    }

    fn end_round(&mut self, now: Instant) {
        let round = self.round;
        self.round = Round::new(round.number + 1, now, self.delivery.bytes());
        self.phase_rounds += 1;
        let app_limited = round.app_limited_acks * 2 > round.acks;
        let congested = self.judge_losses(&round, now);
        tracing::trace!(
            phase = ?self.phase,
            rate = self.rate.max(),
            rtt_min = ?self.rtt_min.min(),
            rtt_round = ?round.rtt_min,
            budget_bytes = self.total_bytes,
            in_flight_max = round.in_flight_max,
            bound_bytes = self.bound_bytes,
            baseline = self.baseline.share(),
            congested,
            app_limited,
            "round"
        );
        self.resume_carefully(&round, congested);
        self.yield_to_others(&round);
        match self.phase {
            Phase::Startup => {
                if self.is_path_full(congested, app_limited) {
                    self.resume = Resume::Off;
                    self.enter(Phase::Drain, now);
                }
            }
            Phase::Drain => {
                let drained = self.in_flight_bytes() as f64 <= self.bdp_bytes();
                if drained || self.phase_rounds >= PLATEAU_ROUNDS {
                    self.enter(Phase::Cruise, now);
                }
            }
            Phase::Cruise if self.phase_rounds >= self.cruise_rounds && !app_limited => {
                self.enter(Phase::Up, now);
            }
            Phase::Up => self.enter(Phase::Down, now),
            Phase::Down if self.rate.max() >= self.rate_before_up * GROWTH_MIN => {
                // The path gives much more than it did.
                self.plateau = Plateau::default();
                self.enter(Phase::Startup, now);
            }
            // What was sent into the drained path must come back before the phase has done its work.
            Phase::Down if self.phase_rounds >= DOWN_ROUNDS => {
                // What has brought more is tried again soon.
                let grew = self.rate.max() >= self.rate_before_up * PROBE_GROWTH_MIN;
                self.cruise_rounds = if grew { 1 } else { CRUISE_ROUNDS };
                self.enter(Phase::Cruise, now);
            }
            Phase::Cruise | Phase::Down => {}
            Phase::ProbeRtt => {
                if now - self.phase_since >= PROBE_RTT_TIME {
                    self.enter(Phase::Cruise, now);
                }
            }
        }
        let stale = now - self.rtt_min_at > RTT_MIN_SPAN / 2;
        if stale && matches!(self.phase, Phase::Cruise) {
            self.rtt_min_at = now;
            self.enter(Phase::ProbeRtt, now);
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        match phase {
            Phase::Startup => self.startup_bytes = self.in_flight_bytes() as f64,
            Phase::Up => self.rate_before_up = self.rate.max(),
            _ => {}
        }
        self.queued = None;
        self.phase = phase;
        self.phase_rounds = 0;
        self.phase_since = now;
    }

    /// Whether the start-up has found what the path gives.
    fn is_path_full(&mut self, congested: bool, app_limited: bool) -> bool {
        let rate = self.rate.max();
        if rate >= self.plateau.rate * GROWTH_MIN {
            self.plateau = Plateau { rate, rounds: 0 };
        } else if !app_limited {
            self.plateau.rounds += 1;
        }
        self.plateau.rounds >= PLATEAU_ROUNDS || congested && self.plateau.rounds > 0
    }

    /// Whether round trips have been drawn out for long enough to say that a queue is there to stay.
    fn is_queue_there(&mut self, rtt: Duration, now: Instant) -> bool {
        let rtt_min = self.rtt_min.min().unwrap_or(rtt);
        if rtt <= rtt_min + (rtt_min / 8).clamp(QUEUE_MIN, QUEUE_MAX) {
            self.queued = None;
            return false;
        }
        let (since, acks) = self.queued.get_or_insert((now, 0));
        *acks += 1;
        *acks >= QUEUED_ACKS_MIN && now - *since >= rtt_min.mul_f64(QUEUED_SHARE)
    }

    /// Bounds the budget after congestion, and lifts the bound while there is none.
    fn judge_losses(&mut self, round: &Round, now: Instant) -> bool {
        let mtu = self.mtu();
        let outliers = loss::outliers(self.members.values().map(|member| member.ledger), mtu);
        let epoch = self.epoch.without(&outliers);
        self.is_crowded |= epoch.is_crowded(mtu);
        let Some(verdict) = epoch.judge(mtu, &self.baseline) else { return false };
        let marked = std::mem::take(&mut self.epoch).marked;
        for member in self.members.values_mut() {
            member.ledger.end_epoch();
        }
        self.baseline.add(verdict.share);
        if !verdict.excess && !marked {
            let lift = if self.phase == Phase::Up { LIFT_UP } else { LIFT };
            self.bound_bytes = self.bound_bytes.map(|bound| bound * lift);
            if self.bound_bytes.is_some_and(|bound| bound > 2.0 * self.bdp_bytes()) {
                self.bound_bytes = None;
            }
            return false;
        }
        let in_flight = (round.in_flight_max as f64).min(self.total_bytes as f64);
        let delivered = (self.delivery.bytes() - round.delivered_before) as f64;
        let time = (now - round.since).as_secs_f64().max(1e-3);
        let rtt = self.rtt_min.min().unwrap_or_default().max(RTT_FLOOR).as_secs_f64();
        self.bound_bytes = Some((in_flight * CUT).max(0.9 * delivered / time * rtt));
        if self.phase == Phase::Up {
            self.enter(Phase::Down, now);
        }
        true
    }

    /// Uses what is remembered of the path, if the path looks the same.
    fn resume_carefully(&mut self, round: &Round, congested: bool) {
        let Some(memory) = self.config.memory else { return };
        match self.resume {
            Resume::Off => {}
            Resume::Reconnaissance => {
                let rtt = round.rtt_min;
                let same = rtt >= memory.rtt_min / 2 && rtt <= memory.rtt_min * 10;
                self.resume = if same && !congested && self.epoch.lost_bytes == 0 {
                    let jump_bytes = memory.in_flight_bytes as f64 / 2.0;
                    Resume::Unvalidated { jump_bytes, rounds: 0 }
                } else {
                    Resume::Off
                };
            }
            Resume::Unvalidated { jump_bytes, rounds } => {
                if congested {
                    // Safe retreat: half of what did arrive (RFC 9959, 3.5).
                    let arrived = self.rate.max() * memory.rtt_min.as_secs_f64();
                    self.bound_bytes = Some(arrived.min(jump_bytes) / 2.0);
                    self.resume = Resume::Off;
                } else if rounds >= 2 {
                    self.resume = Resume::Off;
                } else {
                    self.resume = Resume::Unvalidated { jump_bytes, rounds: rounds + 1 };
                }
            }
        }
    }

    /// In the background, a queue means that somebody else wants the path.
    fn yield_to_others(&mut self, round: &Round) {
        if self.config.aggressiveness != Aggressiveness::Background {
            return;
        }
        let Some(rtt_min) = self.rtt_min.min() else { return };
        let queue = round.rtt_min > rtt_min + rtt_min / 10 + Duration::from_millis(2);
        self.yielding = if queue { self.yielding * 0.7 } else { self.yielding * 1.1 + 0.01 };
        self.yielding = self.yielding.clamp(0.02, 1.0);
    }

    /// What the path holds without a queue, in bytes.
    fn bdp_bytes(&self) -> f64 {
        let rtt = self.rtt_min.min().unwrap_or_default().max(RTT_FLOOR);
        self.rate.max() * rtt.as_secs_f64()
    }

    /// What the budget should be, in bytes.
    fn target_bytes(&self) -> u64 {
        let initial = self.members.values().map(Member::initial_bytes).sum::<u64>() as f64;
        let rtt_min = self.rtt_min.min().unwrap_or_default();
        let gains = self.config.aggressiveness.gains();
        // A queue that stays when ours has drained belongs to others: to keep a share of the path
        // next to them takes a share of the queue.
        let lately = self.rtt_lately.min().unwrap_or(rtt_min);
        let rtt = lately.clamp(rtt_min, rtt_min.mul_f64(gains.queue_max)).max(RTT_FLOOR);
        let bdp = self.rate.max() * rtt.as_secs_f64();
        let mut bytes = match self.phase {
            // Doubling is by what was acknowledged; the measured rate bounds it.
            Phase::Startup => {
                (initial + self.startup_bytes).min(STARTUP_GAIN * self.bdp_bytes()).max(initial)
            }
            Phase::Drain => self.bdp_bytes(),
            Phase::Cruise => gains.cruise * bdp,
            Phase::Up => gains.up * bdp,
            Phase::Down => gains.down * bdp,
            Phase::ProbeRtt => 0.5 * self.bdp_bytes(),
        };
        if let Resume::Unvalidated { jump_bytes, .. } = self.resume {
            bytes = bytes.max(jump_bytes);
        }
        if let Some(bound) = self.bound_bytes {
            bytes = bytes.min(bound);
        }
        bytes *= self.yielding;
        bytes as u64
    }

    /// What the connections could have in flight if they had enough to send, in bytes.
    fn usable_bytes(&self) -> u64 {
        let windows = self.members.values().map(|member| member.window.load(Relaxed)).sum();
        self.total_bytes.min(windows)
    }

    /// Gives every connection its part of the budget.
    fn share_out(&mut self) {
        self.total_bytes = self.target_bytes();
        let jump = match self.resume {
            Resume::Unvalidated { jump_bytes, .. } => {
                jump_bytes as u64 / self.members.len().max(1) as u64
            }
            _ => 0,
        };
        let mut demands: Vec<u64> =
            self.members.values().map(|member| member.demand_bytes(jump)).collect();
        let level = share::level(self.total_bytes, &mut demands);
        let packets_min =
            if self.is_crowded { CROWDED_WINDOW_PACKETS_MIN } else { WINDOW_PACKETS_MIN };
        for member in self.members.values() {
            let least = level.clamp(packets_min * member.mtu, WINDOW_PACKETS_MIN * member.mtu);
            let window = level.min(member.ceiling_bytes(jump)).max(least);
            // quinn sends only while what is in flight stays below the window.
            member.window.store(window + member.mtu, Relaxed);
        }
    }

    fn mtu(&self) -> u64 {
        self.members.values().map(|member| member.mtu).max().unwrap_or(1_200)
    }
}
