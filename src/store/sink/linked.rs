//! Further names of files.

use std::ffi::OsStr;
use std::io;

use rustix::fs::{AtFlags, FileType};

use super::super::file::{FileId, replaced};
use super::super::journal::{Entry, Stamp};
use super::super::own::{RESERVED, has_reserved};
use super::super::root::open_folder;
use super::super::tally::Delivered;
use super::super::{folder_of, name_of, os, reason};
use super::Sink;
use crate::wire::{Meta, Record};

impl Sink {
    /// Makes all names that were sent, once the files have theirs.
    pub(super) fn make_links(&self) {
        let made = self.links.make_all(|link| {
            let Record::Link { item, path, of, meta, file_bytes } = link else { return };
            if self.tally.has_ended() {
                return;
            }
            let _room = self.share.enter(|| ());
            match self.link(*item, path, (of, *meta, *file_bytes)) {
                Ok(()) => self.tally.tell(&Delivered::Special { path }),
                Err(error) => self.tally.fail(path, &error),
            }
        });
        if let Err(error) = made {
            let why = format!("not all further names of files could be made: {}", reason(&error));
            self.tally.note(b"", why);
        }
    }

    fn link(
        &self,
        item: u64,
        path: &[u8],
        (of, meta, file_bytes): (&[u8], Meta, u64),
    ) -> io::Result<()> {
        if has_reserved(of) {
            return Err(io::Error::other(RESERVED));
        }
        let (parent, name) = self.open.folders.parent(path)?;
        let not_there = |_| {
            io::Error::other("the file that this is another name of is not there as it was sent")
        };
        let folder = open_folder(&self.root, folder_of(of)).map_err(not_there)?;
        let file = name_of(of);
        let found = rustix::fs::statat(&*folder, &file, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|error| not_there(error.into()))?;
        let put = self.links.put(of).filter(|put| put.inode == found.st_ino);
        // What was not sent because it is there already; whoever may not know what is there must have sent it.
        let is_skipped = || {
            let mtime = (found.st_mtime, found.st_mtime_nsec as u32);
            self.shows
                && !self.committer.places().is_append_only()
                && found.st_size as u64 == file_bytes
                && (!self.metas.keeps_times() || mtime == (meta.mtime_s, meta.mtime_ns))
        };
        let is_file = FileType::from_raw_mode(found.st_mode).is_file();
        if !is_file || put.is_none() && !self.kept.was_told_path(of) && !is_skipped() {
            return Err(not_there(io::ErrorKind::NotFound.into()));
        }
        let id = FileId::from(found);
        if FileId::at(&parent, &name).is_ok_and(|there| there == id) {
            return Ok(());
        }
        let temp_name = self.names.part(&self.tag, item);
        rustix::fs::linkat(&*folder, &file, &*parent, &*temp_name, AtFlags::empty())?;
        let made = FileId::at(&parent, OsStr::new(&temp_name))?;
        if made != id {
            made.remove(&parent, &temp_name)?;
            return Err(replaced());
        }
        let hash = *blake3::hash(of).as_bytes();
        self.place_made(&parent, &temp_name, made, path, hash)?;
        // It has changed with its new name: a later run is to know it all the same.
        if let Some(put) = put
            && let Ok(stamp) = Stamp::at(&self.root, os(of))
        {
            let (source, hash) = (put.source, put.hash);
            self.committer.announce(&Entry::File { path: of.to_vec(), source, hash, stamp });
        }
        Ok(())
    }
}
