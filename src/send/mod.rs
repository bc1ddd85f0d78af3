//! The sender of a job, whoever it belongs to and whoever dialled the lines that it sends over.

mod again;
mod check;
mod compares;
mod connections;
mod failures;
mod lines;
mod linked;
mod looks;
pub(crate) mod names;
mod outflow;
pub(crate) mod progress;
mod reading;
mod recall;
mod receipt;
mod said;
mod search;
mod sender;
mod source;
mod stream;

pub(crate) use self::lines::{Awaits, Lines};
pub(crate) use self::names::distinct;
pub(crate) use self::progress::together;
pub(crate) use self::receipt::Receipt;
pub(crate) use self::search::{Found, Search};
pub(crate) use self::sender::{Job, Sender};
pub use self::stream::StreamSource;
