//! The shell around quinn: sockets, TLS, and what connections measure.

mod batch;
pub mod control;
pub mod endpoint;
pub mod limit;
pub mod link;
mod reset;
pub mod sockets;
pub mod telemetry;
pub mod tls;
