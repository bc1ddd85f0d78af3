//! What is moved: made before, compared after.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytesize::ByteSize;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::process::go_on;

const BLOCK_BYTES: usize = 1 << 20;
const FOLDER_FILES: u64 = 1_000;

/// One file, or a folder with folders of files of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) files: u64,
    pub(crate) file_bytes: u64,
}

impl Load {
    pub(crate) fn file(bytes: u64) -> Self {
        Self { files: 1, file_bytes: bytes }
    }

    pub(crate) fn bytes(self) -> u64 {
        self.files * self.file_bytes
    }

    pub(crate) fn is_tree(self) -> bool {
        self.files > 1
    }

    /// Room that it takes on a disk, with a page for what each file needs beside its content.
    pub(crate) fn disk_bytes(self) -> u64 {
        self.files * (self.file_bytes.next_multiple_of(4_096) + 4_096)
    }

    fn paths(self, at: &Path) -> impl Iterator<Item = PathBuf> {
        let folder = move |file| format!("{:04}", file / FOLDER_FILES);
        (0..self.files).map(move |file| {
            if self.is_tree() {
                at.join(folder(file)).join(format!("{file:06}"))
            } else {
                at.to_owned()
            }
        })
    }

    /// Random bytes: nothing can be gained by compressing or leaving out.
    pub(crate) fn generate(self, at: &Path) -> io::Result<()> {
        let mut random = SmallRng::seed_from_u64(7);
        let mut block = vec![0; BLOCK_BYTES];
        for path in self.paths(at) {
            if let (true, Some(folder)) = (self.is_tree(), path.parent()) {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::create_new(path)?;
            let mut left = self.file_bytes;
            while left > 0 {
                let len = left.min(BLOCK_BYTES as u64);
                random.fill_bytes(&mut block[..len as usize]);
                file.write_all(&block[..len as usize])?;
                go_on()?;
                left -= len;
            }
        }
        Ok(())
    }

    /// Compares what arrived with what was sent.
    pub(crate) fn compare(self, sent: &Path, arrived: &Path) -> io::Result<()> {
        let mut buffers = [vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]];
        for (one, other) in self.paths(sent).zip(self.paths(arrived)) {
            if !same(&one, &other, &mut buffers)? {
                let other = other.display();
                return Err(io::Error::other(format!("{other} is not as it was sent")));
            }
        }
        Ok(())
    }
}

fn same(one: &Path, other: &Path, [first, second]: &mut [Vec<u8>; 2]) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    while left > 0 {
        let len = left.min(BLOCK_BYTES as u64) as usize;
        go_on()?;
        one.read_exact(&mut first[..len])?;
        other.read_exact(&mut second[..len])?;
        if first[..len] != second[..len] {
            return Ok(false);
        }
        left -= len as u64;
    }
    Ok(true)
}

/// `1000x1MiB`
impl FromStr for Load {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let parse = || {
            let (files, size) = typed.split_once('x')?;
            let files = files.parse().ok().filter(|files| (2..=1_000_000).contains(files))?;
            Some(Self { files, file_bytes: size.parse::<ByteSize>().ok()?.as_u64() })
        };
        parse().ok_or_else(|| "expected FILESxSIZE, such as 1000x1MiB".into())
    }
}

impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = ByteSize(self.file_bytes).display().iec();
        match self.files {
            1 => write!(out, "1 file of {size}"),
            files => write!(out, "{files} files of {size}"),
        }
    }
}
