//! Comparing what is on this host with a receipt.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::tally::{Scanned, Tally};
use super::{HASHES_MAX, PROGRESS_INTERVAL, SCAN_AHEAD, VerifyReporter};
use crate::error::Error;
use crate::event::{Failure, FailureKind, VerifySummary};
use crate::receipt::{Line, Listed, Reader, ReceiptError};
use crate::store::compare::{Found, StillWanted, Wanted, look};
use crate::store::{reason, shown};
use crate::wire::{Keep, Subject, Verdict};

/// Which files to compare with which receipt.
#[derive(Clone, Debug)]
pub struct ReceiptConfig {
    /// The receipt.
    pub receipt: PathBuf,
    /// The folder that stands for the server's root, or for `below` if that is given.
    pub dir: PathBuf,
    /// Only what the receipt lists below this path is compared.
    pub below: Vec<u8>,
    /// What of metadata is compared.
    pub compared: Keep,
}

/// Compares everything that a receipt lists with what is on this host, until that is done or `stop`
/// resolves. What was not delivered counts as not compared.
pub async fn verify_receipt(
    config: ReceiptConfig,
    report: VerifyReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<VerifySummary, Error> {
    let mut stop = pin!(stop);
    let receipt = config.receipt.display().to_string();
    let unusable =
        |error: &ReceiptError| Error::Disk(format!("cannot use the receipt {receipt}: {error}"));
    let file = File::open(&config.receipt).map_err(|error| unusable(&ReceiptError::Io(error)))?;
    let root = Dir::open_ambient_dir(&config.dir, ambient_authority()).map_err(|error| {
        Error::Disk(format!("cannot open {}: {}", config.dir.display(), reason(&error)))
    })?;
    let (root, scanned) = (Arc::new(root), Arc::<Scanned>::default());
    let mut tally = Tally::new(report, Arc::clone(&scanned), config.compared);
    let below = config.below;
    let mut lines = read_ahead(file, below.clone(), Arc::clone(&scanned));
    let wanted = Wanted::default();
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let (mut all_read, mut any) = (false, false);
    while !(all_read && tasks.is_empty()) {
        tokio::select! {
            biased;
            () = &mut stop => return Err(Error::Interrupted),
            Some(done) = tasks.join_next() => {
                let (path, subject, verdict): (Vec<u8>, Subject, Verdict) =
                    done.map_err(|error| Error::Disk(error.to_string()))?;
                tally.settle(shown(&path), &subject, verdict);
            }
            _ = tick.tick() => tally.tell_progress(),
            line = lines.recv(), if !all_read && tasks.len() < HASHES_MAX => match line {
                Some(Ok(Read::Listed(listed))) => {
                    any = true;
                    let (root, wanted) = (Arc::clone(&root), wanted.watch());
                    let scanned = Arc::clone(&scanned);
                    tasks.spawn_blocking(move || compare(&root, listed, &wanted, &scanned));
                }
                Some(Ok(Read::Failed(failure))) => tally.not_compared(failure),
                Some(Ok(Read::End)) => all_read = true,
                Some(Err(error)) => return Err(unusable(&error)),
                None => return Err(Error::Disk("the receipt was not read to its end".into())),
            },
        }
    }
    if !any && !below.is_empty() {
        let below = shown(&below);
        return Err(Error::Usage(format!("{receipt} lists nothing below {below:?}")));
    }
    Ok(tally.end())
}

/// What a receipt says.
enum Read {
    Listed(Listed),
    Failed(Failure),
    End,
}

/// Reads the receipt ahead of who reads from the channel; ends with it.
fn read_ahead(
    receipt: File,
    below: Vec<u8>,
    scanned: Arc<Scanned>,
) -> mpsc::Receiver<Result<Read, ReceiptError>> {
    let (sender, lines) = mpsc::channel(SCAN_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader::new(BufReader::new(receipt));
        loop {
            let read = next(&mut reader, &below);
            if let Ok(Some(Read::Listed(Listed { subject, .. }))) = &read {
                scanned.add(if let Subject::File { bytes, .. } = subject { *bytes } else { 0 });
            }
            let is_last = matches!(read, Ok(Some(Read::End)) | Err(_));
            scanned.done.fetch_or(is_last, Relaxed);
            let read = match read {
                Ok(None) => continue,
                Ok(Some(read)) => Ok(read),
                Err(error) => Err(error),
            };
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

/// The next line; `None` if it is of no interest.
fn next(reader: &mut Reader<BufReader<File>>, below: &[u8]) -> Result<Option<Read>, ReceiptError> {
    let Some(line) = reader.next_line()? else { return Ok(Some(Read::End)) };
    if let Line::Failed { path, reason } = line {
        let reason = format!("it was not delivered: {reason}");
        return Ok(Some(Read::Failed(Failure { kind: FailureKind::Destination, path, reason })));
    }
    let listed = line.listed().map_err(|reason| reader.bad(&reason))?;
    Ok(listed.and_then(|listed| strip(listed, below)).map(Read::Listed))
}

/// Takes `below` from the front of a path; `None` if it is not there.
fn strip(listed: Listed, below: &[u8]) -> Option<Listed> {
    if below.is_empty() {
        return Some(listed);
    }
    let path = listed.path.strip_prefix(below)?.strip_prefix(b"/")?.to_vec();
    Some(Listed { path, ..listed })
}

fn compare(
    root: &Dir,
    listed: Listed,
    wanted: &StillWanted,
    scanned: &Scanned,
) -> (Vec<u8>, Subject, Verdict) {
    let Listed { path, subject, hash } = listed;
    let bytes = match subject {
        Subject::File { bytes, .. } => bytes,
        _ => 0,
    };
    let verdict = match look(root, &path, &subject) {
        Found::Settled(verdict) => {
            scanned.pass(bytes);
            verdict
        }
        Found::File(file) => {
            let verdict = file.verdict(&file.hash(wanted), hash);
            scanned.read(bytes);
            verdict
        }
    };
    (path, subject, verdict)
}
