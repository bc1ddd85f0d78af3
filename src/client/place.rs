//! Where what is pulled goes: the folder of this host that it is written below.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cap_std::fs::Dir;

use super::config::PullConfig;
use crate::error::{Error, reason};
use crate::store::descriptors::{Descriptors, Share, budget, patiently, raise_limit};
use crate::store::destination::inspect;
use crate::store::journal::{Journal, Patience};
use crate::store::own::{OwnNames, has_reserved};
use crate::store::root::Root;
use crate::store::sink::Sink;
use crate::wire::{Destination, PushNumber, half, is_path_safe};

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
}

impl Place {
    /// Looks at where `config` says that things are to go: a folder that is there is written below, and
    /// otherwise the nearest folder above. Blocks.
    pub(super) fn look(config: &PullConfig) -> Result<Self, Error> {
        let typed = &config.destination;
        let cannot = |error: &io::Error| {
            Error::Disk(format!("cannot write to {}: {}", typed.display(), reason(error)))
        };
        let (above, below) = split(typed).map_err(|error| cannot(&error))?;
        let root = Arc::new(Root::open(&above).map_err(|error| cannot(&error))?);
        let folder = root.current().map_err(|error| Error::Disk(error.to_string()))?;
        let names = OwnNames::new(config.identity.secret("qbulk names of unfinished files 1"));
        let there = Path::new(OsStr::from_bytes(&below));
        let found =
            patiently(|| inspect(&folder, &names, there)).map_err(|error| cannot(&error))?;
        if !below.is_empty() && (!is_path_safe(&below) || has_reserved(&below)) {
            return Err(Error::Usage(format!("{} cannot be a destination", typed.display())));
        }
        let mut path = below;
        if !path.is_empty() && typed.as_os_str().as_bytes().ends_with(b"/") {
            path.push(b'/');
        }
        let share = Descriptors::new(budget(raise_limit())).join([0; 32]);
        let number = number(config, &path);
        Ok(Self { root, folder, path, found, number, names, share })
    }

    /// What takes in what is sent. Goes on with what an earlier run of the same pull has left. Blocks.
    pub(super) fn sink(&self, config: &PullConfig, tag: String) -> Result<Sink, Error> {
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
        Ok(sink.served_at(Arc::clone(&self.root)).keeping(config.keep).only_at(within))
    }
}

/// The folder to write below, and the rest: of what is no folder, the nearest that is.
fn split(typed: &Path) -> io::Result<(PathBuf, Vec<u8>)> {
    let mut above = std::path::absolute(typed)?;
    let mut names = Vec::new();
    while !above.is_dir() {
        let (Some(name), Some(parent)) = (above.file_name(), above.parent()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        names.push(name.as_bytes().to_vec());
        above = parent.into();
    }
    names.reverse();
    Ok((above, names.join(&b'/')))
}

/// Tells pulls apart: the same things to the same place have the same number.
fn number(config: &PullConfig, path: &[u8]) -> PushNumber {
    let mut hasher = blake3::Hasher::new_derive_key("qbulk pull number 1");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
    };
    add(config.server_name.as_bytes());
    add(path);
    for source in &config.sources {
        add(source);
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
            let (found, rest) = split(&dir.path().join(typed)).unwrap();
            assert_eq!(found, dir.path().join(above), "{typed}");
            assert_eq!(String::from_utf8(rest).unwrap(), below, "{typed}");
        }
    }
}
