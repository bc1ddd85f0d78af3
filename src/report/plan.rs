//! What a dry run tells.

use qbulk::error::Error;
use qbulk::event::{PlanEvent, PlanSummary, Planned, PlannedKind, Why};
use qbulk::text::shown;

use super::json::Json;
use super::push::failed;
use super::units::{count, size};
use super::{Output, say};
use crate::out::{self, Weight};

/// Tells what would be done.
pub(crate) struct PlanReport {
    output: Output,
    json: Json,
}

impl PlanReport {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, json: Json::start() }
    }

    /// Tells something, once there is room for it; an error if nobody takes it.
    pub(crate) async fn tell(&self, event: &PlanEvent) -> Result<(), Error> {
        match event {
            event if self.output.json => self.json.plan(event),
            PlanEvent::Planned(planned) => out::print(&line(planned)),
            PlanEvent::Failed(failure) => say(&failed(failure)),
            _ if self.output.quiet => {}
            PlanEvent::PlanWaiting { reason } => {
                say(&format!("waiting for a turn at the server: {reason}"));
            }
            PlanEvent::NotDeleted { reason, .. } => {
                say(&format!("nothing would be deleted: {reason}"));
            }
            PlanEvent::PlanSummary(summary) => out::say(&text(summary), Weight::Kept),
            _ => {}
        }
        out::room().await
    }
}

fn line(planned: &Planned) -> String {
    let Planned { path, kind, why } = planned;
    let why = match why {
        Why::New => "new",
        Why::Kind => "kind",
        Why::Size => "size",
        Why::Time => "time",
        Why::Content => "content",
        Why::Forced => "forced",
        Why::Target => "target",
        Why::Metadata => "metadata",
        Why::Delete => "delete",
    };
    let (what, bytes, slash) = match kind {
        PlannedKind::File { bytes } => ("file", size(*bytes), ""),
        PlannedKind::Folder => ("folder", String::new(), "/"),
        PlannedKind::Link => ("link", String::new(), ""),
    };
    format!("{what:<6} {why:<8} {bytes:>10}  {}{slash}", shown(path))
}

fn text(summary: &PlanSummary) -> String {
    let PlanSummary {
        files, bytes, folders, links, changed, skipped_files, deleted, failed, ..
    } = *summary;
    let sent: Vec<_> = [
        (files > 0).then(|| format!("{} ({})", count(files, "file"), size(bytes))),
        (folders > 0).then(|| count(folders, "folder")),
        (links > 0).then(|| count(links, "link")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut parts = vec![match &sent[..] {
        [] => "dry run: nothing would be sent".to_owned(),
        [one] => format!("dry run: would send {one}"),
        [first @ .., last] => format!("dry run: would send {} and {last}", first.join(", ")),
    }];
    if changed > 0 {
        parts.push(format!("would change the metadata of {}", count(changed, "file")));
    }
    if skipped_files > 0 {
        parts.push(format!("{} skipped for what is there", count(skipped_files, "file")));
    }
    if deleted > 0 {
        let is_refused = summary.delete_refused.is_some();
        let but = if is_refused { ", if that were allowed" } else { "" };
        parts.push(format!("would delete {deleted}{but}"));
    }
    if failed > 0 {
        parts.push(format!("{failed} WOULD FAIL"));
    }
    parts.push("nothing was changed".into());
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use qbulk::text::printable;

    use super::*;

    #[test]
    fn a_line_says_what_why_how_large_and_where() {
        // As it is printed.
        let line = |kind, why| printable(&line(&Planned { path: b"a/b\n".to_vec(), kind, why }));
        assert_eq!(
            line(PlannedKind::File { bytes: 1 << 20 }, Why::Size),
            "file   size        1.0 MiB  a/b\\n"
        );
        assert_eq!(line(PlannedKind::Folder, Why::New), "folder new                  a/b\\n/");
    }

    #[test]
    fn the_sum_says_what_would_be_and_that_nothing_was() {
        let nothing = PlanSummary::default();
        assert_eq!(text(&nothing), "dry run: nothing would be sent; nothing was changed");
        let some =
            PlanSummary { files: 2, bytes: 3, links: 1, skipped_files: 1, failed: 4, ..nothing };
        assert_eq!(
            text(&some),
            "dry run: would send 2 files (3 B) and 1 link; 1 file skipped for what is there; 4 WOULD FAIL; \
             nothing was changed"
        );
    }
}
