//! What `qbulk verify` tells.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use qbulk::event::{VerifyEvent, VerifyProgress, VerifySummary};

use super::push::{LINE_INTERVAL, bar};
use super::{count, json, printable, rate, size};
use crate::cli::OutputArgs;

/// Tells a verification's events.
pub(crate) enum VerifyReport {
    Json,
    Quiet,
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
}

impl VerifyReport {
    pub(crate) fn new(output: OutputArgs) -> Self {
        if output.json {
            json::start();
            Self::Json
        } else if output.quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bar(bar())
        } else {
            Self::Lines(Mutex::new(Instant::now()))
        }
    }

    pub(crate) fn tell(&self, event: &VerifyEvent) {
        match (self, event) {
            (Self::Json, event) => json::verify(event),
            (_, VerifyEvent::Difference(difference)) => {
                let (path, differs) = (printable(&difference.path), words(&difference.differs));
                self.line(&format!("{path}: {differs}"));
            }
            (_, VerifyEvent::NotCompared(failure)) => {
                let (path, reason) = (printable(&failure.path), printable(&failure.reason));
                self.line(&format!("{path}: not compared: {reason}"));
            }
            (Self::Quiet, _) => {}
            (Self::Bar(bar), VerifyEvent::VerifyProgress(progress)) => show(bar, progress),
            (Self::Lines(last), VerifyEvent::VerifyProgress(progress)) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    eprintln!("qbulk: {}", line(progress));
                }
            }
            (_, VerifyEvent::VerifySummary(summary)) => {
                self.end();
                eprintln!("{}", text(summary));
            }
            _ => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    fn line(&self, line: &str) {
        // If nobody reads it any more, the exit code still tells.
        let print = || drop(writeln!(std::io::stdout().lock(), "{line}"));
        match self {
            Self::Bar(bar) => bar.suspend(print),
            _ => print(),
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

fn show(bar: &ProgressBar, progress: &VerifyProgress) {
    bar.set_length(progress.found_bytes);
    bar.set_position(progress.hashed_bytes);
    let eta = if !progress.scan_done {
        format!("{} found so far", progress.found_items)
    } else if progress.bytes_per_s > 0.0 {
        let left = progress.found_bytes.saturating_sub(progress.hashed_bytes) as f64;
        let seconds = Duration::from_secs((left / progress.bytes_per_s) as u64);
        format!("ETA {}", humantime::format_duration(seconds))
    } else {
        String::new()
    };
    let compared = progress.compared_items;
    bar.set_message(format!("{} | {eta} | {compared} compared", rate(progress.bytes_per_s)));
}

fn line(progress: &VerifyProgress) -> String {
    let total = if progress.scan_done { "" } else { " found so far" };
    format!(
        "{} of {}{total} hashed, {}, {} compared",
        size(progress.hashed_bytes),
        size(progress.found_bytes),
        rate(progress.bytes_per_s),
        count(progress.compared_items, "item")
    )
}

fn text(summary: &VerifySummary) -> String {
    let VerifySummary { files, others, missing, different, metadata, not_compared, .. } = summary;
    let same = format!(
        "{}, {}, and {others} folders and links the same",
        count(*files, "file"),
        size(summary.bytes)
    );
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
    let differ = differ.concat();
    format!("{same}{differ}; {:.2} s, {}", summary.seconds, rate(summary.bytes_per_s))
}
