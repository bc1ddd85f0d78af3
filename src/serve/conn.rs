//! One connection at the receiver.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Chunk, Connection, ConnectionError, ReadError, RecvStream, VarInt};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use super::room::{EarlyRoom, Room};
use super::transfer::{Transfer, failed};
use super::verify::Asked;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::endpoint::STREAMS_MAX;
use crate::store::sink::SinkError;
use crate::wire::{
    CLOSE_ABORTED, CLOSE_CROWDED, CLOSE_DONE, CLOSE_PROTOCOL, Control, Header, Keep, VERSION,
    WireError,
};

/// A client must say who it is within this time.
pub(super) const HELLO_TIME: Duration = Duration::from_secs(10);
/// Messages that wait to be sent, at most: a client that does not read them is not read from either.
const QUEUE: usize = 256;
/// What is done at the same time, at most. A stream may be over, and the client free to open another,
/// while its answer still waits.
const TASKS_MAX: usize = STREAMS_MAX as usize;
/// What is read at a time before a stripe's length is known.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A stripe's header, which is in its first packet, must be there within this time of what came first.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// A client that has ended its control stream, or has heard that all is done, must be gone by then.
const LEAVE_TIME: Duration = Duration::from_secs(10);

/// What a client says first.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) version: u64,
    pub(super) transfer: [u8; 16],
    pub(super) destination: Vec<u8>,
    pub(super) push: [u8; 16],
    pub(super) host: [u8; 16],
    pub(super) keep: Keep,
}

/// What a connection is for.
pub(super) enum Greeting {
    Transfer(Conn, Hello),
    Verify(Asked),
}

/// A connection that carries a transfer.
pub(super) struct Conn {
    pub(super) connection: Connection,
    pub(super) number: u32,
    messages: ControlReader,
    sender: Sender<Control>,
    tasks: JoinSet<()>,
    /// The client has said how many stripes there are.
    finishing: bool,
    /// The client has asked what is kept.
    recalled: bool,
}

/// Why a connection is no longer served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// It holds what others need, and does not use it.
    #[error("{0}")]
    Stalled(&'static str),
    #[error("the client gave the transfer up")]
    Aborted,
    #[error("the client has heard that all is done")]
    Done,
    #[error("{0}")]
    Refused(String),
}

impl From<ControlError> for ConnError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Wire(error) => error.into(),
            ControlError::Read(error) => Self::Lost(error.to_string()),
        }
    }
}

impl From<WireError> for ConnError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl Conn {
    /// Waits for the client to say what the connection is for.
    pub(super) async fn greet(connection: Connection) -> Result<Greeting, ConnError> {
        let lost = |error: ConnectionError| ConnError::Lost(error.to_string());
        let (control_out, control_in) = connection.accept_bi().await.map_err(lost)?;
        let mut messages = ControlReader::new(control_in);
        let (conn, hello) = match messages.next().await? {
            Some(Control::Hello { version, transfer, conn, destination, push, host, keep }) => {
                (conn, Hello { version, transfer, destination, push, host, keep })
            }
            Some(Control::Verify { version, destination }) => {
                let answers = control_out;
                let asked = Asked { connection, answers, messages, version, destination };
                return Ok(Greeting::Verify(asked));
            }
            _ => return Err(ConnError::Protocol("the first message is not a hello".into())),
        };
        let (sender, queue) = channel(QUEUE);
        let mut tasks = JoinSet::new();
        // If this fails, so does the connection, which is noticed by who reads from it.
        tasks.spawn(async move { drop(send_all(control_out, queue).await) });
        let conn = Self {
            connection,
            number: conn,
            messages,
            sender,
            tasks,
            finishing: false,
            recalled: false,
        };
        Ok(Greeting::Transfer(conn, hello))
    }

    /// Takes what comes over it, until it is closed.
    pub(super) async fn serve(mut self, transfer: &Arc<Transfer>) -> ConnError {
        let (destination, instance, kept) = (transfer.found, transfer.instance, transfer.kept);
        self.say(Control::Welcome { version: VERSION, destination, instance, kept });
        self.tasks.spawn(count_padding(self.connection.clone(), Arc::clone(transfer)));
        let error = loop {
            tokio::select! {
                message = self.messages.next() => match message {
                    Ok(Some(message)) => if let Err(error) = self.on_message(message, transfer) {
                        break error;
                    },
                    Ok(None) | Err(ControlError::Read(_)) => break self.left().await,
                    Err(error) => break error.into(),
                },
                stream = self.connection.accept_uni(), if self.tasks.len() < TASKS_MAX => match stream {
                    Ok(stream) => self.receive(stream, transfer),
                    Err(_) => break self.lost().await,
                },
                Some(_) = self.tasks.join_next() => {}
            }
        };
        self.tasks.shutdown().await;
        error
    }

    /// For the first messages, for which there is room.
    pub(super) fn say(&self, message: Control) {
        drop(self.sender.try_send(message));
    }

    /// The client has no more to say: it closes the connection, or is made to.
    async fn left(&self) -> ConnError {
        if let Ok(error) = tokio::time::timeout(LEAVE_TIME, self.lost()).await {
            return error;
        }
        let reason = "it ended its control stream and stayed";
        self.connection.close(VarInt::from_u32(CLOSE_PROTOCOL), reason.as_bytes());
        ConnError::Lost(reason.into())
    }

    async fn lost(&self) -> ConnError {
        let error = self.connection.closed().await;
        let code = match &error {
            ConnectionError::ApplicationClosed(close) => {
                u32::try_from(close.error_code.into_inner()).ok()
            }
            _ => None,
        };
        match code {
            Some(CLOSE_ABORTED) => ConnError::Aborted,
            Some(CLOSE_DONE) => ConnError::Done,
            _ => ConnError::Lost(error.to_string()),
        }
    }

    fn on_message(&mut self, message: Control, transfer: &Arc<Transfer>) -> Result<(), ConnError> {
        match message {
            Control::Drop(number) if number != self.number => transfer.drop_connection(number),
            Control::Finish { stripes } if !self.finishing => {
                self.finishing = true;
                let (transfer, sender) = (Arc::clone(transfer), self.sender.clone());
                self.tasks.spawn(async move {
                    transfer.wait_for(stripes).await;
                    finish(&transfer, &sender).await;
                });
            }
            Control::Heard(number) => transfer.heard(number),
            Control::Recall if !self.recalled => {
                self.recalled = true;
                let (transfer, sender) = (Arc::clone(transfer), self.sender.clone());
                self.tasks.spawn(async move { transfer.recall(sender).await });
            }
            other => return Err(ConnError::Protocol(format!("unexpected message {other:?}"))),
        }
        Ok(())
    }

    fn receive(&mut self, stream: RecvStream, transfer: &Arc<Transfer>) {
        let (transfer, sender) = (Arc::clone(transfer), self.sender.clone());
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            match receive(stream, &transfer, &sender).await {
                Ok(()) | Err(ConnError::Lost(_)) => {}
                // Not the stream alone, which the client would take for one that has arrived: what the
                // connection carried goes out again over others.
                Err(error @ ConnError::Stalled(_)) => {
                    let reason = error.to_string();
                    connection.close(VarInt::from_u32(CLOSE_CROWDED), reason.as_bytes());
                }
                Err(error @ ConnError::Protocol(_)) => transfer.end_broken(&error.to_string()),
                Err(error) => transfer.end(&error.to_string()),
            }
        });
    }
}

async fn finish(transfer: &Arc<Transfer>, sender: &Sender<Control>) {
    match transfer.finish().await {
        Ok(outcome) => {
            for failure in &outcome.failures {
                drop(sender.send(failed(failure.clone())).await);
            }
            for unkept in &outcome.unkept {
                drop(sender.send(Control::Unkept(unkept.clone())).await);
            }
            let finished = Control::Finished {
                files: outcome.files,
                bytes: outcome.bytes,
                failed_files: outcome.failed_files,
                discarded_files: outcome.discarded_files,
                failed_others: outcome.failed_others,
                padding_bytes: transfer.padding_bytes(),
            };
            drop(sender.send(finished).await);
            tokio::time::sleep(LEAVE_TIME).await;
            transfer.end("its client has stayed when all was done");
        }
        Err(error) => transfer.end(&error.to_string()),
    }
}

async fn receive(
    mut stream: RecvStream,
    transfer: &Arc<Transfer>,
    sender: &Sender<Control>,
) -> Result<(), ConnError> {
    let reading = read_header(&mut stream, transfer);
    let (header, early) = tokio::time::timeout(HEADER_TIME, reading)
        .await
        .map_err(|_| ConnError::Stalled("a stripe's header did not come"))??;
    if transfer.is_written(header.stripe) {
        // Fails only if all of it has come, and then there is nothing to stop.
        drop(stream.stop(VarInt::from_u32(0)));
        drop(sender.send(Control::Confirm(header.stripe)).await);
        return Ok(());
    }
    let bytes = header.table_bytes + header.content_bytes;
    let Some(room) = transfer.room(bytes).await else { return Ok(()) };
    let mut body = transfer.buffer(bytes);
    read_body(stream, early, body.as_mut(), &room).await?;
    if let Some(answer) = transfer.take(header, body, room).await {
        // Before the answer, so that no more is sent of what has failed.
        for news in transfer.news() {
            drop(sender.send(news).await);
        }
        // A connection that is gone needs no answer.
        drop(sender.send(answer).await);
    }
    Ok(())
}

/// What was read of a stripe before its length was known, and the room that this takes.
type Early = Vec<(Chunk, Option<EarlyRoom>)>;

/// Reads a stream until its header is there. Returns with it all that was read: the rest of the first
/// packets, and what has overtaken them.
///
/// Everything is read in whatever order it arrives, from the first byte on: a stream that is read in
/// order at first and not later yields twice what has arrived twice.
async fn read_header(
    stream: &mut RecvStream,
    transfer: &Transfer,
) -> Result<(Header, Early), ConnError> {
    let mut head = [0; Header::BYTES];
    let mut missing = Header::BYTES;
    let mut early = Early::new();
    while missing > 0 {
        let chunk = read_chunk(stream, CHUNK_BYTES_MAX).await?.ok_or(WireError::Short)?;
        let place = usize::try_from(chunk.offset).ok().and_then(|start| head.get_mut(start..));
        if let Some(place) = place {
            let len = place.len().min(chunk.bytes.len());
            place[..len].copy_from_slice(&chunk.bytes[..len]);
            missing -= len;
        }
        // One packet is little, and where nothing was lost that is all.
        let room = match missing {
            0 => None,
            _ => transfer.early_room(chunk.bytes.len()).await,
        };
        early.push((chunk, room));
    }
    Ok((Header::decode(&head)?, early))
}

/// Reads the rest of a stream. If others wait for the room that it takes, it must make progress.
async fn read_body(
    mut stream: RecvStream,
    early: Early,
    body: &mut [u8],
    room: &Room,
) -> Result<(), ConnError> {
    let bytes = body.len();
    let mut missing = bytes;
    for (chunk, _) in &early {
        missing -= place(body, chunk)?;
    }
    drop(early);
    let mut pace = Pace::new(bytes, missing);
    let mut look = pin!(tokio::time::sleep(Pace::TIME));
    loop {
        let chunk = tokio::select! {
            biased;
            // One byte more than is missing, so that a stream that is too long is noticed.
            chunk = read_chunk(&mut stream, missing + 1) => chunk?,
            () = &mut look => {
                if !pace.is_kept(missing) && room.is_wanted() {
                    return Err(ConnError::Stalled("others wait for the room that its stripes take"));
                }
                look.as_mut().reset(tokio::time::Instant::now() + Pace::TIME);
                continue;
            }
        };
        let Some(chunk) = chunk else { break };
        missing -= place(body, &chunk)?;
    }
    if missing == 0 { Ok(()) } else { Err(WireError::Short.into()) }
}

/// Whether enough of a stripe comes for it to be there in bounded time.
struct Pace {
    step: usize,
    missing: usize,
}

impl Pace {
    const TIME: Duration = Duration::from_secs(10);
    /// A stripe may take this many times as long.
    const STEPS: usize = 32;

    fn new(bytes: usize, missing: usize) -> Self {
        Self { step: bytes.div_ceil(Self::STEPS), missing }
    }

    /// Whether enough has come since this was asked last.
    fn is_kept(&mut self, missing: usize) -> bool {
        let before = std::mem::replace(&mut self.missing, missing);
        before - missing >= self.step
    }
}

async fn read_chunk(stream: &mut RecvStream, bytes: usize) -> Result<Option<Chunk>, ConnError> {
    stream.read_chunk(bytes, false).await.map_err(|error| match error {
        ReadError::Reset(_) => ConnError::Lost("the stream was reset".into()),
        error => ConnError::Lost(error.to_string()),
    })
}

/// Puts what a chunk has of a stripe's body where it belongs. Returns how much that is, in bytes.
fn place(body: &mut [u8], chunk: &Chunk) -> Result<usize, ConnError> {
    let offset = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
    let header = Header::BYTES.saturating_sub(offset).min(chunk.bytes.len());
    let bytes = &chunk.bytes[header..];
    let start = (offset + header).saturating_sub(Header::BYTES);
    let Some(place) = body.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len())) else {
        return Err(WireError::LeftOver(bytes.len()).into());
    };
    place.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Padding is counted and thrown away.
async fn count_padding(connection: Connection, transfer: Arc<Transfer>) {
    while let Ok(datagram) = connection.read_datagram().await {
        transfer.add_padding(datagram.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripe_that_comes_drop_by_drop_does_not_keep_its_pace() {
        let mut pace = Pace::new(1 << 20, 1_000_000);
        assert!(pace.is_kept(900_000));
        assert!(!pace.is_kept(899_999));
        assert!(!pace.is_kept(899_999));
        assert!(pace.is_kept(800_000));
        let mut small = Pace::new(1, 1);
        assert!(!small.is_kept(1) && small.is_kept(0));
    }
}
