//! What the sender is told of what earlier runs have left.

use tokio::sync::mpsc::Sender;

use crate::store::kept::Remnant;
use crate::store::sink::Sink;
use crate::wire::{KEPT_MAX, ToSender};

/// Tells all that there is in `sink`, and that it is all, unless the sender is gone. Blocks.
pub(super) fn recall(sink: &Sink, sender: &Sender<ToSender>) {
    let say = |message| sender.blocking_send(message).is_ok();
    let mut whole = Vec::new();
    let mut is_heard = true;
    let tell = |remnant| {
        is_heard = match remnant {
            Remnant::Pieces { file, source, pieces } => pieces.chunks(KEPT_MAX).all(|pieces| {
                let (basis, state, pieces) = (source.basis, source.state, pieces.to_vec());
                say(ToSender::KeptPieces { file, basis, state, pieces })
            }),
            Remnant::Whole(file) => {
                whole.push(file);
                whole.len() < KEPT_MAX || say(ToSender::KeptFiles(std::mem::take(&mut whole)))
            }
        };
        is_heard
    };
    sink.recall(|| !sender.is_closed(), tell);
    if is_heard && (whole.is_empty() || say(ToSender::KeptFiles(whole))) {
        say(ToSender::KeptEnd);
    }
}
