//! A path: what is between two hosts, and what else goes on there.

use std::time::Duration;

use crate::network::Lane;

/// What is between two hosts.
#[derive(Clone)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// What all connections have in common.
    pub(crate) trunk: Lane,
    /// What each connection has one of; all of them as wide as the trunk if there is none.
    pub(crate) lanes: Vec<Lane>,
    /// What the trunk's rate is multiplied by from each of these times on, again and again.
    pub(crate) changes: Vec<(Duration, f64)>,
    /// Somebody else is there: one connection of CUBIC that always has something to send.
    pub(crate) is_shared: bool,
    /// The rate may be lower than it says: it changes, or is policed.
    pub(crate) is_uneven: bool,
}

impl Path {
    pub(crate) fn new(name: &'static str, mbit_per_s: f64, rtt_ms: f64) -> Self {
        let delay = Duration::from_secs_f64(rtt_ms / 2e3);
        let trunk = Lane {
            queue: Duration::from_secs_f64((rtt_ms / 1e3).max(0.02)),
            ..Lane::new(mbit_per_s * 1e6 / 8.0, delay)
        };
        Self { name, trunk, lanes: vec![], changes: vec![], is_shared: false, is_uneven: false }
    }

    pub(crate) fn queue_ms(mut self, queue_ms: f64) -> Self {
        self.trunk.queue = Duration::from_secs_f64(queue_ms / 1e3);
        self
    }

    pub(crate) fn lost(mut self, lost: f64) -> Self {
        self.trunk.lost = lost;
        self
    }

    pub(crate) fn trunk(mut self, change: impl FnOnce(&mut Lane)) -> Self {
        change(&mut self.trunk);
        self
    }

    /// `count` lanes, which `change` is given with their numbers.
    pub(crate) fn lanes(mut self, count: usize, change: impl Fn(usize, &mut Lane)) -> Self {
        let wide = Lane { queue: Duration::from_millis(50), ..Lane::new(1e12, Duration::ZERO) };
        self.lanes = vec![wide; count];
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            change(number, lane);
        }
        self
    }

    pub(crate) fn changes(mut self, changes: &[(f64, f64)]) -> Self {
        self.changes =
            changes.iter().map(|&(at, factor)| (Duration::from_secs_f64(at), factor)).collect();
        self.is_uneven = true;
        self
    }

    pub(crate) fn uneven(mut self) -> Self {
        self.is_uneven = true;
        self
    }

    pub(crate) fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    pub(crate) fn rtt(&self) -> Duration {
        let lane = self.lanes.first().map_or(Duration::ZERO, |lane| lane.delay);
        (self.trunk.delay + lane) * 2
    }

    /// What it carries on average, in bytes per second.
    fn bytes_per_s(&self) -> f64 {
        let lanes: f64 = self.lanes.iter().map(|lane| lane.bytes_per_s).sum();
        let trunk = self.trunk.bytes_per_s * self.mean_factor();
        if self.lanes.is_empty() { trunk } else { trunk.min(lanes) }
    }

    fn mean_factor(&self) -> f64 {
        let Some(&(end, _)) = self.changes.last() else { return 1.0 };
        let mut sum = 0.0;
        let mut before = (Duration::ZERO, 1.0);
        for &(at, factor) in &self.changes {
            sum += at.saturating_sub(before.0).as_secs_f64() * before.1;
            before = (at, factor);
        }
        sum / end.as_secs_f64()
    }

    /// What it holds without a queue, in bytes.
    pub(crate) fn bdp_bytes(&self) -> u64 {
        (self.bytes_per_s() * self.rtt().as_secs_f64()) as u64
    }

    /// How long `bytes` have to take: at 0.94 of the rate, which is what headers leave of it, and a round trip.
    pub(crate) fn least_s(&self, bytes: u64) -> f64 {
        bytes as f64 / (0.94 * self.bytes_per_s()) + self.rtt().as_secs_f64()
    }

    /// From 1 kB to 200 bandwidth-delay products, and what lies between.
    pub(crate) fn sizes(&self, most: u64) -> Vec<u64> {
        let bdp = self.bdp_bytes();
        let mut sizes = vec![1_000, 100_000, bdp, 10 * bdp, 50 * bdp, 200 * bdp];
        sizes.retain(|&bytes| (1_000..=most).contains(&bytes));
        sizes.sort_unstable();
        sizes.dedup_by(|one, other| *one < *other * 2);
        sizes
    }
}
