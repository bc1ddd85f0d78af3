//! Lines of JSON: what happened, when, and in which transfer.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use qbulk::error::Error;
use qbulk::event::{PushEvent, ServeEvent, VerifyEvent};
use serde::Serialize;

use crate::out::{self, Weight};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The transfer of a push that is under way: its number, once it has begun. After an interruption it is
/// another one.
static TRANSFER: Mutex<Option<String>> = Mutex::new(None);

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
            set_transfer(transfer.clone());
            line(event, None, Weight::Kept);
        }
        // Has it already.
        PushEvent::Summary(_) => line(event, None, Weight::Kept),
        PushEvent::Progress(_) | PushEvent::Connection(_) => {
            line(event, transfer().as_deref(), Weight::Passing);
        }
        _ => line(event, transfer().as_deref(), Weight::Kept),
    }
}

// There is no transfer.
pub(super) fn verify(event: &VerifyEvent) {
    let weight = match event {
        VerifyEvent::VerifyProgress(_) => Weight::Passing,
        _ => Weight::Kept,
    };
    line(event, None, weight);
}

pub(super) fn serve(event: &ServeEvent) {
    line(event, None, Weight::Kept); // those that belong to a transfer say so themselves
}

pub(super) fn error(error: &Error, message: &str) {
    let event = serde_json::json!({
        "event": "error",
        "code": error.exit_code(),
        "message": message,
    });
    line(&event, transfer().as_deref(), Weight::Kept);
}

fn set_transfer(transfer: String) {
    *TRANSFER.lock().unwrap_or_else(PoisonError::into_inner) = Some(transfer);
}

fn transfer() -> Option<String> {
    TRANSFER.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A reader that was too slow, or a disk that was full, has cost some lines.
fn lost(lines: u64) -> String {
    let event = serde_json::json!({ "event": "lost", "lines": lines });
    text(&event, transfer().as_deref()).unwrap_or_default()
}

fn line(event: &impl Serialize, transfer: Option<&str>, weight: Weight) {
    if let Ok(line) = text(event, transfer) {
        out::print_json(line, weight, lost);
    }
}

fn text(event: &impl Serialize, transfer: Option<&str>) -> serde_json::Result<String> {
    serde_json::to_string(&Record {
        event,
        time: now(),
        at_s: BEGAN.elapsed().as_secs_f64(),
        transfer,
    })
}

/// In UTC, as in RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_the_number_of_the_transfer_that_is_under_way() {
        for number in ["first", "second"] {
            set_transfer(number.into());
            let said: serde_json::Value = serde_json::from_str(&lost(3)).expect("JSON");
            assert_eq!((&said["transfer"], &said["lines"]), (&number.into(), &3.into()));
        }
    }
}
