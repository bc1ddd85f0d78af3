//! What a client needs before and beside a transfer, whatever that is: the server is looked up, its key is
//! decided on at first sight and remembered, what is learned of a path is kept for the next time, and when no
//! connection comes up it is known what to say.
//!
//! # Example
//! A push to a server that has a name and whose key was never seen:
//! ```no_run
//! use std::sync::Arc;
//!
//! use qbulk::client::first_contact::{FirstContact, Stranger};
//! use qbulk::client::path_memory::PathCache;
//! use qbulk::error::Error;
//! use qbulk::identity::{Identity, config_dir};
//! use qbulk::net::address::ServerAddress;
//! use qbulk::net::tls::ClientTrust;
//! use qbulk::push::{PushConfig, push};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Arc::new(Identity::load_or_create(&config_dir()?)?);
//! let server = ServerAddress::parse("backup.example", 4433)?;
//! let contact = FirstContact::new(vec![server.clone()]);
//! let decide = async |stranger: Stranger| {
//!     // A person compares it with what `qbulk id` prints on the server.
//!     println!("it shows the key {}", stranger.key);
//!     Ok::<_, Error>(())
//! };
//! let (key, _) = contact.key(&identity, decide).await?;
//! let config = PushConfig {
//!     destination: "backup".into(),
//!     paths: PathCache::of_user(),
//!     ..PushConfig::new(
//!         vec!["photos".into()],
//!         vec![server],
//!         "backup.example",
//!         identity,
//!         ClientTrust::Pinned([key].into()),
//!     )
//! };
//! let tell = Arc::new(|event| println!("{event:?}"));
//! push(config, tell, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod find;
pub mod first_contact;
pub mod path_memory;
pub(crate) mod reach;

use std::time::Duration;

pub(crate) use self::find::find;

/// How long to try to reach a server unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
