//! The shell around quinn: sockets, TLS, and what connections measure.

pub mod endpoint;
pub mod telemetry;
pub mod tls;
