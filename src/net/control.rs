//! The control stream: messages in, messages out.

use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::wire::{CONTROL_BYTES_MAX, Control, WireError};

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

/// Messages from the peer.
#[derive(Debug)]
pub struct ControlReader {
    stream: RecvStream,
    buffer: Vec<u8>,
    /// How much of the buffer has been decoded.
    decoded: usize,
}

impl ControlReader {
    /// Reads from `stream`.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: Vec::new(), decoded: 0 }
    }

    /// The next message, or `None` once the peer has ended the stream. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Control>, ControlError> {
        loop {
            if let Some((message, len)) = Control::decode(&self.buffer[self.decoded..])? {
                self.decoded += len;
                return Ok(Some(message));
            }
            self.buffer.drain(..self.decoded);
            self.decoded = 0;
            let Some(chunk) = self.stream.read_chunk(CONTROL_BYTES_MAX, true).await? else {
                return Ok(None);
            };
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }
}

/// Sends what is queued, as many messages at a time as there are, until the queue is closed.
pub async fn send_all(
    mut stream: SendStream,
    mut queue: UnboundedReceiver<Control>,
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
