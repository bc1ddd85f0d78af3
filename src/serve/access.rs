//! Who may do what where: a server's roots, and what each client may do below them.
//!
//! A path begins below the one root, or with the name of one of several. Whoever may not do what it asks for
//! is refused before anything is looked at, in words that do not depend on what is there; and a name of
//! which somebody may do nothing is as one that no root has.

use std::collections::BTreeMap;
use std::str::from_utf8;
use std::sync::Arc;

use super::config::{Roots, ServedFolder};
use crate::error::Error;
use crate::identity::{Fingerprint, Grant, Rights, RootName, Writes};
use crate::net::tls::ServerTrust;
use crate::store::reason;
use crate::store::root::Root;
use crate::text::shown;
use crate::wire::Right;

/// What clients may reach.
pub(super) struct Access {
    trust: ServerTrust,
    roots: Layout<Arc<Root>>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reached<R = Arc<Root>> {
    pub(super) root: R,
    /// What paths begin with that lead below this root; empty if that is nothing.
    pub(super) name: Vec<u8>,
    /// The path below it.
    pub(super) path: Vec<u8>,
    /// What the client may do there.
    pub(super) rights: Rights,
}

impl Reached {
    /// Whether nothing that is there may be replaced or changed.
    pub(super) fn is_append_only(&self) -> bool {
        self.rights.writes == Writes::New
    }
}

/// The roots, with what may be done below each at all.
#[derive(Debug)]
struct Layout<R>(Roots<R>);

impl Access {
    /// Opens the folders.
    pub(super) fn open(roots: &Roots, trust: ServerTrust) -> Result<Self, Error> {
        let open = |folder: &ServedFolder| {
            let root = Root::open(&folder.path).map_err(|error| {
                let root = folder.path.display();
                Error::Disk(format!("cannot open the root folder {root}: {}", reason(&error)))
            })?;
            Ok::<_, Error>(ServedFolder { path: Arc::new(root), rights: folder.rights })
        };
        let roots = match roots {
            Roots::One(folder) => Roots::One(open(folder)?),
            Roots::Named(folders) => {
                let opened = folders.iter().map(|(name, folder)| Ok((name.clone(), open(folder)?)));
                Roots::Named(opened.collect::<Result<_, Error>>()?)
            }
        };
        Ok(Self { trust, roots: Layout(roots) })
    }

    /// The root that `path` leads to, and the path below it, if `client` has this right there now; otherwise
    /// what to tell the client. Looks at lists of keys, and not at what is below the root.
    pub(super) fn root_for(
        &self,
        client: Fingerprint,
        path: &[u8],
        right: Right,
    ) -> Result<Reached, String> {
        let found = self.roots.find(&self.trust.grants(&client), path, right);
        found.map_err(|missing| format!("{missing} (your key is {client})"))
    }

    /// The roots that have names and that `client` may read now, by their names. Empty as well if there is one
    /// without a name.
    pub(super) fn readable(&self, client: Fingerprint) -> Vec<(Vec<u8>, Arc<Root>)> {
        self.roots.readable(&self.trust.grants(&client))
    }

    /// All roots.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Arc<Root>> {
        self.roots.0.folders().map(|(_, folder)| &folder.path)
    }
}

impl<R: Clone> Layout<R> {
    fn readable(&self, grants: &[Grant]) -> Vec<(Vec<u8>, R)> {
        let Roots::Named(folders) = &self.0 else { return Vec::new() };
        usable(folders, grants, Right::Read)
            .map(|(name, folder)| (name.as_str().into(), folder.path.clone()))
            .collect()
    }

    fn find(&self, grants: &[Grant], path: &[u8], right: Right) -> Result<Reached<R>, String> {
        let (name, folder, below) = match &self.0 {
            Roots::One(folder) => (None, folder, path),
            Roots::Named(folders) => {
                let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
                let (first, below) = (&path[..end], path.get(end + 1..).unwrap_or_default());
                let found = from_utf8(first).ok().and_then(|name| folders.get_key_value(name));
                let is_usable = |name: &RootName, folder: &ServedFolder<R>| {
                    Grant::total(grants, Some(name)).and(folder.rights) != Rights::NONE
                };
                match found.filter(|(name, folder)| is_usable(name, folder)) {
                    Some((name, folder)) => (Some(name), folder, below),
                    None => return Err(no_root(first, folders, grants, right)),
                }
            }
        };
        let rights = Grant::total(grants, name).and(folder.rights);
        if right.is_in(rights) {
            let name = name.map_or(Vec::new(), |name| name.as_str().into());
            let root = folder.path.clone();
            return Ok(Reached { root, name, path: below.to_vec(), rights });
        }
        let place = name.map_or("here".to_owned(), |name| format!("below {:?}", name.as_str()));
        Err(match rights {
            Rights::NONE => format!("you may do nothing {place}"),
            rights => format!("you may not {} {place}: only {rights}", right.verb()),
        })
    }
}

impl Right {
    fn is_in(self, rights: Rights) -> bool {
        match self {
            Self::Read => rights.reads,
            Self::Write => rights.writes > Writes::Nothing,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The roots below which somebody has this right.
fn usable<'a, R>(
    folders: &'a BTreeMap<RootName, ServedFolder<R>>,
    grants: &'a [Grant],
    right: Right,
) -> impl Iterator<Item = (&'a RootName, &'a ServedFolder<R>)> {
    folders.iter().filter(move |(name, folder)| {
        right.is_in(Grant::total(grants, Some(name)).and(folder.rights))
    })
}

/// What is said where a path begins with the name of no root that somebody may use; with those that it may.
fn no_root<R>(
    first: &[u8],
    folders: &BTreeMap<RootName, ServedFolder<R>>,
    grants: &[Grant],
    right: Right,
) -> String {
    let usable = usable(folders, grants, right);
    let usable: Vec<_> = usable.map(|(name, _)| format!("{:?}", name.as_str())).collect();
    let usable = if usable.is_empty() { "none".to_owned() } else { usable.join(", ") };
    let usable = format!("you may {} below {usable}", right.verb());
    if first.is_empty() {
        return format!("the path must begin with the name of a root: {usable}");
    }
    let first = shown(first);
    format!("there is no root {first:?} for you: {usable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(rights: Rights) -> ServedFolder<&'static str> {
        ServedFolder { path: "folder", rights }
    }

    fn one(access: &str) -> Layout<&'static str> {
        Layout(Roots::One(folder(access.parse().unwrap())))
    }

    fn named(folders: &[(&str, &str)]) -> Layout<&'static str> {
        let folders = folders
            .iter()
            .map(|(name, access)| (name.parse().unwrap(), folder(access.parse().unwrap())));
        Layout(Roots::Named(folders.collect()))
    }

    fn grants(lines: &[&str]) -> Vec<Grant> {
        lines.iter().map(|line| Grant::parse(line.split_whitespace()).unwrap()).collect()
    }

    #[test]
    fn what_may_be_done_is_what_root_and_key_allow() {
        // What the root allows, what the key is allowed, and whether it may read, write, write what is new.
        for (root, key, reads, writes) in [
            ("both", "", true, "all"),
            ("both", "access=read", true, "none"),
            ("both", "access=write", false, "all"),
            ("both", "access=append", false, "new"),
            ("read", "", true, "none"),
            ("read", "access=write", false, "none"),
            ("read", "access=append", false, "none"),
            ("write", "", false, "all"),
            ("write", "access=read", false, "none"),
            ("write", "access=append", false, "new"),
            ("append", "", false, "new"),
            ("append", "access=both", false, "new"),
            ("append", "access=write", false, "new"),
            ("append", "access=read", false, "none"),
            ("both", "root=media", false, "none"),
        ] {
            let (layout, grants) = (one(root), grants(&[key]));
            let find = |right| layout.find(&grants, b"a/b", right);
            assert_eq!(find(Right::Read).is_ok(), reads, "{root}, {key}");
            let written =
                find(Right::Write).map_or("none", |reached| match reached.rights.writes {
                    Writes::Nothing => "none",
                    Writes::New => "new",
                    Writes::Anything => "all",
                });
            assert_eq!(written, writes, "{root}, {key}");
        }
        assert!(one("both").find(&[], b"", Right::Read).is_err(), "nobody is allowed anything");
    }

    #[test]
    fn a_path_leads_below_the_root_that_it_names() {
        let layout = named(&[("media", "both"), ("in", "append")]);
        let all = [Grant::ALL];
        for (path, name, below) in [
            ("media", "media", ""),
            ("media/", "media", ""),
            ("media/a/b", "media", "a/b"),
            ("in/media", "in", "media"),
        ] {
            let reached = layout.find(&all, path.as_bytes(), Right::Write).unwrap();
            assert_eq!((reached.name, reached.path), (name.into(), below.into()), "{path}");
        }
        let reached = one("both").find(&all, b"media/a", Right::Write).unwrap();
        assert_eq!((reached.name, reached.path), (Vec::new(), b"media/a".to_vec()));
        for path in [b"" as &[u8], b"/media", b"Media", b"medi", b"mediaa/x", b"\xff/x", b".."] {
            assert!(layout.find(&all, path, Right::Write).is_err(), "{path:?}");
        }
    }

    #[test]
    fn those_are_listed_that_may_be_read() {
        let layout =
            named(&[("media", "both"), ("secret", "both"), ("in", "write"), ("out", "read")]);
        let names = |lines: &[&str]| {
            let readable = layout.readable(&grants(lines)).into_iter();
            readable.map(|(name, _)| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[""]), ["media", "out", "secret"]);
        assert_eq!(names(&["root=in,out", "access=write root=media"]), ["out"]);
        assert!(names(&["root=in"]).is_empty() && names(&[]).is_empty());
        assert!(one("both").readable(&[Grant::ALL]).is_empty(), "it has no name");
    }

    #[test]
    fn a_name_that_somebody_may_not_use_is_as_one_that_no_root_has() {
        let layout =
            named(&[("media", "both"), ("secret", "both"), ("in", "write"), ("out", "read")]);
        let grants = grants(&["access=read root=media", "root=in", "access=append root=out"]);
        for right in [Right::Read, Right::Write] {
            let said = |path: &[u8]| layout.find(&grants, path, right).unwrap_err();
            for name in ["secret", "out"] {
                let other = said(b"nosuch/x").replace("nosuch", name);
                assert_eq!(said(format!("{name}/x").as_bytes()), other);
                assert!(other.starts_with("there is no root "), "{other}");
            }
        }
        let said = |path: &[u8], right| layout.find(&grants, path, right).unwrap_err();
        // What it may use it may know of.
        assert_eq!(said(b"media/x", Right::Write), "you may not write below \"media\": only read");
        assert_eq!(said(b"in/x", Right::Read), "you may not read below \"in\": only write");
        assert!(said(b"", Right::Write).ends_with("you may write below \"in\""));
        assert!(said(b"no", Right::Read).ends_with("you may read below \"media\""));
        let refused = layout.find(&[], b"media", Right::Read).unwrap_err();
        assert!(refused.ends_with("you may read below none"), "{refused}");
        let said = one("append").find(&[Grant::ALL], b"x", Right::Read).unwrap_err();
        assert_eq!(said, "you may not read here: only append");
    }
}
