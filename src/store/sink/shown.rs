//! What a sender hears of what is there.

use super::super::blocks::{BlockHashing, open_file};
use super::super::look::look;
use super::super::tally::Delivered;
use super::table::strip;
use super::{Sink, SinkError};
use crate::wire::{Candidate, Likeness, There};

impl Sink {
    /// What is there of files that the sender may not have to send. Those that are the same get their mode and
    /// time, if that is asked and nothing keeps from it.
    pub fn look(
        &self,
        mut files: Vec<Candidate>,
        likeness: Likeness,
    ) -> Result<Vec<There>, SinkError> {
        if !self.shows {
            return Err(SinkError::Protocol("it may not know what is there".into()));
        }
        for file in &mut files {
            strip(&mut file.path, file.bytes.is_none(), &self.root_name, &self.within)?;
        }
        self.check_disk()?;
        if self.discards {
            return Ok(vec![There::NOTHING; files.len()]);
        }
        let adopts = likeness.adopts && !self.committer.places().is_append_only();
        let there = look(&self.root, &files, likeness, adopts.then_some(&*self.metas));
        for (Candidate { path, bytes, meta, .. }, there) in files.iter().zip(&there) {
            if let &Some(bytes) = bytes
                && self.skip.is_some_and(|skip| skip.skips(*there, likeness))
            {
                self.tally.tell(&Delivered::Skipped { path, bytes, meta: *meta });
            }
        }
        Ok(there)
    }

    /// What the blocks of the file at `path` hash to, which has `bytes` bytes at the source; `None` where there is no
    /// such file.
    pub fn blocks(
        &self,
        mut path: Vec<u8>,
        bytes: u64,
        block_bytes: u64,
    ) -> Result<Option<BlockHashing>, SinkError> {
        if !self.shows || !self.compares.is_any() {
            return Err(SinkError::Protocol("it may not know what content is there".into()));
        }
        strip(&mut path, false, &self.root_name, &self.within)?;
        self.check_disk()?;
        if self.discards {
            return Ok(None);
        }
        let held = self.share.enter(|| ());
        let file = open_file(&self.root, &path);
        drop(held);
        let begin = |file| BlockHashing::new(file, bytes, block_bytes, self.share.hold(1));
        // What cannot be looked at is not the same.
        Ok(file.and_then(begin).ok())
    }
}
