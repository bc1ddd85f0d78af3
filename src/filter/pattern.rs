//! Patterns, as rsync's manual has them under "pattern matching rules".
//!
//! A path is matched in one pass over its bytes, with a bit for each place in the pattern: that takes time in
//! proportion to the length of both and no memory to speak of, whatever the pattern is.

use std::collections::BTreeSet;

/// A pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// `None` if it can match nothing.
    matcher: Option<Matcher>,
    only_folders: bool,
    /// It is about the last name of a path alone.
    is_name: bool,
    /// `**` in front may stand for nothing, though a slash follows.
    slash_in_front: bool,
    /// `/***` behind a folder matches that folder as well.
    slash_behind_folders: bool,
}

impl Pattern {
    pub(super) fn new(text: &[u8]) -> Result<Self, String> {
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
        let is_from_start = is_anchored || is_name || slash_in_front;
        let text = if is_anchored { &text[1..] } else { text };
        let matcher = if has_wildcards {
            Matcher::of_wildcards(text)
        } else {
            Some(Matcher::of_literal(text))
        };
        let matcher = matcher.map(|matcher| Matcher { is_from_start, ..matcher });
        let slash_behind_folders = crosses && text.ends_with(b"***");
        Ok(Self { matcher, only_folders, is_name, slash_in_front, slash_behind_folders })
    }

    pub(super) fn matches(&self, path: &[u8], is_folder: bool) -> bool {
        let Some(matcher) = &self.matcher else { return false };
        if self.only_folders && !is_folder {
            return false;
        }
        let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let path = if self.is_name { last } else { path };
        let slash = |has_one| if has_one { &b"/"[..] } else { b"" };
        let front = slash(self.slash_in_front);
        let behind = slash(self.slash_behind_folders && is_folder);
        matcher.matches([front, path, behind].into_iter().flatten().copied())
    }
}

/// What one byte has to be.
type Bytes = [u64; 4];

/// What may be passed over at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loop {
    /// Anything but a slash.
    Name,
    /// Anything.
    All,
}

/// A pattern as the bytes that have to come one after the other, and what may be between them.
#[derive(Clone, Debug, Default)]
struct Matcher {
    /// It matches from the start of a path, or otherwise from the start of any name.
    is_from_start: bool,
    /// By byte: the places that it leads on from, a bit each. One word of each 64 places after the other.
    steps: Vec<[u64; 256]>,
    /// Places where anything but a slash, and anything, may be passed over.
    names: Vec<u64>,
    alls: Vec<u64>,
    /// The last place.
    end: usize,
}

impl Matcher {
    fn of_literal(text: &[u8]) -> Self {
        let mut matcher = Self::default();
        for byte in text {
            matcher.push(only(*byte));
        }
        matcher.grow();
        matcher
    }

    /// `None` if nothing matches it.
    fn of_wildcards(mut text: &[u8]) -> Option<Self> {
        let mut matcher = Self::default();
        loop {
            text = match text {
                [] => break,
                [b'*', b'*', rest @ ..] => {
                    let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
                    matcher.pass(Loop::All);
                    &rest[stars..]
                }
                [b'*', rest @ ..] => {
                    matcher.pass(Loop::Name);
                    rest
                }
                [b'?', rest @ ..] => {
                    matcher.push(set((0..=u8::MAX).filter(|byte| *byte != b'/')));
                    rest
                }
                [b'[', rest @ ..] => {
                    let (bytes, rest) = class(rest)?;
                    matcher.push(set(bytes.into_iter()));
                    rest
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    matcher.push(only(*byte));
                    rest
                }
            };
        }
        matcher.grow();
        Some(matcher)
    }

    /// Has words for the place that is last by now.
    fn grow(&mut self) {
        while self.steps.len() <= self.end / 64 {
            self.steps.push([0; 256]);
            self.names.push(0);
            self.alls.push(0);
        }
    }

    /// One of `bytes` comes next.
    fn push(&mut self, bytes: Bytes) {
        self.grow();
        let (word, bit) = (self.end / 64, 1 << (self.end % 64));
        for (byte, step) in self.steps[word].iter_mut().enumerate() {
            if bytes[byte / 64] >> (byte % 64) & 1 == 1 {
                *step |= bit;
            }
        }
        self.end += 1;
    }

    /// Something may be passed over next.
    fn pass(&mut self, what: Loop) {
        self.grow();
        let (word, bit) = (self.end / 64, 1 << (self.end % 64));
        match what {
            Loop::Name => self.names[word] |= bit,
            Loop::All => self.alls[word] |= bit,
        }
    }

    fn matches(&self, path: impl Iterator<Item = u8>) -> bool {
        // Nearly all have one word.
        let (mut one, mut more) = ([0_u64], Vec::new());
        let places = match self.steps.len() {
            1 => &mut one[..],
            words => {
                more.resize(words, 0);
                &mut more
            }
        };
        places[0] = 1;
        for byte in path {
            let mut carry = 0;
            for (word, place) in places.iter_mut().enumerate() {
                let on = *place & self.steps[word][usize::from(byte)];
                let passed = if byte == b'/' { 0 } else { self.names[word] } | self.alls[word];
                *place = (on << 1 | carry) | (*place & passed);
                carry = on >> 63;
            }
            if byte == b'/' && !self.is_from_start {
                places[0] |= 1;
            }
        }
        places[self.end / 64] >> (self.end % 64) & 1 == 1
    }
}

fn set(bytes: impl Iterator<Item = u8>) -> Bytes {
    bytes.fold([0; 4], |mut all, byte| {
        all[usize::from(byte) / 64] |= 1 << (byte % 64);
        all
    })
}

fn only(byte: u8) -> Bytes {
    set(std::iter::once(byte))
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
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_patterns_match_across_words() {
        let name = b"a".repeat(200);
        for (text, is_match) in [
            (b"a".repeat(200), true),
            (b"a".repeat(199), false),
            (b"?".repeat(200), true),
            ([&b"*"[..], &b"a".repeat(100), b"*", &b"?".repeat(100)].concat(), true),
            ([&b"*"[..], &b"a".repeat(100), b"*", &b"?".repeat(101)].concat(), false),
            ([&b"["[..], b"a]"].concat().repeat(200), true),
        ] {
            let pattern = Pattern::new(&text).unwrap();
            assert_eq!(pattern.matches(&name, false), is_match, "{text:?}");
            assert_eq!(pattern.matches(&[b"x/", &name[..]].concat(), false), is_match);
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let path = b"a".repeat(4_096);
        let began = Instant::now();
        for text in [b"a*".repeat(2_000), b"**a".repeat(1_000), b"?*".repeat(2_000)] {
            let pattern = Pattern::new(&[&text[..], b"b"].concat()).unwrap();
            assert!(!pattern.matches(&path, false));
        }
        // Backtracking would take longer than there is.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    /// The same by trying everything.
    fn tried(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern, path) {
            ([], path) => path.is_empty(),
            ([b'*', b'*', rest @ ..], _) => {
                let rest = &rest[rest.iter().take_while(|&&byte| byte == b'*').count()..];
                (0..=path.len()).any(|end| tried(rest, &path[end..]))
            }
            ([b'*', rest @ ..], _) => {
                let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
                (0..=end).any(|end| tried(rest, &path[end..]))
            }
            ([_, ..], []) => false,
            ([b'?', rest @ ..], [byte, path @ ..]) => *byte != b'/' && tried(rest, path),
            ([wanted, rest @ ..], [byte, path @ ..]) => wanted == byte && tried(rest, path),
        }
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_trying_everything_does(
            pattern in "[ab/*?]{1,9}[*?]",
            path in "[ab/]{0,9}",
        ) {
            let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
            let matcher = Matcher::of_wildcards(pattern).unwrap();
            let from_start = Matcher { is_from_start: true, ..matcher.clone() };
            prop_assert_eq!(from_start.matches(path.iter().copied()), tried(pattern, path));
            let after_slash = |at: usize| at == 0 || path[at - 1] == b'/';
            let anywhere = (0..=path.len()).filter(|at| after_slash(*at)).any(|at| tried(pattern, &path[at..]));
            prop_assert_eq!(matcher.matches(path.iter().copied()), anywhere);
        }
    }
}
