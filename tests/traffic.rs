//! The traffic manager alone, in virtual time, over random networks that go bad.
//!
//! A failing run prints its seed: add it to `SEEDS_THAT_FAILED`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use qbulk::traffic::{
    ConnId, Input, Item, ItemId, Output, Pool, PoolConfig, Role, Sample, StripeId, Verdict,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const SEEDS: u64 = 1_500;
const SEEDS_THAT_FAILED: [u64; 1] = [12];
const STEP: Duration = Duration::from_millis(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const TIME_MAX: Duration = Duration::from_secs(600);

/// A path that one connection is on: bytes per second, a round-trip time, a date on which it goes bad.
struct Lane {
    rate: f64,
    rtt: Duration,
    bad_at: Duration,
    bad_rate: f64,
}

struct Link {
    lane: Lane,
    sample: Sample,
    priming: bool,
    queue: Vec<(StripeId, f64)>,
}

struct Outcome {
    time: Duration,
    takeovers: u64,
    verdicts: Vec<Verdict>,
}

/// Draws a network from `seed` and moves random items over it.
fn simulate(seed: u64, faults: bool) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let connections = rng.random_range(2..=12);
    let active = rng.random_range(1..=connections);
    let active_max = if rng.random_bool(0.5) { active } else { active + 8 };
    let config = PoolConfig { connections, active, active_max, ..PoolConfig::default() };
    let rtt = Duration::from_millis(rng.random_range(1..200));
    let rate = f64::from(rng.random_range(1_000_000..100_000_000));
    // Now and then everything stands still: a host is busy, or a path common to all is away.
    let stall_at = Duration::from_millis(rng.random_range(0..3_000));
    let stall = stall_at..stall_at + Duration::from_millis(rng.random_range(0..2_000));
    let mut sizes = HashMap::new();
    let mut pool = Pool::new(config.clone(), seed, start);
    for id in 0..rng.random_range(1..60_u64) {
        let item = if rng.random_bool(0.5) {
            Item::split(ItemId(id), rng.random_range(1..8_000_000))
        } else {
            Item::whole(ItemId(id), rng.random_range(0..60_000), 100)
        };
        sizes.insert(item.id, item.bytes);
        pool.handle(Input::Offered(item), start);
    }
    pool.handle(Input::SourceDone, start);

    let mut links: BTreeMap<ConnId, Link> = BTreeMap::new();
    let mut up: BinaryHeap<Reverse<(Instant, ConnId)>> = BinaryHeap::new();
    let mut stripes = HashMap::new();
    let mut written: HashMap<StripeId, u64> = HashMap::new();
    let mut acks: BinaryHeap<Reverse<(Instant, ConnId, StripeId)>> = BinaryHeap::new();
    let (mut now, mut verdicts, mut drained) = (start, Vec::new(), false);
    while !drained {
        assert!(now - start < TIME_MAX, "seed {seed}: not done in bounded time");
        while let Some(output) = pool.poll() {
            match output {
                Output::Open { conn } => up.push(Reverse((now + rtt, conn))),
                Output::Prime { conn, .. } => links.get_mut(&conn).expect("open").priming = true,
                Output::StopPrime { conn, .. } => {
                    links.get_mut(&conn).expect("open").priming = false;
                }
                Output::Send { conn, stripe, .. } => {
                    let link = links.get_mut(&conn).expect("only open connections send");
                    link.queue.push((stripe.id, stripe.bytes as f64));
                    stripes.insert(stripe.id, stripe);
                }
                Output::Abandon { conn, stripe } => {
                    links.get_mut(&conn).expect("open").queue.retain(|&(id, _)| id != stripe);
                }
                Output::Close { conn, verdict, .. } => {
                    links.remove(&conn);
                    if verdict != Verdict::Surplus {
                        verdicts.push(verdict);
                    }
                }
                Output::Drained => drained = true,
                Output::Stuck => panic!("seed {seed}: stuck"),
            }
        }
        assert!(pool.count(Role::Active) <= pool.active(), "seed {seed}: more than M are active");
        assert!(pool.active() <= active_max, "seed {seed}: M is above its bound");
        now += STEP;
        while up.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, conn)) = up.pop().expect("peeked");
            // The first connection stays well: a transfer ends while one lives.
            let bad = faults && conn.0 > 0 && rng.random_bool(0.3);
            let bad_at = Duration::from_millis(rng.random_range(0..3_000));
            let lane = Lane {
                rate: rate * rng.random_range(0.7..1.0),
                rtt,
                bad_at: if bad { bad_at } else { TIME_MAX },
                bad_rate: if rng.random_bool(0.5) { 0.0 } else { rate * 0.01 },
            };
            let sample = Sample {
                window_bytes: 1 << 20,
                rtt,
                rtt_min: rtt,
                pto: rtt + Duration::from_millis(25),
                ..Sample::default()
            };
            links.insert(conn, Link { lane, sample, priming: false, queue: Vec::new() });
            pool.handle(Input::Up(conn), now);
            pool.handle(Input::Accepted, now);
        }
        let stalled = stall.contains(&(now - start));
        for (&conn, link) in &mut links {
            let bad = now - start >= link.lane.bad_at;
            let rate = if bad { link.lane.bad_rate } else { link.lane.rate };
            let mut left = if stalled { 0.0 } else { rate * STEP.as_secs_f64() };
            while left > 0.0 && !link.queue.is_empty() {
                let took = left.min(link.queue[0].1);
                link.queue[0].1 -= took;
                left -= took;
                link.sample.delivered_bytes += took as u64;
                if link.queue[0].1 <= 0.0 {
                    let (id, _) = link.queue.remove(0);
                    acks.push(Reverse((now + link.lane.rtt, conn, id)));
                }
            }
            let busy = !link.queue.is_empty();
            link.sample.in_flight_bytes = if busy { link.sample.window_bytes } else { 0 };
            // A queue builds up where the rate has dropped.
            link.sample.rtt = if bad { link.lane.rtt * 3 } else { link.lane.rtt };
            if link.priming && link.queue.is_empty() {
                link.sample.padding_bytes += left as u64;
                link.sample.delivered_bytes += left as u64;
            }
        }
        // The transport's own idle time-out ends what is dead for good.
        let dead: Vec<ConnId> = links
            .iter()
            .filter(|(_, link)| link.lane.bad_rate == 0.0 && !link.queue.is_empty())
            .filter(|(_, link)| now - start >= link.lane.bad_at + IDLE_TIMEOUT)
            .map(|(&conn, _)| conn)
            .collect();
        for conn in dead {
            pool.handle(Input::Lost(conn), now);
        }
        let samples: Vec<_> = links.iter().map(|(&conn, link)| (conn, link.sample)).collect();
        for (conn, sample) in samples {
            pool.handle(Input::Sample(conn, sample), now);
        }
        while !stalled && acks.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Reverse((_, conn, id)) = acks.pop().expect("peeked");
            *written.entry(id).or_default() += 1;
            if links.contains_key(&conn) {
                pool.handle(Input::Confirmed(conn, id), now);
            }
        }
        assert!(pool.plan().flying_stripes() as u64 * 1_024 <= config.flying_bytes_max);
        if now >= pool.poll_timeout() {
            pool.handle_timeout(now);
        }
    }

    // Replacing has a pace: a set at once, and then a few a second.
    let seconds = (now - start).as_secs() as usize + 1;
    assert!(verdicts.len() <= 2 * (active_max + connections) + 6 * seconds, "seed {seed}");

    // Every byte of every item was written, and none by two different stripes.
    let mut got: HashMap<ItemId, u64> = HashMap::new();
    for id in written.keys() {
        for extent in &stripes[id].extents {
            *got.entry(extent.item).or_default() += extent.len;
        }
    }
    for (item, bytes) in sizes {
        assert_eq!(got.get(&item).copied().unwrap_or(0), bytes, "seed {seed}: {item:?}");
    }
    Outcome { time: now - start, takeovers: pool.stats().takeovers, verdicts }
}

#[test]
fn every_byte_arrives_once_over_networks_that_go_bad() {
    let mut takeovers = 0;
    for seed in SEEDS_THAT_FAILED.into_iter().chain(0..SEEDS) {
        takeovers += simulate(seed, true).takeovers;
    }
    assert!(takeovers > SEEDS / 10, "the networks were not bad enough: {takeovers} takeovers");
}

#[test]
fn on_healthy_networks_nobody_is_condemned() {
    for seed in 0..SEEDS {
        let outcome = simulate(seed, false);
        assert!(outcome.verdicts.is_empty(), "seed {seed}: {:?}", outcome.verdicts);
        assert!(outcome.time < TIME_MAX);
    }
}

/// A server that has no room for more connections is not asked again and again.
#[test]
fn connections_that_are_closed_as_soon_as_they_are_up_are_opened_less_and_less_often() {
    let start = Instant::now();
    let mut pool = Pool::new(PoolConfig::default(), 1, start);
    let mut opened = 0;
    for millis in 0..20_000 {
        let now = start + Duration::from_millis(millis);
        pool.handle_timeout(now);
        while let Some(output) = pool.poll() {
            if let Output::Open { conn } = output {
                opened += 1;
                pool.handle(Input::Up(conn), now);
                pool.handle(Input::Lost(conn), now);
            }
        }
    }
    assert!((15..100).contains(&opened), "{opened} in 20 s");
}
