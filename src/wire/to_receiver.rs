//! What whoever sends says to whoever receives.
//!
//! | type | message | fields |
//! |---|---|---|
//! | 32 | [`ToReceiver::Recall`] | |
//! | 33 | [`ToReceiver::Heard`] | number |
//! | 34 | [`ToReceiver::Drop`] | connection |
//! | 35 | [`ToReceiver::Finish`] | stripes |
//! | 36 | [`ToReceiver::Grant`] | instance |
//! | 37 | [`ToReceiver::Waiting`] | message (bytes) |
//! | 38 | [`ToReceiver::Wanted`] | lines |
//! | 39 | [`ToReceiver::Sending`] | the fields of [`Sending`], in their order |
//! | 40 | [`ToReceiver::Unsent`] | number, why (0 source, 1 vanished, 2 changed), path (bytes), message (bytes) |
//! | 41 | [`ToReceiver::Sent`] | the fields of [`Sent`], in their order |
//! | 42 | [`ToReceiver::Primed`] | the fields of [`LinePrimed`], in their order |
//! | 43 | [`ToReceiver::GivenUp`] | the fields of [`LineGivenUp`], in their order |
//! | 44 | [`ToReceiver::Does`] | the fields of [`LineDoes`], in their order |
//! | 45 | [`ToReceiver::Look`] | question, [`Likeness`], count, [`Candidate`]s |
//! | 46 | [`ToReceiver::Blocks`] | question, path (bytes), file size, size of blocks |
//!
//! From 36 to 44 they are of a server that sends.

use super::blocks::get_block_bytes;
use super::look::{Candidate, Likeness, get_candidates, put_candidates};
use super::message::Message;
use super::path::get_path;
use super::{
    LineDoes, LineGivenUp, LinePrimed, PATH_BYTES_MAX, Sending, Sent, TEXT_BYTES_MAX, Unsendable,
    WireError, get_bytes, get_u32, get_varint, limit, put_all, put_bytes, put_varint,
};
use crate::hashtree::FILE_BYTES_MAX;

/// A message of the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToReceiver {
    /// Say what is kept of an earlier run, before anything is sent. Asked again over another connection if the
    /// first is lost.
    Recall,
    /// A failure is known, and need not be told again.
    Heard(u64),
    /// That connection is given up; what it holds can be freed.
    Drop(u32),
    /// The stripes up to this number are all there will be; make them durable once they are
    /// written. Comes before they have arrived, so that it costs no round trip.
    Finish {
        /// How many stripes there are.
        stripes: u64,
    },
    /// The pull begins, or goes on.
    Grant {
        /// Drawn at random when it began.
        instance: u64,
    },
    /// The server has taken on as much as it can, and this client waits for its turn. A grant follows.
    Waiting {
        /// What there is so much of, for a person.
        message: Vec<u8>,
    },
    /// So many connections are wanted in all, from the first one on.
    Wanted {
        /// How many.
        lines: u64,
    },
    /// How far it is.
    Sending(Sending),
    /// Something is not sent. Told when it is known, and again before [`ToReceiver::Finish`] unless it was
    /// [heard](super::ToSender::Heard).
    Unsent {
        /// Its number among all of these.
        number: u64,
        /// What is the matter.
        why: Unsendable,
        /// What it is called at the source.
        path: Vec<u8>,
        /// Why, for a person.
        message: Vec<u8>,
    },
    /// What it did; answers [`ToSender::Finished`](super::ToSender::Finished).
    Sent(Sent),
    /// A connection's priming is over.
    Primed(LinePrimed),
    /// A connection was given up.
    GivenUp(LineGivenUp),
    /// How a connection does.
    Does(LineDoes),
    /// Say what is there of these files, which may not have to be sent. A sender may have [`LOOKS_MAX`] of these
    /// unanswered over one connection, and asks again over another one if it is lost.
    ///
    /// [`LOOKS_MAX`]: super::LOOKS_MAX
    Look {
        /// The question's number.
        question: u64,
        /// What counts as the same.
        likeness: Likeness,
        /// The files.
        files: Vec<Candidate>,
    },
    /// Say what the blocks of the file that has this path hash to. Only if that was announced; a sender may have
    /// [`BLOCK_QUESTIONS_MAX`] of these unanswered over one connection, and asks again over another one if it is lost.
    ///
    /// [`BLOCK_QUESTIONS_MAX`]: super::BLOCK_QUESTIONS_MAX
    Blocks {
        /// The question's number.
        question: u64,
        /// Where the file goes.
        path: Vec<u8>,
        /// The size that it has at the source, in bytes.
        bytes: u64,
        /// How large each block is, in bytes.
        block_bytes: u64,
    },
}

impl Message for ToReceiver {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Recall => put_varint(body, 32),
            Self::Heard(number) => put_all(body, &[33, *number]),
            Self::Drop(conn) => put_all(body, &[34, u64::from(*conn)]),
            Self::Finish { stripes } => put_all(body, &[35, *stripes]),
            Self::Grant { instance } => put_all(body, &[36, *instance]),
            Self::Waiting { message } => {
                put_varint(body, 37);
                put_bytes(body, message);
            }
            Self::Wanted { lines } => put_all(body, &[38, *lines]),
            Self::Sending(sending) => {
                put_varint(body, 39);
                sending.encode(body);
            }
            Self::Unsent { number, why, path, message } => {
                put_all(body, &[40, *number, *why as u64]);
                put_bytes(body, path);
                put_bytes(body, message);
            }
            Self::Sent(sent) => {
                put_varint(body, 41);
                sent.encode(body);
            }
            Self::Primed(primed) => {
                put_varint(body, 42);
                primed.encode(body);
            }
            Self::GivenUp(given_up) => {
                put_varint(body, 43);
                given_up.encode(body);
            }
            Self::Does(does) => {
                put_varint(body, 44);
                does.encode(body);
            }
            Self::Look { question, likeness, files } => {
                put_all(body, &[45, *question]);
                likeness.encode(body);
                put_candidates(body, files, likeness.has_claims);
            }
            Self::Blocks { question, path, bytes, block_bytes } => {
                put_all(body, &[46, *question]);
                put_bytes(body, path);
                put_all(body, &[*bytes, *block_bytes]);
            }
        }
    }

    fn get(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            32 => Self::Recall,
            33 => Self::Heard(get_varint(body)?),
            34 => Self::Drop(get_u32("connection", body)?),
            35 => Self::Finish { stripes: get_varint(body)? },
            36 => Self::Grant { instance: get_varint(body)? },
            37 => Self::Waiting { message: get_bytes("message", body, TEXT_BYTES_MAX)? },
            38 => Self::Wanted { lines: get_varint(body)? },
            39 => Self::Sending(Sending::decode(body)?),
            40 => Self::Unsent {
                number: get_varint(body)?,
                why: Unsendable::of_number(get_varint(body)?)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            41 => Self::Sent(Sent::decode(body)?),
            42 => Self::Primed(LinePrimed::decode(body)?),
            43 => Self::GivenUp(LineGivenUp::decode(body)?),
            44 => Self::Does(LineDoes::decode(body)?),
            45 => {
                let (question, likeness) = (get_varint(body)?, Likeness::decode(body)?);
                let files = get_candidates(body, likeness.has_claims)?;
                Self::Look { question, likeness, files }
            }
            46 => {
                let (question, path) = (get_varint(body)?, get_path(body, false)?);
                let bytes = limit("file size", get_varint(body)?, FILE_BYTES_MAX)?;
                Self::Blocks { question, path, bytes, block_bytes: get_block_bytes(body, bytes)? }
            }
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::VARINT_MAX;
    use super::super::blocks::{block_bytes, one_block};
    use super::super::look::tests::{candidates, skip};
    use super::super::message::tests::survives;
    use super::super::path::tests::path;
    use super::*;

    fn message() -> impl Strategy<Value = ToReceiver> {
        let number = || 0..=VARINT_MAX;
        prop_oneof![
            Just(ToReceiver::Recall),
            number().prop_map(ToReceiver::Heard),
            any::<u32>().prop_map(ToReceiver::Drop),
            number().prop_map(|stripes| ToReceiver::Finish { stripes }),
            number().prop_map(|instance| ToReceiver::Grant { instance }),
            path().prop_map(|message| ToReceiver::Waiting { message }),
            number().prop_map(|lines| ToReceiver::Wanted { lines }),
            number().prop_map(|found_bytes| {
                ToReceiver::Sending(Sending { found_bytes, takeovers: 3, ..Sending::default() })
            }),
            (number(), 0..3_u64, path(), path()).prop_map(|(number, why, path, message)| {
                let why = Unsendable::of_number(why).expect("one of three");
                ToReceiver::Unsent { number, why, path, message }
            }),
            (number(), skip(), candidates(false)).prop_map(|(question, skip, files)| {
                ToReceiver::Look { question, likeness: skip.likeness(), files }
            }),
            (number(), skip(), candidates(true)).prop_map(|(question, skip, files)| {
                let likeness = Likeness { has_claims: true, ..skip.likeness() };
                ToReceiver::Look { question, likeness, files }
            }),
            number().prop_map(|files| {
                ToReceiver::Sent(Sent { files, stripes_again: 7, ..Sent::default() })
            }),
            number().prop_map(|conn| {
                ToReceiver::Primed(LinePrimed { conn, padding_bytes: 5, ..LinePrimed::default() })
            }),
            number().prop_map(|conn| {
                ToReceiver::GivenUp(LineGivenUp { conn, stripes: 6, ..LineGivenUp::default() })
            }),
            number().prop_map(|conn| {
                ToReceiver::Does(LineDoes { conn, stripes: 8, ..LineDoes::default() })
            }),
            (number(), path(), 0..=FILE_BYTES_MAX, any::<bool>()).prop_map(
                |(question, path, bytes, is_one)| {
                    let block_bytes = if is_one { one_block(bytes) } else { block_bytes(bytes) };
                    ToReceiver::Blocks { question, path, bytes, block_bytes }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(message in message()) {
            survives(&message);
        }
    }
}
