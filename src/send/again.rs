//! What had vanished or changed when it was to be read: it is tried once more when everything else has
//! been read, by which time whoever works at the source may be done with it.

use crate::store::scan::{Entry, Lost, look_again};
use crate::store::source_root::SourcePath;

/// More is not tried again.
const WAITING_MAX: usize = 1 << 16;

/// What waits to be tried again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// Where it was, and its path below the server's root.
    waiting: Vec<(SourcePath, Vec<u8>)>,
    is_looking: bool,
}

impl Again {
    /// Takes something that is to be tried again at the end; false if it is not.
    pub(super) fn add(&mut self, local: SourcePath, path: Vec<u8>) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room && self.waiting.last().is_none_or(|(_, last)| *last != path) {
            self.waiting.push((local, path));
        }
        has_room
    }

    /// Everything else has been read: what there is to look at again, if there is something.
    pub(super) fn begin(&mut self) -> Option<impl FnOnce() -> Vec<Result<Entry, Lost>> + use<>> {
        let waiting = std::mem::take(&mut self.waiting);
        self.is_looking |= !waiting.is_empty();
        let look = |(local, path)| look_again(local, path);
        (!waiting.is_empty()).then_some(move || waiting.into_iter().map(look).collect())
    }

    /// It was looked at.
    pub(super) fn end(&mut self) {
        self.is_looking = false;
    }

    pub(super) fn is_looking(&self) -> bool {
        self.is_looking
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::FailureKind;
    use crate::store::source_root::SourceRoot;

    #[test]
    fn what_is_back_is_found_by_its_path_and_what_is_not_has_vanished() {
        let dir = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(dir.path().as_os_str().as_encoded_bytes()).unwrap();
        let root = Arc::new(root);
        let local = |name: &str| SourcePath::new(Arc::clone(&root), name.into());
        std::fs::write(dir.path().join("back"), b"x").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let mut again = Again::default();
        assert!(again.begin().is_none());
        for name in ["back", "gone", "gone", "folder"] {
            assert!(again.add(local(name), name.into()));
        }
        let found = again.begin().unwrap()();
        assert!(again.is_looking());
        let told: Vec<_> = found
            .into_iter()
            .map(|found| found.map(|entry| entry.remote).map_err(|lost| lost.why.kind))
            .collect();
        let want = [Ok(b"back".into()), Err(FailureKind::Vanished), Err(FailureKind::Changed)];
        assert_eq!(told, want);
        again.end();
        assert!(!again.is_looking() && again.begin().is_none());
    }
}
