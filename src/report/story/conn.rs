//! One connection over time.

use serde_json::Value;

use super::{number, text};

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::report) enum Role {
    #[default]
    None,
    Opening,
    Priming,
    Reserve,
    Active,
}

/// How a connection was in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::report) struct State {
    pub(in crate::report) role: Role,
    pub(in crate::report) rtt_ms: f32,
    pub(in crate::report) window_bytes: f32,
    pub(in crate::report) in_flight_bytes: f32,
}

/// A connection.
pub(in crate::report) struct Conn {
    pub(in crate::report) number: u64,
    pub(in crate::report) from_s: f64,
    pub(in crate::report) until_s: Option<f64>,
    /// How its priming ended.
    pub(in crate::report) primed: Option<String>,
    /// How it ended itself.
    pub(in crate::report) end: Option<String>,
    /// What it delivered and lost, by interval, in bytes.
    pub(in crate::report) bytes: Vec<f64>,
    pub(in crate::report) lost: Vec<f64>,
    /// By interval, where it was told; it stays like that until it is told again.
    pub(in crate::report) states: Vec<Option<State>>,
    /// The last that was told of it.
    pub(super) last: State,
    pub(super) last_s: f64,
    pub(in crate::report) rtt_min_ms: f64,
    pub(in crate::report) delivered_bytes: f64,
    pub(in crate::report) lost_bytes: f64,
    pub(in crate::report) padding_bytes: f64,
    pub(in crate::report) stripes: f64,
}

impl Conn {
    pub(super) fn new(number: u64, now: f64) -> Self {
        Self {
            number,
            from_s: now,
            until_s: None,
            primed: None,
            end: None,
            bytes: Vec::new(),
            lost: Vec::new(),
            states: Vec::new(),
            last: State::default(),
            last_s: now,
            rtt_min_ms: 0.0,
            delivered_bytes: 0.0,
            lost_bytes: 0.0,
            padding_bytes: 0.0,
            stripes: 0.0,
        }
    }

    /// Takes what was told of it.
    pub(super) fn sample(&mut self, event: &Value, now: f64, bin_s: f64) {
        self.count(event, now, bin_s);
        let role = match event["role"].as_str() {
            Some("opening") => Role::Opening,
            Some("priming") => Role::Priming,
            Some("reserve") => Role::Reserve,
            Some("active") => Role::Active,
            _ => Role::None,
        };
        self.last = State {
            role,
            rtt_ms: number(event, "rtt_ms") as f32,
            window_bytes: number(event, "window_bytes") as f32,
            in_flight_bytes: number(event, "in_flight_bytes") as f32,
        };
        let at = (now / bin_s) as usize;
        if self.states.len() <= at {
            self.states.resize(at + 1, None);
        }
        self.states[at] = Some(self.last);
    }

    /// Takes what it did in all.
    pub(super) fn sum_up(&mut self, total: &Value, now: f64, bin_s: f64) {
        let until_s = self.until_s.unwrap_or(now).max(self.last_s);
        self.count(total, until_s, bin_s);
        self.end(until_s, &text(total, "end"));
    }

    fn count(&mut self, event: &Value, now: f64, bin_s: f64) {
        let span = (self.last_s, now);
        let add = |all: &mut f64, bins: &mut Vec<f64>, name| {
            let new = number(event, name) - *all;
            if new > 0.0 {
                spread(bins, span, new, bin_s);
                *all += new;
            }
        };
        add(&mut self.delivered_bytes, &mut self.bytes, "delivered_bytes");
        add(&mut self.lost_bytes, &mut self.lost, "lost_bytes");
        self.padding_bytes = self.padding_bytes.max(number(event, "padding_bytes"));
        self.stripes = self.stripes.max(number(event, "stripes"));
        let rtt_min_ms = number(event, "rtt_min_ms");
        if rtt_min_ms > 0.0 {
            self.rtt_min_ms = rtt_min_ms;
        }
        self.last_s = now;
    }

    /// It is over, unless it was before.
    pub(super) fn end(&mut self, now: f64, how: &str) {
        if self.until_s.is_none() {
            self.until_s = Some(now);
        }
        if self.end.is_none() {
            self.end = Some(how.into());
        }
    }

    pub(super) fn halve(&mut self) {
        halve(&mut self.bytes, |one, two| one + two);
        halve(&mut self.lost, |one, two| one + two);
        halve(&mut self.states, |one, two| two.or(one));
    }

    /// How it was in each of `count` intervals; outside of its life, as if there were none.
    pub(in crate::report) fn filled(&self, count: usize, bin_s: f64) -> Vec<State> {
        let mut state = State { role: Role::Opening, ..State::default() };
        let until_s = self.until_s.unwrap_or(f64::INFINITY);
        let at = |bin: usize| {
            if let Some(Some(told)) = self.states.get(bin) {
                state = *told;
            }
            let from_s = bin as f64 * bin_s;
            let lives = from_s + bin_s > self.from_s && from_s < until_s;
            if lives { state } else { State::default() }
        };
        (0..count).map(at).collect()
    }
}

/// Adds `amount` evenly to the intervals that a span lies in.
pub(super) fn spread(bins: &mut Vec<f64>, (from_s, until_s): (f64, f64), amount: f64, bin_s: f64) {
    let last = (until_s / bin_s) as usize;
    if bins.len() <= last {
        bins.resize(last + 1, 0.0);
    }
    let length = until_s - from_s;
    if length <= 0.0 {
        bins[last] += amount;
        return;
    }
    let first = ((from_s / bin_s) as usize).min(last);
    let mut left = amount;
    for (bin, sum) in bins.iter_mut().enumerate().take(last).skip(first) {
        let from_s = from_s.max(bin as f64 * bin_s);
        let share = ((bin + 1) as f64 * bin_s - from_s).max(0.0) / length;
        let part = (amount * share).min(left);
        *sum += part;
        left -= part;
    }
    bins[last] += left;
}

/// Makes one interval of each two.
pub(super) fn halve<T: Copy>(bins: &mut Vec<T>, merge: impl Fn(T, T) -> T) {
    let merged = bins.chunks(2).map(|pair| match pair {
        [one, two] => merge(*one, *two),
        pair => pair[0],
    });
    *bins = merged.collect();
}
