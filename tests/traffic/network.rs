//! What a simulated network is like: all of it is drawn from a seed.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use qbulk::traffic::{HealthConfig, Item, ItemId, PrimeConfig, SetConfig};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::job::{Begins, Work};
use crate::link::{Fault, SLOW};

/// A network, what is to be sent over it, and how.
pub(crate) struct Network {
    pub(crate) config: SetConfig,
    pub(crate) rtt: Duration,
    /// Bytes per second that a connection's own path gives at most.
    pub(crate) rate: f64,
    /// Bytes per second of what all connections share.
    pub(crate) shared_rate: f64,
    /// When everything stands still: a host is busy, or what is common to all paths is away.
    pub(crate) outage: Range<Duration>,
    /// After an outage, connections find out one by one, over so long a time.
    pub(crate) recovery: Duration,
    pub(crate) server: Server,
    pub(crate) opening: Opening,
    /// The share of new connections whose path goes bad, and of those that just end.
    pub(crate) bad: f64,
    pub(crate) ends: f64,
    /// The share of connections whose path is bad from the first packet on, and how.
    pub(crate) bad_at_once: Option<(f64, Fault)>,
    pub(crate) jobs: Vec<Work>,
    /// What is unusual about it.
    pub(crate) traits: Vec<&'static str>,
}

/// How the server answers.
pub(crate) struct Server {
    pub(crate) accepts_after: Duration,
    pub(crate) confirms_after: Duration,
    /// As much later at most: confirmations overtake each other.
    pub(crate) jitter: Duration,
    /// The share of stripes that arrive damaged.
    pub(crate) damage: f64,
}

/// Connections that do not come up.
pub(crate) struct Opening {
    pub(crate) fails: f64,
    pub(crate) until: Duration,
    pub(crate) fails_after: Duration,
}

struct Draw {
    rng: SmallRng,
    traits: Vec<&'static str>,
}

impl Draw {
    /// Whether the network has a trait that a share of all have.
    fn has(&mut self, share: f64, name: &'static str) -> bool {
        let has = self.rng.random_bool(share);
        if has {
            self.traits.push(name);
        }
        has
    }

    fn ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }
}

impl Network {
    /// The network of `seed`; without `faults` nothing is wrong with any single connection.
    pub(crate) fn draw(seed: u64, faults: bool) -> Self {
        let mut draw = Draw { rng: SmallRng::seed_from_u64(seed), traits: Vec::new() };
        let rtt = draw.ms(1..200);
        let rate = 10_f64.powf(draw.rng.random_range(6.0..8.0));
        let mut config = config(&mut draw, rate, rtt, faults);
        // By the seed, so that all others draw what they always have.
        if seed % 3 == 2 {
            draw.traits.push("few connections for little");
        } else {
            config.bytes_per_connection = 0;
        }
        let shared = draw.has(0.5, "a shared bottleneck");
        let shared_rate = if shared { rate * draw.rng.random_range(0.5..4.0) } else { f64::MAX };
        let (outage, recovery) = outage(&mut draw, faults);
        let server = server(&mut draw, &config);
        let opening = opening(&mut draw, faults);
        let bad = if faults && draw.has(0.8, "paths that go bad") { 0.3 } else { 0.0 };
        let ends = if faults && draw.has(0.2, "connections that end") { 0.2 } else { 0.0 };
        let (items, source_done) = source(&mut draw, &config, rate);
        Self {
            config,
            rtt,
            rate,
            shared_rate,
            outage,
            recovery,
            server,
            opening,
            bad,
            ends,
            bad_at_once: None,
            jobs: vec![Work::new(items, source_done)],
            traits: draw.traits,
        }
    }

    /// As [`Network::draw`], with several jobs: side by side, one after another, called off.
    pub(crate) fn draw_jobs(seed: u64, faults: bool) -> Self {
        let mut network = Self::draw(seed, faults);
        let mut draw = Draw { rng: SmallRng::seed_from_u64(!seed), traits: network.traits };
        let jobs = draw.rng.random_range(2..=6);
        network.jobs = (0..jobs).map(|_| work(&mut draw, &network.config, network.rate)).collect();
        network.traits = draw.traits;
        network
    }

    /// One of which nothing is unusual: 4 of 6 connections with a path of `rate` each, no priming.
    pub(crate) fn plain(rtt: Duration, rate: f64, jobs: Vec<Work>) -> Self {
        let config = SetConfig { connections: 6, active: 4, active_max: 4, ..SetConfig::default() };
        let nothing = Duration::ZERO;
        Self {
            config,
            rtt,
            rate,
            shared_rate: f64::MAX,
            outage: nothing..nothing,
            recovery: nothing,
            server: Server {
                accepts_after: nothing,
                confirms_after: nothing,
                jitter: nothing,
                damage: 0.0,
            },
            opening: Opening { fails: 0.0, until: nothing, fails_after: nothing },
            bad: 0.0,
            ends: 0.0,
            bad_at_once: None,
            jobs,
            traits: Vec::new(),
        }
    }

    /// Nothing ever gets through.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.opening.until == Duration::MAX
    }

    /// By when it must be done: generous, and no more than the slowest path that is allowed needs.
    pub(crate) fn time_max(&self) -> Duration {
        let bytes: u64 = self.jobs.iter().map(Work::bytes).sum();
        let rate = self.rate.min(self.shared_rate);
        let stripe_bytes =
            (256 << 10).clamp(self.config.stripe_bytes_min, self.config.stripe_bytes_max);
        let slow = stripe_bytes as f64 / (self.rate * SLOW);
        let late = (self.server.confirms_after + self.server.jitter + self.rtt).as_secs_f64();
        // With the least in flight, one stripe takes all of that, and goes again if it is damaged.
        let late = 2.0 * late / (1.0 - self.server.damage);
        let stripes = bytes as f64 / self.config.stripe_bytes_min.min(stripe_bytes) as f64;
        let seconds = 300.0 + 10.0 * bytes as f64 / rate + 10.0 * slow + stripes * late;
        let sources = self.jobs.iter().map(|work| match work.begins {
            Begins::At(pause) | Begins::Then(pause) => pause + work.source_done,
        });
        Duration::from_secs_f64(seconds) + sources.sum::<Duration>() + self.outage.end
    }
}

fn config(draw: &mut Draw, rate: f64, rtt: Duration, faults: bool) -> SetConfig {
    let (connections, active) = match draw.rng.random_range(0..40) {
        0..4 => (1, 1),
        4 => (64, 64),
        5 => (64, 1),
        6 => (draw.rng.random_range(13..=64), 12),
        _ => {
            let connections = draw.rng.random_range(2..=12);
            (connections, draw.rng.random_range(1..=connections))
        }
    };
    draw.traits.push(match (connections, active) {
        (1, _) => "M of N: 1 of 1",
        (64, 64) => "M of N: 64 of 64",
        (13.., _) => "M of N: some of many",
        _ => "M of N: up to 12",
    });
    let adapts = draw.has(0.5, "M adapts");
    let (stripe_bytes_min, stripe_bytes_max) = if draw.has(0.05, "tiny stripes") {
        let bytes = 1 << draw.rng.random_range(10..14);
        (bytes, bytes)
    } else if draw.has(0.05, "huge stripes") {
        (1 << draw.rng.random_range(16..=24), 16 << 20)
    } else {
        (64 << 10, 1 << 20)
    };
    let turn_stripes = if draw.has(0.1, "a turn for each stripe") {
        1
    } else if draw.has(0.1, "long turns") {
        1_000
    } else {
        8
    };
    let flying_bytes_max = if draw.has(0.1, "little in flight") {
        stripe_bytes_max * draw.rng.random_range(1..5)
    } else {
        SetConfig::default().flying_bytes_max
    };
    let reprime_after = if draw.has(0.3, "reserves are primed often") {
        draw.ms(100..1_000)
    } else {
        Duration::from_secs(10)
    };
    let prime = if draw.has(0.1, "no priming") {
        PrimeConfig { budget_bytes: 0, ..PrimeConfig::default() }
    } else {
        PrimeConfig::default()
    };
    let mut health = HealthConfig::default();
    if faults && draw.has(0.05, "a floor") {
        health.floor_bytes_per_s = (rate * 0.05) as u64;
    }
    if faults && draw.has(0.05, "a ceiling for round trips") {
        health.rtt_max = Some(rtt * 2 + Duration::from_millis(50));
    }
    SetConfig {
        connections,
        active,
        active_max: if adapts { active + 8 } else { active },
        stripe_bytes_min,
        stripe_bytes_max,
        flying_bytes_max,
        turn_stripes,
        reprime_after,
        prime,
        health,
        ..SetConfig::default()
    }
}

fn outage(draw: &mut Draw, faults: bool) -> (Range<Duration>, Duration) {
    let from = draw.ms(0..3_000);
    if faults && draw.has(0.1, "a long outage of all") {
        let time = draw.ms(2_000..20_000);
        let uneven = draw.has(0.5, "connections recover one by one");
        return (from..from + time, if uneven { time } else { Duration::ZERO });
    }
    if draw.has(0.5, "a short outage of all") {
        return (from..from + draw.ms(1..2_000), Duration::ZERO);
    }
    (Duration::ZERO..Duration::ZERO, Duration::ZERO)
}

fn server(draw: &mut Draw, config: &SetConfig) -> Server {
    let accepts_after = if draw.has(0.1, "a server that accepts late") {
        draw.ms(0..3_000)
    } else {
        Duration::ZERO
    };
    let confirms_after = if draw.has(0.1, "a server that confirms late") {
        draw.ms(0..3_000)
    } else {
        Duration::ZERO
    };
    let jitter = if draw.has(0.2, "confirmations out of order") {
        draw.ms(1..1_000)
    } else {
        Duration::ZERO
    };
    let damage =
        if draw.has(0.1, "damaged stripes") { draw.rng.random_range(0.0..0.3) } else { 0.0 };
    // Where each answer lets only a little more out, late ones would make it take days.
    let slower = if config.flying_bytes_max < 1 << 20 { 30 } else { 1 };
    Server {
        accepts_after,
        confirms_after: confirms_after / slower,
        jitter: jitter / slower,
        damage,
    }
}

fn opening(draw: &mut Draw, faults: bool) -> Opening {
    let fails_after = draw.ms(1..3_000);
    if faults && draw.has(0.005, "a server that cannot be reached") {
        return Opening { fails: 1.0, until: Duration::MAX, fails_after };
    }
    if faults && draw.has(0.15, "connections that cannot be opened") {
        let fails = if draw.rng.random_bool(0.3) { 1.0 } else { draw.rng.random_range(0.1..0.9) };
        return Opening { fails, until: draw.ms(0..20_000), fails_after };
    }
    Opening { fails: 0.0, until: Duration::ZERO, fails_after }
}

fn work(draw: &mut Draw, config: &SetConfig, rate: f64) -> Work {
    let (items, source_done) = source(draw, config, rate / 4.0);
    let pause = draw.ms(0..4_000);
    let begins = if draw.has(0.3, "a job after the others") {
        Begins::Then(pause)
    } else {
        Begins::At(pause)
    };
    let weight = NonZeroU32::new(draw.rng.random_range(1..=10)).expect("not 0");
    let called_off =
        if draw.has(0.15, "a job that is called off") { Some(draw.ms(0..5_000)) } else { None };
    Work { weight, begins, items, source_done, called_off }
}

fn source(draw: &mut Draw, config: &SetConfig, rate: f64) -> (Vec<(Duration, Item)>, Duration) {
    let whole_max = config.stripe_bytes_min.min(60_000) - 200;
    if draw.has(0.02, "nothing to send") {
        return (Vec::new(), draw.ms(0..2_000));
    }
    let many = if draw.has(0.001, "a million items") {
        1_000_000
    } else if draw.has(0.02, "many tiny items") {
        draw.rng.random_range(5_000..50_000)
    } else {
        0
    };
    let mut items: Vec<(Duration, Item)> =
        (0..many).map(|id| (Duration::ZERO, Item::whole(ItemId(id), id % 64, 60))).collect();
    let apart = if draw.has(0.15, "a slow source") { draw.rng.random_range(1..200) } else { 0 };
    // Enough for a few seconds.
    let per_item = (rate * 0.15) as u64;
    let bytes_max = per_item.clamp(200_000, 8_000_000).min(config.stripe_bytes_max * 64);
    let mut at = Duration::ZERO;
    for id in many..many + draw.rng.random_range(1..60) {
        if apart > 0 {
            at += draw.ms(0..apart * 2);
        }
        items.push((
            at,
            if draw.rng.random_bool(0.5) {
                Item::split(ItemId(id), draw.rng.random_range(1..bytes_max))
            } else {
                let urgent = draw.rng.random_bool(0.3);
                Item { urgent, ..Item::whole(ItemId(id), draw.rng.random_range(0..whole_max), 100) }
            },
        ));
    }
    let done = at
        + if draw.has(0.1, "an end that is told late") {
            draw.ms(0..2_000)
        } else {
            Duration::ZERO
        };
    (items, done)
}
