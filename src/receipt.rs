//! What a push has delivered, in a file: one JSON object per line.
//!
//! The first line is a [`Head`], the last one an [`End`]; a file without that is cut short. Both can be
//! written, and read, without keeping more than a line in memory. docs/json.md describes the fields.

use std::io::{BufRead, Read};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::store::shown;
use crate::wire::{Meta, Subject, is_path_safe};

/// The version of everything in this module.
pub const VERSION: u64 = 1;
/// A line's length at most, in bytes.
const LINE_BYTES_MAX: u64 = 128 << 10;

/// A line of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Head(Head),
    /// A file.
    File(FileEntry),
    /// A folder.
    Folder(FolderEntry),
    /// A symbolic link.
    Link(LinkEntry),
    /// A file that was not sent because of what is there, which nobody has compared with it.
    Skipped(SkippedEntry),
    /// Something that was not delivered, and of which nothing more is known.
    Failed {
        /// Its path, at the source or at the destination.
        path: String,
        /// Why.
        reason: String,
    },
    /// The last line.
    End(End),
}

/// Who has sent, what to, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The receipt's format.
    pub version: u64,
    /// The transfer's public number.
    pub transfer: String,
    /// When the push began (RFC 3339, UTC).
    pub started: String,
    /// The fingerprint of the key that the client showed.
    pub client: String,
    /// The fingerprint of the key that the server showed.
    pub server: String,
    /// The server's name, as it was typed.
    pub server_name: String,
    /// The server's address and port.
    pub address: String,
    /// What was pulled, relative to the server's root, as it was typed; empty for a push.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Where to, as it was typed: of a push, relative to the server's root.
    pub destination: String,
}

/// A path relative to the server's root, or of a pull, to where it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The path, with U+FFFD where it is not UTF-8.
    pub path: String,
    /// Its bytes in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

/// Whether something was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// It is durable under its name: the receiver has said so.
    pub delivered: bool,
    /// Why not, or why that is not certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path.
    #[serde(flatten)]
    pub name: Name,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its BLAKE3 hash, as `b3sum` prints it.
    pub blake3: String,
    /// Its permission bits, in octal.
    pub mode: String,
    /// Its modification time, in whole seconds since 1970.
    pub mtime_s: i64,
    /// The rest of it, in nanoseconds.
    pub mtime_ns: u32,
    /// It was delivered by an earlier run of the same push, and the hash is what the server has kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Whether it was delivered.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// A file that was not sent because of what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedEntry {
    /// Its path.
    #[serde(flatten)]
    pub name: Name,
    /// Its size at the source, in bytes.
    pub bytes: u64,
    /// Its modification time at the source, in whole seconds since 1970.
    pub mtime_s: i64,
    /// The rest of it, in nanoseconds.
    pub mtime_ns: u32,
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderEntry {
    /// Its path.
    #[serde(flatten)]
    pub name: Name,
    /// Its permission bits, in octal.
    pub mode: String,
    /// Its modification time, in whole seconds since 1970.
    pub mtime_s: i64,
    /// The rest of it, in nanoseconds.
    pub mtime_ns: u32,
    /// Whether it was delivered.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    /// Its path.
    #[serde(flatten)]
    pub name: Name,
    /// What it says, with U+FFFD where that is not UTF-8.
    pub target: String,
    /// The BLAKE3 hash of what it says.
    pub target_blake3: String,
    /// Whether it was delivered.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// What became of it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When everything was durable (RFC 3339, UTC).
    pub ended: String,
    /// Files that the server has said are durable under their names.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Folders and links that are there.
    pub others: u64,
    /// What was not delivered.
    pub failed: u64,
    /// How much of that the server has counted and not named: nothing above is certain then.
    pub failed_unnamed: u64,
    /// Whether everything that was not delivered is named.
    pub complete: bool,
}

/// Why a receipt cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It has no last line.
    #[error("it is cut short: there is no last line")]
    CutShort,
    /// It is no receipt, or none that this version can read.
    #[error("line {line}: {reason}")]
    Bad {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
}

impl Name {
    /// A path by its bytes.
    pub fn new(path: &[u8]) -> Self {
        let path_base64 = std::str::from_utf8(path).is_err().then(|| BASE64_STANDARD.encode(path));
        Self { path: shown(path), path_base64 }
    }

    /// Its bytes, if it is a path below the root.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = match &self.path_base64 {
            None => self.path.clone().into_bytes(),
            Some(text) => BASE64_STANDARD.decode(text).map_err(|error| error.to_string())?,
        };
        if is_path_safe(&bytes) {
            Ok(bytes)
        } else {
            Err(format!("the path {:?} is not allowed", self.path))
        }
    }
}

impl Delivery {
    /// It was delivered.
    pub fn done() -> Self {
        Self { delivered: true, reason: None }
    }
}

impl FileEntry {
    /// A file that was delivered.
    pub fn new(path: &[u8], bytes: u64, hash: [u8; 32], meta: Meta) -> Self {
        Self {
            name: Name::new(path),
            bytes,
            blake3: blake3::Hash::from_bytes(hash).to_hex().to_string(),
            mode: octal(meta.mode),
            mtime_s: meta.mtime_s,
            mtime_ns: meta.mtime_ns,
            kept: false,
            delivery: Delivery::done(),
        }
    }
}

impl SkippedEntry {
    /// A file that was skipped.
    pub fn new(path: &[u8], bytes: u64, meta: Meta) -> Self {
        Self { name: Name::new(path), bytes, mtime_s: meta.mtime_s, mtime_ns: meta.mtime_ns }
    }
}

impl FolderEntry {
    /// A folder that was delivered.
    pub fn new(path: &[u8], meta: Meta) -> Self {
        let Meta { mode, mtime_s, mtime_ns } = meta;
        let (name, delivery) = (Name::new(path), Delivery::done());
        Self { name, mode: octal(mode), mtime_s, mtime_ns, delivery }
    }
}

impl LinkEntry {
    /// A link that was delivered.
    pub fn new(path: &[u8], target: &[u8]) -> Self {
        Self {
            name: Name::new(path),
            target: shown(target),
            target_blake3: blake3::hash(target).to_hex().to_string(),
            delivery: Delivery::done(),
        }
    }
}

fn octal(mode: u32) -> String {
    format!("{:04o}", mode & 0o777)
}

/// Something that a receipt lists, and what should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path.
    pub path: Vec<u8>,
    /// What it is.
    pub subject: Subject,
    /// A file's hash.
    pub hash: Option<[u8; 32]>,
}

impl Line {
    /// Where and how what was sent was delivered, if this line is about that.
    pub fn entry_mut(&mut self) -> Option<(&Name, &mut Delivery)> {
        match self {
            Self::File(FileEntry { name, delivery, .. })
            | Self::Folder(FolderEntry { name, delivery, .. })
            | Self::Link(LinkEntry { name, delivery, .. }) => Some((name, delivery)),
            Self::Head(_) | Self::Skipped(_) | Self::Failed { .. } | Self::End(_) => None,
        }
    }

    /// What the line lists, if it lists something.
    pub fn listed(&self) -> Result<Option<Listed>, String> {
        let (name, subject, hash) = match self {
            Self::File(file) => {
                let mode = u32::from_str_radix(&file.mode, 8).map_err(|error| error.to_string())?;
                let meta = Meta { mode, mtime_s: file.mtime_s, mtime_ns: file.mtime_ns };
                let subject = Subject::File { bytes: file.bytes, meta };
                (&file.name, subject, Some(parse_hash(&file.blake3)?))
            }
            Self::Folder(folder) => (&folder.name, Subject::Folder, None),
            Self::Link(link) => {
                let target_hash = parse_hash(&link.target_blake3)?;
                (&link.name, Subject::Symlink { target_hash }, None)
            }
            Self::Head(_) | Self::Skipped(_) | Self::Failed { .. } | Self::End(_) => {
                return Ok(None);
            }
        };
        Ok(Some(Listed { path: name.bytes()?, subject, hash }))
    }
}

fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let hash = blake3::Hash::from_hex(text).map_err(|error| error.to_string())?;
    Ok(*hash.as_bytes())
}

/// Reads a receipt line by line, and checks that it is one from its head to its end.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, ended: false }
    }

    /// The next line; `None` after the last one.
    pub fn next_line(&mut self) -> Result<Option<Line>, ReceiptError> {
        let mut text = Vec::new();
        self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        self.line += 1;
        match (text.is_empty(), self.ended) {
            (true, true) => return Ok(None),
            (true, false) => return Err(ReceiptError::CutShort),
            (false, true) => return Err(self.bad("there is more after the last line")),
            (false, false) => {}
        }
        let line: Line =
            serde_json::from_slice(&text).map_err(|error| self.bad(&error.to_string()))?;
        match (&line, self.line) {
            (Line::Head(head), 1) if head.version != VERSION => {
                let version = head.version;
                return Err(self.bad(&format!("version {version} is not known here")));
            }
            (Line::Head(_), 1) => {}
            (_, 1) | (Line::Head(_), _) => return Err(self.bad("it does not begin as a receipt")),
            (Line::End(_), _) => self.ended = true,
            _ => {}
        }
        Ok(Some(line))
    }

    /// That the line that was read last is not as it should be.
    pub fn bad(&self, reason: &str) -> ReceiptError {
        ReceiptError::Bad { line: self.line, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Line {
        let text = || "x".to_owned();
        Line::Head(Head {
            version: VERSION,
            transfer: text(),
            started: text(),
            client: text(),
            server: text(),
            server_name: text(),
            address: text(),
            sources: Vec::new(),
            destination: text(),
        })
    }

    fn end() -> Line {
        let ended = "x".to_owned();
        let (files, bytes, others, failed, failed_unnamed) = (1, 2, 3, 4, 0);
        Line::End(End { ended, files, bytes, others, failed, failed_unnamed, complete: true })
    }

    fn read(lines: &[Line]) -> Result<Vec<Line>, ReceiptError> {
        let text: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        let text = text.concat();
        let mut reader = Reader::new(text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line()? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn what_is_no_whole_receipt_is_refused() {
        assert_eq!(read(&[head(), end()]).unwrap(), [head(), end()]);
        let failed = || Line::Failed { path: "x".into(), reason: "y".into() };
        for lines in
            [&[][..], &[head()], &[end()], &[head(), head(), end()], &[head(), end(), failed()]]
        {
            read(lines).unwrap_err();
        }
        let long = "x".repeat(LINE_BYTES_MAX as usize);
        assert!(Reader::new(long.as_bytes()).next_line().is_err());
        for path in ["../x", "/x", "", "a/../b", "a//b"] {
            assert!(Name::new(path.as_bytes()).bytes().is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_names_are_they_come_back(
            path in "[^/.\0]{1,20}",
            tail in proptest::collection::vec(1_u8..=45, 0..10),
            high in proptest::collection::vec(128_u8..=255, 0..10),
            bytes in any::<u64>(),
            hash in any::<[u8; 32]>(),
        ) {
            let path = [path.as_bytes(), &tail, &high].concat();
            let meta = Meta { mode: 0o640, mtime_s: -7, mtime_ns: 999_999_999 };
            let file = Line::File(FileEntry::new(&path, bytes, hash, meta));
            let read = read(&[head(), file.clone(), end()]).unwrap();
            prop_assert_eq!(&read[1], &file);
            let subject = Subject::File { bytes, meta };
            let listed = Listed { path, subject, hash: Some(hash) };
            prop_assert_eq!(read[1].listed().unwrap(), Some(listed));
        }
    }
}
