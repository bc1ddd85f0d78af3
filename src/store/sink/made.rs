//! What has no content: links, devices, pipes and sockets that are made, and metadata that is given to what is there.

use std::ffi::OsStr;
use std::io;

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, makedev};

use super::super::append::trace;
use super::super::file::FileId;
use super::super::journal::Entry;
use super::super::object::Object;
use super::super::own::has_reserved;
use super::super::places::{Placed, Placing};
use super::super::root::open_folder;
use super::super::{folder_of, last_of, os};
use super::{Sink, SinkError};
use crate::wire::{Extra, Meta, Special};

impl Sink {
    /// A file that is there gets metadata. Fails by itself if it is not the one that was told of.
    pub(super) fn adopt(
        &self,
        path: &[u8],
        meta: Meta,
        file_bytes: u64,
        extra: Option<&Extra>,
    ) -> Result<io::Result<()>, SinkError> {
        if !self.shows || self.committer.places().is_append_only() {
            return Err(SinkError::Protocol("it may not change what is there".into()));
        }
        let adopt = || {
            let folder = open_folder(&self.root, folder_of(path))?;
            let file = Object::at(&folder, last_of(path))?;
            let stat = file.stat()?;
            let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
            if has_reserved(path) || !is_file || stat.st_size as u64 != file_bytes {
                return Err(io::Error::other("it has changed since"));
            }
            self.metas.give_all(path, &file, meta, extra);
            Ok(())
        };
        Ok(adopt())
    }

    /// Makes a device, a pipe or a socket.
    pub(super) fn make_special(
        &self,
        item: u64,
        path: &[u8],
        (meta, extra): (Meta, Option<&Extra>),
        what: Special,
    ) -> io::Result<()> {
        let asked = self.metas.extras();
        if !if what.is_device() { asked.devices } else { asked.specials } {
            return Err(io::Error::other("nobody has asked for devices, pipes or sockets"));
        }
        if what.is_device() && !self.metas.is_privileged() {
            return Err(io::Error::other(
                "devices are made only where root receives, and a server only with --super",
            ));
        }
        let (kind, device) = match what {
            Special::Fifo => (FileType::Fifo, 0),
            Special::Socket => (FileType::Socket, 0),
            Special::CharDevice(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Special::BlockDevice(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        };
        let (parent, _) = self.open.folders.parent(path)?;
        let temp_name = self.names.part(&self.tag, item);
        rustix::fs::mknodat(&*parent, &*temp_name, kind, Mode::RUSR | Mode::WUSR, device)?;
        let object = Object::at(&parent, temp_name.as_bytes())?;
        let made = FileId::from(object.stat()?);
        self.metas.give_all(path, &object, meta, extra);
        let hash = *blake3::hash(format!("{what:?}").as_bytes()).as_bytes();
        self.place_made(&parent, &temp_name, made, path, hash)
    }

    /// Makes a symbolic link.
    pub(super) fn make_symlink(
        &self,
        item: u64,
        path: &[u8],
        (meta, extra): (Meta, Option<&Extra>),
        target: &[u8],
    ) -> io::Result<()> {
        let (parent, _) = self.open.folders.parent(path)?;
        let temp_name = self.names.part(&self.tag, item);
        parent.symlink_contents(os(target), &temp_name)?;
        let made = FileId::at(&parent, OsStr::new(&temp_name))?;
        self.metas.give_link(path, (&parent, &temp_name), meta, extra);
        let hash = *blake3::hash(target).as_bytes();
        self.place_made(&parent, &temp_name, made, path, hash)
    }

    /// Gives what was made under a temporary name in `parent` its own.
    pub(super) fn place_made(
        &self,
        parent: &Dir,
        temp_name: &str,
        made: FileId,
        path: &[u8],
        hash: [u8; 32],
    ) -> io::Result<()> {
        if self.committer.places().is_append_only() {
            let (path, trace) = (path.to_vec(), trace(parent, OsStr::new(temp_name))?);
            self.committer.announce(&Entry::Placing { path, hash, trace });
        }
        let placed = made.check(parent, temp_name).and_then(|()| {
            let id = made;
            let placing = Placing { parent, temp_name, path, id, file_bytes: None, hash: &hash };
            self.committer.places().place(&placing)
        });
        if !matches!(placed, Ok(Placed::Now)) {
            made.remove(parent, temp_name)?;
        }
        self.committer.touched(parent, folder_of(path))?;
        placed.map(drop)
    }
}
