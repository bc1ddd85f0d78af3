//! The client, and what it needs before and beside a transfer: the server is looked up, its key is decided on at
//! first sight and remembered, the lines of a set are dialled, what is learned of a path is kept for the next
//! time, and what was interrupted is tried again.
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
//! use qbulk::client::{PushConfig, push};
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

mod attempts;
mod config;
mod find;
pub mod first_contact;
mod list;
mod notes;
mod number;
pub mod path_memory;
mod place;
mod plan;
mod pull;
mod puller;
mod push;
mod query;
pub(crate) mod reach;
mod retry;
mod session;
mod sweep;
mod verify;

use std::time::Duration;

pub use self::config::{PullConfig, PushConfig, RETRY_FOR};
pub(crate) use self::find::find;
pub use self::list::{ListConfig, list};
pub use self::plan::{plan_pull, plan_push};
pub use self::pull::pull;
pub use self::push::push;
pub use self::query::PeerConfig;
pub use self::sweep::Delete;
pub use self::verify::{ReceiptConfig, VerifyConfig, VerifyReporter, verify, verify_receipt};
pub use crate::event::PushReporter;
pub use crate::send::StreamSource;
pub use crate::store::pour::Outlet;

/// How long to try to reach a server unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
