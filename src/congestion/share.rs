//! Sharing a budget: everyone gets the same, but nobody more than it can use.

/// The level up to which each of `demands` (bytes) is granted, so that all grants together are `budget`.
/// Demands that are below the level leave the rest to the others. If the budget satisfies everyone, the
/// level is what is left over above the largest demand.
pub fn level(budget: u64, demands: &mut [u64]) -> u64 {
    demands.sort_unstable();
    let mut left = budget;
    for (index, &demand) in demands.iter().enumerate() {
        let takers = (demands.len() - index) as u64;
        if demand.saturating_mul(takers) >= left {
            return left / takers;
        }
        left -= demand;
    }
    left + demands.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_needs_little_leaves_the_rest_to_the_others() {
        assert_eq!(level(90, &mut [1_000, 1_000, 1_000]), 30);
        assert_eq!(level(90, &mut [10, 1_000, 1_000]), 40);
        assert_eq!(level(90, &mut [10, 20]), 80);
        assert_eq!(level(90, &mut []), 90);
    }

    proptest! {
        #[test]
        fn grants_never_exceed_the_budget_and_use_it_up(
            budget in 0_u64..1 << 40,
            mut demands in proptest::collection::vec(0_u64..1 << 38, 1..64),
        ) {
            let level = level(budget, &mut demands);
            let granted: u64 = demands.iter().map(|&demand| demand.min(level)).sum();
            let wanted: u64 = demands.iter().sum();
            prop_assert!(granted <= budget);
            prop_assert!(granted + demands.len() as u64 >= budget.min(wanted));
        }
    }
}
