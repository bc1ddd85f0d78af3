//! What users and groups are called, and which they are here.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex};

use nix::unistd::{Gid, Group, Uid, User};

use super::kind::{Beside, FileInfo};
use crate::mutex::lock;
use crate::wire::{Claim, Extras, OWNER_NAME_BYTES_MAX, Owner};

/// Names and numbers that are remembered, of each kind. A look-up may ask a server.
const KNOWN_MAX: usize = 4_096;

/// What is known of users, or of groups.
struct Known {
    names: Mutex<HashMap<u32, Vec<u8>>>,
    numbers: Mutex<HashMap<Vec<u8>, Option<u32>>>,
}

static USERS: LazyLock<Known> = LazyLock::new(Known::new);
static GROUPS: LazyLock<Known> = LazyLock::new(Known::new);

impl Known {
    fn new() -> Self {
        Self { names: Mutex::default(), numbers: Mutex::default() }
    }
}

/// Whether this process may do whatever it likes.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The owner of what belongs to this user and group, as it is told.
pub(super) fn owner(uid: u32, gid: u32, extras: Extras) -> Owner {
    if extras.numeric_ids {
        return Owner { uid, gid, user: Vec::new(), group: Vec::new() };
    }
    let user = |&uid: &u32| User::from_uid(Uid::from_raw(uid)).ok()?.map(|user| user.name);
    let group = |&gid: &u32| Group::from_gid(Gid::from_raw(gid)).ok()?.map(|group| group.name);
    let named = |name: Option<String>| {
        let name = name.unwrap_or_default().into_bytes();
        if name.len() <= OWNER_NAME_BYTES_MAX { name } else { Vec::new() }
    };
    Owner {
        uid,
        gid,
        user: remembered(&USERS.names, uid, |uid| named(user(uid))),
        group: remembered(&GROUPS.names, gid, |gid| named(group(gid))),
    }
}

/// What a file is said to have beyond mode and time, if that is asked for.
pub fn claim(info: &FileInfo, beside: Beside, extras: Extras) -> Option<Claim> {
    extras.goes_with_all().then(|| Claim {
        owner: extras.has_owners().then(|| owner(info.uid, info.gid, extras)),
        xattrs: beside.xattrs.map(|(digest, _)| digest),
    })
}

/// The user and group that `owner` is here: who is called the same, and otherwise who has the same number. Root
/// is root, whatever it is called.
pub(super) fn here(owner: &Owner) -> (u32, u32) {
    let user = |name: &Vec<u8>| {
        let name = std::str::from_utf8(name).ok()?;
        User::from_name(name).ok()?.map(|user| user.uid.as_raw())
    };
    let group = |name: &Vec<u8>| {
        let name = std::str::from_utf8(name).ok()?;
        Group::from_name(name).ok()?.map(|group| group.gid.as_raw())
    };
    let number = |known: &Known, number, name: &Vec<u8>, look: &dyn Fn(&Vec<u8>) -> Option<u32>| {
        let has_name = number != 0 && !name.is_empty() && !name.contains(&0);
        let found = has_name.then(|| remembered(&known.numbers, name.clone(), look)).flatten();
        found.unwrap_or(number)
    };
    (
        number(&USERS, owner.uid, &owner.user, &user),
        number(&GROUPS, owner.gid, &owner.group, &group),
    )
}

fn remembered<K: Eq + Hash + Clone, V: Clone>(
    known: &Mutex<HashMap<K, V>>,
    key: K,
    look: impl FnOnce(&K) -> V,
) -> V {
    if let Some(value) = lock(known).get(&key) {
        return value.clone();
    }
    let value = look(&key);
    let mut known = lock(known);
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(key, value.clone());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_where_they_are_known_and_numbers_otherwise() {
        let named = |uid, gid, user: &str, group: &str| Owner {
            uid,
            gid,
            user: user.into(),
            group: group.into(),
        };
        let root = owner(0, 0, Extras::default());
        assert_eq!((root.user.as_slice(), root.group.as_slice()), (&b"root"[..], &b"root"[..]));
        let numeric = owner(0, 0, Extras { numeric_ids: true, ..Extras::default() });
        assert_eq!(numeric, named(0, 0, "", ""));
        assert_eq!(here(&named(77_777, 77_778, "root", "root")), (0, 0));
        assert_eq!(here(&named(77_777, 77_778, "", "")), (77_777, 77_778));
        assert_eq!(here(&named(77_777, 77_778, "nobody-has-this-name", "\0")), (77_777, 77_778));
        assert_eq!(here(&named(0, 0, "daemon", "daemon")), (0, 0), "root stays root");
    }
}
