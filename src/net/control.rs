//! Bidirectional streams: messages in, messages out.

use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc::Receiver;

use crate::wire::{CONTROL_BYTES_MAX, Message, MessageBuffer, WireError};

/// Why no more messages come.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The peer sent what is no message.
    #[error("the other side broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The connection is lost.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What is said on `stream` goes before what stripes hold.
pub fn prefer(stream: &SendStream) {
    // Fails only if the stream is gone, and then nothing is said.
    drop(stream.set_priority(1));
}

/// Messages from the peer.
#[derive(Debug)]
pub struct ControlReader {
    stream: RecvStream,
    buffer: MessageBuffer,
}

impl ControlReader {
    /// Reads from `stream`.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: MessageBuffer::default() }
    }

    /// The next message, or `None` once the peer has ended the stream. Cancel safe.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, ControlError> {
        loop {
            if let Some(message) = self.buffer.take()? {
                return Ok(Some(message));
            }
            let Some(chunk) = self.stream.read_chunk(CONTROL_BYTES_MAX, true).await? else {
                return Ok(None);
            };
            self.buffer.push(&chunk.bytes);
        }
    }
}

/// Sends what is queued, as many messages at a time as there are, until the queue is closed.
pub async fn send_all<M: Message>(
    mut stream: SendStream,
    mut queue: Receiver<M>,
) -> Result<(), WriteError> {
    const BATCH: usize = 64;
    let mut messages = Vec::with_capacity(BATCH);
    let mut bytes = Vec::new();
    while queue.recv_many(&mut messages, BATCH).await > 0 {
        for message in messages.drain(..) {
            message.encode(&mut bytes);
        }
        stream.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}
