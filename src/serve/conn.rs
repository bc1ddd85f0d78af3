//! One connection at the server: what it is for, and who sees to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use quinn::VarInt;
use tokio::time::Instant;

use super::config::ServeReporter;
use super::desk::Desk;
use super::door::Guest;
use super::drain::{DRAINING, Drain};
use super::give::{Caller, Giver};
use super::greeting::{Asked, ConnError, Greeting, greet};
use super::turned_away::{TurnedAway, has_heard};
use super::verify::Verifier;
use crate::event::ServeEvent;
use crate::heap;
use crate::identity::Fingerprint;
use crate::store::shown;
use crate::wire::{CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_STOPPING};

/// A client must say what it wants within this time.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// What a client may ask for.
pub(super) struct Services {
    pub(super) desk: Desk,
    pub(super) giver: Giver,
    pub(super) verifier: Verifier,
    pub(super) drain: Arc<Drain>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) report: ServeReporter,
    /// Nobody was served since memory was given back.
    pub(super) is_idle: AtomicBool,
}

impl Services {
    /// Serves a connection to its end.
    pub(super) async fn serve(&self, guest: Guest) {
        let Guest { connection, client, seat, telemetry, controllers } = guest;
        let remote = connection.remote_address();
        let greeting = tokio::time::timeout(HELLO_TIME, greet(connection.clone())).await;
        connection.set_receive_window(VarInt::from_u32(seat.window));
        let turn_away = |code, reason: String| {
            connection.close(VarInt::from_u32(code), reason.as_bytes());
            self.turned_away.tell(remote, reason);
        };
        match greeting {
            Ok(Ok(Greeting::Transfer(inflow, hello))) => {
                self.desk.serve(client, seat, inflow, &hello).await;
                self.is_idle.store(false, Relaxed);
            }
            Ok(Ok(Greeting::Pull(asked))) => {
                let telemetry = Arc::clone(&telemetry);
                self.giver.serve(Caller { client, seat, telemetry, controllers }, asked).await;
                self.is_idle.store(false, Relaxed);
            }
            Ok(Ok(Greeting::Verify(_))) if self.drain.is_on() => {
                turn_away(CLOSE_STOPPING, DRAINING.into());
            }
            Ok(Ok(Greeting::Verify(asked))) => self.verify(client, asked).await,
            // Its client has no use for it: all is done, or it only wanted to see whether it gets here.
            Ok(Err(ConnError::Lost(error))) => {
                tracing::debug!(%remote, error, "it left before it said what it wants");
            }
            Ok(Err(error)) => turn_away(CLOSE_PROTOCOL, error.to_string()),
            Err(_) => {
                connection.close(VarInt::from_u32(CLOSE_PROTOCOL), b"no hello");
                self.turned_away.tell(remote, "it did not say what it wants".into());
            }
        }
        tracing::debug!(%remote, sent = ?telemetry.sample(), "served");
    }

    /// Serves a client that compares what is there with what it has.
    async fn verify(&self, client: Fingerprint, asked: Asked) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let (remote, destination) = (connection.remote_address(), shown(&asked.destination));
        let compared = self.verifier.serve(client, asked).await;
        self.is_idle.store(false, Relaxed);
        match compared {
            Ok(compared) => (self.report)(ServeEvent::Verified {
                client: client.to_string(),
                remote,
                destination,
                compared,
                seconds: began.elapsed().as_secs_f64(),
            }),
            Err(ConnError::Lost(error)) => tracing::debug!(%remote, error, "comparing is over"),
            Err(error) => {
                let code = match error {
                    ConnError::Refused(_) if self.drain.is_on() => CLOSE_STOPPING,
                    ConnError::Refused(_) => CLOSE_REFUSED,
                    _ => CLOSE_PROTOCOL,
                };
                let reason = error.to_string();
                connection.close(VarInt::from_u32(code), reason.as_bytes());
                self.turned_away.tell(remote, reason);
                has_heard(&connection).await;
            }
        }
    }

    /// Lets no new transfers and comparisons in from now on.
    pub(super) fn drain(&self) {
        self.drain.begin();
        (self.report)(ServeEvent::Draining { transfers: self.desk.served() + self.giver.served() });
    }

    /// Whether there are clients that transfer or compare.
    pub(super) fn is_serving(&self) -> bool {
        self.desk.served() + self.giver.served() + self.verifier.served() > 0
    }

    /// Whether nobody was served since memory was given back.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Relaxed)
    }

    /// Gives memory back once nobody is served any more.
    pub(super) fn rest(&self) {
        if !self.is_serving() && self.desk.is_empty() && !self.is_idle.swap(true, Relaxed) {
            self.desk.clear();
            heap::give_back();
        }
    }
}
