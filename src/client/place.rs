//! Where what is pulled goes: the folder of this host that it is written below.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::config::PullConfig;
use crate::error::{Error, reason};
use crate::store::descriptors::{ALONE_BYTES, Descriptors, Share, budget, patiently, raise_limit};
use crate::store::destination::{inspect, inspect_untouched};
use crate::store::foresee::foresee;
use crate::store::journal::{Journal, Patience};
use crate::store::own::{OwnNames, Owner, has_reserved};
use crate::store::root::Root;
use crate::store::sink::Sink;
use crate::store::{join, shown};
use crate::wire::{Destination, Expected, Likeness, PushNumber, There, half, is_path_safe};

/// How long it is waited for an earlier run of the same pull to end, so as to go on where it was.
const EARLIER_TIME: Duration = Duration::from_secs(2);

/// A place that was found.
pub(super) struct Place {
    root: Arc<Root>,
    folder: Arc<Dir>,
    /// What it is below that folder, as a push would say it; a trailing slash is kept.
    pub(super) path: Vec<u8>,
    /// What is there.
    pub(super) found: Destination,
    /// Which pull it is that goes here.
    pub(super) number: PushNumber,
    names: OwnNames,
    share: Arc<Share>,
    /// How people know what is written.
    pub(super) local: Local,
}

impl Place {
    /// Looks at where `config` says that things are to go: a folder that is there is written below, and
    /// otherwise the nearest folder above; the one that an earlier run of the same pull has written below, if it
    /// has left something. Blocks.
    pub(super) fn look(config: &PullConfig) -> Result<Self, Error> {
        Self::find(config, inspect)
    }

    /// The same without changing anything. Blocks.
    pub(super) fn look_untouched(config: &PullConfig) -> Result<Self, Error> {
        Self::find(config, |folder, _, path| inspect_untouched(folder, path))
    }

    fn find(
        config: &PullConfig,
        inspect: impl Fn(&Dir, &OwnNames, &Path) -> io::Result<Destination>,
    ) -> Result<Self, Error> {
        if config.outlet.is_some() {
            return Self::nowhere(config);
        }
        let typed = &config.destination;
        let cannot = |error: &io::Error| {
            Error::Disk(format!("cannot write to {}: {}", typed.display(), reason(error)))
        };
        let names = OwnNames::new(config.identity.secret("qbulk names of unfinished files 1"));
        // Without a slash at the end, which says something else.
        let whole = std::path::absolute(typed).map_err(|error| cannot(&error))?;
        let whole: PathBuf = whole.components().collect();
        let number = number(config, &whole);
        let (above, below) = split(&whole).map_err(|error| cannot(&error))?;
        let owner = names.owner(&[0; 32], &number);
        let (above, below) = earlier(&names, &owner, &above, &below)
            .unwrap_or_else(|| (above.clone(), below.clone()));
        let root = Arc::new(Root::open(&above).map_err(|error| cannot(&error))?);
        let folder = root.current().map_err(|error| Error::Disk(error.to_string()))?;
        let there = Path::new(OsStr::from_bytes(&below));
        let found =
            patiently(|| inspect(&folder, &names, there)).map_err(|error| cannot(&error))?;
        if !below.is_empty() && (!is_path_safe(&below) || has_reserved(&below)) {
            return Err(Error::Usage(format!("{} cannot be a destination", typed.display())));
        }
        let local = Local { typed: typed.clone(), whole, above };
        let mut path = below;
        if !path.is_empty() && typed.as_os_str().as_bytes().ends_with(b"/") {
            path.push(b'/');
        }
        let share = Descriptors::new(budget(raise_limit()), ALONE_BYTES).join([0; 32]);
        Ok(Self { root, folder, path, found, number, names, share, local })
    }

    /// The folder that is written below.
    pub(super) fn folder(&self) -> Arc<Dir> {
        Arc::clone(&self.folder)
    }

    /// What is there of `all`, which are called by their paths below the folder. Blocks.
    pub(super) fn foresee(&self, all: &[Expected], likeness: Likeness) -> Vec<There> {
        foresee(&self.folder, all, likeness)
    }

    /// What goes to a pipe is written nowhere.
    fn nowhere(config: &PullConfig) -> Result<Self, Error> {
        let cannot = |error: io::Error| Error::Disk(reason(&error));
        let names = OwnNames::new(config.identity.secret("qbulk names of unfinished files 1"));
        let root = Arc::new(Root::open(Path::new("/")).map_err(cannot)?);
        let folder = root.current().map_err(|error| Error::Disk(error.to_string()))?;
        let local = Local { typed: "-".into(), whole: "/-".into(), above: "/".into() };
        let share = Descriptors::new(budget(raise_limit()), ALONE_BYTES).join([0; 32]);
        let (path, found) = (b"-".to_vec(), Destination::Missing);
        let number = PushNumber(rand::random());
        Ok(Self { root, folder, path, found, number, names, share, local })
    }

    /// What takes in what is sent. Goes on with what an earlier run of the same pull has left. Blocks.
    pub(super) fn sink(&self, config: &PullConfig, tag: String) -> Result<Sink, Error> {
        if let Some(outlet) = &config.outlet {
            let (share, folder) = (Arc::clone(&self.share), Arc::clone(&self.folder));
            let sink = Sink::within(share, folder, self.names.clone(), tag, None);
            let sink = sink.map_err(|error| Error::Disk(reason(&error)))?;
            let sink = sink.unpacking(config.packing);
            return Ok(sink.only_at(self.path.clone()).pouring(outlet.clone()));
        }
        let owner = self.names.owner(&[0; 32], &self.number);
        let patience = Patience::Wait(EARLIER_TIME);
        let journal = match Journal::open(&self.folder, &self.names, owner, patience) {
            Ok(journal) => Some(journal),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Busy(
                    "an earlier run of the same pull has not ended yet".into(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "no journal can be kept: an interrupted pull begins anew");
                None
            }
        };
        let (share, folder) = (Arc::clone(&self.share), Arc::clone(&self.folder));
        let sink = Sink::within(share, folder, self.names.clone(), tag, journal);
        let sink = sink.map_err(|error| Error::Disk(reason(&error)))?;
        let within = self.path.strip_suffix(b"/").unwrap_or(&self.path).to_vec();
        Ok(sink
            .served_at(Arc::clone(&self.root))
            .keeping(config.keep)
            .keeping_more(config.extras, true)
            .with_root()
            .only_at(within)
            .showing()
            .comparing(config.skip.compares())
            .unpacking(config.packing)
            .skipping(config.skip))
    }
}

/// How a person knows what is written.
#[derive(Clone, Debug)]
pub(super) struct Local {
    /// The destination, as it was typed.
    typed: PathBuf,
    /// The same from the top.
    whole: PathBuf,
    /// The folder that it is written below.
    above: PathBuf,
}

impl Local {
    /// What is at `path` below the folder that is written below.
    pub(super) fn path(&self, path: &[u8]) -> String {
        shown(&self.typed(path))
    }

    /// The same byte by byte.
    pub(super) fn typed(&self, path: &[u8]) -> Vec<u8> {
        let whole = self.above.join(OsStr::from_bytes(path));
        let told = match whole.strip_prefix(&self.whole) {
            Ok(rest) if rest.as_os_str().is_empty() => self.typed.clone(),
            Ok(rest) => self.typed.join(rest),
            Err(_) => whole,
        };
        told.into_os_string().into_vec()
    }
}

/// The folder to write below, and the rest: of what is no folder, the nearest that is.
fn split(whole: &Path) -> io::Result<(PathBuf, Vec<u8>)> {
    let mut above = whole.to_owned();
    let mut below = Vec::new();
    while !above.is_dir() {
        (above, below) = higher(&above, &below).ok_or(io::ErrorKind::NotFound)?;
    }
    Ok((above, below))
}

/// One folder further up.
fn higher(above: &Path, below: &[u8]) -> Option<(PathBuf, Vec<u8>)> {
    let (name, parent) = (above.file_name()?, above.parent()?);
    Some((parent.to_owned(), join(name.as_bytes(), below)))
}

/// Where an earlier run has begun, and what it has left still is: above folders that were not there then.
fn earlier(
    names: &OwnNames,
    owner: &Owner,
    above: &Path,
    below: &[u8],
) -> Option<(PathBuf, Vec<u8>)> {
    let mut place = Some((above.to_owned(), below.to_vec()));
    while let Some((above, below)) = place {
        // What was missing then is no link now, or somebody else has put it there.
        let is_there = |folder: &Dir| Journal::is_left(folder, names, owner);
        if Dir::open_ambient_dir(&above, ambient_authority()).is_ok_and(|folder| is_there(&folder))
        {
            return Some((above, below));
        }
        if above.is_symlink() {
            return None;
        }
        place = higher(&above, &below);
    }
    None
}

/// Tells pulls apart: the same things to the same place have the same number.
fn number(config: &PullConfig, whole: &Path) -> PushNumber {
    let mut hasher = blake3::Hasher::new_derive_key("qbulk pull number 2");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
    };
    add(config.server_name.as_bytes());
    add(whole.as_os_str().as_bytes());
    for source in &config.sources {
        add(source);
    }
    // What is here without some metadata is not what is asked for with it.
    if config.extras.is_any() {
        add(&config.extras.number().to_be_bytes());
    }
    PushNumber(half(&hasher))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_written_below_the_nearest_folder_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("there")).unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        for (typed, above, below) in [
            ("there", "there", ""),
            ("there/", "there", ""),
            ("there/new", "there", "new"),
            ("there/new/deep", "there", "new/deep"),
            ("file", "", "file"),
        ] {
            let whole = std::path::absolute(dir.path().join(typed)).unwrap();
            let (found, rest) = split(&whole).unwrap();
            assert_eq!(found, dir.path().join(above), "{typed}");
            assert_eq!(String::from_utf8(rest).unwrap(), below, "{typed}");
        }
    }

    #[test]
    fn what_is_written_is_told_as_the_destination_was_typed() {
        for (typed, above, path, told) in [
            ("out", "/home/me/out", "tree/file", "out/tree/file"),
            ("out/", "/home/me", "out/file", "out/file"),
            ("./out/deep", "/home/me", "out/deep", "./out/deep"),
            ("/srv/x", "/srv", "x/y", "/srv/x/y"),
            ("out/deep", "/home/me", "out", "/home/me/out"),
        ] {
            let whole = Path::new("/home/me").join(typed.trim_start_matches("./"));
            let local = Local { typed: typed.into(), whole, above: above.into() };
            assert_eq!(local.path(path.as_bytes()), told, "{typed}");
        }
    }
}
