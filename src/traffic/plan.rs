//! The plan: which bytes are left, in flight, confirmed; and how they are cut into stripes.

use std::collections::{BTreeMap, VecDeque};

use super::ConnId;

/// One thing to send: a file, a folder, a link, or a note about one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub u64);

/// A stripe's number within a transfer; a stripe that is sent again keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StripeId(pub u64);

/// What the source offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number; the source's to choose. Several ranges of one thing may have the same.
    pub id: ItemId,
    /// Where its content starts; a multiple of its pieces' lengths.
    pub offset: u64,
    /// Its content, in bytes.
    pub bytes: u64,
    /// Whether more follows behind that content: then only powers of two are cut off.
    pub is_inner: bool,
    /// What it costs on the wire beside its content (path, metadata), in bytes.
    pub overhead_bytes: u64,
    /// Whether it may be cut into pieces. What may not be cut must fit into the smallest stripe.
    pub split: bool,
    /// Goes before everything that waits.
    pub urgent: bool,
}

impl Item {
    /// A thing that may be cut into pieces.
    pub fn split(id: ItemId, bytes: u64) -> Self {
        Self::range(id, 0, bytes, false)
    }

    /// A range of a thing that may be cut into pieces; `is_inner` if it does not reach to its end.
    pub fn range(id: ItemId, offset: u64, bytes: u64, is_inner: bool) -> Self {
        Self { id, offset, bytes, is_inner, overhead_bytes: 0, split: true, urgent: false }
    }

    /// A thing that is sent whole.
    pub fn whole(id: ItemId, bytes: u64, overhead_bytes: u64) -> Self {
        let (offset, is_inner) = (0, false);
        Self { id, offset, bytes, is_inner, overhead_bytes, split: false, urgent: false }
    }

    fn cost(&self) -> u64 {
        self.bytes + self.overhead_bytes
    }
}

/// A run of one item's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The item.
    pub item: ItemId,
    /// Where the run starts, in bytes from the item's start.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// The unit of sending, confirming and taking over.
///
/// It holds either one piece of an item that was cut, or many whole items. A piece starts at a multiple
/// of its length's power of two, so that its hash is a node of the item's BLAKE3 tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// Its number.
    pub id: StripeId,
    /// What it holds.
    pub extents: Vec<Extent>,
    /// Content and overhead, in bytes.
    pub bytes: u64,
}

/// At most this many whole items go into one stripe.
pub const ITEMS_PER_STRIPE_MAX: usize = 1024;

/// Which bytes are left, in flight and confirmed.
#[derive(Debug, Default)]
pub struct Plan {
    waiting: VecDeque<Item>,
    /// How much of the first waiting item has been cut off already.
    cut_bytes: u64,
    waiting_bytes: u64,
    offered_bytes: u64,
    retry: VecDeque<StripeId>,
    flying: BTreeMap<StripeId, Flying>,
    next_id: u64,
    confirmed_bytes: u64,
    confirmed_stripes: u64,
}

#[derive(Debug)]
struct Flying {
    stripe: Stripe,
    holders: Vec<ConnId>,
}

impl Plan {
    /// Adds something to send.
    pub fn offer(&mut self, item: Item) {
        self.waiting_bytes += item.cost();
        self.offered_bytes += item.cost();
        if item.urgent {
            // The first item may be half cut; what is urgent goes in right behind it.
            let at = usize::from(self.cut_bytes > 0);
            self.waiting.insert(at.min(self.waiting.len()), item);
        } else {
            self.waiting.push_back(item);
        }
    }

    /// The next stripe for `conn`: first what another connection failed to deliver, then new data of up
    /// to `len_max` bytes (a power of two). The flag says that it was sent before.
    pub fn next(&mut self, conn: ConnId, len_max: u64) -> Option<(Stripe, bool)> {
        debug_assert!(len_max.is_power_of_two());
        if let Some(stripe) = self.again(conn) {
            return Some((stripe, true));
        }
        let stripe = self.cut(len_max)?;
        let flying = Flying { stripe: stripe.clone(), holders: vec![conn] };
        self.flying.insert(stripe.id, flying);
        Some((stripe, false))
    }

    /// What another connection failed to deliver, for `conn`.
    pub fn again(&mut self, conn: ConnId) -> Option<Stripe> {
        while let Some(id) = self.retry.pop_front() {
            if let Some(flying) = self.flying.get_mut(&id) {
                flying.holders.push(conn);
                return Some(flying.stripe.clone());
            }
        }
        None
    }

    /// Sends `stripe` over `conn` as well, without waiting for who has it now.
    /// `None` if it is confirmed or `conn` has it already.
    pub fn double(&mut self, stripe: StripeId, conn: ConnId) -> Option<Stripe> {
        let flying = self.flying.get_mut(&stripe)?;
        if flying.holders.contains(&conn) {
            return None;
        }
        flying.holders.push(conn);
        Some(flying.stripe.clone())
    }

    /// The receiver has a stripe. Returns who was sending it and its size; `None` if that was known.
    pub fn confirm(&mut self, stripe: StripeId) -> Option<(Vec<ConnId>, u64)> {
        let flying = self.flying.remove(&stripe)?;
        self.confirmed_bytes += flying.stripe.bytes;
        self.confirmed_stripes += 1;
        Some((flying.holders, flying.stripe.bytes))
    }

    /// `conn` will not deliver `stripe`. True if it must go out again because nobody else has it.
    pub fn release(&mut self, stripe: StripeId, conn: ConnId) -> bool {
        let Some(flying) = self.flying.get_mut(&stripe) else { return false };
        flying.holders.retain(|&holder| holder != conn);
        let orphaned = flying.holders.is_empty();
        if orphaned && !self.retry.contains(&stripe) {
            self.retry.push_back(stripe);
        }
        orphaned
    }

    /// Nobody wants `item` any more. What waits of it is dropped, and stripes that hold nothing else are
    /// emptied: they keep their numbers, as the receiver waits for all of them. Returns which those are.
    pub fn cancel(&mut self, item: ItemId) -> Vec<StripeId> {
        let mut cut_bytes = std::mem::take(&mut self.cut_bytes);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|other| {
            // Only the first one may be half cut.
            let cut_bytes_of_it = std::mem::take(&mut cut_bytes);
            if other.id == item {
                self.waiting_bytes -= other.cost() - cut_bytes_of_it;
                return false;
            }
            self.cut_bytes += cut_bytes_of_it;
            true
        });
        self.waiting = waiting;
        let mut emptied = Vec::new();
        for (&id, Flying { stripe, .. }) in &mut self.flying {
            let is_of_it = |extent: &Extent| extent.item == item;
            if !stripe.extents.is_empty() && stripe.extents.iter().all(is_of_it) {
                stripe.extents.clear();
                stripe.bytes = 0;
                emptied.push(id);
            }
        }
        emptied
    }

    /// A stripe that is cut and not confirmed, and who is sending it.
    pub fn flying(&self, stripe: StripeId) -> Option<(&Stripe, &[ConnId])> {
        self.flying.get(&stripe).map(|flying| (&flying.stripe, flying.holders.as_slice()))
    }

    /// How many connections are sending `stripe`.
    pub fn holders(&self, stripe: StripeId) -> usize {
        self.flying.get(&stripe).map_or(0, |flying| flying.holders.len())
    }

    /// Whether something waits to be sent.
    pub fn has_waiting(&self) -> bool {
        !self.retry.is_empty() || !self.waiting.is_empty()
    }

    /// Whether everything that was offered is confirmed.
    pub fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    /// How many stripes have been cut so far; they are numbered from 0.
    pub fn cut_stripes(&self) -> u64 {
        self.next_id
    }

    /// Items that wait to be cut.
    pub fn waiting_items(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that wait to be cut.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// All that was offered so far, in bytes.
    pub fn offered_bytes(&self) -> u64 {
        self.offered_bytes
    }

    /// Stripes that are cut and not confirmed.
    pub fn flying_stripes(&self) -> usize {
        self.flying.len()
    }

    /// Bytes of all confirmed stripes.
    pub fn confirmed_bytes(&self) -> u64 {
        self.confirmed_bytes
    }

    /// How many stripes are confirmed.
    pub fn confirmed_stripes(&self) -> u64 {
        self.confirmed_stripes
    }

    fn cut(&mut self, len_max: u64) -> Option<Stripe> {
        let first = *self.waiting.front()?;
        let mut extents = Vec::new();
        let mut bytes = 0;
        if first.split {
            let extent = self.cut_piece(first, len_max);
            bytes = extent.len + first.overhead_bytes;
            extents.push(extent);
        } else {
            while let Some(&item) = self.waiting.front() {
                let full = !extents.is_empty() && bytes + item.cost() > len_max;
                if item.split || full || extents.len() == ITEMS_PER_STRIPE_MAX {
                    break;
                }
                self.waiting.pop_front();
                self.waiting_bytes -= item.cost();
                bytes += item.cost();
                extents.push(Extent { item: item.id, offset: 0, len: item.bytes });
            }
        }
        let id = StripeId(self.next_id);
        self.next_id += 1;
        Some(Stripe { id, extents, bytes })
    }

    /// Cuts the next piece off the first waiting item: the largest power of two that is allowed and
    /// that the piece's offset is a multiple of.
    fn cut_piece(&mut self, item: Item, len_max: u64) -> Extent {
        let offset = item.offset + self.cut_bytes;
        let left = item.bytes - self.cut_bytes;
        let aligned_max = if offset == 0 { len_max } else { 1 << offset.trailing_zeros() };
        let left_max = if item.is_inner { floor_power_of_two(left) } else { left };
        let len = len_max.min(aligned_max).min(left_max);
        self.cut_bytes += len;
        self.waiting_bytes -= len;
        if self.cut_bytes == item.bytes {
            self.waiting_bytes -= item.overhead_bytes;
            self.waiting.pop_front();
            self.cut_bytes = 0;
        }
        Extent { item: item.id, offset, len }
    }
}

fn floor_power_of_two(bytes: u64) -> u64 {
    bytes.checked_ilog2().map_or(0, |power| 1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: ConnId = ConnId(0);
    const B: ConnId = ConnId(1);

    #[test]
    fn what_a_lost_connection_had_goes_out_again_and_first() {
        let mut plan = Plan::default();
        plan.offer(Item::split(ItemId(7), 3 << 20));
        let (first, again) = plan.next(A, 1 << 20).unwrap();
        assert!(!again);
        assert!(plan.release(first.id, A));
        let (second, again) = plan.next(B, 1 << 20).unwrap();
        assert!(again);
        assert_eq!(first, second);
        assert_eq!(plan.confirm(first.id), Some((vec![B], 1 << 20)));
        assert_eq!(plan.confirm(first.id), None, "a second confirmation changes nothing");
        assert_eq!(plan.confirmed_bytes(), 1 << 20);
    }

    #[test]
    fn a_stripe_that_was_doubled_is_not_queued_while_one_holder_lives() {
        let mut plan = Plan::default();
        plan.offer(Item::split(ItemId(0), 100));
        let (stripe, _) = plan.next(A, 1 << 16).unwrap();
        assert!(plan.double(stripe.id, B).is_some());
        assert!(plan.double(stripe.id, B).is_none());
        assert!(!plan.release(stripe.id, A));
        assert!(plan.release(stripe.id, B));
        assert!(plan.has_waiting());
    }

    #[test]
    fn what_is_urgent_overtakes_but_never_splits_a_cut_item() {
        let mut plan = Plan::default();
        plan.offer(Item::split(ItemId(0), 3 << 16));
        plan.offer(Item::whole(ItemId(1), 10, 0));
        plan.next(A, 1 << 16).unwrap();
        plan.offer(Item { urgent: true, ..Item::whole(ItemId(2), 0, 40) });
        let order: Vec<u64> = std::iter::from_fn(|| plan.next(A, 1 << 16))
            .flat_map(|(stripe, _)| stripe.extents)
            .map(|extent| extent.item.0)
            .collect();
        assert_eq!(order, [0, 0, 2, 1]);
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_sent_and_its_stripes_keep_their_numbers() {
        let mut plan = Plan::default();
        plan.offer(Item::split(ItemId(0), 5 << 16));
        plan.offer(Item::split(ItemId(1), 3 << 16));
        plan.offer(Item::whole(ItemId(2), 10, 7));
        let first = plan.next(A, 1 << 16).unwrap().0;
        let lost = plan.next(B, 1 << 16).unwrap().0;
        plan.release(lost.id, B);
        assert_eq!(plan.cancel(ItemId(0)), [first.id, lost.id]);
        assert_eq!(plan.cancel(ItemId(0)), [], "once");
        assert_eq!((plan.waiting_items(), plan.waiting_bytes()), (2, (3 << 16) + 17));
        let (again, was_sent) = plan.next(B, 1 << 16).unwrap();
        assert!(was_sent && again.id == lost.id && again.extents.is_empty() && again.bytes == 0);
        assert_eq!(plan.confirm(first.id), Some((vec![A], 0)));
        // The next one is half cut while another is cancelled.
        plan.next(A, 1 << 16).unwrap();
        plan.cancel(ItemId(2));
        let mut bytes = 0;
        while let Some((stripe, _)) = plan.next(A, 1 << 16) {
            bytes += stripe.bytes;
        }
        assert_eq!((bytes, plan.waiting_bytes(), plan.cut_stripes()), (2 << 16, 0, 5));
    }

    #[test]
    fn an_inner_range_is_cut_into_powers_of_two() {
        let mut plan = Plan::default();
        plan.offer(Item::range(ItemId(0), 3 << 20, 5 << 20, true));
        plan.offer(Item::range(ItemId(0), 16 << 20, (1 << 20) + 5, false));
        let pieces: Vec<_> = std::iter::from_fn(|| plan.next(A, 4 << 20))
            .map(|(stripe, _)| (stripe.extents[0].offset, stripe.extents[0].len))
            .collect();
        let mib = |offset: u64, len: u64| (offset << 20, len << 20);
        assert_eq!(pieces, [mib(3, 1), mib(4, 4), (16 << 20, (1 << 20) + 5)]);
        assert_eq!(plan.waiting_bytes(), 0);
    }

    proptest! {
        #[test]
        fn every_byte_is_cut_once_and_every_piece_is_a_tree_node(
            items in proptest::collection::vec((any::<bool>(), 0_u64..5_000_000), 1..40),
            shifts in proptest::collection::vec(16_u32..22, 1..8),
        ) {
            let mut plan = Plan::default();
            for (index, &(split, bytes)) in items.iter().enumerate() {
                let id = ItemId(index as u64);
                plan.offer(if split && bytes > 0 {
                    Item::split(id, bytes)
                } else {
                    Item::whole(id, bytes % 65_536, 64)
                });
            }
            let mut reached = vec![0_u64; items.len()];
            let mut turn = 0;
            while let Some((stripe, _)) = plan.next(A, 1 << shifts[turn % shifts.len()]) {
                turn += 1;
                prop_assert!(stripe.extents.len() <= ITEMS_PER_STRIPE_MAX);
                for extent in &stripe.extents {
                    let at = &mut reached[extent.item.0 as usize];
                    prop_assert_eq!(extent.offset, *at, "in order, without gap or overlap");
                    *at += extent.len;
                    if extent.offset > 0 {
                        prop_assert_eq!(extent.offset % extent.len.next_power_of_two(), 0);
                    }
                }
                plan.confirm(stripe.id);
            }
            for (index, &(split, bytes)) in items.iter().enumerate() {
                let want = if split && bytes > 0 { bytes } else { bytes % 65_536 };
                prop_assert_eq!(reached[index], want);
            }
            prop_assert!(plan.is_drained());
            prop_assert_eq!(plan.waiting_bytes(), 0);
        }
    }
}
