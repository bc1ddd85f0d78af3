//! What a run has covered.

use std::collections::BTreeMap;
use std::env;
use std::io::{Write, stderr};
use std::time::Duration;

use crate::network::Network;
use crate::outcome::Outcome;

/// Counts over many networks.
#[derive(Default)]
pub(crate) struct Tally {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    networks: u64,
    bytes: u64,
    time: Duration,
    longest: (Duration, u64),
}

/// A number in the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

impl Tally {
    pub(crate) fn add(&mut self, seed: u64, network: &Network, outcome: &Outcome) {
        self.networks += 1;
        self.bytes += outcome.bytes;
        self.time += outcome.time;
        self.longest = self.longest.max((outcome.time, seed));
        for name in &network.traits {
            self.count("networks with", name, 1);
        }
        let size = match outcome.bytes {
            0 => "nothing",
            1..1_000_000 => "below 1 MB",
            1_000_000..100_000_000 => "1 to 100 MB",
            _ => "100 MB and more",
        };
        self.count("networks by bytes sent", size, 1);
        self.count("networks by end", if outcome.is_stuck { "stuck" } else { "all confirmed" }, 1);
        for verdict in &outcome.verdicts {
            self.count("connections given up", verdict.name(), 1);
        }
        for end in &outcome.prime_ends {
            self.count("primings by end", end.name(), 1);
        }
        let stats = outcome.stats;
        for (name, count) in [
            ("connections opened", stats.opened),
            ("connections not needed any more", outcome.surplus),
            ("takeovers", stats.takeovers),
            ("turns", stats.turns),
            ("stripes sent again", stats.stripes_again),
            ("stripes sent over a second connection as well", outcome.hedged),
            ("stripes abandoned", outcome.abandoned),
            ("stripes damaged", outcome.damaged),
            ("reserves primed again", outcome.reprimed),
            ("MB of padding", outcome.padding_bytes / 1_000_000),
            ("kB of padding beside data", outcome.padding_beside_bytes / 1_000),
        ] {
            self.count("in all", name, count);
        }
    }

    pub(crate) fn networks(&self) -> u64 {
        self.networks
    }

    pub(crate) fn takeovers(&self) -> u64 {
        self.counts.get(&("in all", "takeovers")).copied().unwrap_or(0)
    }

    /// Tells it to whoever watches, also where the test passes.
    pub(crate) fn show(&self, test: &str) {
        let mut lines = vec![format!(
            "\n{test}: {} networks, {:.1} GB in {:.1} h, the longest {:.1} s (seed {})",
            self.networks,
            self.bytes as f64 / 1e9,
            self.time.as_secs_f64() / 3_600.0,
            self.longest.0.as_secs_f64(),
            self.longest.1,
        )];
        let mut group = "";
        for (&(in_group, name), count) in &self.counts {
            if group != in_group {
                group = in_group;
                lines.push(format!("  {group}"));
            }
            lines.push(format!("    {count:>12} {name}"));
        }
        // Past the capture of what tests print.
        let text = lines.join("\n") + "\n";
        stderr().write_all(text.as_bytes()).expect("standard error takes it");
    }

    fn count(&mut self, group: &'static str, name: &'static str, count: u64) {
        *self.counts.entry((group, name)).or_default() += count;
    }
}
