//! One transfer at the receiver: what its connections share.

use std::collections::HashMap;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, VarInt};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, OnceCell, oneshot};
use tokio::time::Instant;

use super::ledger::{Claim, Ledger};
use super::room::{Account, EarlyRoom, Room};
use crate::buffers::Buffer;
use crate::mutex::lock;
use crate::store::sink::{Applied, Sink, SinkError};
use crate::store::tally::{Failed, Outcome};
use crate::wire::{
    CLOSE_CONDEMNED, CLOSE_DONE, CLOSE_REFUSED, CLOSE_STOPPING, Control, Destination, Header,
    TEXT_BYTES_MAX, VARINT_MAX,
};

/// How often it is looked for signs of life.
const LIFE_TICK: Duration = Duration::from_millis(20);
/// A close frame carries this much of a reason; more would not fit into one packet.
const CLOSE_REASON_MAX: usize = 900;

/// A transfer that has begun.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Its public name.
    pub(super) name: String,
    /// Tells it from one of the same name that this server, or one before it, has forgotten.
    pub(super) instance: u64,
    /// Which of its client's pushes it is a run of.
    pub(super) push: [u8; 16],
    /// Where its client runs.
    pub(super) host: [u8; 16],
    /// An earlier run of the same push has left something.
    pub(super) kept: bool,
    pub(super) began: Instant,
    /// What was at its destination.
    pub(super) found: Destination,
    /// Room for stripes that are being received.
    account: Arc<Account>,
    sink: Arc<Held>,
    /// Resolves when the sink is gone, with all that it had to do.
    pub(super) released: Mutex<Option<oneshot::Receiver<()>>>,
    ledger: Mutex<Ledger<oneshot::Sender<Control>>>,
    connections: Mutex<HashMap<u32, Connection>>,
    /// When a connection was last lost.
    deserted_at: Mutex<Option<Instant>>,
    /// Told whenever a stripe is written.
    written: Notify,
    padding_bytes: AtomicU64,
    /// Failures with lower numbers were told, over connections that are still there.
    told: Mutex<u64>,
    /// Content that was verified and written.
    pub(super) written_bytes: AtomicU64,
    recalling: tokio::sync::Mutex<()>,
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

impl Transfer {
    pub(super) fn new(
        name: String,
        (push, host): ([u8; 16], [u8; 16]),
        found: Destination,
        sink: Sink,
        account: Arc<Account>,
    ) -> Self {
        let (release, released) = oneshot::channel();
        Self {
            name,
            instance: rand::random::<u64>() & VARINT_MAX,
            push,
            host,
            kept: sink.has_kept(),
            began: Instant::now(),
            found,
            account,
            sink: Arc::new(Held { sink, _released: release }),
            released: Mutex::new(Some(released)),
            ledger: Mutex::default(),
            connections: Mutex::default(),
            deserted_at: Mutex::default(),
            written: Notify::new(),
            padding_bytes: AtomicU64::new(0),
            told: Mutex::new(0),
            written_bytes: AtomicU64::new(0),
            recalling: tokio::sync::Mutex::default(),
            outcome: OnceCell::new(),
            end: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Adds a connection. False if the client has used its number before, or the transfer has ended.
    pub(super) fn join(&self, number: u32, connection: &Connection) -> bool {
        let mut connections = lock(&self.connections);
        // Whoever ends the transfer says so before it closes the connections.
        if lock(&self.end).is_some() || connections.contains_key(&number) {
            return false;
        }
        connections.insert(number, connection.clone());
        true
    }

    /// A connection is over. Returns how many are left.
    pub(super) fn leave(&self, number: u32) -> usize {
        let mut connections = lock(&self.connections);
        connections.remove(&number);
        *lock(&self.deserted_at) = Some(Instant::now());
        // What it has told may not have been heard.
        *lock(&self.told) = 0;
        connections.len()
    }

    /// Whether there has been no connection for at least `time`.
    pub(super) fn is_deserted(&self, time: Duration) -> bool {
        let connections = lock(&self.connections);
        connections.is_empty() && lock(&self.deserted_at).is_some_and(|at| at.elapsed() >= time)
    }

    /// Waits until something comes over any of its connections, which are asked for a sign of life. The
    /// client's system answers, and not the client.
    pub(super) async fn shows_life(&self) {
        let connections: Vec<_> = lock(&self.connections).values().cloned().collect();
        let heard = |connection: &Connection| connection.stats().udp_rx.datagrams;
        let before: Vec<_> = connections.iter().map(heard).collect();
        for connection in &connections {
            // One that cannot send is dead.
            drop(connection.send_datagram(Bytes::from_static(b"?")));
        }
        let is_alive = || connections.iter().map(heard).ne(before.iter().copied());
        while !is_alive() {
            tokio::time::sleep(LIFE_TICK).await;
        }
    }

    /// Whether it has connections.
    pub(super) fn is_served(&self) -> bool {
        !lock(&self.connections).is_empty()
    }

    /// The client has given up connection `number`: what it holds is freed.
    pub(super) fn drop_connection(&self, number: u32) {
        if let Some(connection) = lock(&self.connections).get(&number) {
            connection.close(VarInt::from_u32(CLOSE_CONDEMNED), b"");
        }
    }

    pub(super) fn add_padding(&self, bytes: u64) {
        self.padding_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn padding_bytes(&self) -> u64 {
        self.padding_bytes.load(Relaxed)
    }

    /// Waits for room for a stripe.
    pub(super) async fn room(&self, bytes: u32) -> Option<Room> {
        self.account.room(bytes as usize).await
    }

    /// Memory for a stripe that has its room.
    pub(super) fn buffer(&self, bytes: u32) -> Buffer {
        self.account.buffer(bytes as usize)
    }

    /// Waits for room for what has come of a stripe before its header.
    pub(super) async fn early_room(&self, bytes: usize) -> Option<EarlyRoom> {
        self.account.early_room(bytes).await
    }

    pub(super) fn is_written(&self, stripe: u64) -> bool {
        lock(&self.ledger).is_written(stripe)
    }

    /// Verifies and writes a stripe that has arrived in full. Goes on to its end even if the connection
    /// that brought the stripe ends before. Returns what to answer, if the transfer goes on.
    pub(super) async fn take(
        self: &Arc<Self>,
        header: Header,
        body: Buffer,
        room: Room,
    ) -> Option<Control> {
        let transfer = Arc::clone(self);
        let taken = blocking(move || {
            let taken = transfer.take_blocking(&header, body.as_ref());
            drop((body, room));
            match &taken {
                Err(error @ SinkError::Protocol(_)) => transfer.end_broken(&error.to_string()),
                Err(error) => transfer.end(&error.to_string()),
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

    fn take_blocking(&self, header: &Header, body: &[u8]) -> Result<Answer, SinkError> {
        let stripe = header.stripe;
        let (asked, answer) = oneshot::channel();
        let claim = lock(&self.ledger).claim(stripe, asked);
        let (waiting, message) = match claim {
            Claim::Wait => return Ok(Answer::Later(answer)),
            Claim::Known => (Vec::new(), Control::Confirm(stripe)),
            Claim::TooFar => {
                return Err(SinkError::Protocol(format!("stripe {stripe} is too far ahead")));
            }
            Claim::Write => {
                let (table, content) = body.split_at(header.table_bytes as usize);
                match self.sink.apply(header, table, content)? {
                    Applied::Written => {
                        self.written_bytes.fetch_add(content.len() as u64, Relaxed);
                        (lock(&self.ledger).written(stripe), Control::Confirm(stripe))
                    }
                    Applied::Damaged => {
                        (lock(&self.ledger).failed(stripe), Control::Damaged(stripe))
                    }
                }
            }
        };
        self.written.notify_waiters();
        for asked in waiting {
            // A connection that is gone needs no answer.
            drop(asked.send(message.clone()));
        }
        Ok(Answer::Now(message))
    }

    /// What has failed and was not told yet, or not for long.
    pub(super) fn news(&self) -> Vec<Control> {
        const NEWS_MAX: usize = 64;
        let mut told = lock(&self.told);
        let news = self.sink.unheard(*told, NEWS_MAX);
        if let Some(last) = news.last() {
            *told = last.number + 1;
        }
        news.into_iter().map(failed).collect()
    }

    /// The client knows of a failure.
    pub(super) fn heard(&self, number: u64) {
        self.sink.heard(number);
    }

    /// Tells a client what earlier runs have left; one connection at a time.
    pub(super) async fn recall(self: &Arc<Self>, sender: Sender<Control>) {
        let _turn = self.recalling.lock().await;
        let transfer = Arc::clone(self);
        let (done, is_done) = oneshot::channel::<()>();
        // On a thread of its own: a client that does not read would keep one of those that write files.
        let thread = thread::Builder::new().name("qbulk-recall".into()).spawn(move || {
            let goes_on = || !sender.is_closed();
            transfer.sink.recall(goes_on, |message| sender.blocking_send(message).is_ok());
            drop(done);
        });
        match thread {
            // If it panics, the client hears no end of it, and nothing is lost.
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
        let transfer = Arc::clone(self);
        let finishing = tokio::spawn(async move {
            let finish = || {
                let sink = Arc::clone(&transfer.sink);
                blocking(move || sink.finish())
            };
            transfer.outcome.get_or_init(finish).await.as_ref().map(drop).map_err(Clone::clone)
        });
        finishing.await.unwrap_or_else(|error| Err(internal(&error)))?;
        self.account.leave_seat();
        self.outcome().ok_or_else(|| SinkError::Disk("internal error: no outcome".into()))
    }

    /// What became of it, once it is finished.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get().and_then(|outcome| outcome.as_ref().ok())
    }

    /// Ends the transfer: all its connections are closed with `reason`. The first reason counts.
    pub(super) fn end(&self, reason: &str) {
        self.end_with(CLOSE_REFUSED, reason);
    }

    /// Ends the transfer because the server stops: the client may come back.
    pub(super) fn stop(&self, reason: &str) {
        self.end_with(CLOSE_STOPPING, reason);
    }

    /// Ends the transfer because its client does not keep to the protocol.
    pub(super) fn end_broken(&self, reason: &str) {
        self.sink.distrust();
        self.end(reason);
    }

    fn end_with(&self, code: u32, reason: &str) {
        lock(&self.end).get_or_insert_with(|| reason.into());
        self.account.leave_seat();
        let text = &reason.as_bytes()[..reason.len().min(CLOSE_REASON_MAX)];
        let code = if self.outcome().is_some() { CLOSE_DONE } else { code };
        for connection in lock(&self.connections).values() {
            connection.close(VarInt::from_u32(code), text);
        }
        self.ended.notify_waiters();
    }

    /// Waits until the transfer is ended.
    pub(super) async fn ended(&self) {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        if lock(&self.end).is_none() {
            ended.await;
        }
    }

    pub(super) fn end_reason(&self) -> Option<String> {
        lock(&self.end).clone()
    }
}

/// How a client is told what has failed.
pub(super) fn failed(failed: Failed) -> Control {
    let Failed { number, item, path, reason } = failed;
    let mut message = reason.into_bytes();
    message.truncate(TEXT_BYTES_MAX);
    Control::Failed { number, item, path, message }
}

/// What to answer to whoever sent a stripe.
enum Answer {
    Now(Control),
    /// Another connection's task is writing the same stripe.
    Later(oneshot::Receiver<Control>),
}

/// Runs what blocks where it may. A panic there ends the transfer and no other.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(internal(&error)))
}

fn internal(error: &tokio::task::JoinError) -> SinkError {
    SinkError::Disk(format!("internal error: {error}"))
}
