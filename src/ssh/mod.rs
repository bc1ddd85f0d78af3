//! Over ssh, with nothing set up: the client starts the far side by the system's ssh, and the two exchange keys for
//! one session through it. All else is as between any client and server: over QUIC, by UDP where that gets
//! through, and through ssh itself where it does not.
//!
//! - `near` starts the far side and finds what it says first; [`carry()`] has a transfer done with it, and starts it
//!   again if it is gone under way.
//! - `way` finds out whether UDP gets through.
//! - [`serve`] is the far side: a server for one session, which ends when nobody holds its standard input any more.
//!   `place` says where a path leads there, as the user would see it who logs in.
//! - `message` is what the two say through ssh, beside datagrams.

mod carry;
mod far;
mod hosts;
mod message;
mod near;
mod place;
mod way;

pub use self::carry::{Far, Stop, Wanted, carry};
pub use self::far::{FarConfig, serve};
pub use self::near::{SshConfig, Told};
pub use self::way::Via;
