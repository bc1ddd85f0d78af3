//! Pushing, as users do.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::{Host, Node, Serve, hash, names, random, run, tree, unfinished};

#[test]
fn a_big_file_arrives_and_a_second_push_replaces_it_whole() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let (first, second) = (64 << 20, (48 << 20) + 1);
    fs::write(host.src("big"), random(1, first)).unwrap();
    let ran = host.push(host.src("big"), &serve.url("copy"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("big")), hash(&host.root("copy")));
    assert_eq!(ran.summary()["bytes"], first);

    fs::write(host.src("big"), random(2, second)).unwrap();
    let done = AtomicBool::new(false);
    let ran = thread::scope(|scope| {
        let sizes = scope.spawn(|| {
            let mut sizes = Vec::new();
            while !done.load(Relaxed) {
                sizes.push(fs::metadata(host.root("copy")).unwrap().len());
                thread::sleep(Duration::from_millis(1));
            }
            sizes
        });
        let ran = host.push(host.src("big"), &serve.url("copy"));
        done.store(true, Relaxed);
        let sizes = sizes.join().unwrap();
        assert!(sizes.iter().all(|&size| size == first as u64 || size == second as u64));
        ran
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("big")), hash(&host.root("copy")));
    assert_eq!(names(&host.root("")), ["copy"]);
}

#[test]
fn a_tree_arrives_with_all_that_is_in_it() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    let long = "n".repeat(255);
    for folder in ["empty", "a/b/c/d/e", "locked", &long] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    for (seed, bytes) in [0, 1, 1_023, 1_024, 65_535, 65_536, 65_537, 1 << 20, 5_000_001, 3 << 20]
        .into_iter()
        .enumerate()
    {
        fs::write(top.join(format!("a/b/{bytes}")), random(seed as u64, bytes)).unwrap();
    }
    for number in 0..300 {
        fs::write(top.join(format!("a/b/c/{number}")), random(number, number as usize * 7))
            .unwrap();
    }
    let strange: [&[u8]; 5] =
        [b"\xff\xfe\x80", b"new\nline", b"back\\slash", b" - *?'\"", "\u{fc}\u{1f600}".as_bytes()];
    for name in strange {
        fs::write(top.join(OsStr::from_bytes(name)), name).unwrap();
        symlink(OsStr::from_bytes(name), top.join("a").join(OsStr::from_bytes(name))).unwrap();
    }
    fs::write(top.join("locked/in"), b"kept").unwrap();
    symlink("../nowhere", top.join("dangling")).unwrap();
    symlink("/etc/passwd", top.join("absolute")).unwrap();
    symlink("a", top.join("to-a-folder")).unwrap();

    for (path, mode) in
        [("a/b/1", 0o600), ("a/b/1024", 0o755), ("a/b/5000001", 0o444), ("empty", 0o750)]
    {
        fs::set_permissions(top.join(path), Permissions::from_mode(mode)).unwrap();
    }
    for (path, nanos) in [("a/b/1", 1), ("a/b/5000001", 123_456_789), ("a", 999_999_999)] {
        let time = SystemTime::UNIX_EPOCH + Duration::new(981_173_106, nanos);
        let times = FileTimes::new().set_modified(time);
        File::open(top.join(path)).unwrap().set_times(times).unwrap();
    }
    fs::set_permissions(top.join("locked"), Permissions::from_mode(0o500)).unwrap();

    let ran = host.push(&top, &serve.url(""));
    let (sent, arrived) = (tree(&top), tree(&host.root("tree")));
    for locked in [top.join("locked"), host.root("tree/locked")] {
        fs::set_permissions(locked, Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(sent, arrived);
    let files = sent.values().filter(|node| matches!(node, Node::File { .. })).count();
    let summary = ran.summary();
    assert_eq!(summary["files"], files, "{summary}");
    assert_eq!(summary["others"], sent.len() - files, "{summary}");
}

#[test]
fn a_sparse_file_stays_sparse() {
    const BYTES: u64 = 96 << 20;
    let host = Host::new();
    let serve = Serve::start(&host);
    let file = File::create(host.src("sparse")).unwrap();
    file.set_len(BYTES).unwrap();
    for (seed, at) in [(1, 0), (2, (33 << 20) + 4_096), (3, 80 << 20)] {
        file.write_all_at(&random(seed, 300_000), at).unwrap();
    }
    file.sync_all().unwrap();
    let occupied = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    if occupied(&host.src("sparse")) > BYTES / 2 {
        eprintln!("a_sparse_file_stays_sparse: skipped: this file system keeps no holes");
        return;
    }
    let ran = host.push(host.src("sparse"), &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("sparse")), hash(&host.root("sparse")));
    assert!(occupied(&host.root("sparse")) < BYTES / 8, "{}", occupied(&host.root("sparse")));
}

#[test]
fn a_trailing_slash_means_what_rsync_and_cp_users_expect() {
    for (source, destination, arrives) in [
        ("tree", "new", "new/tree/in"),
        ("tree/", "new", "new/in"),
        ("tree/", "new/", "new/in"),
        ("tree", "", "tree/in"),
        ("tree/", "", "in"),
        ("tree/in", "name", "name"),
        ("tree/in", "new/", "new/in"),
        ("tree/in", "there", "there/in"),
        ("tree/in", "", "in"),
        ("link", "", "link"),
        ("link/", "new", "new/in"),
    ] {
        let host = Host::new();
        let serve = Serve::start(&host);
        fs::create_dir(host.src("tree")).unwrap();
        fs::write(host.src("tree/in"), b"content").unwrap();
        symlink("tree", host.src("link")).unwrap();
        fs::create_dir(host.root("there")).unwrap();
        let ran = host.push(host.src(source), &serve.url(destination));
        assert_eq!(ran.code, 0, "{source} to {destination:?}: {ran:?}");
        let found = names(&host.root("")).contains(&arrives.to_owned());
        assert!(found, "{source} to {destination:?}: {:?}", names(&host.root("")));
    }
}

#[test]
fn several_sources_go_into_one_folder() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir_all(host.src("tree/deep")).unwrap();
    for name in ["one", "two", "tree/deep/three"] {
        fs::write(host.src(name), name).unwrap();
    }
    let (one, two, tree) = (host.src("one"), host.src("two"), host.src("tree"));
    let ran =
        run(&mut host.pushing(&[one.as_ref(), two.as_ref(), tree.as_ref()], &serve.url("to")));
    assert_eq!(ran.code, 0, "{ran:?}");
    let arrived = ["to", "to/one", "to/tree", "to/tree/deep", "to/tree/deep/three", "to/two"];
    assert_eq!(names(&host.root("")), arrived);

    // Two that would get the same name are not sent at all.
    let same = host.src("tree/deep/one");
    fs::write(&same, b"").unwrap();
    let ran = run(&mut host.pushing(&[one.as_ref(), same.as_ref()], &serve.url("new")));
    ran.assert_failed(2, "one");
    assert_eq!(names(&host.root("")), arrived);
}

#[test]
fn many_pushes_at_a_time_are_served() {
    let host = Host::new();
    let serve = Serve::start(&host);
    for number in 0..4_u64 {
        fs::write(host.src(number.to_string()), random(number, 4 << 20)).unwrap();
    }
    thread::scope(|scope| {
        for number in 0..4 {
            let (host, name) = (&host, number.to_string());
            let url = serve.url(&name);
            scope.spawn(move || {
                let ran = host.push(host.src(&name), &url);
                assert_eq!(ran.code, 0, "{ran:?}");
                assert_eq!(hash(&host.src(&name)), hash(&host.root(&name)));
            });
        }
    });
}

#[test]
fn json_has_an_event_on_every_line_and_the_summary_last() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), random(1, 3_000_000)).unwrap();
    let ran = host.push(host.src("file"), &serve.url("to/"));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let events = ran.events();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert!(named("connected") >= 10);
    assert!(named("primed") > 0 && named("progress") > 0);
    assert_eq!((named("summary"), named("failed")), (1, 0));

    let summary = ran.summary();
    assert_eq!((&summary["files"], &summary["others"]), (&1.into(), &0.into()));
    assert_eq!((&summary["bytes"], &summary["failed"]), (&3_000_000.into(), &0.into()));
    assert!(summary["failures"].as_array().unwrap().is_empty());
    for field in [
        "connections_condemned",
        "connections_opened",
        "padding_received_bytes",
        "padding_sent_bytes",
        "stripes",
        "stripes_again",
        "sub_transfers",
        "takeovers",
    ] {
        assert!(summary[field].is_u64(), "{field}: {summary}");
    }
    for field in ["seconds", "bytes_per_s", "padding_percent"] {
        assert!(summary[field].is_number(), "{field}: {summary}");
    }
    let sent = summary["padding_sent_bytes"].as_u64().unwrap();
    assert!(summary["padding_received_bytes"].as_u64().unwrap() <= sent, "{summary}");

    let started = serve.next();
    assert_eq!(started["event"], "started", "nobody was turned away: {started}");
    assert_eq!(
        (&started["transfer"], &started["destination"]),
        (&summary["transfer"], &"to/".into())
    );
    assert_eq!(started["client"], host.id());
    let finished = serve.event("finished");
    assert_eq!((&finished["transfer"], &finished["files"]), (&summary["transfer"], &1.into()));
    assert_eq!(finished["bytes"], 3_000_000);
}

#[test]
fn quiet_says_nothing_and_plain_says_how_it_went() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    let push = |args: &[&str]| {
        run(host.qbulk().arg("push").args(args).arg(host.src("file")).arg(serve.url("")))
    };
    let ran = push(&["--quiet"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    let ran = push(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(ran.stderr, "nothing was new; 1 file skipped for what is there\n");
    let ran = push(&["-I"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("1 file,") && !ran.stderr.contains("padding"), "{ran:?}");
    let told = push(&["-v", "-I"]);
    assert!(told.code == 0 && told.stderr.contains("padding"), "{told:?}");
    assert!(!ran.stderr.contains('\u{1b}'), "no terminal, no escapes: {ran:?}");
    assert_eq!(push(&["--quiet", "missing"]).code, 6);
    assert_ne!(push(&["--quiet", "missing"]).stderr, "");
}

#[test]
fn what_cannot_be_sent_is_named_and_the_rest_arrives() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir_all(top.join("closed")).unwrap();
    for name in ["good", "secret", "closed/in"] {
        fs::write(top.join(name), random(1, 100_000)).unwrap();
    }
    let made = Command::new("mkfifo").arg(top.join("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = UnixListener::bind(top.join("socket")).unwrap();
    let close = |mode| {
        for name in ["secret", "closed"] {
            fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
        }
    };
    close(0);
    let ran = host.push(&top, &serve.url(""));
    close(0o700);
    assert_eq!(ran.code, 1, "{ran:?}");
    let summary = ran.summary();
    assert_eq!(summary["failed"], 4, "{summary}");
    for name in ["secret", "closed", "pipe", "socket"] {
        let path = top.join(name);
        let is_named = |failure: &serde_json::Value| failure["path"] == *path.to_string_lossy();
        assert!(summary["failures"].as_array().unwrap().iter().any(is_named), "{name}: {summary}");
        assert!(ran.events().iter().any(|event| event["event"] == "failed" && is_named(event)));
    }
    assert_eq!(hash(&top.join("good")), hash(&host.root("tree/good")));
    for name in ["secret", "pipe", "socket"] {
        assert!(!host.root("tree").join(name).exists(), "{name}");
    }
    assert!(unfinished(&host.root("")).is_empty());
}

/// Ends what goes on beside a test, however that ends.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The file is never in a state that may be sent: each write is seen by what is read later.
#[test]
fn a_file_that_is_rewritten_all_the_time_is_reported_and_the_old_one_stays() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let path = host.src("file");
    fs::write(&path, vec![b'0'; 32 << 20]).unwrap();
    assert_eq!(host.push(&path, &serve.url("")).code, 0);
    let before = tree(&host.root("file"));
    let done = AtomicBool::new(false);
    for grows in [false, true] {
        done.store(false, Relaxed);
        thread::scope(|scope| {
            let _end = SetWhenDropped(&done);
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                for turn in 0_u64.. {
                    if done.load(Relaxed) {
                        return;
                    }
                    let place = if grows { (32 << 20) + turn } else { turn * 4_096 % (32 << 20) };
                    file.write_all_at(&turn.to_be_bytes(), place).unwrap();
                }
            });
            let ran = host.push(&path, &serve.url(""));
            done.store(true, Relaxed);
            ran.assert_failed(24, "changed");
            assert_eq!(ran.summary()["failed"], 1, "{ran:?}");
        });
        assert_eq!(tree(&host.root("file")), before, "grows: {grows}");
        assert_eq!(names(&host.root("")), ["file"]);
    }
    assert_eq!(host.push(&path, &serve.url("")).code, 0);
    assert_eq!(hash(&path), hash(&host.root("file")));
}

#[test]
fn a_file_that_is_replaced_all_the_time_arrives_as_one_of_its_versions_or_not_at_all() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let path = host.src("file");
    let version = |byte: u8| {
        fs::write(host.src("new"), vec![byte; 4 << 20]).unwrap();
        fs::rename(host.src("new"), &path).unwrap();
    };
    version(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetWhenDropped(&done);
        scope.spawn(|| {
            for byte in (1..=255).cycle() {
                if done.load(Relaxed) {
                    return;
                }
                version(byte);
                thread::sleep(Duration::from_millis(u64::from(byte % 32)));
            }
        });
        for number in 0..6 {
            let ran = host.push(&path, &serve.url(&number.to_string()));
            match fs::read(host.root(number.to_string())) {
                Ok(content) => {
                    assert_eq!((ran.code, content.len()), (0, 4 << 20), "{ran:?}");
                    assert!(content.iter().all(|byte| *byte == content[0]), "two versions in one");
                }
                Err(_) => ran.assert_failed(24, "changed"),
            }
        }
        done.store(true, Relaxed);
    });
    assert_eq!(unfinished(&host.root("")), Vec::<String>::new());
}

#[test]
fn connections_take_turns_over_all_addresses_of_both_ends() {
    let host = Host::new();
    let mut command = host.qbulk();
    command.args(Serve::arguments(&host)).args(["--listen", "0.0.0.0:0"]);
    let serve = Serve::spawn(&host, command);
    let port = serve.address.port();
    fs::write(host.src("file"), random(1, 8 << 20)).unwrap();
    let [server, other] = [1, 2].map(|host| format!("127.0.0.{host}:{port}"));
    let args = ["--bind", "127.0.0.3", "--bind", "127.0.0.4", "--server", &other].map(OsStr::new);
    let file = host.src("file");
    let args = [&args[..], &[file.as_ref()]].concat();
    let ran = run(&mut host.pushing(&args, &format!("qbulk://{server}/")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    let events = ran.events();
    let up = events.iter().filter(|event| event["event"] == "connected");
    let pairs: BTreeSet<_> = up
        .map(|event| {
            let local = event["local"].as_str().unwrap().split(':').next().unwrap();
            (local, event["remote"].as_str().unwrap())
        })
        .collect();
    let locals: BTreeSet<_> = pairs.iter().map(|(local, _)| *local).collect();
    let remotes: BTreeSet<_> = pairs.iter().map(|(_, remote)| *remote).collect();
    assert_eq!(locals, ["127.0.0.3", "127.0.0.4"].into());
    assert_eq!(remotes, [server.as_str(), &other].into());
}

#[test]
fn the_demo_runs_with_nothing_to_configure() {
    let host = Host::new();
    let ran = run(host.qbulk().args(["demo", "--size", "8MiB"]).env("TMPDIR", host.dir.path()));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("1 file,"), "{ran:?}");
    assert!(names(host.dir.path()).iter().all(|name| !name.starts_with("qbulk-demo")));
}

#[test]
fn a_destination_that_is_no_text_arrives_byte_by_byte() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    let name = OsStr::from_bytes(b"n\xe9");
    let mut url = OsString::from(serve.url(""));
    url.push(name);
    let file = host.src("file");
    let ran = run(host.qbulk().arg("push").arg(&file).arg(&url));
    assert_eq!(ran.code, 0, "{ran:?}");
    let there: Vec<_> =
        fs::read_dir(host.root("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(there, [name]);
    let ran = host.verify(&[file.as_ref(), &url]);
    assert_eq!((ran.code, ran.findings().len()), (0, 0), "{ran:?}");
}
