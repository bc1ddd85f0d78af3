//! What somebody may do, and below which of a server's roots.

use std::{borrow::Borrow, collections::BTreeSet, fmt, str::FromStr};

/// The longest name of a root, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What may be done below a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// What is there may be looked at: names, sizes, contents.
    pub reads: bool,
    /// What may be put there.
    pub writes: Writes,
}

/// What may be put below a root; each may do what those before it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writes {
    /// Nothing.
    #[default]
    Nothing,
    /// What takes the name of nothing that is there: that is neither replaced nor removed nor changed.
    New,
    /// Anything, also in the place of what is there.
    Anything,
}

impl Rights {
    /// Nothing may be done.
    pub const NONE: Self = Self { reads: false, writes: Writes::Nothing };
    /// `read`.
    pub const READ: Self = Self { reads: true, writes: Writes::Nothing };
    /// `write`.
    pub const WRITE: Self = Self { reads: false, writes: Writes::Anything };
    /// `append`.
    pub const APPEND: Self = Self { reads: false, writes: Writes::New };
    /// `both`.
    pub const BOTH: Self = Self { reads: true, writes: Writes::Anything };

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { reads: self.reads && other.reads, writes: self.writes.min(other.writes) }
    }

    /// What either allows.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { reads: self.reads || other.reads, writes: self.writes.max(other.writes) }
    }
}

impl FromStr for Rights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::READ),
            "write" => Ok(Self::WRITE),
            "both" => Ok(Self::BOTH),
            "append" => Ok(Self::APPEND),
            _ => Err(format!("{text:?} is no access: expected read, write, both or append")),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.reads, self.writes) {
            (false, Writes::Nothing) => "nothing",
            (true, Writes::Nothing) => "read",
            (false, Writes::New) => "append",
            (false, Writes::Anything) => "write",
            (true, Writes::New) => "read and append",
            (true, Writes::Anything) => "both",
        })
    }
}

/// What one of several roots is called: the first name of a path on a server that has such.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootName(String);

impl RootName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RootName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} cannot be the name of a root: expected up to {NAME_BYTES_MAX} letters (a to z), \
                 digits, '.', '_' and '-', with a letter or digit first"
            ))
        }
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Paths are bytes: what is no name is none of these.
impl Borrow<str> for RootName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What somebody is allowed, as far as the roots allow it as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub rights: Rights,
    /// Below which roots; `None` for every one, be it without a name.
    pub roots: Option<BTreeSet<RootName>>,
}

impl Grant {
    /// Everything, everywhere.
    pub const ALL: Self = Self { rights: Rights::BOTH, roots: None };

    /// Whether it counts for a root of this name, or for one without.
    pub fn is_for(&self, root: Option<&RootName>) -> bool {
        match (&self.roots, root) {
            (None, _) => true,
            (Some(roots), Some(root)) => roots.contains(root),
            (Some(_), None) => false,
        }
    }

    /// What all of `grants` together allow below a root.
    pub fn total(grants: &[Self], root: Option<&RootName>) -> Rights {
        let counting = grants.iter().filter(|grant| grant.is_for(root));
        counting.fold(Rights::NONE, |rights, grant| rights.or(grant.rights))
    }

    /// Reads the options in front of a key: `access=MODE` and `root=NAME,NAME`, each at most once. What is
    /// not understood grants nothing.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut rights, mut roots) = (None, None);
        for option in options {
            let Some((name, value)) = option.split_once('=') else {
                return Err(format!("{option:?} is no option: expected access= or root="));
            };
            let is_first = match name {
                "access" => rights.replace(value.parse()?).is_none(),
                "root" => {
                    let names = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    roots.replace(names).is_none()
                }
                _ => return Err(format!("unknown option {name:?}: expected access= or root=")),
            };
            if !is_first {
                return Err(format!("the option {name:?} is there twice"));
            }
        }
        Ok(Self { rights: rights.unwrap_or(Rights::BOTH), roots })
    }

    /// Whether a word looks like one of the options.
    pub(super) fn is_option(word: &str) -> bool {
        word.starts_with("access=") || word.starts_with("root=")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Result<Grant, String> {
        Grant::parse(options.split_whitespace())
    }

    #[test]
    fn rights_are_those_that_all_or_any_allow() {
        use Rights as R;
        let read_and_append = R { reads: true, writes: Writes::New };
        for (one, other, both, either) in [
            (R::BOTH, R::READ, R::READ, R::BOTH),
            (R::BOTH, R::APPEND, R::APPEND, R::BOTH),
            (R::WRITE, R::APPEND, R::APPEND, R::WRITE),
            (R::READ, R::WRITE, R::NONE, R::BOTH),
            (R::READ, R::APPEND, R::NONE, read_and_append),
            (R::NONE, R::BOTH, R::NONE, R::BOTH),
            (R::BOTH, R::BOTH, R::BOTH, R::BOTH),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both), "{one} and {other}");
            assert_eq!((one.or(other), other.or(one)), (either, either), "{one} or {other}");
        }
        for name in ["read", "write", "both", "append"] {
            assert_eq!(name.parse::<R>().unwrap().to_string(), name);
        }
        for bad in ["", "Read", "rw", "read,write", "none", " read"] {
            let error = bad.parse::<R>().unwrap_err();
            assert!(error.contains("read, write, both or append"), "{error}");
        }
    }

    #[test]
    fn options_say_what_and_where() {
        assert_eq!(parsed(""), Ok(Grant::ALL));
        let grant = parsed("access=read root=media,scratch").unwrap();
        let name = |text: &str| text.parse::<RootName>().unwrap();
        assert_eq!(grant.rights, Rights::READ);
        assert!(grant.is_for(Some(&name("scratch"))) && !grant.is_for(Some(&name("other"))));
        assert!(!grant.is_for(None), "a root without a name is none of them");
        assert_eq!(parsed("root=media").unwrap().rights, Rights::BOTH);
        assert!(parsed("access=append").unwrap().is_for(None));

        let grants = [parsed("access=append").unwrap(), grant];
        assert_eq!(Grant::total(&grants, None), Rights::APPEND);
        let total = Grant::total(&grants, Some(&name("media")));
        assert_eq!(total.to_string(), "read and append");
        assert_eq!(Grant::total(&[], None), Rights::NONE);
    }

    #[test]
    fn what_is_not_understood_grants_nothing() {
        for (options, words) in [
            ("acces=read", "unknown option \"acces\""),
            ("read", "\"read\" is no option"),
            ("access", "is no option"),
            ("access=", "\"\" is no access"),
            ("access=read,write", "\"read,write\" is no access"),
            ("access=read access=both", "\"access\" is there twice"),
            ("root=a root=b", "\"root\" is there twice"),
            ("root=", "\"\" cannot be the name"),
            ("root=a,", "\"\" cannot be the name"),
            ("root=a/b", "\"a/b\" cannot be the name"),
            ("root=..", "\"..\" cannot be the name"),
            ("root=\"a\"", "cannot be the name"),
            ("root=a,access=read", "\"access=read\" cannot be the name"),
            ("ROOT=a", "unknown option \"ROOT\""),
        ] {
            let error = parsed(options).unwrap_err();
            assert!(error.contains(words), "{options}: {error}");
        }
        assert!("x".repeat(65).parse::<RootName>().is_err());
    }
}
