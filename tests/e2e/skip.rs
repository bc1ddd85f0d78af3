//! What need not be sent because of what is at the destination.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use qbulk::wire::{
    CONTROL_BYTES_MAX, Candidate, LOOKS_MAX, Likeness, Meta, There, ToReceiver, ToSender,
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::Value;

use crate::common::{Host, Node, Ran, Serve, hash, random, run, tree};
use crate::hostile::Attacker;

/// How each side has files by default.
const OLD: u64 = 1_000_000_000;

fn put(path: &Path, content: &[u8], mtime_s: u64, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let file = File::options().read(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime_s)).unwrap();
}

fn count(ran: &Ran, field: &str) -> u64 {
    ran.summary()[field].as_u64().unwrap()
}

/// Everything below `folder`, which may keep its own time.
fn below(folder: &Path) -> BTreeMap<PathBuf, Node> {
    let mut tree = tree(folder);
    tree.remove(Path::new(""));
    tree
}

/// From one place to the other, either by a push or by a pull.
fn send(host: &Host, serve: &Serve, is_pull: bool, args: &[&str]) -> Ran {
    let ran = run(host.moving(serve, is_pull, args).arg("--json"));
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

#[test]
fn what_is_the_same_is_not_sent_again_either_way() {
    for is_pull in [false, true] {
        let host = Host::new();
        let serve = Serve::start(&host);
        let at = |name: &str| if is_pull { host.root(name) } else { host.src(name) };
        let to = |name: &str| if is_pull { host.src(name) } else { host.root(name) };
        for number in 0..1_000 {
            let path = at(&format!("from/{}/{number}", number % 7));
            put(&path, &random(number, number as usize), OLD + number, 0o640);
        }
        put(&at("from/large"), &random(1, 3 << 20), OLD, 0o600);
        let first = send(&host, &serve, is_pull, &[]);
        assert_eq!((count(&first, "files"), count(&first, "skipped_files")), (1_001, 0));
        let second = send(&host, &serve, is_pull, &[]);
        assert_eq!((count(&second, "files"), count(&second, "skipped_files")), (0, 1_001));
        assert_eq!((count(&second, "sent_bytes"), count(&second, "failed")), (0, 0));
        let bytes: u64 = (0..1_000).sum::<u64>() + (3 << 20);
        assert_eq!(count(&second, "skipped_bytes"), bytes);

        // Another time, another size, another mode, something new.
        put(&at("from/0/7"), &random(7, 7), OLD, 0o640);
        put(&at("from/1/8"), &random(8, 9), OLD + 8, 0o640);
        fs::set_permissions(at("from/2/9"), Permissions::from_mode(0o604)).unwrap();
        put(&at("from/new"), b"new", OLD, 0o640);
        let third = send(&host, &serve, is_pull, &[]);
        assert_eq!((count(&third, "files"), count(&third, "skipped_files")), (3, 999));
        assert_eq!(below(&to("to")), below(&at("from")));

        // What only looks the same is found out by whoever does not trust that.
        put(&to("to/large"), &random(2, 3 << 20), OLD, 0o600);
        let fooled = send(&host, &serve, is_pull, &[]);
        assert_eq!(count(&fooled, "skipped_files"), 1_002);
        assert_ne!(hash(&to("to/large")), hash(&at("from/large")));
        let all = send(&host, &serve, is_pull, &["--ignore-times"]);
        assert_eq!((count(&all, "files"), count(&all, "skipped_files")), (1_002, 0));
        assert_eq!(below(&to("to")), below(&at("from")));
    }
}

/// Every way in which one file can be at either place, each under a name of its own.
fn plant(from: &Path, to: &Path) {
    let mut number = 0;
    for there in [None, Some((1, 0)), Some((1, 10)), Some((1, -10)), Some((2, 0)), Some((2, 10))] {
        for mode in [0o640, 0o604] {
            number += 1;
            let name = format!("folder{}/{number}", number % 3);
            put(&from.join(&name), b"source", OLD, 0o640);
            if let Some((bytes, later)) = there {
                let content = if bytes == 1 { b"target".to_vec() } else { b"targets".to_vec() };
                put(&to.join(&name), &content, OLD.saturating_add_signed(later), mode);
            }
        }
    }
    put(&to.join("folder1/only there"), b"target", OLD, 0o640);
    for (name, there) in
        [("link", None), ("other link", Some("target")), ("same link", Some("source"))]
    {
        link("source", &from.join(name));
        if let Some(there) = there {
            link(there, &to.join(name));
        }
    }
    fs::create_dir_all(from.join("empty")).unwrap();
    put(&from.join("new/file"), b"source", OLD, 0o640);
    // Tools differ in whether parts of a second count.
    let folders = ["folder0", "folder1", "folder2"];
    for (top, names, mtime_s) in
        [(from, &folders[..], OLD + 20), (to, &folders, OLD + 40), (from, &["empty", "new"], OLD)]
    {
        for name in names {
            let folder = File::open(top.join(name)).unwrap();
            folder.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime_s)).unwrap();
        }
    }
}

fn link(target: &str, path: &Path) {
    fs::remove_file(path).ok();
    symlink(target, path).unwrap();
    let at = Timespec { tv_sec: OLD.cast_signed(), tv_nsec: 0 };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn options_mean_what_they_mean_to_rsync() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no rsync here");
    }
    for options in [
        &[][..],
        &["--ignore-times"],
        &["--size-only"],
        &["--update"],
        &["--ignore-existing"],
        &["--existing"],
        &["--existing", "--ignore-existing"],
        &["--update", "--existing"],
        &["--update", "--ignore-times"],
        &["--modify-window=10"],
        &["--no-perms"],
        &["--no-times", "--size-only"],
        &["--checksum"],
        &["--checksum", "--update"],
        &["--checksum", "--existing"],
        &["--checksum", "--ignore-existing"],
    ] {
        for is_pull in [false, true] {
            let host = Host::new();
            let serve = Serve::start(&host);
            let at = |name: &str| if is_pull { host.root(name) } else { host.src(name) };
            let to = |name: &str| if is_pull { host.src(name) } else { host.root(name) };
            plant(&at("from"), &to("to"));
            plant(&at("from"), &host.outside("to"));
            let mut rsync = Command::new("rsync");
            rsync.arg("-rlpt").args(options).arg(at("from/")).arg(host.outside("to/"));
            assert!(rsync.status().unwrap().success());
            let ran = send(&host, &serve, is_pull, options);
            let (ours, theirs) = (below(&to("to")), below(&host.outside("to")));
            if options.contains(&"--no-times") {
                // What was sent is as old as its sending.
                let contents = |tree: BTreeMap<PathBuf, Node>| -> Vec<_> {
                    let content = |node| match node {
                        Node::File { mode, hash, .. } => Some((mode, hash)),
                        _ => None,
                    };
                    tree.into_values().map(content).collect()
                };
                assert_eq!(contents(ours), contents(theirs), "{options:?}, {is_pull}: {ran:?}");
            } else {
                assert_eq!(ours, theirs, "{options:?}, {is_pull}: {ran:?}");
            }
        }
    }
}

#[test]
fn who_may_not_read_has_all_sent_and_what_depends_on_what_is_there_refused() {
    let host = Host::new();
    let serve = Serve::with(&host, &["--access", "write"]);
    put(&host.src("from/file"), b"data", OLD, 0o640);
    for _ in 0..2 {
        let ran = send(&host, &serve, false, &[]);
        assert_eq!((count(&ran, "files"), count(&ran, "skipped_files")), (1, 0));
    }
    let mut command = host.qbulk();
    command.args(["push", "--json", "--update"]).arg(host.src("from/")).arg(serve.url("to"));
    run(&mut command).assert_failed(5, "the right to read");
}

#[test]
fn where_nothing_is_replaced_what_is_the_same_is_no_failure_and_stays_as_it_is() {
    let (server, client) = (Host::new(), Host::new());
    let key = client.id();
    let lines = format!("access=read {key} reads\naccess=append {key} and adds\n");
    fs::create_dir_all(server.config()).unwrap();
    fs::write(server.config().join("authorized_keys"), lines).unwrap();
    let serve = Serve::start(&server);
    let push = || {
        let mut push = client.qbulk();
        push.args(["push", "--json", "--accept-new"]).arg(client.src("from/")).arg(serve.url("to"));
        let ran = run(&mut push);
        assert_eq!(ran.code, 0, "{ran:?}");
        (count(&ran, "files"), count(&ran, "skipped_files"))
    };
    put(&client.src("from/file"), b"data", OLD, 0o640);
    assert_eq!(push(), (1, 0));
    fs::set_permissions(client.src("from/file"), Permissions::from_mode(0o600)).unwrap();
    put(&client.src("from/new"), b"data", OLD, 0o640);
    assert_eq!(push(), (1, 1));
    let mode = fs::metadata(server.root("to/file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_receipt_tells_what_was_skipped_from_what_was_delivered() {
    let host = Host::new();
    let serve = Serve::start(&host);
    put(&host.src("from/a"), b"data", OLD, 0o640);
    send(&host, &serve, false, &[]);
    put(&host.src("from/b"), b"more", OLD, 0o640);
    let receipt = host.outside("receipt");
    send(&host, &serve, false, &["--receipt", receipt.to_str().unwrap()]);
    let lines: Vec<Value> = fs::read_to_string(&receipt)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| -> Vec<_> {
        let is_it = |line: &&Value| line["type"] == kind;
        lines.iter().filter(is_it).map(|line| line["path"].as_str().unwrap()).collect()
    };
    assert_eq!((of("skipped"), of("file")), (vec!["to/a"], vec!["to/b"]));
    let ran = host.verify(&["--receipt".as_ref(), receipt.as_ref(), host.root("").as_ref()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.events().last().unwrap()["files"], 1);
}

#[test]
fn the_receipt_of_a_pull_tells_what_was_skipped_as_well() {
    let host = Host::new();
    let serve = Serve::start(&host);
    put(&host.root("from/a"), b"data", OLD, 0o640);
    send(&host, &serve, true, &[]);
    put(&host.root("from/b"), b"more", OLD, 0o640);
    let receipt = host.outside("receipt");
    send(&host, &serve, true, &["--receipt", receipt.to_str().unwrap()]);
    let text = fs::read_to_string(&receipt).unwrap();
    let of = |kind: &str| text.lines().filter(|line| line.contains(kind)).collect::<Vec<_>>();
    let (skipped, sent) = (of(r#""type":"skipped""#), of(r#""type":"file""#));
    assert!(skipped.len() == 1 && skipped[0].contains(r#""path":"a""#), "{text}");
    assert!(sent.len() == 1 && sent[0].contains(r#""path":"b""#), "{text}");
}

fn question(number: u64, path: &[u8]) -> ToReceiver {
    let meta = Meta { mode: 0o640, mtime_s: 1, mtime_ns: 0 };
    let files = vec![Candidate { path: path.to_vec(), bytes: Some(8), meta, claim: None }];
    ToReceiver::Look { question: number, likeness: Likeness::default(), files }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_what_is_there_learns_nothing_of_what_is_outside() {
    let host = Host::new();
    fs::write(host.outside("precious"), b"precious").unwrap();
    fs::write(host.root("inside"), b"precious").unwrap();
    symlink("../outside", host.root("out")).unwrap();
    let serve = Serve::start(&host);
    let mut asker = Attacker::connect(&host, &serve).await;
    asker.hello(b"").await;
    asker.expect_welcome().await;
    for (number, path) in [&b"out/precious"[..], b"none"].into_iter().enumerate() {
        asker.say(&question(number as u64, path)).await;
        let question = number as u64;
        let there = vec![There::NOTHING];
        assert_eq!(asker.next().await, Some(ToSender::Found { question, there }));
    }
    asker.say(&question(9, b"inside")).await;
    assert!(matches!(asker.next().await, Some(ToSender::Found { question: 9, there })
        if there != [There::NOTHING] && !there[0].is_same()));
    asker.say(&question(10, b"../outside/precious")).await;
    asker.expect_closed("is not allowed").await;

    assert_eq!(serve.stop(), Some(0));
    let sealed = Serve::with(&host, &["--access", "write"]);
    let mut asker = Attacker::connect(&host, &sealed).await;
    asker.hello(b"").await;
    asker.expect_welcome().await;
    asker.say(&question(1, b"inside")).await;
    asker.expect_closed("may not know").await;
}

/// More than a server answers at a time, from somebody who reads no answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_without_an_end_is_cut_off() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let mut asker = Attacker::connect(&host, &serve).await;
    asker.hello(b"").await;
    asker.expect_welcome().await;
    let mut bytes = Vec::new();
    let long = "a/".repeat(1_000) + "b";
    for number in 0..20 * LOOKS_MAX as u64 {
        qbulk::wire::Message::encode(&question(number, long.as_bytes()), &mut bytes);
    }
    assert!(bytes.len() > 20 * CONTROL_BYTES_MAX);
    // It may be closed before all is said.
    asker.control.write_all(&bytes).await.ok();
    asker.expect_closed("asks more than it may").await;
}
