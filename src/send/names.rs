//! What things are called at the destination, as `cp` and `rsync` users expect.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::Error;
use crate::store::scan::{Start, join};
use crate::store::{reason, shown};
use crate::wire::Destination;

/// How names below the sources become paths below the server's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Everything goes into this folder.
    Into(Vec<u8>),
    /// The one thing that is sent gets this path.
    As(Vec<u8>),
}

impl Names {
    /// One file or link gets the destination's name, unless that is a folder or was written as one.
    /// Everything else goes into the destination.
    pub(crate) fn new(typed: &[u8], found: Destination, starts: &[Start]) -> Result<Self, Error> {
        let slashes = typed.iter().rev().take_while(|&&byte| byte == b'/').count();
        let path = typed[..typed.len() - slashes].to_vec();
        let is_one = matches!(starts, [start] if start.is_leaf);
        let is_folder = path.is_empty() || found == Destination::Folder;
        if is_one && !is_folder && slashes == 0 {
            return Ok(Self::As(path));
        }
        if found == Destination::File {
            return Err(Error::Usage(format!(
                "the destination {:?} is a file there; what is pushed needs a folder",
                shown(&path)
            )));
        }
        Ok(Self::Into(path))
    }

    /// The path of what is called `name` below its source.
    pub(crate) fn remote(&self, name: &[u8]) -> Vec<u8> {
        match self {
            Self::Into(folder) => join(folder, name),
            Self::As(path) => path.clone(),
        }
    }
}

/// Tells pushes of a client apart: what goes where has the same number whenever it is pushed, however
/// its places are spelt, and whatever the host is called by then.
///
/// The host is no part of it: what could name one (its name, its `machine-id`) changes for containers or
/// is the same for many. Two hosts that push from the same place to the same place with one key share a
/// number, and the server lets both go on: see [`host_number`].
pub(crate) fn push_number(starts: &[Start], destination: &[u8]) -> [u8; 16] {
    let names = destination.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let destination = names.collect::<Vec<_>>().join(&b'/');
    let mut places: Vec<_> = starts
        .iter()
        .map(|start| {
            // What one thing is called there depends on what is there.
            let there =
                if start.is_leaf { destination.clone() } else { join(&destination, start.name()) };
            (start.place(), there, start.is_leaf)
        })
        .collect();
    places.sort();
    let mut hasher = blake3::Hasher::new_derive_key("qbulk push number 2");
    for (place, there, is_leaf) in &places {
        for bytes in [place.as_os_str().as_bytes(), there] {
            hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
        }
        hasher.update(&[u8::from(*is_leaf)]);
    }
    short(&hasher)
}

/// Tells hosts apart while they run, and containers on a host, so that a push that is started again
/// ends an earlier run on the same host, and not one that another host is at.
pub(crate) fn host_number() -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("qbulk host number 1");
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(boot) => hasher.update(&boot),
        Err(_) => hasher.update(rustix::system::uname().nodename().to_bytes()),
    };
    if let Ok(container) = std::fs::read_link("/proc/self/ns/pid") {
        hasher.update(container.as_os_str().as_bytes());
    }
    short(&hasher)
}

fn short(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut number = [0; 16];
    number.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    number
}

/// Looks at the sources as they were typed, before anything is opened.
pub(crate) fn starts(sources: &[PathBuf]) -> Result<Vec<Start>, Error> {
    let mut starts: Vec<Start> = Vec::with_capacity(sources.len());
    for source in sources {
        let start = Start::new(source).map_err(|error| {
            Error::Disk(format!("cannot read {}: {}", source.display(), reason(&error)))
        })?;
        let name = start.name();
        if !name.is_empty() && starts.iter().any(|other| other.name() == name) {
            return Err(Error::Usage(format!(
                "two sources would both be called {:?} at the destination: push them one by one",
                shown(name)
            )));
        }
        starts.push(start);
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(source: &str, typed: &str, found: Destination) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let start = Start::new(&dir.path().join(source)).unwrap();
        let name = start.name().to_vec();
        let names = Names::new(typed.as_bytes(), found, &[start]).ok()?;
        Some(String::from_utf8(names.remote(&name)).unwrap())
    }

    #[test]
    fn a_push_is_known_by_what_goes_where_however_that_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/sub", "b"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let number = |sources: &[&str], destination: &str| {
            let starts = sources.iter().map(|source| Start::new(&dir.path().join(source)).unwrap());
            push_number(&starts.collect::<Vec<_>>(), destination.as_bytes())
        };
        for (one, other) in [
            ((&["a"][..], "x"), (&["./a"][..], "x/")),
            ((&["a"], "x"), (&["a/../a"], "x")),
            ((&["a"], "x"), (&["a/sub/.."], "x/a")),
            ((&["a"], "x"), (&["a/"], "x/a")),
            ((&["a/"], "x"), (&["link/"], "x")),
            ((&["a/"], "x"), (&["a//"], "/x//")),
            ((&["a/"], "x"), (&["a/."], "x")),
            ((&["a/file"], "x"), (&["link/file"], "x")),
            ((&["a", "b"], "x"), (&["b", "a"], "x")),
        ] {
            assert_eq!(number(one.0, one.1), number(other.0, other.1), "{one:?} {other:?}");
        }
        for (one, other) in [
            ((&["a"][..], "x"), (&["a/"][..], "x")),
            ((&["a"], "x"), (&["a"], "y")),
            ((&["a", "b"], "x"), (&["a"], "x")),
            ((&["a"], "x"), (&["link"], "x")),
            ((&["a/file"], "x"), (&["a/file"], "x/file")),
        ] {
            assert_ne!(number(one.0, one.1), number(other.0, other.1), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_file_gets_the_destinations_name_unless_that_is_a_folder() {
        use Destination::{File, Folder, Missing};
        for (source, typed, found, want) in [
            ("file", "new", Missing, Some("new")),
            ("file", "old", File, Some("old")),
            ("file", "dir", Folder, Some("dir/file")),
            ("file", "dir/", Missing, Some("dir/file")),
            ("file", "old/", File, None),
            ("file", "", Folder, Some("file")),
            ("tree", "a/b", Missing, Some("a/b/tree")),
            ("tree", "a/b/", Folder, Some("a/b/tree")),
            ("tree/", "a/b", Missing, Some("a/b")),
            ("tree/", "", Folder, Some("")),
            ("tree", "old", File, None),
        ] {
            let got = remote(source, typed, found);
            assert_eq!(got.as_deref(), want, "{source} to {typed:?}, which is {found:?}");
        }
    }
}
