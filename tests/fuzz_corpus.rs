//! Replays what the fuzzers have kept, and looks whether each property has all that belongs to it.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "fuzz/properties/mod.rs"]
#[allow(unreachable_pub, reason = "for the fuzzers it is a library")]
mod properties;

use properties::TARGETS;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// Names in a folder, without their extensions.
fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(fuzz_dir().join(dir)).expect("the folder");
    let stems = entries.map(|entry| entry.expect("an entry").path().with_extension(""));
    let mut names: Vec<String> = stems
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_property_has_a_fuzzer_and_a_corpus() {
    let targets = TARGETS.map(|(name, _)| name);
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("the manifest");
    for name in targets {
        assert!(
            manifest.contains(&format!("\nname = \"{name}\"\n")),
            "{name} is not in Cargo.toml"
        );
    }
}

#[test]
fn every_property_holds_for_what_the_fuzzers_have_kept() {
    for (name, property) in TARGETS {
        property(&[]);
        let mut inputs = 0;
        for entry in fs::read_dir(fuzz_dir().join("corpus").join(name)).expect("a corpus") {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).expect("an input");
            let result = catch_unwind(|| property(&input));
            assert!(result.is_ok(), "{name} does not hold for {}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
