//! How much may be sent and not confirmed, where that changes under way.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use qbulk::traffic::{
    ConnId, Input, Item, ItemId, JobId, Output, Sample, Set, SetConfig, StripeId,
};

const JOB: JobId = JobId(0);
const MIB: u64 = 1 << 20;

/// Takes what is sent. Returns how much is under way then, in bytes.
fn flying(set: &mut Set, under_way: &mut BTreeMap<StripeId, (ConnId, u64)>) -> u64 {
    while let Some(output) = set.poll() {
        if let Output::Send { conn, stripe, .. } = output {
            under_way.insert(stripe.id, (conn, stripe.bytes));
        }
    }
    under_way.values().map(|(_, bytes)| bytes).sum()
}

#[test]
fn it_becomes_less_as_it_is_confirmed_and_more_at_once() {
    let mut now = Instant::now();
    let config =
        SetConfig { stripe_bytes_max: MIB / 4, bytes_per_connection: 0, ..SetConfig::default() };
    let mut set = Set::new(config, 1, now);
    let mut under_way = BTreeMap::new();
    set.handle(Input::Begun { job: JOB, weight: NonZeroU32::MIN }, now);
    for conn in 0..10 {
        set.handle(Input::Up(ConnId(conn)), now);
        let sample = Sample { window_bytes: MIB / 4, ..Sample::default() };
        set.handle(Input::Sample(ConnId(conn), sample), now);
    }
    set.handle(Input::Accepted(JOB), now);
    set.handle(Input::Offered(JOB, vec![Item::split(ItemId(1), 1 << 40)]), now);
    let before = flying(&mut set, &mut under_way);
    assert!(before > MIB, "{before}");

    set.limit_flying(MIB);
    while flying(&mut set, &mut under_way) > MIB {
        let left = under_way.values().map(|(_, bytes)| bytes).sum::<u64>();
        let (id, (conn, bytes)) = under_way.pop_first().unwrap();
        now += Duration::from_millis(1);
        set.handle(Input::Confirmed(conn, JOB, id), now);
        assert!(flying(&mut set, &mut under_way) <= MIB.max(left - bytes), "more was sent");
    }
    for _ in 0..50 {
        let (id, (conn, _)) = under_way.pop_first().unwrap();
        now += Duration::from_millis(1);
        set.handle(Input::Confirmed(conn, JOB, id), now);
        let now_flying = flying(&mut set, &mut under_way);
        assert!((1..=MIB).contains(&now_flying), "{now_flying}");
    }
    set.limit_flying(64 * MIB);
    let (id, (conn, _)) = under_way.pop_first().unwrap();
    set.handle(Input::Confirmed(conn, JOB, id), now);
    assert!(flying(&mut set, &mut under_way) > MIB);
    set.limit_flying(0);
    assert_eq!(set.config().flying_bytes_max, MIB / 4, "one stripe always fits");
}
