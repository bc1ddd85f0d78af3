//! Answers a sender that asks which files are here already.

use std::sync::Arc;

use tokio::sync::mpsc::{Receiver as Inbox, Sender};

use super::receiver::Receiver;
use crate::store::sink::SinkError;
use crate::wire::{Candidate, Likeness, ToSender};

/// A question of the sender.
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) likeness: Likeness,
    pub(super) files: Vec<Candidate>,
}

/// Answers one question after the other, until no more come.
pub(super) async fn answer(
    receiver: Arc<Receiver>,
    mut questions: Inbox<Question>,
    sender: Sender<ToSender>,
) {
    while let Some(Question { number, likeness, files }) = questions.recv().await {
        match receiver.look(files, likeness).await {
            Ok(there) => {
                // A connection that is gone needs no answer.
                drop(sender.send(ToSender::Found { question: number, there }).await);
            }
            Err(error @ SinkError::Protocol(_)) => receiver.end_broken(&error.to_string()),
            Err(error) => receiver.end(&error.to_string()),
        }
    }
}
