//! What is at the destination and not at the source is removed with `--delete`, and nothing else ever is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qbulk::wire::{Request, SweepRequest};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Signal, kill_process};

use crate::common::{
    Host, Node, Ran, Serve, eventually, finish, names, pid, run, tree, unfinished,
};
use crate::forest::grow;
use crate::hostile::Attacker;

/// Trees, each with other options.
const TREES: u64 = 10;
const PATTERNS: [&str; 6] = ["a", "b/", "*.o", "/c", "g", "a/**"];

fn push(host: &Host, serve: &Serve, options: &[&str]) -> Ran {
    run(host.moving(serve, false, options).arg("--json"))
}

/// Paths of events of a name, below a folder.
fn paths(ran: &Ran, name: &str, why: Option<&str>, below: &Path) -> BTreeSet<String> {
    let events = ran.events().into_iter();
    let events = events.filter(|event| event["event"] == name);
    let events = events.filter(|event| why.is_none_or(|why| event["why"] == why));
    let path = |event: serde_json::Value| {
        let path = PathBuf::from(event["path"].as_str().unwrap());
        path.strip_prefix(below).unwrap().display().to_string()
    };
    events.map(path).collect()
}

/// All but the times of links and folders: tools differ in whether parts of a second count.
fn comparable(folder: &Path) -> BTreeMap<PathBuf, Node> {
    let mut all = tree(folder);
    // It may keep its own time.
    all.remove(Path::new(""));
    all.into_iter()
        .map(|(path, node)| match node {
            Node::Link { target, .. } => (path, Node::Link { mtime: (0, 0), target }),
            Node::Folder { mode, .. } => (path, Node::Folder { mode, mtime: (0, 0) }),
            node @ Node::File { .. } => (path, node),
        })
        .collect()
}

#[test]
fn random_trees_end_as_rsync_leaves_them_and_a_dry_run_tells_what_is_removed() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no rsync here");
    }
    let mut removed = 0;
    for seed in 0..TREES {
        let random = &mut SmallRng::seed_from_u64(seed);
        let is_pull = seed % 2 == 1;
        let host = Host::new();
        let serve = Serve::start(&host);
        let (from, to) = host.ends(is_pull);
        grow(random, &from, &to, 3);
        let mut options = vec!["--delete".to_owned()];
        for _ in 0..random.random_range(0..3) {
            options.push(format!("--exclude={}", PATTERNS.choose(random).unwrap()));
        }
        if seed % 3 == 2 {
            options.push("--delete-excluded".into());
        }
        if seed % 5 == 4 {
            options.push("--max-size=1".into());
        }
        let copied = Command::new("cp").arg("-a").arg(&to).arg(host.outside("to")).status();
        assert!(copied.unwrap().success());
        let mut rsync = Command::new("rsync");
        rsync.arg("-rlpt").args(&options).arg(from.join("")).arg(host.outside("to/"));
        assert!(rsync.stderr(Stdio::null()).status().unwrap().success());

        let before = tree(&to);
        let dry = [&options[..], &["-n".to_owned()]].concat();
        let dry = run(host.moving(&serve, is_pull, &dry).arg("--json"));
        assert_eq!(dry.code, 0, "{dry:?}");
        assert!(tree(&to) == before, "it has changed something");
        let ran = run(host.moving(&serve, is_pull, &options).arg("--json"));
        assert_eq!(ran.code, 0, "{options:?}, {ran:?}");
        let (ours, theirs) = (comparable(&to), comparable(&host.outside("to")));
        assert_eq!(names(&to), names(&host.outside("to")), "{seed}, {options:?}");
        let differ = ours.iter().filter(|(path, node)| theirs.get(*path) != Some(node));
        let differ: Vec<_> = differ.map(|(path, node)| (path, node, theirs.get(path))).collect();
        assert!(differ.is_empty(), "{seed}, {options:?}: {differ:?}");
        if options.len() == 1 {
            let (ours, theirs) = (tree(&to), tree(&from));
            let folders = theirs.iter().filter(|(path, node)| {
                matches!(node, Node::Folder { .. }) && !path.as_os_str().is_empty()
            });
            for (path, node) in folders {
                assert_eq!(
                    ours.get(path),
                    Some(node),
                    "{path:?}: what is removed shows not in its time"
                );
            }
        }
        let below = if is_pull { to.clone() } else { PathBuf::from("to") };
        let foreseen = paths(&dry, "planned", Some("delete"), &below);
        assert_eq!(paths(&ran, "deleted", None, &below), foreseen, "{options:?}");
        assert_eq!(ran.summary()["deleted"], foreseen.len());
        assert_eq!(dry.events().pop().unwrap()["deleted"], foreseen.len());
        removed += foreseen.len();
        let again = run(host.moving(&serve, is_pull, &options).arg("--json"));
        assert_eq!((again.code, &again.summary()["deleted"]), (0, &0.into()), "{again:?}");
    }
    assert!(removed > 100, "{removed}");
}

/// Something at both places, something new, and two things that are only at the destination.
fn plant(host: &Host) {
    for path in [host.src("from/both"), host.src("from/new"), host.root("to/both")] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "data").unwrap();
    }
    fs::create_dir(host.root("to/old")).unwrap();
    fs::write(host.root("to/old/file"), "data").unwrap();
}

#[test]
fn nothing_is_removed_beside_what_was_sent_nor_more_than_is_allowed() {
    let host = Host::new();
    let serve = Serve::start(&host);
    plant(&host);
    let ran = push(&host, &serve, &["--delete", "--max-delete=1"]);
    assert_eq!((ran.code, &ran.summary()["delete_refused"]), (25, &"max_delete".into()), "{ran:?}");
    assert_eq!(names(&host.root("to")), ["both", "new", "old", "old/file"]);
    let dry = push(&host, &serve, &["-n", "--delete", "--max-delete=0"]);
    assert_eq!((dry.code, &dry.events().pop().unwrap()["deleted"]), (25, &2.into()), "{dry:?}");

    // Under its own name, a folder is all that it is about.
    let ran = run(host
        .qbulk()
        .args(["push", "--json", "--delete"])
        .arg(host.src("from"))
        .arg(serve.url("to")));
    assert_eq!((ran.code, &ran.summary()["deleted"]), (0, &0.into()), "{ran:?}");
    fs::write(host.root("beside"), "data").unwrap();
    let ran = push(&host, &serve, &["--delete", "--max-delete=5"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(names(&host.root("")), ["beside", "to", "to/both", "to/new"]);

    push(&host, &serve, &["--max-delete=4"]).assert_failed(2, "goes with --delete");
    push(&host, &serve, &["--delete", "--files-from=/dev/null"]).assert_failed(2, "--files-from");
    let one = run(host
        .qbulk()
        .args(["push", "--json", "--delete"])
        .arg(host.src("from/new"))
        .arg(serve.url("to/")));
    one.assert_failed(2, "no source is one");
}

#[test]
fn links_are_removed_and_never_followed_and_what_is_under_way_stays() {
    let host = Host::new();
    fs::write(host.outside("precious"), "data").unwrap();
    let serve = Serve::start(&host);
    plant(&host);
    fs::create_dir(host.src("from/way")).unwrap();
    fs::create_dir_all(host.root("elsewhere/in")).unwrap();
    // What is reached through a link is not looked through.
    symlink("../elsewhere", host.root("to/way")).unwrap();
    symlink(host.outside(""), host.root("to/out")).unwrap();
    symlink("nowhere", host.root("to/dangling")).unwrap();
    fs::create_dir(host.root("to/busy")).unwrap();
    fs::write(host.root("to/busy/.qbulk-somebody.part"), "half").unwrap();
    fs::write(host.root("to/busy/old"), "data").unwrap();
    let ran = push(&host, &serve, &["--delete"]);
    ran.assert_failed(1, "something has come into it");
    let want = ["both", "busy", "busy/.qbulk-somebody.part", "new", "way"];
    assert_eq!(names(&host.root("to")), want);
    assert!(host.outside("precious").exists() && host.root("elsewhere/in").exists());

    // Nor is a destination that is a link.
    symlink("to", host.root("link")).unwrap();
    fs::write(host.root("to/extra"), "data").unwrap();
    let mut command = host.qbulk();
    command.args(["push", "--json", "--delete"]).arg(host.src("from/")).arg(serve.url("link"));
    run(&mut command).assert_failed(1, "links are not followed");
    assert!(host.root("to/extra").exists());
}

#[test]
fn nothing_is_removed_after_anything_has_failed_or_where_it_is_not_allowed() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    plant(&host);
    fs::create_dir(host.src("from/closed")).unwrap();
    Command::new("chown").args(["-R", "65534:65534"]).arg(host.dir.path()).status().unwrap();
    fs::set_permissions(host.src("from/closed"), Permissions::from_mode(0o000)).unwrap();
    for options in [&["--delete"][..], &["--delete", "-n"]] {
        let ran = push(&host, &serve, options);
        ran.assert_failed(1, "closed");
        assert_eq!(ran.events().pop().unwrap()["delete_refused"], "failures");
    }
    assert!(host.root("to/old/file").exists());
    fs::set_permissions(host.src("from/closed"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(serve.stop(), Some(0));

    for access in ["write", "append", "read"] {
        let serve = Serve::with(&host, &["--access", access]);
        fs::write(host.src("from/late"), access).unwrap();
        push(&host, &serve, &["--delete"]).assert_failed(5, "you may not");
        assert!(
            !host.root("to/late").exists(),
            "nothing is sent where it is known that not all can be done"
        );
    }
    assert!(host.root("to/old/file").exists());
}

#[test]
fn nothing_is_removed_once_the_source_has_gone() {
    let host = Host::new();
    let serve = Serve::start(&host);
    plant(&host);
    for number in 0..800 {
        fs::write(host.src(format!("from/{number}")), "data").unwrap();
    }
    // Between the transfer and the removal it waits for whoever reads the receipt.
    let pipe = host.outside("receipt");
    mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
    let mut push = host.moving(&serve, false, &["--delete", "--json"]);
    push.arg("--receipt").arg(&pipe);
    let child = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut receipt = fs::File::open(&pipe).unwrap();
    eventually("all is there", || serve.next()["event"] == "finished");
    fs::remove_dir_all(host.src("from")).unwrap();
    fs::create_dir(host.src("from")).unwrap();
    let mut text = String::new();
    receipt.read_to_string(&mut text).unwrap();
    let ran = finish(child);
    assert_eq!(
        (ran.code, &ran.summary()["delete_refused"]),
        (24, &"source_changed".into()),
        "{ran:?}"
    );
    assert!(host.root("to/old/file").exists() && host.root("to/799").exists());
}

#[test]
fn what_another_transfer_writes_to_stays() {
    let host = Host::new();
    let serve = Serve::start(&host);
    plant(&host);
    fs::write(host.src("large"), vec![7; 20 << 20]).unwrap();
    let mut other = host.qbulk();
    other
        .args(["push", "--limit=2MB", "--quiet"])
        .arg(host.src("large"))
        .arg(serve.url("to/held/"));
    let mut other = other.spawn().unwrap();
    eventually("it writes", || !unfinished(&host.root("to/held")).is_empty());
    let ran = push(&host, &serve, &["--delete"]);
    ran.assert_failed(1, "another transfer writes there");
    assert!(host.root("to/held").exists() && !host.root("to/old").exists());
    kill_process(pid(&other), Signal::KILL).unwrap();
    other.wait().unwrap();
}

#[test]
fn a_removal_that_is_killed_is_gone_on_with() {
    for is_pull in [false, true] {
        let host = Host::new();
        let serve = Serve::start(&host);
        let (from, to) = host.ends(is_pull);
        fs::create_dir(&from).unwrap();
        fs::write(from.join("kept"), "data").unwrap();
        for folder in 0..30 {
            fs::create_dir_all(to.join(format!("{folder}"))).unwrap();
            for number in 0..200 {
                fs::write(to.join(format!("{folder}/{number}")), "").unwrap();
            }
        }
        let options = ["--delete"];
        let mut first = host.moving(&serve, is_pull, &options);
        let mut child = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let left = || fs::read_dir(&to).unwrap().count();
        eventually("some of it is removed", || left() < 30);
        kill_process(pid(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        let ran = run(host.moving(&serve, is_pull, &options).arg("--json"));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(names(&to), ["kept"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_for_what_is_not_at_its_destination_is_refused() {
    let host = Host::new();
    fs::create_dir_all(host.root("a/b")).unwrap();
    fs::create_dir(host.root("c")).unwrap();
    let serve = Serve::start(&host);
    for (destination, scope) in [("a", "c"), ("a/b", "a"), ("a", ""), ("ab", "a")] {
        let mut attacker = Attacker::connect(&host, &serve).await;
        let (destination, scopes) = (destination.into(), vec![scope.into()]);
        attacker.say(&Request::Sweep(SweepRequest { destination, scopes })).await;
        attacker.expect_closed("is not at its destination").await;
    }
    let mut attacker = Attacker::connect(&host, &serve).await;
    let (destination, scopes) = (b"../outside".to_vec(), vec![b"..".to_vec()]);
    attacker.say(&Request::Sweep(SweepRequest { destination, scopes })).await;
    attacker.expect_closed("is not allowed").await;
}
