//! What tells one push from another, and hosts apart.

use std::os::unix::ffi::OsStrExt;

use crate::store::join;
use crate::store::start::Start;
use crate::wire::{Extras, HostNumber, PushNumber, half};

/// Tells pushes of a client apart: what goes where has the same number whenever it is pushed, however
/// its places are spelt, and whatever the host is called by then.
///
/// The host is no part of it: what could name one (its name, its `machine-id`) changes for containers or
/// is the same for many. Two hosts that push from the same place to the same place with one key share a
/// number, and the server lets both go on: see [`host_number`].
pub(crate) fn push_number(starts: &[Start], destination: &[u8], extras: Extras) -> PushNumber {
    let names = destination.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let destination = names.collect::<Vec<_>>().join(&b'/');
    let mut places: Vec<_> = starts
        .iter()
        .map(|start| {
            // What one thing is called there depends on what is there.
            let there =
                if start.is_leaf { destination.clone() } else { join(&destination, start.name()) };
            (start.place(), there, start.is_leaf)
        })
        .collect();
    places.sort();
    let mut hasher = blake3::Hasher::new_derive_key("qbulk push number 2");
    for (place, there, is_leaf) in &places {
        for bytes in [place.as_os_str().as_bytes(), there] {
            hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
        }
        hasher.update(&[u8::from(*is_leaf)]);
    }
    // What has arrived without some metadata is not what is asked for with it.
    if extras.is_any() {
        hasher.update(&extras.number().to_be_bytes());
    }
    PushNumber(half(&hasher))
}

/// Tells hosts apart while they run, and containers on a host, so that a push that is started again
/// ends an earlier run on the same host, and not one that another host is at.
pub(crate) fn host_number() -> HostNumber {
    let mut hasher = blake3::Hasher::new_derive_key("qbulk host number 1");
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(boot) => hasher.update(&boot),
        Err(_) => hasher.update(rustix::system::uname().nodename().to_bytes()),
    };
    if let Ok(container) = std::fs::read_link("/proc/self/ns/pid") {
        hasher.update(container.as_os_str().as_bytes());
    }
    HostNumber(half(&hasher))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_known_by_what_goes_where_however_that_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/sub", "b"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let number = |sources: &[&str], destination: &str| {
            let starts = sources.iter().map(|source| Start::new(&dir.path().join(source)).unwrap());
            push_number(&starts.collect::<Vec<_>>(), destination.as_bytes(), Extras::default())
        };
        for (one, other) in [
            ((&["a"][..], "x"), (&["./a"][..], "x/")),
            ((&["a"], "x"), (&["a/../a"], "x")),
            ((&["a"], "x"), (&["a/sub/.."], "x/a")),
            ((&["a"], "x"), (&["a/"], "x/a")),
            ((&["a/"], "x"), (&["link/"], "x")),
            ((&["a/"], "x"), (&["a//"], "/x//")),
            ((&["a/"], "x"), (&["a/."], "x")),
            ((&["a/file"], "x"), (&["link/file"], "x")),
            ((&["a", "b"], "x"), (&["b", "a"], "x")),
        ] {
            assert_eq!(number(one.0, one.1), number(other.0, other.1), "{one:?} {other:?}");
        }
        for (one, other) in [
            ((&["a"][..], "x"), (&["a/"][..], "x")),
            ((&["a"], "x"), (&["a"], "y")),
            ((&["a", "b"], "x"), (&["a"], "x")),
            ((&["a"], "x"), (&["link"], "x")),
            ((&["a/file"], "x"), (&["a/file"], "x/file")),
        ] {
            assert_ne!(number(one.0, one.1), number(other.0, other.1), "{one:?} {other:?}");
        }
    }
}
