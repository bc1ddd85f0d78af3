//! The search through the sources, ahead of who sends what it finds.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::receipt::Receipt;
use super::stream::{Bit, StreamChunk, StreamSource};
use crate::error::{Error, reason};
use crate::filter::Filter;
use crate::store::kind::Kind;
use crate::store::scan::{Entry, LookFor, Lost, scan_for};
use crate::store::start::Start;

/// Entries that are handed over together at most, so that small ones share a stripe. They do not wait
/// for others if they are this large, or if others do not come.
const SCAN_GROUP: usize = 64;
const SCAN_GROUP_BYTES: u64 = 1 << 20;
const SCAN_GATHER_TIME: Duration = Duration::from_millis(1);
/// Groups that the scan may be ahead of the plan.
const SCAN_AHEAD: usize = 16;
/// Chunks that who reads a pipe may be ahead.
const CHUNKS_AHEAD: usize = 4;
/// What was found is kept for another attempt up to so many entries: what is more is searched anew.
const ENTRIES_KEPT_MAX: usize = 1 << 17;

/// A search that is under way, or over. It outlives an attempt at sending what it finds: the next one need not
/// look at everything again.
pub(crate) struct Search {
    starts: Vec<Start>,
    found: mpsc::Receiver<Found>,
    scanned: Arc<Scanned>,
    /// What it has said so far; `None` once that is more than is kept.
    said: Option<Vec<Found>>,
    entries: usize,
    /// How much of that was said in this attempt.
    again: usize,
}

/// What the search says.
#[derive(Clone)]
pub(crate) enum Found {
    Entries(Vec<Result<Entry, Lost>>),
    /// A part of what comes from a pipe.
    Chunk(StreamChunk),
    /// What comes from a pipe is not to be had to its end, for this reason.
    Broken(String),
    /// That was all.
    End,
}

/// How far the search is.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) items: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) done: AtomicBool,
}

impl Search {
    /// The same for one attempt only: what it has said is not kept.
    pub(crate) fn once(starts: Vec<Start>, filter: Arc<Filter>, look_for: LookFor) -> Self {
        Self { said: None, ..Self::start(starts, filter, look_for, None) }
    }

    /// Starts to look through `starts` for what `filter` takes; ends when it is dropped. What `receipt` is made of is
    /// not found.
    pub(crate) fn start(
        starts: Vec<Start>,
        filter: Arc<Filter>,
        look_for: LookFor,
        receipt: Option<Arc<Receipt>>,
    ) -> Self {
        let (sender, found) = mpsc::channel(SCAN_AHEAD);
        let scanned = Arc::<Scanned>::default();
        let search = Self {
            starts: starts.clone(),
            found,
            scanned: Arc::clone(&scanned),
            // Another attempt makes another receipt, which must not be found either.
            said: receipt.is_none().then(Vec::new),
            entries: 0,
            again: 0,
        };
        // On a thread of its own: it waits for whoever takes what it finds, for as long as that takes.
        let look =
            move || look(&starts, (&filter, look_for), receipt.as_deref(), &scanned, &sender);
        if let Err(error) = thread::Builder::new().name("qbulk-search".into()).spawn(look) {
            tracing::error!(%error, "nothing is found: no thread can be started");
        }
        search
    }

    /// Reads what comes from a pipe, once.
    pub(crate) fn stream(source: &StreamSource) -> Result<Self, Error> {
        let reading = source.begin()?;
        let (sender, found) = mpsc::channel(CHUNKS_AHEAD);
        let scanned = Arc::<Scanned>::default();
        let told = Arc::clone(&scanned);
        let read = move || {
            told.items.store(1, Relaxed);
            reading.run(|bit| {
                let found = match bit {
                    Bit::Chunk(chunk) => {
                        told.bytes.fetch_add(chunk.data.len() as u64, Relaxed);
                        told.done.store(chunk.total.is_some(), Relaxed);
                        Found::Chunk(chunk)
                    }
                    Bit::Broken(why) => Found::Broken(why),
                };
                let is_last = matches!(&found, Found::Chunk(chunk) if chunk.total.is_some());
                let is_wanted = sender.blocking_send(found).is_ok();
                // Fails only if nobody wants to know.
                is_wanted && (!is_last || sender.blocking_send(Found::End).is_ok())
            });
        };
        thread::Builder::new()
            .name("qbulk-pipe".into())
            .spawn(read)
            .map_err(|error| Error::Disk(format!("cannot start a thread: {}", reason(&error))))?;
        Ok(Self { starts: Vec::new(), found, scanned, said: None, entries: 0, again: 0 })
    }

    /// Whether it is what comes from a pipe.
    pub(super) fn is_stream(&self) -> bool {
        self.starts.is_empty()
    }

    /// The same from its beginning, for another attempt; `None` if it has to be searched anew.
    pub(crate) fn again(self) -> Option<Self> {
        self.said.is_some().then_some(Self { again: 0, ..self })
    }

    /// Where it starts.
    pub(crate) fn starts(&self) -> &[Start] {
        &self.starts
    }

    pub(super) fn scanned(&self) -> &Scanned {
        &self.scanned
    }

    /// What was found next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Found> {
        if let Some(found) = self.said.as_ref().and_then(|said| said.get(self.again)) {
            self.again += 1;
            return Some(found.clone());
        }
        let found = self.found.recv().await?;
        if let Found::Entries(entries) = &found {
            self.entries += entries.len();
        }
        if self.entries > ENTRIES_KEPT_MAX {
            self.said = None;
        }
        if let Some(said) = &mut self.said {
            said.push(found.clone());
            self.again += 1;
        }
        Some(found)
    }
}

fn look(
    starts: &[Start],
    (filter, look_for): (&Filter, LookFor),
    receipt: Option<&Receipt>,
    scanned: &Scanned,
    sender: &mpsc::Sender<Found>,
) {
    let (mut group, mut group_bytes, mut begun) = (Vec::new(), 0_u64, Instant::now());
    scan_for(starts, filter, look_for, |entry| {
        if let (Some(receipt), Ok(Entry { kind: Kind::File(info), local, .. })) = (receipt, &entry)
            && receipt.is_at(local.name(), info.id())
        {
            return true;
        }
        if group.is_empty() {
            (group_bytes, begun) = (0, Instant::now());
        }
        scanned.items.fetch_add(1, Relaxed);
        if let Ok(Entry { kind: Kind::File(info), .. }) = &entry {
            scanned.bytes.fetch_add(info.bytes, Relaxed);
            group_bytes = group_bytes.saturating_add(info.bytes);
        }
        group.push(entry);
        let is_due = group.len() >= SCAN_GROUP
            || group_bytes >= SCAN_GROUP_BYTES
            || begun.elapsed() >= SCAN_GATHER_TIME;
        !is_due || sender.blocking_send(Found::Entries(std::mem::take(&mut group))).is_ok()
    });
    scanned.done.store(true, Release);
    // Fails only if nobody wants to know.
    drop(sender.blocking_send(Found::Entries(group)));
    drop(sender.blocking_send(Found::End));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn all(search: &mut Search) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        while let Some(Found::Entries(entries)) = search.next().await {
            paths.extend(entries.into_iter().map(|entry| entry.expect("readable").remote));
        }
        paths
    }

    #[tokio::test]
    async fn another_attempt_finds_the_same_again_without_a_look_at_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..200 {
            fs::write(dir.path().join(format!("{number}")), b"x").unwrap();
        }
        let start = Start::new(&dir.path().join("")).unwrap();
        let mut search = Search::start(vec![start], Arc::default(), LookFor::default(), None);
        // The first attempt is over when it has seen a part.
        let first = search.next().await;
        assert!(matches!(first, Some(Found::Entries(entries)) if entries.len() < 200));
        let mut search = search.again().expect("it is little");
        let found = all(&mut search).await;
        assert_eq!(found.len(), 201);
        drop(dir);
        let mut search = search.again().expect("it is little");
        assert_eq!(all(&mut search).await, found);
    }
}
