//! Which stripes of a transfer are written, so that what arrives twice is written once.

use std::collections::{BTreeMap, HashMap};

/// Stripes may be this far ahead of the first one that is missing.
const AHEAD_MAX: u64 = 1 << 20;
/// Runs of stripes that are written, at most: between them are such as are under way, and of these an honest
/// sender has no more.
const RUNS_MAX: usize = 1 << 14;

/// What to do with a stripe that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Write it; then call [`Ledger::written`] or [`Ledger::failed`].
    Write,
    /// It is written.
    Known,
    /// It is being written; who asked is told when it is done.
    Wait,
    /// No honest client is so far ahead.
    TooFar,
}

/// `W` is whoever waits for a stripe that somebody else is writing.
#[derive(Debug)]
pub(super) struct Ledger<W> {
    /// Runs of written stripes, from first to one past the last; they never touch.
    written: BTreeMap<u64, u64>,
    writing: HashMap<u64, Vec<W>>,
}

impl<W> Default for Ledger<W> {
    fn default() -> Self {
        Self { written: BTreeMap::new(), writing: HashMap::new() }
    }
}

impl<W> Ledger<W> {
    /// Whether a stripe is written.
    pub(super) fn is_written(&self, stripe: u64) -> bool {
        self.written.range(..=stripe).next_back().is_some_and(|(_, &end)| stripe < end)
    }

    /// Whether the first `stripes` are all written.
    pub(super) fn has_all(&self, stripes: u64) -> bool {
        stripes == 0 || self.written.get(&0).is_some_and(|&end| end >= stripes)
    }

    /// `who` has all of a stripe.
    pub(super) fn claim(&mut self, stripe: u64, who: W) -> Claim {
        let frontier = self.written.get(&0).copied().unwrap_or(0);
        if self.is_written(stripe) {
            Claim::Known
        } else if stripe - frontier > AHEAD_MAX
            || self.written.len() >= RUNS_MAX && stripe > frontier
        {
            Claim::TooFar
        } else if let Some(waiting) = self.writing.get_mut(&stripe) {
            waiting.push(who);
            Claim::Wait
        } else {
            self.writing.insert(stripe, Vec::new());
            Claim::Write
        }
    }

    /// A claimed stripe is written. Returns who else waits to hear so.
    pub(super) fn written(&mut self, stripe: u64) -> Vec<W> {
        let before = self.written.range(..stripe).next_back().map(|(&start, &end)| (start, end));
        let start = match before {
            Some((start, end)) if end == stripe => start,
            _ => stripe,
        };
        let end = self.written.remove(&(stripe + 1)).unwrap_or(stripe + 1);
        self.written.insert(start, end);
        self.writing.remove(&stripe).unwrap_or_default()
    }

    /// A claimed stripe was not written. Returns who else had it, and must send it again too.
    pub(super) fn failed(&mut self, stripe: u64) -> Vec<W> {
        self.writing.remove(&stripe).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_arrives_twice_is_written_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.claim(5, 'a'), Claim::Write);
        assert_eq!(ledger.claim(5, 'b'), Claim::Wait);
        assert_eq!(ledger.written(5), ['b']);
        assert_eq!(ledger.claim(5, 'c'), Claim::Known);
        assert_eq!(ledger.claim(6, 'a'), Claim::Write);
        assert_eq!(ledger.claim(6, 'b'), Claim::Wait);
        assert_eq!(ledger.failed(6), ['b']);
        assert_eq!(ledger.claim(6, 'b'), Claim::Write);
        assert_eq!(ledger.claim(u64::MAX, 'a'), Claim::TooFar);
    }

    #[test]
    fn a_sender_that_leaves_gaps_everywhere_is_stopped_and_may_fill_the_first() {
        let mut ledger = Ledger::default();
        let gaps = (2..).step_by(2).take_while(|&stripe| {
            let is_taken = ledger.claim(stripe, ()) == Claim::Write;
            if is_taken {
                ledger.written(stripe);
            }
            is_taken
        });
        assert_eq!(gaps.count(), RUNS_MAX);
        assert_eq!(ledger.claim(0, ()), Claim::Write);
    }

    proptest! {
        #[test]
        fn it_knows_what_was_written_and_keeps_it_short(
            order in Just((0..200_u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut ledger = Ledger::default();
            for (count, &stripe) in order.iter().enumerate() {
                prop_assert_eq!(ledger.claim(stripe, ()), Claim::Write);
                ledger.written(stripe);
                for other in 0..200 {
                    prop_assert_eq!(ledger.is_written(other), order[..=count].contains(&other));
                }
            }
            prop_assert_eq!(ledger.written.len(), 1);
            prop_assert!(ledger.has_all(200) && !ledger.has_all(201));
        }
    }
}
