//! The connection to a server that compares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, VarInt};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use super::VerifyConfig;
use crate::congestion::cubic;
use crate::error::Error;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::endpoint::{self, PathMtu};
use crate::net::link::{CLOSE_TIME, LinkError};
use crate::net::sockets::SystemSockets;
use crate::net::telemetry::Telemetry;
use crate::net::tls;
use crate::push::reach::Reach;
use crate::wire::{self, COMPARES_MAX, Control, Destination, VERSION};

/// Messages that wait to be sent, at most. Each comparison takes two, and those that were answered
/// early may still have one in the queue.
const QUEUE: usize = 4 * COMPARES_MAX;

/// A server that has welcomed us.
pub(super) struct Peer {
    connection: Connection,
    messages: ControlReader,
    queue: Sender<Control>,
    server: String,
    reach: Reach,
    _endpoint: Endpoint,
    /// Ends with it.
    _sending: JoinSet<()>,
}

impl Peer {
    /// Connects, and asks to compare. Returns what is at the destination as well.
    pub(super) async fn connect(config: &VerifyConfig) -> Result<(Self, Destination), Error> {
        let timeout = config.connect_timeout;
        let mut reach =
            Reach::new(config.server_name.clone(), config.server, timeout, Instant::now());
        match tokio::time::timeout(timeout, open(config)).await {
            Err(_) => Err(reach.unreachable("no answer")),
            Ok(Err(OpenError::Link(error))) => {
                reach.lost(error, 1)?;
                Err(reach.unreachable("no connection could be opened"))
            }
            Ok(Err(OpenError::Other(error))) => Err(error),
            Ok(Ok(open)) => {
                reach.up(Instant::now());
                Self::new(open, config, reach).welcomed(timeout).await
            }
        }
    }

    fn new(open: Open, config: &VerifyConfig, reach: Reach) -> Self {
        let Open { endpoint, connection, control_out, messages } = open;
        let (queue, queued) = channel(QUEUE);
        let mut sending = JoinSet::new();
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move { drop(send_all(control_out, queued).await) });
        let destination = config.destination.clone();
        // There is room: nothing was said before.
        drop(queue.try_send(Control::Verify { version: VERSION, destination }));
        Self {
            connection,
            messages,
            queue,
            server: config.server_name.clone(),
            reach,
            _endpoint: endpoint,
            _sending: sending,
        }
    }

    async fn welcomed(mut self, timeout: Duration) -> Result<(Self, Destination), Error> {
        let Ok(message) = tokio::time::timeout(timeout, self.next()).await else {
            self.reach.check(Instant::now())?;
            return Err(self.reach.unreachable("no answer"));
        };
        match message? {
            Control::Welcome { version: VERSION, destination, .. } => Ok((self, destination)),
            Control::Welcome { version, .. } => Err(Error::Peer(format!(
                "{} speaks version {version} of the protocol, this host version {VERSION}",
                self.server
            ))),
            _ => Err(self.broke_the_protocol()),
        }
    }

    /// What the server says next; an error once the connection is lost. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Control, Error> {
        let lost = match self.messages.next().await {
            Ok(Some(message)) => return Ok(message),
            Err(ControlError::Wire(error)) => LinkError::Protocol(error.to_string()),
            Ok(None) | Err(ControlError::Read(_)) => self.connection.closed().await.into(),
        };
        self.reach.lost(lost, 1)?;
        Err(self.reach.unreachable("the connection was lost"))
    }

    /// Says something to the server.
    pub(super) fn say(&self, message: Control) -> Result<(), Error> {
        use tokio::sync::mpsc::error::TrySendError;
        match self.queue.try_send(message) {
            // If the queue is gone, so is the connection, which tells by itself why.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(self.broke_the_protocol()),
        }
    }

    pub(super) fn broke_the_protocol(&self) -> Error {
        Error::Peer(format!("{} broke the protocol", self.server))
    }

    /// Ends the connection, and gives the news a moment to leave.
    pub(super) async fn close(&self, done: bool) {
        let code = if done { wire::CLOSE_DONE } else { wire::CLOSE_ABORTED };
        self.connection.close(VarInt::from_u32(code), b"");
        tokio::time::sleep(CLOSE_TIME).await;
    }
}

struct Open {
    endpoint: Endpoint,
    connection: Connection,
    control_out: quinn::SendStream,
    messages: ControlReader,
}

enum OpenError {
    Link(LinkError),
    Other(Error),
}

impl<T: Into<LinkError>> From<T> for OpenError {
    fn from(error: T) -> Self {
        Self::Link(error.into())
    }
}

async fn open(config: &VerifyConfig) -> Result<Open, OpenError> {
    let remote = config.server;
    let tls = tls::client_config(&config.identity, config.trust.clone())
        .map_err(|error| OpenError::Other(error.into()))?;
    let local =
        config.bind.map_or_else(|| endpoint::any_local(remote), |ip| SocketAddr::new(ip, 0));
    let mtu = PathMtu::of(remote, config.datagram_bytes_max);
    let endpoint = endpoint::client(&SystemSockets, local, mtu)?;
    // What is said is little, whatever the path.
    let client =
        endpoint::client_config(Arc::new(tls), mtu, cubic(), Arc::new(Telemetry::default()));
    let connection = endpoint.connect_with(client, remote, &config.server_name)?.await?;
    let (control_out, control_in) = connection.open_bi().await?;
    Ok(Open { endpoint, connection, control_out, messages: ControlReader::new(control_in) })
}
