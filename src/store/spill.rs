//! Folders that wait for their modes and times, on the disk: where there are more than memory is spent on.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};

use super::meta::default_mode;
use crate::wire::{Extra, Meta};

/// What a record takes beside its path: its length, flags, mode, time, and the mode to put back.
const HEAD_BYTES: usize = 4 + 1 + 4 + 8 + 4 + 4 + 4;
const HAS_META: u8 = 1;
const IS_MADE: u8 = 2;
const IS_OPENED: u8 = 4;

/// What is left to do for a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// What it is to have, if that was sent.
    pub(super) meta: Option<Meta>,
    /// It was made for what is in it.
    pub(super) is_made: bool,
    /// The permissions that it had before it was opened up.
    pub(super) opened: Option<u32>,
    /// What goes with that.
    pub(super) extra: Option<Arc<Extra>>,
}

impl Left {
    /// What is left once `later` is known as well.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            meta: later.meta.or(self.meta),
            is_made: self.is_made || later.is_made,
            opened: self.opened.or(later.opened),
            extra: later.extra.or(self.extra),
        }
    }

    /// What it takes in memory beside itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.bytes())
    }

    /// The mode that it gets; `None` if it keeps the one that it has.
    pub(super) fn mode(&self, keeps_modes: bool) -> Option<u32> {
        match self.meta {
            Some(meta) if keeps_modes => Some(meta.mode),
            _ if self.opened.is_some() => self.opened,
            meta if self.is_made => Some(meta.map_or(0o777, |meta| meta.mode) & default_mode()),
            _ => None,
        }
    }
}

/// A file without a name in `root`, or where temporary files are if it cannot be there.
pub(super) fn nameless(root: &Dir) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(root, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(_) => tempfile::tempfile(),
    }
}

/// A file without a name, which goes with the process.
#[derive(Debug)]
pub(super) struct Spill {
    file: BufWriter<File>,
}

impl Spill {
    /// In `root`, or where temporary files are if it cannot be there.
    pub(super) fn new(root: &Dir) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(nameless(root)?) })
    }

    /// Adds a folder. One that is added twice is told twice.
    pub(super) fn add(&mut self, path: &[u8], left: &Left) -> io::Result<()> {
        let Left { meta, is_made, opened, ref extra } = *left;
        let flag = |is_so, flag| if is_so { flag } else { 0 };
        let flags = flag(meta.is_some(), HAS_META)
            | flag(is_made, IS_MADE)
            | flag(opened.is_some(), IS_OPENED);
        let meta = meta.unwrap_or(Meta { mode: 0, mtime_s: 0, mtime_ns: 0 });
        let mut record = Vec::with_capacity(HEAD_BYTES + path.len());
        record.put_u32_le(path.len() as u32);
        record.put_u8(flags);
        record.put_u32_le(meta.mode);
        record.put_i64_le(meta.mtime_s);
        record.put_u32_le(meta.mtime_ns);
        record.put_u32_le(opened.unwrap_or(0));
        let mut encoded = Vec::new();
        if let Some(extra) = extra {
            extra.encode(&mut encoded);
        }
        record.put_u32_le(encoded.len() as u32);
        record.put_slice(path);
        record.put_slice(&encoded);
        self.file.write_all(&record)
    }

    /// Calls `each` with every folder, in the order in which they were added.
    pub(super) fn read(&mut self, mut each: impl FnMut(Vec<u8>, Left)) -> io::Result<()> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.rewind()?;
        let mut input = BufReader::new(file);
        loop {
            let mut head = [0; HEAD_BYTES];
            match input.read_exact(&mut head) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            // It is as long as all that is taken from it.
            let mut rest = head.as_slice();
            let len = rest.get_u32_le();
            let flags = rest.get_u8();
            let meta = Meta {
                mode: rest.get_u32_le(),
                mtime_s: rest.get_i64_le(),
                mtime_ns: rest.get_u32_le(),
            };
            let opened = rest.get_u32_le();
            let mut path = vec![0; len as usize];
            input.read_exact(&mut path)?;
            let mut encoded = vec![0; rest.get_u32_le() as usize];
            input.read_exact(&mut encoded)?;
            let extra = Extra::decode(&mut encoded.as_slice()).ok();
            let left = Left {
                meta: (flags & HAS_META > 0).then_some(meta),
                is_made: flags & IS_MADE > 0,
                opened: (flags & IS_OPENED > 0).then_some(opened),
                extra: extra.map(Arc::new),
            };
            each(path, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;

    use super::*;
    use crate::wire::Xattr;

    #[test]
    fn what_was_added_is_read_as_often_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let mut spill = Spill::new(&root).unwrap();
        let meta = Meta { mode: 0o750, mtime_s: -7, mtime_ns: 999_999_999 };
        let xattrs = Some(vec![Xattr { name: b"user.a".into(), value: vec![7; 999] }]);
        let extra = Extra { xattrs, ..Extra::default() };
        let folders = [
            (b"a".to_vec(), Left { meta: Some(meta), is_made: true, ..Left::default() }),
            (vec![b'b'; 4_000], Left { opened: Some(0o555), ..Left::default() }),
            (b"c".to_vec(), Left { extra: Some(Arc::new(extra)), ..Left::default() }),
        ];
        for (path, left) in &folders {
            spill.add(path, left).unwrap();
        }
        for _ in 0..2 {
            let mut read = Vec::new();
            spill.read(|path, left| read.push((path, left))).unwrap();
            assert_eq!(read, folders);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it has no name");
    }
}
