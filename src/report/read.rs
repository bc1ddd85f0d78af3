//! Reads what `--json` has written, line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use qbulk::error::Error;
use qbulk::store::reason;
use serde_json::Value;

use super::page::page;
use super::story::Story;
use crate::out;

/// A longer line is none of a transfer's: those of a summary are the longest, with 1,000 failures and connections.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// The page of the transfer whose events are in a file, or come from standard input if it is called `-`.
pub(crate) fn page_of(events: &Path) -> Result<String, Error> {
    let cannot = |error: &io::Error| {
        Error::Disk(format!("cannot read {}: {}", events.display(), reason(error)))
    };
    let story = if events == Path::new("-") {
        read(&mut io::stdin().lock())
    } else {
        File::open(events).and_then(|file| read(&mut BufReader::new(file)))
    };
    let (story, others) = story.map_err(|error| cannot(&error))?;
    if !story.is_of_a_transfer() {
        return Err(Error::Usage(format!(
            "{}: no events of a push or a pull are there, as `--json` writes them",
            events.display()
        )));
    }
    if others > 0 {
        super::say(&format!("{} passed over", super::count(others, "line that is no event")));
    }
    Ok(page(&story))
}

/// Prints a page to standard output.
pub(crate) fn print(page: &str) -> Result<(), Error> {
    page.lines().for_each(out::print);
    out::printed()
}

/// The story that lines tell, and how many of them are no events.
fn read(lines: &mut impl BufRead) -> io::Result<(Story, u64)> {
    let (mut story, mut others) = (Story::new(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok((story, others));
        }
        // The rest of one that is longer is no event either.
        let event: Option<Value> = serde_json::from_slice(&line).ok();
        let at_s = |event: &Value| event["at_s"].as_f64().unwrap_or(f64::NAN);
        let is_event = event.is_some_and(|event| story.note(&event, at_s(&event)));
        others += u64::from(!is_event && !line.trim_ascii().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_is_counted_and_passed_over() {
        let text = "{\"event\":\"begun\",\"transfer\":\"a\",\"at_s\":0.1}\n\nqbulk: a line\n{\"event\":\"begun\"}\n\
                    {\"event\":\"summary\",\"transfer\":\"a\",\"at_s\":1.1,\"files\":2}";
        let (story, others) = read(&mut text.as_bytes()).expect("memory");
        assert_eq!(others, 2);
        assert!(story.is_of_a_transfer() && story.summary.is_some());
        assert!((story.end_s - 1.0).abs() < 1e-9);
        let (nothing, others) = read(&mut &b"\xff\n"[..]).expect("memory");
        assert!(!nothing.is_of_a_transfer() && others == 1);
    }
}
