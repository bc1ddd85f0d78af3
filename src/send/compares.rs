//! Files whose content is compared with what is at the receiver: it is asked what that hashes to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use super::looks::Unsure;
use crate::store::kind::Kind;
use crate::store::source::Base;
use crate::traffic::ConnId;
use crate::wire::{BLOCK_QUESTIONS_MAX, Skip, ToReceiver, block_bytes, one_block};

/// Smaller files are sent whole: one stripe is all that they are.
const DELTA_BYTES_MIN: u64 = 1 << 20;
/// What hashes may take in memory, in bytes; those of one file may always.
const HASHES_BYTES_MAX: usize = 64 << 20;

/// What was asked, and what has come of the answer.
#[derive(Debug)]
struct Asked {
    unsure: Unsure,
    base: Base,
}

/// What is to be asked, and what was.
#[derive(Debug, Default)]
pub(super) struct Compares {
    checksum: bool,
    delta: bool,
    waiting: VecDeque<Unsure>,
    asked: BTreeMap<u64, Asked>,
    /// The next question's number.
    next: u64,
    /// Where it is asked.
    conn: Option<ConnId>,
    /// What was answered and is in use.
    used: Vec<Weak<Base>>,
}

/// A file of which it is known what is there.
pub(super) type Compared = (Unsure, Arc<Base>);

impl Compares {
    pub(super) fn new(skip: Skip) -> Self {
        Self { checksum: skip.checksum, delta: skip.delta, ..Self::default() }
    }

    /// Whether of a file of so many bytes only what differs is sent.
    pub(super) fn is_delta(&self, bytes: u64) -> bool {
        self.delta && bytes >= DELTA_BYTES_MIN
    }

    /// Whether the content of a file that is there decides whether one is sent.
    pub(super) fn decides(&self) -> bool {
        self.checksum
    }

    /// It is to be asked what is there of a file.
    pub(super) fn add(&mut self, unsure: Unsure) {
        self.waiting.push_back(unsure);
    }

    /// How many no answer is there for.
    pub(super) fn count(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// What is to be said now, and over which connection of those that are `up`.
    pub(super) fn ask(
        &mut self,
        up: impl Iterator<Item = ConnId>,
    ) -> Option<(ConnId, Vec<ToReceiver>)> {
        if self.waiting.is_empty() {
            return None;
        }
        let conn = self.conn.or_else(|| up.min())?;
        self.conn = Some(conn);
        let mut questions = Vec::new();
        while self.asked.len() < BLOCK_QUESTIONS_MAX
            && let Some(unsure) = self.waiting.front()
        {
            let bytes = unsure.bytes();
            let block_bytes =
                if self.is_delta(bytes) { block_bytes(bytes) } else { one_block(bytes) };
            let base = Base::none(bytes, block_bytes);
            let held = self.held_bytes();
            if held > 0 && held + base.full_bytes() > HASHES_BYTES_MAX {
                break;
            }
            let Some(unsure) = self.waiting.pop_front() else { break };
            let (question, path) = (self.next, unsure.path.clone());
            questions.push(ToReceiver::Blocks { question, path, bytes, block_bytes });
            self.asked.insert(question, Asked { unsure, base });
            self.next += 1;
        }
        (!questions.is_empty()).then_some((conn, questions))
    }

    /// What all hashes take, and will.
    fn held_bytes(&mut self) -> usize {
        self.used.retain(|base| base.strong_count() > 0);
        let used = self.used.iter().filter_map(Weak::upgrade).map(|base| base.full_bytes());
        let asked = self.asked.values().map(|asked| asked.base.full_bytes());
        used.chain(asked).sum()
    }

    /// A connection is gone: what was asked over it is to be asked again.
    pub(super) fn lost(&mut self, conn: ConnId) {
        if self.conn == Some(conn) {
            self.conn = None;
            for asked in std::mem::take(&mut self.asked).into_values().rev() {
                self.waiting.push_front(asked.unsure);
            }
        }
    }

    /// A part of an answer has come over `conn`. Returns what it is about once it is complete; `None` if it answers
    /// nothing that was asked.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        question: u64,
        hashes: &[[u8; 32]],
        is_last: bool,
    ) -> Option<Option<Compared>> {
        if self.conn != Some(conn) && question < self.next {
            return Some(None); // asked again meanwhile
        }
        let asked = self.asked.get_mut(&question)?;
        if !asked.base.add(hashes) {
            return None;
        }
        if !is_last {
            return Some(None);
        }
        let Asked { unsure, base } = self.asked.remove(&question)?;
        let base = Arc::new(base);
        self.used.push(Arc::downgrade(&base));
        Some(Some((unsure, base)))
    }
}

impl Unsure {
    /// The size of a file.
    pub(super) fn bytes(&self) -> u64 {
        if let Kind::File(info) = &self.kind { info.bytes } else { 0 }
    }
}
