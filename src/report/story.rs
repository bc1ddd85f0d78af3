//! What a transfer did over time, from its events: the same whether they come as they happen or are read from what
//! `--json` wrote. It takes as much memory for ten hours as for a few seconds.

mod conn;
mod held;

use std::collections::BTreeMap;

use serde_json::Value;

pub(super) use self::conn::{Conn, Role};
use self::held::Held;
pub(super) use self::held::{Holder, Share};

/// Intervals that time is cut into, at most: when they are used up, each becomes twice as long.
pub(super) const BINS: usize = 480;
/// How long they are at first, in seconds.
const BIN_S: f64 = 0.025;
/// Longer than anything runs; what claims to be later is no such event.
const TIME_MAX_S: f64 = 1e8;
/// Connections that are told of one by one; what more of them carried is in the total only.
const CONNS_MAX: usize = 256;
/// Of takeovers, failures and interruptions, those that are told of one by one.
const TOLD_MAX: usize = 200;
/// A text of an event is cut off behind so many characters.
const TEXT_MAX: usize = 1_000;

/// What happened.
pub(super) struct Story {
    /// When the first event was, by the clock of the command, in seconds; all other times are from then on.
    began_s: Option<f64>,
    /// The time of the last event.
    pub(super) end_s: f64,
    /// How long an interval is, in seconds.
    pub(super) bin_s: f64,
    /// When the first event was told, as it says so itself.
    pub(super) time: Option<String>,
    /// The transfer that is under way.
    transfer: String,
    /// By transfer and number, in the order in which they came.
    pub(super) conns: Vec<Conn>,
    numbers: BTreeMap<(String, u64), usize>,
    pub(super) conns_untold: u64,
    /// Content that has arrived, by interval, in bytes.
    pub(super) arrived: Vec<f64>,
    last_arrived: (f64, f64),
    pub(super) takeovers: Vec<Takeover>,
    pub(super) takeovers_count: u64,
    pub(super) interruptions: Vec<(f64, String)>,
    pub(super) interruptions_count: u64,
    /// What the server had so much of, when this transfer waited.
    pub(super) waited: Vec<(f64, String)>,
    pub(super) failures: Vec<Failed>,
    pub(super) progress: Value,
    pub(super) summary: Option<Value>,
    /// Why it failed as a whole.
    pub(super) error: Option<String>,
    held: Held,
    /// Lines that the reader of the events was too slow for.
    pub(super) lost_lines: u64,
}

/// A connection that was given up.
pub(super) struct Takeover {
    pub(super) at_s: f64,
    pub(super) conn: u64,
    pub(super) verdict: String,
    /// Stripes that others took over from it.
    pub(super) stripes: u64,
}

/// Something that was not moved.
pub(super) struct Failed {
    pub(super) kind: String,
    pub(super) path: String,
    pub(super) reason: String,
}

impl Story {
    pub(super) fn new() -> Self {
        Self {
            began_s: None,
            end_s: 0.0,
            bin_s: BIN_S,
            time: None,
            transfer: String::new(),
            conns: Vec::new(),
            numbers: BTreeMap::new(),
            conns_untold: 0,
            arrived: Vec::new(),
            last_arrived: (0.0, 0.0),
            takeovers: Vec::new(),
            takeovers_count: 0,
            interruptions: Vec::new(),
            interruptions_count: 0,
            waited: Vec::new(),
            failures: Vec::new(),
            progress: Value::Null,
            summary: None,
            error: None,
            held: Held::default(),
            lost_lines: 0,
        }
    }

    /// Whether it is one of a push or a pull.
    pub(super) fn is_of_a_transfer(&self) -> bool {
        self.summary.is_some() || !self.transfer.is_empty()
    }

    /// Takes an event, told `at_s` seconds after its command started. Returns whether it is one.
    pub(super) fn note(&mut self, event: &Value, at_s: f64) -> bool {
        let Some(name) = event["event"].as_str() else { return false };
        if !at_s.is_finite() || !(0.0..TIME_MAX_S).contains(&at_s) {
            return false;
        }
        let began_s = *self.began_s.get_or_insert(at_s);
        let now = (at_s - began_s).max(0.0);
        self.end_s = self.end_s.max(now);
        self.make_room(now);
        if self.time.is_none() {
            self.time = event["time"].as_str().map(cut);
        }
        match name {
            "begun" => {
                self.transfer = text(event, "transfer");
                self.last_arrived.0 = now;
            }
            "connected" => drop(self.conn(event, now)),
            "primed" => {
                if let Some(conn) = self.conn(event, now) {
                    conn.primed = Some(text(event, "end"));
                }
            }
            "connection" => {
                let bin_s = self.bin_s;
                if let Some(conn) = self.conn(event, now) {
                    conn.sample(event, now, bin_s);
                }
            }
            "condemned" => self.condemned(event, now),
            "progress" => self.progressed(event, now),
            "interrupted" => {
                self.interruptions_count += 1;
                push(&mut self.interruptions, (now, text(event, "reason")));
                self.end_all(now, "interrupted");
            }
            "waiting" => push(&mut self.waited, (now, text(event, "reason"))),
            "failed" => {
                let failed = Failed {
                    kind: text(event, "kind"),
                    path: text(event, "path"),
                    reason: text(event, "reason"),
                };
                push(&mut self.failures, failed);
            }
            "summary" => self.summed_up(event, now),
            "error" => {
                self.error = Some(text(event, "message"));
                self.end_all(now, "error");
            }
            "lost" => self.lost_lines += number(event, "lines") as u64,
            _ => {}
        }
        true
    }

    /// What held it back, the most first.
    pub(super) fn holders(&self) -> Vec<Share> {
        self.held.shares()
    }

    /// The connection that an event is of, which may be new.
    fn conn(&mut self, event: &Value, now: f64) -> Option<&mut Conn> {
        let key = (self.transfer.clone(), event["conn"].as_u64()?);
        let next = self.conns.len();
        if !self.numbers.contains_key(&key) {
            if next >= CONNS_MAX {
                self.conns_untold += u64::from(event["event"] == "connected");
                return None;
            }
            self.conns.push(Conn::new(key.1, now));
        }
        let at = *self.numbers.entry(key).or_insert(next);
        self.conns.get_mut(at)
    }

    fn condemned(&mut self, event: &Value, now: f64) {
        let verdict = text(event, "verdict");
        let Some(number) = event["conn"].as_u64() else { return };
        self.takeovers_count += 1;
        let stripes = event["stripes"].as_u64().unwrap_or(0);
        push(
            &mut self.takeovers,
            Takeover { at_s: now, conn: number, verdict: verdict.clone(), stripes },
        );
        if let Some(conn) = self.conn(event, now) {
            conn.end(now, &verdict);
        }
    }

    fn progressed(&mut self, event: &Value, now: f64) {
        let of = |name| number(event, name);
        let arrived = of("confirmed_bytes") - of("kept_bytes") - of("skipped_bytes");
        self.arrive(arrived, now);
        let before_s = self.held.at_s;
        self.held.note(event, &self.conns, before_s, now);
        self.progress = event.clone();
    }

    fn arrive(&mut self, bytes: f64, now: f64) {
        let (from_s, before) = self.last_arrived;
        let new = bytes - before;
        if new > 0.0 {
            conn::spread(&mut self.arrived, (from_s, now), new, self.bin_s);
        }
        // After an interruption, it counts anew what is kept.
        self.last_arrived = (now, bytes);
    }

    fn summed_up(&mut self, event: &Value, now: f64) {
        for total in event["connections"].as_array().into_iter().flatten() {
            let key = (text(total, "transfer"), total["conn"].as_u64().unwrap_or(u64::MAX));
            let conn = self.numbers.get(&key).and_then(|&at| self.conns.get_mut(at));
            if let Some(conn) = conn {
                conn.sum_up(total, now, self.bin_s);
            }
        }
        self.end_all(now, "done");
        let mut summary = event.clone();
        if let Some(fields) = summary.as_object_mut() {
            // What is in them is kept already, within bounds.
            fields.remove("connections");
            fields.remove("failures");
        }
        self.summary = Some(summary);
    }

    fn end_all(&mut self, now: f64, how: &str) {
        for conn in &mut self.conns {
            conn.end(now, how);
        }
    }

    /// Makes intervals longer until `now` is in one.
    fn make_room(&mut self, now: f64) {
        while now / self.bin_s >= BINS as f64 {
            self.bin_s *= 2.0;
            conn::halve(&mut self.arrived, |one, two| one + two);
            self.conns.iter_mut().for_each(Conn::halve);
        }
    }
}

/// As many as are told of one by one.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < TOLD_MAX {
        list.push(item);
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

/// A text of an event, if it is there.
pub(super) fn text(event: &Value, name: &str) -> String {
    event[name].as_str().map(cut).unwrap_or_default()
}

/// A number of an event; 0 if it is not there, or none.
pub(super) fn number(event: &Value, name: &str) -> f64 {
    event[name].as_f64().filter(|number| number.is_finite() && *number >= 0.0).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A transfer of `seconds` over two connections, of which one is given up half way.
    fn story(seconds: u32) -> Story {
        let mut story = Story::new();
        story.note(&json!({"event": "begun", "transfer": "a"}), 0.5);
        for conn in [0, 1] {
            story.note(&json!({"event": "connected", "conn": conn}), 0.5);
        }
        for second in 1..=seconds {
            let at_s = f64::from(second) + 0.5;
            for conn in [0, 1] {
                if conn == 1 && second > seconds / 2 {
                    continue;
                }
                let state = json!({"event": "connection", "conn": conn, "role": "active", "rtt_ms": 20.0,
                    "rtt_min_ms": 10.0, "window_bytes": 1000, "in_flight_bytes": 950,
                    "delivered_bytes": 100 * u64::from(second), "lost_bytes": second});
                story.note(&state, at_s);
            }
            story.note(&json!({"event": "progress", "confirmed_bytes": 200 * u64::from(second), "connections": 2,
                "scan_done": true, "found_bytes": 1_000_000_000}), at_s);
            if second == seconds / 2 {
                story.note(
                    &json!({"event": "condemned", "conn": 1, "verdict": "slow", "stripes": 3}),
                    at_s,
                );
            }
        }
        story
    }

    #[test]
    fn ten_hours_take_no_more_than_a_minute_and_nothing_is_lost_of_the_sums() {
        for seconds in [2, 60, 36_000] {
            let story = story(seconds);
            assert!(story.arrived.len() <= BINS && story.conns[0].bytes.len() <= BINS);
            assert!(story.end_s / story.bin_s < BINS as f64);
            let sum: f64 = story.arrived.iter().sum();
            assert!((sum / (200.0 * f64::from(seconds)) - 1.0).abs() < 1e-6, "{seconds}: {sum}");
            for (conn, share) in [(0, 1.0), (1, 0.5)] {
                let bytes: f64 = story.conns[conn].bytes.iter().sum();
                let want = 100.0 * share * f64::from(seconds);
                assert!((bytes / want - 1.0).abs() < 1e-6, "{seconds}: {bytes} of {want}");
            }
            assert_eq!(story.conns[1].end.as_deref(), Some("slow"));
            let [Takeover { stripes: 3, conn: 1, at_s, .. }] = story.takeovers[..] else {
                panic!("{}", story.takeovers.len())
            };
            assert!((at_s - f64::from(seconds / 2)).abs() < 1e-6, "{at_s}");
        }
    }

    #[test]
    fn events_that_are_no_such_ones_do_no_harm() {
        let mut story = Story::new();
        assert!(!story.note(&json!([]), 0.0) && !story.note(&json!({"event": 1}), 0.0));
        assert!(!story.note(&json!({"event": "begun"}), f64::NAN));
        assert!(!story.note(&json!({"event": "begun"}), 1e300));
        for number in 0..10_000 {
            let at_s = f64::from(number % 7);
            story.note(&json!({"event": "connected", "conn": number, "local": {}}), at_s);
            story.note(&json!({"event": "condemned", "conn": number, "stripes": -1}), at_s);
            story.note(
                &json!({"event": "connection", "conn": 0, "delivered_bytes": -5, "rtt_ms": "x"}),
                at_s,
            );
            story.note(&json!({"event": "failed", "path": "x".repeat(5_000)}), at_s);
            story.note(&json!({"event": "interrupted"}), at_s);
            story.note(&json!({"event": "progress", "confirmed_bytes": 1e308}), at_s);
        }
        assert_eq!((story.conns.len(), story.takeovers.len()), (CONNS_MAX, TOLD_MAX));
        assert_eq!(story.conns_untold, 10_000 - CONNS_MAX as u64);
        assert_eq!((story.takeovers_count, story.interruptions_count), (10_000, 10_000));
        assert_eq!(story.failures[0].path.len(), TEXT_MAX);
    }

    #[test]
    fn what_came_after_the_last_event_of_a_connection_is_in_the_summary() {
        let mut story = story(2);
        let total =
            json!({"transfer": "a", "conn": 0, "delivered_bytes": 500, "end": "done", "up_s": 3.0});
        story.note(&json!({"event": "summary", "connections": [total, 7], "files": 1}), 3.5);
        assert!((story.conns[0].bytes.iter().sum::<f64>() - 500.0).abs() < 1e-6);
        assert_eq!(story.conns[0].end.as_deref(), Some("done"));
        assert!(story.summary.as_ref().is_some_and(|summary| summary["connections"].is_null()));
    }

    #[test]
    fn windows_that_are_full_are_the_path() {
        let story = story(20);
        let shares = story.holders();
        assert_eq!(shares[0].holder, Holder::Path);
        assert!(shares[0].part > 0.9, "{}", shares[0].part);
    }
}
