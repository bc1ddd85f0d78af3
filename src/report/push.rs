//! What `qbulk push` tells.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qbulk::error::Error;
use qbulk::event::{Failure, FailureKind, Progress, PushEvent, Summary};

use super::file::Page;
use super::json::Json;
use super::losses::Losses;
use super::units::{bit_rate, count, others, rate, size};
use super::{Output, say, say_in_passing};
use crate::out::{self, Status, Weight};

/// How often a plain line says how far it is.
pub(super) const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A rate of the first moments says nothing about so long a time.
const ETA_MAX_S: u64 = 30 * 24 * 3_600;

/// Tells a push's events.
pub(crate) struct PushReport {
    output: Output,
    json: Json,
    page: Option<Page>,
    told: Mutex<Told>,
    is_stream: bool,
}

/// What was told so far, and what is still to be.
struct Told {
    line_at: Instant,
    /// Why it is interrupted, while it is.
    interrupted: Option<String>,
    losses: Losses,
    /// The most that has arrived, and what was found by then, in bytes.
    arrived_bytes: u64,
    found_bytes: u64,
}

impl PushReport {
    pub(crate) fn new(output: Output) -> Self {
        let told = Told {
            line_at: Instant::now(),
            interrupted: None,
            losses: Losses::default(),
            arrived_bytes: 0,
            found_bytes: 0,
        };
        Self { output, json: Json::start(), page: None, told: Mutex::new(told), is_stream: false }
    }

    /// Tells a page as well, which [`Self::finish`] writes.
    pub(crate) fn with_page(self, page: Option<Page>) -> Self {
        Self { page, ..self }
    }

    /// What is left to do when all is told. Returns the exit code.
    pub(crate) fn finish(&self, code: u8) -> u8 {
        let written = self.page.as_ref().map_or(Ok(()), Page::write);
        match written {
            Ok(()) => code,
            Err(error) => {
                say(&error.to_string());
                if code == 0 { error.exit_code() } else { code }
            }
        }
    }

    /// Of a transfer that cannot be gone on with, since it is from a pipe or to one.
    pub(crate) fn streaming(self, is_stream: bool) -> Self {
        Self { is_stream, ..self }
    }

    pub(crate) fn tell(&self, event: &PushEvent) {
        if let PushEvent::Progress(progress) = event {
            let mut told = self.told();
            told.arrived_bytes = told.arrived_bytes.max(progress.confirmed_bytes);
            told.found_bytes = told.found_bytes.max(progress.found_bytes);
        }
        if let Some(page) = &self.page {
            page.note(event);
        }
        if self.output.json {
            self.json.push(event);
        } else if let PushEvent::Failed(failure) = event {
            say(&failed(failure));
        } else if !self.output.quiet {
            self.tell_fully(event);
        }
    }

    fn tell_fully(&self, event: &PushEvent) {
        match event {
            PushEvent::Condemned { conn, verdict, stripes } => {
                self.told().losses.add(*conn, verdict, *stripes);
            }
            PushEvent::NotKept { what, count, path, reason } => {
                let (what, hint) = match *what {
                    "modes" => ("permissions", " (--no-perms expects that)"),
                    "times" => ("modification times", " (--no-times expects that)"),
                    "owners" => ("owner and group", ""),
                    "special_bits" => ("set-user-id, set-group-id and sticky bits", ""),
                    "xattrs" => ("extended attributes", " (without -X, none are kept)"),
                    _ => ("ACLs", " (without -A, none are kept)"),
                };
                let others = match count {
                    0..=1 => String::new(),
                    2 => " and 1 other".into(),
                    count => format!(" and {} others", count - 1),
                };
                say(&format!("{what} of {path}{others} cannot be kept there: {reason}{hint}"));
            }
            PushEvent::Interrupted { reason, .. } => {
                let mut told = self.told();
                told.losses.forget();
                // It is tried about once a second.
                if told.interrupted.as_ref() != Some(reason) {
                    say(&format!("{reason}: trying to go on"));
                    told.interrupted = Some(reason.clone());
                }
            }
            PushEvent::Waiting { reason } => {
                say(&format!("waiting for a turn at the server: {reason}"));
            }
            PushEvent::Connected { .. } => self.connected(),
            PushEvent::Progress(progress) => {
                let mut told = self.told();
                for line in told.losses.due(progress.elapsed_s, progress.connections) {
                    say(&line);
                }
                if out::has_status_line() {
                    out::show(Some(status(progress)));
                } else if told.line_at.elapsed() >= LINE_INTERVAL {
                    told.line_at = Instant::now();
                    say_in_passing(&status(progress).text());
                }
            }
            PushEvent::NotDeleted { reason, .. } => say(&format!("nothing is deleted: {reason}")),
            PushEvent::Deleted { path, .. } if self.output.details => {
                say(&format!("deleted {path}"));
            }
            PushEvent::Summary(summary) => {
                out::show(None);
                for line in self.told().losses.all() {
                    say(&line);
                }
                out::say(&text(summary), Weight::Kept);
                if self.output.details {
                    out::say(&details(summary), Weight::Kept);
                }
            }
            _ => {}
        }
    }

    fn connected(&self) {
        if self.told().interrupted.take().is_some() {
            say("connected again, and going on");
        }
    }

    /// Says why the push has failed as a whole, and what is kept of it. Returns the exit code.
    pub(crate) fn fail(&self, error: &Error) -> u8 {
        out::show(None);
        let Told { arrived_bytes, found_bytes, .. } = *self.told();
        let kept = match arrived_bytes {
            0 => String::new(),
            _ if self.is_stream => String::new(),
            bytes => format!(
                ": {} of {} found have arrived; the same command goes on from what the server keeps of it",
                size(bytes),
                size(found_bytes)
            ),
        };
        let message = format!("{error}{kept}");
        if let Some(page) = &self.page {
            page.fail(&message);
        }
        if self.output.json {
            self.json.error(error, &message);
        } else {
            say(&message);
        }
        error.exit_code()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn failed(failure: &Failure) -> String {
    let Failure { path, reason, kind } = failure;
    match kind {
        FailureKind::Destination if path.is_empty() => {
            format!("destination: the server's root folder: {reason}")
        }
        FailureKind::Destination => format!("destination: {path}: {reason}"),
        FailureKind::Source | FailureKind::Vanished | FailureKind::Changed => {
            format!("source: {path}: {reason}")
        }
    }
}

/// What matters most comes first: in a narrow terminal the rest is left out.
fn status(progress: &Progress) -> Status {
    let Progress { found_bytes, confirmed_bytes, found_items, confirmed_items, .. } = *progress;
    let so_far = if progress.scan_done { "" } else { " found so far" };
    let share = match found_bytes {
        0 => 0.0,
        _ => confirmed_bytes as f64 / found_bytes as f64,
    };
    let is_known = progress.scan_done && found_bytes > 0;
    let speed = match progress.connections {
        0 if confirmed_bytes == 0 => "connecting".into(),
        0 => "no connection".into(),
        _ if progress.finishing => "making it durable".into(),
        _ => bit_rate(progress.bytes_per_s),
    };
    let taken_over = match progress.takeovers {
        0 => String::new(),
        takeovers => format!("{takeovers} taken over"),
    };
    Status {
        share: is_known.then_some(share),
        parts: vec![
            format!("{} of {}{so_far}", size(confirmed_bytes), size(found_bytes)),
            speed,
            eta(
                progress.scan_done,
                found_bytes.saturating_sub(confirmed_bytes),
                progress.bytes_per_s,
            ),
            format!("{confirmed_items} of {}", count(found_items, "item")),
            format!("{} active", progress.active),
            format!("{} in reserve", progress.reserve),
            taken_over,
        ],
    }
}

/// How long the rest takes, if that can be said.
pub(super) fn eta(scan_done: bool, left_bytes: u64, bytes_per_s: f64) -> String {
    if !scan_done || left_bytes == 0 || bytes_per_s < 1.0 {
        return String::new();
    }
    let seconds = (left_bytes as f64 / bytes_per_s).ceil() as u64;
    if seconds > ETA_MAX_S {
        return String::new();
    }
    format!("ETA {}", humantime::format_duration(Duration::from_secs(seconds)))
}

fn text(summary: &Summary) -> String {
    let there: Vec<_> = [
        (summary.files > 0).then(|| count(summary.files, "file")),
        (summary.others > 0).then(|| others(summary.others)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let failed = match (summary.failed, summary.failed_unnamed) {
        (0, _) => String::new(),
        (failed, 0) => format!("; {failed} FAILED"),
        (failed, unnamed) => {
            format!("; {failed} FAILED: those named above, and {unnamed} more at the server")
        }
    };
    let skipped = match summary.skipped_files {
        0 => String::new(),
        files => format!("; {} skipped for what is there", count(files, "file")),
    };
    let skipped = match summary.deleted {
        0 => skipped,
        deleted => format!("{skipped}; {deleted} deleted that were not at the source"),
    };
    if there.is_empty() {
        let nothing = match (summary.failed, summary.skipped_files) {
            (0, 0) => "there was nothing to send",
            (0, _) => "nothing was new",
            _ => "nothing was delivered",
        };
        return format!("{nothing}{skipped}{failed}");
    }
    let kept = match summary.kept_bytes {
        0 => String::new(),
        bytes => format!(" ({} of it from an earlier run)", size(bytes)),
    };
    let matched = match summary.matched_bytes {
        0 => String::new(),
        bytes => format!(" ({} of it as it was there)", size(bytes)),
    };
    let bytes = match summary.files {
        0 => String::new(),
        _ => format!(", {}{kept}{matched}", size(summary.bytes)),
    };
    let speed = match summary.bytes_per_s {
        1.0.. => format!(", {}", rate(summary.bytes_per_s)),
        _ => String::new(),
    };
    format!(
        "{}{bytes} in {:.2} s{speed}, verified and durable{skipped}{failed}",
        there.join(", "),
        summary.seconds
    )
}

/// What the connections did, for who wants to know.
fn details(summary: &Summary) -> String {
    // Where padding is the most of it, there was too little to send for a share to say anything.
    let share = match summary.padding_percent {
        ..=50.0 => format!(" ({:.1}% of what was sent)", summary.padding_percent),
        _ => String::new(),
    };
    format!(
        "{}, {} taken over, {} of {} sent again, {} of padding{share}",
        count(summary.connections_opened, "connection"),
        summary.takeovers,
        summary.stripes_again,
        count(summary.stripes, "stripe"),
        size(summary.padding_sent_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_a_share_of_what_is_worth_one() {
        let with = |padding_percent| {
            let (connections_opened, stripes, padding_sent_bytes) = (1, 1, 3 << 20);
            details(&Summary {
                connections_opened,
                stripes,
                padding_sent_bytes,
                padding_percent,
                ..Summary::default()
            })
        };
        let tiny = "1 connection, 0 taken over, 0 of 1 stripe sent again, 3.0 MiB of padding";
        assert_eq!(with(99.99), tiny);
        assert_eq!(with(2.5), format!("{tiny} (2.5% of what was sent)"));
    }

    #[test]
    fn nothing_is_verified_and_durable_where_nothing_is() {
        let summary = Summary { failed: 4, seconds: 1.0, ..Summary::default() };
        assert_eq!(text(&summary), "nothing was delivered; 4 FAILED");
        assert_eq!(text(&Summary::default()), "there was nothing to send");
        let some = Summary { files: 1, bytes: 2, bytes_per_s: 2.0, ..summary };
        assert_eq!(
            text(&some),
            "1 file, 2 B in 1.00 s, 16 bit/s (2 B/s), verified and durable; 4 FAILED"
        );
        let folder = Summary { others: 1, seconds: 0.5, ..Summary::default() };
        assert_eq!(text(&folder), "1 folder or link in 0.50 s, verified and durable");
    }

    #[test]
    fn it_is_said_on_which_side_something_failed() {
        let said =
            |kind, path: &str| failed(&Failure { kind, path: path.into(), reason: "no".into() });
        assert_eq!(said(FailureKind::Vanished, "/a"), "source: /a: no");
        assert_eq!(said(FailureKind::Destination, "a"), "destination: a: no");
        let root = said(FailureKind::Destination, "");
        assert_eq!(root, "destination: the server's root folder: no");
    }

    #[test]
    fn the_status_counts_files_and_is_never_at_100_before_the_end() {
        let progress = Progress {
            found_items: 2,
            confirmed_items: 1,
            found_bytes: 1_000,
            confirmed_bytes: 1_000,
            scan_done: true,
            connections: 3,
            ..Progress::default()
        };
        let shown = status(&progress).text();
        assert!(shown.contains("99%"), "{shown}");
        let parts = status(&progress).parts;
        assert!(parts.contains(&"1 of 2 items".into()), "{parts:?}");
        let waiting = status(&Progress { connections: 0, confirmed_bytes: 500, ..progress }).parts;
        assert!(waiting.contains(&"no connection".into()), "{waiting:?}");
    }
}
