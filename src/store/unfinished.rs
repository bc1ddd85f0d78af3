//! Folders whose modes and times wait for the end of their transfer: in memory, and on the disk where that is
//! too much.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use cap_std::fs::Dir;

use super::ration::{Kept as Memory, Ration};
use super::spill::{Left, Spill};

/// What one takes beside its path, about.
pub(super) const FOLDER_BYTES: usize = 128;

/// Folders whose modes are not final yet.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) left: HashMap<Vec<u8>, Left>,
    bytes: usize,
    pub(super) bytes_max: usize,
    pub(super) memory: Memory,
    /// What is too much for memory.
    pub(super) spill: Option<Spill>,
}

impl Unfinished {
    pub(super) fn new(bytes_max: usize, ration: &Arc<Ration>) -> Self {
        let (left, memory) = (HashMap::new(), Memory::none(ration));
        Self { left, bytes: 0, bytes_max, memory, spill: None }
    }

    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        let has_room = self.bytes + bytes <= self.bytes_max && self.memory.add(bytes);
        if has_room {
            self.bytes += bytes;
        }
        has_room
    }

    pub(super) fn spill(&mut self, root: &Dir, path: &[u8], left: &Left) -> io::Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            empty => empty.insert(Spill::new(root)?),
        };
        spill.add(path, left)
    }
}
