//! What may be at the receiver already: it is asked before it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::store::kind::Kind;
use crate::store::source_root::SourcePath;
use crate::traffic::ConnId;
use crate::wire::{Candidate, Claim, LOOKS_MAX, Likeness, Skip, There, ToReceiver, fitting};

/// A receiver may take this long to answer before it is asked over another connection; twice as long each time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that may be there, or a folder or a link.
#[derive(Debug)]
pub(super) struct Unsure {
    pub(super) local: SourcePath,
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// What else it is to have, if that is asked for.
    pub(super) claim: Option<Claim>,
    /// What its attributes take, at most, in bytes.
    pub(super) xattr_bytes_max: usize,
    /// Its content was compared, and is the same.
    pub(super) is_compared: bool,
}

/// What becomes of such a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent.
    Sent,
    /// It is sent as well; a file that it may be compared with is there.
    SentOver,
    /// A file of its size is there: it is to be seen whether that has its content.
    Compared,
    /// It is not.
    Skipped,
    /// Only its metadata is.
    Adopted,
}

impl Unsure {
    fn candidate(&self) -> Candidate {
        let (bytes, meta) = match &self.kind {
            Kind::File(info) => (Some(info.bytes), info.meta),
            Kind::Folder(meta) | Kind::Symlink { meta, .. } | Kind::Special { meta, .. } => {
                (None, *meta)
            }
        };
        Candidate { path: self.path.clone(), bytes, meta, claim: self.claim.clone() }
    }

    fn likeness(&self, skip: Skip) -> Likeness {
        let likeness = if self.is_compared { skip.likeness_compared() } else { skip.likeness() };
        Likeness { has_claims: self.claim.is_some(), ..likeness }
    }

    /// What becomes of it where this is there.
    fn verdict(&self, skip: Skip, there: There) -> Verdict {
        let is_file = matches!(self.kind, Kind::File(_));
        let is_skipped = if is_file {
            skip.skips(there, self.likeness(skip))
        } else {
            skip.skips_other(there, matches!(self.kind, Kind::Folder(_)))
        };
        match is_skipped {
            true if there.has_other_meta() => Verdict::Adopted,
            true => Verdict::Skipped,
            false if is_file && skip.checksum && there.is_same() && !self.is_compared => {
                Verdict::Compared
            }
            false if is_file && there.is_same_kind() => Verdict::SentOver,
            false => Verdict::Sent,
        }
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
    count: usize,
    /// Where it is asked.
    conn: Option<ConnId>,
    /// Where no answer came in time: it may still, and is no fault then.
    silent: Vec<ConnId>,
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
            count: 0,
            conn: None,
            silent: Vec::new(),
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

    /// Whether it is to be asked for a folder or a link.
    pub(super) fn is_asked(&self, other: &Kind) -> bool {
        self.is_on && self.skip.has_to_look_at_other(matches!(other, Kind::Folder(_)))
    }

    /// Something is to be asked for.
    pub(super) fn add(&mut self, unsure: Unsure) {
        self.count += 1;
        self.waiting.push_back(unsure);
    }

    /// How many no answer is there for.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What is to be said now, and over which connection of those that are `up`.
    pub(super) fn ask(
        &mut self,
        up: impl Iterator<Item = ConnId>,
        now: Instant,
    ) -> Option<(ConnId, Vec<ToReceiver>)> {
        if self.count == 0 {
            return None;
        }
        let is_overdue = self.is_overdue(now);
        if self.conn.is_none() || is_overdue {
            // Any will do; the first one is not new. Over one that was left questions are open that it may yet answer.
            let may_be = |conn: &ConnId| Some(*conn) != self.conn && !self.silent.contains(conn);
            if let Some(next) = up.filter(may_be).min() {
                if is_overdue {
                    self.patience *= 2;
                    self.silent.extend(self.conn);
                    self.take_back();
                }
                self.conn = Some(next);
            }
        }
        let conn = self.conn?;
        let mut questions = Vec::new();
        while !self.waiting.is_empty() && self.asked.len() < LOOKS_MAX {
            let Some(likeness) = self.waiting.front().map(|unsure| unsure.likeness(self.skip))
            else {
                break;
            };
            let alike = self.waiting.iter();
            let alike = alike.take_while(|unsure| unsure.likeness(self.skip) == likeness);
            let count = fitting(alike.map(|unsure| unsure.candidate().cost()));
            let files: Vec<_> = self.waiting.drain(..count.min(self.waiting.len())).collect();
            questions.push(ToReceiver::Look {
                question: self.next,
                likeness,
                files: files.iter().map(Unsure::candidate).collect(),
            });
            if self.asked.is_empty() {
                self.heard_at = Some(now);
            }
            self.asked.insert(self.next, files);
            self.next += 1;
        }
        (!questions.is_empty()).then_some((conn, questions))
    }

    /// A connection is gone: what was asked over it is to be asked again.
    pub(super) fn lost(&mut self, conn: ConnId) {
        if self.conn == Some(conn) {
            self.conn = None;
            self.take_back();
        }
    }

    fn take_back(&mut self) {
        for files in std::mem::take(&mut self.asked).into_values().rev() {
            files.into_iter().rev().for_each(|unsure| self.waiting.push_front(unsure));
        }
    }

    /// Whether no answer has come for too long.
    fn is_overdue(&self, now: Instant) -> bool {
        !self.asked.is_empty() && self.heard_at.is_some_and(|at| now - at >= self.patience)
    }

    /// An answer has come over `conn`. Returns what it is about, and what becomes of each; `None` if it
    /// answers nothing that was asked.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        question: u64,
        there: &[There],
        now: Instant,
    ) -> Option<Vec<(Unsure, Verdict)>> {
        if self.conn != Some(conn) && question < self.next {
            return Some(Vec::new()); // asked again meanwhile
        }
        let files = self.asked.remove(&question)?;
        if files.len() != there.len() {
            return None;
        }
        self.heard_at = Some(now);
        self.count -= files.len();
        let skip = self.skip;
        let told = |(unsure, there): (Unsure, &There)| {
            let verdict = unsure.verdict(skip, *there);
            (unsure, verdict)
        };
        Some(files.into_iter().zip(there).map(told).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::kind::FileInfo;
    use crate::store::source_root::SourceRoot;

    const A: ConnId = ConnId(0);
    const B: ConnId = ConnId(1);
    const C: ConnId = ConnId(2);

    /// A file, of so many bytes, or of as many as it has.
    pub(in super::super) fn unsure(number: usize, bytes: Option<u64>) -> Unsure {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "data").unwrap();
        let root = dir.path().as_os_str().as_encoded_bytes();
        let root = Arc::new(SourceRoot::open(root).unwrap());
        let info = FileInfo::of(&rustix::fs::stat(dir.path().join("file")).unwrap());
        let info = bytes.map_or(info, |bytes| info.with_bytes(bytes));
        Unsure {
            local: SourcePath::new(root, b"file".to_vec()),
            path: format!("{number:04}").into_bytes(),
            kind: Kind::File(info),
            claim: None,
            xattr_bytes_max: 0,
            is_compared: false,
        }
    }

    fn looks(count: usize) -> Looks {
        let mut looks = Looks::new(Skip::default());
        assert!(looks.begin(true) && looks.is_on());
        (0..count).for_each(|number| looks.add(unsure(number, None)));
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
        let (conn, questions) = looks.ask([B, A].into_iter(), now).unwrap();
        assert_eq!((conn, numbers(&questions)), (A, vec![(0, 85), (1, 15)]));
        assert_eq!(looks.ask([A, B].into_iter(), now), None);
        let answered = looks.answer(A, 1, &[There::NOTHING; 15], now).unwrap();
        assert_eq!((answered.len(), looks.count()), (15, 85));
        looks.lost(B);
        looks.lost(A);
        assert_eq!(looks.ask([].into_iter(), now), None, "there is none");
        let (conn, questions) = looks.ask([B].into_iter(), now).unwrap();
        assert_eq!((conn, numbers(&questions)), (B, vec![(2, 85)]));
        assert!(looks.answer(A, 0, &[There::NOTHING; 85], now).unwrap().is_empty(), "too late");
        assert!(looks.answer(A, 3, &[There::NOTHING; 85], now).is_none(), "nobody has asked");
        assert!(looks.answer(B, 0, &[There::NOTHING; 85], now).is_none(), "nobody has asked there");
        assert!(looks.answer(B, 2, &[There::NOTHING; 84], now).is_none(), "too few");
    }

    #[test]
    fn no_more_is_asked_than_may_be_unanswered() {
        let mut looks = looks(85 * (LOOKS_MAX + 1));
        let ask = |looks: &mut Looks| looks.ask([A].into_iter(), Instant::now());
        assert_eq!(ask(&mut looks).unwrap().1.len(), LOOKS_MAX);
        assert_eq!(ask(&mut looks), None);
        looks.answer(A, 0, &[There::NOTHING; 85], Instant::now()).unwrap();
        assert_eq!(ask(&mut looks).unwrap().1.len(), 1);
    }

    #[test]
    fn a_connection_that_does_not_answer_is_left_for_good_and_its_answer_is_no_fault() {
        let now = Instant::now();
        let mut looks = looks(1);
        let ask = |looks: &mut Looks, up: &[ConnId], turns: u32| {
            looks.ask(up.iter().copied(), now + turns * PATIENCE).map(|(conn, _)| conn)
        };
        assert_eq!(ask(&mut looks, &[A], 0), Some(A));
        assert_eq!(ask(&mut looks, &[A], 2), None, "there is no other");
        assert_eq!(ask(&mut looks, &[A, B, C], 2), Some(B));
        assert_eq!(ask(&mut looks, &[A, B, C], 3), None, "twice the time");
        assert_eq!(ask(&mut looks, &[A, B, C], 4), Some(C));
        assert_eq!(ask(&mut looks, &[A, B, C], 100), None, "all were asked");
        let late = now + 100 * PATIENCE;
        assert!(looks.answer(A, 0, &[There::NOTHING], late).unwrap().is_empty());
        assert!(looks.answer(B, 1, &[There::NOTHING], late).unwrap().is_empty());
        assert_eq!(looks.answer(C, 2, &[There::NOTHING], late).unwrap().len(), 1);
        assert_eq!(looks.count(), 0);
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
