//! The real binary, end to end, over loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod clients;
mod common;
mod content;
mod delete;
mod fault;
mod filter;
mod foreign;
mod forest;
mod greedy;
mod halves;
mod hostile;
mod hostile_sender;
mod hostile_server;
mod interrupted;
mod keys;
mod limits;
mod list;
mod metadata;
mod metrics;
mod network;
mod odd;
mod operating;
mod output;
mod plan;
mod pull;
mod receipt;
mod relay;
mod report;
mod root;
mod sandbox;
mod scene;
mod settings;
mod skip;
mod soak;
mod source;
mod ssh;
mod stream;
mod takeover;
mod transfer;
mod trust;
mod unread;
mod usage;
mod verify;
