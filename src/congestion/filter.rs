//! Extremes over a sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The largest of the values of the last few rounds.
#[derive(Clone, Debug)]
pub struct MaxFilter {
    rounds: u64,
    /// Falling values with the rounds that they were seen in.
    values: VecDeque<(u64, f64)>,
}

impl MaxFilter {
    /// Remembers values for `rounds` rounds.
    pub fn new(rounds: u64) -> Self {
        Self { rounds, values: VecDeque::new() }
    }

    /// Adds a value that was seen in `round`; rounds never go back.
    pub fn add(&mut self, round: u64, value: f64) {
        while self.values.back().is_some_and(|&(_, other)| other <= value) {
            self.values.pop_back();
        }
        if self.values.back().is_none_or(|&(other, _)| other < round) {
            self.values.push_back((round, value));
        }
        while self.values.front().is_some_and(|&(at, _)| at + self.rounds <= round) {
            self.values.pop_front();
        }
    }

    /// The largest value; 0 if there is none.
    pub fn max(&self) -> f64 {
        self.values.front().map_or(0.0, |&(_, value)| value)
    }
}

/// The smallest of the times measured in the last while.
#[derive(Clone, Debug)]
pub struct MinFilter {
    span: Duration,
    /// Rising values with the time that they were seen at.
    values: VecDeque<(Instant, Duration)>,
}

impl MinFilter {
    /// Remembers values for `span`.
    pub fn new(span: Duration) -> Self {
        Self { span, values: VecDeque::new() }
    }

    /// Changes for how long values are remembered.
    pub fn set_span(&mut self, span: Duration) {
        self.span = span;
    }

    /// Adds a value that was seen at `now`.
    pub fn add(&mut self, now: Instant, value: Duration) {
        while self.values.back().is_some_and(|&(_, other)| other >= value) {
            self.values.pop_back();
        }
        // Values that differ by little are one, so that the list stays short.
        let apart = self.span / 64;
        if self.values.back().is_none_or(|&(at, _)| now.saturating_duration_since(at) >= apart) {
            self.values.push_back((now, value));
        }
        while self.values.len() > 1
            && self.values.front().is_some_and(|&(at, _)| now - at > self.span)
        {
            self.values.pop_front();
        }
    }

    /// The smallest value.
    pub fn min(&self) -> Option<Duration> {
        self.values.front().map(|&(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_forgotten_after_its_rounds() {
        let mut filter = MaxFilter::new(3);
        for (round, value, want) in [(1, 5.0, 5.0), (2, 3.0, 5.0), (3, 4.0, 5.0), (4, 1.0, 4.0)] {
            filter.add(round, value);
            assert!((filter.max() - want).abs() < f64::EPSILON, "round {round}");
        }
        filter.add(9, 0.5);
        assert!((filter.max() - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn the_smallest_time_is_forgotten_after_its_span() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut filter = MinFilter::new(ms(1_000));
        filter.add(start, ms(50));
        filter.add(start + ms(500), ms(70));
        assert_eq!(filter.min(), Some(ms(50)));
        filter.add(start + ms(1_200), ms(80));
        assert_eq!(filter.min(), Some(ms(70)));
    }
}
