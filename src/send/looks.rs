//! Files that may be at the receiver already: it is asked before they are sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::store::kind::FileInfo;
use crate::store::source_root::SourcePath;
use crate::traffic::ConnId;
use crate::wire::{Candidate, LOOKS_MAX, Skip, There, ToReceiver, fitting};

/// A receiver may take this long to answer before it is asked over another connection; twice as long each time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that may be there.
#[derive(Debug)]
pub(super) struct Unsure {
    pub(super) local: SourcePath,
    pub(super) path: Vec<u8>,
    pub(super) info: FileInfo,
}

impl Unsure {
    fn candidate(&self) -> Candidate {
        Candidate { path: self.path.clone(), bytes: self.info.bytes, meta: self.info.meta }
    }
}

/// What is to be asked, and what was.
#[derive(Debug)]
pub(super) struct Looks {
    skip: Skip,
    /// Whether the receiver can be asked.
    is_on: bool,
    waiting: VecDeque<Unsure>,
    asked: BTreeMap<u64, Vec<Unsure>>,
    /// The next question's number.
    next: u64,
    files: usize,
    /// Where it is asked.
    conn: Option<ConnId>,
    /// When something was heard last, or asked first.
    heard_at: Option<Instant>,
    patience: Duration,
}

impl Looks {
    /// What `skip` says is not sent.
    pub(super) fn new(skip: Skip) -> Self {
        Self {
            skip,
            is_on: false,
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            next: 0,
            files: 0,
            conn: None,
            heard_at: None,
            patience: PATIENCE,
        }
    }

    /// Whether the receiver can be asked. False if it has to be, and cannot.
    pub(super) fn begin(&mut self, can_ask: bool) -> bool {
        self.is_on = can_ask && self.skip.has_to_look();
        can_ask || !self.skip.is_strict()
    }

    /// Whether files are to be asked for.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A file is to be asked for.
    pub(super) fn add(&mut self, unsure: Unsure) {
        self.files += 1;
        self.waiting.push_back(unsure);
    }

    /// Files that no answer is there for.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// What is to be said now, and over which connection: `other` if none is in use.
    pub(super) fn ask(&mut self, other: ConnId, now: Instant) -> Option<(ConnId, Vec<ToReceiver>)> {
        let mut questions = Vec::new();
        while !self.waiting.is_empty() && self.asked.len() < LOOKS_MAX {
            let count = fitting(self.waiting.iter().map(|unsure| unsure.path.len()));
            let files: Vec<_> = self.waiting.drain(..count.min(self.waiting.len())).collect();
            questions.push(ToReceiver::Look {
                question: self.next,
                likeness: self.skip.likeness(),
                files: files.iter().map(Unsure::candidate).collect(),
            });
            if self.asked.is_empty() {
                self.heard_at = Some(now);
            }
            self.asked.insert(self.next, files);
            self.next += 1;
        }
        (!questions.is_empty()).then(|| (*self.conn.get_or_insert(other), questions))
    }

    /// A connection is gone: what was asked over it is to be asked again.
    pub(super) fn lost(&mut self, conn: ConnId) {
        if self.conn == Some(conn) {
            self.conn = None;
            for files in std::mem::take(&mut self.asked).into_values().rev() {
                files.into_iter().rev().for_each(|unsure| self.waiting.push_front(unsure));
            }
        }
    }

    /// The connection over which no answer has come for too long: it is to be asked over another one.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<ConnId> {
        let heard_at = self.heard_at.filter(|_| !self.asked.is_empty())?;
        if now - heard_at < self.patience {
            return None;
        }
        self.patience *= 2;
        self.conn
    }

    /// An answer has come over `conn`. Returns the files that it is about, and whether each is skipped; `None` if it
    /// answers nothing that was asked.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        question: u64,
        there: &[There],
        now: Instant,
    ) -> Option<Vec<(Unsure, bool)>> {
        if self.conn != Some(conn) {
            return Some(Vec::new()); // asked again meanwhile
        }
        let files = self.asked.remove(&question)?;
        if files.len() != there.len() {
            return None;
        }
        self.heard_at = Some(now);
        self.files -= files.len();
        let skip = self.skip;
        Some(files.into_iter().zip(there).map(|(file, there)| (file, skip.skips(*there))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::source_root::SourceRoot;

    const A: ConnId = ConnId(0);
    const B: ConnId = ConnId(1);

    fn looks(count: usize) -> Looks {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "data").unwrap();
        let root = dir.path().as_os_str().as_encoded_bytes();
        let root = Arc::new(SourceRoot::open(root).unwrap());
        let mut looks = Looks::new(Skip::default());
        assert!(looks.begin(true) && looks.is_on());
        for number in 0..count {
            let stat = rustix::fs::stat(dir.path().join("file")).unwrap();
            let local = SourcePath::new(Arc::clone(&root), b"file".to_vec());
            let info = FileInfo::of(&stat);
            looks.add(Unsure { local, path: format!("{number:04}").into_bytes(), info });
        }
        looks
    }

    fn numbers(questions: &[ToReceiver]) -> Vec<(u64, usize)> {
        let number = |message: &ToReceiver| match message {
            ToReceiver::Look { question, files, .. } => (*question, files.len()),
            other => panic!("{other:?}"),
        };
        questions.iter().map(number).collect()
    }

    #[test]
    fn what_was_asked_over_a_connection_that_is_lost_is_asked_over_another() {
        let now = Instant::now();
        let mut looks = looks(100);
        let (conn, questions) = looks.ask(A, now).unwrap();
        assert_eq!((conn, numbers(&questions)), (A, vec![(0, 85), (1, 15)]));
        assert_eq!(looks.ask(B, now), None);
        let answered = looks.answer(A, 1, &[There::NOTHING; 15], now).unwrap();
        assert_eq!((answered.len(), looks.files()), (15, 85));
        looks.lost(B);
        looks.lost(A);
        let (conn, questions) = looks.ask(B, now).unwrap();
        assert_eq!((conn, numbers(&questions)), (B, vec![(2, 85)]));
        assert!(looks.answer(A, 0, &[There::NOTHING; 85], now).unwrap().is_empty(), "too late");
        assert!(looks.answer(B, 0, &[There::NOTHING; 85], now).is_none(), "nobody has asked");
        assert!(looks.answer(B, 2, &[There::NOTHING; 84], now).is_none(), "too few");
    }

    #[test]
    fn no_more_is_asked_than_may_be_unanswered() {
        let mut looks = looks(85 * (LOOKS_MAX + 1));
        let (_, questions) = looks.ask(A, Instant::now()).unwrap();
        assert_eq!(questions.len(), LOOKS_MAX);
        assert_eq!(looks.ask(A, Instant::now()), None);
        looks.answer(A, 0, &[There::NOTHING; 85], Instant::now()).unwrap();
        assert_eq!(looks.ask(A, Instant::now()).unwrap().1.len(), 1);
    }

    #[test]
    fn a_connection_that_does_not_answer_is_left_in_time_and_ever_later() {
        let now = Instant::now();
        let mut looks = looks(1);
        assert_eq!(looks.overdue(now + 100 * PATIENCE), None, "nothing was asked");
        looks.ask(A, now);
        assert_eq!(looks.overdue(now + PATIENCE / 2), None);
        assert_eq!(looks.overdue(now + PATIENCE), Some(A));
        looks.lost(A);
        looks.ask(B, now + PATIENCE);
        assert_eq!(looks.overdue(now + 2 * PATIENCE), None);
        assert_eq!(looks.overdue(now + 3 * PATIENCE), Some(B));
    }

    #[test]
    fn who_may_not_look_has_everything_sent_unless_it_has_to() {
        let mut plain = Looks::new(Skip::default());
        assert!(plain.begin(false) && !plain.is_on());
        let mut strict = Looks::new(Skip { update: true, ..Skip::default() });
        assert!(!strict.begin(false));
        let mut nothing = Looks::new(Skip::NOTHING);
        assert!(nothing.begin(true) && !nothing.is_on());
    }
}
