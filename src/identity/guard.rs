//! Whether a file that decides who is trusted, or that holds a key, is its user's alone, as ssh asks it
//! (`StrictModes`): who could write to it, or to a folder that leads to it, could let in whomever they like.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::IdentityError;

const GROUP_AND_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// An error unless nobody but its user and root can change the file, or have another one in its place. One that
/// does not exist is in order.
///
/// What counts is what the path leads to, links followed. A folder that everybody may write to is in order if
/// what is there stays its owner's (`/tmp`), and root has made it so.
pub(super) fn check(path: &Path) -> Result<(), IdentityError> {
    // What cannot be looked at cannot be read either, which says why.
    let Ok(real) = path.canonicalize() else { return Ok(()) };
    for (index, part) in real.ancestors().enumerate() {
        let Ok(found) = fs::metadata(part) else { return Ok(()) };
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        let loose = |fault| {
            let (path, part) = (path.to_owned(), part.to_owned());
            Err(IdentityError::TooLoose { path, part, fault })
        };
        if !is_trusted(owner) {
            return loose(Fault::Owner(owner));
        }
        let is_kept_apart = index > 0 && mode & STICKY != 0 && owner == ROOT;
        if mode & GROUP_AND_OTHERS_WRITE != 0 && !is_kept_apart {
            return loose(Fault::Mode(mode));
        }
    }
    Ok(())
}

/// What is wrong with a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It belongs to this user.
    Owner(u32),
    /// Others may write to it: its permission bits.
    Mode(u32),
}

impl Fault {
    /// What it is, and what mends it.
    pub(super) fn told(self, part: &Path) -> String {
        let part = part.display();
        match self {
            Self::Owner(owner) => {
                format!("{part} belongs to user {owner}; to mend it: chown {} {part}", own())
            }
            Self::Mode(mode) => {
                format!(
                    "others may write to {part} (mode {mode:04o}); to mend it: chmod go-w {part}"
                )
            }
        }
    }
}

/// An error unless the key in a file with this owner and mode is a secret of its user. The group may read what
/// is root's: so secrets are handed to services.
pub(super) fn check_key(path: &Path, owner: u32, mode: u32) -> Result<(), IdentityError> {
    let open_to = if owner == ROOT && own() != ROOT { 0o037 } else { 0o077 };
    if mode & open_to != 0 {
        return Err(IdentityError::KeyTooOpen { path: path.to_owned(), mode });
    }
    // Root may act for whoever's key it is; nobody else has a key of another user's by right.
    if own() != ROOT && !is_trusted(owner) {
        let (path, part) = (path.to_owned(), PathBuf::from(path));
        return Err(IdentityError::TooLoose { path, part, fault: Fault::Owner(owner) });
    }
    Ok(())
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn is_trusted(owner: u32) -> bool {
    owner == ROOT || owner == own() || *UNMAPPED == Some(owner)
}

/// In a user namespace, as containers have it: how owners look who are nobody in there. Nobody in there can be
/// them, and outside of it somebody is who has made the container.
static UNMAPPED: LazyLock<Option<u32>> = LazyLock::new(|| {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let looks = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    is_partial(&map).then(|| looks.trim().parse().ok()).flatten()
});

/// Whether there are users outside who are nobody inside.
fn is_partial(map: &str) -> bool {
    let mapped = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    let mapped: u64 = map.lines().filter_map(mapped).sum();
    mapped < u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn fault(path: &Path) -> Option<(PathBuf, Fault)> {
        match check(path) {
            Ok(()) => None,
            Err(IdentityError::TooLoose { part, fault, .. }) => Some((part, fault)),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn who_could_write_to_the_file_or_a_folder_above_it_makes_it_worthless() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (folder, file) = (top.join("config"), top.join("config/authorized_keys"));
        assert_eq!(fault(&file), None, "there is none yet");
        fs::create_dir(&folder).unwrap();
        set(&folder, 0o755);
        fs::write(&file, "").unwrap();
        for (mode, is_loose) in [(0o600, false), (0o644, false), (0o620, true), (0o602, true)] {
            set(&file, mode);
            let want = is_loose.then_some((file.clone(), Fault::Mode(mode)));
            assert_eq!(fault(&file), want, "{mode:o}");
        }
        set(&file, 0o600);
        for (mode, is_loose) in [(0o700, false), (0o755, false), (0o775, true), (0o757, true)] {
            set(&folder, mode);
            let want = is_loose.then_some((folder.clone(), Fault::Mode(mode)));
            assert_eq!(fault(&file), want, "{mode:o}");
        }
        let words = check(&file).unwrap_err().to_string();
        assert!(words.ends_with(&format!("chmod go-w {}", folder.display())), "{words}");
        // What counts is where a link leads.
        let link = top.join("link");
        symlink(&file, &link).unwrap();
        assert!(fault(&link).is_some());
        set(&folder, 0o700);
        assert_eq!(fault(&link), None);
    }

    /// Needs root.
    #[test]
    fn what_belongs_to_somebody_else_is_theirs_to_change() {
        if own() != ROOT {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().canonicalize().unwrap().join("authorized_keys");
        fs::write(&file, "").unwrap();
        set(&file, 0o600);
        chown(&file, Some(1_234), None).unwrap();
        assert_eq!(fault(&file), Some((file.clone(), Fault::Owner(1_234))));
        let words = check(&file).unwrap_err().to_string();
        assert!(words.ends_with(&format!("chown 0 {}", file.display())), "{words}");
        chown(&file, Some(0), None).unwrap();
        assert_eq!(fault(&file), None);
        // A folder that everybody may write to, and that only looks like /tmp.
        set(dir.path(), 0o1777);
        assert_eq!(fault(&file), None);
        chown(dir.path(), Some(1_234), None).unwrap();
        assert!(matches!(fault(&file), Some((_, Fault::Owner(1_234)))));
    }

    #[test]
    fn who_is_nobody_in_a_namespace_is_known_by_its_map() {
        assert!(!is_partial("         0          0 4294967295\n"));
        assert!(is_partial("         0       1000          1\n"));
        assert!(is_partial("0 1000 1\n1 100000 65536\n"));
        assert!(is_partial(""));
    }
}
