//! A connection that is up and carries what a sender sends, whoever dialled it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectError, Connection, ConnectionError, SendStream, VarInt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::control::{ControlError, ControlReader, send_all};
use super::knock::Barrier;
use super::telemetry::Telemetry;
use super::{tls, words};
use crate::identity::Fingerprint;
use crate::traffic::Sample;
use crate::wire::{ToReceiver, ToSender};

/// A close frame carries this much of a reason; more would not fit into one packet.
pub const CLOSE_REASON_BYTES_MAX: usize = 900;
/// How long to wait for a close to leave this host.
pub const CLOSE_TIME: Duration = Duration::from_millis(20);

/// What happens on a connection.
#[derive(Debug)]
pub enum LineEvent {
    /// Its handshake is done.
    Up(Line),
    /// The other end says something.
    Said(ToSender),
    /// It is gone, or could not be opened.
    Lost(LineError),
}

/// Why a connection is gone.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
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
    /// The other end was asked to open it, and does not.
    #[error("it was not opened")]
    NotOpened,
    /// The server does not keep to the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

impl LineError {
    /// Of several, the one that weighs most says most.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::NoAddress | Self::NotOpened | Self::Connect(_) => 0,
            Self::Socket(_) => 1,
            Self::Barred(_) => 2,
            Self::Connection(error) if !tls::is_auth_failure(error) => 3,
            Self::Connection(_) | Self::Protocol(_) => 4,
        }
    }
}

/// A connection that is up.
#[derive(Debug)]
pub struct Line {
    connection: Connection,
    local: SocketAddr,
    telemetry: Arc<Telemetry>,
    control: UnboundedSender<ToReceiver>,
    /// Ends with the line.
    _talk: JoinSet<()>,
}

impl Line {
    /// A line over a connection from `local` that says what it has to say on `control`.
    pub fn new(
        connection: Connection,
        local: SocketAddr,
        telemetry: Arc<Telemetry>,
        control: SendStream,
    ) -> Self {
        let (sender, queue) = unbounded_channel();
        let mut talk = JoinSet::new();
        // If this fails, so does the connection, which is noticed by who listens to it.
        talk.spawn(async move { drop(send_all(control, queue).await) });
        Self { connection, local, telemetry, control: sender, _talk: talk }
    }

    /// The connection itself, for what is to be sent and received over it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Its counters.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// This end's address and the other's.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.connection.remote_address())
    }

    /// The key that the other end has shown.
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

    /// Says something to the other end.
    pub fn say(&self, message: ToReceiver) {
        // If the stream is gone, so is the connection, which is reported by itself.
        drop(self.control.send(message));
    }

    /// Closes the connection with one of the codes in [`crate::wire`].
    pub fn close(&self, code: u32) {
        self.close_with(code, "");
    }

    /// The same, with a reason for a person.
    pub fn close_with(&self, code: u32, reason: &str) {
        let reason = &reason.as_bytes()[..reason.len().min(CLOSE_REASON_BYTES_MAX)];
        self.connection.close(VarInt::from_u32(code), reason);
    }
}

/// Reports what the other end says on a connection's control stream, until the connection is lost.
pub async fn listen(
    connection: &Connection,
    mut messages: ControlReader,
    report: impl Fn(LineEvent),
) -> LineError {
    loop {
        match messages.next().await {
            Ok(Some(message)) => report(LineEvent::Said(message)),
            Ok(None) | Err(ControlError::Read(_)) => return connection.closed().await.into(),
            Err(ControlError::Wire(error)) => return LineError::Protocol(error.to_string()),
        }
    }
}
