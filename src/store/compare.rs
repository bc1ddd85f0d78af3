//! Looking at what is at a path, to compare it. Nothing is written.
//!
//! A client says which path: it is opened relative to the root's descriptor and cannot lead out of it,
//! neither by its name nor by a link on the way; a link at its end is not followed at all.

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::descriptors::patiently;
use super::holes::Extents;
use super::kind::FileInfo;
use super::{folder_of, name_of, os};
use crate::wire::{Content, Meta, Subject, Verdict};

/// How often a file is read whose content may have changed meanwhile.
const PASSES_MAX: usize = 3;

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// There is nothing to read.
    Settled(Verdict),
    /// A file of the right size: its content decides.
    File(FoundFile),
}

/// A file of the right size.
#[derive(Debug)]
pub struct FoundFile {
    file: File,
    info: FileInfo,
    /// The verdict if its content is the same.
    same: Verdict,
}

/// What reading a file has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// Its BLAKE3 hash.
    Hash([u8; 32]),
    /// It changed meanwhile.
    Changed,
    /// It was not wanted any more.
    Stopped,
}

/// Stops who hashes for it when it is dropped.
#[derive(Debug, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Whether a hash is still wanted.
#[derive(Clone, Debug)]
pub struct StillWanted(Arc<AtomicBool>);

impl Wanted {
    /// For whoever hashes.
    pub fn watch(&self) -> StillWanted {
        StillWanted(Arc::clone(&self.0))
    }

    /// It is not wanted any more.
    pub fn stop(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.stop();
    }
}

impl StillWanted {
    /// Whether it is.
    pub fn get(&self) -> bool {
        !self.0.load(Relaxed)
    }
}

/// Looks whether `subject` is at `path` below `root`, as far as that shows without reading files.
pub fn look(root: &Dir, path: &[u8], subject: &Subject) -> Found {
    let found = match subject {
        Subject::Folder => folder(root, path),
        Subject::File { bytes, meta } => file(root, path, *bytes, *meta),
        Subject::Symlink { target_hash } => symlink(root, path, target_hash),
    };
    found.unwrap_or_else(|error| settled(content_of(&error)))
}

fn content_of(error: &io::Error) -> Content {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Content::Missing,
        _ => Content::Unreadable,
    }
}

/// As for a push: a link to a folder below the root is one.
fn folder(root: &Dir, path: &[u8]) -> io::Result<Found> {
    let is_folder = path.is_empty() || root.metadata(os(path))?.is_dir();
    Ok(settled(if is_folder { Content::Same } else { Content::OtherKind }))
}

fn file(root: &Dir, path: &[u8], bytes: u64, meta: Meta) -> io::Result<Found> {
    let parent = parent(root, path)?;
    // What is no file is not even opened: for a device that may have effects.
    let stat = stat(&parent, path)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(settled(Content::OtherKind));
    }
    let verdict = Verdict {
        content: Content::Same,
        mode_differs: (stat.st_mode ^ meta.mode) & 0o777 != 0,
        mtime_differs: (stat.st_mtime, stat.st_mtime_nsec as u32) != (meta.mtime_s, meta.mtime_ns),
    };
    let other_size = Found::Settled(Verdict { content: Content::OtherSize, ..verdict });
    if u64::try_from(stat.st_size).ok() != Some(bytes) {
        return Ok(other_size);
    }
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let name = name_of(path);
    let open = || Ok(rustix::fs::openat(&parent, &name, flags, Mode::empty())?);
    let file: File = patiently(open)?.into();
    let stat = rustix::fs::fstat(&file)?;
    let info = FileInfo::of(&stat);
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    Ok(match (is_file, info.bytes == bytes) {
        (false, _) => settled(Content::OtherKind),
        (true, false) => other_size,
        (true, true) => Found::File(FoundFile { file, info, same: verdict }),
    })
}

fn symlink(root: &Dir, path: &[u8], target_hash: &[u8; 32]) -> io::Result<Found> {
    let parent = parent(root, path)?;
    if !FileType::from_raw_mode(stat(&parent, path)?.st_mode).is_symlink() {
        return Ok(settled(Content::OtherKind));
    }
    let target = rustix::fs::readlinkat(&parent, name_of(path), Vec::new())?;
    let is_same = blake3::hash(target.as_bytes()) == *target_hash;
    Ok(settled(if is_same { Content::Same } else { Content::Different }))
}

fn settled(content: Content) -> Found {
    Found::Settled(Verdict::of(content))
}

fn parent(root: &Dir, path: &[u8]) -> io::Result<Dir> {
    match folder_of(path) {
        b"" => patiently(|| root.try_clone()),
        folder => patiently(|| root.open_dir(os(folder))),
    }
}

fn stat(parent: &Dir, path: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(parent, name_of(path), AtFlags::SYMLINK_NOFOLLOW)?)
}

impl FoundFile {
    /// Reads and hashes it.
    pub fn hash(&self, wanted: &StillWanted) -> io::Result<Hashed> {
        hash(&self.file, &self.info, wanted, |_| ())
    }

    /// The verdict, given what was read and what was expected.
    pub fn verdict(&self, hashed: &io::Result<Hashed>, expected: Option<[u8; 32]>) -> Verdict {
        verdict(self.same, hashed, expected)
    }

    /// The verdict if its content is the same.
    pub fn same(&self) -> Verdict {
        self.same
    }

    /// Begins to hash it.
    pub fn begin(self) -> io::Result<Hashing> {
        Hashing::new(self.file, self.info)
    }
}

/// The verdict on a file, which would be `same` if its content were, given what was read and what was expected.
pub fn verdict(same: Verdict, hashed: &io::Result<Hashed>, expected: Option<[u8; 32]>) -> Verdict {
    let content = match (hashed, expected) {
        (Ok(Hashed::Hash(hash)), Some(expected)) if *hash == expected => Content::Same,
        (Ok(_), _) => Content::Different,
        (Err(_), _) => Content::Unreadable,
    };
    Verdict { content, ..same }
}

/// Reads and hashes a file that is as `info` says; holes are not read. `progress` is told how many bytes
/// were hashed.
///
/// A file whose size and time of modification hold while something else about it changes, such as its
/// permissions or links to it, is read again: another pass tells whether its content holds as well.
pub fn hash(
    file: &File,
    info: &FileInfo,
    wanted: &StillWanted,
    mut progress: impl FnMut(u64),
) -> io::Result<Hashed> {
    let mut hashing = Hashing::new(file, *info)?;
    loop {
        if let Some(hashed) = hashing.step(u64::MAX, wanted, &mut progress)? {
            return Ok(hashed);
        }
    }
}

/// The same in steps: whoever hashes for others lets them have their turns in between.
#[derive(Debug)]
pub struct Hashing<F = File> {
    file: F,
    info: FileInfo,
    /// How it was when this pass began.
    before: FileInfo,
    hasher: blake3::Hasher,
    /// What was hashed in this pass.
    at: u64,
    extents: Extents,
    passes: usize,
}

impl<F: Borrow<File>> Hashing<F> {
    fn new(file: F, info: FileInfo) -> io::Result<Self> {
        let before = FileInfo::of(&rustix::fs::fstat(file.borrow())?);
        let (hasher, extents) = (blake3::Hasher::new(), Extents::until(info.bytes));
        Ok(Self { file, info, before, hasher, at: 0, extents, passes: 0 })
    }

    /// Hashes up to `bytes` more. `None` if that was not all.
    pub fn step(
        &mut self,
        bytes: u64,
        wanted: &StillWanted,
        mut progress: impl FnMut(u64),
    ) -> io::Result<Option<Hashed>> {
        if self.passes == PASSES_MAX || !self.info.has_same_version(&self.before) {
            return Ok(Some(Hashed::Changed));
        }
        let (hasher, end) = (&mut self.hasher, self.info.bytes.min(self.at.saturating_add(bytes)));
        let all = self.extents.read(self.file.borrow(), self.at..end, |part| {
            hasher.update(part);
            progress(part.len() as u64);
            wanted.get()
        });
        match all {
            // What has become shorter has changed.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            Ok(false) => return Ok(Some(Hashed::Stopped)),
            Ok(true) if end < self.info.bytes => {
                self.at = end;
                return Ok(None);
            }
            Ok(true) | Err(_) => {}
        }
        let after = FileInfo::of(&rustix::fs::fstat(self.file.borrow())?);
        if all.is_ok() && after.is_unchanged(&self.before) {
            return Ok(Some(Hashed::Hash(*self.hasher.finalize().as_bytes())));
        }
        (self.before, self.at) = (after, 0);
        self.extents = Extents::until(self.info.bytes);
        self.hasher.reset();
        self.passes += 1;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Hashes a file of which something is done to after the first part was read.
    fn hash_while(done: impl Fn(&std::path::Path)) -> Hashed {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let info = FileInfo::of(&rustix::fs::fstat(&file).unwrap());
        // The clock that files are stamped with moves in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut parts = 0;
        let hashed = hash(&file, &info, &Wanted::default().watch(), |_| {
            parts += 1;
            if parts == 1 {
                done(&path);
            }
        });
        hashed.unwrap()
    }

    #[test]
    fn a_file_whose_content_holds_has_a_hash_whatever_else_changes() {
        let want = Hashed::Hash(*blake3::hash(&vec![1; 1 << 20]).as_bytes());
        assert_eq!(
            hash_while(|path| {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }),
            want
        );
        assert_eq!(
            hash_while(|path| std::fs::hard_link(path, path.with_extension("link")).unwrap()),
            want
        );
        assert_eq!(
            hash_while(|path| std::fs::write(path, vec![2; 1 << 20]).unwrap()),
            Hashed::Changed
        );
        assert_eq!(hash_while(|path| std::fs::write(path, b"short").unwrap()), Hashed::Changed);
    }
}
