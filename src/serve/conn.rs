//! One connection at the server: what it is for, and who sees to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use quinn::{Connection, VarInt};
use tokio::time::Instant;

use super::config::ServeReporter;
use super::desk::{Bringer, Desk};
use super::door::Guest;
use super::drain::{DRAINING, Drain};
use super::give::{Caller, Giver};
use super::greeting::{Asked, ConnError, greet};
use super::list::Lister;
use super::sweep::Sweeper;
use super::turned_away::{TurnedAway, has_heard};
use super::verify::Verifier;
use crate::event::ServeEvent;
use crate::heap;
use crate::identity::Fingerprint;
use crate::receive::Padding;
use crate::store::shown;
use crate::wire::{
    CLOSE_PROTOCOL, CLOSE_STOPPING, ListRequest, Request, SurveyRequest, SweepRequest,
    VerifyRequest,
};

/// A client must say what it wants within this time.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// What a client may ask for.
pub(super) struct Services {
    pub(super) desk: Desk,
    pub(super) giver: Giver,
    pub(super) verifier: Verifier,
    pub(super) lister: Lister,
    pub(super) sweeper: Sweeper,
    pub(super) drain: Arc<Drain>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) report: ServeReporter,
    /// Nobody was served since memory was given back.
    pub(super) is_idle: AtomicBool,
}

impl Services {
    /// Serves a connection to its end.
    pub(super) async fn serve(&self, guest: Guest) {
        let Guest { connection, client, seat, first_window, telemetry, controllers } = guest;
        let remote = connection.remote_address();
        let padding = Padding::count(connection.clone());
        let greeting = tokio::time::timeout(HELLO_TIME, greet(connection.clone())).await;
        let turn_away = |code, reason: String| {
            connection.close(VarInt::from_u32(code), reason.as_bytes());
            self.turned_away.tell(remote, reason);
        };
        match greeting {
            Ok(Ok(asked)) => {
                let caller =
                    Caller { client, seat, telemetry: Arc::clone(&telemetry), controllers };
                self.answer(asked, caller, first_window, padding).await;
            }
            // Its client has no use for it: all is done, or it only wanted to see whether it gets here.
            Ok(Err(ConnError::Lost(error))) => {
                tracing::debug!(%remote, error, "it left before it said what it wants");
            }
            Ok(Err(error)) => {
                turn_away(error.code(), error.to_string());
                has_heard(&connection).await;
            }
            Err(_) => {
                connection.close(VarInt::from_u32(CLOSE_PROTOCOL), b"no hello");
                self.turned_away.tell(remote, "it did not say what it wants".into());
            }
        }
        tracing::debug!(%remote, sent = ?telemetry.sample(), "served");
    }

    /// Sees to what a client asks for.
    async fn answer(
        &self,
        asked: Asked<Request>,
        caller: Caller,
        first_window: u32,
        padding: Padding,
    ) {
        let client = caller.client;
        match asked.request.clone() {
            Request::Push(request) => {
                let bringer = Bringer { client, seat: caller.seat, first_window, padding };
                self.desk.serve(bringer, asked.with(request)).await;
                self.is_idle.store(false, Relaxed);
            }
            Request::Pull(request) => {
                self.giver.serve(caller, asked.with(*request)).await;
                self.is_idle.store(false, Relaxed);
            }
            Request::Verify(_) | Request::List(_) | Request::Survey(_) | Request::Sweep(_)
                if self.drain.is_on() =>
            {
                let remote = asked.connection.remote_address();
                asked.connection.close(VarInt::from_u32(CLOSE_STOPPING), DRAINING.as_bytes());
                self.turned_away.tell(remote, DRAINING.into());
            }
            Request::Verify(request) => self.verify(client, asked.with(request)).await,
            Request::List(request) => self.list(client, asked.with(request)).await,
            Request::Survey(request) => self.survey(client, asked.with(request)).await,
            Request::Sweep(request) => self.sweep(client, asked.with(request)).await,
        }
    }

    /// Serves a client that compares what is there with what it has.
    async fn verify(&self, client: Fingerprint, asked: Asked<VerifyRequest>) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let (remote, destination) =
            (connection.remote_address(), shown(&asked.request.destination));
        let compared = self.verifier.serve(client, asked).await;
        let told = compared.map(|compared| ServeEvent::Verified {
            client: client.to_string(),
            remote,
            destination,
            compared,
            seconds: began.elapsed().as_secs_f64(),
        });
        self.answered(&connection, told).await;
    }

    /// Tells a client what is there.
    async fn list(&self, client: Fingerprint, asked: Asked<ListRequest>) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let (remote, path) = (connection.remote_address(), shown(&asked.request.path));
        let entries = self.lister.serve(client, asked).await;
        let told = entries.map(|entries| ServeEvent::Listed {
            client: client.to_string(),
            remote,
            path,
            entries,
            seconds: began.elapsed().as_secs_f64(),
        });
        self.answered(&connection, told).await;
    }

    /// Tells a client what a pull would bring.
    async fn survey(&self, client: Fingerprint, asked: Asked<SurveyRequest>) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let remote = connection.remote_address();
        let sources: Vec<_> = asked.request.sources.iter().map(|source| shown(source)).collect();
        let entries = self.lister.survey(client, asked).await;
        let told = entries.map(|entries| ServeEvent::Listed {
            client: client.to_string(),
            remote,
            path: sources.join(" "),
            entries,
            seconds: began.elapsed().as_secs_f64(),
        });
        self.answered(&connection, told).await;
    }

    /// Removes what is not at a client's source.
    async fn sweep(&self, client: Fingerprint, asked: Asked<SweepRequest>) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let (remote, destination) =
            (connection.remote_address(), shown(&asked.request.destination));
        let removed = self.sweeper.serve(client, asked, &self.desk).await;
        let told = removed.map(|removed| ServeEvent::Swept {
            client: client.to_string(),
            remote,
            destination,
            removed,
            seconds: began.elapsed().as_secs_f64(),
        });
        self.answered(&connection, told).await;
    }

    /// Tells what came of a client that has asked for something.
    async fn answered(&self, connection: &Connection, told: Result<ServeEvent, ConnError>) {
        let remote = connection.remote_address();
        self.is_idle.store(false, Relaxed);
        match told {
            Ok(event) => (self.report)(event),
            Err(ConnError::Lost(error)) => tracing::debug!(%remote, error, "its client has left"),
            Err(error) => {
                let code = match &error {
                    ConnError::Refused(_) if self.drain.is_on() => CLOSE_STOPPING,
                    error => error.code(),
                };
                let reason = error.to_string();
                connection.close(VarInt::from_u32(code), reason.as_bytes());
                self.turned_away.tell(remote, reason);
                has_heard(connection).await;
            }
        }
    }

    /// Lets no new transfers, comparisons and listings in from now on.
    pub(super) fn drain(&self) {
        self.drain.begin();
        (self.report)(ServeEvent::Draining { transfers: self.desk.served() + self.giver.served() });
    }

    /// Whether there are clients that transfer, compare or list.
    pub(super) fn is_serving(&self) -> bool {
        let transfers = self.desk.served() + self.giver.served();
        let asked = self.verifier.served() + self.lister.served() + self.sweeper.served();
        transfers + asked > 0
    }

    /// Whether nobody was served since memory was given back.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Relaxed)
    }

    /// Gives memory back once nobody is served any more.
    pub(super) fn rest(&self) {
        if !self.is_serving() && self.desk.is_empty() && !self.is_idle.swap(true, Relaxed) {
            self.desk.clear();
            self.giver.clear();
            heap::give_back();
        }
    }
}
