//! What comes from a pipe: it is read once, in order, and nobody knows how much it is until it ends.
//!
//! The last chunk is held back until the end has been seen, and of a command until it has ended well: without it,
//! the receiver gives the file no name.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::error::{Error, reason};
use crate::mutex::lock;
use crate::text::shown;
use bytes::Bytes;

/// What is read at a time, in bytes: a node of the file's hash tree.
const CHUNK_BYTES: usize = 1 << 20;

/// A source that is read once. A copy of it is the same source.
#[derive(Clone)]
pub struct StreamSource(Arc<Mutex<Option<Input>>>);

enum Input {
    Reader(Box<dyn Read + Send>),
    Command(Vec<OsString>),
}

/// A part of what was read.
#[derive(Clone, Debug)]
pub(crate) struct StreamChunk {
    /// Where it starts, in bytes.
    pub(super) offset: u64,
    pub(super) data: Bytes,
    /// How much it is in all, if this is the last one.
    pub(super) total: Option<u64>,
}

/// What comes of reading.
pub(super) enum Bit {
    /// What was read next.
    Chunk(StreamChunk),
    /// There is no end to be had, for this reason.
    Broken(String),
}

impl fmt::Debug for StreamSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSource").finish_non_exhaustive()
    }
}

impl StreamSource {
    /// What is read from `reader` until its end.
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Input::Reader(Box::new(reader))))))
    }

    /// What this command writes to its standard output, if it then ends well.
    pub fn command(command: Vec<OsString>) -> Self {
        Self(Arc::new(Mutex::new(Some(Input::Command(command)))))
    }

    /// Begins to read, for whoever is first.
    pub(super) fn begin(&self) -> Result<Reading, Error> {
        let input = lock(&self.0).take();
        match input {
            Some(Input::Reader(reader)) => Ok(Reading { reader, child: None }),
            Some(Input::Command(command)) => start(&command),
            None => Err(Error::Disk("what came from the pipe cannot be read again".into())),
        }
    }
}

fn start(command: &[OsString]) -> Result<Reading, Error> {
    let Some((program, args)) = command.split_first() else {
        return Err(Error::Usage("there is no command".into()));
    };
    let name = shown(program.as_encoded_bytes());
    let cannot = |error: io::Error| Error::Disk(format!("cannot run {name}: {}", reason(&error)));
    let mut child = Command::new(program);
    child.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().map_err(cannot)?;
    let Some(output) = child.stdout.take() else {
        return Err(Error::Disk(format!("cannot read what {name} writes")));
    };
    Ok(Reading { reader: Box::new(output), child: Some((name, child)) })
}

/// A source that is being read.
pub(super) struct Reading {
    reader: Box<dyn Read + Send>,
    child: Option<(String, Child)>,
}

impl Reading {
    /// Reads to the end, and has `each` chunk taken, unless that says that nobody wants it any more.
    pub(super) fn run(mut self, mut each: impl FnMut(Bit) -> bool) {
        let last = match self.read(&mut each) {
            Ok(Some(last)) => Some(Bit::Chunk(last)),
            Ok(None) => None,
            Err(why) => Some(Bit::Broken(why)),
        };
        if let Some(last) = last {
            each(last);
        }
        if let Some((name, mut child)) = self.child {
            // It has ended, or writes to nobody.
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                tracing::warn!(name, %error, "a command cannot be ended");
            }
        }
    }

    /// Hands on all chunks but the last, which is returned. `None` if nobody wants them.
    fn read(&mut self, each: &mut impl FnMut(Bit) -> bool) -> Result<Option<StreamChunk>, String> {
        let cannot = |error: io::Error| format!("cannot read the pipe: {}", reason(&error));
        let (mut offset, mut data) = (0, self.chunk().map_err(cannot)?);
        loop {
            let is_full = data.len() == CHUNK_BYTES;
            let next = if is_full { self.chunk().map_err(cannot)? } else { Vec::new() };
            let end = offset + data.len() as u64;
            if next.is_empty() {
                self.end()?;
                return Ok(Some(StreamChunk { offset, data: data.into(), total: Some(end) }));
            }
            let chunk = StreamChunk { offset, data: data.into(), total: None };
            if !each(Bit::Chunk(chunk)) {
                return Ok(None);
            }
            (offset, data) = (end, next);
        }
    }

    /// That a command has ended well.
    fn end(&mut self) -> Result<(), String> {
        let Some((name, mut child)) = self.child.take() else { return Ok(()) };
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(format!("{name} has failed ({status}): nothing is kept of what it wrote"))
            }
            Err(error) => Err(format!("it is not known how {name} has ended: {}", reason(&error))),
        }
    }

    /// What comes next, up to a whole chunk; less is all that there is.
    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut data = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        while filled < CHUNK_BYTES {
            match self.reader.read(&mut data[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        data.truncate(filled);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a chunk starts, how long it is, and how much it is in all if it is the last one.
    type Told = (u64, usize, Option<u64>);

    /// What is told of a source: where chunks start, how long they are and the total of the last, and what is wrong.
    fn told(source: &StreamSource) -> (Vec<Told>, Option<String>) {
        let (mut chunks, mut broken) = (Vec::new(), None);
        source.begin().unwrap().run(|read| {
            match read {
                Bit::Chunk(chunk) => chunks.push((chunk.offset, chunk.data.len(), chunk.total)),
                Bit::Broken(why) => broken = Some(why),
            }
            true
        });
        (chunks, broken)
    }

    #[test]
    fn the_last_chunk_is_known_as_such_and_never_empty_but_for_nothing() {
        const MIB: u64 = CHUNK_BYTES as u64;
        for (bytes, want) in [
            (0, vec![(0, 0, Some(0))]),
            (5, vec![(0, 5, Some(5))]),
            (MIB, vec![(0, CHUNK_BYTES, Some(MIB))]),
            (MIB + 1, vec![(0, CHUNK_BYTES, None), (MIB, 1, Some(MIB + 1))]),
            (2 * MIB, vec![(0, CHUNK_BYTES, None), (MIB, CHUNK_BYTES, Some(2 * MIB))]),
        ] {
            let source = StreamSource::reader(io::repeat(7).take(bytes));
            assert_eq!(told(&source), (want, None), "{bytes}");
            assert!(source.begin().is_err(), "it is read once");
        }
    }

    #[test]
    fn of_a_command_that_fails_the_last_chunk_is_not_handed_on() {
        let command =
            |script: &str| StreamSource::command(["sh", "-c", script].map(OsString::from).into());
        assert_eq!(told(&command("printf data")), (vec![(0, 4, Some(4))], None));
        let (chunks, broken) = told(&command("printf data; exit 3"));
        assert!(chunks.is_empty() && broken.unwrap().contains("sh has failed (exit status: 3)"));
        let (chunks, broken) = told(&command("head -c 1500000 /dev/zero; kill -9 $$"));
        assert_eq!((chunks, broken.is_some()), (vec![(0, CHUNK_BYTES, None)], true));
        let none = StreamSource::command(vec!["/nonexistent/command".into()]);
        assert!(none.begin().is_err_and(|error| error.to_string().contains("cannot run")));
    }
}
