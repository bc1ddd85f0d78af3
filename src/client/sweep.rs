//! Removing at the destination what is not at the source, once all else is there.
//!
//! Whoever receives looks through the folders that were sent, and whoever sends says what of it is at the source. Nothing
//! is removed before all of it is known, nor if something that was sent is not at the source any more by then: it may be
//! all of it that has gone.

mod pull;
mod push;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::pull::{names_of, sweep_pull};
pub(super) use self::push::{may_sweep, sweep_push};
use crate::error::Error;
use crate::event::{Failure, PlannedKind, PushEvent, PushReporter, Summary};
use crate::send::names::Names;
use crate::store::sweep::RemovedKind;
use crate::wire::{AtSource, Destination, Skip};

/// How long it is waited before it is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// What could not be removed and is told by name, at most.
const FAILURES_MAX: usize = 1_000;

/// What at the destination is to be removed because it is not at the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// Nothing is, if it is more than this.
    pub max: Option<u64>,
    /// What rules leave out is as well.
    pub excluded: bool,
}

/// Why nothing is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is more than is allowed.
    TooMany(u64),
    /// Something that was sent is not at the source any more.
    Changed,
    /// It cannot be told what is at the source.
    Unknown(String),
}

/// What a sweep has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Swept {
    pub(super) removed: u64,
    pub(super) failed: u64,
    pub(super) refused: Option<Refused>,
}

/// What a sweep tells.
pub(super) enum Told {
    /// Something was removed, or would be.
    Removed(Vec<u8>, PlannedKind),
    /// Something could not be.
    Failed(Failure),
}

/// What decides whether anything is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) delete: Delete,
    /// It is told what would be removed, and nothing is.
    pub(super) is_dry_run: bool,
    /// So much of what was sent has to be at the source still.
    pub(super) at_least: u64,
}

impl Terms {
    /// Whether something is removed of which this is known.
    fn is_gone(&self, state: AtSource) -> bool {
        state == AtSource::Gone || state == AtSource::Excluded && self.delete.excluded
    }

    /// Why nothing is removed though all is known, if nothing is.
    fn refuse(&self, count: u64, present: u64) -> Option<Refused> {
        match self.delete.max {
            _ if count == 0 => None,
            _ if present < self.at_least => Some(Refused::Changed),
            Some(max) if count > max => Some(Refused::TooMany(count)),
            _ => None,
        }
    }
}

impl Refused {
    /// What programs know it by.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::TooMany(_) => "max_delete",
            Self::Changed | Self::Unknown(_) => "source_changed",
        }
    }

    pub(super) fn reason(&self, delete: Delete) -> String {
        match self {
            Self::TooMany(count) => {
                let max = delete.max.unwrap_or_default();
                format!("{count} would be, and --max-delete allows {max}")
            }
            Self::Changed => {
                "some of what was sent is not at the source any more, or is reached through a link at the destination"
                    .into()
            }
            Self::Unknown(why) => why.clone(),
        }
    }
}

/// How much of what was sent, at least, has to be found at the source again.
pub(super) fn sent_at_least(summary: &Summary, skip: Skip, names: &[Vec<u8>]) -> u64 {
    let may_overlap = names.len() > 1 && names.iter().any(Vec::is_empty);
    if may_overlap {
        return 0; // what two sources have is there once
    }
    let skipped = if skip.existing { 0 } else { summary.skipped_files };
    // What the sources are called is not looked for.
    (summary.files + summary.others + skipped).saturating_sub(names.len() as u64)
}

/// Removes what is to be after a transfer that has come to `summary`, by `sweep`, which is tried again for `retry_for` if
/// the server is gone. Returns what it has come to with that.
pub(super) async fn after<F: Future<Output = Result<Swept, Error>>>(
    mut summary: Summary,
    delete: Delete,
    retry_for: Duration,
    report: &PushReporter,
    sweep: impl Fn(Arc<dyn Fn(Told) + Send + Sync>) -> F,
) -> Result<Summary, Error> {
    if summary.failed > 0 {
        let reason = format!("{} could not be moved", summary.failed);
        report(PushEvent::NotDeleted { why: "failures", reason });
        summary.delete_refused = Some("failures");
        return Ok(summary);
    }
    let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (tell, named) = (Arc::clone(report), Arc::clone(&failures));
    let told: Arc<dyn Fn(Told) + Send + Sync> = Arc::new(move |told| match told {
        Told::Removed(path, kind) => {
            let (path, kind) = (crate::text::shown(&path), kind.name());
            tell(PushEvent::Deleted { path, kind });
        }
        Told::Failed(failure) => {
            tell(PushEvent::Failed(failure.clone()));
            let mut named = crate::mutex::lock(&named);
            if named.len() < FAILURES_MAX {
                named.push(failure);
            }
        }
    });
    let began = Instant::now();
    let swept = loop {
        match sweep(Arc::clone(&told)).await {
            Err(error) if error.may_pass() && began.elapsed() < retry_for => {
                let (reason, retry_in_s) = (error.to_string(), RETRY_WAIT.as_secs_f64());
                report(PushEvent::Interrupted { reason, retry_in_s });
                tokio::time::sleep(RETRY_WAIT).await;
            }
            swept => break swept?,
        }
    };
    summary.deleted = swept.removed;
    summary.failed += swept.failed;
    summary.failures.append(&mut crate::mutex::lock(&failures));
    if let Some(refused) = swept.refused {
        let (why, reason) = (refused.name(), refused.reason(delete));
        report(PushEvent::NotDeleted { why, reason });
        summary.delete_refused = Some(why);
    }
    Ok(summary)
}

/// The folder that everything goes into, if it is one.
fn folder(names: &Names, there: Destination) -> Option<&[u8]> {
    match names {
        Names::Into(folder) if there == Destination::Folder => Some(folder),
        Names::Into(_) | Names::As(_) => None,
    }
}

impl From<RemovedKind> for PlannedKind {
    fn from(kind: RemovedKind) -> Self {
        match kind {
            RemovedKind::File { bytes } => Self::File { bytes },
            RemovedKind::Folder => Self::Folder,
            RemovedKind::Other => Self::Link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pull::names_of;
    use super::*;

    #[test]
    fn nothing_is_removed_that_is_too_much_or_where_the_source_has_less_than_was_sent() {
        let terms = |max, at_least| Terms {
            delete: Delete { max, excluded: false },
            is_dry_run: false,
            at_least,
        };
        assert_eq!(terms(None, 5).refuse(3, 5), None);
        assert_eq!(terms(None, 5).refuse(3, 4), Some(Refused::Changed));
        assert_eq!(terms(None, 5).refuse(0, 4), None, "there is nothing to refuse");
        assert_eq!(terms(Some(3), 0).refuse(3, 0), None);
        assert_eq!(terms(Some(2), 0).refuse(3, 0), Some(Refused::TooMany(3)));
        assert_eq!(terms(Some(0), 0).refuse(1, 0), Some(Refused::TooMany(1)));
    }

    #[test]
    fn what_was_sent_is_counted_without_what_may_be_there_once_for_two() {
        let summary = Summary { files: 5, others: 3, skipped_files: 2, ..Summary::default() };
        let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<_>>();
        assert_eq!(sent_at_least(&summary, Skip::default(), &names(&["a"])), 9);
        assert_eq!(sent_at_least(&summary, Skip::default(), &names(&["", ""])), 0);
        let existing = Skip { existing: true, ..Skip::default() };
        assert_eq!(sent_at_least(&summary, existing, &names(&["a", "b"])), 6);
    }

    #[test]
    fn it_is_this_side_that_says_where_is_looked() {
        let sources = ["", "a/", "a/b", "a"].map(|source| source.as_bytes().to_vec());
        assert_eq!(names_of(&sources), [&b""[..], b"", b"b", b"a"]);
    }
}
