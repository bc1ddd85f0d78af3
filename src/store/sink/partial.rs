//! Files of which not all has arrived.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use super::super::kept::Part;
use super::super::temp::TempFile;
use crate::hashtree::HashTree;
use crate::wire::{Meta, Piece, SourceId};

/// Files that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Partials {
    pub(super) files: HashMap<u64, Arc<Partial>>,
    /// Seals that have overtaken all of their file's pieces.
    pub(super) early_seals: HashMap<u64, [u8; 32]>,
    /// Files that failed or were taken back: what comes of them later is dropped.
    pub(super) discarded: HashSet<u64>,
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
    pub(super) seal: Option<[u8; 32]>,
}

impl Partial {
    pub(super) fn new(piece: &Piece) -> Self {
        let progress = Progress { tree: HashTree::new(piece.file_bytes), seal: None };
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
        if let Some(Part { temp, tree, .. }) = kept {
            self.temp = OnceLock::from(Ok(temp));
            self.progress = Mutex::new(Progress { tree, seal: None });
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
