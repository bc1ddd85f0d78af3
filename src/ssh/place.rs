//! Where a path leads on the far side, for a user who has just logged in there.
//!
//! Paths are relative to the home folder, and links on the way are followed as the user's shell would: the server
//! then begins at a folder that has none above it. For what is written, that is a folder in which the user may
//! keep a journal, and the same one whenever the same is pushed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::store::reason;
use crate::text::shown;

/// The folder to serve, and what is asked for below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) paths: Vec<Vec<u8>>,
}

/// Where something is to be written.
pub(super) fn to_write(home: &Path, typed: &[u8]) -> Result<Place, String> {
    let (whole, is_folder) = whole(home, typed)?;
    let cannot = |error: io::Error| format!("cannot write to {}: {}", said(typed), reason(&error));
    let follows = is_folder || whole.is_dir();
    let (there, missing) = resolve(&whole, follows).map_err(cannot)?;
    let whole = there.join(missing);
    let home = home.canonicalize().ok().filter(|home| whole.starts_with(home) && may_write(home));
    let root = home.unwrap_or_else(|| writable_above(&whole, &there));
    let path = below(&root, &whole, is_folder);
    Ok(Place { root, paths: vec![path] })
}

/// Where something is to be read.
pub(super) fn to_read(home: &Path, typed: &[Vec<u8>]) -> Result<Place, String> {
    let root = PathBuf::from("/");
    let path = |typed: &Vec<u8>| {
        let (whole, is_folder) = whole(home, typed)?;
        let cannot = |error: io::Error| format!("cannot read {}: {}", said(typed), reason(&error));
        // What is a link itself is sent as one.
        let (there, missing) = resolve(&whole, is_folder).map_err(cannot)?;
        Ok(below(&root, &there.join(missing), is_folder))
    };
    let paths = typed.iter().map(path).collect::<Result<_, String>>()?;
    Ok(Place { root, paths })
}

/// Paths below a root that was set beforehand: they are what they are there, wherever they seem to begin.
pub(super) fn below_root(typed: &[u8]) -> Vec<u8> {
    let typed = typed.strip_prefix(b"~/").unwrap_or(typed);
    let names = typed.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let mut path = names.collect::<Vec<_>>().join(&b'/');
    if names_contents(typed) && !path.is_empty() {
        path.push(b'/');
    }
    path
}

fn said(typed: &[u8]) -> String {
    if typed.is_empty() { "the home folder".into() } else { shown(typed) }
}

/// Whether a folder's contents are meant, and not the folder.
fn names_contents(typed: &[u8]) -> bool {
    typed.is_empty() || typed == b"." || typed.ends_with(b"/") || typed.ends_with(b"/.")
}

/// A path from the top, and whether it is meant to be a folder.
fn whole(home: &Path, typed: &[u8]) -> Result<(PathBuf, bool), String> {
    let path = match typed {
        b"~" => b"",
        typed => typed.strip_prefix(b"~/").unwrap_or(typed),
    };
    if path.starts_with(b"~") {
        return Err(format!(
            "{}: homes of other users are not looked up: write the whole path, or ./~ for a name that begins so",
            shown(typed)
        ));
    }
    if path.split(|&byte| byte == b'/').any(|name| name == b"..") {
        return Err(format!(
            "{}: the path may not hold .. : write it as it is from the top",
            shown(typed)
        ));
    }
    // Its components are without those that mean nothing.
    let whole: PathBuf = home.join(OsStr::from_bytes(path)).components().collect();
    Ok((whole, names_contents(path)))
}

/// What there is of a path, all links followed but the last name's if that is asked for, and what is missing.
fn resolve(whole: &Path, follows_last: bool) -> io::Result<(PathBuf, PathBuf)> {
    let (mut there, mut missing) = (whole.to_owned(), PathBuf::new());
    loop {
        let is_last = missing.as_os_str().is_empty();
        let is_kept = is_last && !follows_last && there.is_symlink();
        let found =
            if is_kept { Err(io::ErrorKind::NotFound.into()) } else { there.canonicalize() };
        match found {
            Ok(found) => return Ok((found, missing)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(name) = there.file_name().map(OsStr::to_owned) else { return Err(error) };
                missing = if is_last { name.into() } else { Path::new(&name).join(missing) };
                there.pop();
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first folder on the way to `whole` that may be written to; what is `there` of it, if there is none.
fn writable_above(whole: &Path, there: &Path) -> PathBuf {
    let mut above: Vec<_> = whole.ancestors().skip(1).filter(|above| above.is_dir()).collect();
    // The top is left alone where another one does.
    above.rotate_right(1);
    above.reverse();
    let found = above.iter().copied().find(|above| may_write(above));
    let there = if there.is_dir() { there } else { there.parent().unwrap_or(there) };
    found.unwrap_or(there).to_owned()
}

fn may_write(folder: &Path) -> bool {
    access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn below(root: &Path, whole: &Path, is_folder: bool) -> Vec<u8> {
    let path = whole.strip_prefix(root).unwrap_or(whole);
    let mut path = path.as_os_str().to_owned().into_vec();
    if is_folder && !path.is_empty() {
        path.push(b'/');
    }
    path
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(paths: &[Vec<u8>]) -> Vec<String> {
        paths.iter().map(|path| String::from_utf8(path.clone()).unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_below_the_home_folder_or_one_that_may_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (home, disk) = (top.join("home"), top.join("disk"));
        fs::create_dir_all(home.join("docs")).unwrap();
        fs::create_dir_all(disk.join("big")).unwrap();
        symlink(disk.join("big"), home.join("data")).unwrap();
        symlink("docs", home.join("near")).unwrap();
        symlink("nowhere", home.join("broken")).unwrap();
        let disk = disk.to_str().unwrap();
        for (typed, path) in [
            ("docs/new/deep", "docs/new/deep"),
            ("docs/", "docs/"),
            ("./docs", "docs"),
            ("docs/.", "docs/"),
            ("~/docs//x", "docs/x"),
            ("", ""),
            (".", ""),
            ("~", ""),
            ("near/x", "docs/x"),
            ("near", "docs"),
            ("broken", "broken"),
            (&format!("{}/docs/x", home.display()), "docs/x"),
        ] {
            let place = to_write(&home, typed.as_bytes()).unwrap();
            assert_eq!((&place.root, text(&place.paths)), (&home, vec![path.into()]), "{typed}");
        }
        let root = writable_above(&top.join("disk/big"), &top.join("disk/big"));
        for typed in ["data/x/", &format!("{disk}/big/x/")] {
            let place = to_write(&home, typed.as_bytes()).unwrap();
            let whole = format!("{disk}/big/x/");
            let path = whole.strip_prefix(root.to_str().unwrap()).unwrap();
            assert_eq!(place.root, root, "{typed}");
            assert_eq!(text(&place.paths), [path.trim_start_matches('/')], "{typed}");
        }
        let before = to_write(&home, format!("{disk}/new").as_bytes()).unwrap();
        fs::create_dir(top.join("disk/new")).unwrap();
        let after = to_write(&home, format!("{disk}/new").as_bytes()).unwrap();
        assert_eq!(before, after, "a run that was interrupted is found again");
    }

    #[test]
    fn what_is_read_may_be_anywhere_and_a_link_is_sent_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        fs::create_dir(home.join("docs")).unwrap();
        symlink("docs", home.join("near")).unwrap();
        let typed = ["near", "near/", "near/x", "/etc/hosts", ""];
        let typed: Vec<_> = typed.iter().map(|typed| typed.as_bytes().to_vec()).collect();
        let place = to_read(&home, &typed).unwrap();
        let below = home.to_str().unwrap().trim_start_matches('/');
        let want = ["near", "docs/", "docs/x"].map(|path| format!("{below}/{path}"));
        assert_eq!(place.root, Path::new("/"));
        assert_eq!(text(&place.paths[..3]), want);
        assert!(place.paths[3].ends_with(b"hosts"));
        assert_eq!(text(&place.paths[4..]), [format!("{below}/")]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_a_root_is_a_bound() {
        let home = Path::new("/nowhere");
        for typed in ["../x", "a/../b", "~root/x"] {
            assert!(to_write(home, typed.as_bytes()).is_err(), "{typed}");
            assert!(to_read(home, &[typed.as_bytes().to_vec()]).is_err(), "{typed}");
        }
        for (typed, path) in [
            ("/etc/x", "etc/x"),
            ("~/a//b/", "a/b/"),
            ("", ""),
            (".", ""),
            ("./a/.", "a/"),
            ("../x", "../x"),
        ] {
            assert_eq!(below_root(typed.as_bytes()), path.as_bytes(), "{typed}");
        }
    }
}
