//! What the two ends tell each other beside the data.
//!
//! One bidirectional stream per connection, opened by the client. Each message is a length (at most
//! [`CONTROL_BYTES_MAX`](super::CONTROL_BYTES_MAX)), then a type and its fields:
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

mod codec;

pub use self::codec::ControlBuffer;
use super::ids::{FileKey, HostNumber, PushNumber, SourceBasis, SourceState, TransferSecret};
use super::{
    ListRequest, Listed, PullRequest, Sending, Sent, Subject, Unsendable, Verdict, WireError,
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
