//! Files whose content is compared with what is at the receiver: it is asked what that hashes to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use super::looks::Unsure;
use crate::hashtree::HashTree;
use crate::store::kind::Kind;
use crate::store::source::Base;
use crate::traffic::ConnId;
use crate::wire::{BLOCK_QUESTIONS_MAX, Skip, SourceBasis, ToReceiver, block_bytes, one_block};

/// Smaller files are sent whole: one stripe is all that they are.
const DELTA_BYTES_MIN: u64 = 1 << 20;
/// What hashes may take in memory, in bytes; those of one file may always.
const HASHES_BYTES_MAX: usize = 64 << 20;

/// Nodes of its hash tree that an earlier run has left, and how the file was when the first of them was read.
pub(super) type Pieces = (HashTree, SourceBasis);

/// What the receiver has of a file that is sent.
#[derive(Debug, Default)]
pub(super) struct Had {
    /// Pieces of it.
    pub(super) kept: Option<Pieces>,
    /// Another version.
    pub(super) base: Option<Arc<Base>>,
}

/// What was asked, and what has come of the answer.
#[derive(Debug)]
struct Asked {
    unsure: Unsure,
    kept: Option<Pieces>,
    base: Base,
}

/// What is to be asked, and what was.
#[derive(Debug, Default)]
pub(super) struct Compares {
    checksum: bool,
    delta: bool,
    waiting: VecDeque<(Unsure, Option<Pieces>)>,
    asked: BTreeMap<u64, Asked>,
    /// The next question's number.
    next: u64,
    /// Where it is asked.
    conn: Option<ConnId>,
    /// What was answered and is in use.
    used: Vec<Weak<Base>>,
}

/// A file of which it is known what is there.
pub(super) type Compared = (Unsure, Option<Pieces>, Arc<Base>);

/// It answers nothing that was asked, or says more than there is to say.
#[derive(Debug)]
pub(super) struct Unasked;

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

    /// It is to be asked what is there of a file, of which an earlier run may have left something.
    pub(super) fn add(&mut self, unsure: Unsure, kept: Option<Pieces>) {
        self.waiting.push_back((unsure, kept));
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
            && let Some((unsure, _)) = self.waiting.front()
        {
            let bytes = unsure.bytes();
            let block_bytes =
                if self.is_delta(bytes) { block_bytes(bytes) } else { one_block(bytes) };
            let base = Base::none(bytes, block_bytes);
            let held = self.held_bytes();
            if held > 0 && held + base.full_bytes() > HASHES_BYTES_MAX {
                break;
            }
            let Some((unsure, kept)) = self.waiting.pop_front() else { break };
            let (question, path) = (self.next, unsure.path.clone());
            questions.push(ToReceiver::Blocks { question, path, bytes, block_bytes });
            self.asked.insert(question, Asked { unsure, kept, base });
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
                self.waiting.push_front((asked.unsure, asked.kept));
            }
        }
    }

    /// A part of an answer has come over `conn`. Returns what it is about once it is complete.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        question: u64,
        hashes: &[[u8; 32]],
        is_last: bool,
    ) -> Result<Option<Compared>, Unasked> {
        if self.conn != Some(conn) && question < self.next {
            return Ok(None); // asked again meanwhile
        }
        let asked = self.asked.get_mut(&question).ok_or(Unasked)?;
        if !asked.base.add(hashes) {
            return Err(Unasked);
        }
        if !is_last {
            return Ok(None);
        }
        let Asked { unsure, kept, base } = self.asked.remove(&question).ok_or(Unasked)?;
        let base = Arc::new(base);
        self.used.push(Arc::downgrade(&base));
        Ok(Some((unsure, kept, base)))
    }
}

impl Unsure {
    /// The size of a file.
    pub(super) fn bytes(&self) -> u64 {
        if let Kind::File(info) = &self.kind { info.bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::looks::tests::unsure;
    use super::*;

    const A: ConnId = ConnId(0);
    const B: ConnId = ConnId(1);
    const DELTA: Skip = Skip { checksum: false, delta: true, ..Skip::NOTHING };

    fn asking(skip: Skip, sizes: &[u64]) -> Compares {
        let mut compares = Compares::new(skip);
        for (number, bytes) in sizes.iter().enumerate() {
            compares.add(unsure(number, Some(*bytes)), None);
        }
        compares
    }

    fn numbers(asked: Option<(ConnId, Vec<ToReceiver>)>) -> Option<(ConnId, Vec<(u64, u64)>)> {
        let number = |message| match message {
            ToReceiver::Blocks { question, block_bytes, .. } => (question, block_bytes),
            other => panic!("{other:?}"),
        };
        asked.map(|(conn, all)| (conn, all.into_iter().map(number).collect()))
    }

    #[test]
    fn what_was_asked_over_a_connection_that_is_lost_is_asked_over_another() {
        let mut compares = asking(DELTA, &[(1 << 20) + 1, 100]);
        assert_eq!(compares.ask([].into_iter()), None);
        let asked = numbers(compares.ask([B, A].into_iter()));
        assert_eq!(asked, Some((A, vec![(0, 64 << 10), (1, 64 << 10)])));
        assert_eq!(compares.ask([A, B].into_iter()), None);
        assert!(matches!(compares.answer(A, 0, &[[1; 32]; 10], false), Ok(None)));
        compares.lost(B);
        compares.lost(A);
        let asked = numbers(compares.ask([B].into_iter()));
        assert_eq!(asked, Some((B, vec![(2, 64 << 10), (3, 64 << 10)])));
        assert!(matches!(compares.answer(A, 0, &[[1; 32]; 7], true), Ok(None)), "too late");
        assert!(compares.answer(B, 0, &[], true).is_err(), "nobody has asked there");
        assert!(compares.answer(B, 9, &[], true).is_err(), "nobody has asked");
        assert!(compares.answer(B, 3, &[[1; 32]; 2], true).is_err(), "it has one block");
        assert!(matches!(compares.answer(B, 2, &[[1; 32]; 10], false), Ok(None)));
        let (_, kept, base) = compares.answer(B, 2, &[[1; 32]; 7], true).unwrap().unwrap();
        assert!(kept.is_none() && base.whole().is_some_and(|blocks| blocks.len() == 17));
    }

    #[test]
    fn hashes_that_are_in_use_leave_room_for_no_more_than_there_is() {
        // 16 MiB of hashes each.
        let mut compares = asking(DELTA, &[1 << 35; 6]);
        assert_eq!(numbers(compares.ask([A].into_iter())).unwrap().1.len(), 4);
        let used = compares.answer(A, 0, &[], true).unwrap().unwrap();
        assert_eq!(compares.ask([A].into_iter()), None);
        drop(used);
        assert_eq!(numbers(compares.ask([A].into_iter())).unwrap().1.len(), 1);
        // Where nothing is sent in blocks, a file has one hash.
        let checksum = Skip { checksum: true, delta: false, ..Skip::NOTHING };
        let mut compares = asking(checksum, &[1 << 35; 100]);
        let asked = numbers(compares.ask([A].into_iter())).unwrap().1;
        assert_eq!((asked.len(), asked[0].1), (BLOCK_QUESTIONS_MAX, 1 << 35));
        assert_eq!(compares.count(), 100);
    }
}
