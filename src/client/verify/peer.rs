//! The connection to a server that compares.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, VarInt};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use super::{VerifyConfig, VerifyReporter};
use crate::client::find;
use crate::client::reach::Reach;
use crate::congestion::cubic;
use crate::error::Error;
use crate::event::VerifyEvent;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::line::{CLOSE_TIME, LineError};
use crate::net::route::{Dialled, Route, Siblings};
use crate::net::sockets::SystemSockets;
use crate::net::tls;
use crate::store::shown;
use crate::traffic::ConnId;
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
    pub(super) async fn connect(
        config: &VerifyConfig,
        report: &VerifyReporter,
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
            sockets: Arc::new(SystemSockets),
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
                Self::open(dialled, config, reach).await?.welcomed(timeout, report).await
            }
        }
    }

    async fn open(
        dialled: Dialled,
        config: &VerifyConfig,
        mut reach: Reach,
    ) -> Result<Self, Error> {
        let Dialled { endpoint, connection, .. } = dialled;
        let (control_out, control_in) = match connection.open_bi().await {
            Ok(streams) => streams,
            Err(error) => {
                reach.lost(error.into(), 1)?;
                return Err(reach.unreachable("the connection was lost"));
            }
        };
        let (queue, queued) = channel(QUEUE);
        let mut sending = JoinSet::new();
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move { drop(send_all(control_out, queued).await) });
        let destination = config.destination.clone();
        // There is room: nothing was said before.
        drop(queue.try_send(Control::Verify { version: VERSION, destination }));
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

    async fn welcomed(
        mut self,
        timeout: Duration,
        report: &VerifyReporter,
    ) -> Result<(Self, Destination), Error> {
        let Ok(message) = tokio::time::timeout(timeout, self.next()).await else {
            self.reach.check(Instant::now())?;
            return Err(self.reach.unreachable("no answer"));
        };
        let mut message = message?;
        if let Control::Waiting { message: reason } = message {
            report(VerifyEvent::VerifyWaiting { reason: shown(&reason) });
            // However long that takes: the connection tells whether the server is still there.
            message = self.next().await?;
        }
        match message {
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
            Err(ControlError::Wire(error)) => LineError::Protocol(error.to_string()),
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
