//! Comparing files with what is at a destination, or with a receipt, without moving any data.

mod local;
mod tally;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

pub use self::local::{ReceiptConfig, verify_receipt};
use self::tally::{Scanned, Tally};
use super::query::{Peer, PeerConfig};
use crate::error::Error;
use crate::event::{Failure, FailureKind, VerifyEvent, VerifySummary};
use crate::filter::Filter;
use crate::send::names::{Names, starts};
use crate::store::compare::{Hashed, StillWanted, Wanted, hash};
use crate::store::kind::{FileInfo, Kind};
use crate::store::scan::{Entry, Lost, scan};
use crate::store::shown;
use crate::store::source::read_small;
use crate::store::source_root::SourcePath;
use crate::store::start::Start;
use crate::store::unreadable::Unreadable;
use crate::wire::{
    Answer, COMPARES_MAX, Content, Keep, PATH_BYTES_MAX, Question, Request, Subject, Verdict,
    VerifyRequest, is_path_safe, path_fault,
};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Entries that the scan may be ahead.
const SCAN_AHEAD: usize = 1_024;
/// What is said to have this many bytes at most, and occupies nothing, is read to see what it has.
const SMALL_BYTES: u64 = 64 << 10;
/// Files that are hashed at the same time.
const HASHES_MAX: usize = 4;

/// What to compare, and with what.
#[derive(Clone)]
pub struct VerifyConfig {
    /// Files and folders, as for a push.
    pub sources: Vec<PathBuf>,
    /// The server, and how to get there.
    pub peer: PeerConfig,
    /// Where to look, relative to the server's root; a trailing slash means a folder, as for a push.
    pub destination: Vec<u8>,
    /// What of the sources is compared.
    pub filter: Arc<Filter>,
    /// What of metadata is compared.
    pub compared: Keep,
}

/// Called with every event; it must not block for long.
pub type VerifyReporter = Arc<dyn Fn(VerifyEvent) + Send + Sync>;

/// Compares everything that the sources hold with what is at the destination, until that is done or
/// `stop` resolves. What is at the destination and not at the source is not looked at.
///
/// What differs is told and counted; an error means that the comparison as a whole failed.
pub async fn verify(
    config: VerifyConfig,
    report: VerifyReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<VerifySummary, Error> {
    let mut stop = pin!(stop);
    if let Some(fault) = path_fault(&config.destination) {
        return Err(Error::Usage(format!("the destination cannot be: {fault}")));
    }
    let starts = starts(&config.sources)?;
    let scanned = Arc::<Scanned>::default();
    let told = Arc::clone(&report);
    let tally = Tally::new(report, Arc::clone(&scanned), config.compared);
    let scan = start_scan(starts.clone(), Arc::clone(&config.filter), scanned);
    let request =
        Request::Verify(VerifyRequest { destination: config.destination.clone(), writes: false });
    let waits = async |reason| {
        told(VerifyEvent::VerifyWaiting { reason });
        Ok(())
    };
    let connected = tokio::select! {
        biased;
        connected = Peer::connect(&config.peer, request, waits) => connected,
        () = &mut stop => Err(Error::Interrupted),
    };
    let (peer, there) = connected?;
    let names = Names::new(&config.destination, there, &starts)?;
    let mut verify = Verify::new(peer, names, scan, tally);
    let result = tokio::select! {
        biased;
        result = verify.run() => result,
        () = stop => Err(Error::Interrupted),
    };
    let Verify { peer, tally, .. } = verify;
    let result = result.map(|()| tally.end());
    peer.close(result.is_ok()).await;
    result
}

/// Looks through the sources ahead of who reads from the channel; ends with it.
fn start_scan(
    starts: Vec<Start>,
    filter: Arc<Filter>,
    scanned: Arc<Scanned>,
) -> mpsc::Receiver<Result<Seen, Failure>> {
    let (sender, found) = mpsc::channel(SCAN_AHEAD);
    tokio::task::spawn_blocking(move || {
        scan(&starts, &filter, |entry| {
            let entry = entry.and_then(with_real_size);
            if let Ok(Seen { entry, .. }) = &entry {
                scanned.add(if let Kind::File(info) = entry.kind { info.bytes } else { 0 });
            }
            sender.blocking_send(entry.map_err(Failure::from)).is_ok()
        });
        scanned.done.store(true, Relaxed);
    });
    found
}

/// Something that was found at the source.
struct Seen {
    entry: Entry,
    /// Its hash, if it was read already.
    hash: Option<[u8; 32]>,
}

/// A push sends what can be read, whatever size a file is said to have: that is what is compared.
fn with_real_size(entry: Entry) -> Result<Seen, Lost> {
    let info = match entry.kind {
        Kind::File(info) if info.is_hollow && info.bytes <= SMALL_BYTES => info,
        _ => return Ok(Seen { entry, hash: None }),
    };
    let Entry { local, remote, beside, .. } = entry;
    match read_small(&local, &info) {
        Ok((info, hash)) => {
            let entry = Entry { local, remote, kind: Kind::File(info), beside };
            Ok(Seen { entry, hash: Some(hash) })
        }
        Err(why) => Err(Lost { local, remote, why }),
    }
}

struct Verify {
    peer: Peer,
    names: Names,
    found: mpsc::Receiver<Result<Seen, Failure>>,
    all_found: bool,
    /// What the server was asked for, at most [`COMPARES_MAX`], by number.
    unanswered: HashMap<u64, Unanswered>,
    next_item: u64,
    hashing: JoinSet<(u64, Result<[u8; 32], Unreadable>)>,
    room: Arc<Semaphore>,
    tally: Tally,
}

struct Unanswered {
    local: SourcePath,
    path: Vec<u8>,
    subject: Subject,
    /// Why it could not be hashed here.
    unreadable: Option<Unreadable>,
    /// The server was told all that a verdict takes.
    is_known: bool,
    /// Its hash, which is not computed to the end once the answer is there.
    wanted: Wanted,
}

impl Verify {
    fn new(
        peer: Peer,
        names: Names,
        found: mpsc::Receiver<Result<Seen, Failure>>,
        tally: Tally,
    ) -> Self {
        Self {
            peer,
            names,
            found,
            all_found: false,
            unanswered: HashMap::new(),
            next_item: 0,
            hashing: JoinSet::new(),
            room: Arc::new(Semaphore::new(HASHES_MAX)),
            tally,
        }
    }

    async fn run(&mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        while !(self.all_found && self.unanswered.is_empty()) {
            // What was answered before it was hashed here counts until it is seen that nobody wants it.
            let takes_found = !self.all_found
                && self.unanswered.len() < COMPARES_MAX
                && self.hashing.len() < COMPARES_MAX + HASHES_MAX;
            tokio::select! {
                biased;
                message = self.peer.next() => self.on_message(&message?)?,
                Some(hashed) = self.hashing.join_next() => self.on_hashed(hashed)?,
                _ = tick.tick() => self.tally.tell_progress(),
                found = self.found.recv(), if takes_found => match found {
                    Some(Ok(entry)) => self.compare(entry)?,
                    Some(Err(failure)) => self.tally.not_compared(failure),
                    None => self.all_found = true,
                },
            }
        }
        Ok(())
    }

    /// Asks the server for something that was found, and begins to hash it.
    fn compare(&mut self, seen: Seen) -> Result<(), Error> {
        let Seen { entry: Entry { local, remote, kind, .. }, hash } = seen;
        let path = self.names.remote(&remote);
        let subject = match &kind {
            Kind::Folder(_) if path.is_empty() => return Ok(()), // the root is the server's own
            Kind::Folder(_) => Subject::Folder,
            Kind::File(info) => Subject::File { bytes: info.bytes, meta: info.meta },
            Kind::Symlink { target, .. } => {
                Subject::Symlink { target_hash: *blake3::hash(target).as_bytes() }
            }
            Kind::Special { .. } => return Ok(()), // nobody has asked for these
        };
        if !is_path_safe(&path) {
            let reason = format!("its path is longer than {PATH_BYTES_MAX} bytes");
            let (kind, path) = (FailureKind::Source, local.to_string());
            self.tally.not_compared(Failure { kind, path, reason });
            return Ok(());
        }
        let item = self.next_item;
        self.next_item += 1;
        self.peer.say(Question::Compare { item, path: path.clone(), subject })?;
        let wanted = Wanted::default();
        let is_known = hash.is_some() || !matches!(kind, Kind::File(_));
        if let (Kind::File(info), Some(_)) = (&kind, hash) {
            self.tally.scanned().pass(info.bytes);
            self.peer.say(Question::Expect { item, hash })?;
        } else if let Kind::File(info) = kind {
            let (local, watch) = (local.clone(), wanted.watch());
            let (room, scanned) = (Arc::clone(&self.room), self.tally.scanned());
            self.hashing.spawn(async move {
                let room = room.acquire_owned().await;
                let work = move || {
                    let hash = hash_local(&local, &info, &watch, &scanned);
                    drop(room);
                    hash
                };
                let hash = tokio::task::spawn_blocking(work).await;
                (item, hash.unwrap_or_else(|error| Err(Unreadable::from(io::Error::other(error)))))
            });
        }
        let unanswered = Unanswered { local, path, subject, unreadable: None, is_known, wanted };
        self.unanswered.insert(item, unanswered);
        Ok(())
    }

    fn on_hashed(
        &mut self,
        hashed: Result<(u64, Result<[u8; 32], Unreadable>), JoinError>,
    ) -> Result<(), Error> {
        let (item, hash) = hashed.map_err(|error| Error::Disk(error.to_string()))?;
        let Some(unanswered) = self.unanswered.get_mut(&item) else { return Ok(()) };
        unanswered.is_known = true;
        let hash = hash.map_err(|reason| unanswered.unreadable = Some(reason)).ok();
        self.peer.say(Question::Expect { item, hash })
    }

    fn on_message(&mut self, message: &Answer) -> Result<(), Error> {
        let &Answer::Compared { item, verdict } = message else {
            return Err(self.peer.broke_the_protocol());
        };
        // Nobody knows what a file's content is to be before it is said.
        let is_on_content = matches!(verdict.content, Content::Same | Content::Different);
        let may_be = |unanswered: &Unanswered| unanswered.is_known || !is_on_content;
        let unanswered = self.unanswered.remove(&item).filter(may_be);
        self.settle(unanswered.ok_or_else(|| self.peer.broke_the_protocol())?, verdict);
        Ok(())
    }

    fn settle(&mut self, answered: Unanswered, verdict: Verdict) {
        let Unanswered { local, path, subject, unreadable, wanted, .. } = answered;
        drop(wanted);
        match unreadable {
            Some(Unreadable { kind, reason }) => {
                let path = local.to_string();
                self.tally.not_compared(Failure { kind, path, reason });
            }
            None => self.tally.settle(shown(&path), &subject, verdict),
        }
    }
}

fn hash_local(
    local: &SourcePath,
    info: &FileInfo,
    wanted: &StillWanted,
    scanned: &Scanned,
) -> Result<[u8; 32], Unreadable> {
    let mut left = info.bytes;
    let hashed = local.open().and_then(|file| {
        hash(&file, info, wanted, |bytes| {
            // What is read more than once counts once.
            let bytes = bytes.min(left);
            left -= bytes;
            scanned.read(bytes);
        })
    });
    // What need not be read is done with as well.
    scanned.pass(left);
    match hashed? {
        Hashed::Hash(hash) => Ok(hash),
        Hashed::Changed => Err(Unreadable::changed()),
        Hashed::Stopped => Err(io::Error::other("not wanted any more").into()),
    }
}
