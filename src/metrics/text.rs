//! The text that Prometheus reads, version 0.0.4 of its format.

use std::fmt::{Display, Write};

use qbulk::serve::{Direction, Snapshot, Tally};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of a tally, what a metric shows.
type Shown = fn(&Tally) -> f64;

/// Totals by root and direction.
const TOTALS: [(&str, &str, Shown); 4] = [
    (
        "qbulk_transfer_bytes_total",
        "Content that has arrived and was verified, of transfers that run as well.",
        |tally| tally.bytes as f64,
    ),
    ("qbulk_transfer_files_total", "Files of transfers that are done.", |tally| tally.files as f64),
    (
        "qbulk_transfer_failures_total",
        "Files, folders and links that could not be moved, of transfers that are done.",
        |tally| tally.failed as f64,
    ),
    (
        "qbulk_transfer_padding_bytes_total",
        "Padding that opened congestion windows, of transfers that are done.",
        |tally| tally.padding_bytes as f64,
    ),
];

/// What a server says.
pub(super) fn of(snapshot: &Snapshot) -> Text {
    let mut text = Text(String::with_capacity(8 << 10));
    text.family("qbulk_build_info", "gauge", "The version that runs.");
    text.sample("qbulk_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for (name, help, shown) in TOTALS {
        text.by_place(snapshot, (name, "counter", help), |text, labels, tally| {
            text.sample(name, labels, shown(tally));
        });
    }
    let name = "qbulk_transfers_total";
    let help = "Transfers that are done, and that ended before.";
    text.by_place(snapshot, (name, "counter", help), |text, labels, tally| {
        let [root, direction] = *labels;
        for (result, count) in [("done", tally.done), ("aborted", tally.aborted)] {
            text.sample(name, &[root, direction, ("result", result)], count as f64);
        }
    });
    let help = "How long transfers took that are done.";
    let family = ("qbulk_transfer_duration_seconds", "summary", help);
    text.by_place(snapshot, family, |text, labels, tally| {
        text.sample("qbulk_transfer_duration_seconds_sum", labels, tally.seconds);
        text.sample("qbulk_transfer_duration_seconds_count", labels, tally.done as f64);
    });
    let name = "qbulk_transfers_running";
    let help = "Transfers that run.";
    text.by_place(snapshot, (name, "gauge", help), |text, labels, tally| {
        text.sample(name, labels, tally.running as f64);
    });
    text.counter(
        "qbulk_verifications_total",
        "Verifications that clients were answered to their end.",
        snapshot.verified as f64,
    );
    text.counter(
        "qbulk_listings_total",
        "Listings and dry runs that clients were answered to their end.",
        snapshot.listed as f64,
    );
    text.counter(
        "qbulk_turned_away_total",
        "Connections of clients that were turned away, for whatever reason.",
        snapshot.turned_away as f64,
    );
    text.gauge(
        "qbulk_transfers_waiting",
        "Transfers that wait for their turn.",
        snapshot.waiting as f64,
    );
    text.gauge("qbulk_connections", "Connections that are up.", snapshot.connections as f64);
    text.gauge(
        "qbulk_transfers_max",
        "The most transfers that are taken on at a time.",
        snapshot.limits.transfers as f64,
    );
    text.gauge(
        "qbulk_connections_max",
        "The most connections that are taken on at a time.",
        snapshot.limits.connections as f64,
    );
    text.gauge(
        "qbulk_draining",
        "1 while the server is being stopped and takes no new transfers.",
        f64::from(u8::from(snapshot.is_draining)),
    );
    text
}

/// Families of samples, one after the other.
pub(super) struct Text(String);

impl Text {
    /// All of it.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// A number that only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A number as it is now.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn by_place(
        &mut self,
        snapshot: &Snapshot,
        (name, kind, help): (&str, &str, &str),
        add: impl Fn(&mut Self, &[(&str, &str); 2], &Tally),
    ) {
        self.family(name, kind, help);
        for ((root, direction), tally) in &snapshot.tallies {
            let direction = match direction {
                Direction::In => "in",
                Direction::Out => "out",
            };
            add(self, &[("root", root), ("direction", direction)], tally);
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}={text:?}")).collect();
        match &labels[..] {
            [] => self.line(format_args!("{name} {value}")),
            labels => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: impl Display) {
        // A text takes whatever is written to it.
        writeln!(self.0, "{line}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_family_and_every_total_is_a_counter() {
        let tally = Tally { done: 3, bytes: 5_000_000_000, seconds: 1.5, ..Tally::default() };
        let tallies = [(("media".to_owned(), Direction::Out), tally)].into();
        let said = of(&Snapshot { tallies, waiting: 2, ..Snapshot::default() }).into_string();
        let mut kinds = std::collections::BTreeMap::new();
        for line in said.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a kind");
                assert_eq!(kinds.insert(name, kind), None, "{name} is there twice");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                let name = name.strip_suffix("_sum").unwrap_or(name);
                let name = name.strip_suffix("_count").unwrap_or(name);
                assert!(kinds.contains_key(name), "{line}");
            }
        }
        for line in [
            "qbulk_transfer_bytes_total{root=\"media\",direction=\"out\"} 5000000000",
            "qbulk_transfers_total{root=\"media\",direction=\"out\",result=\"done\"} 3",
            "qbulk_transfer_duration_seconds_sum{root=\"media\",direction=\"out\"} 1.5",
            "qbulk_transfers_waiting 2",
            "qbulk_draining 0",
        ] {
            assert!(said.lines().any(|other| other == line), "{line} is not in {said}");
        }
    }
}
