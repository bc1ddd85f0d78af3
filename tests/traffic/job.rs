//! One job of a run: what it is to send, and what has become of it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use qbulk::traffic::{Item, ItemId, Plan, Stripe, StripeId};

/// What is to be sent for one purpose. Its times count from when it begins.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) weight: NonZeroU32,
    pub(crate) begins: Begins,
    /// What is offered, and when; and when that is all.
    pub(crate) items: Vec<(Duration, Item)>,
    pub(crate) source_done: Duration,
    /// When it is called off.
    pub(crate) called_off: Option<Duration>,
}

/// When a job begins.
#[derive(Clone, Copy)]
pub(crate) enum Begins {
    At(Duration),
    /// So long after all earlier ones are over.
    Then(Duration),
}

impl Work {
    /// One that begins at once, like all others.
    pub(crate) fn new(items: Vec<(Duration, Item)>, source_done: Duration) -> Self {
        let (weight, begins) = (NonZeroU32::MIN, Begins::At(Duration::ZERO));
        Self { weight, begins, items, source_done, called_off: None }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.items.iter().map(|(_, item)| item.bytes + item.overhead_bytes).sum()
    }
}

/// What has become of a job.
#[derive(Default)]
pub(crate) struct Job {
    pub(crate) began_at: Option<Duration>,
    pub(crate) offered: usize,
    pub(crate) source_done: bool,
    pub(crate) accepted: bool,
    pub(crate) drained_at: Option<Duration>,
    pub(crate) over_at: Option<Duration>,
    pub(crate) stripes: HashMap<StripeId, Stripe>,
    /// Sent and not confirmed, as the set has been told.
    pub(crate) flying: HashMap<StripeId, u64>,
    pub(crate) written: BTreeSet<StripeId>,
    /// How much was confirmed by when, in bytes.
    pub(crate) confirmed: Vec<(Duration, u64)>,
}

impl Job {
    pub(crate) fn is_there(&self) -> bool {
        self.began_at.is_some() && self.over_at.is_none()
    }

    /// What was confirmed by `at`, in bytes.
    pub(crate) fn confirmed_by(&self, at: Duration) -> u64 {
        let until = self.confirmed.partition_point(|&(then, _)| then <= at);
        until.checked_sub(1).map_or(0, |last| self.confirmed[last].1)
    }

    /// From its beginning to the end.
    pub(crate) fn time(&self) -> Duration {
        let drained_at = self.drained_at.expect("all of it was confirmed");
        drained_at.saturating_sub(self.began_at.expect("it has begun"))
    }

    /// Every byte of every item was written, and no two stripes hold the same. Returns how many bytes.
    pub(crate) fn check(&self, work: &Work, plan: &Plan) -> u64 {
        assert!(plan.is_drained() && !plan.has_waiting());
        assert_eq!(plan.waiting_bytes(), 0);
        assert_eq!(plan.confirmed_stripes(), plan.cut_stripes());
        assert_eq!(plan.cut_stripes(), self.stripes.len() as u64);
        assert!(self.flying.is_empty() && self.stripes.keys().all(|id| self.written.contains(id)));
        let mut runs: HashMap<ItemId, Vec<(u64, u64)>> = HashMap::new();
        for extent in self.stripes.values().flat_map(|stripe| &stripe.extents) {
            runs.entry(extent.item).or_default().push((extent.offset, extent.len));
        }
        let mut bytes = 0;
        for (_, item) in &work.items {
            let mut runs = runs.remove(&item.id).expect("every item is in a stripe");
            runs.sort_unstable();
            let end = runs.into_iter().fold(0, |end, (offset, len)| {
                assert_eq!(offset, end, "{:?} has a gap or bytes twice", item.id);
                end + len
            });
            assert_eq!(end, item.bytes, "{:?}", item.id);
            bytes += item.bytes;
        }
        assert!(runs.is_empty(), "what was not offered was sent");
        bytes
    }
}
