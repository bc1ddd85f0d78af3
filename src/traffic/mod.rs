//! The traffic manager: which connection carries which bytes, and when one is given up.
//!
//! Pure: no sockets, files, tasks, clocks or randomness of its own. Time and a seed come in, decisions
//! come out, so that thousands of simulated networks can be run over it. [`Set`] is the whole of it: the
//! connections to one receiver, and the jobs that they carry, one after another and side by side.
//!
//! # The order of things
//!
//! State changes in [`Set::handle`] and [`Set::handle_timeout`] only, and what is to be done comes out of
//! [`Set::poll`] only. The shell does this, over and over:
//!
//! 1. it does what [`Set::poll`] says, in that order, until there is nothing more;
//! 2. it waits for whatever comes first: an event, the next sample, or [`Set::poll_timeout`];
//! 3. it tells an event, or the samples of all connections, with [`Set::handle`], and once the time has come
//!    it calls [`Set::handle_timeout`]. Calls too early change nothing, and late ones make up for it.
//!
//! Time never goes back. Samples are taken every 10 ms or so, of connections that are up: without one, there
//! is no need to wake up for them.
//!
//! A job begins ([`Input::Begun`]), is offered items and accepted by the receiver, in any order, and is
//! drained ([`Output::Drained`]) once its source is done and all of it is confirmed. It stays until it is
//! told to have ended ([`Input::Ended`]), drained or not; then nothing of it is known any more. A stripe is
//! named by its job and its number there. While no job is there, connections stay as they are, in reserve:
//! nothing is primed, and of what is lost only the last one is replaced.
//!
//! ```
//! use qbulk::traffic::{Input, Item, ItemId, JobId, Output, Role, Set, SetConfig};
//! use std::num::NonZeroU32;
//! use std::time::Instant;
//!
//! let (now, job) = (Instant::now(), JobId(0));
//! let mut set = Set::new(SetConfig::default(), 42, now);
//! set.handle(Input::Begun { job, weight: NonZeroU32::MIN }, now);
//! set.handle(Input::Offered(job, vec![Item::split(ItemId(0), 10 << 20)]), now);
//! set.handle(Input::SourceDone(job), now);
//! set.handle(Input::Accepted(job), now);
//! let (mut opened, mut sent) = (0, Vec::new());
//! while let Some(output) = set.poll() {
//!     match output {
//!         Output::Open { conn } => {
//!             opened += 1;
//!             set.handle(Input::Up(conn), now); // once it is
//!         }
//!         Output::Send { conn, job, stripe, .. } => sent.push((conn, job, stripe.id)),
//!         _ => {}
//!     }
//! }
//! assert_eq!(opened, SetConfig::default().connections);
//! assert!(set.poll_timeout().is_some(), "what is under way may become silent");
//! for (conn, job, stripe) in sent {
//!     set.handle(Input::Confirmed(conn, job, stripe), now); // once the receiver says so
//! }
//! assert!(set.plan(job).is_some_and(|plan| plan.confirmed_stripes() > 0));
//! set.handle(Input::Ended(job), now);
//! assert!(set.plan(job).is_none() && set.count(Role::Active) == 0);
//! ```
//!
//! The parts: [`plan`] knows which bytes of a job are left, and [`set`] gives out roles and work among
//! connections. It knows by [`set::prime`] when a connection's window is open, by [`set::health`] how well
//! it does, and by [`set::tuner`] how many there should be.

pub mod plan;
pub mod set;

use std::num::NonZeroU32;
use std::time::Duration;

pub use plan::{Extent, Item, ItemId, Plan, Stripe, StripeId};
pub use set::health::{HealthConfig, Meter, Siblings};
pub use set::prime::{PrimeConfig, PrimeEnd, Primer};
pub use set::tuner::{Load, Tuner};
pub use set::verdict::Verdict;
pub use set::{Role, Set, SetConfig, SetStats};

/// One connection of a set. Numbers are never used twice within a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

/// One job of a set: what is sent for one purpose. Numbers are never used twice within a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What the shell tells the set. What it tells of a job or a connection that is not there changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// A job begins.
    Begun {
        /// Its number.
        job: JobId,
        /// Its share of what the connections can carry, beside those of the others.
        weight: NonZeroU32,
    },
    /// The source of a job has something to send. What is offered together can go in one stripe.
    Offered(JobId, Vec<Item>),
    /// So many bytes were found at a job's source by now, of which little may have been offered.
    Found(JobId, u64),
    /// Nothing more of a job will be offered.
    SourceDone(JobId),
    /// The receiver has accepted a job: its data may flow on every connection that is up.
    Accepted(JobId),
    /// The receiver will take no more of an item.
    Cancelled(JobId, ItemId),
    /// A job is over, or called off: it is forgotten, and what is under way of it is abandoned.
    Ended(JobId),
    /// A connection's handshake is done.
    Up(ConnId),
    /// What a connection's transport has measured; every few milliseconds.
    Sample(ConnId, Sample),
    /// The receiver has verified and written a stripe that came over this connection.
    Confirmed(ConnId, JobId, StripeId),
    /// The receiver got a stripe that did not match its hash: it must be sent again.
    Damaged(ConnId, JobId, StripeId),
    /// A connection could not be opened, or is lost.
    Lost(ConnId),
}

/// What the set wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a connection from a new local port.
    Open {
        /// Its number.
        conn: ConnId,
    },
    /// Send padding on a connection, as fast as its congestion window lets it.
    Prime {
        /// The connection.
        conn: ConnId,
        /// Stop after this many bytes, if [`Output::StopPrime`] does not come first.
        budget_bytes: u64,
    },
    /// Stop sending padding.
    StopPrime {
        /// The connection.
        conn: ConnId,
        /// Why.
        end: PrimeEnd,
    },
    /// Send a stripe on a stream of its own. One that the connection has already is sent instead of what it
    /// was before: nothing of it is wanted any more, and it is empty.
    Send {
        /// The connection.
        conn: ConnId,
        /// The job that it belongs to.
        job: JobId,
        /// What to send.
        stripe: Stripe,
        /// Another connection had it first.
        again: bool,
    },
    /// Stop sending a stripe: it has arrived by another connection, or its job has ended.
    Abandon {
        /// The connection.
        conn: ConnId,
        /// The job that it belongs to.
        job: JobId,
        /// The stripe.
        stripe: StripeId,
    },
    /// Close a connection.
    Close {
        /// The connection.
        conn: ConnId,
        /// Why.
        verdict: Verdict,
        /// How many stripes another connection must take over.
        stripes: usize,
    },
    /// All that was offered of a job has been confirmed.
    Drained(JobId),
    /// No connection is left and none could be opened for too long.
    Stuck,
}

impl Output {
    /// The job that it concerns, if it is one alone.
    pub fn job(&self) -> Option<JobId> {
        match *self {
            Self::Send { job, .. } | Self::Abandon { job, .. } | Self::Drained(job) => Some(job),
            Self::Open { .. }
            | Self::Prime { .. }
            | Self::StopPrime { .. }
            | Self::Close { .. }
            | Self::Stuck => None,
        }
    }
}

/// What a connection's transport has measured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Bytes that the receiver has acknowledged since the connection was opened, padding included.
    pub delivered_bytes: u64,
    /// Padding handed to the transport so far, in bytes.
    pub padding_bytes: u64,
    /// Bytes declared lost since the connection was opened.
    pub lost_bytes: u64,
    /// Congestion window, in bytes.
    pub window_bytes: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The least round-trip time seen.
    pub rtt_min: Duration,
    /// The probe timeout: how late an acknowledgement may be (RFC 9002, 6.2.1).
    pub pto: Duration,
    /// Bytes sent that are neither acknowledged nor declared lost.
    pub in_flight_bytes: u64,
}

impl Sample {
    /// Whether round trips are drawn out, by more than what hosts add to them.
    fn has_queue(&self) -> bool {
        self.rtt > self.rtt_min + self.rtt_min / 8 + Duration::from_millis(1)
    }
}
