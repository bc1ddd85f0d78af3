//! Hashing the blocks of a file that is at the destination, for a sender that compares them with its own.

use std::fs::File;
use std::io;

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, OFlags};

use super::descriptors::{Held, patiently};
use super::holes::Extents;
use super::kind::FileInfo;
use super::own::has_reserved;
use super::{folder_of, name_of, os};
use crate::hashtree::PieceHasher;

/// The file at `path` below `root`. As for a push, a link to a folder below the root is one, and a link at the path's
/// end is not followed.
pub(super) fn open_file(root: &Dir, path: &[u8]) -> io::Result<File> {
    if path.is_empty() || has_reserved(path) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let folder = match folder_of(path) {
        b"" => patiently(|| root.try_clone())?,
        folder => patiently(|| root.open_dir(os(folder)))?,
    };
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let name = name_of(path);
    let open = || Ok(rustix::fs::openat(&folder, &name, flags, Mode::empty())?);
    let file = File::from(patiently(open)?);
    let is_file = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file();
    if is_file { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// A file that is hashed block by block, in steps: whoever hashes for others lets them have their turns in between.
#[derive(Debug)]
pub struct BlockHashing {
    file: File,
    /// How it was at first.
    before: FileInfo,
    /// How long the file at the source is: blocks are hashed as if this one were as long.
    bytes: u64,
    block_bytes: u64,
    /// Where the last block ends that is there in full.
    end: u64,
    at: u64,
    /// The block that is under way.
    hasher: Option<PieceHasher>,
    extents: Extents,
    /// Counts the file.
    _held: Held,
}

impl BlockHashing {
    /// Of `file`, of which the source has `bytes` bytes. The size of its blocks is a power of two.
    pub(super) fn new(file: File, bytes: u64, block_bytes: u64, held: Held) -> io::Result<Self> {
        let before = FileInfo::of(&rustix::fs::fstat(&file)?);
        let end =
            if before.bytes >= bytes { bytes } else { before.bytes / block_bytes * block_bytes };
        let (hasher, extents) = (None, Extents::until(end));
        Ok(Self { file, before, bytes, block_bytes, end, at: 0, hasher, extents, _held: held })
    }

    /// Hashes up to `bytes` more, of at most `blocks` blocks. Returns the hashes of those that are complete with
    /// them, and whether these are the last. Those of a file that is changed meanwhile end before its end.
    pub fn step(&mut self, bytes: u64, blocks: usize) -> io::Result<(Vec<[u8; 32]>, bool)> {
        let stop = self.end.min(self.at.saturating_add(bytes));
        let mut hashes = Vec::new();
        while self.at < stop && hashes.len() < blocks {
            let block = self.at / self.block_bytes * self.block_bytes;
            let block_end = self.bytes.min(block + self.block_bytes);
            let new = || PieceHasher::new(block, block_end - block, self.bytes);
            let hasher = self.hasher.get_or_insert_with(new);
            let until = block_end.min(stop);
            self.extents.read(&self.file, self.at..until, |part| {
                hasher.update(part);
                true
            })?;
            self.at = until;
            if until == block_end {
                hashes.push(hasher.finish());
                self.hasher = None;
            }
        }
        let is_last = self.at >= self.end;
        if is_last {
            let after = FileInfo::of(&rustix::fs::fstat(&self.file)?);
            if !after.has_same_version(&self.before) {
                hashes.clear();
            }
        }
        Ok((hashes, is_last))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::super::descriptors::Share;
    use super::*;
    use crate::hashtree::{HashTree, piece_hash};

    const BLOCK: u64 = 64 << 10;

    fn hashes(content: &[u8], bytes: u64, step: u64) -> Vec<[u8; 32]> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), content).unwrap();
        let file = File::open(dir.path().join("file")).unwrap();
        let held = Share::alone().hold(1);
        let mut hashing = BlockHashing::new(file, bytes, BLOCK, held).unwrap();
        let mut all = Vec::new();
        loop {
            let (hashes, is_last) = hashing.step(step, 2).unwrap();
            assert!(hashes.len() <= 2);
            all.extend(hashes);
            if is_last {
                return all;
            }
        }
    }

    #[test]
    fn blocks_are_those_of_a_file_as_long_as_the_source() {
        let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        for step in [1_000, BLOCK, 1 << 30] {
            let all = hashes(&content, 200_000, step);
            let mut tree = HashTree::new(200_000);
            for (at, hash) in all.iter().enumerate() {
                let offset = at as u64 * BLOCK;
                assert!(tree.add(offset, BLOCK.min(200_000 - offset), *hash));
            }
            assert_eq!(tree.root(), Some(blake3::hash(&content)), "{step}");
            // A longer one has those that are there in full, and a shorter one its own last.
            assert_eq!(hashes(&content, 400_000, step).len(), 3);
            let shorter = hashes(&content, 150_000, step);
            let last = piece_hash(2 * BLOCK, &content[2 * BLOCK as usize..150_000], 150_000);
            assert_eq!((shorter.len(), shorter[2]), (3, last));
            assert_eq!(hashes(&content, 10, step), [*blake3::hash(&content[..10]).as_bytes()]);
            assert!(hashes(b"", 10, step).is_empty() && hashes(b"", 0, step).is_empty());
        }
    }

    #[test]
    fn what_changes_meanwhile_has_no_last_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 2 * BLOCK as usize]).unwrap();
        let file = File::open(&path).unwrap();
        let held = Share::alone().hold(1);
        let mut hashing = BlockHashing::new(file, 2 * BLOCK, BLOCK, held).unwrap();
        assert_eq!(hashing.step(BLOCK, 9).unwrap().0.len(), 1);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let other = File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&other, b"x", 0).unwrap();
        assert_eq!(hashing.step(BLOCK, 9).unwrap(), (vec![], true));
    }

    #[test]
    fn nothing_but_a_file_below_the_root_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("root").join(name);
        std::fs::create_dir_all(at("folder")).unwrap();
        std::fs::write(at("folder/file"), "data").unwrap();
        std::fs::write(dir.path().join("outside"), "data").unwrap();
        symlink("folder", at("way")).unwrap();
        symlink("folder/file", at("link")).unwrap();
        symlink("..", at("up")).unwrap();
        let root = Dir::open_ambient_dir(at(""), ambient_authority()).unwrap();
        for path in ["folder/file", "way/file"] {
            open_file(&root, path.as_bytes()).unwrap();
        }
        for path in ["", "folder", "link", "up/outside", "none", "a/.qbulk-x.part"] {
            assert!(open_file(&root, path.as_bytes()).is_err(), "{path}");
        }
    }
}
