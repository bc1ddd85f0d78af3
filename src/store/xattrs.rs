//! Extended attributes, of which ACLs are some.

use std::io;

use super::object::Object;
use super::unreadable::Unreadable;
use crate::wire::{Extras, What, XATTR_NAME_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX, Xattr};

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Which attributes are kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    xattrs: bool,
    acls: bool,
    /// Those of the system as well, which decide what programs may do.
    of_system: bool,
}

impl Kinds {
    /// Those that are asked for. A transfer that `is_privileged` keeps all that root does.
    pub(super) fn new(extras: Extras, is_privileged: bool) -> Self {
        Self { xattrs: extras.xattrs, acls: extras.acls, of_system: is_privileged }
    }

    /// Whether there are any.
    pub(super) fn is_any(self) -> bool {
        self.xattrs || self.acls
    }

    /// What kind one is, if that kind is asked for; and whether it is kept.
    fn kind(self, name: &[u8]) -> Option<(What, bool)> {
        if ACLS.contains(&name) {
            return self.acls.then_some((What::Acls, true));
        }
        let is_of_user = name.starts_with(b"user.");
        let is_of_system = name.starts_with(b"trusted.") || name.starts_with(b"security.");
        let is_kept = is_of_user || self.of_system;
        (self.xattrs && (is_of_user || is_of_system)).then_some((What::Xattrs, is_kept))
    }

    fn keeps(self, name: &[u8]) -> bool {
        self.kind(name).is_some_and(|(_, is_kept)| is_kept)
    }

    /// What there is of something at the source, in the order of their names.
    pub(super) fn read(self, object: &Object<'_>) -> Result<Vec<Xattr>, Unreadable> {
        let mut xattrs = self.found(object)?;
        xattrs.sort();
        let bytes: usize = xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        let is_long = |xattr: &Xattr| xattr.name.len() > XATTR_NAME_BYTES_MAX;
        if bytes > XATTRS_BYTES_MAX || xattrs.len() > XATTRS_MAX || xattrs.iter().any(is_long) {
            return Err(Unreadable::source(format!(
                "it has {bytes} bytes of extended attributes; {XATTRS_BYTES_MAX} are possible"
            )));
        }
        Ok(xattrs)
    }

    fn found(self, object: &Object<'_>) -> io::Result<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        for name in object.xattr_names()? {
            if self.keeps(&name)
                && let Some(value) = object.xattr(&name)?
            {
                xattrs.push(Xattr { name, value });
            }
        }
        Ok(xattrs)
    }

    /// Gives something these attributes and no others of the kinds that are kept; tells `fail` what cannot be.
    pub(super) fn give(
        self,
        object: &Object<'_>,
        xattrs: &[Xattr],
        mut fail: impl FnMut(What, &io::Error),
    ) {
        let found = match self.found(object) {
            Ok(found) => found,
            Err(error) => return fail(What::Xattrs, &error),
        };
        let kind = |name: &[u8]| self.kind(name).map_or(What::Xattrs, |(kind, _)| kind);
        for Xattr { name, .. } in &found {
            if !xattrs.iter().any(|xattr| xattr.name == *name)
                && let Err(error) = object.remove_xattr(name)
            {
                fail(kind(name), &error);
            }
        }
        for xattr in xattrs {
            let given = match self.kind(&xattr.name) {
                // Nobody has asked for it.
                None => continue,
                Some((_, false)) => Err(io::Error::other(
                    "those of security. and trusted. are kept only where root receives and that is allowed",
                )),
                Some((_, true)) if found.contains(xattr) => Ok(()),
                Some((_, true)) => object.set_xattr(&xattr.name, &xattr.value),
            };
            if let Err(error) = given {
                fail(kind(&xattr.name), &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

    use super::*;

    fn kinds(number: u64, is_privileged: bool) -> Kinds {
        let extras = Extras { xattrs: number & 1 > 0, acls: number & 2 > 0, ..Extras::default() };
        Kinds::new(extras, is_privileged)
    }

    #[test]
    fn each_kind_is_kept_only_where_it_is_asked_for_and_may_be() {
        for (name, plain, of_root) in [
            ("user.a", [false, true, false, true], [false, true, false, true]),
            ("security.capability", [false; 4], [false, true, false, true]),
            ("trusted.a", [false; 4], [false, true, false, true]),
            ("system.posix_acl_access", [false, false, true, true], [false, false, true, true]),
            ("system.nfs4_acl", [false; 4], [false; 4]),
            ("user", [false; 4], [false; 4]),
        ] {
            for number in 0..4 {
                let keeps = |is_privileged| kinds(number, is_privileged).keeps(name.as_bytes());
                assert_eq!(keeps(false), plain[number as usize], "{name} {number}");
                assert_eq!(keeps(true), of_root[number as usize], "{name} {number}");
            }
        }
    }

    #[test]
    fn what_is_given_is_what_is_read_and_what_was_there_before_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let file = File::create(dir.path().join("file")).unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
        let objects = [Object::open(&file), Object::at(&folder, b"folder").unwrap()];
        if objects[0].set_xattr(b"user.old", b"x").is_err() {
            return; // there are none here
        }
        objects[1].set_xattr(b"user.old", b"x").unwrap();
        let wanted = [xattr("user.empty", b""), xattr("user.large", &[7; 3_000])];
        let all =
            [wanted.as_slice(), &[xattr("trusted.not", b"x"), xattr("system.odd", b"")]].concat();
        for object in objects {
            let kinds = kinds(1, false);
            let mut told = 0;
            kinds.give(&object, &all, |what, _| {
                assert_eq!(what, What::Xattrs);
                told += 1;
            });
            assert_eq!(told, 1, "what is root's cannot be kept");
            assert_eq!(kinds.read(&object).unwrap(), wanted);
        }
    }
}
