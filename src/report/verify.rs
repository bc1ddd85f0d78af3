//! What `qbulk verify` tells.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use qbulk::event::{VerifyEvent, VerifyProgress, VerifySummary};

use super::json::Json;
use super::push::{LINE_INTERVAL, eta};
use super::units::{bit_rate, count, others, rate, size};
use super::{Output, say, say_in_passing};
use crate::out::{self, Status, Weight};

/// Tells a verification's events.
pub(crate) struct VerifyReport {
    output: Output,
    json: Json,
    line_at: Mutex<Instant>,
}

impl VerifyReport {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, json: Json::start(), line_at: Mutex::new(Instant::now()) }
    }

    pub(crate) fn tell(&self, event: &VerifyEvent) {
        match event {
            event if self.output.json => self.json.verify(event),
            VerifyEvent::Difference(difference) => {
                out::print(&format!("{}: {}", difference.path, words(&difference.differs)));
            }
            VerifyEvent::NotCompared(failure) => {
                out::print(&format!("{}: not compared: {}", failure.path, failure.reason));
            }
            _ if self.output.quiet => {}
            VerifyEvent::VerifyWaiting { reason } => {
                say(&format!("waiting for a turn at the server: {reason}"));
            }
            VerifyEvent::VerifyProgress(progress) if out::has_status_line() => {
                out::show(Some(status(progress)));
            }
            VerifyEvent::VerifyProgress(progress) => {
                let mut line_at = self.line_at.lock().unwrap_or_else(PoisonError::into_inner);
                if line_at.elapsed() >= LINE_INTERVAL {
                    *line_at = Instant::now();
                    say_in_passing(&status(progress).text());
                }
            }
            VerifyEvent::VerifySummary(summary) => {
                out::show(None);
                out::say(&text(summary), Weight::Kept);
            }
            _ => {}
        }
    }
}

fn words(differs: &[&str]) -> String {
    let words: Vec<_> = differs
        .iter()
        .map(|what| match *what {
            "missing" => "is missing",
            "kind" => "is something else",
            "size" => "has another size",
            "content" => "has another content",
            "target" => "points elsewhere",
            "mode" => "has other permissions",
            "mtime" => "has another modification time",
            other => other,
        })
        .collect();
    words.join(", ")
}

fn status(progress: &VerifyProgress) -> Status {
    let VerifyProgress { found_bytes, hashed_bytes, scan_done, .. } = *progress;
    let so_far = if scan_done { "" } else { " found so far" };
    let share = match found_bytes {
        0 => 0.0,
        _ => hashed_bytes as f64 / found_bytes as f64,
    };
    let is_known = scan_done && found_bytes > 0;
    Status {
        share: is_known.then_some(share),
        parts: vec![
            format!("{} of {}{so_far} hashed", size(hashed_bytes), size(found_bytes)),
            bit_rate(progress.bytes_per_s),
            eta(scan_done, found_bytes.saturating_sub(hashed_bytes), progress.bytes_per_s),
            format!(
                "{} of {} compared",
                progress.compared_items,
                count(progress.found_items, "item")
            ),
        ],
    }
}

fn text(summary: &VerifySummary) -> String {
    let VerifySummary { missing, different, metadata, not_compared, .. } = summary;
    let same = match (summary.files, summary.others) {
        (0, 0) => "nothing the same".into(),
        (files, 0) => format!("{}, {}, the same", count(files, "file"), size(summary.bytes)),
        (0, folders) => format!("{} the same", others(folders)),
        (files, folders) => format!(
            "{}, {}, and {} the same",
            count(files, "file"),
            size(summary.bytes),
            others(folders)
        ),
    };
    let differ: Vec<_> = [
        (missing, "MISSING"),
        (different, "DIFFERENT"),
        (metadata, "with other permissions or times"),
        (not_compared, "NOT COMPARED"),
    ]
    .into_iter()
    .filter(|(number, _)| **number > 0)
    .map(|(number, what)| format!("; {number} {what}"))
    .collect();
    let same = if summary.is_same() && summary.files + summary.others == 0 {
        "there was nothing to compare".into()
    } else {
        same
    };
    // What is small is read before it is known that it is missing.
    let was_compared = summary.files + different + metadata > 0;
    let speed = match summary.bytes_per_s {
        1.0.. if was_compared => format!(", {}", rate(summary.bytes_per_s)),
        _ => String::new(),
    };
    format!("{same}{}; {:.2} s{speed}", differ.concat(), summary.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_that_has_hashed_nothing_has_no_speed() {
        let nothing = VerifySummary { missing: 1, seconds: 0.5, ..VerifySummary::default() };
        assert_eq!(text(&nothing), "nothing the same; 1 MISSING; 0.50 s");
        let small = VerifySummary { bytes_per_s: 1e6, ..nothing };
        assert_eq!(text(&small), "nothing the same; 1 MISSING; 0.50 s");
        let empty = VerifySummary { seconds: 0.5, ..VerifySummary::default() };
        assert_eq!(text(&empty), "there was nothing to compare; 0.50 s");
        let same = VerifySummary { files: 1, bytes: 3, others: 1, bytes_per_s: 1e6, ..empty };
        assert_eq!(
            text(&same),
            "1 file, 3 B, and 1 folder or link the same; 0.50 s, 8.00 Mbit/s (976.6 KiB/s)"
        );
    }
}
