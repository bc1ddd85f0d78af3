//! One connection over which a server is asked something, and answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, VarInt};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use super::reach::Reach;
use super::{CONNECT_TIMEOUT, find};
use crate::congestion::cubic;
use crate::error::Error;
use crate::identity::Identity;
use crate::net::address::ServerAddress;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::line::{CLOSE_TIME, LineError};
use crate::net::lookup::{Resolver, SystemResolver};
use crate::net::path::DATAGRAM_BYTES_MAX;
use crate::net::route::{Dialled, Route, Siblings};
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::tls::{self, ClientTrust};
use crate::text::said;
use crate::traffic::ConnId;
use crate::wire::{self, Answer, COMPARES_MAX, Destination, Message, Question, Request};

/// Messages that wait to be sent, at most. Each comparison takes two, and those that were answered
/// early may still have one in the queue.
const QUEUE: usize = 4 * COMPARES_MAX;

/// Which server to ask, and how to get there.
#[derive(Clone)]
pub struct PeerConfig {
    /// Where the server is.
    pub server: ServerAddress,
    /// How that is looked up.
    pub resolver: Arc<dyn Resolver>,
    /// The server's name: for its certificate, and for messages.
    pub server_name: String,
    /// Local addresses, with port 0; empty lets the system choose.
    pub bind: Vec<SocketAddr>,
    /// Where the connection gets its socket from.
    pub sockets: Arc<dyn Sockets>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Whom we accept.
    pub trust: ClientTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// How long to wait for the server.
    pub connect_timeout: Duration,
}

impl PeerConfig {
    /// A server, asked as it is without any options.
    pub fn new(
        server: impl Into<ServerAddress>,
        server_name: impl Into<String>,
        identity: Arc<Identity>,
        trust: ClientTrust,
    ) -> Self {
        Self {
            server: server.into(),
            resolver: Arc::new(SystemResolver),
            server_name: server_name.into(),
            bind: Vec::new(),
            sockets: Arc::new(SystemSockets),
            identity,
            trust,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

/// A server that has welcomed us.
pub(super) struct Peer {
    connection: Connection,
    messages: ControlReader,
    queue: Sender<Question>,
    server: String,
    reach: Reach,
    _endpoint: Endpoint,
    /// Ends with it.
    _sending: JoinSet<()>,
}

impl Peer {
    /// Connects, and makes a request. Returns what is there as well. `waits` hears why, if it is not our turn
    /// yet.
    pub(super) async fn connect<F: Future<Output = Result<(), Error>>>(
        config: &PeerConfig,
        request: Request,
        waits: impl FnOnce(String) -> F,
    ) -> Result<(Self, Destination), Error> {
        let timeout = config.connect_timeout;
        let addresses =
            find(std::slice::from_ref(&config.server), &config.resolver, &config.bind).await?;
        let all = addresses.all();
        let mut reach = Reach::new(config.server_name.clone(), all, 1, timeout, Instant::now());
        let route = Arc::new(Route {
            addresses,
            server_name: config.server_name.clone(),
            bind: config.bind.clone(),
            sockets: Arc::clone(&config.sockets),
            tls: Arc::new(tls::client_config(&config.identity, config.trust.clone())?),
            datagram_bytes_max: config.datagram_bytes_max,
            // What is said is little, whatever the path.
            congestion: cubic(),
        });
        let dialled = route.connect(ConnId(0), Siblings::Well);
        match tokio::time::timeout(timeout, dialled).await {
            Err(_) => Err(reach.unreachable("no answer")),
            Ok(Err(error)) => {
                reach.lost(error, 1)?;
                Err(reach.unreachable("no connection could be opened"))
            }
            Ok(Ok(dialled)) => {
                reach.up(Instant::now());
                let peer = Self::open(dialled, config, request, reach).await?;
                peer.welcomed(timeout, waits).await
            }
        }
    }

    async fn open(
        dialled: Dialled,
        config: &PeerConfig,
        request: Request,
        mut reach: Reach,
    ) -> Result<Self, Error> {
        let Dialled { endpoint, connection, .. } = dialled;
        let (mut control_out, control_in) = match connection.open_bi().await {
            Ok(streams) => streams,
            Err(error) => {
                reach.lost(error.into(), 1)?;
                return Err(reach.unreachable("the connection was lost"));
            }
        };
        let (queue, queued) = channel(QUEUE);
        let mut sending = JoinSet::new();
        let mut introduction = Vec::new();
        request.encode(&mut introduction);
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move {
            if control_out.write_all(&introduction).await.is_ok() {
                drop(send_all(control_out, queued).await);
            }
        });
        Ok(Self {
            connection,
            messages: ControlReader::new(control_in),
            queue,
            server: config.server_name.clone(),
            reach,
            _endpoint: endpoint,
            _sending: sending,
        })
    }

    async fn welcomed<F: Future<Output = Result<(), Error>>>(
        mut self,
        timeout: Duration,
        waits: impl FnOnce(String) -> F,
    ) -> Result<(Self, Destination), Error> {
        let Ok(message) = tokio::time::timeout(timeout, self.next()).await else {
            self.reach.check(Instant::now())?;
            return Err(self.reach.unreachable("no answer"));
        };
        let mut message = message?;
        if let Answer::Waiting { message: reason } = message {
            waits(said(&reason)).await?;
            // However long that takes: the connection tells whether the server is still there.
            message = self.next().await?;
        }
        match message {
            Answer::Welcome(destination) => Ok((self, destination)),
            _ => Err(self.broke_the_protocol()),
        }
    }

    /// What the server says next; an error once the connection is lost. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Answer, Error> {
        let lost = match self.messages.next().await {
            Ok(Some(message)) => return Ok(message),
            Err(ControlError::Wire(error)) => LineError::Protocol(error.to_string()),
            Ok(None) | Err(ControlError::Read(_)) => self.connection.closed().await.into(),
        };
        self.reach.lost(lost, 1)?;
        Err(self.reach.unreachable("the connection was lost"))
    }

    /// Says something to the server.
    pub(super) fn say(&self, message: Question) -> Result<(), Error> {
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
