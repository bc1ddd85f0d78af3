//! Looking whether something that is at the destination is at the source as well, and would be sent.

use std::io;
use std::sync::Arc;

use rustix::fs::FileType;

use super::beneath;
use super::folder_of;
use super::start::Start;
use crate::filter::Filter;
use crate::wire::AtSource;

/// What is looked for below some sources.
#[derive(Debug)]
pub struct Probe {
    starts: Vec<Start>,
    filter: Arc<Filter>,
    /// The folder that was asked for last, and whether a rule leaves it out.
    last: Option<(Vec<u8>, bool)>,
}

impl Probe {
    /// Looks below the folders among `starts` for what `filter` takes.
    pub fn new(starts: &[Start], filter: Arc<Filter>) -> Self {
        let starts = starts.iter().filter(|start| !start.is_leaf).cloned().collect();
        Self { starts, filter, last: None }
    }

    /// The folders that what is sent goes into, below the destination; an empty one is that itself.
    pub fn scopes(&self) -> Vec<Vec<u8>> {
        self.starts.iter().map(|start| start.name().to_vec()).collect()
    }

    /// Whether what is called `path` below the destination is at the source. An error if that cannot be told.
    pub fn look(&mut self, path: &[u8], is_folder: bool) -> io::Result<AtSource> {
        if self.is_left_out(folder_of(path)) || !self.filter.takes(path, is_folder) {
            return Ok(AtSource::Excluded);
        }
        let mut found = None;
        for start in &self.starts {
            if super::below(start.name(), path).is_none() {
                continue;
            }
            let here = self.below(start, path)?;
            found = Some(match (found, here) {
                (Some(AtSource::Present), _) | (_, AtSource::Present) => AtSource::Present,
                (Some(other), AtSource::Gone) => other,
                (_, here) => here,
            });
        }
        // What no source leads to is not asked about.
        Ok(found.unwrap_or(AtSource::Unsent))
    }

    /// Whether a rule leaves out a folder, or one that it is in.
    fn is_left_out(&mut self, folder: &[u8]) -> bool {
        if let Some((last, is_left_out)) = &self.last
            && last == folder
        {
            return *is_left_out;
        }
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let is_left_out =
            ends.chain([folder.len()]).any(|end| !self.filter.takes(&folder[..end], true));
        self.last = Some((folder.to_vec(), is_left_out));
        is_left_out
    }

    fn below(&self, start: &Start, path: &[u8]) -> io::Result<AtSource> {
        let root = start.root().folder();
        let stat = match beneath::stat(root, path) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AtSource::Gone),
            Err(error) => return Err(error),
        };
        if self.filter.bounds.one_file_system {
            let device = |path| beneath::stat(root, path).map(|stat| stat.st_dev);
            if device(folder_of(path))? != device(start.name())? {
                return Ok(AtSource::Unsent);
            }
        }
        let is_too_large = FileType::from_raw_mode(stat.st_mode).is_file()
            && !self.filter.takes_bytes(u64::try_from(stat.st_size).unwrap_or_default());
        Ok(if is_too_large { AtSource::Unsent } else { AtSource::Present })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::filter::{Bounds, Verdict};

    #[test]
    fn what_is_there_is_told_from_what_is_gone_and_from_what_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
        fs::create_dir_all(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("tree/sub/file"), "data").unwrap();
        fs::write(dir.path().join("tree/large"), "much data").unwrap();
        fs::write(dir.path().join("other/too"), "").unwrap();
        symlink("nowhere", dir.path().join("tree/link")).unwrap();
        let mut filter = Filter::within(Bounds { bytes_max: Some(5), ..Bounds::default() });
        filter.add(Verdict::Exclude, b"cache/").unwrap();
        let filter = Arc::new(filter);
        let start = |typed: &str| Start::new(&dir.path().join(typed)).unwrap();
        let (gone, present, excluded, unsent) =
            (AtSource::Gone, AtSource::Present, AtSource::Excluded, AtSource::Unsent);

        let mut probe = Probe::new(&[start("tree/"), start("other/")], Arc::clone(&filter));
        assert_eq!(probe.scopes(), [b"", b""]);
        for (path, is_folder, want) in [
            ("sub", true, present),
            ("sub/file", false, present),
            ("sub/none", false, gone),
            ("none/deep", false, gone),
            ("link", false, present),
            ("too", false, present),
            ("large", false, unsent),
            ("cache", true, excluded),
            ("cache/deep/er", false, excluded),
            ("cache", false, gone),
        ] {
            assert_eq!(probe.look(path.as_bytes(), is_folder).unwrap(), want, "{path}");
        }
        // What is a file there cannot tell what is in it.
        assert!(probe.look(b"sub/file/in", false).is_err());

        let mut named = Probe::new(&[start("tree"), start("other/too")], filter);
        assert_eq!(named.scopes(), [b"tree"]);
        assert_eq!(named.look(b"tree/sub/file", false).unwrap(), present);
        assert_eq!(named.look(b"tree/none", false).unwrap(), gone);
        assert_eq!(named.look(b"elsewhere", false).unwrap(), unsent);
    }
}
