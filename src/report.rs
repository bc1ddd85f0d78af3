//! What a user sees: a line of progress, plain lines, or JSON.

mod json;
mod losses;
mod push;
mod serve;
mod units;
mod verify;

use qbulk::error::Error;

pub(crate) use self::json::now;
pub(crate) use self::push::PushReport;
pub(crate) use self::serve::ServeReport;
pub(crate) use self::units::count;
pub(crate) use self::verify::VerifyReport;
use crate::out::{self, Weight};

/// Says why a command failed.
pub(crate) fn error(error: &Error, json: bool) {
    message(error, &error.to_string(), json);
}

/// Says that a command failed, in other words than the error's own.
fn message(error: &Error, message: &str, json: bool) {
    if json {
        json::error(error, message);
    } else {
        say(message);
    }
}

/// Says something that is said once.
pub(crate) fn say(line: &str) {
    out::say(&format!("qbulk: {line}"), Weight::Kept);
}

/// Says something that the next line of its kind makes good.
fn say_in_passing(line: &str) {
    out::say(&format!("qbulk: {line}"), Weight::Passing);
}
