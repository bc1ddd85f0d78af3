//! The servers whose keys are known, in `known_hosts`.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Fingerprint, IdentityError,
    files::{create_private_dir, failed, is_missing},
};

/// The servers whose keys are known: lines of `host:port SHA256:...`, with `#` comments and blank
/// lines.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    hosts: BTreeMap<String, KnownHost>,
}

#[derive(Debug)]
struct KnownHost {
    key: Fingerprint,
    /// The same line twice is what two first contacts at once may leave behind.
    lines: Vec<usize>,
}

impl KnownHosts {
    /// Loads a file; one that does not exist knows no hosts.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let mut hosts = BTreeMap::new();
        for_each_entry(path, |number, line| {
            let (host, key) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            check_host(host).map_err(|reason| format!("{host:?}: {reason}"))?;
            let key: Fingerprint = key.trim().parse().map_err(|e: IdentityError| e.to_string())?;
            let known =
                hosts.entry(host.to_owned()).or_insert(KnownHost { key, lines: Vec::new() });
            if known.key != key {
                return Err(format!("{host} has another key above: remove the line that is wrong"));
            }
            known.lines.push(number);
            Ok(())
        })?;
        Ok(Self { path: path.to_owned(), hosts })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key of a host, given as `host:port`.
    pub fn lookup(&self, host: &str) -> Option<Fingerprint> {
        self.hosts.get(host).map(|known| known.key)
    }

    /// The lines that say what the key of a host is, counted from one.
    pub fn lines(&self, host: &str) -> &[usize] {
        self.hosts.get(host).map_or(&[], |known| &known.lines)
    }

    /// Adds the key of a host (`host:port`) here and at the end of the file.
    ///
    /// Adding a known key again does nothing; a host's key is never changed, also where another process
    /// has added it meanwhile.
    pub fn add(&mut self, host: &str, key: Fingerprint) -> Result<(), IdentityError> {
        check_host(host)
            .map_err(|reason| IdentityError::BadName { name: host.to_owned(), reason })?;
        if self.is_known(host, key)? {
            return Ok(());
        }
        let path = self.path.clone();
        append_line(&path, &format!("{host} {key}\n"), || {
            *self = Self::load(&path)?;
            self.is_known(host, key)
        })?;
        *self = Self::load(&path)?;
        Ok(())
    }

    /// Whether this very key is known; another one is an error.
    fn is_known(&self, host: &str, key: Fingerprint) -> Result<bool, IdentityError> {
        match self.lookup(host) {
            Some(known) if known != key => Err(IdentityError::HostKeyChanged {
                path: self.path.clone(),
                line: self.lines(host).first().copied().unwrap_or_default(),
                host: host.to_owned(),
                known,
                offered: key,
            }),
            known => Ok(known.is_some()),
        }
    }
}

/// Calls `entry` for every line of a file that is neither blank nor a comment. A bad line is an
/// error and not skipped: a typing mistake must not silently change who is trusted.
pub(super) fn for_each_entry(
    path: &Path,
    mut entry: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), IdentityError> {
    let text = match fs::read_to_string(path) {
        Err(error) if is_missing(&error) => return Ok(()),
        text => text.map_err(failed("read", path))?,
    };
    for (line, text) in entries(&text) {
        entry(line, text).map_err(|reason| IdentityError::BadLine {
            path: path.to_owned(),
            line,
            reason,
        })?;
    }
    Ok(())
}

/// The lines that are neither blank nor comments, with their numbers, counted from one.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
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

/// Appends a line, unless `is_there` says that it is there by now: nobody else appends meanwhile. What
/// cannot be written whole is taken back, as half a line would make the file useless.
fn append_line(
    path: &Path,
    line: &str,
    is_there: impl FnOnce() -> Result<bool, IdentityError>,
) -> Result<(), IdentityError> {
    let failed = || failed("write", path);
    if let Some(dir) = path.parent() {
        create_private_dir(dir)?;
    }
    let is_new = !path.exists();
    let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let mut file = open().map_err(|error| failed()(error))?;
    lock_file(&file);
    if is_there()? {
        return Ok(());
    }
    let mut append = || {
        let before = file.metadata()?.len();
        // A file edited by hand may lack its last newline.
        let mut last = [b'\n'];
        if before > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let gap = if last == [b'\n'] { "" } else { "\n" };
        let written = file.write_all(format!("{gap}{line}").as_bytes());
        if written.is_err() {
            file.set_len(before)?;
            if is_new && before == 0 {
                fs::remove_file(path)?;
            }
        }
        written
    };
    append().map_err(|error| failed()(error))
}

/// Waits until no other process appends. File systems without locks are taken on trust: one write in append
/// mode does not mix with others.
fn lock_file(file: &fs::File) {
    if let Err(error) = rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive) {
        tracing::debug!(%error, "not locked");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        os::unix::fs::{MetadataExt, PermissionsExt},
        thread,
    };

    use super::*;

    pub(in crate::identity) const A: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    pub(in crate::identity) const B: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    /// A file that says so, and the folder that it goes with.
    pub(in crate::identity) fn with_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, text).unwrap();
        // Whatever the umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
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
        assert!(matches!(error, IdentityError::HostKeyChanged { line: 1, .. }));
        for bad in ["no port:1", "#a:1", "a:1\nb:2", "a"] {
            assert!(matches!(
                hosts.add(bad, B.parse().unwrap()),
                Err(IdentityError::BadName { .. })
            ));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a:1 {A}\n"));
    }

    #[test]
    fn what_another_process_has_added_meanwhile_counts() {
        let (_dir, path) = with_file("# mine\n");
        let load = || KnownHosts::load(&path).unwrap();
        let (mut one, mut two, mut three) = (load(), load(), load());
        one.add("a:1", A.parse().unwrap()).unwrap();
        two.add("a:1", A.parse().unwrap()).unwrap();
        let error = three.add("a:1", B.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# mine\na:1 {A}\n"));
        assert_eq!(two.lines("a:1"), [2]);
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
        assert_eq!(KnownHosts::load(&path).unwrap().hosts.len(), 50);
    }
}
