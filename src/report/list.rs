//! What `qbulk ls` tells.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use qbulk::error::Error;
use qbulk::event::{EntryKind, ListEntry, ListEvent, ListSummary};
use qbulk::text::shown;

use super::json::Json;
use super::units::{count, size};
use super::{Output, say};
use crate::out::{self, Weight};

/// The end of the last year that has four digits, in seconds since 1970.
const LAST_S: u64 = 253_402_300_800;

/// Tells what is there.
pub(crate) struct ListReport {
    output: Output,
    json: Json,
}

impl ListReport {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, json: Json::start() }
    }

    /// Tells something, once there is room for it; an error if nobody takes it.
    pub(crate) async fn tell(&self, event: &ListEvent) -> Result<(), Error> {
        match event {
            event if self.output.json => self.json.list(event),
            ListEvent::Entry(entry) => out::print(&line(entry)),
            ListEvent::NotListed(why) => say(&format!("{}: not listed: {}", why.path, why.reason)),
            _ if self.output.quiet => {}
            ListEvent::ListWaiting { reason } => {
                say(&format!("waiting for a turn at the server: {reason}"));
            }
            ListEvent::ListSummary(summary) => out::say(&text(summary), Weight::Kept),
            _ => {}
        }
        out::room().await
    }
}

fn line(entry: &ListEntry) -> String {
    let ListEntry { path, kind, mode, mtime_s, .. } = entry;
    let (letter, bytes, behind) = match kind {
        EntryKind::File { bytes } => ('-', bytes.to_string(), String::new()),
        EntryKind::Folder => ('d', "-".into(), String::new()),
        EntryKind::Link { target } => ('l', "-".into(), format!(" -> {}", shown(target))),
        EntryKind::Other => ('?', "-".into(), String::new()),
    };
    let (mode, time) = (permissions(*mode), time(*mtime_s));
    format!("{letter}{mode} {bytes:>13} {time:>20} {}{behind}", shown(path))
}

/// As `ls` writes them.
fn permissions(mode: u32) -> String {
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    let mut text = String::with_capacity(9);
    for (who, (bit, letter)) in special.into_iter().enumerate() {
        let own = mode >> (6 - 3 * who);
        text.push(if own & 4 == 0 { '-' } else { 'r' });
        text.push(if own & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & bit != 0, own & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// In UTC, as in RFC 3339, or what it is in seconds where that has no such times.
fn time(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(since @ 0..LAST_S) => {
            format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string()
        }
        _ => format!("@{seconds}"),
    }
}

fn text(summary: &ListSummary) -> String {
    let ListSummary { files, bytes, folders, others, not_listed, .. } = *summary;
    let mut parts = Vec::new();
    if files > 0 {
        parts.push(format!("{}, {}", count(files, "file"), size(bytes)));
    }
    if folders > 0 {
        parts.push(count(folders, "folder"));
    }
    if others > 0 {
        parts.push(match others {
            1 => "1 link or other".into(),
            _ => format!("{} and others", count(others, "link")),
        });
    }
    if parts.is_empty() {
        parts.push("nothing is there".into());
    }
    if not_listed > 0 {
        parts.push(format!("{not_listed} NOT LISTED"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, mode: u32, mtime_s: i64) -> ListEntry {
        ListEntry { path: b"a\xffb".to_vec(), kind, mode, mtime_s, mtime_ns: 7 }
    }

    #[test]
    fn a_line_has_what_it_is_its_permissions_size_time_and_name() {
        for (entry, want) in [
            (
                entry(EntryKind::File { bytes: 52_428_800 }, 0o640, 981_173_106),
                "-rw-r-----      52428800 2001-02-03T04:05:06Z a\u{fffd}b",
            ),
            (
                entry(EntryKind::Folder, 0o1777, 0),
                "drwxrwxrwt             - 1970-01-01T00:00:00Z a\u{fffd}b",
            ),
            (
                entry(EntryKind::Link { target: b"../x".to_vec() }, 0o777, -1),
                "lrwxrwxrwx             -                  @-1 a\u{fffd}b -> ../x",
            ),
            (
                entry(EntryKind::Other, 0o6000, i64::MAX),
                "?--S--S---             - @9223372036854775807 a\u{fffd}b",
            ),
        ] {
            assert_eq!(line(&entry), want);
        }
        assert_eq!(time(i64::MIN), format!("@{}", i64::MIN));
        assert_eq!(time(253_402_300_799), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn the_sum_names_what_there_is() {
        let nothing = ListSummary::default();
        assert_eq!(text(&nothing), "nothing is there");
        let some = ListSummary { files: 1, bytes: 3, folders: 2, others: 2, ..nothing };
        assert_eq!(text(&some), "1 file, 3 B; 2 folders; 2 links and others");
        let failed = ListSummary { not_listed: 1, ..ListSummary::default() };
        assert_eq!(text(&failed), "nothing is there; 1 NOT LISTED");
    }
}
