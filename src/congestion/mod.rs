//! Congestion control: one budget for all connections of a transfer.
//!
//! The model follows draft-ietf-ccwg-bbr: it measures what the path delivers and how long a round trip
//! takes without a queue, and allows as much in flight as the product of the two. Where it differs is
//! that it measures a transfer and not a connection: connections that share a bottleneck share one
//! [`Budget`], so that ten of them ask for what one would, and the measure is as steady as their sum.
//! A connection whose own path is narrower is held to what that path delivers, and leaves the rest of
//! the budget to the others.
//!
//! [`budget`] and its parts ([`rate`], [`filter`], [`share`] and others) are pure: times come in, windows come out.
//! [`controller`] is what quinn sees of it.

pub mod budget;
mod config;
pub mod controller;
pub mod filter;
mod loss;
mod member;
pub mod rate;
mod round;
pub mod share;

pub use budget::{Budget, MemberId, Phase};
pub use config::{Aggressiveness, BudgetConfig, PathMemory};
pub use controller::{Algorithm, Controllers, SharedBudget, cubic};
