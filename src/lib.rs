//! qbulk moves bulk data over primed sets of QUIC connections.
//!
//! A pure core decides, thin shells act. From pure to shell:
//!
//! - [`traffic`]: the traffic manager: which bytes are left, in flight, confirmed.
//! - [`congestion`]: how much may be in flight: one budget for all connections of a transfer.
//! - [`hashtree`]: a file's BLAKE3 hash from the hashes of its pieces.
//! - [`wire`]: the messages, with their limits.
//! - [`buffers`]: memory that is used again.
//! - [`identity`] and [`certs`]: a user's key, whom it trusts, and certificates for fleets.
//! - [`net`]: quinn and rustls.
//! - [`receipt`]: what a push has delivered, in a file.
//! - [`client`] and [`serve`]: the two ends, composed of the above; they
//!   tell what happens by [`event`]s and end with an [`error`].
//!
//! # Example
//! ```no_run
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//!
//! use qbulk::client::path_memory::PathCache;
//! use qbulk::identity::{Identity, config_dir};
//! use qbulk::net::tls::ClientTrust;
//! use qbulk::client::{PushConfig, push};
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
pub mod store;
pub mod traffic;
pub mod wire;
