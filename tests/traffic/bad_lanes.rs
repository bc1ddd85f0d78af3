//! Lanes on which something is wrong from the first packet on.

use std::time::Duration;

use qbulk::traffic::{Item, ItemId, SetConfig};

use crate::job::Work;
use crate::link::Fault;
use crate::network::Network;
use crate::outcome::Outcome;
use crate::sim::Sim;

const RTT: Duration = Duration::from_millis(50);
const SEEDS: u64 = 20;
/// What there is to send takes so long where nothing is wrong, in seconds.
const SECONDS: f64 = 12.0;

/// A line of `mbit_per_s` behind lanes that are as wide, of which a fourth has a fault.
fn run(mbit_per_s: f64, fault: Option<Fault>, seed: u64) -> Outcome {
    let rate = mbit_per_s * 1e6 / 8.0;
    let items = vec![(Duration::ZERO, Item::split(ItemId(0), (rate * SECONDS) as u64))];
    let jobs = vec![Work::new(items, Duration::ZERO)];
    let network = Network {
        config: SetConfig { active_max: 8, ..SetConfig::default() },
        shared_rate: rate,
        bad_at_once: fault.map(|fault| (0.25, fault)),
        ..Network::plain(RTT, rate, jobs)
    };
    Sim::new(&network, seed).run()
}

/// That in the worst of some runs a bad lane is used no longer than `borne`, none that is well is given up, and all
/// of it takes at most so many times as long.
fn assert_given_up(fault: Fault, mbit_per_s: f64, borne: Duration, times: f64) {
    let (mut borne_most, mut times_most) = (Duration::ZERO, 0.0_f64);
    for seed in 0..SEEDS {
        let [clean, bad] = [None, Some(fault)].map(|fault| run(mbit_per_s, fault, seed));
        assert_eq!((clean.verdicts.len(), bad.wronged), (0, 0), "seed {seed}");
        borne_most = borne_most.max(bad.borne);
        times_most = times_most.max(bad.time.div_duration_f64(clean.time));
    }
    eprintln!("{fault:?}, {mbit_per_s} Mbit/s: {borne_most:?}, {times_most:.2} times");
    assert!(borne_most <= borne && times_most <= times, "{borne_most:?}, {times_most}");
}

#[test]
fn narrow_ones_are_given_up() {
    for rate in [2.0, 40.0, 400.0] {
        assert_given_up(Fault::Slow, rate, Duration::from_secs(30), 9.0);
    }
}

#[test]
fn policed_ones_are_given_up() {
    for rate in [2.0, 40.0, 400.0] {
        assert_given_up(Fault::Policed, rate, Duration::from_secs(30), 9.0);
    }
}

#[test]
fn lossy_ones_are_given_up() {
    for rate in [2.0, 40.0, 400.0] {
        assert_given_up(Fault::Lossy, rate, Duration::from_secs(30), 9.0);
    }
}

#[test]
fn dead_ones_are_given_up() {
    for rate in [2.0, 40.0, 400.0] {
        assert_given_up(Fault::Silent, rate, Duration::from_secs(30), 9.0);
    }
}

#[test]
fn far_ones_are_given_up() {
    for rate in [2.0, 40.0, 400.0] {
        assert_given_up(Fault::Far, rate, Duration::from_secs(30), 9.0);
    }
}
