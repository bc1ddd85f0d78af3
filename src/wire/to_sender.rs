//! What whoever receives says to whoever sends.
//!
//! | type | message | fields |
//! |---|---|---|
//! | 16 | [`ToSender::Welcome`] | destination (0 missing, 1 file, 2 folder), instance, kept (0, 1), looks (0, 1) |
//! | 17 | [`ToSender::Waiting`] | message (bytes) |
//! | 18 | [`ToSender::Confirm`] | stripe |
//! | 19 | [`ToSender::Damaged`] | stripe |
//! | 20 | [`ToSender::Failed`] | number, item (0 none, else one more), path (bytes), message (bytes) |
//! | 21 | [`ToSender::KeptFiles`] | count, [`KeptFile`]s |
//! | 22 | [`ToSender::KeptPieces`] | file, basis, state (16 bytes each), count, [`KeptPiece`]s |
//! | 23 | [`ToSender::KeptEnd`] | |
//! | 24 | [`ToSender::Unkept`] | what (its place in [`What::ALL`]), count, path (bytes), message (bytes) |
//! | 25 | [`ToSender::Finished`] | files, bytes, failed files, discarded files, failed others, padding |
//! | 26 | [`ToSender::Heard`] | number |
//! | 27 | [`ToSender::Unopened`] | connection |
//! | 28 | [`ToSender::Found`] | question, count, [`There`]s |
//! | 29 | [`ToSender::Hashes`] | question, whether they are the last (0, 1), count, hashes (32 bytes each) |

use super::blocks::{get_hashes, put_hashes};
use super::ids::{FileKey, SourceBasis, SourceState};
use super::kept::{get_kept_files, get_kept_pieces, put_kept_files, put_kept_pieces};
use super::look::{There, get_there, put_there};
use super::message::Message;
use super::{
    KeptFile, KeptPiece, PATH_BYTES_MAX, TEXT_BYTES_MAX, WireError, get_bytes, get_u32, get_varint,
    put_all, put_bytes, put_varint, within,
};

/// What is at the destination before the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nothing.
    Missing,
    /// Something that is not a folder.
    File,
    /// A folder.
    Folder,
}

impl Destination {
    pub(super) fn of_number(value: u64) -> Result<Self, WireError> {
        Ok(match value {
            0 => Self::Missing,
            1 => Self::File,
            2 => Self::Folder,
            value => return Err(WireError::Unknown { what: "destination", value }),
        })
    }
}

/// What could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Permission bits.
    Modes,
    /// Modification times.
    Times,
    /// Owners and groups.
    Owners,
    /// Set-user-id, set-group-id and sticky bits.
    SpecialBits,
    /// Extended attributes.
    Xattrs,
    /// ACLs.
    Acls,
}

impl What {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Modes, Self::Times, Self::Owners, Self::SpecialBits, Self::Xattrs, Self::Acls];

    /// What it is called in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Modes => "modes",
            Self::Times => "times",
            Self::Owners => "owners",
            Self::SpecialBits => "special_bits",
            Self::Xattrs => "xattrs",
            Self::Acls => "acls",
        }
    }

    fn of_number(value: u64) -> Result<Self, WireError> {
        let found = usize::try_from(value).ok().and_then(|at| Self::ALL.get(at));
        found.copied().ok_or(WireError::Unknown { what: "metadata", value })
    }
}

/// Metadata that could not be kept, told once for all that it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// What.
    pub what: What,
    /// Of how many files, folders and links.
    pub count: u64,
    /// The path of the first of them.
    pub path: Vec<u8>,
    /// Why, for a person.
    pub reason: Vec<u8>,
}

/// A message of the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSender {
    /// A server has taken on as much as it can, and this client waits for its turn. A welcome follows.
    Waiting {
        /// What there is so much of, for a person.
        message: Vec<u8>,
    },
    /// Go ahead.
    Welcome {
        /// What is there.
        destination: Destination,
        /// Drawn at random when the transfer began here: another one means that it began anew
        /// and knows nothing of what it confirmed before.
        instance: u64,
        /// Something of an earlier run of the same push is there: see [`ToReceiver::Recall`].
        ///
        /// [`ToReceiver::Recall`]: super::ToReceiver::Recall
        kept: bool,
        /// It can be asked what is there: see [`ToReceiver::Look`]. Not by somebody who may not read there.
        ///
        /// [`ToReceiver::Look`]: super::ToReceiver::Look
        looks: bool,
    },
    /// A stripe is verified and written.
    Confirm(u64),
    /// A stripe did not match its hash.
    Damaged(u64),
    /// Something could not be written; all else is. Told when it happens, and again until it is
    /// [heard](super::ToReceiver::Heard), for the last time before [`ToSender::Finished`].
    Failed {
        /// Its number among all failures.
        number: u64,
        /// The item, if more of it may still be to come: nobody wants that any more.
        item: Option<u64>,
        /// Its path.
        path: Vec<u8>,
        /// Why, for a person.
        message: Vec<u8>,
    },
    /// Files that are there as a whole; answers [`ToReceiver::Recall`](super::ToReceiver::Recall).
    KeptFiles(Vec<KeptFile>),
    /// Pieces that are there and durable of a file that is not whole; answers the same.
    KeptPieces {
        /// The file.
        file: FileKey,
        /// How its source was when the first piece was read: see [`SourceId`](super::SourceId).
        basis: SourceBasis,
        /// How its source was when that was last looked at, and all of these were its pieces.
        state: SourceState,
        /// Some of its pieces; more may follow in another message.
        pieces: Vec<KeptPiece>,
    },
    /// That was all that is kept.
    KeptEnd,
    /// Some of the metadata could not be kept. Comes before [`ToSender::Finished`], once for each [`What`].
    Unkept(Unkept),
    /// Everything is durable and has its name.
    Finished {
        /// Files that have their name.
        files: u64,
        /// Bytes of these files.
        bytes: u64,
        /// Files that could not be written; some of them were named by [`ToSender::Failed`].
        failed_files: u64,
        /// Files that the sender has taken back.
        discarded_files: u64,
        /// Folders and links that could not be made; some of them were named as well.
        failed_others: u64,
        /// Padding that was received and thrown away.
        padding_bytes: u64,
    },
    /// What is not sent is known, and need not be told again.
    Heard(u64),
    /// A connection that is wanted cannot be opened.
    Unopened(u32),
    /// What is there of the files that a [`ToReceiver::Look`](super::ToReceiver::Look) named, in their order.
    Found {
        /// The question's number.
        question: u64,
        /// One for each file.
        there: Vec<There>,
    },
    /// Hashes of the blocks that a [`ToReceiver::Blocks`](super::ToReceiver::Blocks) asked for, in their order; none
    /// where there is no such file.
    Hashes {
        /// The question's number.
        question: u64,
        /// Those that follow the ones that were told before.
        hashes: Vec<[u8; 32]>,
        /// There are no more.
        is_last: bool,
    },
}

impl Message for ToSender {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Welcome { destination, instance, kept, looks } => {
                put_all(body, &[16, *destination as u64, *instance]);
                put_all(body, &[u64::from(*kept), u64::from(*looks)]);
            }
            Self::Waiting { message } => {
                put_varint(body, 17);
                put_bytes(body, message);
            }
            Self::Confirm(stripe) => put_all(body, &[18, *stripe]),
            Self::Damaged(stripe) => put_all(body, &[19, *stripe]),
            Self::Failed { number, item, path, message } => {
                put_all(body, &[20, *number, item.map_or(0, |item| item + 1)]);
                put_bytes(body, path);
                put_bytes(body, message);
            }
            Self::KeptFiles(files) => {
                put_varint(body, 21);
                put_kept_files(body, files);
            }
            Self::KeptPieces { file, basis, state, pieces } => {
                put_varint(body, 22);
                file.encode(body);
                basis.encode(body);
                state.encode(body);
                put_kept_pieces(body, pieces);
            }
            Self::KeptEnd => put_varint(body, 23),
            Self::Unkept(Unkept { what, count, path, reason }) => {
                put_all(body, &[24, *what as u64, *count]);
                put_bytes(body, path);
                put_bytes(body, reason);
            }
            Self::Finished {
                files,
                bytes,
                failed_files,
                discarded_files,
                failed_others,
                padding_bytes,
            } => {
                put_all(body, &[25, *files, *bytes, *failed_files, *discarded_files]);
                put_all(body, &[*failed_others, *padding_bytes]);
            }
            Self::Heard(number) => put_all(body, &[26, *number]),
            Self::Unopened(conn) => put_all(body, &[27, u64::from(*conn)]),
            Self::Found { question, there } => {
                put_all(body, &[28, *question]);
                put_there(body, there);
            }
            Self::Hashes { question, hashes, is_last } => {
                put_all(body, &[29, *question, u64::from(*is_last)]);
                put_hashes(body, hashes);
            }
        }
    }

    fn get(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            16 => Self::Welcome {
                destination: Destination::of_number(get_varint(body)?)?,
                instance: get_varint(body)?,
                kept: within("kept flag", get_varint(body)?, 1)? == 1,
                looks: within("looks flag", get_varint(body)?, 1)? == 1,
            },
            17 => Self::Waiting { message: get_bytes("message", body, TEXT_BYTES_MAX)? },
            18 => Self::Confirm(get_varint(body)?),
            19 => Self::Damaged(get_varint(body)?),
            20 => Self::Failed {
                number: get_varint(body)?,
                item: get_varint(body)?.checked_sub(1),
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            21 => Self::KeptFiles(get_kept_files(body)?),
            22 => Self::KeptPieces {
                file: FileKey::decode(body)?,
                basis: SourceBasis::decode(body)?,
                state: SourceState::decode(body)?,
                pieces: get_kept_pieces(body)?,
            },
            23 => Self::KeptEnd,
            24 => Self::Unkept(Unkept {
                what: What::of_number(get_varint(body)?)?,
                count: get_varint(body)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                reason: get_bytes("message", body, TEXT_BYTES_MAX)?,
            }),
            25 => Self::Finished {
                files: get_varint(body)?,
                bytes: get_varint(body)?,
                failed_files: get_varint(body)?,
                discarded_files: get_varint(body)?,
                failed_others: get_varint(body)?,
                padding_bytes: get_varint(body)?,
            },
            26 => Self::Heard(get_varint(body)?),
            27 => Self::Unopened(get_u32("connection", body)?),
            28 => Self::Found { question: get_varint(body)?, there: get_there(body)? },
            29 => Self::Hashes {
                question: get_varint(body)?,
                is_last: within("last flag", get_varint(body)?, 1)? == 1,
                hashes: get_hashes(body)?,
            },
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::blocks::BLOCK_HASHES_MAX;
    use super::super::look::tests::there;
    use super::super::message::tests::survives;
    use super::super::{KEPT_MAX, VARINT_MAX};
    use super::*;

    fn message() -> impl Strategy<Value = ToSender> {
        let number = || 0..=VARINT_MAX;
        let text = || proptest::collection::vec(any::<u8>(), 0..300);
        let kept_file = any::<([[u8; 16]; 2], [u8; 32])>().prop_map(|([file, state], hash)| {
            KeptFile { file: FileKey(file), state: SourceState(state), hash }
        });
        let kept_piece = (number(), number(), any::<[u8; 32]>())
            .prop_map(|(offset, len, hash)| KeptPiece { offset, len, hash });
        prop_oneof![
            (number(), any::<[bool; 2]>()).prop_map(|(instance, [kept, looks])| {
                let destination = Destination::Folder;
                ToSender::Welcome { destination, instance, kept, looks }
            }),
            (number(), there()).prop_map(|(question, there)| ToSender::Found { question, there }),
            (
                number(),
                any::<bool>(),
                proptest::collection::vec(any::<[u8; 32]>(), 0..=BLOCK_HASHES_MAX)
            )
                .prop_map(|(question, is_last, hashes)| ToSender::Hashes {
                    question,
                    hashes,
                    is_last
                }),
            text().prop_map(|message| ToSender::Waiting { message }),
            number().prop_map(ToSender::Confirm),
            number().prop_map(ToSender::Damaged),
            (number(), proptest::option::of(0..1_u64 << 60), text(), text()).prop_map(
                |(number, item, path, message)| ToSender::Failed { number, item, path, message }
            ),
            proptest::collection::vec(kept_file, 0..=KEPT_MAX).prop_map(ToSender::KeptFiles),
            (any::<[[u8; 16]; 3]>(), proptest::collection::vec(kept_piece, 0..=KEPT_MAX)).prop_map(
                |([file, basis, state], pieces)| ToSender::KeptPieces {
                    file: FileKey(file),
                    basis: SourceBasis(basis),
                    state: SourceState(state),
                    pieces,
                }
            ),
            Just(ToSender::KeptEnd),
            (any::<bool>(), number(), text(), text()).prop_map(|(is_mode, count, path, reason)| {
                let what = if is_mode { What::Modes } else { What::Times };
                ToSender::Unkept(Unkept { what, count, path, reason })
            }),
            proptest::array::uniform6(number()).prop_map(
                |[files, bytes, failed_files, discarded_files, failed_others, padding_bytes]| {
                    ToSender::Finished {
                        files,
                        bytes,
                        failed_files,
                        discarded_files,
                        failed_others,
                        padding_bytes,
                    }
                }
            ),
            number().prop_map(ToSender::Heard),
            any::<u32>().prop_map(ToSender::Unopened),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(message in message()) {
            survives(&message);
        }
    }
}
