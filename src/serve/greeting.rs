//! What a client says first: what its connection is for.

use quinn::{Connection, ConnectionError, SendStream};

use super::refusal::Refusal;
use crate::net::control::{self, ControlError, ControlReader};
use crate::net::words;
use crate::store::own::{RESERVED, has_reserved};
use crate::text::{printable, shown};
use crate::wire::{CLOSE_PROTOCOL, Request, WireError, is_path_safe};

/// A stream whose client has said what it is for.
pub(super) struct Asked<R> {
    pub(super) connection: Connection,
    pub(super) answers: SendStream,
    pub(super) messages: ControlReader,
    pub(super) request: R,
}

impl<R> Asked<R> {
    /// The same with another request.
    pub(super) fn with<Q>(self, request: Q) -> Asked<Q> {
        let Self { connection, answers, messages, .. } = self;
        Asked { connection, answers, messages, request }
    }
}

/// Why a connection is no longer served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnError {
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("{0}")]
    Refused(#[from] Refusal),
}

impl ConnError {
    /// What the connection is closed with.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Protocol(_) | Self::Lost(_) => CLOSE_PROTOCOL,
        }
    }
}

impl From<ControlError> for ConnError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Wire(error) => error.into(),
            ControlError::Read(error) => Self::Lost(printable(&error.to_string())),
        }
    }
}

impl From<WireError> for ConnError {
    fn from(error: WireError) -> Self {
        Refusal::of(&error).map_or_else(|| Self::Protocol(error.to_string()), Self::Refused)
    }
}

/// Waits for a client to say what its connection is for.
pub(super) async fn greet(connection: Connection) -> Result<Asked<Request>, ConnError> {
    let lost = |error: ConnectionError| ConnError::Lost(words::why(&error));
    let (answers, control_in) = connection.accept_bi().await.map_err(lost)?;
    control::prefer(&answers);
    let mut messages = ControlReader::new(control_in);
    let Some(request) = messages.next().await? else {
        return Err(ConnError::Protocol("it asks for nothing".into()));
    };
    Ok(Asked { connection, answers, messages, request })
}

/// The path that a destination stands for, if this server can serve it.
pub(super) fn destination_path(destination: &[u8]) -> Result<Vec<u8>, String> {
    let slashes = destination.iter().rev().take_while(|&&byte| byte == b'/').count();
    let path = destination[..destination.len() - slashes].to_vec();
    if !path.is_empty() && !is_path_safe(&path) {
        return Err(format!("the path {:?} is not allowed", shown(&path)));
    }
    if has_reserved(&path) {
        return Err(format!("the path {:?} is not allowed: {RESERVED}", shown(&path)));
    }
    Ok(path)
}
