//! Lists of keys in files that are read again when they have changed.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{IdentityError, files::is_missing, guard};
use crate::mutex::lock;
use crate::text::shown;

/// A list of keys, as it is in a file.
pub(super) trait KeyList: Sized {
    /// What it means that the file cannot be used: see [`Self::closed`].
    const CLOSED: &'static str;
    /// What it means that a line cannot be understood.
    const UNCLEAR: &'static str;
    /// Whether there may be no such file: then nothing is said of any key.
    const MAY_BE_MISSING: bool;

    /// What counts while the file cannot be used: nobody is let in by it.
    fn closed() -> Self;

    /// What counts where there is no file and there may be none.
    fn empty() -> Self;

    /// Reads what can be understood, and has the reason for each line that cannot be.
    fn read(text: &str) -> (Self, Vec<(usize, String)>);
}

/// A file that is read again when it has changed, so that what is written there counts from then on.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    seen: Mutex<Seen<T>>,
}

#[derive(Debug)]
struct Seen<T> {
    /// Of the file that the keys are from; without it, the file is read again.
    stamp: Option<Stamp>,
    keys: T,
    /// What is wrong with it, which has been said.
    told: BTreeSet<String>,
}

/// What changes with a file: device, inode, length, and when its content and it were changed.
type Stamp = (u64, u64, u64, [i64; 2], [i64; 2]);

/// A file that was changed so short a time ago may change again without looking different.
const STAMP_AGE_MIN: Duration = Duration::from_secs(1);

impl<T: KeyList> Watched<T> {
    /// Loads a file, which must be in order now: `load` reads it, and minds what cannot be understood.
    pub(super) fn load(
        path: &Path,
        load: impl FnOnce(&Path) -> Result<T, IdentityError>,
    ) -> Result<Self, IdentityError> {
        guard::check(path)?;
        let stamp = stamp(path);
        let seen = Seen { stamp, keys: load(path)?, told: BTreeSet::new() };
        Ok(Self { path: path.to_owned(), seen: Mutex::new(seen) })
    }

    /// Looks at the list as the file is now. Where it cannot be read for a reason that says nothing about it, such
    /// as too many open files, it counts as it was. What is wrong is warned of, once.
    pub(super) fn with_current<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let mut seen = lock(&self.seen);
        let stamp = stamp(&self.path);
        let warnings = match guard::check(&self.path) {
            Err(error) => seen.close(format!("{error}: {}", T::CLOSED)),
            Ok(()) if stamp.is_none() || stamp != seen.stamp => {
                seen.update(&self.path, stamp, fs::read(&self.path))
            }
            Ok(()) => Vec::new(),
        };
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        look(&seen.keys)
    }
}

impl<T: KeyList> Seen<T> {
    /// Takes over what was read. Returns what was not said about it before.
    fn update(
        &mut self,
        path: &Path,
        stamp: Option<Stamp>,
        contents: io::Result<Vec<u8>>,
    ) -> Vec<String> {
        let file = path.display();
        let mut wrong = BTreeSet::new();
        match contents {
            Ok(text) => {
                let (keys, unclear) = T::read(&shown(&text));
                self.keys = keys;
                wrong.extend(unclear.into_iter().map(|(number, reason)| {
                    format!("{file}, line {number}: {reason}: {}", T::UNCLEAR)
                }));
                self.stamp = stamp;
            }
            Err(error) if T::MAY_BE_MISSING && is_missing(&error) => {
                self.keys = T::empty();
                self.stamp = stamp;
            }
            Err(error) if is_about_the_file(&error) => {
                self.keys = T::closed();
                self.stamp = stamp;
                wrong.insert(format!("cannot read {file}: {error}: {}", T::CLOSED));
            }
            Err(error) => {
                // It is tried again at the next opportunity.
                self.stamp = None;
                wrong.insert(format!(
                    "cannot read {file}: {error}: the keys that it had count until it can be read"
                ));
            }
        }
        self.tell(wrong)
    }

    /// The file cannot be used, whatever it says.
    fn close(&mut self, why: String) -> Vec<String> {
        self.keys = T::closed();
        // It is read again once it can be.
        self.stamp = None;
        self.tell(BTreeSet::from([why]))
    }

    fn tell(&mut self, wrong: BTreeSet<String>) -> Vec<String> {
        let new = wrong.difference(&self.told).cloned().collect();
        self.told = wrong;
        new
    }
}

/// Whether an error says that the file is not to be read, and not that it cannot be read just now.
fn is_about_the_file(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, PermissionDenied};
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    matches!(error.kind(), IsADirectory | PermissionDenied) || is_loop || is_missing(error)
}

/// `None` if a later change could look the same.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let seconds = u64::try_from(found.ctime()).ok()?;
    let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).ok()?;
    let times = ([found.mtime(), found.mtime_nsec()], [found.ctime(), found.ctime_nsec()]);
    // The time of the change is cut to whole seconds here.
    let is_old = age > STAMP_AGE_MIN + Duration::from_secs(1);
    is_old.then_some((found.dev(), found.ino(), found.len(), times.0, times.1))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::trust::tests::{A, B, with_file};
    use super::super::{AuthorizedKeys, Fingerprint};
    use super::*;

    fn nothing_seen() -> Seen<AuthorizedKeys> {
        Seen { stamp: None, keys: AuthorizedKeys::empty(), told: BTreeSet::new() }
    }

    #[test]
    fn a_file_that_was_just_changed_is_read_again() {
        let (_dir, path) = with_file(A);
        assert!(stamp(&path).is_none(), "it is too new to be remembered");
        let old = SystemTime::now() - Duration::from_secs(3_600);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        assert!(stamp(&path).is_none(), "its own time of change counts");
    }

    #[test]
    fn what_cannot_be_read_for_the_moment_counts_as_it_was() {
        let path = Path::new("authorized_keys");
        let [a, b] = [A, B].map(|key| key.parse::<Fingerprint>().unwrap());
        let stamp = Some((1, 1, 1, [1, 1], [1, 1]));
        for (errno, stays) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::IO, true),
            (Errno::STALE, true),
            (Errno::NOENT, false),
            (Errno::NOTDIR, false),
            (Errno::ACCESS, false),
            (Errno::ISDIR, false),
        ] {
            let mut seen = nothing_seen();
            seen.update(path, stamp, Ok(format!("{A}\n").into_bytes()));
            assert_eq!(seen.stamp, stamp);
            seen.update(path, stamp, Err(errno.into()));
            assert_eq!(seen.keys.contains(&a), stays, "{errno}");
            assert_eq!(seen.stamp.is_none(), stays, "{errno}: it is tried again");
            seen.update(path, stamp, Ok(format!("{B}\n").into_bytes()));
            assert_eq!([a, b].map(|key| seen.keys.contains(&key)), [false, true], "{errno}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_once() {
        let path = Path::new("authorized_keys");
        let mut seen = nothing_seen();
        let mut update = |contents| seen.update(path, None, contents);
        let bad = |last: &str| Ok(format!("mistyped\n{A} Jos\u{e9}\n{last}").into_bytes());
        let said = update(bad(""));
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("authorized_keys, line 1: \"mistyped\""), "{said:?}");
        assert!(update(bad("")).is_empty());
        let said = update(bad("SHA256:\n"));
        assert!(said.len() == 1 && said[0].contains("line 3"), "{said:?}");
        let denied = || Err(Errno::ACCESS.into());
        assert_eq!([update(denied()).len(), update(denied()).len()], [1, 0]);
        assert!(update(Ok(format!("{A} Jos\u{e9}").into_bytes())).is_empty());
        assert_eq!(update(bad("")).len(), 1, "it was right in between");
        assert_eq!(seen.close("loose".into()), ["loose"]);
        assert!(seen.close("loose".into()).is_empty() && !seen.keys.contains(&A.parse().unwrap()));
    }
}
