//! What comes in over one connection: stripes, messages of the sender, and padding.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Chunk, Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::look::{Blocks, Look, Questions, TooMany};
use super::padding::Padding;
use super::receiver::{Receiver, failed};
use super::room::{EarlyRoom, Room};
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::windows::{STREAMS_MAX, Window};
use crate::net::words;
use crate::store::tally::Failed;
use crate::wire::{
    CLOSE_ABORTED, CLOSE_CROWDED, CLOSE_DONE, CLOSE_PROTOCOL, Header, ToReceiver, ToSender,
    WireError,
};

/// Messages that wait to be sent, at most: a sender that does not read them is not read from either.
const QUEUE: usize = 256;
/// What is done at the same time, at most. A stream may be over, and the sender free to open another,
/// while its answer still waits.
const TASKS_MAX: usize = STREAMS_MAX as usize;
/// What is read at a time before a stripe's length is known.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// What comes of a stripe by itself is not smaller than this on average, in bytes, a few aside: what has come is kept
/// account of, which takes some memory for each gap.
const PART_BYTES_MIN: usize = 128;
const PARTS_MIN: usize = 64;
/// A stripe's header, which is in its first packet, must be there within this time of what came first.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// A sender that has ended its control stream, or has heard that all is done, must be gone by then.
const LEAVE_TIME: Duration = Duration::from_secs(10);

/// A connection that brings a job, whoever has dialled it.
pub(crate) struct Inflow {
    connection: Connection,
    number: u32,
    messages: ControlReader,
    padding: Padding,
    sender: Sender<ToSender>,
    tasks: JoinSet<()>,
    /// The sender has said how many stripes there are.
    finishing: bool,
    /// The sender has asked what is kept.
    recalled: bool,
    /// Where its questions about what is there wait.
    questions: Questions,
    /// Who hears what else the sender says; without, it has nothing else to say.
    news: Option<Sender<News>>,
}

/// What is to be known of a job beside what comes of it.
#[derive(Debug)]
pub(crate) enum News {
    /// The sender has said something.
    Said(ToReceiver),
    /// Something could not be written.
    Failed(Failed),
}

/// How a connection has come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Left {
    /// The sender has given the job up.
    #[error("the client gave the transfer up")]
    Aborted,
    /// The sender has heard that all is done.
    #[error("the client has heard that all is done")]
    Done,
    /// It is lost, and what it carried may come over another.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The sender does not keep to the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
}

impl From<WireError> for Left {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<TooMany> for Left {
    fn from(TooMany: TooMany) -> Self {
        Self::Protocol("it asks more than it may before it hears an answer".into())
    }
}

/// Why a stripe is not taken.
#[derive(Debug, thiserror::Error)]
enum StripeError {
    #[error("the client broke the protocol: {0}")]
    Wire(#[from] WireError),
    #[error("the stream was lost")]
    Lost,
    #[error("the client broke the protocol: a stripe came in too many parts")]
    Crumbs,
    /// It holds what others need, and does not use it.
    #[error("{0}")]
    Stalled(&'static str),
}

impl Inflow {
    /// What comes over `connection`, which its sender calls `number`. Messages go both ways over its control
    /// stream; what was read of it is in `messages`, and who takes its padding is `padding`.
    pub(crate) fn new(
        connection: Connection,
        number: u32,
        messages: ControlReader,
        answers: SendStream,
        padding: Padding,
    ) -> Self {
        let (sender, queue) = channel(QUEUE);
        let mut tasks = JoinSet::new();
        // If this fails, so does the connection, which is noticed by who reads from it.
        tasks.spawn(async move { drop(send_all(answers, queue).await) });
        Self {
            connection,
            number,
            messages,
            padding,
            sender,
            tasks,
            finishing: false,
            recalled: false,
            questions: Questions::default(),
            news: None,
        }
    }

    /// Hands on what a sender at a server says beside that, and what it is told of failures.
    pub(crate) fn telling(mut self, news: Sender<News>) -> Self {
        self.news = Some(news);
        self
    }

    /// For who has something to say over the connection while it runs.
    pub(crate) fn speaker(&self) -> Sender<ToSender> {
        self.sender.clone()
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What its sender calls it.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// For the first messages, for which there is room.
    pub(crate) fn say(&self, message: ToSender) {
        drop(self.sender.try_send(message));
    }

    /// Takes what comes, for `receiver`, until the connection is closed. It may take in as much as `window` says.
    pub(crate) async fn run(mut self, receiver: &Arc<Receiver>, window: Window) -> Left {
        self.padding.belongs_to(receiver);
        let window = Arc::new(window);
        let left = loop {
            tokio::select! {
                message = self.messages.next() => match message {
                    Ok(Some(message)) => if let Err(left) = self.on_message(message, receiver) {
                        break left;
                    },
                    Ok(None) | Err(ControlError::Read(_)) => break self.left().await,
                    Err(ControlError::Wire(error)) => break error.into(),
                },
                stream = self.connection.accept_uni(), if self.tasks.len() < TASKS_MAX => match stream {
                    Ok(stream) => self.receive(Incoming { stream, window: Arc::clone(&window) }, receiver),
                    Err(_) => break self.lost().await,
                },
                Some(_) = self.tasks.join_next() => {}
            }
        };
        self.tasks.shutdown().await;
        left
    }

    /// The sender has no more to say: it closes the connection, or is made to.
    async fn left(&self) -> Left {
        if let Ok(left) = tokio::time::timeout(LEAVE_TIME, self.lost()).await {
            return left;
        }
        let reason = "it ended its control stream and stayed";
        self.connection.close(VarInt::from_u32(CLOSE_PROTOCOL), reason.as_bytes());
        Left::Lost(reason.into())
    }

    async fn lost(&self) -> Left {
        let error = self.connection.closed().await;
        let code = match &error {
            ConnectionError::ApplicationClosed(close) => {
                u32::try_from(close.error_code.into_inner()).ok()
            }
            _ => None,
        };
        match code {
            Some(CLOSE_ABORTED) => Left::Aborted,
            Some(CLOSE_DONE) => Left::Done,
            _ => Left::Lost(words::why(&error)),
        }
    }

    fn on_message(&mut self, message: ToReceiver, receiver: &Arc<Receiver>) -> Result<(), Left> {
        match message {
            ToReceiver::Drop(number) if number != self.number => {
                receiver.drop_connection(number);
                if let Some(news) = &self.news {
                    drop(news.try_send(News::Said(message)));
                }
            }
            ToReceiver::Finish { stripes } if !self.finishing => {
                self.finishing = true;
                let (receiver, sender) = (Arc::clone(receiver), self.sender.clone());
                self.tasks.spawn(async move {
                    receiver.wait_for(stripes).await;
                    finish(&receiver, &sender).await;
                });
            }
            ToReceiver::Heard(number) => receiver.heard(number),
            ToReceiver::Recall if !self.recalled => {
                self.recalled = true;
                let (receiver, sender) = (Arc::clone(receiver), self.sender.clone());
                self.tasks.spawn(async move { receiver.recall(sender).await });
            }
            ToReceiver::Look { question, likeness, files } => {
                let look = Look { number: question, likeness, files };
                self.questions.look(look, receiver, &self.sender, &mut self.tasks)?;
            }
            ToReceiver::Blocks { question, path, bytes, block_bytes } => {
                let blocks = Blocks { number: question, path, bytes, block_bytes };
                self.questions.blocks(blocks, receiver, &self.sender, &mut self.tasks)?;
            }
            other => return self.hand_on(&other),
        }
        Ok(())
    }

    fn hand_on(&self, message: &ToReceiver) -> Result<(), Left> {
        let is_expected = matches!(
            message,
            ToReceiver::Grant { .. }
                | ToReceiver::Waiting { .. }
                | ToReceiver::Wanted { .. }
                | ToReceiver::Sending(_)
                | ToReceiver::Unsent { .. }
                | ToReceiver::Sent(_)
                | ToReceiver::Primed(_)
                | ToReceiver::GivenUp(_)
                | ToReceiver::Does(_)
        );
        match &self.news {
            // Where nobody takes them, there are too many.
            Some(news) if is_expected && news.try_send(News::Said(message.clone())).is_ok() => {
                Ok(())
            }
            _ => Err(Left::Protocol(format!("unexpected message {message:?}"))),
        }
    }

    fn receive(&mut self, stream: Incoming, receiver: &Arc<Receiver>) {
        let (receiver, sender) = (Arc::clone(receiver), self.sender.clone());
        let (connection, news) = (self.connection.clone(), self.news.clone());
        self.tasks.spawn(async move {
            match receive(stream, &receiver, &sender, news.as_ref()).await {
                Ok(()) | Err(StripeError::Lost) => {}
                // Not the stream alone, which the sender would take for one that has arrived: what the
                // connection carried goes out again over others.
                Err(error @ StripeError::Stalled(_)) => {
                    let reason = error.to_string();
                    connection.close(VarInt::from_u32(CLOSE_CROWDED), reason.as_bytes());
                }
                Err(error @ (StripeError::Wire(_) | StripeError::Crumbs)) => {
                    receiver.end_broken(&error.to_string());
                }
            }
        });
    }
}

async fn finish(receiver: &Arc<Receiver>, sender: &Sender<ToSender>) {
    match receiver.finish().await {
        Ok(outcome) => {
            for failure in &outcome.failures {
                drop(sender.send(failed(failure.clone())).await);
            }
            for unkept in &outcome.unkept {
                drop(sender.send(ToSender::Unkept(unkept.clone())).await);
            }
            let finished = ToSender::Finished {
                files: outcome.files,
                bytes: outcome.bytes,
                failed_files: outcome.failed_files,
                discarded_files: outcome.discarded_files,
                failed_others: outcome.failed_others,
                padding_bytes: receiver.padding_bytes(),
            };
            drop(sender.send(finished).await);
            tokio::time::sleep(LEAVE_TIME).await;
            receiver.end("its client has stayed when all was done");
        }
        Err(error) => receiver.end(&error.to_string()),
    }
}

async fn receive(
    mut stream: Incoming,
    receiver: &Arc<Receiver>,
    sender: &Sender<ToSender>,
    news: Option<&Sender<News>>,
) -> Result<(), StripeError> {
    let (header, early) = read_header(&mut stream, receiver).await?;
    if receiver.is_written(header.stripe) {
        // Fails only if all of it has come, and then there is nothing to stop.
        drop(stream.stream.stop(VarInt::from_u32(0)));
        drop(sender.send(ToSender::Confirm(header.stripe)).await);
        return Ok(());
    }
    let bytes = header.table_bytes + header.content_bytes;
    let Some(room) = receiver.room(bytes + header.unpacked_bytes_max).await else {
        return Ok(());
    };
    let mut body = receiver.buffer(bytes);
    read_body(stream, early, body.as_mut(), &*room).await?;
    if let Some(answer) = receiver.take(header, body, room).await {
        // Before the answer, so that no more is sent of what has failed.
        for failure in receiver.news() {
            if let Some(news) = news {
                drop(news.send(News::Failed(failure.clone())).await);
            }
            drop(sender.send(failed(failure)).await);
        }
        // A connection that is gone needs no answer.
        drop(sender.send(answer).await);
    }
    Ok(())
}

/// A stream that brings a stripe.
struct Incoming {
    stream: RecvStream,
    /// What its connection may take in.
    window: Arc<Window>,
}

impl Incoming {
    /// What comes next, in whatever order, if it is not the end.
    async fn read(&mut self, bytes_max: usize) -> Result<Option<Chunk>, StripeError> {
        let chunk = self.stream.read_chunk(bytes_max, false).await;
        let chunk = chunk.map_err(|_| StripeError::Lost)?;
        if let Some(chunk) = &chunk {
            self.window.read(chunk.bytes.len() as u64);
        }
        Ok(chunk)
    }
}

/// What was read of a stripe before its length was known, and the room that this takes.
type Early = Vec<(Chunk, EarlyRoom)>;

/// Reads a stream until its header is there. Returns with it all else that was read: what has overtaken the header.
///
/// Everything is read in whatever order it arrives, from the first byte on: a stream that is read in
/// order at first and not later yields twice what has arrived twice.
async fn read_header(
    stream: &mut Incoming,
    receiver: &Receiver,
) -> Result<(Header, Early), StripeError> {
    let mut head = [0; Header::BYTES];
    let mut missing = Header::BYTES;
    let mut early = Early::new();
    // Where nothing was lost, that is the header and nothing else.
    let mut bytes_max = Header::BYTES;
    let mut until = Instant::now() + HEADER_TIME;
    while missing > 0 {
        let chunk = tokio::time::timeout_at(until, stream.read(bytes_max)).await;
        let chunk = chunk.map_err(|_| StripeError::Stalled("a stripe's header did not come"))??;
        let Chunk { offset, bytes } = chunk.ok_or(WireError::Short)?;
        let place = usize::try_from(offset).ok().and_then(|start| head.get_mut(start..));
        let mut len = 0;
        if let Some(place) = place {
            len = place.len().min(bytes.len());
            place[..len].copy_from_slice(&bytes[..len]);
            missing -= len;
        }
        if len < bytes.len() {
            // That is no fault of the header's.
            let began = Instant::now();
            let Some(room) = receiver.early_room(bytes.len()).await else {
                return Err(StripeError::Lost);
            };
            until += began.elapsed();
            // Where it came from may be many times as large.
            early.push((Chunk { offset, bytes: Bytes::copy_from_slice(&bytes) }, room));
        }
        bytes_max = CHUNK_BYTES_MAX;
    }
    Ok((Header::decode(&head)?, early))
}

/// Reads the rest of a stream. If others wait for the room that it takes, it must make progress.
async fn read_body(
    mut stream: Incoming,
    early: Early,
    body: &mut [u8],
    room: &dyn Room,
) -> Result<(), StripeError> {
    let bytes = body.len();
    let mut missing = bytes;
    for (chunk, _) in &early {
        missing -= place(body, chunk)?;
    }
    drop(early);
    let mut pace = Pace::new(bytes, missing);
    let mut parts = 0;
    let mut look = pin!(tokio::time::sleep(Pace::TIME));
    loop {
        let chunk = tokio::select! {
            biased;
            // One byte more than is missing, so that a stream that is too long is noticed.
            chunk = stream.read(missing + 1) => chunk?,
            () = &mut look => {
                if !pace.is_kept(missing) && room.is_wanted() {
                    return Err(StripeError::Stalled("others wait for the room that its stripes take"));
                }
                look.as_mut().reset(Instant::now() + Pace::TIME);
                continue;
            }
        };
        let Some(chunk) = chunk else { break };
        missing -= place(body, &chunk)?;
        parts += 1;
        if parts > PARTS_MIN + (bytes - missing) / PART_BYTES_MIN {
            return Err(StripeError::Crumbs);
        }
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

/// Puts what a chunk has of a stripe's body where it belongs. Returns how much that is, in bytes.
fn place(body: &mut [u8], chunk: &Chunk) -> Result<usize, StripeError> {
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
