//! What `qbulk push` tells.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qbulk::event::{Progress, PushEvent, Summary};

use super::{count, json, printable, rate, size};
use crate::cli::OutputArgs;

/// How often a plain line says how far it is.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Tells a push's events.
pub(crate) enum PushReport {
    Json,
    Quiet,
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
}

impl PushReport {
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

    pub(crate) fn tell(&self, event: &PushEvent) {
        match (self, event) {
            (Self::Json, event) => json::push(event),
            (_, PushEvent::Failed(failure)) => {
                let (path, reason) = (printable(&failure.path), printable(&failure.reason));
                self.line(&format!("qbulk: {path}: {reason}"));
            }
            (Self::Quiet, _) => {}
            (_, PushEvent::Condemned { conn, verdict, stripes }) if *stripes > 0 => {
                let why = verdict.replace('_', " ");
                self.line(&format!(
                    "qbulk: connection {conn} is given up ({why}): others take over {stripes} stripes"
                ));
            }
            (_, PushEvent::Interrupted { reason, .. }) => {
                self.line(&format!("qbulk: {}: trying to go on", printable(reason)));
            }
            (Self::Bar(bar), PushEvent::Progress(progress)) => show(bar, progress),
            (Self::Lines(last), PushEvent::Progress(progress)) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    eprintln!("qbulk: {}", line(progress));
                }
            }
            (_, PushEvent::Summary(summary)) => {
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
        match self {
            Self::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            _ => eprintln!("{line}"),
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    let template = "{bar:24} {percent:>3}% {binary_bytes}/{binary_total_bytes} {msg}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| {
        ProgressStyle::default_bar() // not reached: the template is known to be good
    }));
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.found_bytes);
    bar.set_position(progress.confirmed_bytes);
    let eta = if progress.finishing {
        "making it durable".into()
    } else if !progress.scan_done {
        format!("{} found so far", progress.found_items)
    } else if progress.bytes_per_s > 0.0 {
        let left = progress.found_bytes.saturating_sub(progress.confirmed_bytes) as f64;
        let seconds = Duration::from_secs((left / progress.bytes_per_s) as u64);
        format!("ETA {}", humantime::format_duration(seconds))
    } else {
        String::new()
    };
    let Progress { active, reserve, takeovers, .. } = progress;
    bar.set_message(format!(
        "{} | {eta} | {active} active, {reserve} in reserve, {takeovers} taken over",
        rate(progress.bytes_per_s)
    ));
}

fn line(progress: &Progress) -> String {
    let Progress { active, reserve, takeovers, .. } = progress;
    let total = if progress.scan_done { "" } else { " found so far" };
    format!(
        "{} of {}{total}, {}, {active} active, {reserve} in reserve, {takeovers} taken over",
        size(progress.confirmed_bytes),
        size(progress.found_bytes),
        rate(progress.bytes_per_s)
    )
}

fn text(summary: &Summary) -> String {
    let Summary { files, others, seconds, failed, takeovers, stripes_again, .. } = summary;
    let failed = match (failed, summary.failed_unnamed) {
        (0, _) => String::new(),
        (failed, 0) => format!(", {failed} FAILED"),
        (failed, unnamed) => {
            format!(", {failed} FAILED: those named above, and {unnamed} more at the server")
        }
    };
    let kept = match summary.kept_bytes {
        0 => String::new(),
        bytes => format!(" ({} of it from an earlier run)", size(bytes)),
    };
    format!(
        "{}, {others} folders and links, {}{kept} in {seconds:.2} s, {}, verified and durable{failed}\n\
         {} connections, {takeovers} taken over, {stripes_again} of {} stripes sent again, padding {} ({:.1}%)",
        count(*files, "file"),
        size(summary.bytes),
        rate(summary.bytes_per_s),
        summary.connections_opened,
        summary.stripes,
        size(summary.padding_sent_bytes),
        summary.padding_percent,
    )
}
