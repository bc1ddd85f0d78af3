//! Replays what the fuzzers have kept, and looks whether each property has all that belongs to it.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "fuzz/properties/mod.rs"]
#[allow(unreachable_pub, reason = "for the fuzzers it is a library")]
mod properties;

use properties::TARGETS;
use qbulk::wire::{
    Candidate, Destination, Extras, HostNumber, Likeness, Message, Meta, Packing, PullRequest,
    PushNumber, Request, Select, Skip, There, ToReceiver, ToSender, TransferSecret, Wish,
};

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

/// What begins the search of the control fuzzer for messages that are seldom met by chance, as they are said today.
fn seeds() -> [(&'static str, Vec<u8>); 3] {
    let meta = Meta { mode: 0o644, mtime_s: 981_173_106, mtime_ns: 5 };
    let likeness = Likeness { size_only: true, adopts: true, window_s: 1, ..Likeness::default() };
    let files: Vec<_> = ["a/b", "a/bc"]
        .map(|path| Candidate { path: path.into(), bytes: Some(7), meta, claim: None })
        .into();
    let there = files.iter().map(|file| There::file(file, 7, (0, 0), likeness)).collect();
    let wish = Wish {
        connections: 10,
        active: 8,
        active_max: 64,
        rate_max: 0,
        pressure: 2,
        prime_bytes: 4 << 20,
        stripe_bytes: [1 << 16, 1 << 20],
        turn_stripes: 16,
        reprime_after_us: 1_000_000,
        prime_target_bytes: 0,
        prime_time_us: 1_000_000,
        threshold_ppm: 500_000,
        floor_bytes_per_s: 0,
        rtt_max_us: 0,
        no_memory: 1,
    };
    let pull = Request::Pull(Box::new(PullRequest {
        select: Select::default(),
        transfer: TransferSecret([1; 16]),
        conn: 3,
        pull: PushNumber([2; 16]),
        host: HostNumber([3; 16]),
        destination: b"to".to_vec(),
        found: Destination::Folder,
        sources: vec![b"a".to_vec(), b"b/".to_vec()],
        wish,
        names_kept: true,
        skip: Skip { update: true, modify_window_s: 1, ..Skip::NOTHING },
        extras: Extras::default(),
        packing: Packing::None,
    }));
    let look = ToReceiver::Look { question: 1, likeness, files };
    let found = ToSender::Found { question: 1, there };
    [("pull", seed(&pull)), ("look", seed(&look)), ("found", seed(&found))]
}

/// A message behind the byte that says how the stream is cut.
fn seed(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![3];
    message.encode(&mut bytes);
    bytes
}

#[test]
fn messages_that_are_seldom_met_are_in_the_corpus_as_they_are_said_today() {
    for (name, bytes) in seeds() {
        let kept = fs::read(fuzz_dir().join("corpus/control").join(name)).expect("a seed");
        assert_eq!(
            kept, bytes,
            "{name}: cargo test --test fuzz_corpus -- --ignored writes it anew"
        );
    }
}

#[test]
#[ignore = "it writes to the source tree"]
fn seeds_are_written_anew() {
    for (name, bytes) in seeds() {
        fs::write(fuzz_dir().join("corpus/control").join(name), bytes).expect("it can be written");
    }
}
