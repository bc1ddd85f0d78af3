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

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use qbulk::error::Error;
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

/// Writes a line of JSON to standard output; `notice` says in JSON how many lines were lost.
pub(crate) fn print_json(line: String, weight: Weight, notice: Notice) {
    OUT.stdout.push(Line::new(Stream::Stdout, line, notice), weight);
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
        OUT.stderr.show(status);
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

/// Text that comes from a peer or a file name, without what could steer a terminal or the order in
/// which it is read.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let steers = char.is_control() || is_bidi_control(char);
            let escaped = steers.then(|| char.escape_default());
            let plain = escaped.is_none().then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Marks, embeddings, overrides and isolates (Unicode Standard Annex 9, 2), and what ends a line or a
/// paragraph.
fn is_bidi_control(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
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
        say(String::from_utf8_lossy(bytes).trim_end_matches('\n'), Weight::Passing);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{fc}"), "a\\u{1b}[2Jb\\n\u{fc}");
        assert_eq!(printable("\u{202e}gpj.exe\u{2066}"), "\\u{202e}gpj.exe\\u{2066}");
    }
}
