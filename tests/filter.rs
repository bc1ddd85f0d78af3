//! What is left out of a transfer is what rsync leaves out with the same options. Skipped by name where there is no rsync.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use qbulk::filter::{Bounds, Filter, Verdict};
use qbulk::store::scan::scan;
use qbulk::store::start::Start;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use walkdir::WalkDir;

const NAMES: [&str; 9] = ["a", "b", "ab", "ba", "a.o", "b.o", "[x]", "*", "a\\b"];
const PARTS: [&str; 17] = [
    "a",
    "b",
    "ab",
    ".o",
    "*",
    "**",
    "?",
    "[ab]",
    "[!a]",
    "[a-b]",
    "[]x]",
    "/",
    "/",
    "\\*",
    "[x]",
    "a\\b",
    "[[:alpha:]]",
];
/// Trees, each with several lists of rules.
const TREES: u64 = 6;
const LISTS: usize = 12;

fn has_rsync() -> bool {
    Command::new("rsync").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn grow(random: &mut SmallRng, folder: &Path, depth: usize) {
    for name in NAMES {
        let path = folder.join(name);
        match random.random_range(0..6) {
            0 | 1 if depth > 0 => {
                fs::create_dir(&path).expect("a folder");
                grow(random, &path, depth - 1);
            }
            2 | 3 => fs::write(&path, vec![b'x'; random.random_range(0..6)]).expect("a file"),
            4 => symlink("a", &path).expect("a link"),
            _ => {}
        }
    }
}

fn pattern(random: &mut SmallRng) -> String {
    let front = *["", "", "/", "**/", "a/"].choose(random).expect("one");
    let behind = *["", "", "/", "/***", "/**"].choose(random).expect("one");
    let middle: String =
        (0..random.random_range(1..4)).map(|_| *PARTS.choose(random).expect("one")).collect();
    format!("{front}{middle}{behind}")
}

/// All that is below a folder.
fn below(folder: &Path) -> BTreeSet<Vec<u8>> {
    let entries =
        WalkDir::new(folder).min_depth(1).into_iter().map(|entry| entry.expect("readable"));
    let path = |entry: walkdir::DirEntry| {
        entry.path().strip_prefix(folder).expect("below it").as_os_str().as_encoded_bytes().to_vec()
    };
    entries.map(path).collect()
}

fn found(source: &Path, filter: &Filter) -> BTreeSet<Vec<u8>> {
    let mut paths = BTreeSet::new();
    scan(&[Start::new(&source.join("")).expect("there")], filter, |entry| {
        paths.insert(entry.expect("readable").remote);
        true
    });
    paths.remove(&b""[..]);
    paths
}

fn synced(source: &Path, options: &[String]) -> BTreeSet<Vec<u8>> {
    let to = tempfile::tempdir().expect("a folder");
    let ran = Command::new("rsync")
        .arg("-rlpt")
        .args(options)
        .arg(source.join(""))
        .arg(to.path())
        .output();
    let ran = ran.expect("rsync");
    assert!(ran.status.success(), "{options:?}: {ran:?}");
    below(to.path())
}

#[test]
fn random_rules_leave_out_of_random_trees_what_rsync_does() {
    if !has_rsync() {
        println!("skipped: there is no rsync");
        return;
    }
    let mut left_out = 0;
    for seed in 0..TREES {
        let mut random = SmallRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().expect("a folder");
        grow(&mut random, dir.path(), 3);
        let all = below(dir.path()).len();
        for _ in 0..LISTS {
            let (mut filter, mut options) = (Filter::default(), Vec::new());
            for _ in 0..random.random_range(1..5) {
                let pattern = pattern(&mut random);
                let (verdict, option) = match random.random_range(0..3) {
                    0 => (Verdict::Include, "include"),
                    _ => (Verdict::Exclude, "exclude"),
                };
                filter.add(verdict, pattern.as_bytes()).expect("a pattern");
                options.push(format!("--{option}={pattern}"));
            }
            let (ours, theirs) = (found(dir.path(), &filter), synced(dir.path(), &options));
            let text = |paths: BTreeSet<Vec<u8>>| {
                paths.into_iter().map(|path| String::from_utf8(path).expect("UTF-8"))
            };
            let (ours, theirs): (Vec<_>, Vec<_>) = (text(ours).collect(), text(theirs).collect());
            assert_eq!(ours, theirs, "seed {seed}, {options:?}");
            left_out += all - ours.len();
        }
    }
    assert!(left_out > 500, "{left_out}");
}

#[test]
fn files_of_rules_and_lists_mean_what_they_mean_to_rsync() {
    if !has_rsync() {
        println!("skipped: there is no rsync");
        return;
    }
    let (dir, files) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut random = SmallRng::seed_from_u64(7);
    grow(&mut random, dir.path(), 3);
    let file = files.path().join("file");
    for (text, has_zeros) in [
        (&b"# all\n+ *.o\n- a\n\n; none\nb\n"[..], false),
        (b"a\r\n*.o\r\n", false),
        (b"x\n!\n/b\n", false),
        (b"# a\0a\0\0+ b\0*\0", true),
    ] {
        fs::write(&file, text).expect("a file");
        let mut filter = Filter::default();
        filter.add_all(Verdict::Exclude, text, has_zeros).expect("rules");
        let mut options = Vec::new();
        // To rsync, it counts for what is behind it.
        options.extend(has_zeros.then(|| "--from0".into()));
        options.push(format!("--exclude-from={}", file.display()));
        assert_eq!(
            found(dir.path(), &filter),
            synced(dir.path(), &options),
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }
    let paths: Vec<_> = below(dir.path()).into_iter().collect();
    for has_zeros in [false, true] {
        let some: Vec<_> =
            paths.iter().filter(|_| random.random_range(0..4) == 0).cloned().collect();
        let list = some.join(if has_zeros { &b"\0"[..] } else { b"\n/./" });
        fs::write(&file, &list).expect("a file");
        let mut filter = Filter::default();
        filter.list(&list, has_zeros).expect("a list");
        let mut options = Vec::new();
        options.extend(has_zeros.then(|| "--from0".into()));
        options.push(format!("--files-from={}", file.display()));
        assert_eq!(found(dir.path(), &filter), synced(dir.path(), &options));
    }
    for (option, bounds) in [
        ("--max-size=3", Bounds { bytes_max: Some(3), ..Bounds::default() }),
        ("--min-size=2", Bounds { bytes_min: Some(2), ..Bounds::default() }),
    ] {
        assert_eq!(
            found(dir.path(), &Filter::within(bounds)),
            synced(dir.path(), &[option.into()])
        );
    }
}

/// Skipped where nothing is mounted below /dev.
#[test]
fn other_file_systems_are_sent_empty_if_that_is_wanted() {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let (dev, pts) = (Path::new("/dev"), Path::new("/dev/pts"));
    if device(pts).is_none() || device(pts) == device(dev) {
        println!("skipped: /dev/pts is no file system of its own");
        return;
    }
    let found = |bounds| {
        let mut paths = BTreeSet::new();
        scan(&[Start::new(&dev.join("")).expect("there")], &Filter::within(bounds), |entry| {
            paths.insert(entry.map_or_else(|lost| lost.remote, |entry| entry.remote));
            true
        });
        paths
    };
    let bounds = Bounds { one_file_system: true, ..Bounds::default() };
    let [here, all] = [bounds, Bounds::default()].map(found);
    let is_below = |path: &Vec<u8>| path.starts_with(b"pts/");
    assert!(here.contains(&b"pts"[..]) && !here.iter().any(is_below), "{here:?}");
    assert!(all.iter().any(|path| path == b"pts/ptmx"));
}
