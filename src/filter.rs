//! What of a tree is sent: patterns as rsync's users know them, sizes, and lists of names. It looks at nothing itself.
//!
//! Rules are asked in order, and the first that matches decides; what none matches is sent. An excluded folder is not
//! entered, so nothing below it is asked for.

mod pattern;

use std::collections::BTreeSet;

use self::pattern::Pattern;
use crate::wire::{Rule as WireRule, Select};

/// What of a tree is sent. By default, all of it.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    rules: Vec<Rule>,
    listed: Option<Listed>,
    /// What is not sent, whatever it is called.
    pub bounds: Bounds,
}

/// Bounds of what is sent. By default, there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Folders of other file systems than the one that a source is on are sent empty.
    pub one_file_system: bool,
    /// Files with fewer bytes are not sent.
    pub bytes_min: Option<u64>,
    /// Files with more bytes are not sent.
    pub bytes_max: Option<u64>,
}

/// What becomes of what a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Include,
    /// It is not.
    Exclude,
}

#[derive(Clone, Debug)]
struct Rule {
    verdict: Verdict,
    text: Vec<u8>,
    pattern: Pattern,
}

/// Names, relative to the source.
#[derive(Clone, Debug, Default)]
struct Listed(BTreeSet<Vec<u8>>);

impl Filter {
    /// All within these bounds.
    pub fn within(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Adds a rule after those that there are: a pattern, or one with `+ ` or `- ` in front, which says itself what
    /// becomes of what it matches.
    pub fn add(&mut self, verdict: Verdict, text: &[u8]) -> Result<(), String> {
        let (verdict, text) = match text {
            [b'+', b' ', rest @ ..] => (Verdict::Include, rest),
            [b'-', b' ', rest @ ..] => (Verdict::Exclude, rest),
            _ => (verdict, text),
        };
        let pattern = Pattern::new(text)?;
        self.rules.push(Rule { verdict, text: text.to_vec(), pattern });
        Ok(())
    }

    /// Adds the rules of a file: one on each line, or each ended by a zero byte. Empty lines count for nothing, nor,
    /// where they are lines, do those that begin with `#` or `;`. A `!` alone takes back all rules so far.
    pub fn add_all(
        &mut self,
        verdict: Verdict,
        file: &[u8],
        has_zeros: bool,
    ) -> Result<(), String> {
        for (number, line) in lines(file, has_zeros) {
            if line == b"!" {
                self.rules.clear();
                continue;
            }
            self.add(verdict, line).map_err(|why| format!("line {number}: {why}"))?;
        }
        Ok(())
    }

    /// Sends only what is named in a file, as above, and the folders that lead there; a folder that is named, with all
    /// that is in it. A slash in front of a name counts for nothing.
    pub fn list(&mut self, file: &[u8], has_zeros: bool) -> Result<(), String> {
        self.listed.get_or_insert_default();
        for (number, line) in lines(file, has_zeros) {
            self.name(line).map_err(|why| format!("line {number}: {why}"))?;
        }
        Ok(())
    }

    /// Sends only this and what else is named.
    fn name(&mut self, name: &[u8]) -> Result<(), String> {
        let names = name.split(|&byte| byte == b'/');
        let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(format!("{:?} leads out", crate::text::shown(name)));
        }
        self.listed.get_or_insert_default().0.insert(names.join(&b'/'));
        Ok(())
    }

    /// The same from what somebody else has asked for.
    pub fn of(select: &Select) -> Result<Self, String> {
        let Select { one_file_system, bytes_min, bytes_max, rules, names } = select;
        let mut filter = Self::within(Bounds {
            one_file_system: *one_file_system,
            bytes_min: *bytes_min,
            bytes_max: *bytes_max,
        });
        for WireRule { includes, pattern } in rules {
            let verdict = if *includes { Verdict::Include } else { Verdict::Exclude };
            let (text, pattern) = (pattern.clone(), Pattern::new(pattern)?);
            filter.rules.push(Rule { verdict, text, pattern });
        }
        if let Some(names) = names {
            filter.listed = Some(Listed::default());
            names.iter().try_for_each(|name| filter.name(name))?;
        }
        Ok(filter)
    }

    /// How somebody else is asked for the same.
    pub fn select(&self) -> Select {
        let Bounds { one_file_system, bytes_min, bytes_max } = self.bounds;
        let rule = |Rule { verdict, text, .. }: &Rule| WireRule {
            includes: *verdict == Verdict::Include,
            pattern: text.clone(),
        };
        Select {
            one_file_system,
            bytes_min,
            bytes_max,
            rules: self.rules.iter().map(rule).collect(),
            names: self.listed.as_ref().map(|listed| listed.0.iter().cloned().collect()),
        }
    }

    /// Whether what is at `path` is sent: as it is called at the destination, from the root of the transfer.
    pub fn takes(&self, path: &[u8], is_folder: bool) -> bool {
        if path.is_empty() {
            return true; // the root itself
        }
        if self.listed.as_ref().is_some_and(|listed| !listed.takes(path, is_folder)) {
            return false;
        }
        let rule = self.rules.iter().find(|rule| rule.pattern.matches(path, is_folder));
        rule.is_none_or(|rule| rule.verdict == Verdict::Include)
    }

    /// Whether a file of so many bytes is sent.
    pub fn takes_bytes(&self, bytes: u64) -> bool {
        let Bounds { bytes_min, bytes_max, .. } = self.bounds;
        bytes_min.is_none_or(|min| bytes >= min) && bytes_max.is_none_or(|max| bytes <= max)
    }

    /// Whether names were listed, and nothing else is sent.
    pub fn is_listing(&self) -> bool {
        self.listed.is_some()
    }

    /// Names that were listed.
    pub fn wanted(&self) -> impl Iterator<Item = &[u8]> {
        let wanted = self.listed.iter().flat_map(|listed| &listed.0);
        wanted.map(Vec::as_slice).filter(|path| !path.is_empty())
    }
}

impl Listed {
    fn takes(&self, path: &[u8], is_folder: bool) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above = ends.map(|end| &path[..end]);
        self.0.contains(path)
            || self.0.contains(b"".as_slice())
            || is_folder && self.is_above(path)
            || above.any(|folder| self.0.contains(folder))
    }
}

impl Listed {
    /// Whether something is listed that is in the folder `path`.
    fn is_above(&self, path: &[u8]) -> bool {
        let inside = [path, b"/"].concat();
        self.0.range(inside.clone()..).next().is_some_and(|name| name.starts_with(&inside))
    }
}

/// The lines that say something, counted from one.
fn lines(file: &[u8], has_zeros: bool) -> impl Iterator<Item = (usize, &[u8])> {
    let end = if has_zeros { 0 } else { b'\n' };
    let lines = (1..).zip(file.split(move |&byte| byte == end));
    let lines = lines.map(move |(number, line)| match line {
        [line @ .., b'\r'] if !has_zeros => (number, line),
        _ => (number, line),
    });
    lines.filter(move |(_, line)| match line {
        [] => false,
        [b'#' | b';', ..] => has_zeros,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn excluding(patterns: &[&str]) -> Filter {
        let mut filter = Filter::default();
        for pattern in patterns {
            filter.add(Verdict::Exclude, pattern.as_bytes()).unwrap();
        }
        filter
    }

    #[test]
    fn patterns_match_as_rsyncs_manual_says() {
        for (pattern, path, folder, file) in [
            ("foo", "foo", true, true),
            ("foo", "a/foo", true, true),
            ("foo", "a/foo/b", false, false),
            ("foo", "xfoo", false, false),
            ("/foo", "foo", true, true),
            ("/foo", "a/foo", false, false),
            ("foo/", "a/foo", true, false),
            ("a/foo", "x/a/foo", true, true),
            ("a/foo", "xa/foo", false, false),
            ("/a/foo", "x/a/foo", false, false),
            ("*.o", "a/b.o", true, true),
            ("*.o", "a.o/b", false, false),
            ("/*.o", "a/b.o", false, false),
            ("a*b", "a/b", false, false),
            ("a/*/b", "x/a/y/b", true, true),
            ("a/*/b", "a/y/z/b", false, false),
            ("a/**/b", "x/a/y/z/b", true, true),
            ("a**b", "x/a/y/b", true, true),
            ("a**b", "xa/y/b", false, false),
            ("**/b", "b", true, true),
            ("**/b", "a/b", true, true),
            ("**b", "a/xb", true, true),
            ("dir/***", "dir", true, false),
            ("dir/***", "x/dir/a/b", true, true),
            ("dir/**", "dir", false, false),
            ("a?b", "a/b", false, false),
            ("a?b", "x/axb", true, true),
            ("[a-c]x", "bx", true, true),
            ("[!a-c]x", "bx", false, false),
            ("[]x]", "]", true, true),
            ("[[:digit:]a]", "7", true, true),
            ("[a-", "a", false, false),
            ("[a/]", "a", true, true),
            ("\\*", "*", true, true),
            ("\\*", "x", false, false),
            ("a\\b", "a\\b", true, true),
            ("(x|y)+.$", "(x|y)+.$", true, true),
        ] {
            let filter = excluding(&[pattern]);
            let taken = [true, false].map(|is_folder| !filter.takes(path.as_bytes(), is_folder));
            assert_eq!(taken, [folder, file], "{pattern:?} on {path:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let mut filter = Filter::default();
        filter.add(Verdict::Include, b"keep.o").unwrap();
        filter.add(Verdict::Exclude, b"*.o").unwrap();
        filter.add(Verdict::Exclude, b"+ *.c").unwrap();
        filter.add(Verdict::Include, b"- *").unwrap();
        let taken = |path: &str| filter.takes(path.as_bytes(), false);
        assert_eq!(["keep.o", "b.o", "b.c", "b"].map(taken), [true, false, true, false]);
        assert!(filter.takes(b"", true) && filter.add(Verdict::Exclude, b"").is_err());
    }

    #[test]
    fn a_file_of_rules_has_comments_and_can_begin_anew() {
        let mut filter = excluding(&["a"]);
        filter.add_all(Verdict::Exclude, b"b\n!\n# c\n; d\n\n+ e\r\n*\n", false).unwrap();
        let taken = |path: &str| filter.takes(path.as_bytes(), false);
        assert_eq!(["a", "e", "x"].map(taken), [false, true, false]);
        let mut filter = Filter::default();
        filter.add_all(Verdict::Exclude, b"# c\0two\nlines\0", true).unwrap();
        assert!(!filter.takes(b"# c", false) && !filter.takes(b"two\nlines", false));
        let error = filter.add_all(Verdict::Exclude, b"x\n\n- \n", false).unwrap_err();
        assert_eq!(error, "line 3: the pattern is empty");
    }

    #[test]
    fn what_is_listed_is_sent_with_what_leads_there() {
        let mut filter = Filter::default();
        filter.list(b"/a/b/file\n./c/\n# no\n", false).unwrap();
        for (path, folder, file) in [
            ("a", true, false),
            ("a/b", true, false),
            ("a/b/file", true, true),
            ("a/b/other", false, false),
            ("c", true, true),
            ("c/d/e", true, true),
            ("x", false, false),
        ] {
            let taken = [true, false].map(|is_folder| filter.takes(path.as_bytes(), is_folder));
            assert_eq!(taken, [folder, file], "{path}");
        }
        assert_eq!(filter.wanted().collect::<Vec<_>>(), [&b"a/b/file"[..], b"c"]);
        assert!(filter.list(b"a/../../b\n", false).unwrap_err().contains("line 1"));
    }

    #[test]
    fn sizes_are_of_files_alone_and_ends_count() {
        let filter =
            Filter::within(Bounds { bytes_min: Some(2), bytes_max: Some(3), ..Bounds::default() });
        assert_eq!([1, 2, 3, 4].map(|bytes| filter.takes_bytes(bytes)), [false, true, true, false]);
    }

    #[test]
    fn what_somebody_else_is_asked_for_is_the_same() {
        let bounds = Bounds { one_file_system: true, bytes_min: Some(0), bytes_max: None };
        let mut filter = Filter::within(bounds);
        filter.add(Verdict::Include, b"keep").unwrap();
        filter.add(Verdict::Exclude, b"- *.o").unwrap();
        filter.add(Verdict::Exclude, b"+ +  x").unwrap();
        filter.list(b"a\nb/c\n", false).unwrap();
        let again = Filter::of(&filter.select()).unwrap();
        assert_eq!((again.select(), again.bounds), (filter.select(), bounds));
        for path in ["a", "a/keep", "a/b.o", "b", "b/c", "b/d", "a/+  x"] {
            for is_folder in [false, true] {
                let taken = filter.takes(path.as_bytes(), is_folder);
                assert_eq!(again.takes(path.as_bytes(), is_folder), taken, "{path}");
            }
        }
        let out = Select { names: Some(vec![b"../x".to_vec()]), ..Select::default() };
        assert!(Filter::of(&out).unwrap_err().contains("leads out"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_pattern(text in proptest::collection::vec(any::<u8>(), 1..40), path: Vec<u8>) {
            let pattern = Pattern::new(&text).unwrap();
            pattern.matches(&path, true);
            let odd = b"*?[]!^-\\/:a";
            let text: Vec<u8> = text.iter().map(|byte| odd[usize::from(*byte) % odd.len()]).collect();
            Pattern::new(&text).unwrap().matches(&path, false);
        }
    }
}
