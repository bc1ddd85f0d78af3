//! What a client says first: what its connection is for.

use quinn::{Connection, ConnectionError, SendStream};

use crate::net::control::{ControlError, ControlReader};
use crate::net::words;
use crate::receive::Inflow;
use crate::store::own::{RESERVED, has_reserved};
use crate::text::{printable, shown};
use crate::wire::{
    Control, HostNumber, Keep, ListRequest, PullRequest, PushNumber, TransferSecret, VERSION,
    WireError, is_path_safe,
};

/// What a connection is for.
pub(super) enum Greeting {
    /// It brings stripes of a transfer.
    Transfer(Inflow, Hello),
    /// Its client compares.
    Verify(Asked),
    /// It is to carry what its client pulls.
    Pull(PullAsked),
    /// Its client wants to know what is there.
    List(ListAsked),
}

/// What a client that transfers says first.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) version: u64,
    pub(super) transfer: TransferSecret,
    pub(super) destination: Vec<u8>,
    pub(super) push: PushNumber,
    pub(super) host: HostNumber,
    pub(super) keep: Keep,
}

/// A connection whose client wants to compare.
pub(super) struct Asked {
    pub(super) connection: Connection,
    pub(super) answers: SendStream,
    pub(super) messages: ControlReader,
    pub(super) version: u64,
    pub(super) destination: Vec<u8>,
}

/// A connection whose client wants to be sent something.
pub(super) struct PullAsked {
    pub(super) connection: Connection,
    pub(super) answers: SendStream,
    pub(super) messages: ControlReader,
    pub(super) request: PullRequest,
}

/// A connection whose client wants to know what is there.
pub(super) struct ListAsked {
    pub(super) connection: Connection,
    pub(super) answers: SendStream,
    pub(super) messages: ControlReader,
    pub(super) request: ListRequest,
}

/// Why a connection is no longer served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnError {
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("{0}")]
    Refused(String),
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
        Self::Protocol(error.to_string())
    }
}

/// Waits for a client to say what its connection is for.
pub(super) async fn greet(connection: Connection) -> Result<Greeting, ConnError> {
    let lost = |error: ConnectionError| ConnError::Lost(words::why(&error));
    let (answers, control_in) = connection.accept_bi().await.map_err(lost)?;
    let mut messages = ControlReader::new(control_in);
    match messages.next().await? {
        Some(Control::Hello { version, transfer, conn, destination, push, host, keep }) => {
            let hello = Hello { version, transfer, destination, push, host, keep };
            Ok(Greeting::Transfer(Inflow::new(connection, conn, messages, answers), hello))
        }
        Some(Control::Verify { version, destination }) => {
            Ok(Greeting::Verify(Asked { connection, answers, messages, version, destination }))
        }
        Some(Control::Pull(request)) => {
            let request = *request;
            Ok(Greeting::Pull(PullAsked { connection, answers, messages, request }))
        }
        Some(Control::List(request)) => {
            Ok(Greeting::List(ListAsked { connection, answers, messages, request }))
        }
        _ => Err(ConnError::Protocol("the first message is not a hello".into())),
    }
}

/// The path that a destination stands for, if this server can serve it.
pub(super) fn destination_path(version: u64, destination: &[u8]) -> Result<Vec<u8>, String> {
    if version != VERSION {
        return Err(format!("the server speaks version {VERSION} of the protocol, not {version}"));
    }
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
