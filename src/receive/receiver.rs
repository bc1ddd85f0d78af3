//! One job at the receiver: what is written of it, what its sender is told, and how it ends.

use std::collections::HashMap;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use quinn::Connection;
use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, OnceCell, oneshot};

use super::ledger::{Claim, Ledger};
use super::members::Members;
use super::recall::recall;
use super::room::{Account, EarlyRoom, Room};
use crate::buffers::Buffer;
use crate::mutex::lock;
use crate::store::blocks::BlockHashing;
use crate::store::pack::unpack;
use crate::store::sink::{Applied, Sink, SinkError};
use crate::store::tally::{Failed, Outcome};
use crate::wire::{
    CLOSE_CONDEMNED, CLOSE_DONE, CLOSE_REFUSED, CLOSE_STOPPING, Candidate, Header, Likeness,
    TEXT_BYTES_MAX, There, ToSender,
};
use crate::work::Work;

/// A small packet takes more than its content.
const EARLY_BYTES_MIN: usize = 4 << 10;

/// A job that has begun. Have its connections [`join`](Receiver::join), and an
/// [`Inflow`](super::Inflow) take what comes over each.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Room for stripes that are being received.
    account: Arc<dyn Account>,
    /// Does what blocks.
    work: Work,
    sink: Arc<Held>,
    /// Resolves when the sink is gone, with all that it had to do.
    released: Mutex<Option<oneshot::Receiver<()>>>,
    ledger: Mutex<Ledger<oneshot::Sender<ToSender>>>,
    members: Members,
    /// Told whenever a stripe is written.
    written: Notify,
    padding_bytes: AtomicU64,
    saved_bytes: AtomicU64,
    /// Failures with lower numbers were told, over connections that are still there.
    told: Mutex<u64>,
    /// Content that was verified and written.
    written_bytes: Arc<AtomicU64>,
    /// Room of stripes that wait for those before them.
    held: Mutex<HashMap<u64, Box<dyn Room>>>,
    recalling: tokio::sync::Mutex<()>,
    looking: tokio::sync::Mutex<()>,
    comparing: tokio::sync::Mutex<()>,
    outcome: OnceCell<Result<Outcome, SinkError>>,
    /// Why it has come to an end before it was done.
    end: Mutex<Option<String>>,
    /// Told when it has.
    ended: Notify,
}

/// A sink that whoever waits for its end is told of.
#[derive(Debug)]
struct Held {
    sink: Sink,
    /// Goes after the sink.
    _released: oneshot::Sender<()>,
}

impl Deref for Held {
    type Target = Sink;

    fn deref(&self) -> &Sink {
        &self.sink
    }
}

impl Receiver {
    /// Writes to `sink`, in the room that `account` gives, when it is the turn of `work`.
    pub(crate) fn new(sink: Sink, account: Arc<dyn Account>, work: Work) -> Self {
        let (release, released) = oneshot::channel();
        Self {
            account,
            work,
            sink: Arc::new(Held { sink, _released: release }),
            released: Mutex::new(Some(released)),
            ledger: Mutex::default(),
            members: Members::default(),
            written: Notify::new(),
            padding_bytes: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
            told: Mutex::new(0),
            written_bytes: Arc::default(),
            held: Mutex::default(),
            recalling: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            outcome: OnceCell::new(),
            end: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Whether an earlier run has left something.
    pub(crate) fn has_kept(&self) -> bool {
        self.sink.has_kept()
    }

    /// Whether its sender may know what is there.
    pub(crate) fn shows(&self) -> bool {
        self.sink.shows()
    }

    /// What is there of files that may not have to be sent.
    pub(super) async fn look(
        self: &Arc<Self>,
        files: Vec<Candidate>,
        likeness: Likeness,
    ) -> Result<Vec<There>, SinkError> {
        // One at a time for each job, whatever it asks.
        let _turn = self.looking.lock().await;
        let sink = Arc::clone(&self.sink);
        self.blocking(move || sink.look(files, likeness)).await
    }

    /// What the blocks of a file hash to, if there is one.
    pub(super) async fn blocks(
        self: &Arc<Self>,
        path: Vec<u8>,
        bytes: u64,
        block_bytes: u64,
    ) -> Result<Option<BlockHashing>, SinkError> {
        let sink = Arc::clone(&self.sink);
        self.blocking(move || sink.blocks(path, bytes, block_bytes)).await
    }

    /// Does a step of what takes long, one at a time for each job.
    pub(super) async fn behind<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        let _turn = self.comparing.lock().await;
        self.work.run_behind(step).await.map_err(|error| internal(&error))
    }

    /// Adds a connection. False if the sender has used its number before, or the job has ended.
    pub(crate) fn join(&self, number: u32, connection: &Connection) -> bool {
        self.members.join(number, connection, || lock(&self.end).is_some())
    }

    /// A connection is over. Returns how many are left.
    pub(crate) fn leave(&self, number: u32) -> usize {
        let left = self.members.leave(number);
        // What it has told may not have been heard.
        *lock(&self.told) = 0;
        left
    }

    /// Whether it has connections.
    pub(crate) fn is_served(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether there has been no connection for at least `time`.
    pub(crate) fn is_deserted(&self, time: Duration) -> bool {
        self.members.is_deserted(time)
    }

    /// Waits until something comes over any of its connections, which are asked for a sign of life.
    pub(crate) async fn shows_life(&self) {
        self.members.shows_life().await;
    }

    /// The sender has given up connection `number`: what it holds is freed.
    pub(super) fn drop_connection(&self, number: u32) {
        self.members.close(number, CLOSE_CONDEMNED);
    }

    pub(super) fn add_padding(&self, bytes: u64) {
        self.padding_bytes.fetch_add(bytes, Relaxed);
    }

    /// Padding that has arrived.
    pub(crate) fn padding_bytes(&self) -> u64 {
        self.padding_bytes.load(Relaxed)
    }

    /// The same as it grows.
    pub(crate) fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written_bytes)
    }

    /// Content that was verified and written.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    /// What was not sent, as the files that are replaced had it.
    pub(crate) fn matched_bytes(&self) -> u64 {
        self.sink.matched_bytes()
    }

    /// Resolves when the disk is let go of; for whoever asks first.
    pub(crate) fn released(&self) -> Option<oneshot::Receiver<()>> {
        lock(&self.released).take()
    }

    /// Waits for room for a stripe.
    pub(super) async fn room(&self, bytes: u32) -> Option<Box<dyn Room>> {
        Arc::clone(&self.account).room(bytes as usize).await
    }

    /// Memory for a stripe that has its room.
    pub(super) fn buffer(&self, bytes: u32) -> Buffer {
        self.account.buffer(bytes as usize)
    }

    /// Waits for room for what has come of a stripe before its header.
    pub(super) async fn early_room(&self, bytes: usize) -> Option<EarlyRoom> {
        Arc::clone(&self.account).early_room(bytes.max(EARLY_BYTES_MIN)).await
    }

    pub(super) fn is_written(&self, stripe: u64) -> bool {
        lock(&self.ledger).is_written(stripe)
    }

    /// Verifies and writes a stripe that has arrived in full. Goes on to its end even if the connection
    /// that brought the stripe ends before. Returns what to answer, if the job goes on.
    pub(super) async fn take(
        self: &Arc<Self>,
        header: Header,
        body: Buffer,
        room: Box<dyn Room>,
    ) -> Option<ToSender> {
        let receiver = Arc::clone(self);
        let taken = self.blocking(move || {
            let taken = receiver.take_blocking(&header, body.as_ref(), room);
            drop(body);
            match &taken {
                Err(error @ SinkError::Protocol(_)) => receiver.end_broken(&error.to_string()),
                Err(error) => receiver.end(&error.to_string()),
                Ok(_) => {}
            }
            taken
        });
        match taken.await {
            Ok(Answer::Now(answer)) => Some(answer),
            Ok(Answer::Later(answer)) => answer.await.ok(),
            Err(error) => {
                self.end(&error.to_string());
                None
            }
        }
    }

    fn take_blocking(
        &self,
        header: &Header,
        body: &[u8],
        room: Box<dyn Room>,
    ) -> Result<Answer, SinkError> {
        let stripe = header.stripe;
        let (asked, answer) = oneshot::channel();
        let claim = lock(&self.ledger).claim(stripe, asked);
        let (waiting, message) = match claim {
            Claim::Wait => return Ok(Answer::Later(answer)),
            Claim::Known => (Vec::new(), ToSender::Confirm(stripe)),
            Claim::TooFar => {
                return Err(SinkError::Protocol(format!("stripe {stripe} is too far ahead")));
            }
            Claim::Write => {
                let (table, content) = body.split_at(header.table_bytes as usize);
                let unpacked = self.unpack(header, content)?;
                let content = match &unpacked {
                    Content::Plain => content,
                    Content::Unpacked(content) => content,
                    Content::Broken => {
                        let waiting = lock(&self.ledger).failed(stripe);
                        return Ok(self.answer(waiting, ToSender::Damaged(stripe)));
                    }
                };
                match self.sink.apply(header, table, content)? {
                    Applied::Held => {
                        lock(&self.held).insert(stripe, room);
                        let (asked, answer) = oneshot::channel();
                        // It is still being written.
                        let claim = lock(&self.ledger).claim(stripe, asked);
                        self.tell_poured();
                        if claim == Claim::Known {
                            // Its turn has come meanwhile.
                            lock(&self.held).remove(&stripe);
                            return Ok(Answer::Now(ToSender::Confirm(stripe)));
                        }
                        return Ok(Answer::Later(answer));
                    }
                    Applied::Written => {
                        self.written_bytes.fetch_add(content.len() as u64, Relaxed);
                        (lock(&self.ledger).written(stripe), ToSender::Confirm(stripe))
                    }
                    Applied::Damaged => {
                        (lock(&self.ledger).failed(stripe), ToSender::Damaged(stripe))
                    }
                }
            }
        };
        Ok(self.answer(waiting, message))
    }

    /// Answers all those who wait for what became of a stripe.
    fn answer(&self, waiting: Vec<oneshot::Sender<ToSender>>, message: ToSender) -> Answer {
        self.tell_poured();
        self.written.notify_waiters();
        for asked in waiting {
            // A connection that is gone needs no answer.
            drop(asked.send(message.clone()));
        }
        Answer::Now(message)
    }

    /// The content of a stripe as it is.
    fn unpack(&self, header: &Header, content: &[u8]) -> Result<Content, SinkError> {
        if header.unpacked_bytes_max == 0 {
            return Ok(Content::Plain);
        }
        if !self.sink.unpacks() {
            return Err(SinkError::Protocol("nobody has asked for packed content".into()));
        }
        let Some(unpacked) = unpack(content, header.unpacked_bytes_max as usize) else {
            return Ok(Content::Broken);
        };
        let saved = unpacked.len().saturating_sub(content.len()) as u64;
        self.saved_bytes.fetch_add(saved, Relaxed);
        Ok(Content::Unpacked(unpacked))
    }

    /// What of the content that has come did not come over the wire, as it was packed, in bytes.
    pub(crate) fn saved_bytes(&self) -> u64 {
        self.saved_bytes.load(Relaxed)
    }

    /// Tells of stripes that have waited for others, and are written by now.
    fn tell_poured(&self) {
        for stripe in self.sink.poured() {
            // It may be told before it is known to wait.
            let waiting = lock(&self.ledger).written(stripe);
            lock(&self.held).remove(&stripe);
            for asked in waiting {
                drop(asked.send(ToSender::Confirm(stripe)));
            }
        }
    }

    /// Runs what blocks where it may. A panic there ends the job and no other.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        self.work.run(work).await.unwrap_or_else(|error| Err(internal(&error)))
    }

    /// What has failed and was not told yet, or not for long.
    pub(super) fn news(&self) -> Vec<Failed> {
        const NEWS_MAX: usize = 64;
        let mut told = lock(&self.told);
        let news = self.sink.unheard(*told, NEWS_MAX);
        if let Some(last) = news.last() {
            *told = last.number + 1;
        }
        news
    }

    /// The sender knows of a failure.
    pub(super) fn heard(&self, number: u64) {
        self.sink.heard(number);
    }

    /// Tells the sender what earlier runs have left; one connection at a time.
    pub(super) async fn recall(self: &Arc<Self>, sender: Sender<ToSender>) {
        let _turn = self.recalling.lock().await;
        let receiver = Arc::clone(self);
        let (done, is_done) = oneshot::channel::<()>();
        // On a thread of its own: a sender that does not read would keep one of those that write files.
        let thread = thread::Builder::new().name("qbulk-recall".into()).spawn(move || {
            recall(&receiver.sink, &sender);
            drop(done);
        });
        match thread {
            // If it panics, the sender hears no end of it, and nothing is lost.
            Ok(_) => drop(is_done.await),
            Err(error) => self.end(&format!("cannot start a thread: {error}")),
        }
    }

    /// Waits until the first `stripes` are all written.
    pub(super) async fn wait_for(&self, stripes: u64) {
        loop {
            let mut written = pin!(self.written.notified());
            written.as_mut().enable();
            if lock(&self.ledger).has_all(stripes) {
                return;
            }
            written.await;
        }
    }

    /// Makes everything durable; once, however often it is asked for, and even if who asked is gone.
    pub(super) async fn finish(self: &Arc<Self>) -> Result<&Outcome, SinkError> {
        let receiver = Arc::clone(self);
        let finishing = tokio::spawn(async move {
            let finish = || {
                let sink = Arc::clone(&receiver.sink);
                receiver.blocking(move || sink.finish())
            };
            receiver.outcome.get_or_init(finish).await.as_ref().map(drop).map_err(Clone::clone)
        });
        finishing.await.unwrap_or_else(|error| Err(internal(&error)))?;
        self.account.over();
        self.outcome().ok_or_else(|| SinkError::Disk("internal error: no outcome".into()))
    }

    /// What became of it, once it is finished.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get().and_then(|outcome| outcome.as_ref().ok())
    }

    /// Ends the job: all its connections are closed with `reason`. The first reason counts.
    pub(crate) fn end(&self, reason: &str) {
        self.end_with(CLOSE_REFUSED, reason);
    }

    /// Ends the job because this end stops: the sender may come back.
    pub(crate) fn stop(&self, reason: &str) {
        self.end_with(CLOSE_STOPPING, reason);
    }

    /// Whether its sender did not keep to the protocol.
    pub(crate) fn is_broken(&self) -> bool {
        self.sink.is_distrusted()
    }

    /// Ends the job because its sender does not keep to the protocol.
    pub(crate) fn end_broken(&self, reason: &str) {
        self.sink.distrust();
        self.end(reason);
    }

    fn end_with(&self, code: u32, reason: &str) {
        lock(&self.end).get_or_insert_with(|| reason.into());
        self.sink.end();
        self.account.over();
        let code = if self.outcome().is_some() { CLOSE_DONE } else { code };
        self.members.close_all(code, reason);
        self.ended.notify_waiters();
    }

    /// Waits until the job is ended.
    pub(crate) async fn ended(&self) {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        if lock(&self.end).is_none() {
            ended.await;
        }
    }

    /// Why it has ended before it was done.
    pub(crate) fn end_reason(&self) -> Option<String> {
        lock(&self.end).clone()
    }
}

/// How the sender is told what has failed.
pub(super) fn failed(failed: Failed) -> ToSender {
    let Failed { number, item, path, reason } = failed;
    let mut message = reason.into_bytes();
    message.truncate(TEXT_BYTES_MAX);
    ToSender::Failed { number, item, path, message }
}

/// A stripe's content.
enum Content {
    /// It is what came.
    Plain,
    Unpacked(Vec<u8>),
    /// It cannot be unpacked.
    Broken,
}

/// What to answer to whoever sent a stripe.
enum Answer {
    Now(ToSender),
    /// Another connection's task is writing the same stripe.
    Later(oneshot::Receiver<ToSender>),
}

fn internal(error: &tokio::task::JoinError) -> SinkError {
    SinkError::Disk(format!("internal error: {error}"))
}
