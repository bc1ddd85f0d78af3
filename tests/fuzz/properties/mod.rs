//! What must hold for any input to each of the decoders.
//!
//! Shared by the fuzzers (`fuzz_targets/`) and by `tests/fuzz_corpus.rs`, which replays the corpora with
//! an ordinary compiler. A new property needs: a function, its line in [`TARGETS`], a file in
//! `fuzz_targets/`, its `[[bin]]` in `Cargo.toml` and a folder with at least one input in `corpus/`. The
//! test says which of these is missing.

mod command;
mod store;
mod tree;
mod trust;
mod wire;

pub use command::{config_file, destination_url};
pub use store::{journal, paths, sink};
pub use tree::hash_tree;
pub use trust::{authorized_keys, certificate, fingerprint, identity, known_hosts};
pub use wire::{control, stripe};

/// A property: panics if it does not hold for these bytes.
pub type Property = fn(&[u8]);

/// Every property, by the name of its fuzzer and of its corpus.
pub const TARGETS: [(&str, Property); 13] = [
    ("authorized_keys", authorized_keys),
    ("certificate", certificate),
    ("config_file", config_file),
    ("control", control),
    ("destination_url", destination_url),
    ("fingerprint", fingerprint),
    ("hash_tree", hash_tree),
    ("identity", identity),
    ("journal", journal),
    ("known_hosts", known_hosts),
    ("paths", paths),
    ("sink", sink),
    ("stripe", stripe),
];
