//! One connection of a push: opened, primed, given stripes, closed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectError, Connection, ConnectionError, SendStream, VarInt, WriteError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::control::{ControlError, ControlReader, send_all};
use super::endpoint::{self, PathMtu};
use super::limit::{Limit, SLICE_BYTES};
use super::sockets::Sockets;
use super::telemetry::Telemetry;
use super::tls;
use crate::congestion::Controllers;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::store::source::Prepared;
use crate::traffic::{ConnId, Sample, StripeId};
use crate::wire::{Control, DATAGRAM_PADDING};

/// A stripe that may still be being read.
pub type Ready = watch::Receiver<Option<Prepared>>;

/// What all connections of a push have in common.
#[derive(Clone)]
pub struct Route {
    /// The server's addresses; connections take turns over them.
    pub servers: Vec<SocketAddr>,
    /// The name in the server's certificate, where one is looked at.
    pub server_name: String,
    /// Local addresses; connections take turns over them. Empty: the system chooses.
    pub bind: Vec<IpAddr>,
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
    /// The transport has given up, or the server closed the connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The server does not keep to the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

/// A connection that is up.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    local: Option<SocketAddr>,
    control: UnboundedSender<Control>,
    stripes: UnboundedSender<(StripeId, Ready)>,
    streams: Streams,
    telemetry: Arc<Telemetry>,
    limit: Option<Arc<Limit>>,
    primer: Option<AbortHandle>,
    /// Ends with the link.
    tasks: JoinSet<()>,
}

/// The stripes that were given to a connection and are not confirmed; `None` while not sent in full.
type Streams = Arc<Mutex<HashMap<StripeId, Option<SendStream>>>>;

impl Route {
    /// Opens connection `conn` from a new local port and introduces it with `hello`; reports all that
    /// happens on it, until it is lost.
    pub async fn run(self: Arc<Self>, conn: ConnId, hello: Control, events: impl Fn(LinkEvent)) {
        if let Err(error) = self.open(conn, hello, &events).await {
            events(LinkEvent::Lost(error));
        }
    }

    async fn open(
        &self,
        conn: ConnId,
        hello: Control,
        events: &impl Fn(LinkEvent),
    ) -> Result<(), LinkError> {
        let remote = self.servers[conn.0 as usize % self.servers.len()];
        let telemetry = Arc::new(Telemetry::default());
        let mtu = PathMtu::of(remote, self.datagram_bytes_max);
        let endpoint = endpoint::client(&*self.sockets, self.local(conn, remote), mtu)?;
        let config = endpoint::client_config(
            Arc::clone(&self.tls),
            mtu,
            Arc::clone(&self.congestion),
            Arc::clone(&telemetry),
        );
        let connection = endpoint.connect_with(config, remote, &self.server_name)?.await?;
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

    fn local(&self, conn: ConnId, remote: SocketAddr) -> SocketAddr {
        let same_family: Vec<_> =
            self.bind.iter().filter(|ip| ip.is_ipv4() == remote.is_ipv4()).collect();
        match same_family.len() {
            0 => endpoint::any_local(remote),
            count => {
                // Every local address is paired with every one of the server's.
                let turn = conn.0 as usize / self.servers.len();
                SocketAddr::new(*same_family[turn % count], 0)
            }
        }
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

    /// Says something to the server.
    pub fn say(&self, message: Control) {
        // If the stream is gone, so is the connection, which is reported by itself.
        drop(self.control.send(message));
    }

    /// Queues a stripe.
    pub fn send(&self, stripe: StripeId, ready: Ready) {
        lock(&self.streams).insert(stripe, None);
        drop(self.stripes.send((stripe, ready)));
    }

    /// Stops sending a stripe, which has arrived by another connection.
    pub fn abandon(&self, stripe: StripeId) {
        if let Some(Some(mut stream)) = lock(&self.streams).remove(&stripe) {
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
    mut queue: UnboundedReceiver<(StripeId, Ready)>,
    streams: Streams,
    limit: Option<Arc<Limit>>,
) {
    while let Some((stripe, mut ready)) = queue.recv().await {
        let prepared = match ready.wait_for(Option::is_some).await {
            Ok(prepared) => prepared.clone(),
            Err(_) => continue, // confirmed before it was read again
        };
        let (Some(prepared), true) = (prepared, lock(&streams).contains_key(&stripe)) else {
            continue;
        };
        let Ok(mut stream) = connection.open_uni().await else { return };
        if send_stripe(&mut stream, prepared, limit.as_deref()).await.is_err() {
            continue;
        }
        match lock(&streams).get_mut(&stripe) {
            Some(slot) => *slot = Some(stream),
            None => reset(&mut stream),
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
