//! The shell around quinn.

pub mod tls;
