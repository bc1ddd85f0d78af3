//! One connection of a push: opened, primed, given stripes, closed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectError, Connection, ConnectionError, Endpoint, SendStream, VarInt, WriteError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::address::without_zone;
use super::control::{ControlError, ControlReader, send_all};
use super::dial::{race, unless_barred};
use super::endpoint::{self, PathMtu};
use super::knock::Barrier;
use super::limit::{Limit, SLICE_BYTES};
use super::lookup::Addresses;
use super::sockets::Sockets;
use super::telemetry::Telemetry;
use super::{tls, words};
use crate::congestion::Controllers;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::store::source::Prepared;
use crate::traffic::{ConnId, Sample, StripeId};
use crate::wire::{CLOSE_DONE, Control, DATAGRAM_PADDING};

/// A stripe that may still be being read.
pub type Ready = watch::Receiver<Option<Prepared>>;

/// What all connections of a push have in common.
pub struct Route {
    /// Where the server is; connections take turns over the places that were given.
    pub addresses: Addresses,
    /// The name in the server's certificate, where one is looked at.
    pub server_name: String,
    /// Local addresses, with port 0; connections take turns over them. Empty: the system chooses.
    pub bind: Vec<SocketAddr>,
    /// Where each connection gets its socket from.
    pub sockets: Arc<dyn Sockets>,
    /// Our identity, and whom we accept.
    pub tls: Arc<QuicClientConfig>,
    /// Datagrams are never larger than this, in bytes.
    pub datagram_bytes_max: u16,
    /// Decides how much may be in flight.
    pub congestion: Controllers,
    /// The most to send, all connections together.
    pub limit: Option<Arc<Limit>>,
}

/// What happens on a connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// Its handshake is done.
    Up(Link),
    /// The server says something.
    Control(Control),
    /// It is gone, or could not be opened.
    Lost(LinkError),
}

/// Why a connection is gone.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No socket could be opened.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The address or name cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing gets there.
    #[error(transparent)]
    Barred(#[from] Barrier),
    /// There is nothing to try.
    #[error("there is no address to connect to")]
    NoAddress,
    /// The transport has given up, or the server closed the connection.
    #[error("{}", words::why(.0))]
    Connection(#[from] ConnectionError),
    /// The server does not keep to the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

impl LinkError {
    /// Of several, the one that weighs most says most.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::NoAddress | Self::Connect(_) => 0,
            Self::Socket(_) => 1,
            Self::Barred(_) => 2,
            Self::Connection(error) if !tls::is_auth_failure(error) => 3,
            Self::Connection(_) | Self::Protocol(_) => 4,
        }
    }
}

/// How the other connections of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siblings {
    /// Some are up.
    Well,
    /// None is up.
    Lost,
    /// None is heard of any more, and perhaps nobody is there.
    Dark,
}

/// A connection whose handshake is done, on a socket of its own.
pub(crate) struct Dialled {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    telemetry: Arc<Telemetry>,
}

/// A connection that is up.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    local: Option<SocketAddr>,
    control: UnboundedSender<Control>,
    stripes: UnboundedSender<(StripeId, u64, Ready)>,
    streams: Streams,
    telemetry: Arc<Telemetry>,
    limit: Option<Arc<Limit>>,
    primer: Option<AbortHandle>,
    /// Ends with the link.
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

impl Route {
    /// Opens connection `conn` from a new local port and introduces it with `hello`; reports all that
    /// happens on it, until it is lost. While the others are lost, all addresses that the server may have by
    /// now are tried.
    pub async fn run(
        self: Arc<Self>,
        conn: ConnId,
        siblings: Siblings,
        hello: Control,
        events: impl Fn(LinkEvent),
    ) {
        let opened = match self.connect(conn, siblings).await {
            Ok(dialled) => self.introduce(dialled, hello, &events).await,
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            events(LinkEvent::Lost(error));
        }
    }

    /// Opens connection `conn`, as `run` does.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        conn: ConnId,
        siblings: Siblings,
    ) -> Result<Dialled, LinkError> {
        let is_lost = siblings != Siblings::Well;
        // The first ones ask for all.
        let knocks = siblings == Siblings::Dark || (conn.0 as usize) < self.addresses.places();
        let place = self.place(conn);
        let tried = self.addresses.candidates(place, is_lost);
        let refreshed =
            async { if is_lost { self.addresses.refresh(place).await } else { Vec::new() } };
        let dial = |remote| {
            let this = Arc::clone(self);
            async move { this.dial(conn, knocks, remote).await }
        };
        let (remote, dialled) = race(tried.addresses.clone(), refreshed, dial).await?;
        let chosen = self.addresses.choose(place, &tried, remote);
        if chosen == remote {
            return Ok(dialled);
        }
        dialled.connection.close(VarInt::from_u32(CLOSE_DONE), b"");
        self.dial(conn, knocks, chosen).await
    }

    async fn dial(
        &self,
        conn: ConnId,
        knocks: bool,
        remote: SocketAddr,
    ) -> Result<Dialled, LinkError> {
        // Every local address is paired with every one of the server's.
        let turn = conn.0 as usize / self.addresses.places();
        let local = endpoint::local_for(&self.bind, remote, turn).ok_or(LinkError::NoAddress)?;
        let connected = self.dial_from(local, remote);
        if knocks {
            unless_barred(&*self.sockets, local, remote, connected).await
        } else {
            connected.await
        }
    }

    async fn dial_from(&self, local: SocketAddr, remote: SocketAddr) -> Result<Dialled, LinkError> {
        let telemetry = Arc::new(Telemetry::default());
        let mtu = PathMtu::of(remote, self.datagram_bytes_max);
        let endpoint = endpoint::client(&*self.sockets, local, mtu)?;
        let config = endpoint::client_config(
            Arc::clone(&self.tls),
            mtu,
            Arc::clone(&self.congestion),
            Arc::clone(&telemetry),
        );
        let name = without_zone(&self.server_name);
        let connection = endpoint.connect_with(config, remote, name)?.await?;
        Ok(Dialled { endpoint, connection, telemetry })
    }

    async fn introduce(
        &self,
        dialled: Dialled,
        hello: Control,
        events: &impl Fn(LinkEvent),
    ) -> Result<(), LinkError> {
        let Dialled { endpoint, connection, telemetry } = dialled;
        let (mut control_out, control_in) = connection.open_bi().await?;
        // Before there are stripes: they could use up all that the server takes in of somebody who has
        // not said yet what he wants.
        let mut introduction = Vec::new();
        hello.encode(&mut introduction);
        if control_out.write_all(&introduction).await.is_err() {
            return Err(connection.closed().await.into());
        }

        let (control, control_queue) = unbounded_channel();
        let (stripes, stripe_queue) = unbounded_channel();
        let streams = Streams::default();
        let mut tasks = JoinSet::new();
        // The connection's own end says why when one of these fails.
        tasks.spawn(async move { drop(send_all(control_out, control_queue).await) });
        tasks.spawn(send_stripes(
            connection.clone(),
            stripe_queue,
            Arc::clone(&streams),
            self.limit.clone(),
        ));
        let link = Link {
            connection: connection.clone(),
            local: endpoint.local_addr().ok(),
            control,
            stripes,
            streams,
            telemetry,
            limit: self.limit.clone(),
            primer: None,
            tasks,
        };
        events(LinkEvent::Up(link));

        let mut messages = ControlReader::new(control_in);
        loop {
            match messages.next().await {
                Ok(Some(message)) => events(LinkEvent::Control(message)),
                Ok(None) | Err(ControlError::Read(_)) => {
                    return Err(connection.closed().await.into());
                }
                Err(ControlError::Wire(error)) => {
                    return Err(LinkError::Protocol(error.to_string()));
                }
            }
        }
    }

    fn place(&self, conn: ConnId) -> usize {
        conn.0 as usize % self.addresses.places()
    }
}

impl Link {
    /// Its own address and the server's.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let remote = self.connection.remote_address();
        (self.local.unwrap_or_else(|| endpoint::any_local(remote)), remote)
    }

    /// The key that the server has shown.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        tls::peer_fingerprint(&self.connection)
    }

    /// What it has measured so far.
    pub fn sample(&self) -> Sample {
        self.telemetry.sample()
    }

    /// The same for somebody who is told of it: padding counts that has left this host, not that which
    /// still waits for its turn. Takes the connection's lock.
    pub fn told_sample(&self) -> Sample {
        let frames = self.connection.stats().frame_tx.datagram;
        Sample { padding_bytes: self.telemetry.padding_in(frames), ..self.sample() }
    }

    /// Says something to the server.
    pub fn say(&self, message: Control) {
        // If the stream is gone, so is the connection, which is reported by itself.
        drop(self.control.send(message));
    }

    /// Queues a stripe. If it was given before, that is not sent any more.
    pub fn send(&self, stripe: StripeId, ready: Ready) {
        let mut streams = lock(&self.streams);
        let slot = streams.entry(stripe).or_default();
        slot.turn += 1;
        if let Some(mut stream) = slot.stream.take() {
            reset(&mut stream);
        }
        drop(self.stripes.send((stripe, slot.turn, ready)));
    }

    /// Stops sending a stripe, which has arrived by another connection.
    pub fn abandon(&self, stripe: StripeId) {
        let slot = lock(&self.streams).remove(&stripe);
        if let Some(mut stream) = slot.and_then(|slot| slot.stream) {
            reset(&mut stream);
        }
    }

    /// The server has a stripe.
    pub fn confirmed(&self, stripe: StripeId) {
        lock(&self.streams).remove(&stripe);
    }

    /// Sends padding, at most `budget_bytes` of it, as fast as the congestion window lets it.
    pub fn prime(&mut self, budget_bytes: u64) {
        self.stop_priming();
        let task = pad(
            self.connection.clone(),
            Arc::clone(&self.telemetry),
            self.limit.clone(),
            budget_bytes,
        );
        self.primer = Some(self.tasks.spawn(task));
    }

    /// Sends no more padding.
    pub fn stop_priming(&mut self) {
        if let Some(primer) = self.primer.take() {
            primer.abort();
        }
    }

    /// Closes the connection with one of the codes in [`crate::wire`].
    pub fn close(&self, code: u32) {
        self.connection.close(VarInt::from_u32(code), b"");
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
            let slice = content.split_to(SLICE_BYTES.min(content.len()));
            limit.pass(slice.len()).await;
            stream.write_chunk(slice).await?;
        }
    } else {
        stream.write_all_chunks(&mut [head, content]).await?;
    }
    // Fails only if the server wants no more of the stream: then it has the stripe already.
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
            limit.pass(padding.len()).await;
        }
        if connection.send_datagram_wait(padding).await.is_err() {
            return;
        }
        telemetry.add_padding(bytes);
        left = left.saturating_sub(bytes);
    }
}

/// How long to wait for a close to leave this host.
pub const CLOSE_TIME: Duration = Duration::from_millis(20);
