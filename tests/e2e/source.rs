//! Sources that cannot be read as they were found.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use crate::common::{Host, Serve, hash, names, random, unfinished};
use crate::relay::Lanes;
use crate::scene::{MIB, Scene};

/// What it is called, and what does it.
type Harm = (&'static str, fn(&Path));

/// While a file is under way, `harm` is done to it: it fails alone and by name, what was there stays,
/// and no half is left.
#[track_caller]
fn assert_fails_under_way(what: &str, harm: impl FnOnce(&Path)) {
    let scene = Scene::slow(48, 3e5);
    fs::write(scene.host.root("file"), b"old").unwrap();
    let mut push = scene.push(&[]);
    push.wait_for(MIB);
    harm(&scene.host.src("file"));
    scene.relay.pace(Lanes::All, 1e9);
    let ran = push.finish();
    assert_eq!(ran.code, 1, "{what}: {ran:?}");
    let summary = ran.summary();
    assert_eq!((&summary["failed"], &summary["files"]), (&1.into(), &0.into()), "{summary}");
    let failure = &summary["failures"][0];
    assert!(failure["path"].as_str().unwrap().ends_with("src/file"), "{what}: {summary}");
    eprintln!("{what}: {}", failure["reason"]);
    assert_eq!(fs::read(scene.host.root("file")).unwrap(), b"old", "{what}");
    assert_eq!(names(&scene.host.root("")), ["file"], "{what}");
}

#[test]
fn a_file_that_is_lost_while_it_is_sent_fails_alone() {
    let harm: [Harm; 4] = [
        ("truncated", |path| File::options().write(true).open(path).unwrap().set_len(MIB).unwrap()),
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("replaced by a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("replaced by a link to itself", |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("file", path).unwrap();
        }),
    ];
    thread::scope(|scope| {
        for (what, harm) in harm {
            scope.spawn(move || assert_fails_under_way(what, harm));
        }
    });
}

/// The kernel's files have sizes that are not theirs, and some cannot be read at all.
#[test]
fn files_that_are_not_what_they_say_fail_alone() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("good"), random(1, 300_000)).unwrap();
    let notes = Path::new("/sys/kernel/notes");
    let mut sources = vec![host.src("good"), "/proc/self/mem".into(), "/proc/version".into()];
    let is_short = |path: &str| {
        let path = Path::new(path);
        let (size, read) = (fs::metadata(path).ok()?.len(), fs::read(path).ok()?.len() as u64);
        (read < size).then(|| path.to_owned())
    };
    let short = ["/sys/kernel/address_bits", "/sys/kernel/mm/transparent_hugepage/enabled"];
    let short: Vec<_> = short.into_iter().filter_map(is_short).collect();
    sources.extend(short.iter().cloned());
    if notes.exists() {
        sources.push(notes.into());
    }
    let sources: Vec<_> = sources.iter().map(|path| path.as_os_str()).collect();
    let ran = crate::common::run(&mut host.pushing(&sources, &serve.url("")));
    let summary = ran.summary();
    assert_eq!(summary["failed"], short.len() as u64, "{summary}");
    for path in &short {
        assert!(!host.root(path.file_name().unwrap()).exists());
    }
    assert_eq!(hash(&host.src("good")), hash(&host.root("good")));
    assert!(unfinished(&host.root("")).is_empty());
}
