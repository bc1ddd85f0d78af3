//! A file that the user names to be written to.
//!
//! A regular file is replaced as a whole, by one that gets its name once it is complete; a link stays, and
//! what it leads to is replaced. Whatever else has the name, such as a device, a pipe or a descriptor of this
//! process, is written through.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use crate::folder::parent;

/// As many as Linux follows.
const LINKS_MAX: usize = 40;
/// What is new is for others to read at most, however much the user allows for.
const NEW_MODE: u32 = 0o644;

/// Where to write to, looked at before there is anything to write.
pub struct Target(Kind);

enum Kind {
    File {
        path: PathBuf,
        /// What is there now.
        old: Option<Old>,
    },
    /// Open already, so that what cannot be written to is known now.
    Stream(File),
    /// Opened only once there is something to write, as that waits for a reader.
    Pipe(PathBuf),
}

/// What is kept of a file that is replaced.
#[derive(Clone, Copy)]
struct Old {
    mode: u32,
    owner: (u32, u32),
    id: (u64, u64),
}

impl Target {
    /// Looks what is at `path`, and whether it can be written to.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
            let name = name.ok_or(io::ErrorKind::IsADirectory)?;
            if let Some(file) = descriptor(&path, name)? {
                return Ok(Self(Kind::Stream(file)));
            }
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self(Kind::File { path, old: None }));
                }
                Err(error) => return Err(error),
            };
            let kind = found.file_type();
            if kind.is_symlink() {
                path = parent(&path).join(fs::read_link(&path)?);
            } else if kind.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            } else if kind.is_file() {
                return Ok(Self(Kind::File { path, old: Some(Old::of(&found)) }));
            } else if kind.is_fifo() {
                rustix::fs::access(&path, Access::WRITE_OK)?;
                return Ok(Self(Kind::Pipe(path)));
            } else {
                return Ok(Self(Kind::Stream(open(&path, false)?)));
            }
        }
        Err(Errno::LOOP.into())
    }

    /// A file without a name, for what is not complete yet: nobody who looks through a folder finds it, and
    /// it goes with the process. Fails if there can be no file where this one is to be.
    pub fn draft(&self) -> io::Result<File> {
        match &self.0 {
            Kind::File { path, .. } => nameless(parent(path)),
            Kind::Stream(_) | Kind::Pipe(_) => tempfile::tempfile(),
        }
    }

    /// Device and inode of the regular file that is there now, and its name.
    pub fn replaces(&self) -> Option<((u64, u64), &OsStr)> {
        match &self.0 {
            Kind::File { path, old: Some(old) } => Some((old.id, path.file_name()?)),
            _ => None,
        }
    }

    /// Writes what `contents` does. May wait for a reader.
    pub fn write(self, contents: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        match self.0 {
            Kind::File { path, old } => replace(&path, old, contents),
            Kind::Stream(mut file) => contents(&mut file),
            Kind::Pipe(path) => contents(&mut open(&path, false)?),
        }
    }
}

impl Old {
    fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o777,
            owner: (metadata.uid(), metadata.gid()),
            id: (metadata.dev(), metadata.ino()),
        }
    }

    /// Gives these to the file that replaces it: the owner as far as that is allowed.
    fn keep(self, file: &File) -> io::Result<()> {
        let (uid, gid) = self.owner;
        if Self::of(&file.metadata()?).owner != self.owner
            && let Err(error) =
                fchown(file, Some(uid), Some(gid)).or_else(|_| fchown(file, None, Some(gid)))
        {
            tracing::debug!(%error, "the owner is not kept");
        }
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

fn replace(
    path: &Path,
    old: Option<Old>,
    contents: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut temp = tempfile::Builder::new()
        .prefix(".unfinished-")
        .permissions(Permissions::from_mode(NEW_MODE))
        .tempfile_in(parent(path))?;
    contents(temp.as_file_mut())?;
    if let Some(old) = old {
        old.keep(temp.as_file())?;
    }
    temp.as_file().sync_all()?;
    temp.persist(path)?;
    File::open(parent(path))?.sync_all()
}

/// The descriptor that a path such as `/dev/stdout` or `/dev/fd/3` stands for: a file behind it is written
/// on, where it is.
fn descriptor(path: &Path, name: &OsStr) -> io::Result<Option<File>> {
    let Some(number) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
        return Ok(None);
    };
    let Ok(folder) = fs::canonicalize(parent(path)) else { return Ok(None) };
    let is_of_processes = folder.starts_with("/proc") && folder.ends_with("fd");
    if !is_of_processes && folder != Path::new("/dev/fd") {
        return Ok(None);
    }
    let own = fs::canonicalize("/proc/self/fd").unwrap_or_else(|_| "/dev/fd".into());
    let shared = match number {
        1 if folder == own => io::stdout().as_fd().try_clone_to_owned()?,
        2 if folder == own => io::stderr().as_fd().try_clone_to_owned()?,
        _ => return open(path, true).map(Some),
    };
    Ok(Some(shared.into()))
}

fn open(path: &Path, append: bool) -> io::Result<File> {
    let flags = OFlags::NOCTTY.bits().cast_signed();
    OpenOptions::new().write(true).append(append).custom_flags(flags).open(path)
}

/// A file without a name in `folder`, or where such are made if it has no place for them.
fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => return Ok(file.into()),
        // Whoever knows nothing of it takes the folder itself to be meant.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // A file that is removed while it is open may stay visible, as on NFS: not in a folder that is read.
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    tempfile::tempfile()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::thread;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn write(path: &Path, text: &str) -> io::Result<()> {
        Target::new(path)?.write(|file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o133, 0, "for others to read at most");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut before = File::open(&path).unwrap();
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let mut old = String::new();
        before.read_to_string(&mut old).unwrap();
        assert_eq!(old, "one");
        let failed = Target::new(&path).unwrap().write(|file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink("sub/two", at("one")).unwrap();
        symlink("three", at("sub/two")).unwrap();
        for text in ["new", "newer"] {
            write(&at("one"), text).unwrap();
            assert_eq!(fs::read_to_string(at("sub/three")).unwrap(), text);
        }
        assert!(at("one").is_symlink() && at("sub/two").is_symlink());
        symlink("round", at("round")).unwrap();
        for path in [at("round"), at("sub"), at("sub/"), at("sub/three/x"), at("no/x")] {
            assert!(Target::new(&path).and_then(|target| target.draft()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn devices_and_pipes_are_written_through() {
        let dir = tempfile::tempdir().unwrap();
        write(Path::new("/dev/null"), "text").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let link = dir.path().join("link");
        symlink("/dev/full", &link).unwrap();
        assert_eq!(write(&link, "text").unwrap_err().kind(), io::ErrorKind::StorageFull);

        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        write(&pipe, "text").unwrap();
        assert_eq!(reader.join().unwrap(), "text");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_file_behind_a_descriptor_is_written_on() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before ").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for folder in ["/dev/fd", "/proc/self/fd"] {
            write(&Path::new(folder).join(file.as_raw_fd().to_string()), "text ").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "before text text ");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(Target::new(Path::new("/dev/fd/99999")).is_err());
    }
}
