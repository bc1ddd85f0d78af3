//! What a priming is held against.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use qbulk::traffic::{ConnId, Input, JobId, Output, Sample, Set, SetConfig, Verdict};

const RTT: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 8;

/// Primes a set of which each connection has all of its round trips bring `bytes(connection, round)`, or
/// nothing yet; says which of them are given up, and why.
fn prime(connections: usize, bytes: impl Fn(u32, u32) -> Option<u64>) -> Vec<(ConnId, Verdict)> {
    let start = Instant::now();
    let config = SetConfig { connections, active: 1, active_max: 1, ..SetConfig::default() };
    let mut set = Set::new(config, 1, start);
    set.handle(Input::Begun { job: JobId(0), weight: NonZeroU32::MIN }, start);
    set.handle(Input::Found(JobId(0), 1 << 40), start);
    let mut samples = vec![Sample { rtt: RTT, rtt_min: RTT, ..Sample::default() }; connections];
    for conn in 0..connections as u32 {
        set.handle(Input::Up(ConnId(conn)), start);
    }
    let mut closed = Vec::new();
    for round in 0..ROUNDS {
        let now = start + RTT * (round + 1);
        for (conn, sample) in (0..).zip(&mut samples) {
            let Some(bytes) = bytes(conn, round) else { continue };
            sample.delivered_bytes += bytes;
            sample.padding_bytes += bytes;
            set.handle(Input::Sample(ConnId(conn), *sample), now);
        }
        while let Some(output) = set.poll() {
            if let Output::Close { conn, verdict, .. } = output {
                closed.push((conn, verdict));
            }
        }
    }
    closed
}

#[test]
fn one_that_is_primed_to_much_less_than_its_siblings_is_given_up() {
    let closed = prime(4, |conn, round| match conn {
        3 if round < 3 => None,
        3 => Some(10_000),
        _ => Some(80_000 << round),
    });
    assert_eq!(closed, [(ConnId(3), Verdict::PrimedBadly)]);
}

#[test]
fn one_sibling_that_had_the_path_to_itself_is_no_measure() {
    let closed = prime(8, |conn, round| match conn {
        0 => Some(160_000 << round),
        _ => (round >= 3).then_some(10_000),
    });
    assert_eq!(closed, []);
}

#[test]
fn padding_is_little_beside_what_there_is_to_send() {
    for (found_bytes, most) in
        [(0, 0), (100_000, 0), (500_000, 64_000), (80_000_000, 10_000_000), (1 << 40, 40 << 20)]
    {
        let now = Instant::now();
        let mut set = Set::new(SetConfig::default(), 1, now);
        set.handle(Input::Begun { job: JobId(0), weight: NonZeroU32::MIN }, now);
        set.handle(Input::Found(JobId(0), found_bytes), now);
        for conn in 0..10 {
            set.handle(Input::Up(ConnId(conn)), now);
        }
        let mut budgets = 0;
        while let Some(output) = set.poll() {
            if let Output::Prime { budget_bytes, .. } = output {
                budgets += budget_bytes;
            }
        }
        assert_eq!(budgets, most, "of {found_bytes}");
    }
}
