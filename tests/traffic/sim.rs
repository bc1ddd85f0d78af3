//! Runs a set over a network in virtual time, and looks at every step whether it does what it must.

mod told;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use qbulk::traffic::{ConnId, Input, JobId, Output, Role, Sample, Set, Stripe, StripeId, Verdict};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::job::Job;
use crate::link::{Fault, Link, WINDOW_BYTES_MIN};
use crate::network::Network;
use crate::outcome::Outcome;

const STEP: Duration = Duration::from_millis(5);
/// The transport gives a connection up that hears nothing for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the set lets padding take beside data in any case, in bytes.
const PADDING_BYTES_MIN: u64 = 128 << 10;
const PADDING_SHARE: u64 = 128;
/// New connections that may be tried at a time, beside the set, while the network is gone.
const SCOUTS_MAX: usize = 16;
/// For how long the set must keep quiet once it is done.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// When the server's answer comes, over which connection, about which stripe, and whether that was damaged.
type Answer = (Duration, ConnId, (JobId, StripeId), bool);

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
    /// When the first connection was up.
    up_at: Option<Duration>,
    jobs: Vec<Job>,
    /// Sent and not confirmed, of all jobs.
    flying_bytes: u64,
    answers: BinaryHeap<Reverse<Answer>>,
    /// What padding may have gone beyond its share because it is stopped by a sample, in bytes.
    padding_slack: f64,
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
            up_at: None,
            jobs: network.jobs.iter().map(|_| Job::default()).collect(),
            flying_bytes: 0,
            answers: BinaryHeap::new(),
            padding_slack: 0.0,
            outcome: Outcome::default(),
        }
    }

    /// Runs to the end, which must come.
    pub(crate) fn run(mut self) -> Outcome {
        let time_max = self.network.time_max();
        while !self.is_over() && !self.outcome.is_stuck {
            assert!(self.at < time_max, "not done within {time_max:?}");
            self.tell_of_jobs();
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
        let drained_at = self.jobs.iter().filter_map(|job| job.drained_at).max();
        self.outcome.time = drained_at.unwrap_or(self.at);
        self.outcome.stats = self.set.stats();
        self.outcome.jobs = self.jobs;
        self.outcome
    }

    /// All jobs are over, and it was seen that nothing follows.
    fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| job.over_at.is_some_and(|at| self.at >= at + AFTERWARDS))
    }

    fn now(&self) -> Instant {
        self.start + self.at
    }

    fn tell(&mut self, input: Input) {
        self.set.handle(input, self.now());
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
                Output::Send { conn, job, stripe, again } => self.on_send(conn, job, stripe, again),
                Output::Abandon { conn, job, stripe } => {
                    self.outcome.abandoned += 1;
                    let link = self.links.get_mut(&conn).expect("open");
                    link.queue.retain(|&(id, _)| id != (job, stripe));
                }
                Output::Close { conn, verdict, .. } => self.on_close(conn, verdict),
                Output::Drained(id) => {
                    let job = &mut self.jobs[id.0 as usize];
                    assert!(job.drained_at.is_none(), "drained twice");
                    job.drained_at = Some(self.at);
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

    fn on_send(&mut self, conn: ConnId, id: JobId, stripe: Stripe, again: bool) {
        let job = &mut self.jobs[id.0 as usize];
        assert!(job.is_there() && job.drained_at.is_none(), "sent after all was confirmed");
        assert!(job.accepted, "sent before the server has accepted");
        let named = (id, stripe.id);
        let link = self.links.get_mut(&conn).expect("only open connections send");
        assert!(!link.priming, "data beside padding");
        assert!(link.queue.iter().all(|&(id, _)| id != named), "one connection has it twice");
        link.queue.push_back((named, stripe.bytes as f64));
        let is_held = self
            .links
            .iter()
            .any(|(&other, link)| other != conn && link.queue.iter().any(|&(id, _)| id == named));
        self.outcome.hedged += u64::from(again && is_held);
        let is_new = !job.stripes.contains_key(&stripe.id);
        assert!(is_new != again, "the set knows what was sent before");
        // One that is sent again may have been confirmed since the set said so.
        if is_new {
            job.flying.insert(stripe.id, stripe.bytes);
            self.flying_bytes += stripe.bytes;
        }
        let config = &self.network.config;
        assert!(
            self.flying_bytes <= config.flying_bytes_max + config.stripe_bytes_max,
            "{} bytes in flight",
            self.flying_bytes
        );
        job.stripes.insert(stripe.id, stripe);
    }

    fn on_close(&mut self, conn: ConnId, verdict: Verdict) {
        let link = self.links.remove(&conn);
        let is_well = link.is_some_and(|link| link.fault(self.at).is_none());
        self.outcome.wronged += usize::from(is_well && verdict != Verdict::Surplus);
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
            let mut jobs = link.queue.iter().map(|&((job, _), _)| &self.jobs[job.0 as usize]);
            assert!(jobs.all(Job::is_there), "something of a job that is over is under way");
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
            self.up_at.get_or_insert(self.at);
        }
    }

    fn link(&mut self) -> Link {
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
        let mut bad = bad.then_some((later, fault));
        if let Some((share, fault)) = self.network.bad_at_once {
            bad = self.rng.random_bool(share).then_some((Duration::ZERO, fault));
        }
        let [rtt_min, rtt] =
            bad.map_or([1, 1], |(at, fault)| if at.is_zero() { fault.rtt() } else { [1, 1] });
        let [rtt_min, rtt] = [rtt_min, rtt].map(|times| self.network.rtt * times);
        Link {
            rate: self.network.rate * self.rng.random_range(0.7..1.0),
            bad,
            used_at: None,
            ends_at: ends.then_some(later),
            mute_until: self.network.outage.end
                + self.network.recovery.mul_f64(self.rng.random_range(0.0..1.0)),
            heard_at: self.at,
            sample: Sample {
                window_bytes: WINDOW_BYTES_MIN as u64,
                rtt,
                rtt_min,
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
        let rate = link.rate * fault.map_or(1.0, Fault::rate);
        let rtt = link.rtt(self.network.rtt, self.at);
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
        link.sample.lost_bytes += (sent * fault.map_or(0.0, Fault::loss)) as u64;
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

    fn arrive(&mut self, conn: ConnId, id: (JobId, StripeId)) {
        let server = &self.network.server;
        let is_damaged = self.rng.random_bool(server.damage);
        let jitter = server.jitter.mul_f64(self.rng.random_range(0.0..1.0));
        let at = self.at + self.network.rtt + server.confirms_after + jitter;
        if is_damaged {
            self.outcome.damaged += 1;
        } else {
            self.jobs[id.0.0 as usize].written.insert(id.1);
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
            let rtt = link.rtt(self.network.rtt, self.at);
            link.sample.rtt = rtt.mul_f64(noise);
            if link.fault(self.at).is_some() && !link.queue.is_empty() {
                let used_at = *link.used_at.get_or_insert(self.at);
                self.outcome.borne = self.outcome.borne.max(self.at.saturating_sub(used_at));
            }
            let sample = link.sample;
            let padded = std::mem::take(&mut link.padded);
            if self.is_data_under_way() {
                self.outcome.padding_beside_bytes += padded;
            }
            // The set may have closed it meanwhile: it must not mind.
            self.tell(Input::Sample(conn, sample));
        }
        let mut confirmed = 0;
        for (index, job) in self.jobs.iter_mut().enumerate() {
            if let Some(plan) = self.set.plan(JobId(index as u64)) {
                job.confirmed.push((self.at, plan.confirmed_bytes()));
            }
            confirmed += job.confirmed_by(self.at);
        }
        let least = PADDING_BYTES_MIN * self.jobs.len() as u64;
        let most = least + confirmed / PADDING_SHARE + self.padding_slack as u64;
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
                self.tell(Input::Damaged(conn, id.0, id.1));
            } else {
                let (job, stripe) = id;
                let bytes = self.jobs[job.0 as usize].flying.remove(&stripe);
                self.flying_bytes -= bytes.unwrap_or(0);
                self.tell(Input::Confirmed(conn, job, stripe));
            }
        }
        for (_, conn, id, is_damaged) in late {
            self.answers.push(Reverse((self.at + STEP, conn, id, is_damaged)));
        }
    }
}
