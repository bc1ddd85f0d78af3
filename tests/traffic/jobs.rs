//! Several jobs on one set of connections.

use std::num::NonZeroU32;
use std::time::Duration;

use qbulk::traffic::{Item, ItemId, Verdict};

use crate::job::{Begins, Job, Work};
use crate::network::Network;
use crate::outcome::Outcome;
use crate::sim::Sim;
use crate::{NETWORKS_WITH_JOBS, run};

const RTT: Duration = Duration::from_millis(50);
/// What each of four connections can carry, in bytes per second.
const RATE: f64 = 5e6;

fn work(bytes: u64) -> Work {
    Work::new(vec![(Duration::ZERO, Item::split(ItemId(0), bytes))], Duration::ZERO)
}

fn weight(weight: u32) -> NonZeroU32 {
    NonZeroU32::new(weight).expect("not 0")
}

fn plain(jobs: Vec<Work>) -> Outcome {
    Sim::new(&Network::plain(RTT, RATE, jobs), 1).run()
}

#[test]
fn one_after_another_goes_over_the_same_warm_connections() {
    let next = Work { begins: Begins::Then(Duration::from_secs(1)), ..work(10_000_000) };
    let outcome = plain(vec![work(10_000_000), next.clone(), next]);
    assert_eq!(outcome.stats.opened, 6, "no connection but the first ones");
    assert_eq!(outcome.bytes, 30_000_000);
    let times: Vec<Duration> = outcome.jobs.iter().map(Job::time).collect();
    assert!(times[1..].iter().all(|&time| time + RTT < times[0]), "{times:?}");
}

#[test]
fn side_by_side_they_get_what_their_weights_say() {
    let heavy = Work { weight: weight(3), ..work(60_000_000) };
    let outcome = plain(vec![work(60_000_000), heavy]);
    let [from, to] = [1, 3].map(Duration::from_secs);
    assert!(outcome.jobs.iter().all(|job| job.drained_at.is_some_and(|at| at > to)));
    let [light, heavy] = [0, 1].map(|job: usize| {
        let job = &outcome.jobs[job];
        (job.confirmed_by(to) - job.confirmed_by(from)) as f64
    });
    assert!((2.7..3.3).contains(&(heavy / light)), "{heavy} bytes beside {light}");
}

#[test]
fn a_small_one_does_not_wait_for_a_big_one() {
    let begins = Begins::At(Duration::from_secs(2));
    for (weight_of_it, round_trips) in [(1, 12), (100, 8)] {
        let small = Work { begins, weight: weight(weight_of_it), ..work(500_000) };
        let outcome = plain(vec![work(100_000_000), small]);
        let time = outcome.jobs[1].time();
        assert!(time <= round_trips * RTT, "{time:?} with a weight of {weight_of_it}");
        assert!(outcome.jobs[0].drained_at > outcome.jobs[1].drained_at);
    }
}

/// What it did before is not held against it, nor is what it left to others.
#[test]
fn one_that_had_nothing_to_send_for_long_gets_no_more_than_its_share() {
    let pause = Duration::from_secs(2);
    let late = Item::split(ItemId(1), 60_000_000);
    let idle = Work::new(vec![(Duration::ZERO, Item::split(ItemId(0), 1)), (pause, late)], pause);
    let outcome = plain(vec![work(100_000_000), idle]);
    let [from, to] = [3, 5].map(Duration::from_secs);
    let [busy, idle] = [0, 1].map(|job: usize| {
        let job = &outcome.jobs[job];
        (job.confirmed_by(to) - job.confirmed_by(from)) as f64
    });
    assert!((0.9..1.1).contains(&(busy / idle)), "{busy} bytes beside {idle}");
}

#[test]
fn one_that_is_called_off_leaves_the_other_all_there_is() {
    let called_off = Some(Duration::from_secs(1));
    let outcome = plain(vec![work(20_000_000), Work { called_off, ..work(1_000_000_000) }]);
    let alone = plain(vec![work(20_000_000)]);
    assert_eq!(outcome.bytes, 20_000_000, "all of the other");
    assert!(outcome.abandoned > 0 && outcome.jobs[1].drained_at.is_none());
    let [beside, alone] = [outcome, alone].map(|outcome| outcome.jobs[0].time());
    // For a second it had half.
    let most = alone + Duration::from_millis(700);
    assert!(beside < most, "{beside:?}, and alone {alone:?}");
}

#[test]
fn lanes_that_go_bad_hold_no_job_up() {
    let heavy = Work { weight: weight(3), ..work(40_000_000) };
    for seed in 0..20 {
        let jobs = vec![work(40_000_000), heavy.clone(), work(40_000_000)];
        let network = Network { bad: 0.4, ..Network::plain(RTT, RATE, jobs) };
        let outcome = Sim::new(&network, seed).run();
        assert_eq!(outcome.bytes, 120_000_000, "seed {seed}");
        assert!(outcome.time < Duration::from_secs(40), "{:?} with seed {seed}", outcome.time);
    }
}

#[test]
fn every_byte_of_every_job_arrives_over_networks_that_go_bad() {
    let name = "every_byte_of_every_job_arrives_over_networks_that_go_bad";
    let bad = |seed| Network::draw_jobs(seed, true);
    run(name, NETWORKS_WITH_JOBS, bad, |network, outcome| {
        if network.is_unreachable() {
            return;
        }
        assert!(!outcome.is_stuck);
        let config = &network.config;
        let set = config.active_max - config.active + config.connections;
        let seconds = outcome.time.as_secs() as usize + 1;
        let condemned = outcome.verdicts.iter().filter(|verdict| **verdict != Verdict::Lost);
        assert!(condemned.count() <= 2 * set + 6 * seconds, "{:?}", outcome.verdicts);
    });
}

#[test]
fn on_healthy_networks_jobs_give_no_connection_a_bad_name() {
    let name = "on_healthy_networks_jobs_give_no_connection_a_bad_name";
    let healthy = |seed| Network::draw_jobs(seed, false);
    run(name, NETWORKS_WITH_JOBS, healthy, |_, outcome| {
        assert!(outcome.verdicts.is_empty(), "{:?}", outcome.verdicts);
        assert!(!outcome.is_stuck);
    });
}
