//! The door: who comes in. Handshakes are bounded, a client shows its key, and its connections are counted.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Incoming, ServerConfig, VarInt};

use super::handshakes::{HandshakeSeat, Handshakes, Knock};
use super::limits::{Clients, ConnectionSeat};
use super::turned_away::TurnedAway;
use crate::congestion::cubic;
use crate::identity::Fingerprint;
use crate::net::controllers::Late;
use crate::net::endpoint;
use crate::net::path::{self, PathMtu};
use crate::net::telemetry::Telemetry;
use crate::net::{tls, words};
use crate::wire::CLOSE_CROWDED;

/// A handshake must be done within this time.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Where connections come in.
pub(super) struct Door {
    pub(super) tls: Arc<QuicServerConfig>,
    pub(super) datagram_bytes_max: u16,
    pub(super) clients: Arc<Clients>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) handshakes: Arc<Handshakes>,
}

/// Somebody who has come in, and has not said yet what for.
pub(super) struct Guest {
    pub(super) connection: Connection,
    pub(super) client: Fingerprint,
    pub(super) seat: ConnectionSeat,
    /// What the connection may take in to begin with, in bytes.
    pub(super) first_window: u32,
    /// What the connection measures.
    pub(super) telemetry: Arc<Telemetry>,
    /// What holds back what is sent to the client: to be bound where that is more than answers.
    pub(super) controllers: Arc<Late>,
}

impl Door {
    /// Whether a first packet begins a handshake.
    pub(super) fn knock(&self, incoming: Incoming) -> Option<(Incoming, HandshakeSeat)> {
        if !self.clients.has_room() {
            incoming.refuse();
            return None;
        }
        let ip = incoming.remote_address().ip();
        match self.handshakes.knock(ip, incoming.remote_address_validated()) {
            Knock::Begin(seat) => return Some((incoming, seat)),
            // Fails only if the address is known to be the client's.
            Knock::Prove => drop(incoming.retry()),
            Knock::Refuse => incoming.refuse(),
        }
        None
    }

    /// Lets a client in once it has shown who it is.
    pub(super) async fn open(&self, incoming: Incoming, handshake: HandshakeSeat) -> Option<Guest> {
        let remote = incoming.remote_address();
        let refused = |reason: String| {
            self.turned_away.tell(remote, reason);
            None
        };
        let (controllers, telemetry) = (Late::new(cubic()), Arc::<Telemetry>::default());
        let mtu = PathMtu::of(remote, self.datagram_bytes_max);
        let first_window = self.clients.first_window(self.handshakes.under_way());
        let config = endpoint::server_config(
            Arc::clone(&self.tls),
            mtu,
            first_window,
            Arc::clone(&controllers),
            Arc::clone(&telemetry),
        );
        let connection = match shake_hands(incoming, config, handshake).await {
            Ok(connection) => connection,
            Err(Some(reason)) => return refused(reason),
            Err(None) => return None,
        };
        let Some(client) = tls::peer_fingerprint(&connection) else {
            return refused("it showed no certificate".into());
        };
        match self.clients.connect(client) {
            Ok(seat) => {
                Some(Guest { connection, client, seat, first_window, telemetry, controllers })
            }
            Err(reason) => {
                connection.close(VarInt::from_u32(CLOSE_CROWDED), reason.as_bytes());
                refused(reason)
            }
        }
    }
}

/// The connection, or why there is none if that is worth telling.
async fn shake_hands(
    incoming: Incoming,
    config: ServerConfig,
    handshake: HandshakeSeat,
) -> Result<Connection, Option<String>> {
    let remote = incoming.remote_address();
    let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| {
        tracing::debug!(%remote, error = words::why(&error), "no handshake");
        None
    })?;
    let connected = tokio::time::timeout(HANDSHAKE_TIME, connecting).await;
    drop(handshake);
    match connected {
        Ok(Ok(connection)) => Ok(connection),
        // A client that turns away has only looked at the key, or says itself what it minds.
        Ok(Err(ConnectionError::TransportError(error)))
            if tls::is_auth_failure(&ConnectionError::TransportError(error.clone())) =>
        {
            Err(Some(tls::refusal(&error)))
        }
        Ok(Err(error)) => Err(path::too_small(remote).or_else(|| {
            tracing::debug!(%remote, error = words::why(&error), "no handshake");
            None
        })),
        Err(_) => Err(path::too_small(remote).or_else(|| {
            tracing::debug!(%remote, "no handshake in time");
            None
        })),
    }
}
