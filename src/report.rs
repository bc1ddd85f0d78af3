//! What a user sees: a line of progress, plain lines, or JSON.

mod file;
mod json;
mod list;
mod losses;
mod page;
mod plan;
mod push;
mod read;
mod serve;
mod story;
mod units;
mod verify;

use qbulk::error::Error;

pub(crate) use self::file::Page;
use self::json::Json;
pub(crate) use self::json::now;
pub(crate) use self::list::ListReport;
pub(crate) use self::plan::PlanReport;
pub(crate) use self::push::PushReport;
pub(crate) use self::read::{page_of, print};
pub(crate) use self::serve::ServeReport;
pub(crate) use self::units::count;
pub(crate) use self::verify::VerifyReport;
use crate::out::{self, Weight};

/// What is told, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Output {
    /// Nothing but what went wrong.
    pub(crate) quiet: bool,
    /// Every event, as a line of JSON.
    pub(crate) json: bool,
    /// More than matters to most.
    pub(crate) details: bool,
}

/// Says why a command failed that has told nothing of a transfer.
pub(crate) fn error(error: &Error, json: bool) {
    if json {
        Json::start().error(error, &error.to_string());
    } else {
        say(&error.to_string());
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
