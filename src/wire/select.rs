//! What of the sources a client wants to be sent.
//!
//! | field | |
//! |---|---|
//! | flags | a sum of 1 if it is to stay on the file system of each source, 2 and 4 if there are bounds of sizes, and 8 if names are listed |
//! | least size | if there is one |
//! | largest size | if there is one |
//! | count, for each rule: 0 to exclude or 1 to include, pattern (bytes) | in their order |
//! | count, for each name: bytes | if names are listed |
//!
//! Whoever sends looks at every path with every rule: patterns are bounded far below what a message may have.

use super::limit;
use super::{
    PATH_BYTES_MAX, WireError, get_bytes, get_varint, put_all, put_bytes, put_varint, within,
};

/// Rules of one request, at most.
pub const RULES_MAX: usize = 256;
/// What their patterns take, in bytes, at most.
pub const PATTERNS_BYTES_MAX: usize = 4 << 10;
/// What names that are listed take, in bytes, at most, with two for each.
pub const NAMES_BYTES_MAX: usize = 20 << 10;

/// What is sent of the sources. By default, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// Folders of other file systems than that of a source are sent empty.
    pub one_file_system: bool,
    /// Files with fewer bytes are not sent.
    pub bytes_min: Option<u64>,
    /// Files with more bytes are not sent.
    pub bytes_max: Option<u64>,
    /// The first whose pattern matches decides.
    pub rules: Vec<Rule>,
    /// Nothing else is sent, if there are any.
    pub names: Option<Vec<Vec<u8>>>,
}

/// What becomes of what a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It is sent, or it is not.
    pub includes: bool,
    /// The pattern.
    pub pattern: Vec<u8>,
}

impl Select {
    /// Why it is too much for one request, if it is.
    pub fn fault(&self) -> Option<String> {
        let patterns_bytes: usize = self.rules.iter().map(|rule| rule.pattern.len()).sum();
        if self.rules.len() > RULES_MAX || patterns_bytes > PATTERNS_BYTES_MAX {
            return Some(format!(
                "these are too many rules for one request: {RULES_MAX} of {PATTERNS_BYTES_MAX} bytes in all are \
                 possible"
            ));
        }
        let names_bytes: usize = self.names.iter().flatten().map(|name| name.len() + 2).sum();
        (names_bytes > NAMES_BYTES_MAX).then(|| {
            format!(
                "these are too many names for one request: {NAMES_BYTES_MAX} bytes in all are possible, with two for \
                 each"
            )
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Self { one_file_system, bytes_min, bytes_max, rules, names } = self;
        let flags = [*one_file_system, bytes_min.is_some(), bytes_max.is_some(), names.is_some()];
        put_varint(out, flags.into_iter().rev().fold(0, |sum, flag| sum << 1 | u64::from(flag)));
        for bytes in [bytes_min, bytes_max].into_iter().flatten() {
            put_varint(out, *bytes);
        }
        put_varint(out, rules.len() as u64);
        for Rule { includes, pattern } in rules {
            put_varint(out, u64::from(*includes));
            put_bytes(out, pattern);
        }
        if let Some(names) = names {
            put_all(out, &[names.len() as u64]);
            for name in names {
                put_bytes(out, name);
            }
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let flags = limit("what to select", get_varint(input)?, 15)?;
        let has = |bit| flags & bit != 0;
        let mut size = |is_there: bool| is_there.then(|| get_varint(input)).transpose();
        let (bytes_min, bytes_max) = (size(has(2))?, size(has(4))?);
        let (mut rules, mut left) = (Vec::new(), PATTERNS_BYTES_MAX);
        for _ in 0..within("number of rules", get_varint(input)?, RULES_MAX)? {
            let includes = within("rule", get_varint(input)?, 1)? == 1;
            let pattern = get_bytes("patterns", input, left)?;
            left -= pattern.len();
            rules.push(Rule { includes, pattern });
        }
        let mut names = has(8).then(Vec::new);
        if let Some(names) = &mut names {
            let mut left = NAMES_BYTES_MAX;
            for _ in 0..within("number of names", get_varint(input)?, left / 2)? {
                left = left.saturating_sub(2);
                let name = get_bytes("names", input, left.min(PATH_BYTES_MAX))?;
                left -= name.len();
                names.push(name);
            }
        }
        Ok(Self { one_file_system: has(1), bytes_min, bytes_max, rules, names })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::VARINT_MAX;
    use super::*;

    pub(in super::super) fn select() -> impl Strategy<Value = Select> {
        let text = || proptest::collection::vec(any::<u8>(), 0..16);
        let bound = || proptest::option::of(0..=VARINT_MAX);
        let rule =
            (any::<bool>(), text()).prop_map(|(includes, pattern)| Rule { includes, pattern });
        let rules = proptest::collection::vec(rule, 0..20);
        let names = proptest::option::of(proptest::collection::vec(text(), 0..20));
        (any::<bool>(), bound(), bound(), rules, names).prop_map(
            |(one_file_system, bytes_min, bytes_max, rules, names)| Select {
                one_file_system,
                bytes_min,
                bytes_max,
                rules,
                names,
            },
        )
    }

    #[test]
    fn what_is_too_much_is_refused_as_it_is_told() {
        let decoded = |select: &Select| {
            let mut out = Vec::new();
            select.encode(&mut out);
            Select::decode(&mut &*out)
        };
        let rules = |count, bytes| Select {
            rules: vec![Rule { includes: false, pattern: vec![b'a'; bytes] }; count],
            ..Select::default()
        };
        let names = |count, bytes| Select {
            names: Some(vec![vec![b'a'; bytes]; count]),
            ..Select::default()
        };
        for (select, fits) in [
            (rules(RULES_MAX, PATTERNS_BYTES_MAX / RULES_MAX), true),
            (rules(RULES_MAX + 1, 1), false),
            (rules(2, PATTERNS_BYTES_MAX / 2 + 1), false),
            (names(NAMES_BYTES_MAX / 10, 8), true),
            (names(NAMES_BYTES_MAX / 10 + 1, 8), false),
        ] {
            assert_eq!((select.fault().is_none(), decoded(&select).is_ok()), (fits, fits));
        }
    }
}
