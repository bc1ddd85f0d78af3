//! File to file: a source, a fresh target for every run, and a look at what arrived.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::load::Load;
use crate::place::Place;
use crate::rounds::{Row, Sample};

/// What programs take beside the files, so that the last of a file finds memory that was just used as well.
pub(crate) const SPARE_BYTES: u64 = 256 << 20;

/// Something to move from `source` into the folder `target`.
#[derive(Clone)]
pub(crate) struct Job {
    /// A folder for what the programs need beside the files.
    pub(crate) place: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) load: Load,
    is_tmpfs: bool,
}

impl Job {
    pub(crate) fn new(place: &Place, load: Load) -> Self {
        let (path, is_tmpfs) = (place.path().to_owned(), place.is_tmpfs);
        Self {
            source: path.join("source"),
            target: path.join("target"),
            place: path,
            load,
            is_tmpfs,
        }
    }

    pub(crate) fn generate(&self) -> Result<()> {
        self.load.generate(&self.source)?;
        self.settle();
        Ok(())
    }

    pub(crate) fn remove(&self) -> Result<()> {
        remove(&self.source)
    }

    /// Moves the source by `run`, and sees whether all of it arrived.
    pub(crate) fn row(
        &self,
        name: impl Into<String>,
        run: impl Fn(&Self) -> Result<Sample> + 'static,
    ) -> Row {
        let job = self.clone();
        Row::new(name, move || job.run(&run))
    }

    fn run(&self, run: impl Fn(&Self) -> Result<Sample>) -> Result<Sample> {
        fs::create_dir(&self.target)?;
        self.warm_up()?;
        let sample = run(self)?;
        self.load.compare(&self.source, &self.target.join("source"))?;
        remove(&self.target)?;
        self.settle();
        Ok(sample)
    }

    /// Why `run` cannot be measured here, if so: tried with a file of one byte.
    pub(crate) fn trial(&self, run: impl Fn(&Self) -> Result<Sample>) -> Option<String> {
        let trial = || -> Result<()> {
            let folder = tempfile::Builder::new().prefix("trial-").tempdir_in(&self.place)?;
            let place = folder.path().to_owned();
            let (source, target) = (place.join("source"), place.join("target"));
            let job = Self { source, target, place, load: Load::file(1), is_tmpfs: true };
            job.generate()?;
            job.run(run)?;
            Ok(())
        };
        trial().err().map(|error| error.to_string())
    }

    /// Memory that was not used for a while may have to come from the host of a virtual machine first,
    /// which takes longer than to copy to it: every row finds as much that was just used.
    fn warm_up(&self) -> Result<()> {
        if self.is_tmpfs {
            let path = self.place.join("warm-up");
            let mut file = fs::File::create(&path)?;
            let bytes = self.load.disk_bytes() + SPARE_BYTES;
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// What one row leaves to be written to a disk must not burden the next.
    fn settle(&self) {
        if !self.is_tmpfs {
            rustix::fs::sync();
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    Ok(if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }?)
}
