//! What a sender puts onto a line: stripes, each on a stream of its own, and padding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::mutex::lock;
use crate::net::limit::Limit;
use crate::net::line::Line;
use crate::net::telemetry::Telemetry;
use crate::store::source::Prepared;
use crate::traffic::StripeId;
use crate::wire::DATAGRAM_PADDING;

/// A stripe that may still be being read.
pub(crate) type Ready = watch::Receiver<Option<Prepared>>;

/// A line that data goes out on.
#[derive(Debug)]
pub(crate) struct Outflow {
    line: Line,
    stripes: UnboundedSender<(StripeId, u64, Ready)>,
    streams: Streams,
    limit: Option<Arc<Limit>>,
    primer: Option<AbortHandle>,
    /// Ends with it.
    tasks: JoinSet<()>,
}

/// The stripes that were given to a connection and are not confirmed.
type Streams = Arc<Mutex<HashMap<StripeId, Slot>>>;

/// A stripe that was given to a connection, perhaps once more with other content.
#[derive(Debug, Default)]
struct Slot {
    /// How often it was given before.
    turn: u64,
    /// `None` while it is not sent in full.
    stream: Option<SendStream>,
}

impl Outflow {
    /// Sends over `line`, no faster than `limit`, which others may share.
    pub(crate) fn new(line: Line, limit: Option<Arc<Limit>>) -> Self {
        let (stripes, queue) = unbounded_channel();
        let streams = Streams::default();
        let mut tasks = JoinSet::new();
        let connection = line.connection().clone();
        tasks.spawn(send_stripes(connection, queue, Arc::clone(&streams), limit.clone()));
        Self { line, stripes, streams, limit, primer: None, tasks }
    }

    /// The line itself.
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    /// Queues a stripe. If it was given before, that is not sent any more.
    pub(crate) fn send(&self, stripe: StripeId, ready: Ready) {
        let mut streams = lock(&self.streams);
        let slot = streams.entry(stripe).or_default();
        slot.turn += 1;
        if let Some(mut stream) = slot.stream.take() {
            reset(&mut stream);
        }
        drop(self.stripes.send((stripe, slot.turn, ready)));
    }

    /// Stops sending a stripe, which has arrived by another connection.
    pub(crate) fn abandon(&self, stripe: StripeId) {
        let slot = lock(&self.streams).remove(&stripe);
        if let Some(mut stream) = slot.and_then(|slot| slot.stream) {
            reset(&mut stream);
        }
    }

    /// The receiver has a stripe.
    pub(crate) fn confirmed(&self, stripe: StripeId) {
        lock(&self.streams).remove(&stripe);
    }

    /// Sends padding, at most `budget_bytes` of it, as fast as the congestion window lets it.
    pub(crate) fn prime(&mut self, budget_bytes: u64) {
        self.stop_priming();
        let task = pad(
            self.line.connection().clone(),
            Arc::clone(self.line.telemetry()),
            self.limit.clone(),
            budget_bytes,
        );
        self.primer = Some(self.tasks.spawn(task));
    }

    /// Sends no more padding.
    pub(crate) fn stop_priming(&mut self) {
        if let Some(primer) = self.primer.take() {
            primer.abort();
        }
    }
}

/// Sends stripes one after the other, each on a stream of its own, in the order given.
async fn send_stripes(
    connection: Connection,
    mut queue: UnboundedReceiver<(StripeId, u64, Ready)>,
    streams: Streams,
    limit: Option<Arc<Limit>>,
) {
    while let Some((stripe, turn, mut ready)) = queue.recv().await {
        let is_wanted = || lock(&streams).get(&stripe).is_some_and(|slot| slot.turn == turn);
        let prepared = match ready.wait_for(Option::is_some).await {
            Ok(prepared) => prepared.clone(),
            Err(_) => continue, // confirmed before it was read again
        };
        let (Some(prepared), true) = (prepared, is_wanted()) else {
            continue;
        };
        let Ok(mut stream) = connection.open_uni().await else { return };
        if send_stripe(&mut stream, prepared, limit.as_deref()).await.is_err() {
            continue;
        }
        match lock(&streams).get_mut(&stripe) {
            Some(slot) if slot.turn == turn => slot.stream = Some(stream),
            _ => reset(&mut stream),
        }
    }
}

async fn send_stripe(
    stream: &mut SendStream,
    prepared: Prepared,
    limit: Option<&Limit>,
) -> Result<(), WriteError> {
    let Prepared { head, mut content } = prepared;
    if let Some(limit) = limit {
        limit.pass(head.len()).await;
        stream.write_chunk(head).await?;
        while !content.is_empty() {
            let slice = content.split_to(limit.slice_bytes().min(content.len()));
            limit.pass(slice.len()).await;
            stream.write_chunk(slice).await?;
        }
    } else {
        stream.write_all_chunks(&mut [head, content]).await?;
    }
    // Fails only if the receiver wants no more of the stream: then it has the stripe already.
    drop(stream.finish());
    Ok(())
}

fn reset(stream: &mut SendStream) {
    // Fails only if the stream is over, and then there is nothing left to stop.
    drop(stream.reset(VarInt::from_u32(0)));
}

async fn pad(
    connection: Connection,
    telemetry: Arc<Telemetry>,
    limit: Option<Arc<Limit>>,
    budget_bytes: u64,
) {
    let mut left = budget_bytes;
    while left > 0 {
        let Some(len) = connection.max_datagram_size() else { return };
        let padding =
            Bytes::from_static(&DATAGRAM_PADDING).slice(..len.min(DATAGRAM_PADDING.len()));
        let bytes = padding.len() as u64;
        if let Some(limit) = &limit {
            limit.pass_padding(padding.len()).await;
        }
        if connection.send_datagram_wait(padding).await.is_err() {
            return;
        }
        telemetry.add_padding(bytes);
        left = left.saturating_sub(bytes);
    }
}
