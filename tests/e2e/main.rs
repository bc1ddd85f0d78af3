//! The real binary, end to end, over loopback.

mod common;
mod fault;
mod hostile;
mod interrupted;
mod limits;
mod relay;
mod transfer;
mod trust;
mod usage;
