//! What held a transfer back, as far as its events tell: what was full while it ran.

use serde_json::Value;

use super::conn::{Conn, Role};
use super::number;

/// Windows of which less than this share is in flight have room.
const ROOM: f64 = 0.4;
/// Those of which more is in flight are full: the rest is of what has just been acknowledged.
const FULL: f64 = 0.7;
/// What was told longer ago says nothing of now, in seconds.
const STALE_S: f64 = 3.5;
/// Less than this to be sent is nothing to be sent, in bytes.
const LITTLE_BYTES: f64 = (4 << 20) as f64;
/// Less than this was told of nothing, in seconds.
const LEAST_S: f64 = 1.0;

/// What held it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Holder {
    /// The windows were full.
    Path,
    /// The windows had room.
    Ends,
    /// The windows were neither full nor empty.
    Both,
    /// All that was found had arrived.
    Source,
    /// All was sent, and not durable yet.
    Destination,
    /// No connection carried data yet.
    Start,
    /// There was no connection.
    Nothing,
}

const HOLDERS: [Holder; 7] = [
    Holder::Path,
    Holder::Ends,
    Holder::Both,
    Holder::Source,
    Holder::Destination,
    Holder::Start,
    Holder::Nothing,
];

/// For how much of the time.
#[derive(Clone, Copy, Debug)]
pub(in crate::report) struct Share {
    pub(in crate::report) holder: Holder,
    pub(in crate::report) seconds: f64,
    /// As a part of all of it.
    pub(in crate::report) part: f64,
}

#[derive(Default)]
pub(super) struct Held {
    seconds: [f64; HOLDERS.len()],
    /// How long has been accounted for.
    pub(super) at_s: f64,
}

impl Held {
    /// Accounts for the time from `before_s` to `now`, by what is told of `now`.
    pub(super) fn note(&mut self, progress: &Value, conns: &[Conn], before_s: f64, now: f64) {
        let holder = holder(progress, conns, now);
        if let Some(at) = HOLDERS.iter().position(|other| *other == holder) {
            self.seconds[at] += (now - before_s).max(0.0);
        }
        self.at_s = self.at_s.max(now);
    }

    /// The most first; nothing if there was too little to say anything.
    pub(super) fn shares(&self) -> Vec<Share> {
        let all: f64 = self.seconds.iter().sum();
        if all < LEAST_S {
            return Vec::new();
        }
        let shares = HOLDERS.into_iter().zip(self.seconds);
        let shares = shares.filter(|(_, seconds)| *seconds > 0.0);
        let mut shares: Vec<_> = shares
            .map(|(holder, seconds)| Share { holder, seconds, part: seconds / all })
            .collect();
        shares.sort_by(|one, two| two.seconds.total_cmp(&one.seconds));
        shares
    }
}

fn holder(progress: &Value, conns: &[Conn], now: f64) -> Holder {
    let of = |name| number(progress, name);
    if of("connections") == 0.0 {
        return if of("confirmed_bytes") > 0.0 { Holder::Nothing } else { Holder::Start };
    }
    if progress["finishing"] == true {
        return Holder::Destination;
    }
    let left_bytes = of("found_bytes") - of("confirmed_bytes");
    if progress["scan_done"] != true && left_bytes < LITTLE_BYTES {
        return Holder::Source;
    }
    let told = conns.iter().filter(|conn| conn.until_s.is_none() && now - conn.last_s < STALE_S);
    let active = told.filter(|conn| conn.last.role == Role::Active);
    let (mut window, mut in_flight) = (0.0, 0.0);
    for Conn { last, .. } in active {
        window += f64::from(last.window_bytes);
        in_flight += f64::from(last.in_flight_bytes);
    }
    match in_flight / window {
        _ if window <= 0.0 => Holder::Start,
        share if share >= FULL => Holder::Path,
        share if share <= ROOM => Holder::Ends,
        _ => Holder::Both,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_full_is_what_holds_it_back() {
        let conns = |share: f32| {
            let mut conn = Conn::new(0, 0.0);
            conn.last.role = Role::Active;
            (conn.last.window_bytes, conn.last.in_flight_bytes) = (1e6, share * 1e6);
            vec![conn]
        };
        let running = json!({"connections": 1, "scan_done": true, "found_bytes": 1e9});
        for (share, want) in [(0.9, Holder::Path), (0.5, Holder::Both), (0.1, Holder::Ends)] {
            assert_eq!(holder(&running, &conns(share), 1.0), want);
        }
        assert_eq!(holder(&running, &conns(0.9), 10.0), Holder::Start, "that was long ago");
        assert_eq!(holder(&running, &[], 1.0), Holder::Start);
        for (progress, want) in [
            (json!({"connections": 1, "scan_done": false, "found_bytes": 5}), Holder::Source),
            (json!({"connections": 1, "finishing": true}), Holder::Destination),
            (json!({"connections": 0, "confirmed_bytes": 5}), Holder::Nothing),
            (json!({}), Holder::Start),
        ] {
            assert_eq!(holder(&progress, &conns(0.9), 1.0), want, "{progress}");
        }
    }

    #[test]
    fn a_moment_tells_nothing() {
        let mut held = Held::default();
        held.note(&json!({"connections": 1, "finishing": true}), &[], 0.0, 0.9);
        assert!(held.shares().is_empty());
        held.note(&json!({"connections": 1, "finishing": true}), &[], 0.9, 3.0);
        held.note(&json!({"connections": 0}), &[], 3.0, 4.0);
        let shares = held.shares();
        assert_eq!(shares[0].holder, Holder::Destination);
        assert!((shares[0].part - 0.75).abs() < 1e-9 && shares.len() == 2);
    }
}
