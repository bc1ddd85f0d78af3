//! Loss: how much of it is congestion, and how much the path has always.

use std::collections::VecDeque;

/// A share of lost bytes above this is congestion (draft-ietf-ccwg-bbr, 2.7: `BBR.LossThresh`), unless
/// the path always loses: then so many times what it loses when there is room is added. What a path
/// always loses is capped, so that steady congestion is not mistaken for it.
const LOSS_MAX: f64 = 0.02;
const BASELINE_FACTOR: f64 = 2.0;
const BASELINE_MAX: f64 = 0.04;
/// A connection loses much more than is usual if it loses so many times as much, and this share more.
const OUTLIER_FACTOR: f64 = 3.0;
const OUTLIER_SHARE: f64 = 0.05;
/// Losses are judged over this many packets at least.
const EPOCH_PACKETS: u64 = 128;
/// Where more than this share is lost of so many packets, a path may hold less than the least windows of all.
const CROWDED_LOSS: f64 = 0.05;
const CROWDED_PACKETS: u64 = 16;
/// Epochs that the baseline is taken from.
const EPOCHS: usize = 12;

/// What was delivered and lost since losses were last judged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Epoch {
    pub(super) delivered_bytes: u64,
    pub(super) lost_bytes: u64,
    pub(super) marked: bool,
}

/// What the path loses without our doing.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    shares: VecDeque<f64>,
}

/// What an epoch's losses say.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossVerdict {
    pub(super) share: f64,
    pub(super) excess: bool,
}

impl Epoch {
    /// What is left of it without `others`.
    pub(super) fn without(&self, others: &Self) -> Self {
        Self {
            delivered_bytes: self.delivered_bytes.saturating_sub(others.delivered_bytes),
            lost_bytes: self.lost_bytes.saturating_sub(others.lost_bytes),
            marked: self.marked,
        }
    }

    fn add(&mut self, other: &Self) {
        self.delivered_bytes += other.delivered_bytes;
        self.lost_bytes += other.lost_bytes;
    }

    fn bytes(&self) -> u64 {
        self.delivered_bytes + self.lost_bytes
    }

    /// The share that was lost.
    fn share(&self) -> f64 {
        self.lost_bytes as f64 / self.bytes().max(1) as f64
    }

    /// Whether it lost more than `share` of it by two standard deviations, which is hardly chance.
    fn exceeds(&self, share: f64, mtu: u64) -> bool {
        let limit = self.bytes() as f64 / mtu as f64 * share;
        self.lost_bytes as f64 / mtu as f64 > limit + 2.0 * limit.sqrt()
    }

    /// Whether so much is lost that it may be the least windows of all that are too much.
    pub(super) fn is_crowded(&self, mtu: u64) -> bool {
        self.bytes() >= CROWDED_PACKETS * mtu && self.exceeds(CROWDED_LOSS, mtu)
    }

    /// `None` while there is too little to judge.
    pub(super) fn judge(&self, mtu: u64, baseline: &Baseline) -> Option<LossVerdict> {
        if self.bytes() < EPOCH_PACKETS * mtu && !self.marked {
            return None;
        }
        let excess = self.exceeds(LOSS_MAX + BASELINE_FACTOR * baseline.share(), mtu);
        Some(LossVerdict { share: self.share(), excess })
    }
}

/// What a connection has delivered and lost: now, and in the epochs before, which count less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    now: Epoch,
    before: Epoch,
}

impl Ledger {
    pub(super) fn on_ack(&mut self, bytes: u64) {
        self.now.delivered_bytes += bytes;
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.now.lost_bytes += bytes;
    }

    /// Since losses were last judged.
    pub(super) fn now(&self) -> Epoch {
        self.now
    }

    pub(super) fn end_epoch(&mut self) {
        self.before = self.sum();
        self.before.delivered_bytes /= 2;
        self.before.lost_bytes /= 2;
        self.now = Epoch::default();
    }

    fn sum(&self) -> Epoch {
        let mut sum = self.before;
        sum.add(&self.now);
        sum
    }
}

/// What connections have delivered and lost in this epoch that lose much more than is usual among them: it
/// is their own paths that do so, and the others need not back off for it.
pub(super) fn outliers(ledgers: impl Iterator<Item = Ledger>, mtu: u64) -> Epoch {
    let ledgers: Vec<Ledger> = ledgers.filter(|ledger| ledger.sum().bytes() > 0).collect();
    let mut shares: Vec<f64> = ledgers.iter().map(|ledger| ledger.sum().share()).collect();
    shares.sort_by(f64::total_cmp);
    let mut sum = Epoch::default();
    // Of two, nobody knows which one is usual. Of more, a fourth are enough to tell: what they do not lose is not lost
    // where all go the same way.
    if shares.len() > 2 {
        let limit = OUTLIER_FACTOR * shares[shares.len() / 4] + OUTLIER_SHARE;
        for ledger in ledgers.iter().filter(|ledger| ledger.sum().exceeds(limit, mtu)) {
            sum.add(&ledger.now);
        }
    }
    sum
}

impl Baseline {
    pub(super) fn add(&mut self, share: f64) {
        self.shares.push_back(share);
        if self.shares.len() > EPOCHS {
            self.shares.pop_front();
        }
    }

    /// The lower quartile: what is lost while there is room.
    pub(super) fn share(&self) -> f64 {
        let mut shares: Vec<f64> = self.shares.iter().copied().collect();
        shares.sort_by(f64::total_cmp);
        shares.get(shares.len() / 4).copied().unwrap_or(0.0).min(BASELINE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_000;

    fn epoch(packets: u64, lost: u64) -> Epoch {
        let delivered_bytes = (packets - lost) * MTU;
        Epoch { delivered_bytes, lost_bytes: lost * MTU, marked: false }
    }

    #[test]
    fn what_the_path_always_loses_is_no_congestion_but_more_is() {
        let mut baseline = Baseline::default();
        assert!(epoch(1_000, 30).judge(MTU, &baseline).is_some_and(|verdict| verdict.excess));
        for _ in 0..EPOCHS {
            baseline.add(0.02);
        }
        assert!(epoch(1_000, 30).judge(MTU, &baseline).is_some_and(|verdict| !verdict.excess));
        assert!(epoch(1_000, 100).judge(MTU, &baseline).is_some_and(|verdict| verdict.excess));
    }

    #[test]
    fn steady_congestion_does_not_become_what_is_always_lost() {
        let mut baseline = Baseline::default();
        for _ in 0..EPOCHS {
            baseline.add(0.17);
        }
        assert!(epoch(1_000, 170).judge(MTU, &baseline).is_some_and(|verdict| verdict.excess));
    }

    #[test]
    fn a_few_packets_prove_nothing() {
        let baseline = Baseline::default();
        assert!(epoch(100, 50).judge(MTU, &baseline).is_none());
        assert!(epoch(130, 5).judge(MTU, &baseline).is_some_and(|verdict| !verdict.excess));
    }

    /// What the outliers of connections lose that each sent `packets`, and lost so many of them.
    fn lost_by_outliers(packets: u64, lost: &[u64]) -> u64 {
        let ledger = |&lost: &u64| Ledger { now: epoch(packets, lost), ..Ledger::default() };
        outliers(lost.iter().map(ledger), MTU).lost_bytes / MTU
    }

    #[test]
    fn a_connection_that_loses_much_more_than_the_others_does_so_by_itself() {
        assert_eq!(lost_by_outliers(50, &[0, 0, 15, 0, 1, 0, 40, 0]), 55);
        assert_eq!(lost_by_outliers(50, &[15, 12, 18, 14, 13]), 0, "all alike");
        assert_eq!(lost_by_outliers(50, &[2, 0, 4, 1, 3]), 0, "chance");
        assert_eq!(lost_by_outliers(50, &[0, 25]), 0, "nobody knows which one is usual");
        assert_eq!(lost_by_outliers(50, &[0, 20, 20, 20]), 0, "most of them");
    }

    #[test]
    fn what_was_lost_in_earlier_epochs_counts_less_and_less() {
        let mut ledger = Ledger::default();
        ledger.on_lost(8 * MTU);
        ledger.on_ack(40 * MTU);
        for (lost, delivered) in [(8, 40), (4, 20), (2, 10)] {
            let sum = ledger.sum();
            assert_eq!((sum.lost_bytes, sum.delivered_bytes), (lost * MTU, delivered * MTU));
            ledger.end_epoch();
        }
        assert_eq!(ledger.now().lost_bytes, 0);
    }
}
