//! Files of which not all has arrived.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use super::super::kept::{PARTIAL_BYTES, Part};
use super::super::ration::{Kept as Memory, Ration};
use super::super::temp::TempFile;
use crate::hashtree::{HashTree, NODE_BYTES};
use crate::wire::{Extra, Meta, Piece, SourceId};

/// What a seal, and the number of a file, take in memory, about.
const SEAL_BYTES: usize = 64;
const ITEM_BYTES: usize = 24;

/// Files that are not whole yet.
#[derive(Debug)]
pub(super) struct Partials {
    pub(super) files: HashMap<u64, Arc<Partial>>,
    /// Seals that have overtaken all of their file's pieces.
    pub(super) early_seals: HashMap<u64, Seal>,
    /// Files that failed or were taken back: what comes of them later is dropped.
    pub(super) discarded: HashSet<u64>,
    /// What these two take in memory.
    memory: Memory,
}

impl Partials {
    pub(super) fn new(ration: &Arc<Ration>) -> Self {
        Self {
            files: HashMap::new(),
            early_seals: HashMap::new(),
            discarded: HashSet::new(),
            memory: Memory::none(ration),
        }
    }

    /// Counts what is to come and what is not wanted any more. False if that is too much.
    pub(super) fn count(&mut self) -> bool {
        let seals: usize = self.early_seals.values().map(Seal::bytes).sum();
        let bytes = seals + self.discarded.len() * ITEM_BYTES;
        self.memory.set(bytes)
    }
}

/// The last that is said of a file.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    pub(super) hash: [u8; 32],
    pub(super) extra: Option<Arc<Extra>>,
}

impl Seal {
    fn bytes(&self) -> usize {
        SEAL_BYTES + self.extra.as_ref().map_or(0, |extra| extra.bytes())
    }
}

/// A file that is partly there.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) source: SourceId,
    pub(super) bytes: u64,
    /// It came in one piece: nothing more of it is to come.
    pub(super) is_whole: bool,
    pub(super) temp: OnceLock<Result<Arc<TempFile>, String>>,
    /// Nobody wants it any more, whoever may still be making its temporary file.
    pub(super) is_unwanted: AtomicBool,
    pub(super) progress: Mutex<Progress>,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) tree: HashTree,
    pub(super) seal: Option<Seal>,
    /// What the file takes in memory.
    memory: Memory,
}

impl Progress {
    /// Counts what it takes by now. False if that is too much.
    pub(super) fn count(&mut self, path: &[u8]) -> bool {
        self.memory.set(PARTIAL_BYTES + path.len() + self.tree.nodes() * NODE_BYTES)
    }
}

impl Partial {
    pub(super) fn new(piece: &Piece, ration: &Arc<Ration>) -> Self {
        let (tree, memory) = (HashTree::new(piece.file_bytes), Memory::none(ration));
        let progress = Progress { tree, seal: None, memory };
        Self {
            path: piece.path.clone(),
            meta: piece.meta,
            source: piece.source,
            bytes: piece.file_bytes,
            is_whole: piece.len == piece.file_bytes,
            temp: OnceLock::new(),
            is_unwanted: AtomicBool::new(false),
            progress: Mutex::new(progress),
        }
    }

    /// Goes on with what an earlier run has left, if it has.
    pub(super) fn with(mut self, kept: Option<Part>) -> Self {
        if let Some(Part { temp, tree, memory, .. }) = kept {
            self.temp = OnceLock::from(Ok(temp));
            self.progress = Mutex::new(Progress { tree, seal: None, memory });
        }
        self
    }

    pub(super) fn discard(&self) {
        self.is_unwanted.store(true, SeqCst);
        if let Some(Ok(temp)) = self.temp.get() {
            temp.discard();
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self.temp.get(), Some(Ok(temp)) if temp.is_kept())
    }
}
