//! The budget alone, over a simulated bottleneck in virtual time.
//!
//! Every run prints its seed when it fails.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use qbulk::congestion::{Aggressiveness, Budget, BudgetConfig, MemberId, PathMemory};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const PACKET: u64 = 1_400;

/// A bottleneck that all connections cross, and what it does to each by itself.
#[derive(Clone, Debug)]
struct Path {
    /// Bytes per second.
    rate: f64,
    rtt: Duration,
    /// Bytes.
    queue: f64,
    loss: f64,
    /// Bytes per second for each connection, policed; 0 for none.
    flow_rate: f64,
    /// The share that each connection loses besides, on a path of its own.
    flow_loss: f64,
    /// How many connections these two are for.
    flows: usize,
    connections: usize,
    config: BudgetConfig,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            rate: 12.5e6,
            rtt: Duration::from_millis(50),
            queue: 12.5e6 * 0.05,
            loss: 0.0,
            flow_rate: 0.0,
            flow_loss: 0.0,
            flows: usize::MAX,
            connections: 8,
            config: BudgetConfig::default(),
        }
    }
}

#[derive(Debug)]
struct Outcome {
    /// Share of the bottleneck's rate that was delivered, over the second half of the time.
    goodput: f64,
    /// Share of packets that overflowed the queue or were policed, over all of the time.
    dropped: f64,
    /// Mean queueing delay over the second half.
    queue_delay: Duration,
    /// The most in flight, in shares of twice the bandwidth-delay product.
    in_flight_max: f64,
    /// Bytes delivered in the first second.
    first_second: u64,
    memory: Option<PathMemory>,
}

struct Flow {
    id: MemberId,
    window: Arc<AtomicU64>,
    next: u64,
    in_flight: VecDeque<(u64, Instant)>,
    in_flight_bytes: u64,
    srtt: Duration,
    sends_at: Instant,
    policed_until: Instant,
}

/// What happens at a time: a packet's acknowledgement, or a connection may send again.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ack { flow: usize, packet: u64 },
    Send { flow: usize },
}

fn simulate(path: &Path, seconds: u64, seed: u64) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let half = start + Duration::from_secs(seconds) / 2;
    let mut budget = Budget::new(path.config, start);
    let mut events = BinaryHeap::new();
    let mut flows: Vec<Flow> = (0..path.connections)
        .map(|flow| {
            let (id, window) = budget.join(PACKET as u16, start);
            events.push(Reverse((start, Event::Send { flow })));
            Flow {
                id,
                window,
                next: 0,
                in_flight: VecDeque::new(),
                in_flight_bytes: 0,
                srtt: path.rtt,
                sends_at: start,
                policed_until: start,
            }
        })
        .collect();
    let mut busy_until = start;
    let (mut sent, mut dropped, mut delivered, mut first_second) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut delay_sum, mut delays, mut in_flight_max) = (0.0, 0_u64, 0.0_f64);
    let bdp = path.rate * path.rtt.as_secs_f64();
    while let Some(Reverse((now, event))) = events.pop() {
        if now > end {
            break;
        }
        match event {
            Event::Send { flow } => {
                let flow_index = flow;
                let flow = &mut flows[flow];
                let window = flow.window.load(Relaxed);
                if flow.in_flight_bytes + PACKET >= window || flow.sends_at > now {
                    continue;
                }
                budget.on_sent(flow.id, PACKET, now);
                let packet = flow.next;
                flow.next += 1;
                flow.in_flight.push_back((packet, now));
                flow.in_flight_bytes += PACKET;
                sent += 1;
                let waits = busy_until.saturating_duration_since(now);
                let backlog = waits.as_secs_f64() * path.rate;
                let is_odd = flow_index < path.flows;
                let policed = is_odd && path.flow_rate > 0.0 && {
                    let ahead = flow.policed_until.saturating_duration_since(now);
                    let over = ahead.as_secs_f64() * path.flow_rate > 30_000.0;
                    if !over {
                        let time = PACKET as f64 / path.flow_rate;
                        flow.policed_until =
                            flow.policed_until.max(now) + Duration::from_secs_f64(time);
                    }
                    over
                };
                if policed || backlog > path.queue {
                    dropped += 1;
                } else {
                    let time = Duration::from_secs_f64(PACKET as f64 / path.rate);
                    busy_until = busy_until.max(now) + time;
                    if now > half {
                        delay_sum += waits.as_secs_f64();
                        delays += 1;
                    }
                    let flow_loss = if is_odd { path.flow_loss } else { 0.0 };
                    if !rng.random_bool(path.loss) && !rng.random_bool(flow_loss) {
                        let at = busy_until + path.rtt;
                        events.push(Reverse((at, Event::Ack { flow: flow_index, packet })));
                    }
                }
                // quinn's pacing.
                let pace = flow.srtt.mul_f64(0.8 * PACKET as f64 / window as f64);
                flow.sends_at = now + pace;
                events.push(Reverse((flow.sends_at, Event::Send { flow: flow_index })));
                in_flight_max = in_flight_max.max(budget.in_flight_bytes() as f64 / (2.0 * bdp));
            }
            Event::Ack { flow, packet } => {
                let flow_index = flow;
                let flow = &mut flows[flow];
                let Some(&(_, sent_at)) =
                    flow.in_flight.iter().find(|&&(other, _)| other == packet)
                else {
                    continue;
                };
                flow.srtt = (flow.srtt * 7 + (now - sent_at)) / 8;
                flow.in_flight.retain(|&(other, _)| other != packet);
                flow.in_flight_bytes -= PACKET;
                budget.on_ack(flow.id, sent_at, PACKET, now);
                budget.on_acks_end(flow.id, flow.in_flight_bytes, false, now);
                // The network keeps the order: what is missing three packets before is lost.
                while flow.in_flight.front().is_some_and(|&(other, _)| other + 3 <= packet) {
                    flow.in_flight.pop_front();
                    flow.in_flight_bytes -= PACKET;
                    budget.on_lost(flow.id, PACKET, false, now);
                }
                if now > half {
                    delivered += PACKET;
                }
                if now < start + Duration::from_secs(1) {
                    first_second += PACKET;
                }
                for (other, flow) in flows.iter().enumerate() {
                    if other == flow_index || flow.sends_at <= now {
                        let at = now.max(flow.sends_at);
                        events.push(Reverse((at, Event::Send { flow: other })));
                    }
                }
            }
        }
    }
    Outcome {
        goodput: delivered as f64 / (path.rate * (end - half).as_secs_f64()),
        dropped: dropped as f64 / sent as f64,
        queue_delay: Duration::from_secs_f64(delay_sum / delays.max(1) as f64),
        in_flight_max,
        first_second,
        memory: budget.memory(),
    }
}

#[test]
fn a_clean_path_is_filled_without_a_standing_queue() {
    let outcome = simulate(&Path::default(), 10, 1);
    assert!(outcome.goodput > 0.95, "{outcome:?}");
    assert!(outcome.queue_delay < Duration::from_millis(20), "{outcome:?}");
    assert!(outcome.dropped < 0.005, "{outcome:?}");
    assert!(outcome.in_flight_max <= 1.25, "{outcome:?}");
}

#[test]
fn random_loss_does_not_slow_it_down() {
    for (seed, loss, least) in [(2, 0.001, 0.95), (3, 0.01, 0.93), (4, 0.02, 0.90)] {
        let outcome = simulate(&Path { loss, ..Path::default() }, 20, seed);
        assert!(outcome.goodput > least, "seed {seed}, loss {loss}: {outcome:?}");
    }
}

#[test]
fn a_shallow_buffer_is_not_overrun() {
    let path = Path { queue: 12.5e6 * 0.008, ..Path::default() };
    let outcome = simulate(&path, 20, 5);
    assert!(outcome.goodput > 0.9, "{outcome:?}");
    assert!(outcome.dropped < 0.02, "{outcome:?}");
}

#[test]
fn policed_connections_get_what_each_is_allowed_and_lose_little() {
    let path = Path { flow_rate: 1e6, ..Path::default() };
    let outcome = simulate(&path, 30, 6);
    assert!(outcome.goodput > 0.9 * 8e6 / path.rate, "{outcome:?}");
    assert!(outcome.dropped < 0.05, "{outcome:?}");
}

#[test]
fn what_two_of_eight_lose_on_paths_of_their_own_slows_nobody_else_down() {
    let path = Path { rate: 5e6, queue: 5e6 * 0.05, flows: 2, ..Path::default() };
    for (flow_rate, flow_loss) in [(37_500.0, 0.0), (125_000.0, 0.0), (0.0, 0.1), (0.0, 0.3)] {
        let outcome = simulate(&Path { flow_rate, flow_loss, ..path.clone() }, 10, 8);
        assert!(outcome.goodput > 0.9, "{flow_rate} and {flow_loss}: {outcome:?}");
        assert!(outcome.first_second as f64 > 0.65 * path.rate, "{flow_rate}: {outcome:?}");
        assert!(outcome.queue_delay < Duration::from_millis(20), "{outcome:?}");
    }
}

#[test]
fn what_half_of_ten_lose_on_paths_of_their_own_slows_nobody_else_down() {
    let path = Path { rate: 5e6, queue: 5e6 * 0.05, flows: 5, connections: 10, ..Path::default() };
    for (flow_rate, flow_loss) in [(37_500.0, 0.0), (0.0, 0.3)] {
        let outcome = simulate(&Path { flow_rate, flow_loss, ..path.clone() }, 10, 8);
        assert!(outcome.goodput > 0.85, "{flow_rate} and {flow_loss}: {outcome:?}");
    }
}

#[test]
fn a_narrow_path_with_many_connections_keeps_its_queue_short() {
    let path = Path {
        rate: 2.5e6,
        rtt: Duration::from_millis(30),
        queue: 128e3,
        connections: 10,
        ..Path::default()
    };
    let outcome = simulate(&path, 20, 7);
    assert!(outcome.goodput > 0.95, "{outcome:?}");
    assert!(outcome.queue_delay < Duration::from_millis(30), "{outcome:?}");
}

#[test]
fn a_path_that_holds_less_than_the_least_windows_of_all_loses_no_more_than_it_must() {
    // It holds 16 packets, and each connection needs two so that one that is lost is noticed.
    let path = Path {
        rate: 250e3,
        rtt: Duration::from_millis(40),
        queue: 12_500.0,
        connections: 8,
        ..Path::default()
    };
    let outcome = simulate(&path, 20, 11);
    assert!(outcome.goodput > 0.95, "{outcome:?}");
    assert!(outcome.dropped < 0.05, "{outcome:?}");
}

#[test]
fn a_remembered_path_is_filled_sooner_and_a_wrong_memory_does_little_harm() {
    let path = Path { rate: 50e6, rtt: Duration::from_millis(100), queue: 5e6, ..Path::default() };
    let first = simulate(&path, 5, 9);
    let memory = first.memory.expect("the path is known by now");
    let config = BudgetConfig { memory: Some(memory), ..BudgetConfig::default() };
    let second = simulate(&Path { config, ..path.clone() }, 5, 9);
    assert!(second.first_second as f64 > 1.3 * first.first_second as f64, "{first:?} {second:?}");
    let slower = Path { rate: 5e6, queue: 0.5e6, config, ..path };
    let outcome = simulate(&slower, 20, 10);
    assert!(outcome.goodput > 0.9 && outcome.dropped < 0.03, "{outcome:?}");
}

#[test]
fn the_background_leaves_no_queue() {
    let config =
        BudgetConfig { aggressiveness: Aggressiveness::Background, ..BudgetConfig::default() };
    let outcome = simulate(&Path { config, ..Path::default() }, 10, 11);
    assert!(outcome.queue_delay < Duration::from_millis(5), "{outcome:?}");
    assert!(outcome.goodput > 0.7, "{outcome:?}");
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

/// A path of `seed`, what is unusual about it, and the share of its rate that can be had.
fn draw(seed: u64) -> (Path, Vec<&'static str>, f64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut traits = Vec::new();
    let rate = 10_f64.powf(rng.random_range(5.5..7.2));
    let rtt = Duration::from_millis(rng.random_range(10..200));
    let bdp = rate * rtt.as_secs_f64();
    let mut path = Path {
        rate,
        rtt,
        queue: (bdp * rng.random_range(0.3..2.0)).max(40_000.0),
        connections: rng.random_range(1..=12),
        ..Path::default()
    };
    if rng.random_bool(0.5) {
        traits.push("loss");
        path.loss = rng.random_range(0.0..0.02);
    }
    let mut share = 1.0;
    if rng.random_bool(0.1) && bdp > 500_000.0 {
        traits.push("many connections");
        path.connections = 64;
    } else if rng.random_bool(0.1) && rate > 4e6 {
        traits.push("policed connections");
        path.flow_rate = rng.random_range(5e5..2e6);
        share = (path.flow_rate * path.connections as f64 / rate).min(1.0);
    }
    if rng.random_bool(0.1) {
        traits.push("a right or wrong memory");
        let in_flight_bytes = (bdp * 10_f64.powf(rng.random_range(-1.0..1.0))) as u64;
        path.config.memory = Some(PathMemory { rtt_min: rtt, in_flight_bytes });
    }
    if rng.random_bool(0.1) {
        traits.push("aggressive");
        path.config.aggressiveness = Aggressiveness::Max;
    }
    (path, traits, share)
}

/// `QBULK_SIM_NETWORKS` and `QBULK_SIM_SEED` say how many paths (60) and from which seed on (0).
#[test]
fn it_uses_and_bounds_whatever_path_there_is() {
    let first = number("QBULK_SIM_SEED").unwrap_or(0);
    let paths = number("QBULK_SIM_NETWORKS").unwrap_or(60);
    let mut counts = BTreeMap::new();
    let (mut failed, mut goodput_min, mut dropped_max) = (Vec::new(), f64::MAX, 0.0_f64);
    for seed in first..first + paths {
        let (path, traits, share) = draw(seed);
        let outcome = simulate(&path, 10, seed);
        let bdp = path.rate * path.rtt.as_secs_f64();
        let least = if bdp < 20.0 * PACKET as f64 { 0.5 } else { 0.75 } * share;
        if outcome.goodput <= least || outcome.dropped >= 0.2 {
            failed.push(format!(
                "{traits:?} {path:?} {outcome:?}; to run it alone:\nQBULK_SIM_SEED={seed} QBULK_SIM_NETWORKS=1 \
                 cargo test --test congestion it_uses_and_bounds_whatever_path_there_is"
            ));
        }
        goodput_min = goodput_min.min(outcome.goodput / share);
        dropped_max = dropped_max.max(outcome.dropped);
        for name in traits {
            *counts.entry(name).or_insert(0) += 1;
        }
    }
    let text = format!(
        "\nit_uses_and_bounds_whatever_path_there_is: {paths} paths for 10 s each, with {counts:?}: at least \
         {goodput_min:.2} of what can be had was used, and at most {dropped_max:.2} overflowed\n"
    );
    // Past the capture of what tests print.
    stderr().write_all(text.as_bytes()).expect("standard error takes it");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
