//! The traffic manager: which connection carries which bytes, and when one is given up.
//!
//! Pure: no sockets, files, tasks, clocks or randomness of its own, so that thousands of simulated
//! networks can be run over it. [`plan`] knows which bytes are left.

pub mod plan;

pub use plan::{Extent, Item, ItemId, Plan, Stripe, StripeId};

/// One connection of a transfer's set. Numbers are never used twice within a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);
