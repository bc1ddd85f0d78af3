//! A place for a client among those that a server answers at the same time.

use std::sync::Arc;

use quinn::{Connection, ConnectionError, VarInt};
use tokio::sync::mpsc::Sender;

use super::drain::Drain;
use super::greeting::ConnError;
use super::limits::{Clients, TransferSeat};
use super::refusal::Refusal;
use crate::identity::Fingerprint;
use crate::net::words;
use crate::wire::{Answer, CLOSE_DONE};

/// A place for `client`, at once or when it is its turn; it hears that it waits. Nobody waits any more once the
/// client is gone or the server is being stopped.
pub(super) async fn place(
    clients: &Arc<Clients>,
    drain: &Drain,
    client: Fingerprint,
    connection: &Connection,
    answers: &Sender<Answer>,
) -> Result<TransferSeat, ConnError> {
    let reason = match clients.begin(client) {
        Ok(seat) => return Ok(seat),
        Err(reason) => reason,
    };
    let waiting = Answer::Waiting { message: reason.into() };
    answers.send(waiting).await.map_err(|_| unanswerable())?;
    tokio::select! {
        biased;
        () = drain.begun() => Err(Refusal::Stopping.into()),
        seat = clients.turn(client) => seat.map_err(|reason| Refusal::Final(reason).into()),
        error = connection.closed() => Err(ConnError::Lost(words::why(&error))),
    }
}

/// Waits for a client to close its connection; an error unless it does so because it has all.
pub(super) async fn done(connection: &Connection) -> Result<(), ConnError> {
    match connection.closed().await {
        ConnectionError::ApplicationClosed(close)
            if close.error_code == VarInt::from_u32(CLOSE_DONE) =>
        {
            Ok(())
        }
        error => Err(ConnError::Lost(words::why(&error))),
    }
}

/// What sends the answers has ended.
pub(super) fn unanswerable() -> ConnError {
    ConnError::Lost("no answer can be sent".into())
}
