//! What things are called at the destination, as `cp` and `rsync` users expect.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::error::Error;
use crate::event::{Failure, FailureKind};
use crate::store::descriptors::raise_limit;
use crate::store::join;
use crate::store::kind::Kind;
use crate::store::scan::Entry;
use crate::store::start::Start;
use crate::store::{reason, shown};
use crate::wire::{Destination, PATH_BYTES_MAX, is_path_safe};

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
        Self::of(typed, found, matches!(starts, [start] if start.is_leaf))
    }

    /// The same, where all that is sent `is_one` file or link, or where it is not.
    pub(crate) fn of(typed: &[u8], found: Destination, is_one: bool) -> Result<Self, Error> {
        let slashes = typed.iter().rev().take_while(|&&byte| byte == b'/').count();
        let path = typed[..typed.len() - slashes].to_vec();
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

    /// What comes from a pipe has no name of its own: it gets the destination's.
    pub(crate) fn of_stream(typed: &[u8], found: Destination) -> Result<Self, Error> {
        if typed.is_empty() || typed.ends_with(b"/") || found == Destination::Folder {
            return Err(Error::Usage(format!(
                "what comes from a pipe has no name: say what it is to be called below the folder {:?} there",
                shown(typed)
            )));
        }
        Ok(Self::As(typed.to_vec()))
    }

    /// The path of what is called `name` below its source.
    pub(crate) fn remote(&self, name: &[u8]) -> Vec<u8> {
        match self {
            Self::Into(folder) => join(folder, name),
            Self::As(path) => path.clone(),
        }
    }
}

/// What paths have been given to what is found, where two sources may have the same.
#[derive(Debug)]
pub(crate) struct Taken(Option<HashSet<blake3::Hash>>);

impl Taken {
    /// None yet.
    pub(crate) fn new(starts: &[Start]) -> Self {
        // Sources of different names have nothing in common.
        let overlap = starts.len() > 1 && starts.iter().any(|start| start.name().is_empty());
        Self(overlap.then(HashSet::new))
    }

    /// Whether something that was found can have this path.
    pub(crate) fn check(&mut self, entry: &Entry, path: &[u8]) -> Result<(), Failure> {
        let fail = |reason: &str| Failure {
            kind: FailureKind::Source,
            path: entry.local.to_string(),
            reason: reason.into(),
        };
        let is_link_short = match &entry.kind {
            Kind::Symlink { target, .. } => target.len() <= PATH_BYTES_MAX,
            _ => true,
        };
        let is_folder = matches!(entry.kind, Kind::Folder(_));
        let is_safe = is_path_safe(path) || is_folder && path.is_empty();
        if !is_safe || !is_link_short {
            return Err(fail("its path is too long to be sent"));
        }
        if let Some(taken) = &mut self.0
            && !is_folder
            && !taken.insert(blake3::hash(path))
        {
            return Err(fail("another source has one of the same name, which was sent"));
        }
        Ok(())
    }
}

/// Looks at the sources as they were typed, before anything is opened.
pub(crate) fn starts(sources: &[PathBuf]) -> Result<Vec<Start>, Error> {
    // Each folder is held.
    raise_limit();
    let mut starts: Vec<Start> = Vec::with_capacity(sources.len());
    for source in sources {
        let start = Start::beside(&starts, source).map_err(|error| {
            Error::Disk(format!("cannot read {}: {}", source.display(), reason(&error)))
        })?;
        starts.push(start);
    }
    distinct(&starts)?;
    Ok(starts)
}

/// An error if two sources would have one name at the destination.
pub(crate) fn distinct(starts: &[Start]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let mut names = starts.iter().map(Start::name).filter(|name| !name.is_empty());
    match names.find(|name| !seen.insert(*name)) {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!(
            "two sources would both be called {:?} at the destination: move them one by one",
            shown(name)
        ))),
    }
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
