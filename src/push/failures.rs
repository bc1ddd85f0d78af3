//! What could not be moved, at either end.

use std::collections::HashMap;
use std::sync::Arc;

use super::PushReporter;
use super::receipt::Receipt;
use crate::event::{Failure, FailureKind, PushEvent};
use crate::store::shown;
use crate::traffic::ConnId;
use crate::wire::{Unkept, What};

/// Failures whose path and reason are kept for the summary.
const NAMED_MAX: usize = 1_000;
/// So many are taken from a server; more are only counted.
const HEARD_MAX: u64 = 1 << 20;

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
    /// How many failures the server has named, by the connection that it said so on: on each it names
    /// the same ones, in the same order.
    heard: HashMap<ConnId, u64>,
    /// How many of them were told.
    told: u64,
    /// Paths and reasons of these, where there is a receipt to note them.
    pub(super) settled: Vec<(Vec<u8>, String)>,
    /// Metadata that the server could not keep.
    unkept: [Option<Unkept>; 2],
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
            heard: HashMap::new(),
            told: 0,
            settled: Vec::new(),
            unkept: [None, None],
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

    /// The server names something that it could not write: it is told unless it was heard before, over
    /// another connection.
    pub(super) fn hear(&mut self, conn: ConnId, path: Vec<u8>, reason: String) {
        let heard = self.heard.entry(conn).or_default();
        *heard += 1;
        if *heard > self.told && self.told < HEARD_MAX {
            self.told += 1;
            let kind = FailureKind::Destination;
            self.tell(Failure { kind, path: shown(&path), reason: reason.clone() });
            if self.receipt.is_some() {
                self.settled.push((path, reason));
            }
        }
    }

    /// The server names metadata that it could not keep; it may do so over several connections.
    pub(super) fn hear_unkept(&mut self, unkept: Unkept) {
        let what = unkept.what as usize;
        self.unkept[what] = Some(unkept);
    }

    /// Of how many files, folders and links modes, and times, were not kept.
    pub(super) fn unkept(&self) -> [u64; 2] {
        self.unkept.each_ref().map(|unkept| unkept.as_ref().map_or(0, |unkept| unkept.count))
    }

    /// What was begun to be told over `conn` will be told again over another connection.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.heard.remove(&conn);
    }

    /// The server has told all that it wanted to, of `count` failures.
    pub(super) fn settle(&mut self, count: u64) {
        self.unnamed = count.saturating_sub(self.told);
        self.count += self.unnamed;
        for Unkept { what, count, path, reason } in self.unkept.iter().flatten() {
            (self.report)(PushEvent::NotKept {
                what: match what {
                    What::Modes => "modes",
                    What::Times => "times",
                },
                count: *count,
                path: shown(path),
                reason: reason.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn what_the_server_does_not_name_is_counted() {
        let told = Arc::new(AtomicU64::new(0));
        let teller = Arc::clone(&told);
        let report = move |_| {
            teller.fetch_add(1, Relaxed);
        };
        let mut failures = Failures::new(Arc::new(report), None);
        let (kind, path, reason) = (FailureKind::Vanished, "x".into(), "y".into());
        failures.add(Failure { kind, path, reason });
        // Each is told as it comes, whichever connection is the first to name it.
        for (conn, from_first, told_by_now) in
            [(ConnId(1), 900, 901), (ConnId(2), 1_500, 1_501), (ConnId(1), 600, 1_501)]
        {
            for _ in 0..from_first {
                failures.hear(conn, b"x".to_vec(), "y".into());
            }
            assert_eq!(told.load(Relaxed), told_by_now);
        }
        failures.settle(1_600);
        assert_eq!((failures.count, failures.unnamed), (1_601, 100));
        assert_eq!(failures.named.len(), NAMED_MAX);
        assert_eq!((failures.vanished, failures.changed), (1, 0));
    }
}
