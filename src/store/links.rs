//! What is one file under several names at the source: the further names are made when all files have theirs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::sync::{Arc, Mutex};

use cap_std::fs::Dir;

use super::append::key;
use super::commit::Complete;
use super::ration::{Kept as Memory, Ration};
use super::spill::nameless;
use crate::mutex::lock;
use crate::wire::{Record, SourceId};

/// What a file that others are linked to takes in memory, about.
const PUT_BYTES: usize = 160;

/// Names that are to be made, on the disk, and the files that they are to be names of.
#[derive(Debug)]
pub(super) struct Links {
    waiting: Mutex<Option<BufWriter<File>>>,
    put: Mutex<(HashMap<u64, Put>, Memory)>,
}

/// A file that this transfer has put there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub(super) inode: u64,
    pub(super) source: SourceId,
    pub(super) hash: [u8; 32],
}

impl Links {
    pub(super) fn new(ration: &Arc<Ration>) -> Self {
        let put = Mutex::new((HashMap::new(), Memory::none(ration)));
        Self { waiting: Mutex::default(), put }
    }

    /// A further name is to be made.
    pub(super) fn add(&self, root: &Dir, link: &Record) -> io::Result<()> {
        let mut encoded = Vec::new();
        link.encode(&mut encoded);
        let mut waiting = lock(&self.waiting);
        let out = match &mut *waiting {
            Some(out) => out,
            empty => empty.insert(BufWriter::new(nameless(root)?)),
        };
        out.write_all(&(encoded.len() as u32).to_be_bytes())?;
        out.write_all(&encoded)
    }

    /// A file has its name, and is to get others. What there is no memory for gets none.
    pub(super) fn has_put(&self, file: &Complete) {
        let Ok(found) = rustix::fs::fstat(file.opened.file()) else { return };
        let (put, memory) = &mut *lock(&self.put);
        if memory.add(PUT_BYTES) {
            let (inode, source, hash) = (found.st_ino, file.source, file.hash);
            put.insert(key(&file.path, b""), Put { inode, source, hash });
        }
    }

    /// What this transfer has put at `path`.
    pub(super) fn put(&self, path: &[u8]) -> Option<Put> {
        lock(&self.put).0.get(&key(path, b"")).copied()
    }

    /// Calls `make` with each name that is to be made, in the order in which they came.
    pub(super) fn make_all(&self, mut make: impl FnMut(&Record)) -> io::Result<()> {
        let Some(out) = lock(&self.waiting).take() else { return Ok(()) };
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        let mut input = BufReader::new(file);
        loop {
            let mut length = [0; 4];
            match input.read_exact(&mut length) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let mut encoded = vec![0; u32::from_be_bytes(length) as usize];
            input.read_exact(&mut encoded)?;
            make(&Record::decode(&mut encoded.as_slice()).map_err(io::Error::other)?);
        }
    }
}
