//! What would be done with something, given what is there.

use crate::event::Why;
use crate::wire::{Keep, Skip, Subject, There};

/// What decides beside what is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// What need not be sent.
    pub(super) skip: Skip,
    /// What of metadata is kept.
    pub(super) keep: Keep,
    /// Nothing that is there may be replaced or changed.
    pub(super) only_new: bool,
}

/// What would become of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there.
    Nothing,
    /// It is skipped for what is there, which may be given other metadata.
    Skipped(Option<Why>),
    /// It is sent.
    Sent(Why),
    /// It cannot be, for this reason.
    Fails(&'static str),
}

/// Whether the content of a file decides what is done, where this is there.
pub(super) fn is_compared(subject: &Subject, there: There, terms: &Terms) -> bool {
    let Terms { skip, .. } = *terms;
    let is_file = matches!(subject, Subject::File { .. });
    is_file && skip.checksum && there.is_same() && !skip.skips(there, skip.likeness())
}

/// What would be done, where this is there. If its content was compared, it `is_same` or is not.
pub(super) fn decide(
    subject: &Subject,
    there: There,
    is_same: Option<bool>,
    terms: &Terms,
) -> Outcome {
    let Terms { skip, keep, only_new } = *terms;
    let likeness = if is_same == Some(true) { skip.likeness_compared() } else { skip.likeness() };
    match subject {
        Subject::File { .. } if skip.skips(there, likeness) => {
            let adopts = likeness.adopts && there.is_same() && !only_new;
            let keeps = keep.modes || keep.times && likeness.size_only;
            return Outcome::Skipped(
                (adopts && keeps && there.has_other_meta()).then_some(Why::Metadata),
            );
        }
        Subject::File { .. } => {}
        other if skip.skips_other(there, *other == Subject::Folder) => return Outcome::Nothing,
        Subject::Folder | Subject::Symlink { .. } => {}
    }
    if there.is_blocked() {
        return Outcome::Fails("what is on the way to it is no folder");
    }
    if !there.is_something() {
        return Outcome::Sent(Why::New);
    }
    let is_folder = *subject == Subject::Folder;
    match there.is_same_kind() {
        false if is_folder => return Outcome::Fails("what is there is no folder"),
        false if there.is_folder() => return Outcome::Fails("a folder is there"),
        true if is_folder => return Outcome::Nothing,
        true if matches!(subject, Subject::Symlink { .. }) && there.is_same_size() => {
            return Outcome::Nothing;
        }
        _ if only_new => return Outcome::Fails("it is there, and nothing may be replaced"),
        false => return Outcome::Sent(Why::Kind),
        true => {}
    }
    Outcome::Sent(match subject {
        Subject::Symlink { .. } => Why::Target,
        _ if !there.is_same_size() => Why::Size,
        _ if is_same == Some(false) => Why::Content,
        _ if !there.is_same_time() => Why::Time,
        _ => Why::Forced,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Candidate, Likeness, Meta};

    const META: Meta = Meta { mode: 0o640, mtime_s: 1_000, mtime_ns: 0 };
    const FILE: Subject = Subject::File { bytes: 7, meta: META };
    const LINK: Subject = Subject::Symlink { target_hash: [1; 32] };

    fn file(bytes: u64, mtime_s: i64) -> There {
        let candidate = Candidate { path: b"a".to_vec(), bytes: Some(7), meta: META, claim: None };
        There::file(&candidate, bytes, (mtime_s, 0), Likeness::default())
    }

    #[test]
    fn what_is_there_decides_what_would_be_done_and_why() {
        let other_meta = file(7, 1_000).with_other_meta();
        let plain = Terms::default();
        for (subject, there, want) in [
            (FILE, There::NOTHING, Outcome::Sent(Why::New)),
            (FILE, There::OTHER_KIND, Outcome::Sent(Why::Kind)),
            (FILE, There::OTHER_KIND.as_folder(), Outcome::Fails("a folder is there")),
            (FILE, file(8, 1_000), Outcome::Sent(Why::Size)),
            (FILE, file(7, 999), Outcome::Sent(Why::Time)),
            (FILE, file(7, 1_000), Outcome::Skipped(None)),
            (FILE, other_meta, Outcome::Skipped(Some(Why::Metadata))),
            (Subject::Folder, There::NOTHING, Outcome::Sent(Why::New)),
            (Subject::Folder, There::other(true).as_folder(), Outcome::Nothing),
            (Subject::Folder, There::OTHER_KIND, Outcome::Fails("what is there is no folder")),
            (LINK, There::NOTHING, Outcome::Sent(Why::New)),
            (LINK, There::other(true), Outcome::Nothing),
            (LINK, There::other(false), Outcome::Sent(Why::Target)),
            (LINK, There::OTHER_KIND, Outcome::Sent(Why::Kind)),
        ] {
            assert_eq!(decide(&subject, there, None, &plain), want, "{subject:?}, {there:?}");
        }
        for subject in [FILE, LINK, Subject::Folder] {
            assert!(matches!(decide(&subject, There::BLOCKED, None, &plain), Outcome::Fails(_)));
        }
        let forced = Terms { skip: Skip::NOTHING, ..plain };
        assert_eq!(decide(&FILE, file(7, 1_000), None, &forced), Outcome::Sent(Why::Forced));
        let without_modes = Terms { keep: Keep { modes: false, ..Keep::default() }, ..plain };
        assert_eq!(decide(&FILE, other_meta, None, &without_modes), Outcome::Skipped(None));
    }

    #[test]
    fn where_nothing_may_be_replaced_what_is_other_fails_and_what_is_the_same_stays() {
        let terms = Terms { only_new: true, ..Terms::default() };
        assert_eq!(decide(&FILE, There::NOTHING, None, &terms), Outcome::Sent(Why::New));
        let other_meta = file(7, 1_000).with_other_meta();
        assert_eq!(decide(&FILE, other_meta, None, &terms), Outcome::Skipped(None));
        for (subject, there) in
            [(FILE, file(8, 1_000)), (FILE, There::OTHER_KIND), (LINK, There::other(false))]
        {
            assert!(
                matches!(decide(&subject, there, None, &terms), Outcome::Fails(_)),
                "{subject:?}"
            );
        }
    }
}
