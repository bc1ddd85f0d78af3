//! Dry runs: what a push or a pull would do, told path by path, with nothing changed at either end.
//!
//! The decisions are those of a transfer: what is skipped is by [`Skip`](crate::wire::Skip), and what is in the way fails. What only shows
//! when it is read or written does not show here.

mod decide;
mod pull;
mod push;

use std::time::Instant;

use self::decide::{Outcome, Terms, decide};
pub use self::pull::plan_pull;
pub use self::push::plan_push;
use super::sweep::{self, Delete, Swept, Told};
use crate::error::Error;
use crate::event::{Failure, FailureKind, PlanEvent, PlanSummary, Planned, PlannedKind, Why};
use crate::send::names::Names;
use crate::text::shown;
use crate::wire::{Destination, Expected, Subject, There};

impl From<Told> for PlanEvent {
    fn from(told: Told) -> Self {
        match told {
            Told::Removed(path, kind) => Self::Planned(Planned { path, kind, why: Why::Delete }),
            Told::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// Tells what would be done, and counts it.
struct Teller<R> {
    report: R,
    terms: Terms,
    began: Instant,
    summary: PlanSummary,
}

impl<F: Future<Output = Result<(), Error>>, R: FnMut(PlanEvent) -> F> Teller<R> {
    fn new(report: R, terms: Terms) -> Self {
        Self { report, terms, began: Instant::now(), summary: PlanSummary::default() }
    }

    /// Tells of the folder that everything would go into, if that is not there.
    async fn settle_destination(&mut self, names: &Names, there: Destination) -> Result<(), Error> {
        match names {
            Names::Into(path) if there == Destination::Missing => {
                let expected = Expected { path: path.clone(), subject: Subject::Folder };
                self.settle(expected, There::NOTHING, None).await
            }
            _ => Ok(()),
        }
    }

    /// Tells what would be done with what is `expected`, where this is `there`. If its content was compared, it
    /// `is_same` or is not.
    async fn settle(
        &mut self,
        expected: Expected,
        there: There,
        is_same: Option<bool>,
    ) -> Result<(), Error> {
        let Expected { path, subject } = expected;
        let bytes = if let Subject::File { bytes, .. } = subject { bytes } else { 0 };
        let summary = &mut self.summary;
        let why = match decide(&subject, there, is_same, &self.terms) {
            Outcome::Nothing => return Ok(()),
            Outcome::Skipped(why) => {
                summary.skipped_files += 1;
                summary.skipped_bytes += bytes;
                summary.changed += u64::from(why.is_some());
                match why {
                    Some(why) => why,
                    None => return Ok(()),
                }
            }
            Outcome::Fails(reason) => {
                let (kind, path) = (FailureKind::Destination, shown(&path));
                return self.fail(Failure { kind, path, reason: reason.into() }).await;
            }
            Outcome::Sent(why) => {
                match subject {
                    Subject::File { .. } => summary.files += 1,
                    Subject::Folder => summary.folders += 1,
                    Subject::Symlink { .. } => summary.links += 1,
                }
                summary.bytes += bytes;
                why
            }
        };
        let kind = match subject {
            Subject::File { bytes, .. } => PlannedKind::File { bytes },
            Subject::Folder => PlannedKind::Folder,
            Subject::Symlink { .. } => PlannedKind::Link,
        };
        (self.report)(PlanEvent::Planned(Planned { path, kind, why })).await
    }

    async fn fail(&mut self, failure: Failure) -> Result<(), Error> {
        self.summary.failed += 1;
        match failure.kind {
            FailureKind::Vanished => self.summary.vanished += 1,
            FailureKind::Changed => self.summary.changed_source += 1,
            FailureKind::Source | FailureKind::Destination => {}
        }
        (self.report)(PlanEvent::Failed(failure)).await
    }

    /// On which terms it is told what would be removed, if that is wanted and nothing would fail before.
    async fn may_delete(&mut self, delete: Option<Delete>) -> Result<Option<sweep::Terms>, Error> {
        let Some(delete) = delete else { return Ok(None) };
        if self.summary.failed == 0 {
            return Ok(Some(sweep::Terms { delete, is_dry_run: true, at_least: 0 }));
        }
        let reason = format!("{} could not be moved", self.summary.failed);
        self.summary.delete_refused = Some("failures");
        (self.report)(PlanEvent::NotDeleted { why: "failures", reason }).await?;
        Ok(None)
    }

    /// It was told what would be removed.
    async fn swept(&mut self, swept: Swept, delete: Delete) -> Result<(), Error> {
        self.summary.deleted = swept.removed;
        self.summary.failed += swept.failed;
        let Some(refused) = swept.refused else { return Ok(()) };
        let (why, reason) = (refused.name(), refused.reason(delete));
        self.summary.delete_refused = Some(why);
        (self.report)(PlanEvent::NotDeleted { why, reason }).await
    }

    /// That was all.
    async fn end(mut self) -> Result<PlanSummary, Error> {
        self.summary.seconds = self.began.elapsed().as_secs_f64();
        (self.report)(PlanEvent::PlanSummary(self.summary.clone())).await?;
        Ok(self.summary)
    }
}
