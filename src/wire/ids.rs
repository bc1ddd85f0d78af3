//! What tells one thing from another: 16 bytes each, and a type of its own, so that none is taken for one of
//! another kind.

use std::fmt;

use super::{WireError, get_array};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident is shown by $shown:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(
            /// The bytes.
            pub [u8; 16],
        );

        impl $name {
            /// Appends it.
            pub(crate) fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }

            /// Takes one from the front of `input`.
            pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
                get_array(input).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), $shown(self.0))
            }
        }
    )*};
}

ids! {
    /// What a client drew at random for a transfer: whoever has it can join with further connections, so it is
    /// shown to nobody.
    TransferSecret is shown by |id| TransferSecret(id).name();
    /// Tells pushes of a client apart: the same sources to the same destination, run again, have the same.
    PushNumber is shown by hex;
    /// Tells where clients run.
    HostNumber is shown by hex;
    /// Tells files apart by where they go and what they are at the source.
    FileKey is shown by hex;
    /// Of a file's size and time of modification at the source.
    SourceVersion is shown by hex;
    /// Of a file's inode and the time of its last change of any kind at the source.
    SourceState is shown by hex;
    /// Of the state in which the first piece of a file was read that is kept.
    SourceBasis is shown by hex;
}

impl TransferSecret {
    /// The transfer's public name, which does not give the secret away.
    pub fn name(&self) -> String {
        blake3::hash(&self.0).to_hex()[..12].to_owned()
    }
}

impl FileKey {
    /// The key of what goes to `path` below the server's root.
    pub fn new(path: &[u8], version: &SourceVersion) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&version.0).update(path);
        Self(half(&hasher))
    }
}

impl From<SourceState> for SourceBasis {
    /// Nothing was read before.
    fn from(state: SourceState) -> Self {
        Self(state.0)
    }
}

/// As much of a hash as tells things apart.
pub(crate) fn half(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_all_else_is() {
        let secret = TransferSecret([0xab; 16]);
        assert_eq!(format!("{secret:?}"), format!("TransferSecret({})", secret.name()));
        assert!(!format!("{secret:?}").contains("abab"));
        assert_eq!(
            format!("{:?}", PushNumber([0xab; 16])),
            format!("PushNumber({})", "ab".repeat(16))
        );
    }
}
