//! Runs a set over a network in virtual time, and looks at every step whether it does what it must.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use qbulk::traffic::{
    ConnId, Input, ItemId, JobId, Output, Plan, Role, Sample, Set, Stripe, StripeId, Verdict,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::link::{Fault, Link, WINDOW_BYTES_MIN};
use crate::network::{Network, SLOW};
use crate::outcome::Outcome;

const STEP: Duration = Duration::from_millis(5);
/// The transport gives a connection up that hears nothing for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the set lets padding take beside data in any case, in bytes.
const PADDING_BYTES_MIN: u64 = 128 << 10;
const PADDING_SHARE: u64 = 128;
/// New connections that may be tried at a time, beside the set, while the network is gone.
const SCOUTS_MAX: usize = 16;
/// The one job of a run.
const JOB: JobId = JobId(0);
/// For how long the set must keep quiet once it is done.
const AFTERWARDS: Duration = Duration::from_millis(200);

pub(crate) struct Sim<'a> {
    network: &'a Network,
    rng: SmallRng,
    start: Instant,
    at: Duration,
    set: Set,
    links: BTreeMap<ConnId, Link>,
    /// When connections that are being opened come up, or fail.
    opening: BinaryHeap<Reverse<(Duration, ConnId, bool)>>,
    gone: BTreeSet<ConnId>,
    offered: usize,
    source_done: bool,
    accepts_at: Option<Duration>,
    accepted: bool,
    stripes: HashMap<StripeId, Stripe>,
    /// Sent and not confirmed, as the set has been told.
    flying: HashMap<StripeId, u64>,
    flying_bytes: u64,
    written: BTreeSet<StripeId>,
    answers: BinaryHeap<Reverse<(Duration, ConnId, StripeId, bool)>>,
    /// What padding may have gone beyond its share because it is stopped by a sample, in bytes.
    padding_slack: f64,
    done_at: Option<Duration>,
    outcome: Outcome,
}

impl<'a> Sim<'a> {
    pub(crate) fn new(network: &'a Network, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            network,
            rng: SmallRng::seed_from_u64(!seed),
            start,
            at: Duration::ZERO,
            set: Set::new(network.config.clone(), seed, start),
            links: BTreeMap::new(),
            opening: BinaryHeap::new(),
            gone: BTreeSet::new(),
            offered: 0,
            source_done: false,
            accepts_at: None,
            accepted: false,
            stripes: HashMap::new(),
            flying: HashMap::new(),
            flying_bytes: 0,
            written: BTreeSet::new(),
            answers: BinaryHeap::new(),
            padding_slack: 0.0,
            done_at: None,
            outcome: Outcome::default(),
        }
    }

    /// Runs to the end, which must come.
    pub(crate) fn run(mut self) -> Outcome {
        let time_max = self.network.time_max();
        self.tell(Input::Begun { job: JOB, weight: NonZeroU32::MIN });
        while self.done_at.is_none_or(|at| self.at < at + AFTERWARDS) && !self.outcome.is_stuck {
            assert!(self.at < time_max, "not done within {time_max:?}");
            self.offer();
            self.act();
            self.check_roles();
            self.at += STEP;
            self.open();
            self.send();
            self.end_connections();
            self.answer();
            self.sample();
            if self.set.poll_timeout().is_some_and(|at| self.now() >= at) {
                self.set.handle_timeout(self.now());
            }
        }
        self.outcome.time = self.done_at.unwrap_or(self.at);
        self.outcome.stats = self.set.stats();
        self.check_end();
        self.outcome
    }

    fn plan(&self) -> &Plan {
        self.set.plan(JOB).expect("it has not ended")
    }

    fn now(&self) -> Instant {
        self.start + self.at
    }

    fn tell(&mut self, input: Input) {
        self.set.handle(input, self.now());
    }

    fn offer(&mut self) {
        let rest = &self.network.items[self.offered..];
        let due: Vec<_> =
            rest.iter().take_while(|(at, _)| *at <= self.at).map(|&(_, item)| item).collect();
        if !due.is_empty() {
            self.offered += due.len();
            self.tell(Input::Offered(JOB, due));
        }
        if self.offered == self.network.items.len()
            && self.at >= self.network.source_done
            && !self.source_done
        {
            self.source_done = true;
            self.tell(Input::SourceDone(JOB));
        }
        if self.accepts_at.is_some_and(|at| at <= self.at) && !self.accepted {
            self.accepted = true;
            self.tell(Input::Accepted(JOB));
        }
    }

    /// Does what the set says.
    fn act(&mut self) {
        while let Some(output) = self.set.poll() {
            match output {
                Output::Open { conn } => self.on_open(conn),
                Output::Prime { conn, .. } => {
                    let link = self.links.get_mut(&conn).expect("open");
                    assert!(!link.priming && link.queue.is_empty(), "padding beside a stripe");
                    link.priming = true;
                    self.outcome.reprimed += u64::from(link.primed);
                    link.primed = true;
                    // One sample may pass before it is stopped.
                    self.padding_slack += link.rate * STEP.as_secs_f64();
                }
                Output::StopPrime { conn, end } => {
                    let link = self.links.get_mut(&conn).expect("open");
                    assert!(link.priming, "no padding to be stopped");
                    link.priming = false;
                    self.outcome.prime_ends.push(end);
                }
                Output::Send { conn, stripe, again, .. } => self.on_send(conn, stripe, again),
                Output::Abandon { conn, stripe, .. } => {
                    self.outcome.abandoned += 1;
                    let link = self.links.get_mut(&conn).expect("open");
                    link.queue.retain(|&(id, _)| id != stripe);
                }
                Output::Close { conn, verdict, .. } => self.on_close(conn, verdict),
                Output::Drained(_) => {
                    assert!(self.done_at.is_none(), "drained twice");
                    self.done_at = Some(self.at);
                }
                Output::Stuck => self.outcome.is_stuck = true,
            }
        }
    }

    fn on_open(&mut self, conn: ConnId) {
        let opening = &self.network.opening;
        let fails = self.at < opening.until && self.rng.random_bool(opening.fails);
        let at = if fails { self.at + opening.fails_after } else { self.at + self.network.rtt };
        // What is sent during an outage is sent again after it.
        let outage = &self.network.outage;
        let at = if outage.contains(&at) || outage.contains(&self.at) {
            at.max(outage.end + self.network.rtt)
        } else {
            at
        };
        self.opening.push(Reverse((at, conn, !fails)));
    }

    fn on_send(&mut self, conn: ConnId, stripe: Stripe, again: bool) {
        assert!(self.done_at.is_none(), "sent after all was confirmed");
        assert!(self.accepted, "sent before the server has accepted");
        let link = self.links.get_mut(&conn).expect("only open connections send");
        assert!(!link.priming, "data beside padding");
        assert!(link.queue.iter().all(|&(id, _)| id != stripe.id), "one connection has it twice");
        link.queue.push_back((stripe.id, stripe.bytes as f64));
        let is_held = self.links.iter().any(|(&other, link)| {
            other != conn && link.queue.iter().any(|&(id, _)| id == stripe.id)
        });
        self.outcome.hedged += u64::from(again && is_held);
        let is_new = !self.stripes.contains_key(&stripe.id);
        assert!(is_new != again, "the set knows what was sent before");
        // One that is sent again may have been confirmed since the set said so.
        if is_new {
            self.flying.insert(stripe.id, stripe.bytes);
            self.flying_bytes += stripe.bytes;
        }
        let config = &self.network.config;
        assert!(
            self.flying_bytes <= config.flying_bytes_max + config.stripe_bytes_max,
            "{} bytes in flight",
            self.flying_bytes
        );
        self.stripes.insert(stripe.id, stripe);
    }

    fn on_close(&mut self, conn: ConnId, verdict: Verdict) {
        self.links.remove(&conn);
        self.gone.insert(conn);
        if verdict == Verdict::Surplus {
            self.outcome.surplus += 1;
        } else {
            self.outcome.verdicts.push(verdict);
        }
    }

    fn check_roles(&self) {
        let (set, config) = (&self.set, &self.network.config);
        let mut priming = 0;
        for (&conn, link) in &self.links {
            let role = set.role(conn).expect("an open connection has a role");
            assert_ne!(role, Role::Opening);
            assert_eq!(role == Role::Priming, link.priming);
            priming += usize::from(link.priming);
        }
        let opening = self.opening.iter().filter(|Reverse((_, conn, _))| !self.gone.contains(conn));
        let opening = opening.inspect(|Reverse((_, conn, _))| {
            assert_eq!(set.role(*conn), Some(Role::Opening));
        });
        let opening = opening.count();
        let active = set.count(Role::Active);
        assert_eq!(set.count(Role::Opening), opening);
        assert_eq!(active + set.count(Role::Reserve) + priming, self.links.len());
        assert!(active <= set.active(), "more than M are active");
        assert!((config.active..=config.active_max).contains(&set.active()), "M has its bounds");
        let most = config.connections + config.active_max - config.active;
        // Beside the set, only scouts of a network that is gone.
        assert!(self.links.len() + opening <= most + SCOUTS_MAX, "more than N connections");
        let is_ahead = set.poll_timeout().is_none_or(|at| at > self.now());
        assert!(is_ahead, "time that has passed is not waited for");
    }

    /// Connections come up, or fail.
    fn open(&mut self) {
        while self.opening.peek().is_some_and(|Reverse((at, ..))| *at <= self.at) {
            let Reverse((_, conn, is_up)) = self.opening.pop().expect("peeked");
            if self.gone.contains(&conn) {
                continue;
            }
            if !is_up {
                self.tell(Input::Lost(conn));
                continue;
            }
            let link = self.link();
            self.links.insert(conn, link);
            self.tell(Input::Up(conn));
            self.accepts_at.get_or_insert(self.at + self.network.server.accepts_after);
        }
    }

    fn link(&mut self) -> Link {
        let rtt = self.network.rtt;
        // A transfer ends while one connection is well.
        let another_is_well =
            self.links.values().any(|link| link.bad.is_none() && link.ends_at.is_none());
        let bad = another_is_well && self.rng.random_bool(self.network.bad);
        let ends = another_is_well && self.rng.random_bool(self.network.ends);
        let later = self.at + Duration::from_millis(self.rng.random_range(0..3_000));
        let fault = match self.rng.random_range(0..4) {
            0 | 1 => Fault::Silent,
            2 => Fault::Slow,
            _ => Fault::Lossy,
        };
        Link {
            rate: self.network.rate * self.rng.random_range(0.7..1.0),
            bad: bad.then_some((later, fault)),
            ends_at: ends.then_some(later),
            mute_until: self.network.outage.end
                + self.network.recovery.mul_f64(self.rng.random_range(0.0..1.0)),
            heard_at: self.at,
            sample: Sample {
                window_bytes: WINDOW_BYTES_MIN as u64,
                rtt,
                rtt_min: rtt,
                pto: rtt + Duration::from_millis(25),
                ..Sample::default()
            },
            priming: false,
            primed: false,
            padded: 0,
            queue: VecDeque::new(),
        }
    }

    fn is_mute(&self, link: &Link) -> bool {
        self.at >= self.network.outage.start && self.at < link.mute_until
    }

    /// Moves a step's worth of bytes.
    fn send(&mut self) {
        let busy =
            self.links.values().filter(|link| link.priming || !link.queue.is_empty()).count();
        let share = self.network.shared_rate * STEP.as_secs_f64() / busy.max(1) as f64;
        let mut links = std::mem::take(&mut self.links);
        for (&conn, link) in &mut links {
            if !self.is_mute(link) {
                self.send_on(conn, link, share);
                // The transport keeps a connection alive that has nothing to send.
                if link.fault(self.at) != Some(Fault::Silent) {
                    link.heard_at = self.at;
                }
            }
        }
        self.links = links;
    }

    fn send_on(&mut self, conn: ConnId, link: &mut Link, share: f64) {
        let fault = link.fault(self.at);
        let rate = link.rate
            * match fault {
                None => 1.0,
                Some(Fault::Silent) => 0.0,
                Some(Fault::Slow) => SLOW,
                Some(Fault::Lossy) => 0.1,
            };
        let rtt = self.network.rtt;
        let per_step = link.window() * (STEP.as_secs_f64() / rtt.as_secs_f64()).min(1.0);
        let may_send = (rate * STEP.as_secs_f64()).min(share).min(per_step);
        let mut left = may_send;
        while left > 0.0
            && let Some((id, bytes)) = link.queue.front_mut()
        {
            let took = left.min(*bytes);
            *bytes -= took;
            left -= took;
            if *bytes <= 0.0 {
                let id = *id;
                link.queue.pop_front();
                self.arrive(conn, id);
            }
        }
        if link.priming {
            link.sample.padding_bytes += left as u64;
            self.outcome.padding_bytes += left as u64;
            link.padded += left as u64;
            left = 0.0;
        }
        let sent = may_send - left;
        link.sample.delivered_bytes += sent as u64;
        if fault == Some(Fault::Lossy) {
            link.sample.lost_bytes += (sent * 0.1) as u64;
        }
        // The window opens while it is what limits, up to two of what the path holds.
        let holds =
            (rate.min(self.network.shared_rate) * rtt.as_secs_f64() * 2.0).max(WINDOW_BYTES_MIN);
        let window = link.window();
        link.sample.window_bytes = if fault == Some(Fault::Silent) {
            window as u64
        } else {
            (window + sent).min(holds) as u64
        };
    }

    fn arrive(&mut self, conn: ConnId, id: StripeId) {
        let server = &self.network.server;
        let is_damaged = self.rng.random_bool(server.damage);
        let jitter = server.jitter.mul_f64(self.rng.random_range(0.0..1.0));
        let at = self.at + self.network.rtt + server.confirms_after + jitter;
        if is_damaged {
            self.outcome.damaged += 1;
        } else {
            self.written.insert(id);
        }
        self.answers.push(Reverse((at, conn, id, is_damaged)));
    }

    /// Connections end by themselves, and those that hear nothing are given up by the transport.
    fn end_connections(&mut self) {
        let ended: Vec<ConnId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                let timed_out = self.at.saturating_sub(link.heard_at) >= IDLE_TIMEOUT;
                timed_out || link.ends_at.is_some_and(|at| at <= self.at)
            })
            .map(|(&conn, _)| conn)
            .collect();
        for conn in ended {
            self.tell(Input::Lost(conn));
        }
    }

    fn sample(&mut self) {
        let ids: Vec<ConnId> = self.links.keys().copied().collect();
        for conn in ids {
            let link = self.links.get_mut(&conn).expect("listed");
            let waiting: f64 = link.queue.iter().map(|&(_, bytes)| bytes).sum();
            let waiting = if link.priming { f64::MAX } else { waiting };
            link.sample.in_flight_bytes = waiting.min(link.window()) as u64;
            let noise = self.rng.random_range(1.0..1.1);
            let rtt =
                if link.fault(self.at).is_some() { self.network.rtt * 3 } else { self.network.rtt };
            link.sample.rtt = rtt.mul_f64(noise);
            let sample = link.sample;
            let padded = std::mem::take(&mut link.padded);
            if self.accepted && (self.plan().has_waiting() || self.source_done) {
                self.outcome.padding_beside_bytes += padded;
            }
            // The set may have closed it meanwhile: it must not mind.
            self.tell(Input::Sample(conn, sample));
        }
        let confirmed = self.plan().confirmed_bytes();
        let most = PADDING_BYTES_MIN + confirmed / PADDING_SHARE + self.padding_slack as u64;
        let padding = self.outcome.padding_beside_bytes;
        assert!(padding <= most, "{padding} bytes of padding beside data, {most} are its share");
    }

    /// The server's answers come in.
    fn answer(&mut self) {
        let mut late = Vec::new();
        while self.answers.peek().is_some_and(|Reverse((at, ..))| *at <= self.at) {
            let Reverse(answer @ (_, conn, id, is_damaged)) = self.answers.pop().expect("peeked");
            // On a connection that is gone, or is silent for good, nothing comes back.
            let Some(link) = self.links.get(&conn) else { continue };
            if link.fault(self.at) == Some(Fault::Silent) {
                continue;
            }
            if self.is_mute(link) {
                late.push(answer);
                continue;
            }
            if is_damaged {
                self.tell(Input::Damaged(conn, JOB, id));
            } else {
                self.flying_bytes -= self.flying.remove(&id).unwrap_or(0);
                self.tell(Input::Confirmed(conn, JOB, id));
            }
        }
        for (_, conn, id, is_damaged) in late {
            self.answers.push(Reverse((self.at + STEP, conn, id, is_damaged)));
        }
    }

    /// Every byte of every item was written, and no two stripes hold the same.
    fn check_end(&mut self) {
        if self.outcome.is_stuck {
            return;
        }
        let plan = self.plan();
        assert!(plan.is_drained() && !plan.has_waiting());
        assert_eq!(plan.waiting_bytes(), 0);
        assert_eq!(plan.confirmed_stripes(), plan.cut_stripes());
        assert_eq!(plan.cut_stripes(), self.stripes.len() as u64);
        assert!(self.flying.is_empty() && self.stripes.keys().all(|id| self.written.contains(id)));
        let mut runs: HashMap<ItemId, Vec<(u64, u64)>> = HashMap::new();
        for extent in self.stripes.values().flat_map(|stripe| &stripe.extents) {
            runs.entry(extent.item).or_default().push((extent.offset, extent.len));
        }
        for (_, item) in &self.network.items {
            let mut runs = runs.remove(&item.id).expect("every item is in a stripe");
            runs.sort_unstable();
            let end = runs.into_iter().fold(0, |end, (offset, len)| {
                assert_eq!(offset, end, "{:?} has a gap or bytes twice", item.id);
                end + len
            });
            assert_eq!(end, item.bytes, "{:?}", item.id);
            self.outcome.bytes += item.bytes;
        }
        assert!(runs.is_empty(), "what was not offered was sent");
    }
}
