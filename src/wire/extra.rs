//! Metadata beyond permissions and times, which goes with records where a request asks for it.
//!
//! An [`Extras`] is a sum of 1 for owners, 2 for groups, 4 if these are numbers and no names, 8 for devices, 16 for
//! pipes and sockets, 32 for hard links, 64 for extended attributes, and 128 for ACLs.
//!
//! An [`Extra`] is a sum of 1 if an [`Owner`] follows, 2 if [`Xattr`]s follow, and 4 if others are linked to the file.
//! An owner is user and group as numbers and then their names (bytes each, empty if they have none); attributes are a
//! count, and for each its name and its value (bytes each), in the order of their names.

use super::{
    WireError, get_bytes, get_u32, get_varint, half, put_all, put_bytes, put_varint, within,
};

/// A user's or group's name at most, in bytes; a longer one counts as none.
pub const OWNER_NAME_BYTES_MAX: usize = 64;
/// Extended attributes of one thing, at most.
pub const XATTRS_MAX: usize = 1_024;
/// An attribute's name at most, in bytes (`XATTR_NAME_MAX` on Linux).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// All attributes of one thing at most, in bytes.
pub const XATTRS_BYTES_MAX: usize = 256 << 10;

/// What beyond permissions and times is to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Owners; set-user-id, set-group-id and sticky bits with them.
    pub owner: bool,
    /// Groups.
    pub group: bool,
    /// Owners and groups by their numbers, whatever they are called.
    pub numeric_ids: bool,
    /// Devices.
    pub devices: bool,
    /// Named pipes and sockets.
    pub specials: bool,
    /// What is one file under several names.
    pub hard_links: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// POSIX ACLs.
    pub acls: bool,
}

/// What goes with a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Whose it is.
    pub owner: Option<Owner>,
    /// All of its extended attributes that are asked for; ACLs are among them.
    pub xattrs: Option<Vec<Xattr>>,
    /// Others are to be linked to this file.
    pub is_linked: bool,
}

/// Whose something is at the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// What the user is called; empty if that is not known, or not wanted.
    pub user: Vec<u8>,
    /// What the group is called.
    pub group: Vec<u8>,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its name, with its namespace in front.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What tells two sets of attributes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrsDigest(pub [u8; 16]);

impl XattrsDigest {
    /// That of these, which are in the order of their names.
    pub fn of(xattrs: &[Xattr]) -> Self {
        let mut bytes = Vec::new();
        put_xattrs(&mut bytes, xattrs);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        Self(half(&hasher))
    }
}

impl Extras {
    /// All there is, by names.
    pub fn all() -> Self {
        Self {
            owner: true,
            group: true,
            numeric_ids: false,
            devices: true,
            specials: true,
            hard_links: true,
            xattrs: true,
            acls: true,
        }
    }

    /// The number that tells which there are.
    pub fn number(self) -> u64 {
        self.flags().into_iter().rev().fold(0, |sum, flag| sum << 1 | u64::from(flag))
    }

    /// Whether anything is asked for.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// Whether something goes with every record.
    pub fn goes_with_all(self) -> bool {
        self.has_owners() || self.has_xattrs()
    }

    /// Whether it is told whose things are.
    pub fn has_owners(self) -> bool {
        self.owner || self.group
    }

    /// Whether attributes are read at all.
    pub fn has_xattrs(self) -> bool {
        self.xattrs || self.acls
    }

    fn flags(self) -> [bool; 8] {
        let Self { owner, group, numeric_ids, devices, specials, hard_links, xattrs, acls } = self;
        [owner, group, numeric_ids, devices, specials, hard_links, xattrs, acls]
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.number());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let number = get_varint(input)?;
        if number > 255 {
            return Err(WireError::Unasked { what: "kind of metadata", value: number });
        }
        let has = |bit| number & bit != 0;
        Ok(Self {
            owner: has(1),
            group: has(2),
            numeric_ids: has(4),
            devices: has(8),
            specials: has(16),
            hard_links: has(32),
            xattrs: has(64),
            acls: has(128),
        })
    }
}

impl Extra {
    /// What it takes, about, in bytes.
    pub fn bytes(&self) -> usize {
        let owner =
            self.owner.as_ref().map_or(0, |owner| 16 + owner.user.len() + owner.group.len());
        let xattrs = self.xattrs.iter().flatten();
        size_of::<Self>()
            + owner
            + xattrs
                .map(|xattr| size_of::<Xattr>() + xattr.name.len() + xattr.value.len())
                .sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flags = [self.owner.is_some(), self.xattrs.is_some(), self.is_linked];
        put_varint(out, flags.into_iter().rev().fold(0, |sum, flag| sum << 1 | u64::from(flag)));
        if let Some(owner) = &self.owner {
            owner.encode(out);
        }
        if let Some(xattrs) = &self.xattrs {
            put_xattrs(out, xattrs);
        }
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let flags = within("what goes with a record", get_varint(input)?, 7)?;
        let owner = (flags & 1 != 0).then(|| Owner::decode(input)).transpose()?;
        let xattrs = (flags & 2 != 0).then(|| get_xattrs(input)).transpose()?;
        Ok(Self { owner, xattrs, is_linked: flags & 4 != 0 })
    }
}

impl Owner {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_all(out, &[self.uid.into(), self.gid.into()]);
        put_bytes(out, &self.user);
        put_bytes(out, &self.group);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        Ok(Self {
            uid: get_u32("user", input)?,
            gid: get_u32("group", input)?,
            user: get_bytes("user's name", input, OWNER_NAME_BYTES_MAX)?,
            group: get_bytes("group's name", input, OWNER_NAME_BYTES_MAX)?,
        })
    }
}

fn put_xattrs(out: &mut Vec<u8>, xattrs: &[Xattr]) {
    put_varint(out, xattrs.len() as u64);
    for Xattr { name, value } in xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn get_xattrs(input: &mut &[u8]) -> Result<Vec<Xattr>, WireError> {
    let count = within("number of attributes", get_varint(input)?, XATTRS_MAX)?;
    let mut xattrs: Vec<Xattr> = Vec::new();
    let mut left = XATTRS_BYTES_MAX;
    for _ in 0..count {
        let name = get_bytes("attribute's name", input, XATTR_NAME_BYTES_MAX.min(left))?;
        let value = get_bytes("attribute", input, left - name.len())?;
        left -= name.len() + value.len();
        let is_after = xattrs.last().is_none_or(|last| last.name < name);
        if name.is_empty() || name.contains(&0) || !is_after {
            return Err(WireError::Unknown { what: "attribute", value: xattrs.len() as u64 });
        }
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn extra() -> impl Strategy<Value = Extra> {
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
        let owner = (any::<[u32; 2]>(), bytes(OWNER_NAME_BYTES_MAX), bytes(9));
        let owner = owner.prop_map(|([uid, gid], user, group)| Owner { uid, gid, user, group });
        let xattrs = proptest::collection::btree_map("[a-z.]{1,40}", bytes(300), 0..5);
        let xattrs = xattrs.prop_map(|xattrs| {
            let xattr = |(name, value): (String, _)| Xattr { name: name.into(), value };
            xattrs.into_iter().map(xattr).collect()
        });
        let (owner, xattrs) = (proptest::option::of(owner), proptest::option::of(xattrs));
        (owner, xattrs, any::<bool>()).prop_map(|(owner, xattrs, is_linked)| Extra {
            owner,
            xattrs,
            is_linked,
        })
    }

    pub(in super::super) fn extras() -> impl Strategy<Value = Extras> {
        (0..256_u64).prop_map(|number| {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            Extras::decode(&mut &*out).unwrap()
        })
    }

    #[test]
    fn attributes_out_of_order_twice_or_too_large_are_refused() {
        let get = |xattrs: &[(&str, usize)]| {
            let xattr =
                |&(name, bytes): &(&str, usize)| Xattr { name: name.into(), value: vec![7; bytes] };
            let mut out = Vec::new();
            put_xattrs(&mut out, &xattrs.iter().map(xattr).collect::<Vec<_>>());
            get_xattrs(&mut &*out).is_ok()
        };
        assert!(get(&[("user.a", 1), ("user.b", 0)]) && get(&[]));
        assert!(!get(&[("user.b", 1), ("user.a", 1)]) && !get(&[("user.a", 1), ("user.a", 1)]));
        assert!(!get(&[("", 1)]) && !get(&[("user\0", 1)]));
        let half = XATTRS_BYTES_MAX / 2;
        assert!(get(&[("a", half), ("b", half - 2)]) && !get(&[("a", half), ("b", half - 1)]));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(extra in extra(), extras in extras()) {
            let mut out = Vec::new();
            extra.encode(&mut out);
            extras.encode(&mut out);
            let mut input = &*out;
            prop_assert_eq!(Extra::decode(&mut input), Ok(extra));
            prop_assert_eq!(Extras::decode(&mut input), Ok(extras));
            prop_assert!(input.is_empty());
        }
    }
}
