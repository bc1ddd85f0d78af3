//! What the server says of its end of the lines, as events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::{ConnectionState, PushEvent};
use crate::wire::{LineDoes, LineGivenUp, LinePrimed, PRIME_ENDS, ROLES, VERDICTS};

/// The server says over all lines that one is given up, and why over one of them, which may be lost.
const EXPLAINED_TIME: Duration = Duration::from_secs(1);

/// Lines that were given up, each of which is told once.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// Those of which it is not known why, and since when.
    unexplained: BTreeMap<u32, Instant>,
    told: BTreeSet<u32>,
}

impl GivenUp {
    /// The server drops line `conn`, of which there are so many.
    pub(super) fn dropped(&mut self, conn: u32, count: u32, now: Instant) {
        if conn < count && !self.told.contains(&conn) {
            self.unexplained.entry(conn).or_insert(now);
        }
    }

    /// The server says why. What to tell, if that is new.
    pub(super) fn told(&mut self, line: LineGivenUp, count: u32) -> Option<PushEvent> {
        let conn = u32::try_from(line.conn).ok().filter(|&conn| conn < count)?;
        let verdict = word(&VERDICTS, line.verdict)?;
        self.unexplained.remove(&conn);
        let stripes = usize::try_from(line.stripes).unwrap_or(usize::MAX);
        self.told.insert(conn).then_some(PushEvent::Condemned { conn, verdict, stripes })
    }

    /// Those of which the server has not said why by now.
    pub(super) fn unexplained(&mut self, now: Instant) -> Vec<PushEvent> {
        let late = self.unexplained.iter().filter(|(_, since)| now - **since >= EXPLAINED_TIME);
        let conns: Vec<u32> = late.map(|(&conn, _)| conn).collect();
        self.unexplained.retain(|conn, _| !conns.contains(conn));
        self.told.extend(&conns);
        let event = |conn| PushEvent::Condemned { conn, verdict: "given_up", stripes: 0 };
        conns.into_iter().map(event).collect()
    }
}

/// A line is primed.
pub(super) fn primed(line: LinePrimed) -> Option<PushEvent> {
    let LinePrimed { conn, end, window_bytes, padding_bytes } = line;
    let (conn, end) = (u32::try_from(conn).ok()?, word(&PRIME_ENDS, end)?);
    Some(PushEvent::Primed { conn, end, window_bytes, padding_bytes })
}

/// How a line does.
pub(super) fn does(line: LineDoes) -> Option<PushEvent> {
    let milliseconds = |us: u64| us as f64 / 1e3;
    Some(PushEvent::Connection(ConnectionState {
        conn: u32::try_from(line.conn).ok()?,
        role: word(&ROLES, line.role)?,
        rtt_ms: milliseconds(line.rtt_us),
        rtt_min_ms: milliseconds(line.rtt_min_us),
        goodput_bytes_per_s: line.goodput_bytes_per_s as f64,
        window_bytes: line.window_bytes,
        in_flight_bytes: line.in_flight_bytes,
        delivered_bytes: line.delivered_bytes,
        lost_bytes: line.lost_bytes,
        padding_bytes: line.padding_bytes,
        stripes: line.stripes,
    }))
}

/// The word with this number; `None` if there is none.
fn word(words: &[&'static str], number: u64) -> Option<&'static str> {
    words.get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_given_up_is_told_once_with_the_reason_if_that_comes() {
        let (mut given_up, now) = (GivenUp::default(), Instant::now());
        let line = |conn, verdict| LineGivenUp { conn, verdict, stripes: 2 };
        for conn in [1, 1, 2, 9] {
            given_up.dropped(conn, 5, now);
        }
        let told = given_up.told(line(1, 1), 5);
        assert!(matches!(
            told,
            Some(PushEvent::Condemned { conn: 1, verdict: "slow", stripes: 2 })
        ));
        assert!(given_up.told(line(1, 1), 5).is_none(), "twice");
        assert!(given_up.told(line(5, 1), 5).is_none(), "there is no such line");
        assert!(given_up.told(line(3, 99), 5).is_none(), "no such word");
        given_up.dropped(1, 5, now);
        assert!(given_up.unexplained(now).is_empty());
        let late = given_up.unexplained(now + EXPLAINED_TIME);
        assert!(matches!(late[..], [PushEvent::Condemned { conn: 2, verdict: "given_up", .. }]));
        assert!(given_up.unexplained(now + 2 * EXPLAINED_TIME).is_empty());
    }
}
