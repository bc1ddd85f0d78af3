//! The traffic manager: which connection carries which bytes, and when one is given up.
//!
//! Pure: no sockets, files, tasks, clocks or randomness of its own. Time and a seed come in, decisions
//! come out, so that thousands of simulated networks can be run over it. [`Pool`] is the whole of it;
//! drive it like this:
//!
//! ```
//! use qbulk::traffic::{Input, Item, ItemId, Output, Pool, PoolConfig};
//! use std::time::Instant;
//!
//! let now = Instant::now();
//! let mut pool = Pool::new(PoolConfig::default(), 42, now);
//! pool.handle(Input::Offered(vec![Item::split(ItemId(0), 10 << 20)]), now);
//! pool.handle(Input::SourceDone, now);
//! let mut opened = 0;
//! while let Some(output) = pool.poll() {
//!     if let Output::Open { .. } = output {
//!         opened += 1; // open a connection, then tell the pool with Input::Up
//!     }
//! }
//! assert_eq!(opened, PoolConfig::default().connections);
//! ```
//!
//! The parts: [`plan`] knows which bytes are left, [`prime`] when a connection's window is open,
//! [`health`] how well a connection does, [`tuner`] how many there should be, and [`pool`] gives out
//! roles and work.

pub mod health;
pub mod plan;
pub mod pool;
pub mod prime;
pub mod tuner;

pub use health::{HealthConfig, Meter, Siblings, Verdict};
pub use plan::{Extent, Item, ItemId, Plan, Stripe, StripeId};
pub use pool::{Pool, PoolConfig, PoolStats, Role};
pub use prime::{PrimeConfig, PrimeEnd, Primer};
pub use tuner::{Load, Tuner};

use std::time::Duration;

/// One connection of a transfer's set. Numbers are never used twice within a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

/// What the shell tells the pool.
#[derive(Clone, Debug)]
pub enum Input {
    /// The source has something to send. What is offered together can go in one stripe.
    Offered(Vec<Item>),
    /// So many bytes were found at the source by now, of which little may have been offered.
    Found(u64),
    /// Nothing more will be offered.
    SourceDone,
    /// The receiver has accepted the transfer: data may flow on every connection that is up.
    Accepted,
    /// A connection's handshake is done.
    Up(ConnId),
    /// What a connection's transport has measured; every few milliseconds.
    Sample(ConnId, Sample),
    /// The receiver has verified and written a stripe that came over this connection.
    Confirmed(ConnId, StripeId),
    /// The receiver got a stripe that did not match its hash: it must be sent again.
    Damaged(ConnId, StripeId),
    /// A connection could not be opened, or is lost.
    Lost(ConnId),
    /// The receiver will take no more of an item.
    Cancelled(ItemId),
}

/// What the pool wants done.
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
        /// What to send.
        stripe: Stripe,
        /// Another connection had it first.
        again: bool,
    },
    /// Stop sending a stripe: it has arrived by another connection.
    Abandon {
        /// The connection.
        conn: ConnId,
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
    /// All that was offered so far has been confirmed.
    Drained,
    /// No connection is left and none could be opened for too long.
    Stuck,
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
