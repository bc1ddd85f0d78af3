//! Opening what a transfer writes to.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;

use super::access::Reached;
use super::refusal::Refusal;
use crate::store::descriptors::{Descriptors, patiently};
use crate::store::destination::inspect;
use crate::store::journal::{Journal, Patience};
use crate::store::own::{OwnNames, Owner};
use crate::store::sink::Sink;
use crate::store::{named, reason};
use crate::wire::{Compares, Destination, Extras, Keep, Packing};

/// What a transfer is to write to.
pub(super) struct Opening {
    pub(super) names: OwnNames,
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) client: [u8; 32],
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) reached: Reached,
    pub(super) keep: Keep,
    pub(super) extras: Extras,
    pub(super) allows_super: bool,
    pub(super) discards: bool,
    pub(super) is_stream: bool,
    pub(super) compares: Compares,
    pub(super) packing: Packing,
    pub(super) patience: Patience,
}

impl Opening {
    /// Opens it, and looks what is at the destination. Blocks.
    pub(super) fn open(&self) -> Result<(Destination, Sink), Refusal> {
        let is_append_only = self.reached.is_append_only();
        let Reached { root, path, name: root_name, .. } = &self.reached;
        let folder = root.current().map_err(|error| error.to_string())?;
        let failed = |error: io::Error| {
            Refusal::Final(format!("cannot write to {}: {}", named(path), reason(&error)))
        };
        let there = Path::new(OsStr::from_bytes(path));
        let share = self.descriptors.join(self.client);
        let found = patiently(|| inspect(&folder, &self.names, there)).map_err(failed)?;
        // Of what is read once nothing can be gone on with.
        let journal = if self.discards || self.is_stream {
            None
        } else {
            open_journal(&folder, &self.names, self.owner, self.patience)?
        };
        let (names, name) = (self.names.clone(), self.name.clone());
        let sink = Sink::within(share, Arc::clone(&folder), names, name, journal);
        let sink = sink.map_err(failed)?.served_at(Arc::clone(root));
        let sink = sink.called(root_name.clone()).keeping(self.keep);
        let sink = sink.keeping_more(self.extras, self.allows_super);
        let sink = if self.is_stream { sink.streaming() } else { sink };
        let sink = if is_append_only { sink.appending() } else { sink };
        let sink = if self.reached.rights.reads { sink.showing() } else { sink };
        let sink = sink.comparing(self.compares).unpacking(self.packing);
        Ok((found, if self.discards { sink.discarding() } else { sink }))
    }
}

/// The journal of a push; `None` where the root cannot hold one: that is no reason not to take it.
fn open_journal(
    root: &Arc<Dir>,
    names: &OwnNames,
    owner: Owner,
    patience: Patience,
) -> Result<Option<Journal>, Refusal> {
    match Journal::open(root, names, owner, patience) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let reason = "an earlier run of the same push has not ended yet";
            Err(Refusal::ForNow(reason.into()))
        }
        Err(error) => {
            tracing::warn!(%error, "no journal in the root folder: nothing is kept of a broken transfer");
            Ok(None)
        }
    }
}
