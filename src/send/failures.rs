//! What could not be moved, at either end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::receipt::Receipt;
use crate::event::{Failure, FailureKind, PushEvent, PushReporter};
use crate::text::{said, shown};
use crate::wire::{Unkept, What};

/// Failures whose path and reason are kept for the summary.
const NAMED_MAX: usize = 1_000;
/// So many are taken from a server; more are only counted.
const HEARD_MAX: u64 = 1 << 20;
/// What paths and reasons may take, in bytes, that wait for the receipt; more are only counted.
const SETTLED_BYTES_MAX: usize = 64 << 20;
/// What one takes beside them.
const SETTLED_BYTES: usize = 80;

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
    /// Which failures the server has named: it may name one more than once.
    heard: Numbers,
    /// How many of them were told.
    told: u64,
    /// Paths and reasons of these, where there is a receipt to note them.
    pub(super) settled: Vec<(Vec<u8>, String)>,
    settled_bytes: usize,
    /// Metadata that the server could not keep.
    unkept: [Option<Unkept>; What::ALL.len()],
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
            heard: Numbers::default(),
            told: 0,
            settled: Vec::new(),
            settled_bytes: 0,
            unkept: Default::default(),
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

    /// The server names something that it could not write. False if it was heard before.
    pub(super) fn hear(&mut self, number: u64, path: Vec<u8>, reason: String) -> bool {
        if !self.heard.add(number) {
            return false;
        }
        let settled_bytes = match &self.receipt {
            Some(_) => SETTLED_BYTES + path.len() + reason.len(),
            None => 0,
        };
        if self.told < HEARD_MAX && self.settled_bytes + settled_bytes <= SETTLED_BYTES_MAX {
            self.told += 1;
            self.settled_bytes += settled_bytes;
            let kind = FailureKind::Destination;
            self.tell(Failure { kind, path: shown(&path), reason: reason.clone() });
            if self.receipt.is_some() {
                self.settled.push((path, reason));
            }
        }
        true
    }

    /// The server names metadata that it could not keep; it may do so over several connections.
    pub(super) fn hear_unkept(&mut self, unkept: Unkept) {
        let what = unkept.what as usize;
        self.unkept[what] = Some(unkept);
    }

    /// Of how many files, folders and links each was not kept.
    pub(super) fn unkept(&self) -> [u64; What::ALL.len()] {
        self.unkept.each_ref().map(|unkept| unkept.as_ref().map_or(0, |unkept| unkept.count))
    }

    /// The server has told all that it wanted to, of `count` failures.
    pub(super) fn settle(&mut self, count: u64) {
        self.unnamed = count.saturating_sub(self.told);
        self.count += self.unnamed;
        for Unkept { what, count, path, reason } in self.unkept.iter().flatten() {
            (self.report)(PushEvent::NotKept {
                what: what.name(),
                count: *count,
                path: shown(path),
                reason: said(reason),
            });
        }
    }
}

/// Numbers that come nearly in order: all below one, and some above.
#[derive(Debug, Default)]
struct Numbers {
    below: u64,
    above: BTreeSet<u64>,
}

impl Numbers {
    /// Numbers above the first one that is missing, at most; others count as there.
    const ABOVE_MAX: usize = 1 << 16;

    /// False if it was there.
    fn add(&mut self, number: u64) -> bool {
        if number < self.below || self.above.len() >= Self::ABOVE_MAX || !self.above.insert(number)
        {
            return false;
        }
        while self.above.remove(&self.below) {
            self.below += 1;
        }
        true
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
        // Each is told as it comes, however often it is named.
        for (numbers, told_by_now) in
            [(0..900, 901), (700..1_500, 1_501), (0..600, 1_501), (1_501..1_502, 1_502)]
        {
            for number in numbers {
                let before = told.load(Relaxed);
                let is_new = failures.hear(number, b"x".to_vec(), "y".into());
                assert_eq!(is_new, told.load(Relaxed) > before);
            }
            assert_eq!(told.load(Relaxed), told_by_now);
        }
        failures.settle(1_600);
        assert_eq!((failures.count, failures.unnamed), (1_601, 99));
        assert_eq!(failures.named.len(), NAMED_MAX);
        assert_eq!((failures.vanished, failures.changed), (1, 0));
    }
}
