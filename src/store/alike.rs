//! Names that differ and are the same all the same, where a file system ignores case or the form of letters.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

use super::append::key;
use super::file::FileId;
use super::ration::{Kept as Memory, Ration};
use super::shown;

/// Names that are remembered where names fall together.
const SENT_MAX: usize = 4 << 20;
/// What each takes in memory, about.
const NAME_BYTES: usize = 18;

/// What was put where names fall together, by folder and inode, and by folder and name.
#[derive(Debug)]
pub(super) struct Sent {
    names: HashSet<u64>,
    /// There are more than can be remembered.
    is_full: bool,
    memory: Memory,
}

impl Sent {
    /// Nothing yet.
    pub(super) fn new(ration: &Arc<Ration>) -> Self {
        Self { names: HashSet::new(), is_full: false, memory: Memory::none(ration) }
    }

    pub(super) fn add(&mut self, folder: &[u8], name: &OsStr, id: FileId) {
        self.add_inode(folder, name, id.inode());
    }

    pub(super) fn add_inode(&mut self, folder: &[u8], name: &OsStr, inode: u64) {
        self.is_full |= self.names.len() >= SENT_MAX || !self.memory.add(2 * NAME_BYTES);
        if !self.is_full {
            self.names.insert(key(folder, &inode.to_be_bytes()));
            // Some file systems give another number to a file that they have not looked at for a while.
            self.names.insert(key(folder, &folded(name)));
        }
    }

    /// An error if what is there under `name` was sent.
    pub(super) fn check(
        &self,
        folder: &[u8],
        name: &OsStr,
        there: FileId,
        called: impl FnOnce() -> Option<OsString>,
    ) -> io::Result<()> {
        let is_sent = self.names.contains(&key(folder, &there.inode().to_be_bytes()))
            || self.names.contains(&key(folder, &folded(name)));
        if is_sent || self.is_full {
            let name = shown(name.as_encoded_bytes());
            return Err(match called() {
                Some(other) => same_name(&name, &shown(other.as_encoded_bytes())),
                None => io::Error::other(format!(
                    "{name:?} has the same name there as another that was sent"
                )),
            });
        }
        Ok(())
    }
}

pub(super) fn same_name(name: &str, other: &str) -> io::Error {
    io::Error::other(format!("{name:?} has the same name there as {other:?}, which was sent"))
}

/// A name as those read it that care for neither case nor form.
fn folded(name: &OsStr) -> Vec<u8> {
    match name.to_str() {
        Some(name) if name.is_ascii() => name.to_ascii_lowercase().into_bytes(),
        Some(name) => {
            let lower = name.to_lowercase();
            DecomposingNormalizerBorrowed::new_nfd().normalize(&lower).into_owned().into_bytes()
        }
        None => name.as_bytes().to_vec(),
    }
}

/// A name with its letters and marks put together, or taken apart, if that makes a difference.
pub(super) fn other_form(name: &str) -> Option<String> {
    let apart = DecomposingNormalizerBorrowed::new_nfd().normalize(name);
    if apart != name {
        return Some(apart.into_owned());
    }
    let together = ComposingNormalizerBorrowed::new_nfc().normalize(name);
    (together != name).then(|| together.into_owned())
}
