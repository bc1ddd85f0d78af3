//! What is noted of a pull for its receipt, as it is delivered.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::config::PullConfig;
use super::place::Place;
use crate::error::Error;
use crate::event::{Failure, Summary};
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::receipt::{FileEntry, FolderEntry, Line, LinkEntry, SkippedEntry};
use crate::send::Receipt;
use crate::store::tally::{Delivered, Teller};
use crate::store::{below, last_of, shown};
use crate::wire::TransferSecret;

/// Failures that are noted by name, at most; more are only counted.
const FAILED_MAX: usize = 1 << 20;

/// What is known for a receipt.
pub(super) struct Notes {
    receipt: Receipt,
    sources: Vec<String>,
    destination: Vec<u8>,
    /// What is pulled goes there, below the folder that is written below.
    within: Vec<u8>,
    failed: Mutex<Failed>,
}

#[derive(Default)]
struct Failed {
    named: Vec<(Vec<u8>, String)>,
    unnamed: u64,
}

impl Notes {
    /// Notes for `receipt` of a pull to `place`.
    pub(super) fn new(receipt: Receipt, config: &PullConfig, place: &Place) -> Arc<Self> {
        Arc::new(Self {
            receipt,
            sources: config.sources.iter().map(|source| shown(source)).collect(),
            destination: config.destination.as_os_str().as_encoded_bytes().to_vec(),
            within: place.path.strip_suffix(b"/").unwrap_or(&place.path).to_vec(),
            failed: Mutex::default(),
        })
    }

    /// The server is reached.
    pub(super) fn begin(
        &self,
        transfer: &TransferSecret,
        key: Option<Fingerprint>,
        server: (&str, SocketAddr),
    ) {
        let sources = self.sources.clone();
        self.receipt.begin(transfer, key, server, sources, &self.destination);
    }

    /// Notes what is delivered here.
    pub(super) fn teller(self: &Arc<Self>) -> Teller {
        let this = Arc::clone(self);
        Box::new(move |delivered| this.note(delivered))
    }

    fn note(&self, delivered: &Delivered<'_>) {
        let line = match *delivered {
            Delivered::File { path, bytes, hash, meta, is_kept } => {
                let entry = FileEntry::new(self.path(path), bytes, hash, meta);
                Line::File(FileEntry { kept: is_kept, ..entry })
            }
            Delivered::Skipped { path, bytes, meta } => {
                Line::Skipped(SkippedEntry::new(self.path(path), bytes, meta))
            }
            // What everything goes into has no name in it.
            Delivered::Folder { path, .. } if path == self.within => return,
            Delivered::Folder { path, meta } => {
                Line::Folder(FolderEntry::new(self.path(path), meta))
            }
            Delivered::Special { .. } => return,
            Delivered::Symlink { path, target } => {
                Line::Link(LinkEntry::new(self.path(path), target))
            }
            Delivered::Failed { path, reason } => {
                let mut failed = lock(&self.failed);
                if failed.named.len() < FAILED_MAX {
                    failed.named.push((self.path(path).to_vec(), reason.to_owned()));
                } else {
                    failed.unnamed += 1;
                }
                return;
            }
        };
        self.receipt.deliver(&line);
    }

    /// Something at the source could not be sent.
    pub(super) fn fail(&self, failure: &Failure) {
        self.receipt.fail(failure);
    }

    /// Writes the receipt.
    pub(super) fn finish(&self, summary: &Summary) -> Result<(), Error> {
        let Failed { named, unnamed } = std::mem::take(&mut *lock(&self.failed));
        self.receipt.finish(summary, named, unnamed)
    }

    /// A path as the receipt has it: below the destination if that is a folder, and otherwise its name.
    fn path<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match below(&self.within, path) {
            Some([]) => last_of(path),
            Some(below) => below,
            None => path,
        }
    }
}
