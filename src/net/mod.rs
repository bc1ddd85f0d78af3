//! The shell around quinn: sockets, TLS, and what connections measure.

pub mod address;
mod batch;
pub mod control;
pub mod controllers;
pub mod dial;
pub mod endpoint;
pub mod knock;
pub mod limit;
pub mod line;
pub mod lookup;
mod parts;
pub mod path;
pub mod pipe;
mod reset;
pub mod route;
pub mod sockets;
pub mod telemetry;
pub mod tls;
pub mod windows;
pub mod words;
