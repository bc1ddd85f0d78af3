//! What a transfer tells while it runs. Serialised, these are the lines of `--json`.

mod list;
mod plan;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

pub use self::list::{EntryKind, ListEntry, ListEvent, ListSummary, NotListed};
pub use self::plan::{PlanEvent, PlanSummary, Planned, PlannedKind, Why};

/// Called with every event, from the transfer's own task: it must not block for long.
pub type PushReporter = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// What happens during a push.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "of the largest there is one")]
pub enum PushEvent {
    /// The transfer begins; the first event. After an interruption it comes again, with another number.
    Begun {
        /// Its public number, for finding it in logs, the server's as well.
        transfer: String,
    },
    /// The server, or the network, is gone; the push goes on when it is back.
    Interrupted {
        /// What happened.
        reason: String,
        /// When it is tried again, in seconds.
        retry_in_s: f64,
    },
    /// The server has taken on as much as it can, or an earlier run has not ended yet: the push begins when
    /// it is its turn.
    Waiting {
        /// What the server has so much of, or what it waits for.
        reason: String,
    },
    /// A connection of the set is up.
    Connected {
        /// Its number.
        conn: u32,
        /// Its local address.
        local: SocketAddr,
        /// The server's address.
        remote: SocketAddr,
    },
    /// A connection's priming is over.
    Primed {
        /// Its number.
        conn: u32,
        /// Why: `target`, `plateau`, `congestion`, `budget` or `data`.
        end: &'static str,
        /// Its congestion window now, in bytes.
        window_bytes: u64,
        /// Padding sent on it so far, in bytes.
        padding_bytes: u64,
    },
    /// A connection was given up and is being replaced.
    Condemned {
        /// Its number.
        conn: u32,
        /// Why: `silent`, `slow`, `collapsed`, `below_floor`, `rtt_too_high`, `primed_badly`,
        /// `lost`, or `surplus`: fewer connections are enough.
        verdict: &'static str,
        /// Stripes that other connections take over from it.
        stripes: usize,
    },
    /// How a connection that is up does; about once a second for each.
    Connection(ConnectionState),
    /// How far the transfer is; several times a second.
    Progress(Progress),
    /// A file, folder or link that could not be moved; the others go on.
    Failed(Failure),
    /// Metadata that the destination cannot keep; once for each kind, at the end.
    NotKept {
        /// What: `modes`, `times`, `owners`, `special_bits`, `xattrs` or `acls`.
        what: &'static str,
        /// Of how many files, folders and links.
        count: u64,
        /// The path of the first of them.
        path: String,
        /// Why.
        reason: String,
    },
    /// Something was removed at the destination, since it is not at the source.
    Deleted {
        /// Its path at the destination.
        path: String,
        /// What it was: `file`, `folder`, or `link` for all else.
        kind: &'static str,
    },
    /// Nothing was removed though that is asked for.
    NotDeleted {
        /// Why, for programs: `failures`, `max_delete` or `source_changed`.
        why: &'static str,
        /// Why.
        reason: String,
    },
    /// Everything that could be moved is durable at the destination.
    Summary(Summary),
}

/// How far a push is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// Since the start, in seconds.
    pub elapsed_s: f64,
    /// Files, folders and links found so far.
    pub found_items: u64,
    /// Bytes of content found so far.
    pub found_bytes: u64,
    /// Whether the whole source has been looked through, so that the two above are final.
    pub scan_done: bool,
    /// Those of the items that the receiver has dealt with, in earlier runs as well.
    pub confirmed_items: u64,
    /// Bytes that the receiver has verified and written, in earlier runs as well.
    pub confirmed_bytes: u64,
    /// Those of them that it had kept of earlier runs.
    pub kept_bytes: u64,
    /// Bytes of files that are skipped.
    pub skipped_bytes: u64,
    /// Bytes per second over the last second or so.
    pub bytes_per_s: f64,
    /// Connections that are up.
    pub connections: usize,
    /// Those of them that carry data.
    pub active: usize,
    /// Those of them that stand by, primed.
    pub reserve: usize,
    /// Connections given up while they carried data.
    pub takeovers: u64,
    /// Everything is sent, and the receiver makes it durable.
    pub finishing: bool,
}

/// How a connection does.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionState {
    /// Its number.
    pub conn: u32,
    /// What it is for: `opening`, `priming`, `reserve` or `active`.
    pub role: &'static str,
    /// Its smoothed round-trip time, in milliseconds.
    pub rtt_ms: f64,
    /// The least round-trip time seen on it, in milliseconds.
    pub rtt_min_ms: f64,
    /// What the transport has confirmed, padding included, in bytes per second since the last such
    /// event.
    pub goodput_bytes_per_s: f64,
    /// Its congestion window, in bytes.
    pub window_bytes: u64,
    /// Bytes sent that are neither acknowledged nor declared lost.
    pub in_flight_bytes: u64,
    /// Bytes acknowledged so far, padding included.
    pub delivered_bytes: u64,
    /// Bytes declared lost so far.
    pub lost_bytes: u64,
    /// Padding sent so far, in bytes.
    pub padding_bytes: u64,
    /// Stripes that the receiver has confirmed so far.
    pub stripes: u64,
}

/// What a connection did.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionTotal {
    /// Its transfer's public number: each counts its connections from 0.
    pub transfer: String,
    /// Its number.
    pub conn: u32,
    /// Its local address.
    pub local: SocketAddr,
    /// The server's address.
    pub remote: SocketAddr,
    /// Why it ended: `done` with the transfer, or a verdict as in [`PushEvent::Condemned`].
    pub end: &'static str,
    /// How long it was up, in seconds.
    pub up_s: f64,
    /// Its smoothed round-trip time at the end, in milliseconds.
    pub rtt_ms: f64,
    /// The least round-trip time seen on it, in milliseconds.
    pub rtt_min_ms: f64,
    /// What the transport has confirmed, padding included, in bytes per second while it was up.
    pub goodput_bytes_per_s: f64,
    /// Bytes acknowledged, padding included.
    pub delivered_bytes: u64,
    /// Bytes declared lost.
    pub lost_bytes: u64,
    /// Padding sent, in bytes.
    pub padding_bytes: u64,
    /// Stripes that the receiver has confirmed.
    pub stripes: u64,
}

/// Something that could not be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What kind of failure it is, for programs.
    pub kind: FailureKind,
    /// Its path, as it was found.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Where something failed, and whether others had a hand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It was found at the source, and then it was gone.
    Vanished,
    /// It was changed or replaced at the source while it was read.
    Changed,
    /// It cannot be read at the source, or not be sent.
    Source,
    /// It cannot be written, or not be read, at the destination.
    Destination,
}

impl FailureKind {
    /// Whether somebody who works at the source has done it: another attempt may succeed.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Vanished | Self::Changed)
    }
}

/// What a push did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The transfer's public number, for finding it in logs.
    pub transfer: String,
    /// Files that have their name at the destination.
    pub files: u64,
    /// Folders and links that are there.
    pub others: u64,
    /// Bytes of these files, holes included.
    pub bytes: u64,
    /// Those of the files that an earlier run had moved.
    pub kept_files: u64,
    /// Bytes that the receiver had of earlier runs, so that they were not read and sent again.
    pub kept_bytes: u64,
    /// Files that were not sent because of what is there: by default those of the same size and modification
    /// time, whose content nobody has compared. They are not among the files above.
    pub skipped_files: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// Bytes of the files above that were not sent because the files which they replace had them, at the same place.
    pub matched_bytes: u64,
    /// What of the content that was sent did not go over the wire, as it was compressed, in bytes.
    pub saved_bytes: u64,
    /// Files, folders and others that were removed at the destination.
    pub deleted: u64,
    /// Why nothing was removed though that is asked for.
    pub delete_refused: Option<&'static str>,
    /// Bytes of content that were sent.
    pub sent_bytes: u64,
    /// How often the push was interrupted, and went on by itself.
    pub interruptions: u64,
    /// What could not be moved, up to a limit.
    pub failures: Vec<Failure>,
    /// How many could not be moved.
    pub failed: u64,
    /// How many of them had vanished from the source when they were to be read.
    pub vanished: u64,
    /// How many of them were changed at the source while they were read.
    pub changed: u64,
    /// How many of them the server has counted and not named.
    pub failed_unnamed: u64,
    /// Files and folders whose permission bits could not be kept.
    pub modes_not_kept: u64,
    /// Files, folders and links whose modification times could not be kept.
    pub times_not_kept: u64,
    /// What could not be given its owner or group.
    pub owners_not_kept: u64,
    /// Files and folders that could not be given their set-user-id, set-group-id or sticky bits.
    pub special_bits_not_kept: u64,
    /// Extended attributes that could not be kept.
    pub xattrs_not_kept: u64,
    /// ACLs that could not be kept.
    pub acls_not_kept: u64,
    /// From start to durable, in seconds.
    pub seconds: f64,
    /// `(bytes - kept_bytes) / seconds`.
    pub bytes_per_s: f64,
    /// Padding that left this host to open congestion windows, in bytes.
    pub padding_sent_bytes: u64,
    /// Padding that the receiver counted and threw away, in the last transfer, in bytes.
    pub padding_received_bytes: u64,
    /// Padding as a share of all bytes sent, in per cent.
    pub padding_percent: f64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Connections given up.
    pub connections_condemned: u64,
    /// Connections given up while they carried data, which others took over.
    pub takeovers: u64,
    /// Stripes confirmed.
    pub stripes: u64,
    /// Stripes sent more than once.
    pub stripes_again: u64,
    /// Sub-transfers: turns of the active set.
    pub sub_transfers: u64,
    /// What each connection that was up did, up to a limit.
    pub connections: Vec<ConnectionTotal>,
}

/// What happens during a verification.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerifyEvent {
    /// The server compares for as many as it can: this verification begins when it is its turn.
    VerifyWaiting {
        /// What the server has so much of.
        reason: String,
    },
    /// Something is not as it should be.
    Difference(Difference),
    /// Something could not be compared; the others are.
    NotCompared(Failure),
    /// How far the verification is; several times a second.
    VerifyProgress(VerifyProgress),
    /// Everything that could be compared was.
    VerifySummary(VerifySummary),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path at the destination.
    pub path: String,
    /// What differs: `missing`, `kind`, `size`, `content`, `target`, `mode` or `mtime`; one or more.
    pub differs: Vec<&'static str>,
}

/// How far a verification is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyProgress {
    /// Since the start, in seconds.
    pub elapsed_s: f64,
    /// Files, folders and links found so far.
    pub found_items: u64,
    /// Bytes of content found so far.
    pub found_bytes: u64,
    /// Whether that was all, so that the two above are final.
    pub scan_done: bool,
    /// Files, folders and links that are compared.
    pub compared_items: u64,
    /// Bytes that this host has hashed, or need not hash.
    pub hashed_bytes: u64,
    /// Bytes per second over the last second or so.
    pub bytes_per_s: f64,
}

/// What a verification has found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifySummary {
    /// Files that are the same.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Folders and links that are the same.
    pub others: u64,
    /// Files, folders and links that are missing.
    pub missing: u64,
    /// Those with another content, size, target or kind.
    pub different: u64,
    /// Files of which only permission bits or modification times differ.
    pub metadata: u64,
    /// What could not be compared.
    pub not_compared: u64,
    /// Those of it that vanished at the source after they were found.
    pub vanished: u64,
    /// Those of it that were changed at the source while they were read.
    pub changed: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What this host has read and hashed, in bytes per second.
    pub bytes_per_s: f64,
}

impl VerifySummary {
    /// Whether everything was compared and is the same.
    pub fn is_same(&self) -> bool {
        self.missing + self.different + self.metadata + self.not_compared == 0
    }

    /// Whether all that is wrong is that somebody works at the source.
    pub fn is_live(&self) -> bool {
        let Self { missing, different, metadata, not_compared, vanished, changed, .. } = *self;
        missing + different + metadata == 0
            && not_compared > 0
            && not_compared == vanished + changed
    }
}

/// A folder that a server serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServedRoot {
    /// The name that paths begin with, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    pub path: String,
    /// The most that anybody may do below it: `read`, `write`, `both` or `append`.
    pub access: String,
}

/// What happens at a server.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServeEvent {
    /// Waiting for clients.
    Listening {
        /// The UDP address.
        address: SocketAddr,
        /// What is served.
        roots: Vec<ServedRoot>,
    },
    /// A transfer's first connection was accepted.
    Started {
        /// The transfer's public number.
        transfer: String,
        /// The client's fingerprint.
        client: String,
        /// The client's address.
        remote: SocketAddr,
        /// The destination, as the client says it: relative to the root, or with the name of one in front.
        destination: String,
    },
    /// A transfer is done and durable.
    Finished {
        /// The transfer's public number.
        transfer: String,
        /// Files that have their name.
        files: u64,
        /// Bytes written.
        bytes: u64,
        /// Files that could not be written.
        failed: u64,
        /// How long it took.
        seconds: f64,
        /// Padding received and thrown away, in bytes.
        padding_bytes: u64,
    },
    /// A transfer ended without being done; what is durable of it is kept for a while.
    Aborted {
        /// The transfer's public number.
        transfer: String,
        /// Why.
        reason: String,
        /// Content that was verified and written by then, in bytes.
        bytes: u64,
    },
    /// What is not at a client's source was removed, or would be.
    Swept {
        /// The client's fingerprint.
        client: String,
        /// The client's address.
        remote: SocketAddr,
        /// Where from, as the client says it.
        destination: String,
        /// Files, folders and others that were removed.
        removed: u64,
        /// How long it took.
        seconds: f64,
    },
    /// The first connection of a transfer was accepted that a client pulls.
    Sending {
        /// The transfer's public number.
        transfer: String,
        /// The client's fingerprint.
        client: String,
        /// The client's address.
        remote: SocketAddr,
        /// What is asked for, relative to the root.
        sources: Vec<String>,
    },
    /// What a client has pulled is there and durable.
    Sent {
        /// The transfer's public number.
        transfer: String,
        /// Files that have their name.
        files: u64,
        /// Bytes of these files.
        bytes: u64,
        /// What could not be sent, or not be written.
        failed: u64,
        /// How long it took.
        seconds: f64,
        /// Padding that was sent, in bytes.
        padding_bytes: u64,
    },
    /// The server is being stopped: it waits for the transfers that run, and takes no new ones.
    Draining {
        /// How many run.
        transfers: usize,
    },
    /// A client has compared what it has with what is below the root.
    Verified {
        /// The client's fingerprint.
        client: String,
        /// Its address.
        remote: SocketAddr,
        /// Where it looked, as the client says it.
        destination: String,
        /// Files, folders and links that were compared.
        compared: u64,
        /// How long it took.
        seconds: f64,
    },
    /// A client was told what is below the root.
    Listed {
        /// The client's fingerprint.
        client: String,
        /// Its address.
        remote: SocketAddr,
        /// Where it looked, relative to the root.
        path: String,
        /// Files, folders and others that it was told of.
        entries: u64,
        /// How long it took.
        seconds: f64,
    },
    /// A client was turned away.
    Refused {
        /// Its address.
        remote: SocketAddr,
        /// Why.
        reason: String,
    },
    /// More were turned away than are told of one by one.
    RefusedMore {
        /// How many.
        count: u64,
        /// Within how long, in seconds.
        seconds: f64,
    },
}
