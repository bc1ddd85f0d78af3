//! What could not be moved, at either end.

use std::collections::HashMap;
use std::sync::Arc;

use super::PushReporter;
use super::receipt::Receipt;
use crate::event::{Failure, FailureKind, PushEvent};
use crate::traffic::ConnId;

/// Failures whose path and reason are kept; more are only counted. As many are taken from a server.
const NAMED_MAX: usize = 1_000;

/// Tells what fails, and keeps it for the summary.
pub(super) struct Failures {
    report: PushReporter,
    receipt: Option<Arc<Receipt>>,
    pub(super) named: Vec<Failure>,
    pub(super) count: u64,
    /// How many of them had vanished, or changed, at the source.
    pub(super) vanished: u64,
    pub(super) changed: u64,
    /// Failures that the server has only counted.
    pub(super) unnamed: u64,
    /// What the server could not write, by the connection that it said so on: it may say so on several.
    at_server: HashMap<ConnId, Vec<Failure>>,
    /// What the server has settled on.
    pub(super) settled: Vec<Failure>,
}

impl Failures {
    pub(super) fn new(report: PushReporter, receipt: Option<Arc<Receipt>>) -> Self {
        Self {
            report,
            receipt,
            named: Vec::new(),
            count: 0,
            vanished: 0,
            changed: 0,
            unnamed: 0,
            at_server: HashMap::new(),
            settled: Vec::new(),
        }
    }

    /// Something could not be read at the source.
    pub(super) fn add(&mut self, failure: Failure) {
        if let Some(receipt) = &self.receipt {
            receipt.fail(&failure);
        }
        self.tell(failure);
    }

    fn tell(&mut self, failure: Failure) {
        self.count += 1;
        self.vanished += u64::from(failure.kind == FailureKind::Vanished);
        self.changed += u64::from(failure.kind == FailureKind::Changed);
        (self.report)(PushEvent::Failed(failure.clone()));
        if self.named.len() < NAMED_MAX {
            self.named.push(failure);
        }
    }

    /// The server names something that it could not write.
    pub(super) fn hear(&mut self, conn: ConnId, failure: Failure) {
        let heard = self.at_server.entry(conn).or_default();
        if heard.len() < NAMED_MAX {
            heard.push(failure);
        }
    }

    /// What was begun to be told over `conn` will be told again over another connection.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.at_server.remove(&conn);
    }

    /// The server has told over `conn` all that it wanted to, of `count` failures.
    pub(super) fn settle(&mut self, conn: ConnId, count: u64) {
        let heard = self.at_server.remove(&conn).unwrap_or_default();
        self.unnamed = count.saturating_sub(heard.len() as u64);
        self.settled.clone_from(&heard);
        for failure in heard {
            self.tell(failure);
        }
        self.count += self.unnamed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_does_not_name_is_counted() {
        let mut failures = Failures::new(Arc::new(|_| ()), None);
        let failure =
            || Failure { kind: FailureKind::Vanished, path: "x".into(), reason: "y".into() };
        failures.add(failure());
        for conn in [ConnId(1), ConnId(2)] {
            for _ in 0..1_500 {
                failures.hear(conn, failure());
            }
        }
        failures.settle(ConnId(2), 1_500);
        assert_eq!((failures.count, failures.unnamed), (1_501, 500));
        assert_eq!(failures.named.len(), NAMED_MAX);
        assert_eq!((failures.vanished, failures.changed), (1_001, 0));
    }
}
