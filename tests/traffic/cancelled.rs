//! An item that the receiver does not want any more.

use std::collections::BTreeMap;
use std::time::Instant;

use qbulk::traffic::{
    ConnId, Input, Item, ItemId, Output, Pool, PoolConfig, Sample, Stripe, StripeId,
};

/// What was sent last under each number, and whether all was told to be confirmed.
fn sent(pool: &mut Pool, under_way: &mut BTreeMap<StripeId, (ConnId, Stripe)>) -> bool {
    let mut drained = false;
    while let Some(output) = pool.poll() {
        match output {
            Output::Send { conn, stripe, .. } => drop(under_way.insert(stripe.id, (conn, stripe))),
            Output::Drained => drained = true,
            _ => {}
        }
    }
    drained
}

#[test]
fn what_is_under_way_of_it_is_sent_empty_and_the_rest_not_at_all() {
    let now = Instant::now();
    let mut pool = Pool::new(PoolConfig::default(), 1, now);
    let mut under_way = BTreeMap::new();
    for conn in 0..10 {
        pool.handle(Input::Up(ConnId(conn)), now);
        pool.handle(Input::Sample(ConnId(conn), Sample::default()), now);
    }
    pool.handle(Input::Accepted, now);
    let items = vec![Item::split(ItemId(1), 1 << 40), Item::split(ItemId(2), 5 << 20)];
    pool.handle(Input::Offered(items), now);
    sent(&mut pool, &mut under_way);
    let before = under_way.len();
    assert!(before > 1 && under_way.values().all(|(_, stripe)| stripe.bytes > 0));

    pool.handle(Input::Cancelled(ItemId(1)), now);
    pool.handle(Input::SourceDone, now);
    let mut bytes = 0;
    let mut drained = sent(&mut pool, &mut under_way);
    assert!(under_way.values().take(before).all(|(_, stripe)| stripe.extents.is_empty()));
    let mut numbers = Vec::new();
    while let Some((id, (conn, stripe))) = under_way.pop_first() {
        numbers.push(id.0);
        bytes += stripe.bytes;
        pool.handle(Input::Confirmed(conn, id), now);
        drained |= sent(&mut pool, &mut under_way);
    }
    assert!(drained);
    assert_eq!(bytes, 5 << 20, "all of the other item");
    assert_eq!(numbers, (0..pool.plan().cut_stripes()).collect::<Vec<_>>(), "none is missing");
}
