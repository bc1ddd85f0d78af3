//! Answers a sender that asks which files are here already, and what their content hashes to.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver as Inbox, Sender, channel};
use tokio::task::JoinSet;

use super::receiver::Receiver;
use crate::store::sink::SinkError;
use crate::wire::{
    BLOCK_HASHES_MAX, BLOCK_QUESTIONS_MAX, Candidate, LOOKS_MAX, Likeness, ToSender,
};

/// So much of a file is hashed before it is another client's turn, in bytes.
const STEP_BYTES: u64 = 64 << 20;

/// Which files are here already.
pub(super) struct Look {
    pub(super) number: u64,
    pub(super) likeness: Likeness,
    pub(super) files: Vec<Candidate>,
}

/// What the blocks of a file hash to.
pub(super) struct Blocks {
    pub(super) number: u64,
    pub(super) path: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) block_bytes: u64,
}

/// Where the questions that come over a connection wait. Those of one kind are answered one after the other, and those
/// that take no time do not wait for those that do.
#[derive(Default)]
pub(super) struct Questions {
    looks: Option<Sender<Look>>,
    blocks: Option<Sender<Blocks>>,
}

/// There are more than may be unanswered.
pub(super) struct TooMany;

impl Questions {
    /// It is answered to `sender` by one of `tasks`.
    pub(super) fn look(
        &mut self,
        question: Look,
        receiver: &Arc<Receiver>,
        sender: &Sender<ToSender>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), TooMany> {
        let looks = self.looks.get_or_insert_with(|| {
            let (looks, waiting) = channel(LOOKS_MAX);
            tasks.spawn(answer_looks(Arc::clone(receiver), waiting, sender.clone()));
            looks
        });
        add(looks, question)
    }

    /// See [`Questions::look`].
    pub(super) fn blocks(
        &mut self,
        question: Blocks,
        receiver: &Arc<Receiver>,
        sender: &Sender<ToSender>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), TooMany> {
        let blocks = self.blocks.get_or_insert_with(|| {
            let (blocks, waiting) = channel(BLOCK_QUESTIONS_MAX);
            tasks.spawn(answer_blocks(Arc::clone(receiver), waiting, sender.clone()));
            blocks
        });
        add(blocks, question)
    }
}

fn add<T>(waiting: &Sender<T>, question: T) -> Result<(), TooMany> {
    match waiting.try_send(question) {
        // The job has ended, if nobody answers any more.
        Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        Err(TrySendError::Full(_)) => Err(TooMany),
    }
}

async fn answer_looks(
    receiver: Arc<Receiver>,
    mut questions: Inbox<Look>,
    sender: Sender<ToSender>,
) {
    while let Some(Look { number, likeness, files }) = questions.recv().await {
        match receiver.look(files, likeness).await {
            Ok(there) => {
                // A connection that is gone needs no answer.
                drop(sender.send(ToSender::Found { question: number, there }).await);
            }
            Err(error) => end(&receiver, &error),
        }
    }
}

async fn answer_blocks(
    receiver: Arc<Receiver>,
    mut questions: Inbox<Blocks>,
    sender: Sender<ToSender>,
) {
    while let Some(Blocks { number: question, path, bytes, block_bytes }) = questions.recv().await {
        let mut hashing = match receiver.blocks(path, bytes, block_bytes).await {
            Ok(begun) => begun,
            Err(error) => return end(&receiver, &error),
        };
        loop {
            let (hashes, is_last);
            (hashes, is_last, hashing) = match hashing {
                None => (Vec::new(), true, None),
                Some(mut hashing) => {
                    let step = move || (hashing.step(STEP_BYTES, BLOCK_HASHES_MAX), hashing);
                    match receiver.behind(step).await {
                        Ok((Ok((hashes, is_last)), hashing)) => (hashes, is_last, Some(hashing)),
                        // What cannot be read is not the same.
                        Ok((Err(_), _)) => (Vec::new(), true, None),
                        Err(error) => return end(&receiver, &error),
                    }
                }
            };
            let is_heard =
                sender.send(ToSender::Hashes { question, hashes, is_last }).await.is_ok();
            if is_last || !is_heard {
                break;
            }
        }
    }
}

fn end(receiver: &Receiver, error: &SinkError) {
    match error {
        SinkError::Protocol(_) => receiver.end_broken(&error.to_string()),
        SinkError::Disk(_) => receiver.end(&error.to_string()),
    }
}
