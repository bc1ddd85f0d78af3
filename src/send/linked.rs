//! Files that have several names at the source: the first name that is found is sent, and the others are told as
//! further names of it.

use std::collections::HashMap;

/// What one takes beside its path, about, in bytes.
const FILE_BYTES: usize = 96;

/// Files with names that were not found yet.
#[derive(Debug)]
pub(super) struct Linked {
    files: HashMap<(u64, u64), First>,
    bytes: usize,
    bytes_max: usize,
    /// There were more than are remembered.
    pub(super) is_full: bool,
}

#[derive(Debug)]
struct First {
    path: Vec<u8>,
    /// Names that are still to be found.
    left: u32,
}

/// What a name that was found is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The first of its file.
    First,
    /// Another one of the file that has this path.
    Of(Vec<u8>),
    /// Perhaps the first; its file is not remembered.
    Unknown,
}

impl Linked {
    /// So much memory may be taken.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { files: HashMap::new(), bytes: 0, bytes_max, is_full: false }
    }

    /// The file `id`, which has `links` names, was found at `path`.
    pub(super) fn find(&mut self, id: (u64, u64), links: u32, path: &[u8]) -> Name {
        if let Some(first) = self.files.get_mut(&id) {
            first.left -= 1;
            if first.left > 0 {
                return Name::Of(first.path.clone());
            }
            self.bytes -= FILE_BYTES + first.path.len();
            return self.files.remove(&id).map_or(Name::Unknown, |first| Name::Of(first.path));
        }
        let bytes = FILE_BYTES + path.len();
        if self.bytes + bytes > self.bytes_max {
            self.is_full = true;
            return Name::Unknown;
        }
        self.bytes += bytes;
        self.files.insert(id, First { path: path.to_vec(), left: links - 1 });
        Name::First
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_are_told_and_forgotten_once_all_are_found() {
        let mut linked = Linked::new(2 * (FILE_BYTES + 1));
        let of = |path: &str| Name::Of(path.into());
        assert_eq!(linked.find((1, 7), 3, b"a"), Name::First);
        assert_eq!(linked.find((2, 7), 2, b"b"), Name::First);
        assert_eq!(linked.find((1, 7), 3, b"c"), of("a"));
        assert_eq!((linked.find((3, 7), 2, b"d"), linked.is_full), (Name::Unknown, true));
        assert_eq!(linked.find((1, 7), 3, b"e"), of("a"));
        assert_eq!(linked.find((3, 7), 2, b"f"), Name::First, "there is room again");
        assert_eq!(linked.find((2, 7), 2, b"g"), of("b"));
        assert_eq!(linked.find((3, 7), 2, b"h"), of("f"));
        assert_eq!((linked.files.len(), linked.bytes), (0, 0));
    }
}
