//! The tuner: how many connections carry data.
//!
//! More of them where each is limited for itself (a policer, a lane of its own), no more where they
//! share one bottleneck. It tries, measures and keeps what has paid off; one sample decides nothing.

use std::time::{Duration, Instant};

/// A measurement spans this many round trips, and this long at least.
const SPAN_ROUND_TRIPS: u32 = 8;
const SPAN_MIN: Duration = Duration::from_millis(400);
/// Growth from one measurement to the next up to which the rate is steady.
const STEADY: f64 = 1.05;
/// More connections must bring at least this share of what they would if each brought its part.
const GAIN_MIN: f64 = 0.3;
/// Weight of the newest tick in how often the network was the limit.
const LIMITED_GAIN: f64 = 0.05;
/// Below this, it was not the limit for so long that it is forgotten.
const LIMITED_FORGOTTEN: f64 = 0.01;
/// Fewer connections may cost this much.
const LOSS_MAX: f64 = 0.03;
/// Where the network is not the limit, fewer do as well: so often there are some less, down to the start.
const BACK_INTERVAL: Duration = Duration::from_secs(5);
/// After a trial that did not pay off, the next one waits; longer each time.
const REST_MIN: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(60);

/// Finds how many connections should be active. Feed it every few milliseconds.
#[derive(Debug)]
pub struct Tuner {
    active: usize,
    active_min: usize,
    active_max: usize,
    step: Step,
    /// How often the network was the limit lately: a share.
    limited: f64,
    /// Since when it was not, or when the last step back was.
    unlimited_since: Option<Instant>,
    rest: Duration,
    /// The next trial is of fewer connections.
    shrink_next: bool,
}

/// What the tuner is at.
#[derive(Clone, Copy, Debug)]
enum Step {
    Rest { until: Option<Instant> },
    Measure { span: Span, before: f64 },
    Settle { before: Trial, until: Instant },
    Try { before: Trial, span: Span },
}

/// What a trial is held against.
#[derive(Clone, Copy, Debug)]
struct Trial {
    active: usize,
    goodput: f64,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    since: Instant,
    delivered_bytes: u64,
}

/// What the connections do at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes that all connections have delivered since the transfer began.
    pub delivered_bytes: u64,
    /// The network is what limits them: data waits, and their windows are full.
    pub is_limited: bool,
    /// A queue says that the path they share is full.
    pub is_full: bool,
    /// Their round-trip time.
    pub rtt: Duration,
}

impl Tuner {
    /// Starts with `active` connections, never goes below that nor above `active_max`.
    pub fn new(active: usize, active_max: usize) -> Self {
        Self {
            active,
            active_min: active,
            active_max: active_max.max(active),
            step: Step::Rest { until: None },
            limited: 0.0,
            unlimited_since: None,
            rest: REST_MIN,
            shrink_next: false,
        }
    }

    /// How many connections should be active.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Whether nothing comes of it that the connections go on having nothing to do.
    pub fn is_at_rest(&self) -> bool {
        self.active == self.active_min && self.limited < LIMITED_FORGOTTEN
    }

    /// Takes in what the connections do.
    pub fn on_load(&mut self, load: Load, now: Instant) {
        if self.active_min == self.active_max {
            return;
        }
        let span_time = (load.rtt * SPAN_ROUND_TRIPS).max(SPAN_MIN);
        self.limited += (f64::from(u8::from(load.is_limited)) - self.limited) * LIMITED_GAIN;
        if self.limited < 0.5 {
            self.give_up(now + span_time);
            return self.step_back(now);
        }
        self.unlimited_since = None;
        let span = Span { since: now, delivered_bytes: load.delivered_bytes };
        match self.step {
            // The windows need a while to open.
            Step::Rest { until: None } => self.step = Step::Rest { until: Some(now + span_time) },
            Step::Rest { until: Some(until) } if now >= until => {
                self.step = Step::Measure { span, before: 0.0 };
            }
            Step::Measure { span: measured, before } if now - measured.since >= span_time => {
                let goodput = measured.goodput(load, now);
                if goodput == 0.0 {
                    // The network is gone, and nothing would do better than nothing.
                    self.step = Step::Rest { until: Some(now + span_time) };
                } else if goodput > before * STEADY {
                    // It still grows by itself, and that must not count for more connections.
                    self.step = Step::Measure { span, before: goodput };
                } else if load.is_full && self.active == self.active_min {
                    self.step = Step::Rest { until: Some(now + span_time) };
                } else {
                    // A full path has no use for more.
                    self.shrink_next |= load.is_full;
                    self.begin(Trial { active: self.active, goodput }, now + span_time);
                }
            }
            Step::Settle { before, until } if now >= until => {
                self.step = Step::Try { before, span };
            }
            Step::Try { before, span } if now - span.since >= span_time => {
                self.judge(before, span.goodput(load, now), now + span_time, now);
            }
            _ => {}
        }
    }

    fn begin(&mut self, before: Trial, until: Instant) {
        let active = if self.shrink_next && self.active > self.active_min {
            self.active - self.fewer()
        } else {
            (self.active + (self.active / 2).max(1)).min(self.active_max)
        };
        self.active = active;
        self.step = Step::Settle { before, until };
    }

    fn judge(&mut self, before: Trial, goodput: f64, settled: Instant, now: Instant) {
        let more = self.active as f64 / before.active as f64 - 1.0;
        let pays = if self.active > before.active {
            goodput >= before.goodput * (1.0 + GAIN_MIN * more)
        } else {
            goodput >= before.goodput * (1.0 - LOSS_MAX)
        };
        if pays && goodput > 0.0 && self.active != before.active {
            self.rest = REST_MIN;
            self.shrink_next &= self.active > self.active_min;
            self.begin(Trial { active: self.active, goodput }, settled);
        } else {
            self.active = before.active;
            self.shrink_next = !self.shrink_next && self.active > self.active_min;
            self.step = Step::Rest { until: Some(now + self.rest) };
            self.rest = (self.rest * 2).min(REST_MAX);
        }
    }

    /// The network is not the limit: what is measured now means nothing.
    fn give_up(&mut self, until: Instant) {
        match self.step {
            Step::Settle { before, .. } | Step::Try { before, .. } => {
                self.active = before.active;
                self.step = Step::Rest { until: Some(until) };
            }
            Step::Measure { .. } => self.step = Step::Rest { until: Some(until) },
            Step::Rest { .. } => {}
        }
    }

    fn step_back(&mut self, now: Instant) {
        let since = *self.unlimited_since.get_or_insert(now);
        if self.active > self.active_min && now - since >= BACK_INTERVAL {
            self.active -= self.fewer();
            self.unlimited_since = Some(now);
        }
    }

    /// How many less are tried at a time.
    fn fewer(&self) -> usize {
        (self.active / 4).clamp(1, self.active - self.active_min)
    }
}

impl Span {
    fn goodput(&self, load: Load, now: Instant) -> f64 {
        let seconds = (now - self.since).as_secs_f64();
        (load.delivered_bytes - self.delivered_bytes) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a tuner for a minute on a network that gives `rate(active)` bytes per second.
    fn run(
        active: usize,
        active_max: usize,
        is_full: bool,
        rate: impl Fn(usize) -> f64,
    ) -> (usize, usize) {
        let mut tuner = Tuner::new(active, active_max);
        let mut now = Instant::now();
        let (mut delivered, mut most) = (0.0, 0);
        for _ in 0..6_000 {
            now += Duration::from_millis(10);
            delivered += rate(tuner.active()) * 0.01;
            let rtt = Duration::from_millis(50);
            let delivered_bytes = delivered as u64;
            let load = Load { delivered_bytes, is_limited: true, is_full, rtt };
            tuner.on_load(load, now);
            most = most.max(tuner.active());
        }
        (tuner.active(), most)
    }

    #[test]
    fn where_each_is_limited_for_itself_there_are_more_until_the_path_is_full() {
        let (active, most) = run(8, 32, false, |active| (active as f64 * 7.5e6).min(120e6));
        assert!((16..=24).contains(&active), "{active}");
        assert!(most <= 32);
    }

    #[test]
    fn on_a_shared_bottleneck_there_are_no_more() {
        let (active, most) = run(8, 32, false, |_| 100e6);
        assert_eq!((active, most), (8, 12));
    }

    #[test]
    fn on_a_path_that_is_full_more_are_not_even_tried() {
        assert_eq!(run(8, 32, true, |_| 100e6), (8, 8));
    }

    #[test]
    fn what_is_not_needed_any_more_goes_back_to_the_start() {
        let mut tuner = Tuner::new(8, 32);
        let (mut now, mut delivered) = (Instant::now(), 0.0);
        let mut run = |tuner: &mut Tuner, seconds: u32, is_limited| {
            for _ in 0..seconds * 100 {
                now += Duration::from_millis(10);
                delivered += tuner.active() as f64 * 75e3;
                let (delivered_bytes, rtt) = (delivered as u64, Duration::from_millis(50));
                tuner.on_load(Load { delivered_bytes, is_limited, is_full: false, rtt }, now);
            }
            tuner.active()
        };
        assert_eq!(run(&mut tuner, 60, true), 32);
        assert_eq!(run(&mut tuner, 4, false), 32, "a pause");
        assert!(run(&mut tuner, 4, false) < 32);
        assert_eq!(run(&mut tuner, 40, false), 8);
        assert_eq!(run(&mut tuner, 60, true), 32, "it is needed again");
    }

    #[test]
    fn while_nothing_gets_through_no_number_is_better_than_another() {
        let (mut now, mut delivered_bytes) = (Instant::now(), 0);
        let mut load = |tuner: &mut Tuner, bytes| {
            now += Duration::from_millis(10);
            delivered_bytes += bytes;
            let rtt = Duration::from_millis(50);
            let load = Load { delivered_bytes, is_limited: true, is_full: false, rtt };
            tuner.on_load(load, now);
            tuner.active()
        };
        // At whatever it is when the network goes, it does not grow from then on.
        for ticks in (0..1_000).step_by(50) {
            let mut tuner = Tuner::new(8, 32);
            for _ in 0..ticks {
                load(&mut tuner, 10_000);
            }
            for _ in 0..200 {
                load(&mut tuner, 0);
            }
            for _ in 0..5_000 {
                assert_eq!(load(&mut tuner, 0), 8, "gone after {ticks} ticks");
            }
        }
    }

    #[test]
    fn a_fixed_number_stays() {
        assert_eq!(run(8, 8, false, |active| active as f64 * 1e6), (8, 8));
    }
}
