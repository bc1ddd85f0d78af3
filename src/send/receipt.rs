//! Writing a push's receipt while it runs.
//!
//! Entries are noted as their hashes become known, before the server has confirmed them, in a file without
//! a name. The receipt is written once all is durable, and what the server has named as failed until then is
//! marked in it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::error::Error;
use crate::event::{Failure, Summary};
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::receipt::{
    Delivery, End, FileEntry, FolderEntry, Head, Line, LinkEntry, Reader, ReceiptError,
    SkippedEntry, VERSION,
};
use crate::store::folder_of;
use crate::store::kind::{FileInfo, Kind};
use crate::store::source::{Outcome, Part, Sealed, SourceKind, Whole};
use crate::store::target::Target;
use crate::store::{reason, shown};
use crate::wire::TransferSecret;

/// A receipt that is being written.
pub(crate) struct Receipt {
    path: PathBuf,
    client: Fingerprint,
    started: SystemTime,
    /// Device, inode and name of the one that is there from before.
    older: Option<((u64, u64), OsString)>,
    out: Mutex<Out>,
}

struct Out {
    /// Where it will be written to, and what is known until then.
    draft: Option<(Target, BufWriter<File>)>,
    has_head: bool,
    /// The first error, after which nothing is written any more.
    error: Option<io::Error>,
}

impl Receipt {
    /// Looks whether it can be written, and begins to take notes.
    pub(crate) fn create(
        path: PathBuf,
        client: Fingerprint,
        started: SystemTime,
    ) -> Result<Self, Error> {
        let draft = Target::new(&path).and_then(|target| {
            let draft = BufWriter::new(target.draft()?);
            Ok((target, draft))
        });
        let draft = draft.map_err(|error| {
            Error::Disk(format!("cannot write the receipt {}: {}", path.display(), reason(&error)))
        })?;
        let older = draft.0.replaces().map(|(id, name)| (id, name.to_owned()));
        let out = Mutex::new(Out { draft: Some(draft), has_head: false, error: None });
        Ok(Self { path, client, started, older, out })
    }

    /// Whether a file at the source is the receipt of an earlier push, which this one replaces.
    pub(super) fn is_at(&self, name: &OsStr, id: (u64, u64)) -> bool {
        let is_it = |(older, its_name): &(_, OsString)| *older == id && its_name == name;
        self.older.as_ref().is_some_and(is_it)
    }

    /// That none of the sources is the receipt itself.
    pub(crate) fn check(&self, sources: &[PathBuf]) -> Result<(), Error> {
        let is_it = |source: &&PathBuf| {
            let found = fs::symlink_metadata(source);
            let name = source.file_name().unwrap_or_default();
            found.is_ok_and(|found| self.is_at(name, (found.dev(), found.ino())))
        };
        match sources.iter().find(is_it) {
            None => Ok(()),
            Some(source) => Err(Error::Usage(format!(
                "{} is to be sent, and is where the receipt is to be written",
                source.display()
            ))),
        }
    }

    /// The server is reached. Comes before everything else; only the first time counts.
    pub(crate) fn begin(
        &self,
        transfer: &TransferSecret,
        server: Option<Fingerprint>,
        (server_name, address): (&str, SocketAddr),
        sources: Vec<String>,
        destination: &[u8],
    ) {
        if std::mem::replace(&mut lock(&self.out).has_head, true) {
            return;
        }
        self.write(&Line::Head(Head {
            version: VERSION,
            transfer: transfer.name(),
            started: rfc3339(self.started),
            client: self.client.to_string(),
            server: server.map(|server| server.to_string()).unwrap_or_default(),
            server_name: server_name.to_owned(),
            address: address.to_string(),
            sources,
            destination: shown(destination),
        }));
    }

    /// Something was delivered here.
    pub(crate) fn deliver(&self, line: &Line) {
        self.write(line);
    }

    /// These parts were read, with what came of it.
    pub(super) fn add(&self, parts: &[Part], outcome: &Outcome) {
        for Part { item, .. } in parts {
            match &item.kind {
                SourceKind::Found(Kind::Folder(meta)) => {
                    self.write(&Line::Folder(FolderEntry::new(&item.path, *meta)));
                }
                SourceKind::Found(Kind::Symlink { target, .. }) => {
                    self.write(&Line::Link(LinkEntry::new(&item.path, target)));
                }
                SourceKind::Found(Kind::File(_) | Kind::Special { .. })
                | SourceKind::Adopt(_)
                | SourceKind::Chunk(_)
                | SourceKind::Link { .. }
                | SourceKind::Seal { .. }
                | SourceKind::Kept { .. }
                | SourceKind::TakeBack { .. } => {}
            }
        }
        for Whole { item, info, hash } in &outcome.whole {
            self.write(&Line::File(FileEntry::new(&item.path, info.bytes, *hash, info.meta)));
        }
        if let Some((item, hash)) = &outcome.streamed
            && let SourceKind::Chunk(chunk) = &item.kind
        {
            let bytes = chunk.data.len() as u64;
            self.write(&Line::File(FileEntry::new(&item.path, bytes, *hash, chunk.meta)));
        }
        for sealed in outcome.sealed.iter().filter(|sealed| !sealed.is_unsure) {
            self.seal(sealed);
        }
    }

    /// All of a file was read in pieces, and it is what it was.
    pub(super) fn seal(&self, sealed: &Sealed) {
        let (bytes, meta) = match &sealed.item.kind {
            SourceKind::Found(Kind::File(info)) => (info.bytes, info.meta),
            SourceKind::Chunk(chunk) => (lock(&chunk.tree).file_bytes(), chunk.meta),
            _ => return,
        };
        self.write(&Line::File(FileEntry::new(&sealed.item.path, bytes, sealed.hash, meta)));
    }

    /// A file that an earlier run has delivered, with the hash that the server has kept of it.
    pub(super) fn add_kept(&self, path: &[u8], info: &FileInfo, hash: [u8; 32]) {
        let entry = FileEntry::new(path, info.bytes, hash, info.meta);
        self.write(&Line::File(FileEntry { kept: true, ..entry }));
    }

    /// A file was not sent because of what is there.
    pub(super) fn add_skipped(&self, path: &[u8], info: &FileInfo) {
        self.write(&Line::Skipped(SkippedEntry::new(path, info.bytes, info.meta)));
    }

    /// Something at the source could not be sent.
    pub(crate) fn fail(&self, failure: &Failure) {
        let Failure { path, reason, .. } = failure.clone();
        self.write(&Line::Failed { path, reason });
    }

    fn write(&self, line: &Line) {
        let Out { draft: Some((_, draft)), error: error @ None, .. } = &mut *lock(&self.out) else {
            return;
        };
        *error = write(draft, line).err();
    }

    /// Everything that the receiver does not name among `failures`, or among `unnamed` more, is durable. Writes
    /// the receipt, and may wait for somebody who reads it.
    pub(crate) fn finish(
        &self,
        summary: &Summary,
        failures: Vec<(Vec<u8>, String)>,
        unnamed: u64,
    ) -> Result<(), Error> {
        let end = End {
            ended: rfc3339(SystemTime::now()),
            files: summary.files,
            bytes: summary.bytes,
            others: summary.others,
            failed: summary.failed,
            failed_unnamed: summary.failed_unnamed,
            complete: summary.failed_unnamed == 0,
        };
        self.complete(end, failures, unnamed).map_err(|error| {
            Error::Disk(format!(
                "everything else was done, but the receipt {} cannot be written: {}",
                self.path.display(),
                reason(&error)
            ))
        })
    }

    fn complete(&self, end: End, failures: Vec<(Vec<u8>, String)>, unnamed: u64) -> io::Result<()> {
        let mut out = lock(&self.out);
        if let Some(error) = out.error.take() {
            return Err(error);
        }
        let Some((target, draft)) = out.draft.take() else { return Ok(()) };
        drop(out);
        let mut draft = draft.into_inner().map_err(io::IntoInnerError::into_error)?;
        target.write(|file| {
            let mut file = BufWriter::new(file);
            if failures.is_empty() && unnamed == 0 {
                draft.rewind()?;
                io::copy(&mut draft, &mut file)?;
            } else {
                let undelivered = Undelivered::new(failures, unnamed);
                undelivered.mark(&mut draft, &mut file)?;
            }
            write(&mut file, &Line::End(end))?;
            file.flush()
        })
    }
}

/// What the server could not make durable.
struct Undelivered {
    /// Reasons by path, as far as the server has named them.
    named: HashMap<Vec<u8>, Named>,
    unnamed: u64,
}

struct Named {
    reason: String,
    is_listed: bool,
}

impl Undelivered {
    fn new(failures: Vec<(Vec<u8>, String)>, unnamed: u64) -> Self {
        let named = failures
            .into_iter()
            .map(|(path, reason)| (path, Named { reason, is_listed: false }))
            .collect();
        Self { named, unnamed }
    }

    /// Copies the lines of a receipt, and marks what was not delivered.
    fn mark(mut self, from: &mut File, to: &mut impl Write) -> io::Result<()> {
        from.rewind()?;
        let mut reader = Reader::new(BufReader::new(from));
        loop {
            // The last line is not there yet.
            let mut line = match reader.next_line() {
                Ok(Some(line)) => line,
                Ok(None) | Err(ReceiptError::CutShort) => break,
                Err(error) => return Err(io::Error::other(error)),
            };
            if let Some((name, delivery)) = line.entry_mut()
                && let Some(reason) = self.reason(&name.bytes().map_err(io::Error::other)?)
            {
                *delivery = Delivery { delivered: false, reason: Some(reason) };
            }
            write(to, &line)?;
        }
        for (path, Named { reason, is_listed }) in self.named {
            if !is_listed {
                write(to, &Line::Failed { path: shown(&path), reason })?;
            }
        }
        Ok(())
    }

    /// Why what is at `path` was not delivered, or why that is not certain.
    fn reason(&mut self, path: &[u8]) -> Option<String> {
        if let Some(named) = self.named.get_mut(path) {
            named.is_listed = true;
            return Some(named.reason.clone());
        }
        // A folder that failed may be one whose names are not durable.
        let mut below = path;
        while !below.is_empty() {
            below = folder_of(below);
            if let Some(Named { reason, .. }) = self.named.get(below) {
                let below = shown(below);
                return Some(format!("not certain: the folder /{below} failed: {reason}"));
            }
        }
        let unnamed = self.unnamed;
        (unnamed > 0).then(|| format!("not certain: {unnamed} failures were not named"))
    }
}

fn write(to: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::FailureKind;
    use crate::identity::Identity;
    use crate::wire::Meta;

    /// What a receipt says of some files, and whether it is complete.
    fn receipt(
        files: &[&[u8]],
        failed: &[&[u8]],
        failed_unnamed: u64,
    ) -> (Vec<(Vec<u8>, bool)>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join("receipt");
        let receipt =
            Receipt::create(path.clone(), identity.fingerprint(), SystemTime::now()).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for _ in 0..2 {
            receipt.begin(&TransferSecret([0; 16]), None, ("host", address), Vec::new(), b"");
        }
        let meta = Meta { mode: 0o644, mtime_s: 0, mtime_ns: 0 };
        for path in files {
            receipt.write(&Line::File(FileEntry::new(path, 1, [0; 32], meta)));
        }
        let (kind, reason) = (FailureKind::Source, "unreadable".into());
        receipt.fail(&Failure { kind, path: "source".into(), reason });
        assert!(!path.exists(), "it is not there before it is finished");
        let summary = Summary { failed_unnamed, ..Summary::default() };
        let failures = failed.iter().map(|path| (path.to_vec(), "full".into())).collect();
        receipt.finish(&summary, failures, failed_unnamed).unwrap();

        let mut reader = Reader::new(BufReader::new(File::open(&path).unwrap()));
        let (mut told, mut complete) = (Vec::new(), false);
        while let Some(mut line) = reader.next_line().unwrap() {
            if let Some((name, delivery)) = line.entry_mut() {
                assert_eq!(delivery.delivered, delivery.reason.is_none());
                told.push((name.bytes().unwrap(), delivery.delivered));
            } else if let Line::Failed { path, .. } = line {
                told.push((path.into_bytes(), false));
            } else if let Line::End(end) = line {
                complete = end.complete;
            }
        }
        drop(receipt);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "no temporary file is left beside the identity and the receipt");
        (told, complete)
    }

    #[test]
    fn only_what_is_certain_is_delivered() {
        const FILES: [&[u8]; 3] = [b"top", b"a/b/file", b"a/bc"];
        for (failed, unnamed, delivered) in [
            (&[] as &[&[u8]], 0, [true, true, true]),
            (&[b"top"], 0, [false, true, true]),
            // Names in a folder, and whatever is below them.
            (&[b"a/b"], 0, [true, false, true]),
            (&[b"a"], 0, [true, false, false]),
            (&[b""], 0, [false, false, false]),
            (&[b"top"], 1, [false, false, false]),
        ] {
            let (told, complete) = receipt(&FILES, failed, unnamed);
            let mut want: Vec<_> = FILES.map(<[u8]>::to_vec).into_iter().zip(delivered).collect();
            want.push((b"source".to_vec(), false));
            let unlisted = failed.iter().filter(|&&path| path != b"top");
            want.extend(unlisted.map(|path| (path.to_vec(), false)));
            assert_eq!((told, complete), (want, unnamed == 0), "{failed:?}");
        }
    }

    #[test]
    fn names_that_look_the_same_are_told_apart() {
        let (told, _) = receipt(&[b"\xfe", b"\xff"], &[b"\xff"], 0);
        let want = [(vec![0xfe], true), (vec![0xff], false), (b"source".to_vec(), false)];
        assert_eq!(told, want);
    }
}
