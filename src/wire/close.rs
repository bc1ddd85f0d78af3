//! The codes that connections are closed with, and jobs refused. All but [`CLOSE_DONE`] come with a reason for a
//! person.

/// The transfer is complete.
pub const CLOSE_DONE: u32 = 0;
/// Sender: the connection was unsatisfactory; the transfer goes on over others.
pub const CLOSE_CONDEMNED: u32 = 1;
/// Client: the transfer is given up; what it left unfinished can be removed.
pub const CLOSE_ABORTED: u32 = 2;
/// The transfer does not begin, or ends here, and trying again changes nothing.
pub const CLOSE_REFUSED: u32 = 3;
/// The peer did not keep to the protocol.
pub const CLOSE_PROTOCOL: u32 = 4;
/// Server: it is being stopped, and may come back; the transfer ends here for now.
pub const CLOSE_STOPPING: u32 = 5;
/// Server: this connection is one too many, or held what others need; the transfer can go on over others.
pub const CLOSE_CROWDED: u32 = 6;
/// Server: the transfer cannot begin yet; the client may try again soon.
pub const CLOSE_BUSY: u32 = 7;
/// Server: the client's key may not do what was asked for.
pub const CLOSE_DENIED: u32 = 8;
/// Server: it speaks another version of the protocol.
pub const CLOSE_VERSION: u32 = 9;
/// Server: something is asked for that it does not know.
pub const CLOSE_UNKNOWN: u32 = 10;
