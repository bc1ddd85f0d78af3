//! The clients that a server lets in, in `authorized_keys`, and what each may do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Fingerprint, IdentityError,
    files::is_missing,
    grant::Grant,
    trust::{entries, for_each_entry},
};
use crate::mutex::lock;

/// The clients a server lets in: lines of `SHA256:...` and an optional comment, with `#` comments
/// and blank lines. In front of a key there may be what it is allowed, as [`Grant::parse`] reads it; a key
/// that is there several times may do what any of its lines allows.
#[derive(Debug, Default)]
pub struct AuthorizedKeys {
    /// Those of which something is said that cannot be understood are allowed nothing.
    keys: BTreeMap<Fingerprint, Vec<Grant>>,
}

impl AuthorizedKeys {
    /// Loads a file; one that does not exist authorises nobody.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let mut keys = Self::default();
        for_each_entry(path, |_, line| {
            keys.add(line)?;
            Ok(())
        })?;
        Ok(keys)
    }

    /// Whether this key may come in.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        self.grants(key).is_some_and(|grants| !grants.is_empty())
    }

    /// What this key is allowed: nothing if what is said of it cannot be understood, and `None` if nothing is
    /// said of it.
    pub fn grants(&self, key: &Fingerprint) -> Option<&[Grant]> {
        self.keys.get(key).map(Vec::as_slice)
    }

    /// All keys of which something is said.
    pub fn fingerprints(&self) -> impl Iterator<Item = &Fingerprint> {
        self.keys.keys()
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (key, grant) = authorized_key(line)?;
        self.keys.entry(key).or_default().push(grant);
        Ok(())
    }

    /// Reads what can be understood, and has the reason for each line that cannot be. A key that such a line
    /// is about gets nothing, whatever other lines say: they may not say all that was meant.
    fn read(text: &str) -> (Self, Vec<(usize, String)>) {
        let (mut keys, mut wrong) = (Self::default(), Vec::new());
        let mut unclear = BTreeSet::<Fingerprint>::new();
        for (number, line) in entries(text) {
            if let Err(reason) = keys.add(line) {
                wrong.push((number, reason));
                unclear.extend(
                    line.split_whitespace().find_map(|word| word.parse::<Fingerprint>().ok()),
                );
            }
        }
        keys.keys.extend(unclear.into_iter().map(|key| (key, Vec::new())));
        (keys, wrong)
    }
}

/// An `authorized_keys` that is read again when it has changed, so that a key that is taken out of it
/// lets nobody in from then on.
#[derive(Debug)]
pub struct AuthorizedKeysFile {
    path: PathBuf,
    read: Mutex<ReadKeys>,
}

#[derive(Debug, Default)]
struct ReadKeys {
    /// Of the file that the keys are from; without it, the file is read again.
    stamp: Option<Stamp>,
    keys: AuthorizedKeys,
    /// What is wrong with it, which has been said.
    told: BTreeSet<String>,
}

/// What changes with a file: device, inode, length, and when its content and it were changed.
type Stamp = (u64, u64, u64, [i64; 2], [i64; 2]);

/// A file that was changed so short a time ago may change again without looking different.
const STAMP_AGE_MIN: Duration = Duration::from_secs(1);

impl AuthorizedKeysFile {
    /// Loads a file, which must be in order now; one that does not exist authorises nobody.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let stamp = stamp(path);
        let keys = AuthorizedKeys::load(path)?;
        let read = ReadKeys { stamp, keys, told: BTreeSet::new() };
        Ok(Self { path: path.to_owned(), read: Mutex::new(read) })
    }

    /// Whether this key may come in, as the file is now. A line that cannot be understood lets nobody
    /// in. Where the file cannot be read for a reason that says nothing about it, such as too many open
    /// files, it counts as it was. Both are warned of, once.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        self.with_current(|keys| keys.contains(key))
    }

    /// What this key is allowed, as the file is now; see [`AuthorizedKeys::grants`].
    pub fn grants(&self, key: &Fingerprint) -> Option<Vec<Grant>> {
        self.with_current(|keys| keys.grants(key).map(<[_]>::to_vec))
    }

    fn with_current<T>(&self, look: impl FnOnce(&AuthorizedKeys) -> T) -> T {
        let mut read = lock(&self.read);
        let stamp = stamp(&self.path);
        if stamp.is_none() || stamp != read.stamp {
            for warning in read.update(&self.path, stamp, fs::read(&self.path)) {
                tracing::warn!("{warning}");
            }
        }
        look(&read.keys)
    }
}

impl ReadKeys {
    /// Takes over what was read. Returns what was not said about it before.
    fn update(
        &mut self,
        path: &Path,
        stamp: Option<Stamp>,
        contents: io::Result<Vec<u8>>,
    ) -> Vec<String> {
        let shown = path.display();
        let mut wrong = BTreeSet::new();
        match contents {
            Ok(text) => {
                let (keys, unclear) = AuthorizedKeys::read(&crate::text::shown(&text));
                self.keys = keys;
                wrong.extend(unclear.into_iter().map(|(number, reason)| {
                    format!("{shown}, line {number}: {reason}: its key may do nothing")
                }));
                self.stamp = stamp;
            }
            Err(error) if is_missing(&error) => {
                self.keys = AuthorizedKeys::default();
                self.stamp = stamp;
            }
            Err(error) if is_about_the_file(&error) => {
                self.keys = AuthorizedKeys::default();
                self.stamp = stamp;
                wrong.insert(format!("cannot read {shown}: {error}: none of its keys is accepted"));
            }
            Err(error) => {
                // It is tried again at the next opportunity.
                self.stamp = None;
                wrong.insert(format!(
                    "cannot read {shown}: {error}: the keys that it had count until it can be read"
                ));
            }
        }
        let new = wrong.difference(&self.told).cloned().collect();
        self.told = wrong;
        new
    }
}

/// Whether an error says that the file is not to be read, and not that it cannot be read just now.
fn is_about_the_file(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, PermissionDenied};
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    matches!(error.kind(), IsADirectory | PermissionDenied) || is_loop
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

/// A key, and what its line allows it.
fn authorized_key(line: &str) -> Result<(Fingerprint, Grant), String> {
    let mut options = Vec::new();
    let mut words = line.split_whitespace();
    let key = loop {
        match words.next() {
            Some(word) if word.contains('=') && !word.starts_with("SHA256:") => options.push(word),
            word => break word.unwrap_or_default(),
        }
    };
    let key = key.parse().map_err(|error: IdentityError| error.to_string())?;
    // Behind the key, it would be a comment, and allow more than was meant.
    if let Some(option) = words.find(|word| Grant::is_option(word)) {
        return Err(format!("{option:?} is behind the key: options come before it"));
    }
    Ok((key, Grant::parse(options)?))
}

#[cfg(test)]
mod tests {
    use super::super::trust::tests::{A, B, with_file};
    use super::*;

    #[test]
    fn authorized_keys_are_found() {
        let (_dir, path) = with_file(&format!("# all\n\n{A} alice on her laptop\n"));
        let keys = AuthorizedKeys::load(&path).unwrap();
        assert!(keys.contains(&A.parse().unwrap()));
        assert!(!keys.contains(&B.parse().unwrap()));
        assert_eq!(keys.fingerprints().count(), 1);

        let (_dir, path) = with_file(&format!("{A}\nalice {B}\n"));
        let error = AuthorizedKeys::load(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}, line 2: \"alice\" is not", path.display())));
        assert!(AuthorizedKeys::load(Path::new("/nonexistent")).unwrap().keys.is_empty());
    }

    #[test]
    fn what_is_taken_out_of_authorized_keys_lets_nobody_in_any_more() {
        let [a, b] = [A, B].map(|key| key.parse().unwrap());
        let (_dir, path) = with_file(&format!("{A}\n"));
        let file = AuthorizedKeysFile::load(&path).unwrap();
        let lets_in = || [a, b].map(|key| file.contains(&key));
        assert_eq!(lets_in(), [true, false]);
        // As long as before, and within the same moment.
        fs::write(&path, format!("{B}\n")).unwrap();
        assert_eq!(lets_in(), [false, true]);
        fs::write(&path, format!("{A}\nmistyped {B}\n")).unwrap();
        assert_eq!(lets_in(), [true, false], "the other lines count");
        fs::remove_file(&path).unwrap();
        assert_eq!(lets_in(), [false, false]);
        fs::write(&path, format!("{A}\n")).unwrap();
        assert_eq!(lets_in(), [true, false]);
        assert!(stamp(&path).is_none(), "it is too new to be remembered");
        let old = SystemTime::now() - Duration::from_secs(3_600);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        assert!(stamp(&path).is_none(), "its own time of change counts");

        fs::write(&path, "mistyped").unwrap();
        assert!(AuthorizedKeysFile::load(&path).is_err());
    }

    #[test]
    fn what_cannot_be_read_for_the_moment_counts_as_it_was() {
        use rustix::io::Errno;
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
            let mut read = ReadKeys::default();
            read.update(path, stamp, Ok(format!("{A}\n").into_bytes()));
            assert_eq!(read.stamp, stamp);
            read.update(path, stamp, Err(errno.into()));
            assert_eq!(read.keys.contains(&a), stays, "{errno}");
            assert_eq!(read.stamp.is_none(), stays, "{errno}: it is tried again");
            read.update(path, stamp, Ok(format!("{B}\n").into_bytes()));
            assert_eq!([a, b].map(|key| read.keys.contains(&key)), [false, true], "{errno}");
        }
    }

    #[test]
    fn what_is_wrong_with_authorized_keys_is_said_once() {
        let path = Path::new("authorized_keys");
        let mut read = ReadKeys::default();
        let mut update = |contents| read.update(path, None, contents);
        let bad = |last: &str| Ok(format!("mistyped\n{A} Jos\u{e9}\n{last}").into_bytes());
        let said = update(bad(""));
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("authorized_keys, line 1: \"mistyped\""), "{said:?}");
        assert!(update(bad("")).is_empty());
        let said = update(bad("SHA256:\n"));
        assert!(said.len() == 1 && said[0].contains("line 3"), "{said:?}");
        let denied = || Err(rustix::io::Errno::ACCESS.into());
        assert_eq!([update(denied()).len(), update(denied()).len()], [1, 0]);
        assert!(update(Ok(format!("{A} Jos\u{e9}").into_bytes())).is_empty());
        assert_eq!(update(bad("")).len(), 1, "it was right in between");
    }

    #[test]
    fn a_line_says_what_its_key_may_do() {
        let text = format!(
            "access=read root=media,scratch {A} alice\naccess=append\t{A}\n  root=media   {B}\n"
        );
        let (keys, wrong) = AuthorizedKeys::read(&text);
        assert!(wrong.is_empty(), "{wrong:?}");
        let [a, b] = [A, B].map(|key| key.parse().unwrap());
        let media = "media".parse().unwrap();
        let total = |key, root| Grant::total(keys.grants(key).unwrap(), root).to_string();
        assert_eq!([total(&a, None), total(&a, Some(&media))], ["append", "read and append"]);
        assert_eq!([total(&b, None), total(&b, Some(&media))], ["nothing", "both"]);
    }

    #[test]
    fn a_key_with_a_line_that_is_not_understood_gets_nothing_at_all() {
        for bad in [
            format!("acces=read {A}"),
            format!("access=none {A}"),
            format!("root= {A}"),
            format!("{A} access=read"),
            format!("no-pty {A}"),
            format!("access=read,root=media {A} laptop"),
            format!("access=read {A}x {A}"),
        ] {
            // Also where another line would let it do everything.
            let (keys, wrong) = AuthorizedKeys::read(&format!("{A}\n{bad}\n{B}\n"));
            assert_eq!(wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2], "{bad}");
            let [a, b] = [A, B].map(|key| keys.contains(&key.parse().unwrap()));
            assert_eq!([a, b], [false, true], "{bad}");
            assert_eq!(keys.grants(&A.parse().unwrap()), Some(&[] as &[Grant]), "{bad}");
            let (_dir, path) = with_file(&bad);
            AuthorizedKeys::load(&path).unwrap_err();
        }
    }
}
