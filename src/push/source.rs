//! From what is found at the source to what the plan is offered, and to the parts of a stripe.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc;

use super::names::Names;
use crate::error::Error;
use crate::event::Failure;
use crate::store::scan::{Entry, Kind, Start, scan};
use crate::store::source::{Part, SourceItem, SourceKind};
use crate::traffic::{Item, ItemId, Stripe};
use crate::wire::{Destination, PATH_BYTES_MAX, is_path_safe};

/// Entries that the scan may be ahead of the plan.
const SCAN_AHEAD: usize = 1_024;
/// Items up to this size are never cut.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// What a record takes beside its path, in bytes, at most and roughly.
const RECORD_BYTES: u64 = 80;

/// The scan, and the items that came of it.
pub(super) struct Source {
    starts: Vec<Start>,
    names: Option<Names>,
    found: mpsc::Receiver<Found>,
    scanned: Arc<Scanned>,
    /// Items that are not cut up yet.
    items: HashMap<ItemId, Arc<SourceItem>>,
    /// Paths of what is no folder, where two sources may have the same.
    taken: Option<HashSet<blake3::Hash>>,
    next_item: u64,
    /// Files that were offered, and folders and links.
    pub(super) files: u64,
    pub(super) others: u64,
}

/// What the scan says.
pub(super) enum Found {
    Entry(Result<Entry, Failure>),
    /// That was all.
    End,
}

/// How far the scan is.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) items: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) done: AtomicBool,
}

impl Source {
    /// Starts to look through `starts`; ends when it is dropped.
    pub(super) fn new(starts: Vec<Start>) -> Self {
        let (sender, found) = mpsc::channel(SCAN_AHEAD);
        let scanned = Arc::<Scanned>::default();
        // Sources of different names have nothing in common.
        let overlap = starts.len() > 1 && starts.iter().any(|start| start.name().is_empty());
        let source = Self {
            starts: starts.clone(),
            names: None,
            found,
            scanned: Arc::clone(&scanned),
            items: HashMap::new(),
            taken: overlap.then(HashSet::new),
            next_item: 0,
            files: 0,
            others: 0,
        };
        tokio::task::spawn_blocking(move || {
            scan(&starts, |entry| {
                scanned.items.fetch_add(1, Relaxed);
                if let Ok(Entry { kind: Kind::File(info), .. }) = &entry {
                    scanned.bytes.fetch_add(info.bytes, Relaxed);
                }
                sender.blocking_send(Found::Entry(entry)).is_ok()
            });
            scanned.done.store(true, Relaxed);
            drop(sender.blocking_send(Found::End));
        });
        source
    }

    /// Paths are known once the server has said what is at the destination.
    pub(super) fn name(&mut self, typed: &[u8], there: Destination) -> Result<(), Error> {
        self.names = Some(Names::new(typed, there, &self.starts)?);
        Ok(())
    }

    pub(super) fn is_named(&self) -> bool {
        self.names.is_some()
    }

    pub(super) fn scanned(&self) -> &Scanned {
        &self.scanned
    }

    /// What was found next. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }

    /// Ends the scan.
    pub(super) fn stop(&mut self) {
        self.found.close();
    }

    /// What was found is given its path; `None` if there is nothing to do for it.
    pub(super) fn take(&mut self, entry: Entry) -> Result<Option<Item>, Failure> {
        let Some(names) = &self.names else { return Ok(None) };
        let path = names.remote(&entry.remote);
        let (bytes, extra_bytes) = match &entry.kind {
            Kind::File(info) => (info.bytes, 0),
            Kind::Folder(_) if path.is_empty() => return Ok(None), // the root is the server's own
            Kind::Folder(_) => (0, 0),
            Kind::Symlink { target, .. } => (0, target.len() as u64),
        };
        let fail = |reason: &str| Failure {
            path: entry.local.to_string_lossy().into_owned(),
            reason: reason.into(),
        };
        if !is_path_safe(&path) || extra_bytes > PATH_BYTES_MAX as u64 {
            return Err(fail("its path is too long to be sent"));
        }
        let is_folder = matches!(entry.kind, Kind::Folder(_));
        if let Some(taken) = &mut self.taken
            && !is_folder
            && !taken.insert(blake3::hash(&path))
        {
            return Err(fail("another source has one of the same name, which was sent"));
        }
        match entry.kind {
            Kind::File(_) => self.files += 1,
            _ => self.others += 1,
        }
        let overhead_bytes = path.len() as u64 + extra_bytes + RECORD_BYTES;
        let id = self.next_id();
        let item = if bytes > WHOLE_BYTES_MAX {
            Item::split(id, bytes)
        } else {
            Item::whole(id, bytes, overhead_bytes)
        };
        let kind = SourceKind::Found(entry.kind);
        self.keep(item, SourceItem::new(id.0, entry.local, path, kind));
        Ok(Some(item))
    }

    /// All pieces of a file have been read: its hash follows them.
    pub(super) fn seal(&mut self, file: &SourceItem, hash: [u8; 32]) -> Item {
        let id = self.next_id();
        let item = Item { urgent: true, ..Item::whole(id, 0, RECORD_BYTES) };
        let kind = SourceKind::Seal { of: file.id, hash };
        self.keep(item, SourceItem::new(id.0, file.local.clone(), file.path.clone(), kind));
        item
    }

    /// What a stripe is made of. Each part is asked for once.
    pub(super) fn parts(&mut self, stripe: &Stripe) -> Vec<Part> {
        let mut parts = Vec::with_capacity(stripe.extents.len());
        for extent in &stripe.extents {
            let Some(item) = self.items.get(&extent.item).cloned() else { continue };
            let item_bytes = match &item.kind {
                SourceKind::Found(Kind::File(info)) => info.bytes,
                _ => 0,
            };
            if extent.offset + extent.len >= item_bytes {
                self.items.remove(&extent.item);
            }
            parts.push(Part { item, offset: extent.offset, len: extent.len });
        }
        parts
    }

    fn keep(&mut self, item: Item, source: SourceItem) {
        self.items.insert(item.id, Arc::new(source));
    }

    fn next_id(&mut self) -> ItemId {
        self.next_item += 1;
        ItemId(self.next_item)
    }
}
