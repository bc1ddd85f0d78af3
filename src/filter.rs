//! What of a tree is sent: patterns as rsync's users know them, sizes, and lists of names. It looks at nothing itself.
//!
//! Rules are asked in order, and the first that matches decides; what none matches is sent. An excluded folder is not
//! entered, so nothing below it is asked for.

use std::collections::BTreeSet;

use regex::bytes::{Regex, RegexBuilder};

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
    pattern: Pattern,
}

/// Names, relative to the source.
#[derive(Clone, Debug, Default)]
struct Listed {
    wanted: BTreeSet<Vec<u8>>,
    /// The folders above them.
    above: BTreeSet<Vec<u8>>,
}

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
        self.rules.push(Rule { verdict, pattern });
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
        let listed = self.listed.get_or_insert_default();
        for (number, line) in lines(file, has_zeros) {
            let names = line.split(|&byte| byte == b'/');
            let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
            if names.contains(&b"..".as_slice()) {
                return Err(format!("line {number}: {:?} leads out", crate::text::shown(line)));
            }
            for end in 1..names.len() {
                listed.above.insert(names[..end].join(&b'/'));
            }
            listed.wanted.insert(names.join(&b'/'));
        }
        Ok(())
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

    /// Names that were listed.
    pub fn wanted(&self) -> impl Iterator<Item = &[u8]> {
        let wanted = self.listed.iter().flat_map(|listed| &listed.wanted);
        wanted.map(Vec::as_slice).filter(|path| !path.is_empty())
    }
}

impl Listed {
    fn takes(&self, path: &[u8], is_folder: bool) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above = ends.map(|end| &path[..end]);
        self.wanted.contains(path)
            || self.wanted.contains(b"".as_slice())
            || is_folder && self.above.contains(path)
            || above.any(|folder| self.wanted.contains(folder))
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

/// A pattern, as rsync's manual has it under "pattern matching rules".
#[derive(Clone, Debug)]
struct Pattern {
    /// `None` if it can match nothing.
    regex: Option<Regex>,
    only_folders: bool,
    /// It is about the last name of a path alone.
    is_name: bool,
    /// `**` in front may stand for nothing, though a slash follows.
    slash_in_front: bool,
    /// `/***` behind a folder matches that folder as well.
    slash_behind_folders: bool,
}

impl Pattern {
    fn new(text: &[u8]) -> Result<Self, String> {
        let (text, only_folders) = match text {
            [] => return Err("the pattern is empty".into()),
            [rest @ .., b'/'] if !rest.is_empty() => (rest, true),
            _ => (text, false),
        };
        let has_wildcards = text.iter().any(|byte| b"*[?".contains(byte));
        let crosses = has_wildcards && text.windows(2).any(|two| two == b"**");
        let is_anchored = text[0] == b'/';
        let is_name = !crosses && !text.contains(&b'/');
        let slash_in_front = crosses && text.starts_with(b"**");
        // Anchored, about a name, or reaching to the front by itself: it matches from the start. Others match from
        // any name on.
        let front = if is_anchored || is_name || slash_in_front { "" } else { "(?:.*/)?" };
        let text = if is_anchored { &text[1..] } else { text };
        let body = if has_wildcards { translated(text) } else { Some(literal(text)) };
        let regex = body.map(|body| {
            RegexBuilder::new(&format!("^{front}{body}$"))
                .unicode(false)
                .dot_matches_new_line(true)
                .build()
                .map_err(|error| format!("the pattern cannot be used: {error}"))
        });
        let slash_behind_folders = crosses && text.ends_with(b"***");
        let regex = regex.transpose()?;
        Ok(Self { regex, only_folders, is_name, slash_in_front, slash_behind_folders })
    }

    fn matches(&self, path: &[u8], is_folder: bool) -> bool {
        let Some(regex) = &self.regex else { return false };
        if self.only_folders && !is_folder {
            return false;
        }
        let slash: &[u8] = b"/";
        let front = if self.slash_in_front { slash } else { b"" };
        let behind = if self.slash_behind_folders && is_folder { slash } else { b"" };
        match (front, behind) {
            ([], []) if self.is_name => {
                regex.is_match(path.rsplit(|&b| b == b'/').next().unwrap_or(path))
            }
            ([], []) => regex.is_match(path),
            _ => regex.is_match(&[front, path, behind].concat()),
        }
    }
}

fn literal(text: &[u8]) -> String {
    let bytes = text.iter().map(|byte| format!("\\x{byte:02x}"));
    bytes.collect::<Vec<_>>().concat()
}

/// The regular expression of a pattern with wildcards; `None` if nothing matches it.
fn translated(mut text: &[u8]) -> Option<String> {
    let mut regex = String::new();
    loop {
        (regex, text) = match text {
            [] => return Some(regex),
            [b'*', b'*', rest @ ..] => {
                let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
                (regex + ".*", &rest[stars..])
            }
            [b'*', rest @ ..] => (regex + "[^/]*", rest),
            [b'?', rest @ ..] => (regex + "[^/]", rest),
            [b'[', rest @ ..] => {
                let (bytes, rest) = class(rest)?;
                let bytes = literal(&bytes.into_iter().collect::<Vec<_>>());
                (regex + "[" + &bytes + "]", rest)
            }
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => (regex + &literal(&[*byte]), rest),
        };
    }
}

/// The bytes that a class matches, without the slash, and what is behind it; `None` if it has no end or matches
/// nothing.
fn class(text: &[u8]) -> Option<(BTreeSet<u8>, &[u8])> {
    let (is_negated, mut text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut bytes = BTreeSet::new();
    let mut last = None;
    let mut is_first = true;
    loop {
        let range_from = last.take();
        match text {
            [] => return None,
            [b']', rest @ ..] if !is_first => {
                text = rest;
                break;
            }
            [b'-', to, ..] if range_from.is_some() && *to != b']' => {
                let (to, rest) = one(&text[1..])?;
                bytes.extend(range_from.unwrap_or(to)..=to);
                text = rest;
            }
            [b'[', b':', rest @ ..] if rest.contains(&b']') => {
                let end = rest.windows(2).position(|two| two == b":]")?;
                let is_in = named(&rest[..end])?;
                bytes.extend((0..=u8::MAX).filter(is_in));
                text = &rest[end + 2..];
            }
            _ => {
                let (byte, rest) = one(text)?;
                bytes.insert(byte);
                (last, text) = (Some(byte), rest);
            }
        }
        is_first = false;
    }
    if is_negated {
        bytes = (0..=u8::MAX).filter(|byte| !bytes.contains(byte)).collect();
    }
    bytes.remove(&b'/');
    (!bytes.is_empty()).then_some((bytes, text))
}

fn one(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

/// The classes of POSIX.
fn named(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
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
