//! Metadata at the source beyond permissions and times.

use super::super::kind::FileInfo;
use super::super::object::Object;
use super::super::owners::owner;
use super::super::unreadable::Unreadable;
use super::super::xattrs::Kinds;
use super::{ReadOptions, Sealed, SourceItem};
use crate::wire::{Extra, Xattr};

/// That of a file that was just read, if it still is as it was then.
pub(super) fn of_file(
    item: &SourceItem,
    read: &FileInfo,
    options: ReadOptions,
) -> Result<Option<Extra>, Unreadable> {
    let ReadOptions { extras, is_privileged, .. } = options;
    if !extras.goes_with_all() {
        let linked = Extra { is_linked: true, ..Extra::default() };
        return Ok(item.is_linked.then_some(linked));
    }
    let kinds = Kinds::new(extras, is_privileged);
    let xattrs = if kinds.is_any() {
        let file = item.local.open()?;
        let object = Object::open(&file);
        let xattrs = read_xattrs(item, kinds, &object)?;
        if !options.growing_ok && !read.has_same_state(&FileInfo::of(&object.stat()?)) {
            return Err(Unreadable::changed());
        }
        Some(xattrs)
    } else {
        None
    };
    let owner = extras.has_owners().then(|| owner(read.uid, read.gid, extras));
    Ok(Some(Extra { owner, xattrs, is_linked: item.is_linked }))
}

/// That of a folder, a link or a special file.
pub(super) fn of_other(
    item: &SourceItem,
    options: ReadOptions,
) -> Result<Option<Extra>, Unreadable> {
    let ReadOptions { extras, is_privileged, .. } = options;
    if !extras.goes_with_all() {
        return Ok(None);
    }
    let object = item.local.point()?;
    let stat = object.stat()?;
    let kinds = Kinds::new(extras, is_privileged);
    let xattrs = kinds.is_any().then(|| read_xattrs(item, kinds, &object)).transpose()?;
    let owner = extras.has_owners().then(|| owner(stat.st_uid, stat.st_gid, extras));
    Ok(Some(Extra { owner, xattrs, is_linked: false }))
}

/// A file whose content was confirmed is sealed with the metadata that it has by now.
pub fn reread(sealed: Sealed, options: ReadOptions) -> Result<Sealed, Unreadable> {
    let Some(before) = &sealed.extra else { return Ok(sealed) };
    let is_linked = before.is_linked;
    let extra = of_other(&sealed.item, options)?.map(|extra| Extra { is_linked, ..extra });
    let extra = extra.map(Box::new);
    Ok(Sealed { extra: extra.or(sealed.extra), ..sealed })
}

fn read_xattrs(
    item: &SourceItem,
    kinds: Kinds,
    object: &Object<'_>,
) -> Result<Vec<Xattr>, Unreadable> {
    let xattrs = kinds.read(object)?;
    let bytes: usize = xattrs.iter().map(|it| it.name.len() + it.value.len() + 16).sum();
    // There is no room for more than was found.
    if bytes > item.xattr_bytes_max { Err(Unreadable::changed()) } else { Ok(xattrs) }
}
