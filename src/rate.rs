//! How fast something goes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which it is measured.
const RATE_TIME: Duration = Duration::from_secs(1);

/// The rate over the last second or so.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    points: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes in how many bytes there are by now; returns bytes per second.
    pub(crate) fn update(&mut self, now: Instant, bytes: u64) -> f64 {
        self.points.push_back((now, bytes));
        while self.points.len() > 2 && now - self.points[1].0 >= RATE_TIME {
            self.points.pop_front();
        }
        let (since, before) = self.points[0];
        let seconds = (now - since).as_secs_f64();
        if seconds > 0.0 { (bytes - before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_last_second() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.update(start, 0).to_bits(), 0.0_f64.to_bits());
        let mut last = 0.0;
        for tenth in 1..=30 {
            let bytes = if tenth <= 10 { 0 } else { (tenth - 10) * 1_000 };
            last = rate.update(start + Duration::from_millis(tenth * 100), bytes);
        }
        assert!((last - 10_000.0).abs() < 1.0, "{last}");
    }
}
