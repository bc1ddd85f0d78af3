//! Priming: opening a connection's congestion window with padding before data needs it.
//!
//! The window itself is no proof: a sender that is short of CPU sees it grow without bound. What counts
//! is what the receiver acknowledged within a round trip.

use std::time::{Duration, Instant};

use super::super::Sample;

/// How far and how long a connection is primed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrimeConfig {
    /// Delivered bytes per round trip at which a connection counts as primed.
    pub target_bytes: u64,
    /// Padding that one priming may cost, in bytes.
    pub budget_bytes: u64,
    /// How long one priming may take.
    pub budget_time: Duration,
}

impl Default for PrimeConfig {
    fn default() -> Self {
        Self { target_bytes: 1 << 20, budget_bytes: 4 << 20, budget_time: Duration::from_secs(2) }
    }
}

/// Why a priming ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimeEnd {
    /// The target was delivered within a round trip.
    Target,
    /// Three rounds brought no more than the ones before: the path gives no more.
    Plateau,
    /// Losses, or a round-trip time that says that a queue grows.
    Congestion,
    /// The budget of bytes or time is used up.
    Budget,
    /// Data is ready and has the right of way.
    Data,
}

impl PrimeEnd {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Plateau => "plateau",
            Self::Congestion => "congestion",
            Self::Budget => "budget",
            Self::Data => "data",
        }
    }
}

/// Growth from one round to the next that still counts as growth (draft-ietf-ccwg-bbr, 5.3.1.2).
const GROWTH_MIN: f64 = 1.25;
/// Rounds without growth that make a plateau.
const PLATEAU_ROUNDS: u32 = 3;
/// Share of a round's bytes lost that means congestion (draft-ietf-ccwg-bbr: `BBR.LossThresh`).
const LOSS_SHARE_MAX: f64 = 0.02;
/// Fewer lost bytes than this are noise: a few packets.
const LOSS_BYTES_MIN: u64 = 6_000;

/// One priming of one connection. Feed it every sample until it says that it is over.
#[derive(Clone, Debug)]
pub struct Primer {
    config: PrimeConfig,
    started: Instant,
    at_start: Sample,
    round_started: Instant,
    at_round_start: Sample,
    best_bytes: f64,
    rounds: u32,
    flat_rounds: u32,
}

impl Primer {
    /// Starts a priming of a connection that has measured `sample` so far.
    pub fn new(config: PrimeConfig, sample: Sample, now: Instant) -> Self {
        Self {
            config,
            started: now,
            at_start: sample,
            round_started: now,
            at_round_start: sample,
            best_bytes: 0.0,
            rounds: 0,
            flat_rounds: 0,
        }
    }

    /// Takes a new sample in. Returns why the priming is over, or `None` while it goes on.
    pub fn on_sample(&mut self, sample: Sample, now: Instant) -> Option<PrimeEnd> {
        let padding_bytes = sample.padding_bytes.saturating_sub(self.at_start.padding_bytes);
        let end = self.on_round(sample, now);
        if end.is_some() {
            return end;
        }
        let out_of_bytes = padding_bytes >= self.config.budget_bytes;
        let out_of_time = now.duration_since(self.started) >= self.config.budget_time;
        (out_of_bytes || out_of_time).then_some(PrimeEnd::Budget)
    }

    /// The most that was delivered within one round trip, in bytes.
    pub fn best_bytes(&self) -> u64 {
        self.best_bytes as u64
    }

    /// Whole rounds measured.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// When it is over at the latest.
    pub fn deadline(&self) -> Instant {
        self.started + self.config.budget_time
    }

    fn on_round(&mut self, sample: Sample, now: Instant) -> Option<PrimeEnd> {
        let elapsed = now.duration_since(self.round_started);
        if sample.rtt.is_zero() || elapsed < sample.rtt {
            return None;
        }
        let since = self.at_round_start;
        let delivered_bytes = sample.delivered_bytes.saturating_sub(since.delivered_bytes) as f64;
        let lost_bytes = sample.lost_bytes.saturating_sub(since.lost_bytes);
        // Samples do not fall on the round's end: what came is scaled to one round trip.
        let per_round = delivered_bytes * sample.rtt.as_secs_f64() / elapsed.as_secs_f64();
        self.round_started = now;
        self.at_round_start = sample;
        if delivered_bytes == 0.0 && lost_bytes == 0 {
            return None; // the first round trip is still under way
        }
        self.rounds += 1;
        if per_round >= self.best_bytes * GROWTH_MIN {
            self.flat_rounds = 0;
        } else {
            self.flat_rounds += 1;
        }
        self.best_bytes = self.best_bytes.max(per_round);

        let loss_share = lost_bytes as f64 / (lost_bytes as f64 + delivered_bytes);
        let queue_grows = sample.rtt > sample.rtt_min * 2 + Duration::from_millis(5);
        if self.best_bytes >= self.config.target_bytes as f64 {
            Some(PrimeEnd::Target)
        } else if (lost_bytes >= LOSS_BYTES_MIN && loss_share > LOSS_SHARE_MAX) || queue_grows {
            Some(PrimeEnd::Congestion)
        } else if self.flat_rounds >= PLATEAU_ROUNDS {
            Some(PrimeEnd::Plateau)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    /// Runs a priming over rounds of (delivered, lost) bytes; says how it ended and after which round.
    fn run(config: PrimeConfig, rtt: Duration, rounds: &[(u64, u64)]) -> Option<(PrimeEnd, usize)> {
        let mut now = Instant::now();
        let mut sample = Sample { rtt: RTT, rtt_min: RTT, ..Sample::default() };
        let mut primer = Primer::new(config, sample, now);
        for (index, &(delivered_bytes, lost_bytes)) in rounds.iter().enumerate() {
            now += rtt;
            sample.rtt = rtt;
            sample.delivered_bytes += delivered_bytes;
            sample.padding_bytes += delivered_bytes + lost_bytes;
            sample.lost_bytes += lost_bytes;
            if let Some(end) = primer.on_sample(sample, now) {
                return Some((end, index));
            }
        }
        None
    }

    fn config() -> PrimeConfig {
        PrimeConfig::default()
    }

    #[test]
    fn slow_start_reaches_the_target() {
        let rounds: Vec<_> = (0..10).map(|round| (14_000 << round, 0)).collect();
        assert_eq!(run(config(), RTT, &rounds), Some((PrimeEnd::Target, 7)));
    }

    #[test]
    fn a_full_path_is_a_plateau() {
        let rounds = [(14_000, 0), (28_000, 0), (30_000, 0), (31_000, 0), (30_000, 0)];
        assert_eq!(run(config(), RTT, &rounds), Some((PrimeEnd::Plateau, 4)));
    }

    #[test]
    fn losses_and_queues_are_congestion_but_a_stray_packet_is_not() {
        let heavy = [(14_000, 0), (28_000, 12_000)];
        assert_eq!(run(config(), RTT, &heavy), Some((PrimeEnd::Congestion, 1)));
        let stray = [(14_000, 0), (28_000, 1_200), (56_000, 0)];
        assert_eq!(run(config(), RTT, &stray), None);
        let queue = [(14_000, 0)];
        assert_eq!(run(config(), RTT * 3, &queue), Some((PrimeEnd::Congestion, 0)));
    }

    #[test]
    fn the_budget_bounds_bytes_and_time() {
        let small = PrimeConfig { budget_bytes: 40_000, ..config() };
        let rounds = [(14_000, 0), (28_000, 0)];
        assert_eq!(run(small, RTT, &rounds), Some((PrimeEnd::Budget, 1)));
        let silent = [(0, 0); 100];
        assert_eq!(run(config(), RTT, &silent), Some((PrimeEnd::Budget, 39)));
    }
}
