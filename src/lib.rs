//! qbulk moves bulk data over primed sets of QUIC connections.
//!
//! A pure core decides, thin shells act, and nobody imports from above: `tests/layers.rs` has the table. From the
//! top down:
//!
//! - [`client`]: `push`, `pull` and `verify` as calls. It looks a server up, decides on its key at first sight
//!   (`first_contact`), dials the lines of a set (`session`), remembers paths, and tries again what was
//!   interrupted (`attempts`).
//! - [`ssh`]: what starts a server on another host for one session, the session, and the way to it.
//! - [`serve`]: the server. `door` lets clients in, `greeting` hears what each connection is for, `conn` passes it on:
//!   to the `desk` (what is pushed here), to `give` (what is pulled from here), or to `verify`.
//! - `send` and `receive`: the two ends of a job, which know neither client nor server, nor who dialled. A `Sender`
//!   reads the source and says which line carries what; a `Receiver` takes stripes off lines and has them written.
//! - [`net`]: quinn and rustls. A `line` is a connection that is up; `route` dials one; `controllers` are bound to a
//!   budget when it is known what a connection is for; `telemetry` is what it measures.
//! - [`store`]: the disk, at both ends. `start`, `walk` and `scan` find what there is below a folder that is held open,
//!   `source` reads it, no link followed; `sink`, `commit`, `folders` and `journal` make it durable.
//! - [`identity`] and [`certs`]: a user's key, whom it trusts, and certificates for fleets.
//! - The core, which takes time and randomness from outside and does no I/O: [`traffic`] (a [`Set`](traffic::Set) of
//!   connections, and the [`Plan`](traffic::Plan) of each job that it carries), [`filter`] (what of a tree is sent), [`congestion`] (one budget for all
//!   connections of a set), [`wire`] (every message, with its limits) and [`hashtree`].
//! - Leaves: [`event`] (what a transfer tells), [`error`], [`receipt`], [`buffers`], and [`text`], by which all
//!   that comes from elsewhere reaches a terminal or a log.
//!
//! # A stripe, from source to sink and back
//! 1. `store::scan` finds a file below the folder that is held, and `send::source` offers it to the set as an item.
//! 2. [`Set::poll`](traffic::Set::poll) says `Send`: the job whose turn it is has cut a stripe off its plan, and a
//!    connection of the active subset has room for it.
//! 3. `send::reading` has `store::source` read and hash it, below the same folder: a head, records and content.
//! 4. `send::outflow` sends it on a unidirectional stream of that connection's line.
//! 5. `receive::inflow` reads the header off the stream, asks the receiver's `room` for memory, and takes the rest.
//! 6. `receive::receiver` claims its number in the `ledger`, so that what comes twice is written once.
//! 7. `store::sink` verifies every piece against its hash and writes it under a temporary name.
//! 8. What is whole gets its name by `store::commit`, once it is synced, and is noted in `store::journal`.
//! 9. The receiver answers `Confirm` on the control stream, and [`Set::handle`](traffic::Set::handle) makes room.
//! 10. If the connection goes bad before that, the set gives the stripe to another one: back to 4.
//!
//! # Example
//! ```no_run
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//!
//! use qbulk::client::path_memory::PathCache;
//! use qbulk::client::{PushConfig, push};
//! use qbulk::identity::{Identity, config_dir};
//! use qbulk::net::tls::ClientTrust;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // What `qbulk id` prints on the server.
//! let server_key = "SHA256:NPDvX6YIWwz2d5lHnmhS5UdcdzFeYq2hdMOZWATPjwI".parse()?;
//! let config = PushConfig {
//!     destination: "backup".into(),
//!     paths: PathCache::of_user(),
//!     ..PushConfig::new(
//!         vec!["photos".into()],
//!         vec!["192.0.2.7:4433".parse::<SocketAddr>()?],
//!         "backup.example",
//!         Arc::new(Identity::load_or_create(&config_dir()?)?),
//!         ClientTrust::Pinned([server_key].into()),
//!     )
//! };
//! let tell = Arc::new(|event| println!("{event:?}"));
//! let summary = push(config, tell, std::future::pending()).await?;
//! println!("{} files are there and durable", summary.files);
//! # Ok(())
//! # }
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)] // a library has nothing to say there

pub mod buffers;
pub mod certs;
pub mod client;
mod clock;
pub mod congestion;
pub mod error;
pub mod event;
pub mod filter;
mod folder;
pub mod hashtree;
mod heap;
pub mod identity;
mod mutex;
pub mod net;
mod rate;
pub mod receipt;
mod receive;
mod send;
pub mod serve;
pub mod ssh;
pub mod store;
pub mod text;
pub mod traffic;
pub mod wire;
pub mod work;
