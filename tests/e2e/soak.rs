//! Rounds of pushes of which either end is killed at random, until they are done.
//!
//! A few rounds of a small file in an ordinary run; `QBULK_SOAK_ROUNDS`, `QBULK_SOAK_MIB` and
//! `QBULK_SOAK_SEED` make it a long one.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::{Host, Serve, finish, hash, names, random};
use crate::relay::{Path, Relay};

const MIB: u64 = 1 << 20;
/// Of each of the ten connections.
const BYTES_PER_S: f64 = 8e6;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A push to a server by way of a relay, which can be killed at either end.
struct Round {
    host: Host,
    serve: Serve,
    relay: Relay,
}

impl Round {
    fn start(bytes: u64, seed: u64) -> Self {
        let host = Host::new();
        let serve = Serve::start(&host);
        let path = Path { bytes_per_s: BYTES_PER_S, seed, ..Path::default() };
        let relay = Relay::start(serve.address, path);
        fs::write(host.src("file"), random(seed, bytes as usize)).unwrap();
        Self { host, serve, relay }
    }

    fn push(&self) -> Child {
        let mut push = self.host.pushing(&[self.host.src("file").as_ref()], &self.relay.url(""));
        push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What the server had written of the first run.
    fn written(&self) -> u64 {
        loop {
            let event = self.serve.next();
            match event["event"].as_str() {
                Some("aborted") => return event["bytes"].as_u64().unwrap(),
                Some("finished") => return 0,
                _ => {}
            }
        }
    }

    fn kill_server(&mut self) {
        self.serve.child.kill().unwrap();
        self.serve.child.wait().unwrap();
        self.serve = Serve::at(&self.host, self.serve.address);
    }
}

/// Kills a push or its server at a random moment and lets the push end. Returns how many bytes of
/// content were written, or confirmed, before the kill and had to be sent again.
fn round(bytes: u64, seed: u64) -> u64 {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut round = Round::start(bytes, seed);
    let whole = bytes as f64 / (10.0 * BYTES_PER_S);
    let mut push = round.push();
    sleep(Duration::from_secs_f64(random.random_range(0.1..0.9) * whole));
    let is_client = random.random::<bool>();
    if is_client {
        // It may have ended by itself on a slow day.
        push.kill().ok();
        push.wait().unwrap();
        push = round.push();
    } else {
        round.kill_server();
    }
    let ran = finish(push);
    assert_eq!(ran.code, 0, "seed {seed}: {ran:?}");
    assert_eq!(hash(&round.host.src("file")), hash(&round.host.root("file")), "seed {seed}");
    assert_eq!(names(&round.host.root("")), ["file"], "seed {seed}");
    let summary = ran.summary();
    let count = |name: &str| summary[name].as_u64().unwrap();
    let again = if is_client {
        round.written().saturating_sub(count("kept_bytes"))
    } else {
        count("sent_bytes").saturating_sub(bytes)
    };
    let side = if is_client { "client" } else { "server" };
    eprintln!("seed {seed}: {side} killed, {again} bytes again ({} stripes)", count("stripes"));
    again
}

#[test]
fn pushes_of_which_either_end_is_killed_at_any_moment_arrive_whole() {
    let (rounds, mib) = (number("QBULK_SOAK_ROUNDS", 2), number("QBULK_SOAK_MIB", 64));
    let first = number("QBULK_SOAK_SEED", 1);
    let bytes = mib * MIB;
    let again: Vec<u64> = (first..first + rounds).map(|seed| round(bytes, seed)).collect();
    let share = |sent: u64| 100.0 * sent as f64 / bytes as f64;
    let mean = share(again.iter().sum::<u64>()) / rounds as f64;
    let most = share(again.iter().max().copied().unwrap_or(0));
    eprintln!(
        "{rounds} rounds of {mib} MiB: sent again by kill {mean:.2}% on average, {most:.2}% at most"
    );
    // What is under way when a small file's transfer is killed weighs more.
    assert!(mib < 256 || mean < 8.0, "{mean}% of the file sent again by kill");
}
