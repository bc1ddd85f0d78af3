//! Rounds of pushes and pulls of which either end is killed at random, and run again, until they are done.
//!
//! A few rounds of a small file in an ordinary run; `QBULK_SOAK_ROUNDS`, `QBULK_SOAK_MIB` and
//! `QBULK_SOAK_SEED` make it a long one.

use std::thread::sleep;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::common::Serve;
use crate::relay::Path;
use crate::scene::{Course, MIB, Push, Scene, both_ways};

/// Of each of the ten connections that there are at first.
const BYTES_PER_S: f64 = 6e6;
/// One way.
const DELAY: Duration = Duration::from_millis(5);
/// Ends are killed this often in a round, at most.
const KILLS_MAX: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Server,
    Both,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn scene(course: Course, mib: u64, seed: u64) -> Scene {
    Scene::of(course, mib, Path { bytes_per_s: BYTES_PER_S, delay: DELAY, seed, ..Path::default() })
}

/// What is brought to the receiver if nobody disturbs it, in bytes: the file, and what it takes to move it.
fn undisturbed(course: Course, mib: u64) -> u64 {
    let scene = scene(course, mib, 0);
    scene.assert_undisturbed(&scene.push(&[]).finish());
    scene.delivered()
}

/// Kills ends of it at random moments until it has ended. Returns how often, and what all runs
/// together have brought to the receiver, in bytes.
fn round(course: Course, mib: u64, seed: u64) -> (u64, u64) {
    eprintln!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut scene = scene(course, mib, seed);
    let mut moments: Vec<u64> = (0..random.random_range(1..=KILLS_MAX))
        .map(|_| random.random_range(0..mib * MIB))
        .collect();
    moments.sort_unstable();
    let (mut push, mut kills) = (scene.push(&[]), 0);
    for moment in moments {
        if !waited_for(&scene, &mut push, moment) {
            break;
        }
        let sides = [Side::Client, Side::Server, Side::Both];
        kill(&mut scene, &mut push, *sides.choose(&mut random).unwrap());
        kills += 1;
    }
    let ran = push.finish();
    scene.assert_arrived(&ran);
    (kills, scene.delivered())
}

/// Waits until so much was brought to the receiver. False if the push has ended before.
fn waited_for(scene: &Scene, push: &mut Push, bytes: u64) -> bool {
    while scene.delivered() < bytes {
        if push.child.try_wait().unwrap().is_some() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

fn kill(scene: &mut Scene, push: &mut Push, side: Side) {
    eprintln!("  {side:?} killed after {} bytes", scene.delivered());
    if !matches!(side, Side::Client) {
        scene.serve.child.kill().unwrap();
        scene.serve.child.wait().unwrap();
    }
    if !matches!(side, Side::Server) {
        push.child.kill().unwrap();
        push.child.wait().unwrap();
    }
    if !matches!(side, Side::Client) {
        scene.serve = Serve::at(&scene.host, scene.serve.address);
    }
    if !matches!(side, Side::Server) {
        *push = scene.push(&[]);
    }
}

both_ways!(what_either_end_is_killed_of_at_any_moment_arrives_whole);

fn what_either_end_is_killed_of_at_any_moment_arrives_whole(course: Course) {
    let (rounds, mib) = (number("QBULK_SOAK_ROUNDS", 2), number("QBULK_SOAK_MIB", 48));
    let first = number("QBULK_SOAK_SEED", 1);
    let once = undisturbed(course, mib);
    // Handshakes, padding and repairs are counted as well: it is at most so much.
    let share = |bytes: u64| 100.0 * bytes as f64 / (mib * MIB) as f64;
    let (mut kills, mut again, mut most) = (0, 0, 0.0_f64);
    for seed in first..first + rounds {
        let (killed, bytes) = round(course, mib, seed);
        let more = bytes.saturating_sub(once);
        eprintln!("  {killed} kills, {:.2}% of the file brought again", share(more));
        kills += killed;
        again += more;
        most = most.max(share(more) / killed.max(1) as f64);
    }
    let mean = share(again) / kills.max(1) as f64;
    eprintln!(
        "{rounds} rounds of {mib} MiB, {kills} kills: brought again by kill {mean:.2}% of the file on \
         average, {most:.2}% at most in a round"
    );
    // What is under way when a small file's transfer is killed weighs more.
    assert!(mib < 256 || mean < 8.0, "{mean}% of the file brought again by kill");
}
