//! The pure modules stay pure: what they decide can be simulated because time, randomness, network and
//! disk come in from outside.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

const PURE: [&str; 4] = ["src/traffic", "src/wire", "src/hashtree.rs", "src/congestion"];
/// Joins a pure model to quinn, and decides nothing.
const ADAPTERS: [&str; 1] = ["controller.rs"];
const FORBIDDEN: [&str; 16] = [
    "crate::net",
    "crate::store",
    "crate::client",
    "crate::send",
    "crate::serve",
    "crate::identity",
    "tokio",
    "quinn",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "rand::rng()",
    "rand::random",
];

/// The code of a file: without comments and without what follows the start of its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("readable");
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn pure_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = PURE.iter().map(|dir| root.join(dir)).filter(|path| path.exists());
    let files =
        files.flat_map(|path| WalkDir::new(path).into_iter().map(|entry| entry.expect("readable")));
    files
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
        .filter(|entry| !ADAPTERS.iter().any(|name| entry.file_name() == *name))
        .map(walkdir::DirEntry::into_path)
        .collect()
}

#[test]
fn the_pure_modules_reach_for_nothing_outside() {
    let files = pure_files();
    assert!(files.len() >= 9, "the pure modules have moved: {files:?}");
    for file in files {
        let code = code(&file);
        assert!(!code.is_empty(), "{}", file.display());
        for word in FORBIDDEN {
            assert!(!code.contains(word), "{} uses {word}", file.display());
        }
    }
}
