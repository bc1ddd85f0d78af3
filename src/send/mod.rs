//! What is sent, and what it is called at the other side.

pub(crate) mod names;
