//! Loss: how much of it is congestion, and how much the path has always.

use std::collections::VecDeque;

/// A share of lost bytes above this is congestion (draft-ietf-ccwg-bbr, 2.7: `BBR.LossThresh`), unless
/// the path always loses: then so many times what it loses when there is room is added. What a path
/// always loses is capped, so that steady congestion is not mistaken for it.
const LOSS_MAX: f64 = 0.02;
const BASELINE_FACTOR: f64 = 2.0;
const BASELINE_MAX: f64 = 0.04;
/// Losses are judged over this many packets at least.
const EPOCH_PACKETS: u64 = 128;
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
    /// `None` while there is too little to judge.
    pub(super) fn judge(&self, mtu: u64, baseline: &Baseline) -> Option<LossVerdict> {
        let bytes = self.delivered_bytes + self.lost_bytes;
        if bytes < EPOCH_PACKETS * mtu && !self.marked {
            return None;
        }
        let packets = bytes as f64 / mtu as f64;
        let lost = self.lost_bytes as f64 / mtu as f64;
        let limit = packets * (LOSS_MAX + BASELINE_FACTOR * baseline.share());
        // Two standard deviations above the limit are hardly chance.
        let excess = lost > limit + 2.0 * limit.sqrt();
        Some(LossVerdict { share: lost / packets.max(1.0), excess })
    }
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
}
