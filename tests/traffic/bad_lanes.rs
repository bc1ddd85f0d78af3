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

/// That over slow and fast lines, in the worst of some runs, no lane with this fault is used for longer than
/// `borne`, none that is well is given up, and all of it takes hardly longer than without.
fn assert_given_up(fault: Fault, borne: Duration) {
    // Where a line is slow, the last stripes of a bad lane are a larger part of it.
    for (mbit_per_s, times) in [(2.0, 1.15), (40.0, 1.1), (400.0, 1.1)] {
        for seed in 0..SEEDS {
            let [clean, bad] = [None, Some(fault)].map(|fault| run(mbit_per_s, fault, seed));
            let name = format!("{fault:?}, {mbit_per_s} Mbit/s, seed {seed}");
            assert_eq!((clean.verdicts.len(), bad.wronged), (0, 0), "{name}: one that is well");
            assert!(bad.borne <= borne, "{name}: used for {:?}", bad.borne);
            let longer = bad.time.div_duration_f64(clean.time);
            assert!(longer <= times, "{name}: {:?} instead of {:?}", bad.time, clean.time);
        }
    }
}

const BORNE: Duration = Duration::from_secs(4);

#[test]
fn narrow_ones_are_given_up() {
    assert_given_up(Fault::Slow, BORNE);
}

#[test]
fn policed_ones_are_given_up() {
    assert_given_up(Fault::Policed, BORNE);
}

#[test]
fn lossy_ones_are_given_up() {
    assert_given_up(Fault::Lossy, BORNE);
}

#[test]
fn ones_that_are_dead_after_their_handshakes_are_given_up() {
    assert_given_up(Fault::Silent, Duration::from_secs(1));
}

/// Those carry as much as the others: nobody is given up.
#[test]
fn ones_that_go_a_long_way_round_hold_nothing_up() {
    assert_given_up(Fault::Far, Duration::MAX);
}
