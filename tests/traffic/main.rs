//! The traffic manager alone, in virtual time, over random networks that go bad.
//!
//! How many, and which: `QBULK_SIM_NETWORKS` (1500 for each test, 300 where there are several jobs) and
//! `QBULK_SIM_SEED` (the first one, 0).
//! A network on which something is wrong is told with the command that runs it alone: add its seed to
//! [`SEEDS_THAT_FAILED`].

mod bad_lanes;
mod cancelled;
mod job;
mod jobs;
mod link;
mod network;
mod outcome;
mod priming;
mod resting;
mod room;
mod sim;
mod small;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use network::Network;
use outcome::Outcome;
use qbulk::traffic::{Input, Output, Set, SetConfig, Verdict};
use sim::Sim;
use tally::Tally;

const NETWORKS: u64 = 1_500;
const NETWORKS_WITH_JOBS: u64 = 300;
const SEEDS_THAT_FAILED: [u64; 2] = [41_290, 322];
/// After so many failures, more of them say nothing new.
const FAILURES_MAX: usize = 20;

/// Runs networks as `draw` makes them from a seed: so many, or as many and from where on the environment
/// says.
fn run(
    test: &str,
    networks: u64,
    draw: impl Fn(u64) -> Network,
    check: impl Fn(&Network, &Outcome),
) -> Tally {
    let networks = tally::number("QBULK_SIM_NETWORKS").unwrap_or(networks);
    let first = tally::number("QBULK_SIM_SEED");
    let known: &[u64] = if first.is_none() { &SEEDS_THAT_FAILED } else { &[] };
    let first = first.unwrap_or(0);
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for seed in known.iter().copied().chain(first..first + networks) {
        let mut traits = String::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let network = draw(seed);
            traits = network.traits.join(", ");
            let outcome = Sim::new(&network, seed).run();
            check(&network, &outcome);
            (network, outcome)
        }));
        if let Ok((network, outcome)) = ran {
            tally.add(seed, &network, &outcome);
        } else {
            eprintln!("that was seed {seed}: {traits}");
            failed.push(seed);
        }
        if failed.len() == FAILURES_MAX {
            break;
        }
    }
    tally.show(test);
    let commands: Vec<String> = failed
        .iter()
        .map(|seed| {
            format!("QBULK_SIM_SEED={seed} QBULK_SIM_NETWORKS=1 cargo test --test traffic {test}")
        })
        .collect();
    assert!(commands.is_empty(), "to run what failed alone:\n{}", commands.join("\n"));
    tally
}

#[test]
fn every_byte_arrives_once_over_networks_that_go_bad() {
    let name = "every_byte_arrives_once_over_networks_that_go_bad";
    let bad = |seed| Network::draw(seed, true);
    let tally = run(name, NETWORKS, bad, |network, outcome| {
        let must_fail = network.is_unreachable() && !network.jobs[0].items.is_empty();
        assert_eq!(outcome.is_stuck, must_fail);
        // Replacing has a pace: a set at once, and then a few a second.
        let config = &network.config;
        let set = config.active_max - config.active + config.connections;
        let seconds = outcome.time.as_secs() as usize + 1;
        let condemned = outcome.verdicts.iter().filter(|verdict| **verdict != Verdict::Lost);
        assert!(condemned.count() <= 2 * set + 6 * seconds, "{:?}", outcome.verdicts);
    });
    if tally.networks() >= NETWORKS {
        assert!(tally.takeovers() > tally.networks() / 10, "the networks were not bad enough");
    }
}

#[test]
fn on_healthy_networks_nobody_is_condemned() {
    let healthy = |seed| Network::draw(seed, false);
    run("on_healthy_networks_nobody_is_condemned", NETWORKS, healthy, |_, outcome| {
        assert!(outcome.verdicts.is_empty(), "{:?}", outcome.verdicts);
        assert!(!outcome.is_stuck);
    });
}

/// A server that has no room for more connections is not asked again and again.
#[test]
fn connections_that_are_closed_as_soon_as_they_are_up_are_opened_less_and_less_often() {
    let start = Instant::now();
    let config = SetConfig { bytes_per_connection: 0, ..SetConfig::default() };
    let mut set = Set::new(config, 1, start);
    let mut opened = 0;
    for millis in 0..20_000 {
        let now = start + Duration::from_millis(millis);
        set.handle_timeout(now);
        while let Some(output) = set.poll() {
            if let Output::Open { conn } = output {
                opened += 1;
                set.handle(Input::Up(conn), now);
                set.handle(Input::Lost(conn), now);
            }
        }
    }
    assert!((15..100).contains(&opened), "{opened} in 20 s");
}
