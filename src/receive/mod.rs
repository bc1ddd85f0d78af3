//! Taking in what a peer sends: one job at this end, over connections that are up, whoever has dialled them.
//!
//! A [`Receiver`] is one job: what is written of it and what is not, and how it ends. An [`Inflow`] is one of
//! its connections, and brings it stripes. Both ask an [`Account`] for memory before they take anything in.

mod inflow;
mod ledger;
mod look;
mod members;
mod padding;
mod recall;
mod receiver;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use self::inflow::{Inflow, Left, News};
pub(crate) use self::padding::Padding;
pub(crate) use self::receiver::Receiver;
pub(crate) use self::room::{Account, Asked, Bounded, EarlyRoom, Room};
