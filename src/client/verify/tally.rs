//! What a comparison has found so far.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::VerifyReporter;
use crate::event::{Difference, Failure, FailureKind, VerifyEvent, VerifyProgress, VerifySummary};
use crate::rate::Rate;
use crate::wire::{Content, Keep, Subject, Verdict};

/// How far the search for what to compare is, and the reading of it.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    items: AtomicU64,
    bytes: AtomicU64,
    pub(super) done: AtomicBool,
    read_bytes: AtomicU64,
    /// Bytes that need not be read.
    passed_bytes: AtomicU64,
}

impl Scanned {
    /// So much of it was read.
    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    /// So much of it need not be read.
    pub(super) fn pass(&self, bytes: u64) {
        self.passed_bytes.fetch_add(bytes, Relaxed);
    }

    /// Something was found; if it is a file, of `bytes`.
    pub(super) fn add(&self, bytes: u64) {
        self.items.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// Tells what differs, and counts.
pub(super) struct Tally {
    report: VerifyReporter,
    scanned: Arc<Scanned>,
    /// What of metadata is compared.
    compared: Keep,
    began: Instant,
    rate: Rate,
    summary: VerifySummary,
}

impl Tally {
    pub(super) fn new(report: VerifyReporter, scanned: Arc<Scanned>, compared: Keep) -> Self {
        Self {
            report,
            scanned,
            compared,
            began: Instant::now(),
            rate: Rate::default(),
            summary: VerifySummary::default(),
        }
    }

    pub(super) fn scanned(&self) -> Arc<Scanned> {
        Arc::clone(&self.scanned)
    }

    /// `subject` was compared with what is at `path`.
    pub(super) fn settle(&mut self, path: String, subject: &Subject, verdict: Verdict) {
        let Verdict { content, mode_differs, mtime_differs } = verdict;
        let summary = &mut self.summary;
        let mut differs: Vec<&'static str> = Vec::new();
        match content {
            Content::Unreadable => {
                let reason = "it is there and cannot be read".into();
                let kind = FailureKind::Destination;
                return self.not_compared(Failure { kind, path, reason });
            }
            Content::Same => {}
            Content::Different if matches!(subject, Subject::Symlink { .. }) => {
                differs.push("target");
            }
            Content::Different => differs.push("content"),
            Content::OtherSize => differs.push("size"),
            Content::Missing => differs.push("missing"),
            Content::OtherKind => differs.push("kind"),
        }
        let Keep { modes, times, .. } = self.compared;
        differs.extend((mode_differs && modes).then_some("mode"));
        differs.extend((mtime_differs && times).then_some("mtime"));
        let count = match (content, differs.is_empty()) {
            (Content::Missing, _) => &mut summary.missing,
            (Content::Same, true) => match subject {
                Subject::File { bytes, .. } => {
                    summary.bytes += bytes;
                    &mut summary.files
                }
                Subject::Folder | Subject::Symlink { .. } => &mut summary.others,
            },
            (Content::Same, false) => &mut summary.metadata,
            _ => &mut summary.different,
        };
        *count += 1;
        if !differs.is_empty() {
            (self.report)(VerifyEvent::Difference(Difference { path, differs }));
        }
    }

    /// Something could not be compared.
    pub(super) fn not_compared(&mut self, failure: Failure) {
        self.summary.not_compared += 1;
        self.summary.vanished += u64::from(failure.kind == FailureKind::Vanished);
        self.summary.changed += u64::from(failure.kind == FailureKind::Changed);
        (self.report)(VerifyEvent::NotCompared(failure));
    }

    pub(super) fn tell_progress(&mut self) {
        let now = Instant::now();
        let Scanned { items, bytes, done, read_bytes, passed_bytes } = &*self.scanned;
        let hashed_bytes = read_bytes.load(Relaxed) + passed_bytes.load(Relaxed);
        let VerifySummary { files, others, missing, different, metadata, not_compared, .. } =
            self.summary;
        (self.report)(VerifyEvent::VerifyProgress(VerifyProgress {
            elapsed_s: (now - self.began).as_secs_f64(),
            found_items: items.load(Relaxed),
            found_bytes: bytes.load(Relaxed),
            scan_done: done.load(Relaxed),
            compared_items: files + others + missing + different + metadata + not_compared,
            hashed_bytes,
            bytes_per_s: self.rate.update(now, hashed_bytes),
        }));
    }

    /// That was all.
    pub(super) fn end(self) -> VerifySummary {
        let seconds = self.began.elapsed().as_secs_f64();
        let read_bytes = self.scanned.read_bytes.load(Relaxed);
        let bytes_per_s = read_bytes as f64 / seconds;
        let summary = VerifySummary { seconds, bytes_per_s, ..self.summary };
        (self.report)(VerifyEvent::VerifySummary(summary.clone()));
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(kinds: &[FailureKind], content: Option<Content>) -> VerifySummary {
        let mut tally = Tally::new(Arc::new(|_| {}), Arc::default(), Keep::default());
        for &kind in kinds {
            let (path, reason) = ("a".into(), "b".into());
            tally.not_compared(Failure { kind, path, reason });
        }
        if let Some(content) = content {
            tally.settle("c".into(), &Subject::Folder, Verdict::of(content));
        }
        tally.end()
    }

    #[test]
    fn what_others_did_to_the_source_is_told_from_what_is_wrong() {
        use FailureKind::{Changed, Destination, Source, Vanished};
        let live = summary(&[Vanished, Changed, Changed], Some(Content::Same));
        assert_eq!((live.not_compared, live.vanished, live.changed), (3, 1, 2));
        assert!(live.is_live() && !live.is_same());
        for kind in [Source, Destination] {
            assert!(!summary(&[Vanished, kind], None).is_live());
        }
        for content in [Content::Missing, Content::Different, Content::Unreadable] {
            assert!(!summary(&[Vanished], Some(content)).is_live());
        }
        assert!(!summary(&[], Some(Content::Same)).is_live());
    }
}
