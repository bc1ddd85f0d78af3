//! The files that say whom to trust: servers in `known_hosts`, clients in `authorized_keys`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Fingerprint, IdentityError,
    files::{create_private_dir, failed},
};
use crate::mutex::lock;

/// The servers whose keys are known: lines of `host:port SHA256:...`, with `#` comments and blank
/// lines.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    keys: BTreeMap<String, Fingerprint>,
}

impl KnownHosts {
    /// Loads a file; one that does not exist knows no hosts.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let mut keys = BTreeMap::new();
        for_each_entry(path, |line| {
            let (host, key) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            check_host(host).map_err(|reason| format!("{host:?}: {reason}"))?;
            let key: Fingerprint = key.trim().parse().map_err(|e: IdentityError| e.to_string())?;
            match keys.insert(host.to_owned(), key) {
                // The same line twice is what two first contacts at once leave behind.
                Some(other) if other != key => {
                    Err(format!("{host} has another key above: remove the line that is wrong"))
                }
                _ => Ok(()),
            }
        })?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// The key of a host, given as `host:port`.
    pub fn lookup(&self, host: &str) -> Option<Fingerprint> {
        self.keys.get(host).copied()
    }

    /// Adds the key of a host (`host:port`) here and at the end of the file.
    ///
    /// Adding a known key again does nothing; a host's key is never changed.
    pub fn add(&mut self, host: &str, key: Fingerprint) -> Result<(), IdentityError> {
        check_host(host)
            .map_err(|reason| IdentityError::BadName { name: host.to_owned(), reason })?;
        match self.lookup(host) {
            Some(known) if known == key => Ok(()),
            Some(known) => Err(IdentityError::HostKeyChanged {
                path: self.path.clone(),
                host: host.to_owned(),
                known,
                offered: key,
            }),
            None => {
                append_line(&self.path, &format!("{host} {key}\n"))?;
                self.keys.insert(host.to_owned(), key);
                Ok(())
            }
        }
    }
}

/// The clients a server lets in: lines of `SHA256:...` and an optional comment, with `#` comments
/// and blank lines.
#[derive(Debug)]
pub struct AuthorizedKeys {
    keys: BTreeSet<Fingerprint>,
}

impl AuthorizedKeys {
    /// Loads a file; one that does not exist authorises nobody.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let mut keys = BTreeSet::new();
        for_each_entry(path, |line| {
            keys.insert(authorized_key(line)?);
            Ok(())
        })?;
        Ok(Self { keys })
    }

    /// Whether this key may come in.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        self.keys.contains(key)
    }

    /// All keys that may come in.
    pub fn fingerprints(&self) -> &BTreeSet<Fingerprint> {
        &self.keys
    }
}

/// An `authorized_keys` that is read again when it has changed, so that a key that is taken out of it
/// lets nobody in from then on.
#[derive(Debug)]
pub struct AuthorizedKeysFile {
    path: PathBuf,
    read: Mutex<ReadKeys>,
}

#[derive(Debug)]
struct ReadKeys {
    stamp: Option<Stamp>,
    keys: BTreeSet<Fingerprint>,
}

/// What changes with a file: device, inode, length, and when its content and it were changed.
type Stamp = (u64, u64, u64, [i64; 2], [i64; 2]);

/// A file that was changed so short a time ago may change again without looking different.
const STAMP_AGE_MIN: Duration = Duration::from_secs(1);

impl AuthorizedKeysFile {
    /// Loads a file, which must be in order now; one that does not exist authorises nobody.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let stamp = stamp(path);
        let keys = AuthorizedKeys::load(path)?.keys;
        Ok(Self { path: path.to_owned(), read: Mutex::new(ReadKeys { stamp, keys }) })
    }

    /// Whether this key may come in, as the file is now. A line that cannot be understood lets nobody
    /// in, and neither does a file that cannot be read; both are warned of.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        let mut read = lock(&self.read);
        let stamp = stamp(&self.path);
        if stamp.is_none() || stamp != read.stamp {
            *read = ReadKeys { stamp, keys: self.read_again() };
        }
        read.keys.contains(key)
    }

    fn read_again(&self) -> BTreeSet<Fingerprint> {
        let path = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::warn!("cannot read {path}: {error}: none of its keys is accepted");
                String::new()
            }
            Ok(text) => text,
        };
        let mut keys = BTreeSet::new();
        for (number, line) in entries(&text) {
            match authorized_key(line) {
                Ok(key) => drop(keys.insert(key)),
                Err(reason) => tracing::warn!("{path}, line {number}: {reason}: it is passed over"),
            }
        }
        keys
    }
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

fn authorized_key(line: &str) -> Result<Fingerprint, String> {
    let key = line.split_whitespace().next().unwrap_or_default();
    key.parse().map_err(|error: IdentityError| error.to_string())
}

/// Calls `entry` for every line of a file that is neither blank nor a comment. A bad line is an
/// error and not skipped: a typing mistake must not silently change who is trusted.
fn for_each_entry(
    path: &Path,
    mut entry: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), IdentityError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(failed("read", path))?,
    };
    for (line, text) in entries(&text) {
        entry(text).map_err(|reason| IdentityError::BadLine {
            path: path.to_owned(),
            line,
            reason,
        })?;
    }
    Ok(())
}

/// The lines that are neither blank nor comments, with their numbers, counted from one.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let named = host
        .rsplit_once(':')
        .is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
    if !named || host.starts_with('#') || host.contains(char::is_whitespace) {
        return Err("expected host:port");
    }
    Ok(())
}

/// Appends with one write in append mode, so that lines of several processes do not mix.
fn append_line(path: &Path, line: &str) -> Result<(), IdentityError> {
    if let Some(dir) = path.parent() {
        create_private_dir(dir)?;
    }
    let append = || {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        // A file edited by hand may lack its last newline.
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let gap = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{gap}{line}").as_bytes())
    };
    append().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, thread};

    use super::*;

    const A: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    const B: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn with_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn known_hosts_are_found() {
        let (_dir, path) =
            with_file(&format!("# mine\n\n  a.example:4433 {A}\r\n[::1]:1\t {B}  \n[::1]:1 {B}"));
        let hosts = KnownHosts::load(&path).unwrap();
        assert_eq!(hosts.lookup("a.example:4433"), Some(A.parse().unwrap()));
        assert_eq!(hosts.lookup("[::1]:1"), Some(B.parse().unwrap()));
        assert_eq!(hosts.lookup("a.example:4434"), None);
        assert_eq!(hosts.lookup("a.example"), None);
    }

    #[test]
    fn bad_known_hosts_name_file_and_line() {
        for (bad, why) in [
            ("a:1".to_owned(), "\"\" is not a key fingerprint"),
            ("a:1 SHA256:short".to_owned(), "\"SHA256:short\" is not"),
            (format!("a:1 {A} extra"), "is not a key fingerprint"),
            (format!("a {A}"), "\"a\": expected host:port"),
            (format!(":1 {A}"), "expected host:port"),
            (format!("a:99999 {A}"), "expected host:port"),
            (format!("good:1 {B}"), "good:1 has another key above"),
        ] {
            let (_dir, path) = with_file(&format!("# one\ngood:1 {A}\n{bad}\n"));
            let error = KnownHosts::load(&path).unwrap_err().to_string();
            let place = format!("{}, line 3: ", path.display());
            assert!(error.starts_with(&place) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn added_hosts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config/known_hosts");
        let mut hosts = KnownHosts::load(&path).unwrap();
        hosts.add("a:1", A.parse().unwrap()).unwrap();
        hosts.add("a:1", A.parse().unwrap()).unwrap();
        hosts.add("b:1", B.parse().unwrap()).unwrap();
        assert_eq!(hosts.lookup("a:1"), Some(A.parse().unwrap()));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a:1 {A}\nb:1 {B}\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(KnownHosts::load(&path).unwrap().lookup("b:1"), Some(B.parse().unwrap()));
    }

    #[test]
    fn adding_never_changes_a_key() {
        let (_dir, path) = with_file(&format!("a:1 {A}\n"));
        let mut hosts = KnownHosts::load(&path).unwrap();
        let error = hosts.add("a:1", B.parse().unwrap()).unwrap_err();
        assert!(matches!(error, IdentityError::HostKeyChanged { .. }));
        for bad in ["no port:1", "#a:1", "a:1\nb:2", "a"] {
            assert!(matches!(
                hosts.add(bad, B.parse().unwrap()),
                Err(IdentityError::BadName { .. })
            ));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a:1 {A}\n"));
    }

    #[test]
    fn a_missing_last_newline_is_made_up_for() {
        let (_dir, path) = with_file(&format!("a:1 {A}"));
        KnownHosts::load(&path).unwrap().add("b:1", B.parse().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a:1 {A}\nb:1 {B}\n"));
    }

    #[test]
    fn lines_added_at_once_do_not_mix() {
        let (_dir, path) = with_file("");
        let writers: Vec<_> = (1..=50).map(|_| KnownHosts::load(&path).unwrap()).collect();
        thread::scope(|scope| {
            for (port, mut hosts) in (1..).zip(writers) {
                scope.spawn(move || hosts.add(&format!("a:{port}"), A.parse().unwrap()).unwrap());
            }
        });
        assert_eq!(KnownHosts::load(&path).unwrap().keys.len(), 50);
    }

    #[test]
    fn authorized_keys_are_found() {
        let (_dir, path) = with_file(&format!("# all\n\n{A} alice on her laptop\n"));
        let keys = AuthorizedKeys::load(&path).unwrap();
        assert!(keys.contains(&A.parse().unwrap()));
        assert!(!keys.contains(&B.parse().unwrap()));
        assert_eq!(keys.fingerprints().len(), 1);

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
}
