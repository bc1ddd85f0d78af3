//! Lines of JSON: what happened, when, and in which transfer.

use std::io::Write;
use std::sync::{LazyLock, OnceLock};
use std::time::{Instant, SystemTime};

use qbulk::error::Error;
use qbulk::event::{PushEvent, ServeEvent, VerifyEvent};
use serde::Serialize;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The one transfer of a push: its number, once it has begun.
static TRANSFER: OnceLock<String> = OnceLock::new();

/// One line.
#[derive(Serialize)]
struct Record<'a, E> {
    #[serde(flatten)]
    event: &'a E,
    /// In UTC, as in RFC 3339.
    time: String,
    /// Since the command started, in seconds.
    at_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<&'a str>,
}

/// From now on time is counted.
pub(super) fn start() {
    LazyLock::force(&BEGAN);
}

pub(super) fn push(event: &PushEvent) {
    match event {
        PushEvent::Begun { transfer } => {
            TRANSFER.get_or_init(|| transfer.clone());
            line(event, None);
        }
        // Has it already.
        PushEvent::Summary(_) => line(event, None),
        _ => line(event, TRANSFER.get()),
    }
}

pub(super) fn verify(event: &VerifyEvent) {
    line(event, None); // there is no transfer
}

pub(super) fn serve(event: &ServeEvent) {
    line(event, None); // those that belong to a transfer say so themselves
}

pub(super) fn error(error: &Error) {
    let event = serde_json::json!({
        "event": "error",
        "code": error.exit_code(),
        "message": error.to_string(),
    });
    line(&event, TRANSFER.get());
}

fn line(event: &impl Serialize, transfer: Option<&String>) {
    let record = Record {
        event,
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        at_s: BEGAN.elapsed().as_secs_f64(),
        transfer: transfer.map(String::as_str),
    };
    let Ok(line) = serde_json::to_string(&record) else { return };
    // If nobody reads it any more, the transfer goes on all the same.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}
