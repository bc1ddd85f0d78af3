//! What is asked and answered where no data moves: after a request to verify or to list.
//!
//! | type | message | fields |
//! |---|---|---|
//! | 48 | [`Question::Compare`] | item, path (bytes), [`Subject`] |
//! | 49 | [`Question::Expect`] | item, hash (32 bytes, or none) |
//! | 50 | [`Question::Look`] | question, [`Likeness`], count, [`Expected`]s |
//! | 51 | [`Question::AtSource`] | question, count, [`AtSource`]s |
//! | 52 | [`Question::Sweep`] | acts (0, 1) |
//! | 53 | [`Question::Ask`] | question, count, [`Named`]s |
//! | 56 | [`Answer::Welcome`] | destination (0 missing, 1 file, 2 folder) |
//! | 57 | [`Answer::Waiting`] | message (bytes) |
//! | 58 | [`Answer::Compared`] | item, [`Verdict`] |
//! | 59 | [`Answer::ListFolder`] | path (bytes) |
//! | 60 | [`Answer::Listed`] | [`Listed`] |
//! | 61 | [`Answer::Unlisted`] | path (bytes), message (bytes) |
//! | 62 | [`Answer::ListEnd`] | |
//! | 63 | [`Answer::Found`] | question, count, [`There`]s |
//! | 64 | [`Answer::OnlyNew`] | |
//! | 65 | [`Answer::Ask`] | question, count, [`Named`]s |
//! | 66 | [`Answer::Extra`] | count |
//! | 67 | [`Answer::Swept`] | path (bytes), kind (0 file, 1 folder, 2 other), size |
//! | 68 | [`Answer::AtSource`] | question, count, [`AtSource`]s |
//!
//! All these requests are answered by a welcome, which says what is at the path; it may be long in coming: then the
//! server says once that the client waits for its turn.
//!
//! After a request to verify, each compare is answered by one compared, in any order; that of a file may wait for
//! its expect. A client may have [`COMPARES_MAX`](super::COMPARES_MAX) of them unanswered.
//!
//! Each look is answered by one found, in any order; a client may have [`LOOKS_MAX`](super::LOOKS_MAX) of them
//! unanswered. Where it would write and may replace nothing, an only new follows the welcome.
//!
//! A request to list, and one for a survey, is answered by one listed for each thing that is there, if anything is, and a list end. The
//! client says nothing more.
//!
//! A request to sweep is answered by an ask for all that is there, a part at a time; each is answered by one at source,
//! in their order. An extra says when that was all, and how much is to be removed. The client says sweep, and hears swept
//! of all that was removed, durably at the list end, or that would be. What cannot be is told as unlisted.
//!
//! After a request for a survey that is about names, it is the client that asks; what cannot be looked for is answered by
//! an unlisted.

use bytes::BufMut;

use super::look::{get_there, put_there};
use super::message::Message;
use super::path::get_path;
use super::plan::{get_expected, put_expected};
use super::sweep::{get_named, get_states, put_named, put_states};
use super::{
    AtSource, Destination, Expected, Likeness, Listed, Named, Subject, SweptKind, TEXT_BYTES_MAX,
    There, Verdict, WireError, get_array, get_bytes, get_varint, put_all, put_bytes, put_varint,
    within,
};

/// A message of a client that compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Compare this with what is there. The server begins to hash a file of this size.
    Compare {
        /// Its number, not that of another one that is unanswered.
        item: u64,
        /// Its path below the root.
        path: Vec<u8>,
        /// What should be there.
        subject: Subject,
    },
    /// The hash that a file should have.
    Expect {
        /// Its number.
        item: u64,
        /// Its BLAKE3 hash; `None` if it is not known: then no hash is the same.
        hash: Option<[u8; 32]>,
    },
    /// Say what is there of these, without a look at what is in them.
    Look {
        /// The question's number.
        question: u64,
        /// What counts as the same.
        likeness: Likeness,
        /// What they are at the source.
        all: Vec<Expected>,
    },
    /// What is at the source of what was asked for, in its order.
    AtSource {
        /// The question's number.
        question: u64,
        /// One for each.
        states: Vec<AtSource>,
    },
    /// Remove what was found, or tell of it.
    Sweep {
        /// It is to be removed.
        acts: bool,
    },
    /// Say whether these are at the source, which are called by their paths below the destination.
    Ask {
        /// The question's number.
        question: u64,
        /// What is at the destination.
        all: Vec<Named>,
    },
}

/// A message of a server that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go ahead; this is what is there.
    Welcome(Destination),
    /// It has taken on as much as it can, and this client waits for its turn. A welcome follows.
    Waiting {
        /// What there is so much of, for a person.
        message: Vec<u8>,
    },
    /// How something compares.
    Compared {
        /// Its number.
        item: u64,
        /// The outcome.
        verdict: Verdict,
    },
    /// What is listed from here on is in this folder, relative to the path that is listed; at first it is in that
    /// itself.
    ListFolder(Vec<u8>),
    /// Something that is there.
    Listed(Listed),
    /// Something cannot be looked at, or not be looked into; all else is listed.
    Unlisted {
        /// Its path, relative to the one that is listed.
        path: Vec<u8>,
        /// Why, for a person.
        message: Vec<u8>,
    },
    /// That was all.
    ListEnd,
    /// What is there of what a look has named, in its order.
    Found {
        /// The question's number.
        question: u64,
        /// One for each.
        there: Vec<There>,
    },
    /// Nothing that is there would be replaced.
    OnlyNew,
    /// Say whether these are at the source.
    Ask {
        /// The question's number.
        question: u64,
        /// What is there.
        all: Vec<Named>,
    },
    /// All that is there was asked for.
    Extra {
        /// How much of it is to be removed.
        count: u64,
    },
    /// Something was removed, or would be.
    Swept {
        /// Its path.
        path: Vec<u8>,
        /// What it was.
        kind: SweptKind,
        /// The size of a file, in bytes.
        bytes: u64,
    },
    /// What is at the source of what was asked for, in its order.
    AtSource {
        /// The question's number.
        question: u64,
        /// One for each.
        states: Vec<AtSource>,
    },
}

impl Message for Question {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Compare { item, path, subject } => {
                put_all(body, &[48, *item]);
                put_bytes(body, path);
                subject.encode(body);
            }
            Self::Expect { item, hash } => {
                put_all(body, &[49, *item]);
                body.put_slice(hash.as_ref().map_or(&[], |hash| hash));
            }
            Self::Look { question, likeness, all } => {
                put_all(body, &[50, *question]);
                likeness.encode(body);
                put_expected(body, all);
            }
            Self::AtSource { question, states } => {
                put_all(body, &[51, *question]);
                put_states(body, states);
            }
            Self::Sweep { acts } => put_all(body, &[52, u64::from(*acts)]),
            Self::Ask { question, all } => {
                put_all(body, &[53, *question]);
                put_named(body, all);
            }
        }
    }

    fn get(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            48 => Self::Compare {
                item: get_varint(body)?,
                path: get_path(body, false)?,
                subject: Subject::decode(body)?,
            },
            49 => Self::Expect {
                item: get_varint(body)?,
                hash: if body.is_empty() { None } else { Some(get_array(body)?) },
            },
            50 => Self::Look {
                question: get_varint(body)?,
                likeness: Likeness::decode(body)?,
                all: get_expected(body)?,
            },
            51 => Self::AtSource { question: get_varint(body)?, states: get_states(body)? },
            52 => Self::Sweep { acts: within("flag", get_varint(body)?, 1)? == 1 },
            53 => Self::Ask { question: get_varint(body)?, all: get_named(body)? },
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

impl Message for Answer {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Welcome(destination) => put_all(body, &[56, *destination as u64]),
            Self::Waiting { message } => {
                put_varint(body, 57);
                put_bytes(body, message);
            }
            Self::Compared { item, verdict } => {
                put_all(body, &[58, *item]);
                verdict.encode(body);
            }
            Self::ListFolder(path) => {
                put_varint(body, 59);
                put_bytes(body, path);
            }
            Self::Listed(listed) => {
                put_varint(body, 60);
                listed.encode(body);
            }
            Self::Unlisted { path, message } => {
                put_varint(body, 61);
                put_bytes(body, path);
                put_bytes(body, message);
            }
            Self::ListEnd => put_varint(body, 62),
            Self::Found { question, there } => {
                put_all(body, &[63, *question]);
                put_there(body, there);
            }
            Self::OnlyNew => put_varint(body, 64),
            Self::Ask { question, all } => {
                put_all(body, &[65, *question]);
                put_named(body, all);
            }
            Self::Extra { count } => put_all(body, &[66, *count]),
            Self::Swept { path, kind, bytes } => {
                put_varint(body, 67);
                put_bytes(body, path);
                put_all(body, &[*kind as u64, *bytes]);
            }
            Self::AtSource { question, states } => {
                put_all(body, &[68, *question]);
                put_states(body, states);
            }
        }
    }

    fn get(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            56 => Self::Welcome(Destination::of_number(get_varint(body)?)?),
            57 => Self::Waiting { message: get_bytes("message", body, TEXT_BYTES_MAX)? },
            58 => Self::Compared { item: get_varint(body)?, verdict: Verdict::decode(body)? },
            59 => Self::ListFolder(get_path(body, true)?),
            60 => Self::Listed(Listed::decode(body)?),
            61 => Self::Unlisted {
                path: get_path(body, true)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            62 => Self::ListEnd,
            63 => Self::Found { question: get_varint(body)?, there: get_there(body)? },
            64 => Self::OnlyNew,
            65 => Self::Ask { question: get_varint(body)?, all: get_named(body)? },
            66 => Self::Extra { count: get_varint(body)? },
            67 => Self::Swept {
                path: get_path(body, false)?,
                kind: SweptKind::of_number(get_varint(body)?)?,
                bytes: get_varint(body)?,
            },
            68 => Self::AtSource { question: get_varint(body)?, states: get_states(body)? },
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::VARINT_MAX;
    use super::super::compare::tests::{subject, verdict};
    use super::super::list::tests::listed;
    use super::super::look::tests::{skip, there};
    use super::super::message::tests::survives;
    use super::super::path::tests::path;
    use super::super::plan::tests::expected;
    use super::super::sweep::tests::{named, states};
    use super::*;

    fn question() -> impl Strategy<Value = Question> {
        let number = || 0..=VARINT_MAX;
        prop_oneof![
            (number(), path(), subject()).prop_map(|(item, path, subject)| Question::Compare {
                item,
                path,
                subject
            }),
            (number(), any::<Option<[u8; 32]>>())
                .prop_map(|(item, hash)| Question::Expect { item, hash }),
            (number(), skip(), expected()).prop_map(|(question, skip, all)| Question::Look {
                question,
                likeness: skip.likeness(),
                all
            }),
            (number(), states())
                .prop_map(|(question, states)| Question::AtSource { question, states }),
            any::<bool>().prop_map(|acts| Question::Sweep { acts }),
            (number(), named()).prop_map(|(question, all)| Question::Ask { question, all }),
        ]
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let text = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            Just(Answer::Welcome(Destination::Missing)),
            text().prop_map(|message| Answer::Waiting { message }),
            (0..=VARINT_MAX, verdict())
                .prop_map(|(item, verdict)| Answer::Compared { item, verdict }),
            path().prop_map(Answer::ListFolder),
            Just(Answer::ListFolder(vec![])),
            listed().prop_map(Answer::Listed),
            (path(), text()).prop_map(|(path, message)| Answer::Unlisted { path, message }),
            Just(Answer::ListEnd),
            (0..=VARINT_MAX, there())
                .prop_map(|(question, there)| Answer::Found { question, there }),
            Just(Answer::OnlyNew),
            (0..=VARINT_MAX, named()).prop_map(|(question, all)| Answer::Ask { question, all }),
            (0..=VARINT_MAX).prop_map(|count| Answer::Extra { count }),
            (path(), 0..=VARINT_MAX, 0..3_u64).prop_map(|(path, bytes, kind)| {
                let kind = SweptKind::of_number(kind).expect("one of three");
                Answer::Swept { path, kind, bytes }
            }),
            (0..=VARINT_MAX, states())
                .prop_map(|(question, states)| Answer::AtSource { question, states }),
        ]
    }

    #[test]
    fn paths_that_lead_out_are_not_compared() {
        for path in [b"" as &[u8], b"../x", b"a/../x", b"/etc/passwd", b"a//b", b"a\0b"] {
            let mut out = Vec::new();
            let subject = Subject::Folder;
            Question::Compare { item: 1, path: path.to_vec(), subject }.encode(&mut out);
            assert!(matches!(Question::decode(&out), Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(question in question(), answer in answer()) {
            survives(&question);
            survives(&answer);
        }
    }
}
