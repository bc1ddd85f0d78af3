//! Health: how well a connection does, and when it is unsatisfactory.
//!
//! The score is the RTT-weighted goodput: bytes that the receiver acknowledged per second, times
//! `rtt_min / rtt`, so that a rate bought with a growing queue counts for less (to both a little is
//! added, so that a busy host does not count as a queue). It is judged against the connection's siblings:
//! where all slow down alike, nobody is condemned. And it is judged only while the network is what limits
//! it: a connection that waits for a disk, a receiver or a core is not made faster by replacing it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::Sample;
use super::evidence::Evidence;
use super::verdict::Verdict;

/// When a connection is unsatisfactory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthConfig {
    /// The share of the siblings' median below which a score is too low.
    pub threshold: f64,
    /// Goodput below which a connection is unsatisfactory whatever its siblings do; 0 turns it off.
    pub floor_bytes_per_s: u64,
    /// Round-trip time above which a connection is unsatisfactory.
    pub rtt_max: Option<Duration>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { threshold: 0.5, floor_bytes_per_s: 0, rtt_max: None }
    }
}

/// Evaluations in a row, each over at least a round trip, that must agree before a connection is condemned for
/// what the user has set.
const STRIKES: u32 = 4;
/// Where its path is not worse than the siblings', only what is below this share of the threshold counts: where
/// all paths are alike, luck decides who is fastest at the moment.
const FAR_BELOW: f64 = 0.25;
/// One that delivers so many times as much as at the evaluation before is not slow, it has yet to become fast.
const GROWTH_MIN: f64 = 1.25;
/// A path is worse than the siblings' if it loses this many times as much, and this share more, or if
/// its round trips are drawn out, or just longer, by this much more.
const LOSS_FACTOR: f64 = 3.0;
const LOSS_MARGIN: f64 = 0.005;
const INFLATION_FACTOR: f64 = 1.5;
/// A window that allows less than this share of what the siblings' allow has collapsed.
const COLLAPSE_SHARE: f64 = 0.125;
/// What siblings deliver between two evaluations tells all that it can from this on, a handful of packets, in bytes.
const TELLING_BYTES: f64 = 8_000.0;
/// What busy hosts may add to a round trip.
const HOST_TIME: Duration = Duration::from_millis(10);
/// Goodput is measured over at least this long.
const WINDOW_MIN: Duration = Duration::from_millis(200);
/// What a busy host may add to a silence.
const SILENCE_MARGIN: Duration = Duration::from_millis(20);
/// Samples kept at most.
const SAMPLES_MAX: usize = 64;

/// What one connection delivered lately. Feed it every sample while the connection has data to send.
#[derive(Clone, Debug)]
pub struct Meter {
    samples: VecDeque<(Instant, Sample)>,
    /// Samples since the last evaluation, and those of them that show the network as the limit.
    seen: u32,
    limited: u32,
    last: Sample,
    busy_since: Instant,
    progress_at: Instant,
    acked_at: Option<Instant>,
    evaluated_at: Instant,
    /// What it delivered per second then.
    evaluated_goodput: f64,
    /// What it delivered per second before it was idle, or with padding.
    goodput_before: f64,
    /// Since when it has had nothing to send, after it had something.
    idle_since: Option<Instant>,
    /// Against it: for being slow, and for a window that has collapsed.
    slow: Evidence,
    collapsed: Evidence,
    limit_strikes: u32,
}

/// What a connection is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Siblings {
    /// Median of the other active connections' scores.
    pub score: f64,
    /// Median of what their congestion windows allow, in bytes per second.
    pub allowed: f64,
    /// Median of their loss shares.
    pub loss_share: f64,
    /// Median of their round trips' inflation.
    pub inflation: f64,
    /// Median of their round trips, in seconds, as [`Meter::rtt`] has them.
    pub rtt: f64,
}

impl Meter {
    /// Starts measuring.
    pub fn new(now: Instant) -> Self {
        Self {
            samples: VecDeque::new(),
            seen: 0,
            limited: 0,
            last: Sample::default(),
            busy_since: now,
            progress_at: now,
            acked_at: None,
            evaluated_at: now,
            evaluated_goodput: 0.0,
            goodput_before: 0.0,
            idle_since: None,
            slow: Evidence::default(),
            collapsed: Evidence::default(),
            limit_strikes: 0,
        }
    }

    /// The connection was idle and now has data to send: unless that was for less than a round trip, what it did
    /// before says nothing about now.
    pub fn resume(&mut self, now: Instant) {
        if self.idle_since.take().is_some_and(|since| now - since <= self.last.rtt) {
            return;
        }
        self.samples.clear();
        self.samples.push_back((now, self.last));
        self.seen = 0;
        self.limited = 0;
        self.busy_since = now;
        self.progress_at = now;
        self.evaluated_at = now;
        self.limit_strikes = 0;
        self.slow.fade();
        self.collapsed.fade();
    }

    /// It has nothing to send any more.
    pub fn pause(&mut self, now: Instant) {
        self.idle_since = Some(now);
        self.remember();
    }

    /// What it did is remembered for when it has something to send again.
    pub fn remember(&mut self) {
        let is_limited = self.limited > 0 && self.limited * 2 >= self.seen;
        // Where something else was the limit, it could do more.
        let least = if is_limited { 0.0 } else { self.goodput_before };
        self.goodput_before = self.pace().max(least);
    }

    /// Takes a new sample in.
    pub fn on_sample(&mut self, sample: Sample, now: Instant) {
        // Where nothing is under way, nothing can come back.
        if sample.delivered_bytes > self.last.delivered_bytes {
            self.acked_at = Some(now);
        }
        if sample.delivered_bytes > self.last.delivered_bytes || sample.in_flight_bytes == 0 {
            self.progress_at = now;
        }
        let loses = sample.lost_bytes > self.last.lost_bytes;
        let fills_window = sample.in_flight_bytes * 2 >= sample.window_bytes;
        self.seen += 1;
        self.limited += u32::from(loses || fills_window);
        self.last = sample;
        // Samples come every few milliseconds; a long window keeps only as many as resolve it.
        let spacing = self.window() / (SAMPLES_MAX as u32 / 2);
        let replace_last = self.samples.len() > 1
            && self.samples.iter().rev().nth(1).is_some_and(|&(at, _)| now - at < spacing);
        if replace_last {
            self.samples.pop_back();
        }
        self.samples.push_back((now, sample));
        let start = now.checked_sub(self.window());
        while self.samples.len() > SAMPLES_MAX
            || (self.samples.len() > 2 && start.is_some_and(|start| self.samples[1].0 < start))
        {
            self.samples.pop_front();
        }
    }

    /// Bytes acknowledged per second, over the last few round trips.
    pub fn goodput(&self) -> f64 {
        let (Some(&(from, before)), Some(&(to, after))) =
            (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let seconds = (to - from).as_secs_f64();
        let bytes = after.delivered_bytes - before.delivered_bytes;
        if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 }
    }

    /// What it is expected to deliver per second: what it does, or what it did before it was idle while it has
    /// been busy for less than a round trip. 0 if nothing is known.
    pub fn pace(&self) -> f64 {
        self.measured().unwrap_or(self.goodput_before)
    }

    /// Its goodput, once it has been busy for a round trip.
    pub fn measured(&self) -> Option<f64> {
        let ((from, _), (to, _)) = self.samples.front().zip(self.samples.back())?;
        (*to > *from && *to - *from >= self.last.rtt).then(|| self.goodput())
    }

    /// The share of what was sent lately that was lost.
    pub fn loss_share(&self) -> f64 {
        let (Some((_, before)), Some((_, after))) = (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let lost = (after.lost_bytes - before.lost_bytes) as f64;
        let delivered = (after.delivered_bytes - before.delivered_bytes) as f64;
        if lost > 0.0 { lost / (lost + delivered) } else { 0.0 }
    }

    /// How much longer round trips take than they could.
    pub fn inflation(&self) -> f64 {
        self.rtt() / (self.last.rtt_min + HOST_TIME).as_secs_f64()
    }

    /// How long a round trip takes, in seconds, with what busy hosts may add.
    pub fn rtt(&self) -> f64 {
        (self.last.rtt + HOST_TIME).as_secs_f64()
    }

    /// What its congestion window allows, in bytes per second.
    pub fn allowed(&self) -> f64 {
        self.last.window_bytes as f64 / self.rtt()
    }

    /// The RTT-weighted goodput, in bytes per second.
    pub fn score(&self) -> f64 {
        if self.last.rtt.is_zero() {
            return 0.0;
        }
        self.goodput() / self.inflation()
    }

    /// The latest sample.
    pub fn last(&self) -> &Sample {
        &self.last
    }

    /// When an acknowledgement last came: what tells a path that is dead from a host that stands still.
    pub fn acked_at(&self) -> Option<Instant> {
        self.acked_at
    }

    /// Whether it has been busy long enough for its score to mean something.
    pub fn is_settled(&self, now: Instant) -> bool {
        now - self.busy_since >= self.window()
    }

    /// How long silence may last: by then two probes have gone unanswered, the first after one probe
    /// timeout, the second after two more (RFC 9002, 6.2).
    pub fn silence_max(&self) -> Duration {
        self.last.pto.max(self.last.rtt) * 3 + SILENCE_MARGIN
    }

    /// For how long nothing has come back of what is under way.
    pub fn quiet_time(&self, now: Instant) -> Duration {
        now - self.progress_at
    }

    /// Whether nothing has come back for too long.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_time(now) > self.silence_max()
    }

    /// Whether it is quiet while `others_at` says that the siblings' latest acknowledgement is newer by
    /// as much. A stalled host or a cut path silences all alike.
    pub fn is_silent(&self, others_at: Instant, now: Instant) -> bool {
        let behind = others_at.saturating_duration_since(self.progress_at);
        self.is_quiet(now) && behind > self.silence_max()
    }

    /// Judges the score, at most once a round trip. `None` if the connection is satisfactory so far.
    pub fn evaluate(
        &mut self,
        config: &HealthConfig,
        siblings: Option<Siblings>,
        now: Instant,
    ) -> Option<Verdict> {
        let interval = self.round_trip().max(WINDOW_MIN / 4);
        if !self.is_settled(now) || now - self.evaluated_at < interval {
            return None;
        }
        let passed = now - std::mem::replace(&mut self.evaluated_at, now);
        let is_limited = self.limited * 2 >= self.seen;
        self.seen = 0;
        self.limited = 0;
        let limit = self.judge_limits(config, is_limited);
        let verdict =
            siblings.and_then(|siblings| self.judge(config, siblings, is_limited, passed));
        limit.or(verdict)
    }

    fn judge_limits(&mut self, config: &HealthConfig, is_limited: bool) -> Option<Verdict> {
        let verdict = if is_limited && self.goodput() < config.floor_bytes_per_s as f64 {
            Some(Verdict::BelowFloor)
        } else if config.rtt_max.is_some_and(|rtt_max| self.last.rtt > rtt_max) {
            Some(Verdict::RttTooHigh)
        } else {
            None
        };
        self.limit_strikes = if verdict.is_some() { self.limit_strikes + 1 } else { 0 };
        verdict.filter(|_| self.limit_strikes >= STRIKES)
    }

    fn judge(
        &mut self,
        config: &HealthConfig,
        siblings: Siblings,
        is_limited: bool,
        passed: Duration,
    ) -> Option<Verdict> {
        let goodput = self.goodput();
        let grows = goodput > GROWTH_MIN * std::mem::replace(&mut self.evaluated_goodput, goodput);
        if !is_limited || grows {
            return None;
        }
        let score = self.score();
        // Where all paths lose alike, luck decides who is fastest at the moment: only a path that is
        // worse than the siblings' is left for one of theirs.
        let path_is_worse = self.loss_share() > LOSS_FACTOR * siblings.loss_share + LOSS_MARGIN
            || self.inflation() > INFLATION_FACTOR * siblings.inflation.max(1.0)
            || self.rtt() > INFLATION_FACTOR * siblings.rtt;
        let share = if path_is_worse { 1.0 } else { FAR_BELOW };
        let weight = (siblings.score * passed.as_secs_f64() / TELLING_BYTES).min(1.0);
        self.slow.add(score, share * config.threshold * siblings.score, weight);
        self.collapsed.add(self.allowed(), COLLAPSE_SHARE * siblings.allowed, weight);
        if self.slow.is_enough() {
            Some(Verdict::Slow)
        } else if self.collapsed.is_enough() && score < siblings.score {
            Some(Verdict::Collapsed)
        } else {
            None
        }
    }

    fn window(&self) -> Duration {
        (self.round_trip() * 4).max(WINDOW_MIN)
    }

    /// The time that things are measured by. A queue of many round trips must not put off its discovery.
    fn round_trip(&self) -> Duration {
        self.last.rtt.min(self.last.rtt_min * 2)
    }
}

/// The median of `values`, the lower one of two; `None` if there are none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    const STEP: Duration = Duration::from_millis(10);

    /// Others, with such a score.
    fn others(score: f64) -> Siblings {
        let rtt = (RTT + HOST_TIME).as_secs_f64();
        Siblings { score, allowed: 1e7, inflation: 1.0, loss_share: 0.0, rtt }
    }

    struct Run {
        meter: Meter,
        sample: Sample,
        now: Instant,
        loss: f64,
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            let sample =
                Sample { rtt: RTT, rtt_min: RTT, window_bytes: 1 << 20, ..Sample::default() };
            Self { meter: Meter::new(now), sample, now, loss: 0.0 }
        }

        /// Delivers at `rate` bytes per second for `time`; says when a verdict fell.
        fn go(
            &mut self,
            rate: f64,
            time: Duration,
            siblings: f64,
            config: &HealthConfig,
        ) -> Option<(Verdict, Duration)> {
            let began = self.now;
            while self.now - began < time {
                self.now += STEP;
                self.sample.delivered_bytes += (rate * STEP.as_secs_f64()) as u64;
                self.meter.on_sample(self.sample, self.now);
                self.sample.in_flight_bytes = self.sample.window_bytes;
                self.sample.lost_bytes += (self.loss * rate * STEP.as_secs_f64()) as u64;
                if let Some(verdict) = self.meter.evaluate(config, Some(others(siblings)), self.now)
                {
                    return Some((verdict, self.now - began));
                }
            }
            None
        }
    }

    #[test]
    fn a_sudden_drop_below_the_siblings_is_noticed_within_a_few_round_trips() {
        let config = HealthConfig::default();
        let mut run = Run::new();
        assert_eq!(run.go(1e7, Duration::from_secs(2), 1e7, &config), None);
        run.loss = 0.05;
        let (verdict, after) = run.go(5e5, Duration::from_secs(5), 1e7, &config).unwrap();
        assert_eq!(verdict, Verdict::Slow);
        assert!(after < RTT * 9, "{after:?}");
    }

    #[test]
    fn the_further_below_the_siblings_the_sooner_it_is_noticed() {
        let config = HealthConfig::default();
        let after = |score| {
            let mut run = Run::new();
            run.loss = 0.05;
            run.go(score, Duration::from_secs(20), 1e7, &config).map(|(_, after)| after)
        };
        let [far, near] = [1e7 / 60.0, 4.5e6].map(|score| after(score).unwrap());
        assert!(far < WINDOW_MIN + RTT * 5, "{far:?}");
        assert!(near > RTT * 40, "{near:?}");
        assert_eq!(after(5.5e6), None);
    }

    #[test]
    fn one_that_becomes_faster_is_not_slow() {
        let config = HealthConfig::default();
        let mut run = Run::new();
        run.loss = 0.05;
        let mut rate = 1e5;
        while rate < 1e7 {
            assert_eq!(run.go(rate, RTT * 2, 1e7, &config), None, "at {rate}");
            rate *= 2.0;
        }
    }

    #[test]
    fn a_window_that_has_collapsed_is_noticed_while_the_rate_looks_fine() {
        let config = HealthConfig::default();
        let mut run = Run::new();
        run.sample.window_bytes = 20_000;
        let (verdict, _) = run.go(6e6, Duration::from_secs(20), 1e7, &config).unwrap();
        assert_eq!(verdict, Verdict::Collapsed);
    }

    #[test]
    fn a_connection_that_waits_for_something_else_than_the_network_is_left_alone() {
        let config = HealthConfig::default();
        let mut run = Run::new();
        assert_eq!(run.go(1e7, Duration::from_secs(2), 1e7, &config), None);
        let began = run.now;
        while run.now - began < Duration::from_secs(5) {
            run.now += STEP;
            run.sample.window_bytes = 1 << 20;
            run.sample.in_flight_bytes = 1;
            run.sample.delivered_bytes += 1_000;
            run.meter.on_sample(run.sample, run.now);
            assert_eq!(run.meter.evaluate(&config, Some(others(1e7)), run.now), None);
        }
    }

    #[test]
    fn when_all_slow_down_alike_nobody_is_condemned() {
        let config = HealthConfig::default();
        let mut run = Run::new();
        assert_eq!(run.go(1e7, Duration::from_secs(2), 1e7, &config), None);
        assert_eq!(run.go(5e5, Duration::from_secs(5), 5e5, &config), None);
    }

    #[test]
    fn one_that_was_never_faster_is_condemned_only_far_below_the_others() {
        let config = HealthConfig::default();
        assert_eq!(Run::new().go(4e6, Duration::from_secs(20), 1e7, &config), None);
        let (verdict, _) = Run::new().go(1e5, Duration::from_secs(20), 1e7, &config).unwrap();
        assert_eq!(verdict, Verdict::Slow);
    }

    #[test]
    fn the_users_floor_and_ceiling_hold_without_siblings() {
        let floor = HealthConfig { floor_bytes_per_s: 1_000_000, ..HealthConfig::default() };
        let slow = Run::new().go(5e5, Duration::from_secs(5), 0.0, &floor);
        assert_eq!(slow.unwrap().0, Verdict::BelowFloor);
        let ceiling = HealthConfig { rtt_max: Some(RTT / 2), ..HealthConfig::default() };
        let late = Run::new().go(1e7, Duration::from_secs(5), 0.0, &ceiling);
        assert_eq!(late.unwrap().0, Verdict::RttTooHigh);
    }

    #[test]
    fn silence_counts_only_while_others_hear_something() {
        let mut run = Run::new();
        run.go(1e7, Duration::from_secs(1), 1e7, &HealthConfig::default());
        let later = run.now + Duration::from_millis(400);
        assert!(run.meter.is_silent(later, later));
        assert!(!run.meter.is_silent(run.now, later));
    }

    #[test]
    fn a_growing_queue_lowers_the_score() {
        let mut run = Run::new();
        run.go(1e7, Duration::from_secs(1), 1e7, &HealthConfig::default());
        let before = run.meter.score();
        run.sample.rtt = RTT * 2;
        run.go(1e7, Duration::from_secs(1), 1e7, &HealthConfig::default());
        assert!(run.meter.score() < before * 0.6);
    }
}
