//! What the two ends tell each other beside the data.
//!
//! One bidirectional stream per connection, opened by the client. Each message is a length (at most
//! [`CONTROL_BYTES_MAX`]), then a type and its fields:
//!
//! | type | message | fields |
//! |---|---|---|
//! | 1 | [`Control::Hello`] | version, transfer (16 bytes), connection, destination (bytes), push (16 bytes), host (16 bytes), [`Keep`] |
//! | 2 | [`Control::Welcome`] | version, destination (0 missing, 1 file, 2 folder), instance, kept (0, 1) |
//! | 3 | [`Control::Confirm`] | stripe |
//! | 4 | [`Control::Damaged`] | stripe |
//! | 5 | [`Control::Failed`] | number, item (0 none, else one more), path (bytes), message (bytes) |
//! | 6 | [`Control::Drop`] | connection |
//! | 7 | [`Control::Finish`] | stripes |
//! | 8 | [`Control::Finished`] | files, bytes, failed files, discarded files, failed others, padding |
//! | 9 | [`Control::Recall`] | |
//! | 10 | [`Control::KeptFiles`] | count, for each: file (16 bytes), state (16 bytes), hash (32 bytes) |
//! | 11 | [`Control::KeptPieces`] | file, basis, state (16 bytes each), count, for each: offset, length, hash (32 bytes) |
//! | 12 | [`Control::KeptEnd`] | |
//! | 13 | [`Control::Unkept`] | what (0 modes, 1 times), count, path (bytes), message (bytes) |
//! | 14 | [`Control::Waiting`] | message (bytes) |
//! | 15 | [`Control::Heard`] | number |
//! | 20 | [`Control::Verify`] | version, destination (bytes) |
//! | 21 | [`Control::Compare`] | item, path (bytes), [`Subject`] |
//! | 22 | [`Control::Expect`] | item, hash (32 bytes, or none) |
//! | 23 | [`Control::Compared`] | item, [`Verdict`] |
//! | 24 | [`Control::Pull`] | version, transfer (16 bytes), connection, pull (16 bytes), host (16 bytes), destination (bytes), found (as in a welcome), count, for each source: path (bytes), [`Wish`](super::Wish): N, M, most M, rate, pressure, padding |
//! | 25 | [`Control::Grant`] | version, instance |
//! | 26 | [`Control::Wanted`] | lines |
//! | 27 | [`Control::Unopened`] | connection |
//! | 28 | [`Control::Sending`] | the fields of [`Sending`], in their order |
//! | 29 | [`Control::Unsent`] | number, why (0 source, 1 vanished, 2 changed), path (bytes), message (bytes) |
//! | 30 | [`Control::Sent`] | the fields of [`Sent`], in their order |
//! | 31 | [`Control::List`] | [`ListRequest`] |
//! | 32 | [`Control::ListFolder`] | path (bytes) |
//! | 33 | [`Control::Listed`] | [`Listed`] |
//! | 34 | [`Control::Unlisted`] | path (bytes), message (bytes) |
//! | 35 | [`Control::ListEnd`] | |
//!
//! The client begins with a hello or, on a connection that moves no data, with a verify; both are answered
//! with a welcome. That may be long in coming: then the server says once that the client waits for its turn.
//! After a verify, each compare is answered by one compared, in any order; that of a file may wait for its
//! expect. A client may have [`COMPARES_MAX`](super::COMPARES_MAX) of them unanswered.
//!
//! Or it begins with a pull. Then the roles of what follows are the other way round: where the table's messages
//! say server, it is the receiver who speaks, and where they say client, the sender. The server grants the
//! pull, the client welcomes the sender, and the server sends; each connection is opened by the client, when
//! the server wants it.
//!
//! A list is answered by a welcome, which says what is at the path, and then, if something is, by one listed for
//! each thing and a list end. The client says nothing more.
//!
//! A [`Keep`] is a sum of 1 if modes are not to be kept, 2 if times are not, and 4 if those of folders are
//! not.
//!
//! A server that ends a transfer closes its connections with [`CLOSE_REFUSED`], or with
//! [`CLOSE_STOPPING`] if it is being stopped, and says why in the reason phrase (RFC 9000, 19.19).

use bytes::{Buf, BufMut};

use super::ids::{FileKey, HostNumber, PushNumber, SourceBasis, SourceState, TransferSecret};
use super::stripe::{get_path, limit};
use super::{
    CONTROL_BYTES_MAX, ListRequest, Listed, PATH_BYTES_MAX, PullRequest, Sending, Sent, Subject,
    TEXT_BYTES_MAX, Unsendable, Verdict, WireError, get_array, get_bytes, get_u32, get_varint,
    put_all, put_bytes, put_varint, within,
};

/// The transfer is complete.
pub const CLOSE_DONE: u32 = 0;
/// Client: the connection was unsatisfactory; the transfer goes on over others.
pub const CLOSE_CONDEMNED: u32 = 1;
/// Client: the transfer is given up; what it left unfinished can be removed.
pub const CLOSE_ABORTED: u32 = 2;
/// Server: the transfer ends here, for the reason given.
pub const CLOSE_REFUSED: u32 = 3;
/// The peer did not keep to the protocol.
pub const CLOSE_PROTOCOL: u32 = 4;
/// Server: it is being stopped, and may come back; the transfer ends here for now.
pub const CLOSE_STOPPING: u32 = 5;
/// Server: this connection is one too many, or held what others need; the transfer can go on over others.
pub const CLOSE_CROWDED: u32 = 6;
/// Server: the transfer cannot begin yet, for the reason given; the client may try again soon.
pub const CLOSE_BUSY: u32 = 7;

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

/// What of metadata is to be kept at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Permission bits. Without, what is new gets what the receiver's mask leaves of them, and what
    /// replaces something has its.
    pub modes: bool,
    /// Modification times.
    pub times: bool,
    /// Those of folders, where times are kept at all.
    pub folder_times: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { modes: true, times: true, folder_times: true }
    }
}

impl Keep {
    fn number(self) -> u64 {
        let lacks = [!self.modes, !self.times, !self.folder_times];
        lacks.into_iter().zip([1, 2, 4]).map(|(lacks, bit)| u64::from(lacks) * bit).sum()
    }

    fn of_number(number: u64) -> Self {
        let keeps = |bit| number & bit == 0;
        Self { modes: keeps(1), times: keeps(2), folder_times: keeps(4) }
    }
}

/// What could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Permission bits.
    Modes,
    /// Modification times.
    Times,
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

/// A message on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Client: this connection belongs to this transfer. The first one begins it.
    Hello {
        /// The protocol's version.
        version: u64,
        /// A secret that the client drew at random.
        transfer: TransferSecret,
        /// The connection's number within the transfer.
        conn: u32,
        /// Where to write, relative to the server's root.
        destination: Vec<u8>,
        /// Which push it is: the same sources to the same destination, run again, have the same number.
        /// Others of the same client may have it as well, and go on with what it has left.
        push: PushNumber,
        /// Where the client runs: another run of the same push is ended at once if it is of the same
        /// host, and otherwise only if it gives no sign of life.
        host: HostNumber,
        /// What of metadata is to be kept.
        keep: Keep,
    },
    /// Server: it has taken on as much as it can, and this client waits for its turn. A welcome follows.
    Waiting {
        /// What there is so much of, for a person.
        message: Vec<u8>,
    },
    /// Server: go ahead.
    Welcome {
        /// The protocol's version.
        version: u64,
        /// What is there.
        destination: Destination,
        /// Drawn at random when the server began the transfer: another one means that it began anew
        /// and knows nothing of what it confirmed before.
        instance: u64,
        /// Something of an earlier run of the same push is there: see [`Control::Recall`].
        kept: bool,
    },
    /// Server: a stripe is verified and written.
    Confirm(u64),
    /// Server: a stripe did not match its hash.
    Damaged(u64),
    /// Server: something could not be written; all else is. Told when it happens, and again until it is
    /// [heard](Control::Heard), for the last time before [`Control::Finished`].
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
    /// Client: a failure is known, and need not be told again.
    Heard(u64),
    /// Server: some of the metadata could not be kept. Comes before [`Control::Finished`], once for each
    /// [`What`].
    Unkept(Unkept),
    /// Client: that connection is given up; what it holds can be freed.
    Drop(u32),
    /// Client: the stripes up to this number are all there will be; make them durable once they are
    /// written. Comes before they have arrived, so that it costs no round trip.
    Finish {
        /// How many stripes there are.
        stripes: u64,
    },
    /// Server: everything is durable and has its name.
    Finished {
        /// Files that have their name.
        files: u64,
        /// Bytes of these files.
        bytes: u64,
        /// Files that could not be written; some of them were named by [`Control::Failed`].
        failed_files: u64,
        /// Files that the client has taken back.
        discarded_files: u64,
        /// Folders and links that could not be made; some of them were named as well.
        failed_others: u64,
        /// Padding that was received and thrown away.
        padding_bytes: u64,
    },
    /// Client: nothing is written; what is there is to be compared.
    Verify {
        /// The protocol's version.
        version: u64,
        /// Where to look, relative to the server's root.
        destination: Vec<u8>,
    },
    /// Client: compare this with what is there. The server begins to hash a file of this size.
    Compare {
        /// Its number, not that of another one that is unanswered.
        item: u64,
        /// Its path below the root.
        path: Vec<u8>,
        /// What should be there.
        subject: Subject,
    },
    /// Client: the hash that a file should have.
    Expect {
        /// Its number.
        item: u64,
        /// Its BLAKE3 hash; `None` if it is not known: then no hash is the same.
        hash: Option<[u8; 32]>,
    },
    /// Server: how it compares.
    Compared {
        /// Its number.
        item: u64,
        /// The outcome.
        verdict: Verdict,
    },
    /// Client: say what is there.
    List(ListRequest),
    /// Server: what is listed from here on is in this folder, relative to the path that is listed; at first it
    /// is in that itself.
    ListFolder(Vec<u8>),
    /// Server: something that is there.
    Listed(Listed),
    /// Server: something cannot be looked at, or not be looked into; all else is listed.
    Unlisted {
        /// Its path, relative to the one that is listed.
        path: Vec<u8>,
        /// Why, for a person.
        message: Vec<u8>,
    },
    /// Server: that was all.
    ListEnd,
    /// Client: say what is kept of an earlier run, before anything is sent. Asked again over another
    /// connection if the first is lost.
    Recall,
    /// Server: files that are there as a whole; answers [`Control::Recall`].
    KeptFiles(Vec<KeptFile>),
    /// Server: pieces that are there and durable of a file that is not whole; answers
    /// [`Control::Recall`].
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
    /// Server: that was all that is kept.
    KeptEnd,
    /// Client: this connection belongs to this pull. The first one begins it.
    Pull(Box<PullRequest>),
    /// Server: go ahead with a pull.
    Grant {
        /// The protocol's version.
        version: u64,
        /// Drawn at random when the server began the transfer.
        instance: u64,
    },
    /// Server that sends: so many connections are wanted in all, from the first one on.
    Wanted {
        /// How many.
        lines: u64,
    },
    /// Client that receives: a connection that is wanted cannot be opened.
    Unopened(u32),
    /// Server that sends: how far it is.
    Sending(Sending),
    /// Server that sends: something is not sent. Told when it is known, and again before [`Control::Finish`]
    /// unless it was [heard](Control::Heard).
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
    /// Server that sends: what it did; answers [`Control::Finished`].
    Sent(Sent),
}

/// A file that is there as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Which.
    pub file: FileKey,
    /// How its source was when it was read: see [`SourceId`](super::SourceId).
    pub state: SourceState,
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
}

/// A node of a file's hash tree of which all content is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPiece {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; all of the file, if all is there.
    pub len: u64,
    /// Its [`piece_hash`](crate::hashtree::piece_hash).
    pub hash: [u8; 32],
}

/// Entries of one message about what is kept, at most.
pub const KEPT_MAX: usize = 120;

impl Control {
    /// Appends the message with its length in front.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Hello { version, transfer, conn, destination, push, host, keep } => {
                put_all(&mut body, &[1, *version]);
                transfer.encode(&mut body);
                put_varint(&mut body, u64::from(*conn));
                put_bytes(&mut body, destination);
                push.encode(&mut body);
                host.encode(&mut body);
                put_varint(&mut body, keep.number());
            }
            Self::Welcome { version, destination, instance, kept } => {
                let kept = u64::from(*kept);
                put_all(&mut body, &[2, *version, *destination as u64, *instance, kept]);
            }
            Self::Confirm(stripe) => put_all(&mut body, &[3, *stripe]),
            Self::Damaged(stripe) => put_all(&mut body, &[4, *stripe]),
            Self::Heard(number) => put_all(&mut body, &[15, *number]),
            Self::Failed { number, item, path, message } => {
                put_all(&mut body, &[5, *number, item.map_or(0, |item| item + 1)]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::Drop(conn) => put_all(&mut body, &[6, u64::from(*conn)]),
            Self::Finish { stripes } => put_all(&mut body, &[7, *stripes]),
            Self::Finished {
                files,
                bytes,
                failed_files,
                discarded_files,
                failed_others,
                padding_bytes,
            } => {
                let counts = [files, bytes, failed_files, discarded_files, failed_others];
                put_varint(&mut body, 8);
                put_all(&mut body, &counts.map(|&count| count));
                put_varint(&mut body, *padding_bytes);
            }
            Self::Recall => put_varint(&mut body, 9),
            Self::KeptFiles(files) => {
                put_all(&mut body, &[10, files.len() as u64]);
                for KeptFile { file, state, hash } in files {
                    file.encode(&mut body);
                    state.encode(&mut body);
                    body.put_slice(hash);
                }
            }
            Self::KeptPieces { file, basis, state, pieces } => {
                put_varint(&mut body, 11);
                file.encode(&mut body);
                basis.encode(&mut body);
                state.encode(&mut body);
                put_varint(&mut body, pieces.len() as u64);
                for KeptPiece { offset, len, hash } in pieces {
                    put_all(&mut body, &[*offset, *len]);
                    body.put_slice(hash);
                }
            }
            Self::KeptEnd => put_varint(&mut body, 12),
            Self::Unkept(Unkept { what, count, path, reason }) => {
                put_all(&mut body, &[13, *what as u64, *count]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, reason);
            }
            Self::Waiting { message } => {
                put_varint(&mut body, 14);
                put_bytes(&mut body, message);
            }
            Self::Verify { version, destination } => {
                put_all(&mut body, &[20, *version]);
                put_bytes(&mut body, destination);
            }
            Self::Compare { item, path, subject } => {
                put_all(&mut body, &[21, *item]);
                put_bytes(&mut body, path);
                subject.encode(&mut body);
            }
            Self::Expect { item, hash } => {
                put_all(&mut body, &[22, *item]);
                body.put_slice(hash.as_ref().map_or(&[], |hash| hash));
            }
            Self::Compared { item, verdict } => {
                put_all(&mut body, &[23, *item]);
                verdict.encode(&mut body);
            }
            Self::Pull(request) => {
                put_varint(&mut body, 24);
                request.encode(&mut body);
            }
            Self::Grant { version, instance } => put_all(&mut body, &[25, *version, *instance]),
            Self::Wanted { lines } => put_all(&mut body, &[26, *lines]),
            Self::Unopened(conn) => put_all(&mut body, &[27, u64::from(*conn)]),
            Self::Sending(sending) => {
                put_varint(&mut body, 28);
                sending.encode(&mut body);
            }
            Self::Unsent { number, why, path, message } => {
                put_all(&mut body, &[29, *number, *why as u64]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::Sent(sent) => {
                put_varint(&mut body, 30);
                sent.encode(&mut body);
            }
            Self::List(request) => {
                put_varint(&mut body, 31);
                request.encode(&mut body);
            }
            Self::ListFolder(path) => {
                put_varint(&mut body, 32);
                put_bytes(&mut body, path);
            }
            Self::Listed(listed) => {
                put_varint(&mut body, 33);
                listed.encode(&mut body);
            }
            Self::Unlisted { path, message } => {
                put_varint(&mut body, 34);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::ListEnd => put_varint(&mut body, 35),
        }
        put_bytes(out, &body);
    }

    /// Reads one message from the front of `input`: the message and how many bytes it took, or `None`
    /// if more bytes are needed.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let mut rest = input;
        let len = match get_varint(&mut rest) {
            Ok(len) => within("control message", len, CONTROL_BYTES_MAX)?,
            Err(_) => return Ok(None),
        };
        let Some(mut body) = rest.get(..len) else { return Ok(None) };
        let message = Self::decode_body(&mut body)?;
        if body.has_remaining() {
            return Err(WireError::LeftOver(body.remaining()));
        }
        Ok(Some((message, input.len() - rest.len() + len)))
    }

    fn decode_body(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            1 => {
                let version = get_varint(body)?;
                let transfer = TransferSecret::decode(body)?;
                let conn = get_u32("connection", body)?;
                let destination = get_bytes("path", body, PATH_BYTES_MAX)?;
                let (push, host) = (PushNumber::decode(body)?, HostNumber::decode(body)?);
                let keep = Keep::of_number(limit("what to keep", get_varint(body)?, 7)?);
                Self::Hello { version, transfer, conn, destination, push, host, keep }
            }
            2 => Self::Welcome {
                version: get_varint(body)?,
                destination: Destination::of_number(get_varint(body)?)?,
                instance: get_varint(body)?,
                kept: within("kept flag", get_varint(body)?, 1)? == 1,
            },
            3 => Self::Confirm(get_varint(body)?),
            4 => Self::Damaged(get_varint(body)?),
            15 => Self::Heard(get_varint(body)?),
            5 => Self::Failed {
                number: get_varint(body)?,
                item: get_varint(body)?.checked_sub(1),
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            6 => Self::Drop(get_u32("connection", body)?),
            7 => Self::Finish { stripes: get_varint(body)? },
            8 => Self::Finished {
                files: get_varint(body)?,
                bytes: get_varint(body)?,
                failed_files: get_varint(body)?,
                discarded_files: get_varint(body)?,
                failed_others: get_varint(body)?,
                padding_bytes: get_varint(body)?,
            },
            9 => Self::Recall,
            10 => {
                let count = within("number of files", get_varint(body)?, KEPT_MAX)?;
                let file = |_| {
                    let (file, state) = (FileKey::decode(body)?, SourceState::decode(body)?);
                    Ok(KeptFile { file, state, hash: get_array(body)? })
                };
                Self::KeptFiles((0..count).map(file).collect::<Result<_, WireError>>()?)
            }
            11 => {
                let file = FileKey::decode(body)?;
                let (basis, state) = (SourceBasis::decode(body)?, SourceState::decode(body)?);
                let count = within("number of pieces", get_varint(body)?, KEPT_MAX)?;
                let piece = |_| {
                    let (offset, len) = (get_varint(body)?, get_varint(body)?);
                    Ok(KeptPiece { offset, len, hash: get_array(body)? })
                };
                let pieces = (0..count).map(piece).collect::<Result<_, WireError>>()?;
                Self::KeptPieces { file, basis, state, pieces }
            }
            12 => Self::KeptEnd,
            13 => Self::Unkept(Unkept {
                what: match get_varint(body)? {
                    0 => What::Modes,
                    1 => What::Times,
                    value => return Err(WireError::Unknown { what: "metadata", value }),
                },
                count: get_varint(body)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                reason: get_bytes("message", body, TEXT_BYTES_MAX)?,
            }),
            14 => Self::Waiting { message: get_bytes("message", body, TEXT_BYTES_MAX)? },
            24 => Self::Pull(Box::new(PullRequest::decode(body)?)),
            25 => Self::Grant { version: get_varint(body)?, instance: get_varint(body)? },
            26 => Self::Wanted { lines: get_varint(body)? },
            27 => Self::Unopened(get_u32("connection", body)?),
            28 => Self::Sending(Sending::decode(body)?),
            29 => Self::Unsent {
                number: get_varint(body)?,
                why: Unsendable::of_number(get_varint(body)?)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            30 => Self::Sent(Sent::decode(body)?),
            20 => Self::Verify {
                version: get_varint(body)?,
                destination: get_bytes("path", body, PATH_BYTES_MAX)?,
            },
            21 => Self::Compare {
                item: get_varint(body)?,
                path: get_path(body, false)?,
                subject: Subject::decode(body)?,
            },
            22 => Self::Expect {
                item: get_varint(body)?,
                hash: if body.is_empty() { None } else { Some(get_array(body)?) },
            },
            23 => Self::Compared { item: get_varint(body)?, verdict: Verdict::decode(body)? },
            31 => Self::List(ListRequest::decode(body)?),
            32 => Self::ListFolder(get_path(body, true)?),
            33 => Self::Listed(Listed::decode(body)?),
            34 => Self::Unlisted {
                path: get_path(body, true)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            35 => Self::ListEnd,
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

/// Finds the messages in what a stream brings, however that is cut. Holds no more than what was pushed
/// since the last whole message: push only when there is none to [`take`](Self::take).
#[derive(Debug, Default)]
pub struct ControlBuffer {
    bytes: Vec<u8>,
    /// How much of it has been decoded.
    decoded: usize,
}

impl ControlBuffer {
    /// Appends what the stream has brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.decoded);
        self.decoded = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` if more bytes are needed.
    pub fn take(&mut self) -> Result<Option<Control>, WireError> {
        let Some((message, len)) = Control::decode(&self.bytes[self.decoded..])? else {
            return Ok(None);
        };
        self.decoded += len;
        Ok(Some(message))
    }

    /// Bytes that no message was made of yet.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.decoded
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::{subject, verdict};
    use super::super::list::tests::listed;
    use super::super::pull::tests::request;
    use super::super::stripe::tests::path;
    use super::super::{VARINT_MAX, VERSION, put_varint};
    use super::*;
    use proptest::prelude::*;

    fn control() -> impl Strategy<Value = Control> {
        let number = 0..=VARINT_MAX;
        let text = proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (number.clone(), any::<[[u8; 16]; 3]>(), any::<u32>(), text.clone(), 0..8_u64)
                .prop_map(|(version, [transfer, push, host], conn, destination, keep)| {
                    let keep = Keep::of_number(keep);
                    let transfer = TransferSecret(transfer);
                    let (push, host) = (PushNumber(push), HostNumber(host));
                    Control::Hello { version, transfer, conn, destination, push, host, keep }
                }),
            (any::<bool>(), number.clone(), text.clone(), text.clone()).prop_map(
                |(is_mode, count, path, reason)| {
                    let what = if is_mode { What::Modes } else { What::Times };
                    Control::Unkept(Unkept { what, count, path, reason })
                }
            ),
            (number.clone(), any::<bool>()).prop_map(|(instance, kept)| Control::Welcome {
                version: VERSION,
                destination: Destination::Folder,
                instance,
                kept,
            }),
            Just(Control::Recall),
            Just(Control::KeptEnd),
            text.clone().prop_map(|message| Control::Waiting { message }),
            proptest::collection::vec(any::<([[u8; 16]; 2], [u8; 32])>(), 0..=KEPT_MAX).prop_map(
                |files| Control::KeptFiles(
                    files
                        .into_iter()
                        .map(|([file, state], hash)| KeptFile {
                            file: FileKey(file),
                            state: SourceState(state),
                            hash
                        })
                        .collect()
                )
            ),
            (
                any::<[[u8; 16]; 3]>(),
                proptest::collection::vec(
                    (number.clone(), number.clone(), any::<[u8; 32]>())
                        .prop_map(|(offset, len, hash)| KeptPiece { offset, len, hash }),
                    0..=KEPT_MAX
                )
            )
                .prop_map(|([file, basis, state], pieces)| Control::KeptPieces {
                    file: FileKey(file),
                    basis: SourceBasis(basis),
                    state: SourceState(state),
                    pieces
                }),
            number.clone().prop_map(Control::Confirm),
            number.clone().prop_map(Control::Damaged),
            number.clone().prop_map(Control::Heard),
            (number.clone(), proptest::option::of(0..1_u64 << 60), text.clone(), text.clone())
                .prop_map(|(number, item, path, message)| Control::Failed {
                    number,
                    item,
                    path,
                    message
                }),
            any::<u32>().prop_map(Control::Drop),
            number.clone().prop_map(|stripes| Control::Finish { stripes }),
            proptest::array::uniform6(number.clone()).prop_map(
                |[files, bytes, failed_files, discarded_files, failed_others, padding_bytes]| {
                    Control::Finished {
                        files,
                        bytes,
                        failed_files,
                        discarded_files,
                        failed_others,
                        padding_bytes,
                    }
                }
            ),
            (number.clone(), text.clone())
                .prop_map(|(version, destination)| Control::Verify { version, destination }),
            (number.clone(), text.clone(), any::<bool>()).prop_map(|(version, path, recursive)| {
                Control::List(ListRequest { version, path, recursive })
            }),
            path().prop_map(Control::ListFolder),
            Just(Control::ListFolder(vec![])),
            listed().prop_map(Control::Listed),
            (path(), text).prop_map(|(path, message)| Control::Unlisted { path, message }),
            Just(Control::ListEnd),
            (number.clone(), path(), subject())
                .prop_map(|(item, path, subject)| Control::Compare { item, path, subject }),
            (number.clone(), any::<Option<[u8; 32]>>())
                .prop_map(|(item, hash)| Control::Expect { item, hash }),
            (number.clone(), verdict())
                .prop_map(|(item, verdict)| Control::Compared { item, verdict }),
            request().prop_map(|request| Control::Pull(Box::new(request))),
            (number.clone(), number.clone())
                .prop_map(|(version, instance)| Control::Grant { version, instance }),
            number.clone().prop_map(|lines| Control::Wanted { lines }),
            any::<u32>().prop_map(Control::Unopened),
            number.clone().prop_map(|found_bytes| {
                Control::Sending(Sending { found_bytes, takeovers: 3, ..Sending::default() })
            }),
            (number.clone(), 0..3_u64, path(), path()).prop_map(|(number, why, path, message)| {
                let why = Unsendable::of_number(why).unwrap();
                let message = message[..message.len().min(TEXT_BYTES_MAX)].to_vec();
                Control::Unsent { number, why, path, message }
            }),
            number.prop_map(|files| Control::Sent(Sent {
                files,
                stripes_again: 7,
                ..Sent::default()
            })),
        ]
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_it_is_waited_for() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(matches!(Control::decode(&out), Err(WireError::Limit { .. })));
    }

    #[test]
    fn paths_that_lead_out_are_not_compared() {
        for path in [b"" as &[u8], b"../x", b"a/../x", b"/etc/passwd", b"a//b", b"a\0b"] {
            let mut out = Vec::new();
            let subject = Subject::Folder;
            Control::Compare { item: 1, path: path.to_vec(), subject }.encode(&mut out);
            assert!(matches!(Control::decode(&out), Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_a_prefix_asks_for_more(message in control()) {
            let mut out = Vec::new();
            message.encode(&mut out);
            for len in 0..out.len() {
                prop_assert_eq!(Control::decode(&out[..len]), Ok(None));
            }
            let taken = out.len();
            out.push(7);
            prop_assert_eq!(Control::decode(&out), Ok(Some((message, taken))));
        }

        #[test]
        fn no_input_makes_the_decoder_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, taken))) = Control::decode(&input) {
                prop_assert!(taken <= input.len());
            }
        }
    }
}
