//! The names that a server gives to what is not finished.
//!
//! They are next to what they become, in folders that are others' as well. Each ends with a code that
//! only this server can make, over all that comes before: so it can prove any name to be its own, by
//! the name alone, and removes nothing else; and nobody can tell beforehand what a name will be.
//!
//! | what | name |
//! |---|---|
//! | a journal | `.qbulk-` owner `-` generation `-` code `.journal` |
//! | an unfinished file, or a link | `.qbulk-` transfer or owner `-` item `-` code `.part` |

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;

use crate::wire::PushNumber;

/// What such names begin with.
pub const PREFIX: &str = ".qbulk-";
/// What the names of unfinished files end with.
pub const PART_SUFFIX: &str = ".part";
/// What the names of journals end with.
pub const JOURNAL_SUFFIX: &str = ".journal";
/// Why a path cannot be sent that has such a name in it.
pub const RESERVED: &str =
    "names of the form .qbulk-*.part and .qbulk-*.journal are kept for unfinished transfers";
/// What a code takes in a name.
const CODE_CHARS: usize = 32;

/// What names have of an owner.
const TAG_CHARS: usize = 16;

/// Whose push a journal is about: the client, and which of its pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub(super) [u8; 32]);

impl Owner {
    /// What names on the disk have of it.
    pub fn tag(&self) -> String {
        blake3::hash(&self.0).to_hex()[..TAG_CHARS].to_owned()
    }
}

/// Makes a server's own names, and knows them again.
#[derive(Clone)]
pub struct OwnNames {
    secret: [u8; 32],
    /// All clients are one.
    one_client: bool,
}

impl OwnNames {
    /// The names of the server that has this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret, one_client: false }
    }

    /// What any client has left, any other goes on with: whoever knows them has found out that they are the same
    /// user, whose keys are not.
    #[must_use]
    pub fn of_one_client(self) -> Self {
        Self { one_client: true, ..self }
    }

    /// Whose journal it is that tells of what `client` calls `push`.
    pub fn owner(&self, client: &[u8; 32], push: &PushNumber) -> Owner {
        let client = if self.one_client { &[0; 32] } else { client };
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"owner").update(client).update(&push.0);
        Owner(*hasher.finalize().as_bytes())
    }

    /// A journal. There may be several, of runs that know nothing of each other.
    pub fn journal(&self, owner: &Owner, generation: u32) -> String {
        self.sealed(format!("{PREFIX}{}-{generation:x}", owner.tag()), JOURNAL_SUFFIX)
    }

    /// The journal of the run that an unfinished file belongs to, if it is one that has a journal.
    pub(super) fn journal_of(&self, part: &OsStr) -> Option<String> {
        let rest = part.to_str()?.strip_prefix(PREFIX)?.strip_suffix(PART_SUFFIX)?;
        let (tag, _) = rest.split_once('-')?;
        let (owner, generation) = tag.split_at_checked(TAG_CHARS)?;
        let has_one = !generation.is_empty();
        has_one.then(|| self.sealed(format!("{PREFIX}{owner}-{generation}"), JOURNAL_SUFFIX))
    }

    /// Something under way; `tag` tells transfers apart, and `item` what they make.
    pub fn part(&self, tag: &str, item: impl Display) -> String {
        self.sealed(format!("{PREFIX}{tag}-{item}"), PART_SUFFIX)
    }

    /// Whether this server has made a name.
    pub fn is_own(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        [PART_SUFFIX, JOURNAL_SUFFIX].iter().any(|suffix| {
            let parts = name.strip_suffix(suffix).and_then(|rest| rest.rsplit_once('-'));
            // No secret depends on how long this takes: who sees it can look at the names.
            parts.is_some_and(|(rest, code)| {
                rest.starts_with(PREFIX) && *code == *self.code(rest, suffix)
            })
        })
    }

    fn sealed(&self, rest: String, suffix: &str) -> String {
        let code = self.code(&rest, suffix);
        rest + "-" + &code + suffix
    }

    fn code(&self, rest: &str, suffix: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"name").update(rest.as_bytes()).update(suffix.as_bytes());
        hasher.finalize().to_hex()[..CODE_CHARS].to_owned()
    }
}

impl fmt::Debug for OwnNames {
    /// Leaves out the secret, which must not end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnNames").finish_non_exhaustive()
    }
}

/// Whether a name could be one of a server's own, of whichever server.
pub fn is_reserved(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        [PART_SUFFIX, JOURNAL_SUFFIX].iter().any(|suffix| rest.ends_with(suffix.as_bytes()))
    })
}

/// Whether any name in a path could be.
pub fn has_reserved(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(is_reserved)
}

/// See [`is_reserved`].
pub(super) fn is_reserved_name(name: &OsStr) -> bool {
    is_reserved(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_knows_its_own_names_and_no_others() {
        let (ours, theirs) = (OwnNames::new([1; 32]), OwnNames::new([2; 32]));
        let owner = ours.owner(&[3; 32], &PushNumber([4; 16]));
        let names = [ours.part("a", 7), ours.part(&owner.tag(), "b-c"), ours.journal(&owner, 0)];
        for name in &names {
            assert!(is_reserved(name.as_bytes()) && ours.is_own(OsStr::new(name)), "{name}");
            assert!(!theirs.is_own(OsStr::new(name)), "{name}");
            let others = [
                name.replace(PREFIX, ".qbulk-0"),
                name.replace(PART_SUFFIX, "0.part").replace(JOURNAL_SUFFIX, "0.journal"),
                name.replace(PART_SUFFIX, ".x").replace(JOURNAL_SUFFIX, ".x"),
                format!("x{name}"),
                name.to_uppercase(),
            ];
            assert!(others.iter().all(|name| !ours.is_own(OsStr::new(name))), "{name}");
        }
        let swapped = names[0].replace(PART_SUFFIX, JOURNAL_SUFFIX);
        assert!(!ours.is_own(OsStr::new(&swapped)));
        for name in [".qbulk-.part", ".qbulk-0.journal", ".qbulk--.part"] {
            assert!(is_reserved(name.as_bytes()) && !ours.is_own(OsStr::new(name)), "{name}");
        }
        assert!(has_reserved(b"a/.qbulk-x.part/b") && !has_reserved(b"a/.qbulk-x/b.part"));
    }

    #[test]
    fn who_owns_a_journal_is_bound_to_server_client_and_push() {
        let owner = |server, client, push| {
            OwnNames::new([server; 32]).owner(&[client; 32], &PushNumber([push; 16]))
        };
        let others = [owner(2, 1, 1), owner(1, 2, 1), owner(1, 1, 2)];
        assert!(others.iter().all(|other| *other != owner(1, 1, 1)));
        let names = OwnNames::new([1; 32]).of_one_client();
        let owner = |client, push| names.owner(&[client; 32], &PushNumber([push; 16]));
        assert!(owner(1, 1) == owner(2, 1) && owner(1, 1) != owner(1, 2));
    }
}
