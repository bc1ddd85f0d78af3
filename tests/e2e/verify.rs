//! Comparing with a server, as users do, and as attackers would.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use qbulk::wire::{
    Answer, COMPARES_MAX, Content, Destination, Meta, Question, Request, Subject, ToReceiver,
    VERSION, VerifyRequest,
};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Signal, kill_process};

use crate::common::{Host, Ran, Serve, names, pid, random, run, tree};
use crate::hostile::Attacker;
use crate::relay::{self, Relay};

fn verify(host: &Host, source: &Path, url: &str) -> Ran {
    host.verify(&[source.as_ref(), url.as_ref()])
}

/// The summary, which must be the last that it says.
fn summary(ran: &Ran) -> serde_json::Value {
    let last = ran.events().pop().unwrap_or_else(|| panic!("no summary: {ran:?}"));
    assert_eq!(last["event"], "verify_summary", "{ran:?}");
    last
}

fn set_mtime(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Changes a byte and nothing that is easier to see.
fn flip(path: &Path, at: u64) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    set_mtime(path, modified);
}

#[test]
fn what_was_pushed_is_the_same_and_each_change_shows() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir_all(top.join("a/empty")).unwrap();
    let strange = OsStr::from_bytes(b"\xff\xfe\n");
    for (seed, name) in ["same", "flipped", "missing", "longer", "link", "pipe", "mode", "time"]
        .into_iter()
        .enumerate()
    {
        fs::write(top.join(name), random(seed as u64, 100_000 + seed)).unwrap();
    }
    fs::write(top.join("big"), random(9, 9_000_001)).unwrap();
    fs::write(top.join("zero"), b"").unwrap();
    fs::write(top.join(strange), b"x").unwrap();
    fs::write(top.join("a").join(strange), b"y").unwrap();
    symlink("../nowhere", top.join("dangling")).unwrap();
    symlink(strange, top.join("to-strange")).unwrap();
    assert_eq!(host.push(&top, &serve.url("copy")).code, 0);

    let before = tree(&host.root(""));
    let ran = verify(&host, &top, &serve.url("copy"));
    assert_eq!((ran.code, ran.findings().len()), (0, 0), "{ran:?}");
    let found = summary(&ran);
    assert_eq!((&found["files"], &found["others"]), (&12.into(), &5.into()), "{found}");
    assert_eq!(serve.event("verified")["compared"], 17);
    assert_eq!(tree(&host.root("")), before, "nothing is written");

    let there = host.root("copy/tree");
    flip(&there.join("flipped"), 77_777);
    flip(&there.join("big"), 9_000_000);
    fs::remove_file(there.join("missing")).unwrap();
    File::options().append(true).open(there.join("longer")).unwrap().set_len(100_004).unwrap();
    // The same content, outside of the root.
    fs::copy(top.join("link"), host.outside("link")).unwrap();
    fs::remove_file(there.join("link")).unwrap();
    symlink(host.outside("link"), there.join("link")).unwrap();
    fs::remove_file(there.join("pipe")).unwrap();
    mkfifoat(CWD, there.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    fs::set_permissions(there.join("mode"), Permissions::from_mode(0o600)).unwrap();
    set_mtime(&there.join("time"), SystemTime::UNIX_EPOCH);
    set_mtime(&there.join("longer"), fs::metadata(top.join("longer")).unwrap().modified().unwrap());
    flip(&there.join(strange), 0);
    fs::remove_file(there.join("dangling")).unwrap();
    symlink("../elsewhere", there.join("dangling")).unwrap();
    fs::remove_dir(there.join("a/empty")).unwrap();
    fs::write(there.join("a/empty"), b"").unwrap();
    fs::write(there.join("only there"), b"not looked at").unwrap();

    let ran = verify(&host, &top, &serve.url("copy"));
    let found: Vec<_> = ran.findings().into_iter().collect();
    let want = [
        ("a/empty", "kind"),
        ("big", "content"),
        ("dangling", "target"),
        ("flipped", "content"),
        ("link", "kind"),
        ("longer", "size"),
        ("missing", "missing"),
        ("mode", "mode"),
        ("pipe", "kind"),
        ("time", "mtime"),
        ("\u{fffd}\u{fffd}\n", "content"),
    ];
    let want = want.map(|(path, differs)| (format!("copy/tree/{path}"), differs.to_owned()));
    assert_eq!((ran.code, found), (1, want.to_vec()));
    let found = summary(&ran);
    let count = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(["missing", "different", "metadata", "not_compared"].map(count), [1, 8, 2, 0]);

    let options = ["--content-only".as_ref(), top.as_os_str()];
    let ran = host.verify(&[&options[..], &[serve.url("copy").as_ref()]].concat());
    assert_eq!((ran.code, ran.findings().len()), (1, 9), "{ran:?}");
    assert_eq!(names(&host.outside("")), ["link"]);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn a_person_reads_a_line_for_each_difference() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("one"), b"one").unwrap();
    fs::write(host.src("two"), b"two").unwrap();
    assert_eq!(host.push(host.src("one"), &serve.url("renamed")).code, 0);
    let ran = |args: &[&str], source| {
        run(host.qbulk().arg("verify").args(args).arg(host.src(source)).arg(serve.url("renamed")))
    };
    let same = ran(&[], "one");
    assert_eq!((same.code, same.stdout.as_str()), (0, ""), "{same:?}");
    assert!(same.stderr.starts_with("1 file, 3 B,"), "{same:?}");
    let other = ran(&["--quiet", "--content-only"], "two");
    let line = "renamed: has another content\n";
    assert_eq!((other.code, other.stdout.as_str(), other.stderr.as_str()), (1, line, ""));
    run(host.qbulk().args(["verify", "--receipt", "r"]).args(["a", "b"])).assert_failed(2, "one");
    run(host.qbulk().args(["verify", "--strip", "x"]).arg(host.src("one")).arg(serve.url("")))
        .assert_failed(2, "--receipt");
    verify(&host, &host.src("none"), &serve.url("")).assert_failed(6, "none");
    verify(&host, &host.src("one"), &serve.url("one/two/../x")).assert_failed(2, "..");
}

#[test]
fn what_cannot_be_read_at_either_end_is_named_and_nothing_is_written() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    for top in [&top, &host.root("tree")] {
        fs::create_dir_all(top.join("locked")).unwrap();
        for (name, content) in [("here", "1"), ("there", "2"), ("same", "3"), ("locked/in", "4")] {
            fs::write(top.join(name), content).unwrap();
        }
    }
    let lock = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let (here, there) = (top.join("here"), host.root("tree/there"));
    for path in [&here, &there] {
        lock(path, 0o000);
    }
    lock(&host.root("tree/locked"), 0o000);
    // The root may be one that this server can only read.
    lock(&host.root(""), 0o555);
    let url = serve.url("");
    let options = ["--content-only".as_ref(), top.as_os_str(), url.as_ref()];
    let ran = host.verify(&options);
    let found: Vec<_> = ran.findings().into_iter().collect();
    let want = [
        (here.to_str().unwrap(), "Permission denied"),
        ("tree/locked/in", "it is there and cannot be read"),
        ("tree/there", "it is there and cannot be read"),
    ];
    let want = want.map(|(path, reason)| (path.to_owned(), reason.to_owned()));
    assert_eq!((ran.code, found), (1, want.to_vec()));
    assert_eq!(summary(&ran)["files"], 1);
    lock(&host.root(""), 0o755);
    lock(&host.root("tree/locked"), 0o755);
}

#[test]
fn a_client_that_the_server_does_not_know_compares_nothing() {
    let (server, client) = (Host::new(), Host::new());
    let serve = Serve::start(&server);
    fs::write(client.src("file"), b"content").unwrap();
    fs::write(server.root("file"), b"content").unwrap();
    let url = serve.url("");
    let ran = |args: &[&str]| {
        let mut command = client.qbulk();
        run(command.args(["verify", "--json"]).args(args).arg(client.src("file")).arg(&url))
    };
    ran(&[]).assert_failed(4, "--accept-new");
    let own = server.id();
    let refused = ran(&["--fingerprint", &own]);
    refused.assert_failed(4, "--authorize");
    assert!(refused.findings().is_empty());
    ran(&["--fingerprint", &client.id()]).assert_failed(4, &own);
    let mut nobody = client.qbulk();
    nobody.args(["verify", "--connect-timeout", "1s", "--fingerprint", &own]);
    let ran = run(nobody.arg(client.src("file")).arg("qbulk://127.0.0.1:9/"));
    ran.assert_failed(3, "127.0.0.1:9 (UDP)");
}

#[test]
fn many_small_files_need_no_round_trip_each() {
    let host = Host::new();
    let serve = Serve::start(&host);
    for top in [host.src("many"), host.root("many")] {
        fs::create_dir(&top).unwrap();
        for number in 0..1_000_u64 {
            fs::write(top.join(number.to_string()), number.to_string()).unwrap();
        }
    }
    flip(&host.root("many/500"), 0);
    let delay = Duration::from_millis(50);
    let relay = Relay::start(serve.address, relay::Path { delay, ..relay::Path::default() });
    let (many, url, start) = (host.src("many"), relay.url(""), Instant::now());
    let ran = host.verify(&["--content-only".as_ref(), many.as_ref(), url.as_ref()]);
    let took = start.elapsed();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(
        ran.findings().into_iter().collect::<Vec<_>>(),
        [("many/500".to_owned(), "content".to_owned())]
    );
    assert_eq!(summary(&ran)["files"], 999);
    assert!(took < Duration::from_secs(30), "{took:?} for what has 1,000 round trips of 0.1 s");
}

/// A client that compares, and may not keep to the protocol.
async fn attacker(host: &Host, serve: &Serve) -> Attacker {
    let mut attacker = Attacker::connect(host, serve).await;
    attacker.say(&Request::Verify(VerifyRequest { destination: vec![], writes: false })).await;
    assert_eq!(attacker.answer().await, Some(Answer::Welcome(Destination::Folder)));
    attacker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_verification_above_those_that_there_can_be_waits_for_its_turn() {
    let host = Host::new();
    let serve = Serve::start(&host);
    for folder in [host.src("file"), host.root("file")] {
        fs::write(folder, b"1").unwrap();
    }
    let mut others = Vec::new();
    for _ in 0..32 {
        others.push(attacker(&host, &serve).await);
    }
    let waiting = || {
        let mut command = host.qbulk();
        command.args(["verify", "--json", "--content-only", "--connect-timeout", "1s"]);
        command.arg(host.src("file")).arg(serve.url(""));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = told.next().unwrap();
        assert!(line.contains("verify_waiting") && line.contains("(32)"), "{line}");
        (child, told)
    };
    let (mut child, told) = waiting();
    // Longer than the server may take to answer.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(child.try_wait().unwrap(), None);
    others.pop();
    assert!(told.last().unwrap().contains("verify_summary"));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    others.push(attacker(&host, &serve).await);
    let (mut child, told) = waiting();
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    let last = told.last().unwrap();
    assert!(last.contains("the server is being stopped"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

fn file(bytes: u64) -> Subject {
    Subject::File { bytes, meta: Meta { mode: 0, mtime_s: 0, mtime_ns: 0 } }
}

fn compare(item: u64, path: &[u8], subject: Subject) -> Question {
    Question::Compare { item, path: path.to_vec(), subject }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_outside_of_the_root_and_no_unknown_content_can_be_compared() {
    let host = Host::new();
    fs::write(host.outside("precious"), b"precious").unwrap();
    fs::write(host.root("inside"), b"precious").unwrap();
    symlink(host.outside(""), host.root("out")).unwrap();
    symlink("../outside", host.root("up")).unwrap();
    symlink(host.outside("precious"), host.root("direct")).unwrap();
    symlink("inside", host.root("within")).unwrap();
    mkfifoat(CWD, host.root("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let serve = Serve::start(&host);
    let mut attacker = attacker(&host, &serve).await;
    let precious = Some(*blake3::hash(b"precious").as_bytes());
    for (item, (path, bytes, hash, content)) in [
        ("inside", 8, precious, Content::Same),
        ("inside", 8, Some([0; 32]), Content::Different),
        ("inside", 8, None, Content::Different),
        ("inside", 9, precious, Content::OtherSize),
        ("out/precious", 8, precious, Content::Unreadable),
        ("up/precious", 8, precious, Content::Unreadable),
        ("direct", 8, precious, Content::OtherKind),
        ("within", 8, precious, Content::OtherKind),
        ("pipe", 0, precious, Content::OtherKind),
        ("inside/below", 8, precious, Content::Missing),
        ("none", 8, precious, Content::Missing),
    ]
    .into_iter()
    .enumerate()
    {
        let item = item as u64;
        attacker.say(&compare(item, path.as_bytes(), file(bytes))).await;
        attacker.say(&Question::Expect { item, hash }).await;
        match attacker.answer().await {
            Some(Answer::Compared { item: answered, verdict }) => {
                assert_eq!((answered, verdict.content), (item, content), "{path}, {bytes} bytes");
            }
            other => panic!("{path}: {other:?}, {:?}", attacker.connection.close_reason()),
        }
    }
    // Neither does a folder's existence show.
    attacker.say(&compare(99, b"out/..", Subject::Folder)).await;
    attacker.expect_closed("is not allowed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_do_not_keep_to_the_protocol_are_cut_off() {
    let host = Host::new();
    fs::write(host.root("file"), b"1").unwrap();
    let serve = Serve::start(&host);
    let one = |item| compare(item, b"file", file(1));

    let mut many = attacker(&host, &serve).await;
    for item in 0..=COMPARES_MAX as u64 {
        many.say(&one(item)).await;
    }
    many.expect_closed("number of comparisons").await;

    let mut twice = attacker(&host, &serve).await;
    twice.say(&one(1)).await;
    twice.say(&one(1)).await;
    twice.expect_closed("compared twice").await;

    let mut mixed = attacker(&host, &serve).await;
    mixed.say(&ToReceiver::Finish { stripes: 0 }).await;
    mixed.expect_closed("unknown message type").await;

    for path in [&b".."[..], b"../x", b"/etc", b"a\0b"] {
        let mut attacker = Attacker::connect(&host, &serve).await;
        attacker
            .say(&Request::Verify(VerifyRequest { destination: path.to_vec(), writes: false }))
            .await;
        attacker.expect_closed("is not allowed").await;
        let mut attacker = self::attacker(&host, &serve).await;
        attacker.say(&compare(1, path, Subject::Folder)).await;
        attacker.expect_closed("is not allowed").await;
    }
    let mut early = Attacker::connect(&host, &serve).await;
    early.say(&one(1)).await;
    early.expect_closed("version").await;
    let mut old = Attacker::connect(&host, &serve).await;
    old.control.write_all(&[2, VERSION as u8 + 1, 3]).await.unwrap();
    old.expect_closed("version").await;

    fs::write(host.src("file"), b"1").unwrap();
    let url = serve.url("");
    let ran = host.verify(&["--content-only".as_ref(), host.src("file").as_ref(), url.as_ref()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(serve.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_is_stopped_lets_a_comparison_end_and_takes_no_other() {
    let host = Host::new();
    let mut serve = Serve::with(&host, &["--drain-time", "10m"]);
    fs::write(host.src("file"), b"1").unwrap();
    let mut client = attacker(&host, &serve).await;
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    serve.event("draining");
    verify(&host, &host.src("file"), &serve.url(""))
        .assert_failed(3, "is being stopped, and takes no new transfers");
    client.say(&compare(1, b"nothing", Subject::Folder)).await;
    assert!(matches!(client.answer().await, Some(Answer::Compared { item: 1, .. })));
    drop(client);
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
}
