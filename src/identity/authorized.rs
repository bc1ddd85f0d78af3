//! The clients that a server lets in, in `authorized_keys`, and what each may do.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    Fingerprint, IdentityError,
    grant::Grant,
    trust::{entries, for_each_entry},
    watched::{KeyList, Watched},
};

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
}

impl KeyList for AuthorizedKeys {
    const CLOSED: &'static str = "none of its keys is accepted";
    const UNCLEAR: &'static str = "its key may do nothing";
    const MAY_BE_MISSING: bool = true;

    fn closed() -> Self {
        Self::default()
    }

    fn empty() -> Self {
        Self::default()
    }

    /// A key that a line is about that cannot be understood gets nothing, whatever other lines say: they may not
    /// say all that was meant.
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
/// lets nobody in from then on. While somebody else could change it, it lets nobody in.
#[derive(Debug)]
pub struct AuthorizedKeysFile(Watched<AuthorizedKeys>);

impl AuthorizedKeysFile {
    /// Loads a file, which must be in order now; one that does not exist authorises nobody.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Watched::load(path, AuthorizedKeys::load).map(Self)
    }

    /// Whether this key may come in, as the file is now. A line that cannot be understood lets nobody
    /// in. Where the file cannot be read for a reason that says nothing about it, such as too many open
    /// files, it counts as it was. Both are warned of, once.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        self.0.with_current(|keys| keys.contains(key))
    }

    /// What this key is allowed, as the file is now; see [`AuthorizedKeys::grants`].
    pub fn grants(&self, key: &Fingerprint) -> Option<Vec<Grant>> {
        self.0.with_current(|keys| keys.grants(key).map(<[_]>::to_vec))
    }
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

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
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o664);
        assert_eq!(lets_in(), [false, false], "others may write to it");
        let error = AuthorizedKeysFile::load(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod go-w {}", path.display())), "{error}");
        set(0o644);
        assert_eq!(lets_in(), [true, false]);

        fs::write(&path, "mistyped").unwrap();
        assert!(AuthorizedKeysFile::load(&path).is_err());
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
