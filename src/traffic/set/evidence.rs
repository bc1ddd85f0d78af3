//! Evidence: a sequential test, which decides as soon as enough was seen and no sooner (CUSUM: Page 1954).

/// At so much evidence a connection is condemned. It adds up by the logarithm of how many times below the
/// threshold a value is, and is taken back by how many times above: a sixtieth of what is usual is seen after
/// four evaluations, and nine tenths of the threshold after fifty. What is as often above as below never is.
const ENOUGH: f64 = 5.0;
/// One evaluation says so much at most.
const STEP_MAX: f64 = 1.5;

/// What has been seen against a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence(f64);

impl Evidence {
    /// `value` was seen, which should not be below `threshold`. It counts for `weight`, 1 at most: what few packets tell
    /// is mostly luck.
    pub(super) fn add(&mut self, value: f64, threshold: f64, weight: f64) {
        // Where the others have nothing either, it says nothing.
        let step = if threshold > 0.0 { (threshold / value.max(1e-9)).ln() } else { 0.0 };
        self.0 = (self.0 + weight * step.clamp(-STEP_MAX, STEP_MAX)).clamp(0.0, ENOUGH);
    }

    /// What was seen before a pause says less of what comes after it.
    pub(super) fn fade(&mut self) {
        self.0 /= 2.0;
    }

    pub(super) fn is_enough(self) -> bool {
        self.0 >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many evaluations of such a share of the threshold there is enough.
    fn evaluations(share: f64) -> Option<u32> {
        let mut evidence = Evidence::default();
        (1..1_000).find(|_| {
            evidence.add(share, 1.0, 1.0);
            evidence.is_enough()
        })
    }

    #[test]
    fn the_further_below_the_threshold_the_sooner_there_is_enough() {
        assert_eq!(evaluations(1.0 / 30.0), Some(4));
        assert_eq!(evaluations(0.0), Some(4));
        assert_eq!(evaluations(0.5), Some(8));
        assert_eq!(evaluations(0.9), Some(48));
        assert_eq!(evaluations(1.0), None);
    }

    #[test]
    fn what_is_as_far_above_as_below_is_never_enough() {
        let mut evidence = Evidence::default();
        for share in [0.4, 0.5, 2.0, 2.5, 0.3, 3.4].repeat(100) {
            evidence.add(share, 1.0, 1.0);
            assert!(!evidence.is_enough());
        }
    }

    #[test]
    fn what_counts_for_less_takes_longer() {
        let mut evidence = Evidence::default();
        let light = (1..1_000).find(|_| {
            evidence.add(0.0, 1.0, 0.25);
            evidence.is_enough()
        });
        assert_eq!(light, Some(14));
    }

    #[test]
    fn where_nobody_has_anything_there_is_none() {
        let mut evidence = Evidence::default();
        for _ in 0..100 {
            evidence.add(0.0, 0.0, 1.0);
        }
        assert!(!evidence.is_enough());
    }
}
