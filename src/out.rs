//! The way to standard output and standard error, which all text takes.
//!
//! Who reads there may have gone, have no room, read slowly, or not at all; none of that may end a transfer
//! or hold it up. So each of the two has a queue, and a thread that alone writes: whoever tells something
//! never waits, and hears of no error. What a queue has no room for is lost, counted, and told of in its
//! place. Lines that the next one of their kind makes good are the first to go, and a reader that is slow
//! and alive gets all others as long as they are not more than 16 MiB behind.
//!
//! At the end of a command, what is still queued is waited for, see [`finish`].

mod lane;
mod status;
mod wait;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use qbulk::error::Error;
use qbulk::text::{printable, printable_json, shown};
use tracing_subscriber::fmt::MakeWriter;

use self::lane::{Lane, Line, Stream};
pub(crate) use self::lane::{Notice, Weight};
pub(crate) use self::status::Status;

/// A reader that takes nothing for this long is not waited for any more, where it is not the one that the
/// command is run for.
const PATIENCE: Duration = Duration::from_secs(3);

static OUT: LazyLock<Out> = LazyLock::new(Out::open);

struct Out {
    stdout: Arc<Lane>,
    stderr: Arc<Lane>,
    has_status_line: bool,
}

impl Out {
    fn open() -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let (is_terminal, err_is_terminal) = (stdout.is_terminal(), stderr.is_terminal());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        // Unbuffered, so that what is lost is known, and tried once.
        let stdout = stdout.as_fd().try_clone_to_owned().map(File::from).ok();
        let stderr = stderr.as_fd().try_clone_to_owned().map(File::from).ok();
        let has_status_line = err_is_terminal && !is_dumb;
        if is_terminal && err_is_terminal {
            // What goes to one place keeps its order, and makes way for the status line.
            let both = Lane::start([stdout, stderr]);
            return Self { stdout: Arc::clone(&both), stderr: both, has_status_line };
        }
        let stdout = Lane::start([stdout, None]);
        Self { stdout, stderr: Lane::start([None, stderr]), has_status_line }
    }
}

/// Says a line on standard error. What could steer a terminal is escaped.
pub(crate) fn say(line: &str, weight: Weight) {
    OUT.stderr.push(Line::new(Stream::Stderr, printable(line), Arc::new(lost)), weight);
}

/// Asks something on standard error: lines of which the last is not ended.
pub(crate) fn ask(question: &str) {
    let text = question.split('\n').map(printable).collect::<Vec<_>>().join("\n");
    OUT.stderr.push(Line::unended(Stream::Stderr, text, Arc::new(lost)), Weight::Kept);
}

/// Writes a line to standard output. What could steer a terminal is escaped.
pub(crate) fn print(line: &str) {
    OUT.stdout.push(Line::new(Stream::Stdout, printable(line), Arc::new(lost)), Weight::Kept);
}

/// Writes a line of JSON to standard output; `notice` says in JSON how many lines were lost. What could steer a
/// terminal is escaped as JSON does it.
pub(crate) fn print_json(line: &str, weight: Weight, notice: Notice) {
    OUT.stdout.push(Line::new(Stream::Stdout, printable_json(line), notice), weight);
}

fn lost(lines: u64) -> String {
    let were = if lines == 1 { "line was" } else { "lines were" };
    format!("qbulk: {lines} {were} lost here, which could not be written in time")
}

/// Whether there is a line at the end of a terminal that can be written over.
pub(crate) fn has_status_line() -> bool {
    OUT.has_status_line
}

/// What that line says from now on, if anything.
pub(crate) fn show(status: Option<Status>) {
    if OUT.has_status_line {
        let printable = |status: Status| Status {
            parts: status.parts.iter().map(|part| printable(part)).collect(),
            ..status
        };
        OUT.stderr.show(status.map(printable));
    }
}

/// Whether all that was written to standard output by now has arrived there: for commands that are run for
/// that alone.
pub(crate) fn printed() -> Result<(), Error> {
    OUT.stdout.wait(None);
    taken()
}

/// Waits while whoever reads standard output is behind, so that nothing is lost however much is written: for
/// commands that are run for that alone and may take their time. An error once it cannot be written.
pub(crate) async fn room() -> Result<(), Error> {
    OUT.stdout.room().await;
    taken()
}

fn taken() -> Result<(), Error> {
    match OUT.stdout.failure() {
        None => Ok(()),
        Some(error) => Err(Error::Disk(format!("cannot write to standard output: {error}"))),
    }
}

/// How long the end of a command waits for who reads its standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Until it has read everything, or has gone, or the command is told to stop.
    Patient,
    /// Only while it reads.
    Hasty,
}

/// Waits until what was said has been written. A reader of standard error that reads nothing is left after
/// a few seconds in any case: what it is told is no result.
pub(crate) fn finish(end: End) {
    OUT.stdout.close();
    OUT.stderr.close();
    if OUT.stdout.wait(Some(PATIENCE)) == lane::Waited::Stuck && end == End::Patient {
        wait::until_read_or_stopped(Arc::clone(&OUT.stdout));
    }
    OUT.stderr.wait(Some(PATIENCE));
}

/// Has panics said like everything else: what they quote may come from elsewhere.
pub(crate) fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        say(&format!("qbulk: internal error: thread {name} {panic}"), Weight::Kept);
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(|line| say(line, Weight::Kept));
        }
        // The process may end with it.
        OUT.stderr.wait(Some(PATIENCE));
    }));
}

/// Takes traces to standard error, line by line.
pub(crate) struct Traces;

impl MakeWriter<'_> for Traces {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Traces {
    /// One event.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(shown(bytes).trim_end_matches('\n'), Weight::Passing);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
