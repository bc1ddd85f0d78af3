//! Which files are at the destination already, and folders and links if that matters: asked before they are sent.
//!
//! A [`Candidate`] is coded against the one before it: how many bytes of the path they share, the rest of the path
//! (bytes), 0 for what is no file or else one more than its size, and meta as in [`Record`](super::Record). A [`There`] is one byte for each candidate, a sum of 1 if
//! something is there, 2 if it is a regular file, 4 if that has the same size, 8 if its modification time counts as the
//! same, 16 if it was modified later, and 64 if metadata that is claimed differs. In an answer to a [`Question::Look`](super::Question::Look) there are 32 if a
//! folder is there, 64 if permission bits differ, or times where they do not count, and 128 if nothing can be there, since what is on the way is no folder;
//! and 2 and 4 mean that it is a folder where that is asked for, or a link, and that the link says the same.
//!
//! Where there are claims, one follows each candidate: a sum of 1 if an [`Owner`] follows, 2 if it is that of the
//! candidate before, and 4 if the digest of its attributes follows (16 bytes).
//!
//! A [`Skip`] is a sum of 1 if size and time say nothing, 2 if the same size is enough, 4 for what is newer there, 8 for
//! what is there at all, and 16 for what is not, and then by how many seconds two times of modification may differ and
//! count as the same.

use std::cmp::Ordering;

use bytes::{Buf, BufMut};

use super::extra::{Owner, XattrsDigest};
use super::limit;
use super::meta::{get_meta, put_meta};
use super::path::is_path_safe;
use super::request::Compares;
use super::{
    Meta, PATH_BYTES_MAX, WireError, get_array, get_bytes, get_u32, get_varint, put_all, put_bytes,
    put_varint, within,
};
use crate::hashtree::FILE_BYTES_MAX;

/// Files that one question is about, at most.
pub const LOOK_FILES_MAX: usize = 256;
/// What they take in it, in bytes, at most; one may always be more.
pub const LOOK_BYTES_MAX: usize = 3 << 10;
/// Questions that a sender may have asked over one connection and not heard of, at most.
pub const LOOKS_MAX: usize = 64;

/// A file at the source, or a folder or a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it goes.
    pub path: Vec<u8>,
    /// A file's size, in bytes; none of a folder or a link.
    pub bytes: Option<u64>,
    /// Mode and time.
    pub meta: Meta,
    /// What else it is to have, where that is asked for.
    pub claim: Option<Claim>,
}

/// Metadata of a file at the source, beyond mode and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Whose it is.
    pub owner: Option<Owner>,
    /// What its attributes are known by.
    pub xattrs: Option<XattrsDigest>,
}

impl Candidate {
    /// What it takes in a question, about, in bytes.
    pub fn cost(&self) -> usize {
        let claim = self.claim.as_ref().map_or(0, |claim| {
            let owner = claim.owner.as_ref();
            20 + owner.map_or(0, |owner| 16 + owner.user.len() + owner.group.len())
        });
        self.path.len() + claim
    }
}

/// What makes a file at the destination the same as one at the source: a sum of 1 if the same size is enough, and 2 if
/// those that are the same get mode and time, 4 if each has a [`Claim`], and 8 if those of the same size have the same
/// content, and then [`Skip::modify_window_s`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Likeness {
    /// Whatever their times.
    pub size_only: bool,
    /// Those that are the same get the mode, and the time, of the source.
    pub adopts: bool,
    /// By how many seconds two times of modification may differ and count as the same.
    pub window_s: u32,
    /// Each file comes with a claim, and it is told of those that are the same whether they differ in that.
    pub has_claims: bool,
    /// Their content was compared, and was the same.
    pub is_compared: bool,
}

/// What is at the destination of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct There(u8);

/// What need not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    /// The same size and time of modification mean nothing.
    pub ignore_times: bool,
    /// The same size is enough.
    pub size_only: bool,
    /// What is newer there is left alone.
    pub update: bool,
    /// What is there is left alone.
    pub ignore_existing: bool,
    /// What is not there is not sent.
    pub existing: bool,
    /// Times of modification that differ by so many seconds at most count as the same.
    pub modify_window_s: u32,
    /// Of what has the same size the content is compared, and nothing else counts.
    pub checksum: bool,
    /// Of what is there and differs only those blocks are sent that do.
    pub delta: bool,
}

impl There {
    /// Nothing that could be looked at.
    pub const NOTHING: Self = Self(0);
    /// Something that is no regular file.
    pub const OTHER_KIND: Self = Self(1);
    const FOLDER: u8 = 32;
    const OTHER_META: u8 = 64;
    /// Nothing, and nothing can be there: something on the way is no folder.
    pub const BLOCKED: Self = Self(128);

    /// A regular file of this size and time, beside `candidate`.
    pub fn file(candidate: &Candidate, bytes: u64, mtime: (i64, u32), likeness: Likeness) -> Self {
        let wanted = (candidate.meta.mtime_s, candidate.meta.mtime_ns);
        let apart_s = mtime.0.saturating_sub(wanted.0).unsigned_abs();
        let is_within = likeness.window_s > 0 && apart_s <= u64::from(likeness.window_s);
        let is_time_same = is_as_kept(mtime, wanted) || is_within;
        let is_same_time = is_time_same || likeness.size_only;
        let is_later = !is_time_same && mtime.cmp(&wanted) == Ordering::Greater;
        let bits = [true, true, Some(bytes) == candidate.bytes, is_same_time, is_later];
        Self(bits.into_iter().rev().fold(0, |sum, bit| sum << 1 | u8::from(bit)))
    }

    fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Something of the kind that is asked for, which may be the same.
    pub fn other(is_same: bool) -> Self {
        Self(if is_same { 1 | 2 | 4 } else { 1 | 2 })
    }

    /// Whether it has the same size and time as the file at the source.
    pub fn is_same(self) -> bool {
        self.has(2 | 4 | 8)
    }

    /// Whether something is there.
    pub fn is_something(self) -> bool {
        self.has(1)
    }

    /// Whether it is of the kind that is asked for.
    pub fn is_same_kind(self) -> bool {
        self.has(2)
    }

    /// Whether it is a file of the same size, or a link that says the same.
    pub fn is_same_size(self) -> bool {
        self.has(4)
    }

    /// Whether its time of modification counts as the same.
    pub fn is_same_time(self) -> bool {
        self.has(8)
    }

    /// Whether it is a folder.
    pub fn is_folder(self) -> bool {
        self.has(Self::FOLDER)
    }

    /// Whether it has other permission bits, or another time where that does not count.
    pub fn has_other_meta(self) -> bool {
        self.has(Self::OTHER_META)
    }

    /// Whether something on the way is no folder.
    pub fn is_blocked(self) -> bool {
        self == Self::BLOCKED
    }

    /// The same, as a folder.
    #[must_use]
    pub fn as_folder(self) -> Self {
        Self(self.0 | Self::FOLDER)
    }

    /// The same, as one of other permission bits, or of another time where that does not count.
    #[must_use]
    pub fn with_other_meta(self) -> Self {
        Self(self.0 | Self::OTHER_META)
    }

    /// The same, as one that was modified at another time.
    #[must_use]
    pub fn with_other_time(self) -> Self {
        Self(self.0 & !8)
    }
}

impl Skip {
    /// Everything is sent.
    pub const NOTHING: Self = Self {
        ignore_times: true,
        size_only: false,
        update: false,
        ignore_existing: false,
        existing: false,
        modify_window_s: 0,
        checksum: false,
        delta: false,
    };

    /// What counts as the same.
    pub fn likeness(&self) -> Likeness {
        Likeness {
            size_only: self.size_only || self.checksum,
            adopts: !self.ignore_times && !self.ignore_existing && !self.checksum,
            window_s: self.modify_window_s,
            has_claims: false,
            is_compared: false,
        }
    }

    /// The same for files whose content was compared, and is the same.
    pub fn likeness_compared(&self) -> Likeness {
        Likeness { adopts: !self.ignore_existing, is_compared: true, ..self.likeness() }
    }

    /// What content that is there is asked for.
    pub fn compares(&self) -> Compares {
        Compares { checksum: self.checksum, delta: self.delta }
    }

    /// Whether it matters what is there of a file.
    pub fn has_to_look(&self) -> bool {
        let is_same = !self.ignore_times || self.size_only || self.compares().is_any();
        is_same || self.update || self.ignore_existing || self.existing
    }

    /// Whether it matters what is there of a folder or a link.
    pub fn has_to_look_at_other(&self, is_folder: bool) -> bool {
        self.existing || (self.ignore_existing && !is_folder)
    }

    /// Whether it is more than what is the same that is not sent: then it has to be known what is there.
    pub fn is_strict(&self) -> bool {
        self.size_only || self.update || self.ignore_existing || self.existing
    }

    /// Whether a file is not sent where this is there, which is the same by what was asked for.
    pub fn skips(&self, there: There, likeness: Likeness) -> bool {
        let by_look = !self.checksum && (!self.ignore_times || self.size_only);
        ((by_look || likeness.is_compared) && there.is_same())
            || (self.update && there.has(2 | 16))
            || (self.ignore_existing && there.has(1))
            || (self.existing && !there.has(1))
    }

    /// Whether a folder or a link is not sent where this is there. A folder that is there is gone into all the same.
    pub fn skips_other(&self, there: There, is_folder: bool) -> bool {
        (self.existing && !there.has(1)) || (self.ignore_existing && there.has(1) && !is_folder)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let flags =
            [self.ignore_times, self.size_only, self.update, self.ignore_existing, self.existing];
        put_varint(out, flags.into_iter().rev().fold(0, |sum, flag| sum << 1 | u64::from(flag)));
        put_varint(out, self.modify_window_s.into());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let flags = limit("what to skip", get_varint(input)?, 31)?;
        let has = |bit| flags & bit != 0;
        Ok(Self {
            ignore_times: has(1),
            size_only: has(2),
            update: has(4),
            ignore_existing: has(8),
            existing: has(16),
            modify_window_s: get_u32("seconds", input)?,
            ..Self::default()
        })
    }
}

/// Whether a file system that was given the time `wanted` has it as `found`: many keep it more coarsely.
fn is_as_kept(found: (i64, u32), wanted: (i64, u32)) -> bool {
    const STEPS_NS: [u32; 4] = [100, 1_000, 1_000_000, 1_000_000_000];
    let is_cut = |step| found.1 == wanted.1 - wanted.1 % step;
    found.0 == wanted.0 && (found.1 == wanted.1 || STEPS_NS.into_iter().any(is_cut))
}

impl Likeness {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let flags = [self.size_only, self.adopts, self.has_claims, self.is_compared];
        let flags = flags.into_iter().rev().fold(0, |sum, flag| sum << 1 | u64::from(flag));
        put_all(out, &[flags, self.window_s.into()]);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let flags = limit("likeness", get_varint(input)?, 15)?;
        let window_s = get_u32("seconds", input)?;
        let has = |bit| flags & bit != 0;
        let (size_only, adopts, has_claims, is_compared) = (has(1), has(2), has(4), has(8));
        Ok(Self { size_only, adopts, window_s, has_claims, is_compared })
    }
}

/// Takes as many candidates from the front of `waiting` as one question is about: how many.
pub fn fitting(mut waiting: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |path_bytes: usize| {
        bytes += path_bytes + 32;
        bytes <= LOOK_BYTES_MAX
    };
    let more = waiting.by_ref().take(LOOK_FILES_MAX).map(fits).take_while(|fits| *fits).count();
    more.max(1)
}

/// Appends a path as what it has beyond the one `before` it.
pub(super) fn put_next_path(out: &mut Vec<u8>, before: &[u8], path: &[u8]) {
    let shared = path.iter().zip(before).take_while(|(a, b)| a == b).count();
    put_varint(out, shared as u64);
    put_bytes(out, &path[shared..]);
}

/// Takes a path that leads nowhere else from the front of `input`.
pub(super) fn get_next_path(input: &mut &[u8], before: &[u8]) -> Result<Vec<u8>, WireError> {
    let shared = within("shared part of a path", get_varint(input)?, before.len())?;
    let mut path = before[..shared].to_vec();
    path.extend(get_bytes("path", input, PATH_BYTES_MAX)?);
    if is_path_safe(&path) {
        Ok(path)
    } else {
        Err(WireError::UnsafePath(String::from_utf8_lossy(&path).into_owned()))
    }
}

pub(super) fn put_candidates(out: &mut Vec<u8>, candidates: &[Candidate], has_claims: bool) {
    put_varint(out, candidates.len() as u64);
    let (mut before, mut owner_before): (&[u8], _) = (b"", None);
    for Candidate { path, bytes, meta, claim } in candidates {
        put_next_path(out, before, path);
        put_varint(out, bytes.map_or(0, |bytes| bytes + 1));
        put_meta(out, *meta);
        before = path;
        if has_claims {
            owner_before = put_claim(out, claim.as_ref(), owner_before);
        }
    }
}

/// Returns the owner that the next one may share.
fn put_claim<'a>(
    out: &mut Vec<u8>,
    claim: Option<&'a Claim>,
    owner_before: Option<&'a Owner>,
) -> Option<&'a Owner> {
    let owner = claim.and_then(|claim| claim.owner.as_ref());
    let xattrs = claim.and_then(|claim| claim.xattrs);
    let is_shared = owner.is_some() && owner == owner_before;
    let owner_flag = if is_shared { 2 } else { u64::from(owner.is_some()) };
    put_varint(out, owner_flag + 4 * u64::from(xattrs.is_some()));
    if let Some(owner) = owner.filter(|_| !is_shared) {
        owner.encode(out);
    }
    if let Some(XattrsDigest(digest)) = xattrs {
        out.put_slice(&digest);
    }
    owner.or(owner_before)
}

fn get_claim(input: &mut &[u8], owner_before: Option<&Owner>) -> Result<Claim, WireError> {
    let flags = limit("claim", get_varint(input)?, 6)?;
    let owner = match flags & 3 {
        0 => None,
        1 => Some(Owner::decode(input)?),
        2 if owner_before.is_some() => owner_before.cloned(),
        value => return Err(WireError::Unknown { what: "owner", value }),
    };
    let xattrs = (flags & 4 != 0).then(|| get_array(input).map(XattrsDigest)).transpose()?;
    Ok(Claim { owner, xattrs })
}

pub(super) fn get_candidates(
    input: &mut &[u8],
    has_claims: bool,
) -> Result<Vec<Candidate>, WireError> {
    let count = within("number of files", get_varint(input)?, LOOK_FILES_MAX)?;
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut owner_before: Option<Owner> = None;
    for _ in 0..count {
        let before = candidates.last().map_or(&b""[..], |before| &before.path);
        let path = get_next_path(input, before)?;
        let bytes = limit("file size", get_varint(input)?, FILE_BYTES_MAX + 1)?.checked_sub(1);
        let meta = get_meta(input)?;
        let claim = has_claims.then(|| get_claim(input, owner_before.as_ref())).transpose()?;
        if let Some(owner) = claim.as_ref().and_then(|claim| claim.owner.as_ref())
            && owner_before.as_ref() != Some(owner)
        {
            owner_before = Some(owner.clone());
        }
        candidates.push(Candidate { path, bytes, meta, claim });
    }
    Ok(candidates)
}

pub(super) fn put_there(out: &mut Vec<u8>, there: &[There]) {
    put_varint(out, there.len() as u64);
    for There(bits) in there {
        out.put_u8(*bits);
    }
}

pub(super) fn get_there(input: &mut &[u8]) -> Result<Vec<There>, WireError> {
    let count = within("number of files", get_varint(input)?, LOOK_FILES_MAX)?;
    let one = |_| input.try_get_u8().map(There).map_err(|_| WireError::Short);
    (0..count).map(one).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::extra::tests::extra;
    use super::super::meta::tests::meta;
    use super::super::path::tests::path;
    use super::*;

    pub(in super::super) fn candidates(has_claims: bool) -> impl Strategy<Value = Vec<Candidate>> {
        let claim = move |extra: super::super::Extra| {
            let xattrs = extra.xattrs.map(|xattrs| XattrsDigest::of(&xattrs));
            has_claims.then_some(Claim { owner: extra.owner, xattrs })
        };
        let one = (path(), proptest::option::of(0..1_u64 << 40), meta(), extra().prop_map(claim))
            .prop_map(|(path, bytes, meta, claim)| Candidate { path, bytes, meta, claim });
        // Some of those that follow each other are in one folder.
        (path(), proptest::collection::vec((any::<bool>(), one), 0..20)).prop_map(
            |(folder, ones)| {
                let put = |(is_in, one): (bool, Candidate)| Candidate {
                    path: if is_in { [&folder[..], b"/", &one.path].concat() } else { one.path },
                    ..one
                };
                ones.into_iter().map(put).collect()
            },
        )
    }

    pub(in super::super) fn there() -> impl Strategy<Value = Vec<There>> {
        proptest::collection::vec(any::<u8>().prop_map(There), 0..=LOOK_FILES_MAX)
    }

    pub(in super::super) fn skip() -> impl Strategy<Value = Skip> {
        (any::<[bool; 5]>(), any::<u32>()).prop_map(
            |([ignore_times, size_only, update, ignore_existing, existing], modify_window_s)| {
                let (checksum, delta) = (modify_window_s & 1 == 1, modify_window_s & 2 == 2);
                Skip {
                    ignore_times,
                    size_only,
                    update,
                    ignore_existing,
                    existing,
                    modify_window_s,
                    checksum,
                    delta,
                }
            },
        )
    }

    fn candidate() -> Candidate {
        let meta = Meta { mode: 0o644, mtime_s: 1_000, mtime_ns: 5 };
        Candidate { path: b"a".to_vec(), bytes: Some(7), meta, claim: None }
    }

    #[test]
    fn what_is_the_same_newer_or_there_is_left_alone_as_it_is_asked() {
        let there = |bytes, mtime_s, mtime_ns| {
            There::file(&candidate(), bytes, (mtime_s, mtime_ns), Likeness::default())
        };
        let all = [
            There::NOTHING,
            There::OTHER_KIND,
            there(7, 1_000, 5),
            there(7, 1_000, 6),
            there(7, 999, 5),
            there(8, 1_001, 0),
            there(8, 1_000, 5),
        ];
        let plain = Skip::default();
        let same = |skip: Skip| all.map(|there| u8::from(skip.skips(there, skip.likeness())));
        assert_eq!(same(plain), [0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(same(Skip::NOTHING), [0; 7]);
        assert!(!Skip::NOTHING.has_to_look() && plain.has_to_look() && !plain.is_strict());
        assert_eq!(same(Skip { update: true, ..plain }), [0, 0, 1, 1, 0, 1, 0]);
        assert_eq!(same(Skip { ignore_existing: true, ..plain }), [0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(same(Skip { existing: true, ..plain }), [1, 0, 1, 0, 0, 0, 0]);
        let only_there = Skip { existing: true, ..Skip::NOTHING };
        assert!(only_there.is_strict());
        assert_eq!(same(only_there), [1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn folders_and_links_are_left_alone_only_where_that_is_asked() {
        let (none, there) = (There::NOTHING, There::OTHER_KIND);
        let of = |skip: Skip, is_folder| {
            let skips = [none, there].map(|there| skip.skips_other(there, is_folder));
            assert!(skip.has_to_look_at_other(is_folder) || skips == [false; 2]);
            skips
        };
        let existing = Skip { existing: true, ..Skip::NOTHING };
        let ignore_existing = Skip { ignore_existing: true, ..Skip::NOTHING };
        assert_eq!([of(existing, true), of(existing, false)], [[true, false]; 2]);
        assert_eq!(of(ignore_existing, false), [false, true]);
        for plain in [Skip::default(), Skip { update: true, ..Skip::NOTHING }] {
            assert!(!plain.has_to_look_at_other(true) && !plain.has_to_look_at_other(false));
        }
        assert!(!ignore_existing.has_to_look_at_other(true));
    }

    #[test]
    fn the_same_size_is_enough_where_that_is_asked() {
        let skip = Skip { size_only: true, ..Skip::default() };
        let there = |bytes, mtime| There::file(&candidate(), bytes, (mtime, 0), skip.likeness());
        let skips = |skip: Skip, there| skip.skips(there, skip.likeness());
        assert!(skips(skip, there(7, 0)) && skips(skip, there(7, 5_000)));
        assert!(!skips(skip, there(8, 1_000)));
        let update = Skip { update: true, ..Skip::NOTHING };
        assert!(skips(update, there(7, 5_000)), "it is newer as well");
    }

    #[test]
    fn what_is_to_be_compared_is_the_same_only_once_it_was() {
        let skip = Skip { checksum: true, ..Skip::default() };
        let (before, after) = (skip.likeness(), skip.likeness_compared());
        let there = |bytes, likeness| There::file(&candidate(), bytes, (1_000, 5), likeness);
        assert!(there(7, before).is_same() && !skip.skips(there(7, before), before));
        assert!(skip.skips(There::file(&candidate(), 7, (5, 0), after), after));
        assert!(!skip.skips(there(8, after), after), "it has changed meanwhile");
        assert!(!before.adopts && after.adopts);
        for skip in [skip, Skip { delta: true, ..Skip::NOTHING }] {
            assert!(skip.has_to_look() && !skip.is_strict());
        }
        let update = Skip { update: true, ..skip };
        assert!(update.skips(There::file(&candidate(), 9, (5_000, 0), before), before));
    }

    #[test]
    fn a_time_that_the_file_system_has_cut_short_is_the_same() {
        let mut exact = candidate();
        exact.meta.mtime_ns = 123_456_789;
        let same =
            |mtime_ns| There::file(&exact, 7, (1_000, mtime_ns), Likeness::default()).is_same();
        for mtime_ns in [123_456_789, 123_456_700, 123_456_000, 123_000_000, 0] {
            assert!(same(mtime_ns), "{mtime_ns}");
        }
        assert!(!same(123_456_788) && !same(120_000_000) && !same(123_456_790));
    }

    #[test]
    fn times_within_the_window_are_the_same() {
        let same = |mtime_s, window_s| {
            let likeness = Likeness { window_s, ..Likeness::default() };
            There::file(&candidate(), 7, (mtime_s, 999_999_999), likeness).is_same()
        };
        assert!(same(1_002, 2) && same(998, 2));
        assert!(!same(1_003, 2) && !same(997, 2) && !same(1_001, 0) && same(1_001, 1));
        assert!(!same(i64::MIN, u32::MAX));
    }

    #[test]
    fn a_question_is_never_too_long_for_a_message() {
        assert_eq!(fitting(std::iter::repeat_n(10, 1_000)), 73);
        assert_eq!(fitting([PATH_BYTES_MAX, 1].into_iter()), 1);
        assert_eq!(fitting([1].into_iter()), 1);
        let longest = Candidate { path: vec![b'a'; PATH_BYTES_MAX], ..candidate() };
        let mut out = Vec::new();
        put_candidates(&mut out, &[longest], false);
        assert!(out.len() + 16 < super::super::CONTROL_BYTES_MAX);
    }

    #[test]
    fn paths_that_lead_out_are_not_looked_for() {
        for path in ["..", "a/../b", "/etc/passwd", ""] {
            let mut out = Vec::new();
            put_candidates(&mut out, &[Candidate { path: path.into(), ..candidate() }], false);
            let refused = get_candidates(&mut &*out, false);
            assert!(matches!(refused, Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }
}
