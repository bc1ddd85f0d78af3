//! A connection that is up and carries what a sender sends, whoever dialled it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectError, Connection, ConnectionError, SendStream, VarInt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::control::{ControlError, ControlReader, send_all};
use super::knock::Barrier;
use super::telemetry::Telemetry;
use super::{tls, words};
use crate::identity::Fingerprint;
use crate::traffic::{ConnId, Sample};
use crate::wire::{CLOSE_PROTOCOL, ToReceiver, ToSender};

/// A close frame carries this much of a reason; more would not fit into one packet.
pub const CLOSE_REASON_BYTES_MAX: usize = 900;
/// How long to wait for a close to leave this host.
pub const CLOSE_TIME: Duration = Duration::from_millis(20);
/// Messages that wait to be sent over a line, at most. Whoever does not take them has more said to it than it
/// cares to hear.
const SAID_MAX: usize = 4_096;
/// What has come over lines and was not looked at yet, at most: then no more is read off them.
const HEARD_MAX: usize = 1_024;

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

/// Where a line tells what happens on it.
#[derive(Debug)]
pub struct LineReport {
    conn: ConnId,
    events: Sender<(ConnId, LineEvent)>,
}

/// What lines tell, for whoever listens to all of them.
pub type LineEvents = Receiver<(ConnId, LineEvent)>;

/// Where lines tell what happens on them. There is a bound: who listens slowly is told no faster.
#[derive(Clone, Debug)]
pub struct LineReports(Sender<(ConnId, LineEvent)>);

impl LineReports {
    /// A way for lines to tell what happens on them, and its other end.
    pub fn new() -> (Self, LineEvents) {
        let (sender, events) = channel(HEARD_MAX);
        (Self(sender), events)
    }

    /// For line `conn`.
    pub fn of(&self, conn: ConnId) -> LineReport {
        LineReport { conn, events: self.0.clone() }
    }
}

impl LineReport {
    /// Tells it, once there is room for it. Nobody may want to know any more.
    pub async fn tell(&self, event: LineEvent) {
        drop(self.events.send((self.conn, event)).await);
    }
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
    control: Sender<ToReceiver>,
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
        let (sender, queue) = channel(SAID_MAX);
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

    /// Says something to the other end. If that does not hear what it is told, the line is closed.
    pub fn say(&self, message: ToReceiver) {
        // If the stream is gone, so is the connection, which is reported by itself.
        if let Err(TrySendError::Full(_)) = self.control.try_send(message) {
            self.close_with(CLOSE_PROTOCOL, "it does not take in what it is told");
        }
    }

    /// Says something that is not missed if there is no room for it.
    pub fn mention(&self, message: ToReceiver) {
        drop(self.control.try_send(message));
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

/// Hands on what the other end says on a connection's control stream, until the connection is lost. No more is
/// read while `hear` is at work.
pub async fn listen<F: Future<Output = ()> + Send>(
    connection: &Connection,
    mut messages: ControlReader,
    hear: impl Fn(ToSender) -> F,
) -> LineError {
    loop {
        match messages.next().await {
            Ok(Some(message)) => hear(message).await,
            Ok(None) | Err(ControlError::Read(_)) => return connection.closed().await.into(),
            Err(ControlError::Wire(error)) => return LineError::Protocol(error.to_string()),
        }
    }
}
