//! Keys that are let in no more, whoever vouches for them.

use std::{collections::BTreeSet, path::Path};

use super::{
    Fingerprint, IdentityError,
    files::read,
    trust::entries,
    watched::{KeyList, Watched},
};
use crate::text::shown;

/// Lines of `SHA256:...` and an optional comment, with `#` comments and blank lines.
#[derive(Debug)]
enum RevokedKeys {
    These(BTreeSet<Fingerprint>),
    /// It is not known which: all of them.
    All,
}

/// A list of revoked keys that is read again when it has changed. While it cannot be read, or a line of it cannot be
/// understood, every key counts as revoked: it may be on it.
#[derive(Debug)]
pub struct RevokedKeysFile(Watched<RevokedKeys>);

impl RevokedKeysFile {
    /// Loads a file, which must be there and in order now.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let load = |path: &Path| match RevokedKeys::read(&shown(&read(path)?)) {
            (keys, wrong) if wrong.is_empty() => Ok(keys),
            (_, mut wrong) => {
                let (line, reason) = wrong.swap_remove(0);
                Err(IdentityError::BadLine { path: path.to_owned(), line, reason })
            }
        };
        Watched::load(path, load).map(Self)
    }

    /// Whether this key is revoked, as the file is now.
    pub fn contains(&self, key: &Fingerprint) -> bool {
        self.0.with_current(|keys| match keys {
            RevokedKeys::These(keys) => keys.contains(key),
            RevokedKeys::All => true,
        })
    }
}

impl KeyList for RevokedKeys {
    const CLOSED: &'static str = "every key counts as revoked";
    const UNCLEAR: &'static str = Self::CLOSED;
    const MAY_BE_MISSING: bool = false;

    fn closed() -> Self {
        Self::All
    }

    fn empty() -> Self {
        Self::These(BTreeSet::new())
    }

    fn read(text: &str) -> (Self, Vec<(usize, String)>) {
        let (mut keys, mut wrong) = (BTreeSet::new(), Vec::new());
        for (number, line) in entries(text) {
            match line.split_whitespace().next().unwrap_or_default().parse::<Fingerprint>() {
                Ok(key) => drop(keys.insert(key)),
                Err(error) => wrong.push((number, error.to_string())),
            }
        }
        let keys = if wrong.is_empty() { Self::These(keys) } else { Self::All };
        (keys, wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::trust::tests::{A, B, with_file};
    use super::*;

    #[test]
    fn what_is_revoked_counts_at_once_and_an_unclear_list_revokes_all() {
        let [a, b] = [A, B].map(|key| key.parse().unwrap());
        let (_dir, path) = with_file(&format!("# lost laptops\n{A} alice\n\n"));
        let file = RevokedKeysFile::load(&path).unwrap();
        let revoked = || [a, b].map(|key| file.contains(&key));
        assert_eq!(revoked(), [true, false]);
        fs::write(&path, format!("{B}\n")).unwrap();
        assert_eq!(revoked(), [false, true]);
        fs::write(&path, format!("{B}\nmistyped\n")).unwrap();
        assert_eq!(revoked(), [true, true]);
        fs::write(&path, "").unwrap();
        assert_eq!(revoked(), [false, false]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(revoked(), [true, true], "somebody may have taken a key out of it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(revoked(), [false, false]);
        fs::remove_file(&path).unwrap();
        assert_eq!(revoked(), [true, true]);
    }

    #[test]
    fn a_list_must_be_in_order_at_the_start() {
        let (_dir, path) = with_file(&format!("{A}\nmistyped\n"));
        let error = RevokedKeysFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: \"mistyped\""), "{error}");
        let error = RevokedKeysFile::load(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("cannot read /nonexistent"), "{error}");
    }
}
