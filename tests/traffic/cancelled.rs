//! An item that the receiver does not want any more.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Instant;

use qbulk::traffic::{
    ConnId, Input, Item, ItemId, JobId, Output, Sample, Set, SetConfig, Stripe, StripeId,
};

const JOB: JobId = JobId(0);

/// What was sent last under each number, and whether all was told to be confirmed.
fn sent(set: &mut Set, under_way: &mut BTreeMap<StripeId, (ConnId, Stripe)>) -> bool {
    let mut drained = false;
    while let Some(output) = set.poll() {
        match output {
            Output::Send { conn, stripe, .. } => drop(under_way.insert(stripe.id, (conn, stripe))),
            Output::Drained(_) => drained = true,
            _ => {}
        }
    }
    drained
}

#[test]
fn what_is_under_way_of_it_is_sent_empty_and_the_rest_not_at_all() {
    let now = Instant::now();
    let mut set = Set::new(SetConfig::default(), 1, now);
    let mut under_way = BTreeMap::new();
    set.handle(Input::Begun { job: JOB, weight: NonZeroU32::MIN }, now);
    for conn in 0..10 {
        set.handle(Input::Up(ConnId(conn)), now);
        set.handle(Input::Sample(ConnId(conn), Sample::default()), now);
    }
    set.handle(Input::Accepted(JOB), now);
    let items = vec![Item::split(ItemId(1), 1 << 40), Item::split(ItemId(2), 5 << 20)];
    set.handle(Input::Offered(JOB, items), now);
    sent(&mut set, &mut under_way);
    let before = under_way.len();
    assert!(before > 1 && under_way.values().all(|(_, stripe)| stripe.bytes > 0));

    set.handle(Input::Cancelled(JOB, ItemId(1)), now);
    set.handle(Input::SourceDone(JOB), now);
    let mut bytes = 0;
    let mut drained = sent(&mut set, &mut under_way);
    assert!(under_way.values().take(before).all(|(_, stripe)| stripe.extents.is_empty()));
    let mut numbers = Vec::new();
    while let Some((id, (conn, stripe))) = under_way.pop_first() {
        numbers.push(id.0);
        bytes += stripe.bytes;
        set.handle(Input::Confirmed(conn, JOB, id), now);
        drained |= sent(&mut set, &mut under_way);
    }
    assert!(drained);
    assert_eq!(bytes, 5 << 20, "all of the other item");
    assert_eq!(
        numbers,
        (0..set.plan(JOB).expect("there").cut_stripes()).collect::<Vec<_>>(),
        "none is missing"
    );
}
