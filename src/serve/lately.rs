//! What has happened lately and is still of use to whoever comes late: how transfers ended, and
//! who was asked to wait. Each list is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::wire::{PushNumber, TransferSecret};

/// How long a client may be asked to come back for that. What a killed client has begun at another server
/// is let go of before: after its idle timeout, and `DESERTED_TIME`.
const WAITING_TIME: Duration = Duration::from_secs(60);
/// So many pushes that were asked to are remembered, for so long.
const WAITING_MAX: usize = 1_024;
const WAITING_KNOWN_TIME: Duration = Duration::from_secs(600);
/// So many transfers that have ended are remembered, for connections that come too late.
const OVER_MAX: usize = 1_024;

/// A transfer is its client's alone: nobody else's token, guessed or stolen, leads to it.
pub(super) type TransferKey = (Fingerprint, TransferSecret);
/// A client, and which of its pushes.
pub(super) type PushKey = (Fingerprint, PushNumber);

/// How a transfer has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Finished,
    /// And why.
    Ended(String),
}

#[derive(Debug, Default)]
pub(super) struct Lately {
    /// Transfers that have come to their end, the last one last.
    over: Mutex<VecDeque<(TransferKey, Over)>>,
    /// Pushes that are asked to wait for their earlier run to end, and since when.
    waiting: Mutex<HashMap<PushKey, Instant>>,
}

impl Lately {
    /// How a transfer has come to its end, if that was lately.
    pub(super) fn over(&self, key: TransferKey) -> Option<Over> {
        let over = lock(&self.over);
        over.iter().find(|(other, _)| *other == key).map(|(_, over)| over.clone())
    }

    /// A transfer has come to its end.
    pub(super) fn end(&self, key: TransferKey, how: Over) {
        let mut over = lock(&self.over);
        over.push_back((key, how));
        if over.len() > OVER_MAX {
            over.pop_front();
        }
    }

    /// Whether a push has been asked for long enough to wait for an earlier run, which another process may
    /// serve.
    pub(super) fn has_waited(&self, push: &PushKey) -> bool {
        lock(&self.waiting).get(push).is_some_and(|since| since.elapsed() >= WAITING_TIME)
    }

    /// A push is asked to wait.
    pub(super) fn ask_to_wait(&self, push: PushKey) {
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        waiting.retain(|_, since| now - *since < WAITING_KNOWN_TIME);
        if waiting.len() < WAITING_MAX {
            waiting.entry(push).or_insert(now);
        }
    }

    /// A push has begun.
    pub(super) fn has_begun(&self, push: &PushKey) {
        lock(&self.waiting).remove(push);
    }
}
