//! Lines of JSON: what happened, when, and in which transfer.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use qbulk::error::Error;
use qbulk::event::{ListEvent, PlanEvent, PushEvent, ServeEvent, VerifyEvent};
use serde::Serialize;

use crate::out::{self, Notice, Weight};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Writes what happens.
pub(super) struct Json {
    /// The transfer of a push that is under way: its number, once it has begun. After an interruption it is
    /// another one.
    transfer: Mutex<Option<Arc<str>>>,
}

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

impl Json {
    /// From now on time is counted, if it was not before.
    pub(super) fn start() -> Self {
        LazyLock::force(&BEGAN);
        Self { transfer: Mutex::default() }
    }

    pub(super) fn push(&self, event: &PushEvent) {
        if let PushEvent::Begun { transfer } = event {
            self.begin(transfer);
        }
        let weight = match event {
            PushEvent::Progress(_) | PushEvent::Connection(_) => Weight::Passing,
            _ => Weight::Kept,
        };
        // Some have it already.
        let has_it = matches!(event, PushEvent::Begun { .. } | PushEvent::Summary(_));
        self.line(event, has_it, weight);
    }

    // There is no transfer.
    pub(super) fn verify(&self, event: &VerifyEvent) {
        let weight = match event {
            VerifyEvent::VerifyProgress(_) => Weight::Passing,
            _ => Weight::Kept,
        };
        self.line(event, false, weight);
    }

    pub(super) fn plan(&self, event: &PlanEvent) {
        self.line(event, false, Weight::Kept);
    }

    // There is none here either.
    pub(super) fn list(&self, event: &ListEvent) {
        self.line(event, false, Weight::Kept);
    }

    // What belongs to a transfer says so itself.
    pub(super) fn serve(&self, event: &ServeEvent) {
        self.line(event, true, Weight::Kept);
    }

    pub(super) fn error(&self, error: &Error, message: &str) {
        let event = serde_json::json!({
            "event": "error",
            "code": error.exit_code(),
            "message": message,
        });
        self.line(&event, false, Weight::Kept);
    }

    fn line(&self, event: &impl Serialize, has_transfer: bool, weight: Weight) {
        let transfer = self.transfer();
        let shown = transfer.as_deref().filter(|_| !has_transfer);
        if let Ok(line) = text(event, shown) {
            out::print_json(&line, weight, notice(transfer));
        }
    }

    fn begin(&self, transfer: &str) {
        *self.transfer.lock().unwrap_or_else(PoisonError::into_inner) = Some(transfer.into());
    }

    fn transfer(&self) -> Option<Arc<str>> {
        self.transfer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How it is said that a reader who was too slow, or a disk that was full, has cost some lines: those of
/// `transfer`, though there may be another one by the time that this can be said.
fn notice(transfer: Option<Arc<str>>) -> Notice {
    Arc::new(move |lines| {
        let event = serde_json::json!({ "event": "lost", "lines": lines });
        text(&event, transfer.as_deref()).unwrap_or_default()
    })
}

fn text(event: &impl Serialize, transfer: Option<&str>) -> serde_json::Result<String> {
    serde_json::to_string(&Record { event, time: now(), at_s: elapsed_s(), transfer })
}

/// Since the command started, in seconds.
pub(super) fn elapsed_s() -> f64 {
    BEGAN.elapsed().as_secs_f64()
}

/// In UTC, as in RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_has_the_number_of_the_transfer_that_it_was_told_of() {
        let json = Json::start();
        let mut notices = vec![(None, notice(json.transfer()))];
        for number in ["first", "second"] {
            json.begin(number);
            notices.push((Some(number), notice(json.transfer())));
        }
        for (number, notice) in notices {
            let said: serde_json::Value = serde_json::from_str(&notice(3)).expect("JSON");
            assert_eq!((said["transfer"].as_str(), &said["lines"]), (number, &3.into()));
        }
        assert_eq!(Json::start().transfer(), None, "another push has its own");
    }
}
