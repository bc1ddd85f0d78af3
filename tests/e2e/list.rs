//! Listing what is on a server, as users do, and as attackers would, at either end.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qbulk::identity::Identity;
use qbulk::net::control::ControlReader;
use qbulk::net::endpoint;
use qbulk::net::sockets::SystemSockets;
use qbulk::net::tls::{ServerTrust, server_config};
use qbulk::wire::{
    Answer, Content, Destination, ListRequest, Listed, ListedKind, Message, Meta, Request, VERSION,
    Verdict,
};
use quinn::{SendStream, TransportConfig, VarInt};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::common::{Host, PATIENCE, Ran, Serve, eventually, finish, pid, run};
use crate::hostile::Attacker;

/// Lists with `--json`.
fn ls(host: &Host, args: &[&str]) -> Ran {
    run(host.qbulk().args(["ls", "--json"]).args(args))
}

/// What was listed: paths, byte by byte, and what is said of them.
fn entries(ran: &Ran) -> Vec<(Vec<u8>, Value)> {
    let events = ran.events().into_iter().filter(|event| event["event"] == "entry");
    let entry = |event: Value| {
        let path = match event["path_base64"].as_str() {
            Some(text) => BASE64_STANDARD.decode(text).unwrap(),
            None => event["path"].as_str().unwrap().into(),
        };
        (path, event)
    };
    events.map(entry).collect()
}

fn paths(ran: &Ran) -> Vec<Vec<u8>> {
    entries(ran).into_iter().map(|(path, _)| path).collect()
}

/// The summary, which must be the last that it says.
fn summary(ran: &Ran) -> Value {
    let last = ran.events().pop().unwrap_or_else(|| panic!("no summary: {ran:?}"));
    assert_eq!(last["event"], "list_summary", "{ran:?}");
    last
}

/// What a process has in memory, in bytes.
fn resident_bytes(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn what_is_there_is_listed_with_any_name_and_links_and_nothing_unfinished() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let odd = OsStr::from_bytes(b"\xff\n\x1b[31m");
    fs::create_dir_all(host.root("tree/folder/in")).unwrap();
    fs::write(host.root("tree").join(odd), b"12345").unwrap();
    fs::write(host.root("tree/folder/in/file"), b"").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 7_000_000);
    let file = File::create(host.root("tree/file")).unwrap();
    file.set_len(3_000_000_000).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    file.set_permissions(Permissions::from_mode(0o4750)).unwrap();
    symlink(odd, host.root("tree/link")).unwrap();
    symlink(host.outside(""), host.root("tree/out")).unwrap();
    mkfifoat(CWD, host.root("tree/pipe"), Mode::RUSR).unwrap();
    fs::write(host.root("tree/.qbulk-0-1-2.part"), b"unfinished").unwrap();
    fs::write(host.root("tree/.qbulk-0-1-2.journal"), b"unfinished").unwrap();

    let top: [&[u8]; 6] = [b"file", b"folder", b"link", b"out", b"pipe", odd.as_bytes()];
    for url in [serve.url("tree"), serve.url("tree/")] {
        let ran = ls(&host, &[&url]);
        assert_eq!((ran.code, paths(&ran)), (0, top.map(<[u8]>::to_vec).to_vec()), "{ran:?}");
    }
    let ran = ls(&host, &["-R", &serve.url("tree")]);
    let found = entries(&ran);
    let deep = found.iter().map(|(path, _)| path.as_slice()).collect::<Vec<_>>();
    let want: [&[u8]; 8] = [
        b"file",
        b"folder",
        b"folder/in",
        b"folder/in/file",
        b"link",
        b"out",
        b"pipe",
        odd.as_bytes(),
    ];
    assert_eq!(deep, want);
    let of = |at: usize, field: &str| found[at].1[field].clone();
    assert_eq!((of(0, "bytes"), of(0, "mode")), (3_000_000_000_u64.into(), "4750".into()));
    assert_eq!((of(0, "mtime_s"), of(0, "mtime_ns")), (981_173_106.into(), 7_000_000.into()));
    let kinds: Vec<_> = (0..8).map(|at| of(at, "kind")).collect();
    assert_eq!(kinds, ["file", "folder", "folder", "file", "link", "link", "other", "file"]);
    let target = of(4, "target_base64");
    assert_eq!(BASE64_STANDARD.decode(target.as_str().unwrap()).unwrap(), odd.as_bytes());
    assert_eq!(of(5, "target"), host.outside("").to_str().unwrap());
    let counted = summary(&ran);
    let counted = ["files", "bytes", "folders", "others", "not_listed"]
        .map(|field| counted[field].as_u64().unwrap());
    assert_eq!(counted, [3, 3_000_000_005, 2, 3, 0]);

    let ran = run(host.qbulk().args(["ls", &serve.url("tree")]));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "-rwsr-x---    3000000000 2001-02-03T04:05:06Z file", "{ran:?}");
    assert!(lines[5].ends_with(" \u{fffd}\\n\\u{1b}[31m"), "{ran:?}");
    assert!(lines[2].ends_with(" link -> \u{fffd}\\n\\u{1b}[31m"), "{ran:?}");
    assert_eq!(ran.stderr, "2 files, 2.8 GiB; 1 folder; 3 links and others\n");
    assert_eq!(serve.event("listed")["entries"], 6);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn what_is_no_folder_is_listed_by_itself_and_no_link_leads_anywhere() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir(host.root("folder")).unwrap();
    fs::write(host.root("folder/file"), b"123").unwrap();
    fs::write(host.outside("precious"), b"precious").unwrap();
    symlink("folder", host.root("within")).unwrap();
    symlink(host.outside(""), host.root("out")).unwrap();

    let ran = ls(&host, &[&serve.url("folder/file")]);
    assert_eq!((ran.code, paths(&ran)), (0, vec![b"file".to_vec()]), "{ran:?}");
    let ran = ls(&host, &["-R", &serve.url("out")]);
    let target = host.outside("");
    assert_eq!(entries(&ran)[0].1["target"], target.to_str().unwrap(), "{ran:?}");
    assert_eq!(paths(&ran), [b"out"]);
    for (path, words) in [
        ("none", "there is nothing at \"none\" on 127.0.0.1"),
        ("none/", "there is nothing at \"none\" on 127.0.0.1"),
        ("folder/file/below", "there is nothing at"),
        ("folder/file/", "\"folder/file\" is not a folder"),
        ("out/", "\"out\" is a link, and links are not followed"),
        ("out/precious", "a link is on the way"),
        ("out/none", "a link is on the way"),
        ("within/file", "a link is on the way"),
        ("folder/.qbulk-1.part", "are kept for unfinished transfers"),
    ] {
        let ran = ls(&host, &[&serve.url(path)]);
        ran.assert_failed(5, "");
        let error = ran.events().pop().unwrap();
        assert!(error["message"].as_str().unwrap().contains(words), "{path}: {error}");
        assert_eq!(paths(&ran).len(), 0);
    }
    ls(&host, &["nonsense"]).assert_failed(2, "qbulk://HOST");
    ls(&host, &[&serve.url("folder/../x")]).assert_failed(2, "..");
    run(host.qbulk().arg("ls")).assert_failed(2, "qbulk://HOST");
    let mut command = host.qbulk();
    command.args(["ls", &serve.url("")]).stdout(File::create("/dev/full").unwrap());
    finish(command.stderr(Stdio::piped()).spawn().unwrap()).assert_failed(6, "standard output");
}

#[test]
fn what_cannot_be_looked_into_is_named_and_the_rest_is_listed() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    for name in ["a", "locked", "z"] {
        fs::create_dir(host.root(name)).unwrap();
        fs::write(host.root(name).join("file"), b"1").unwrap();
    }
    let lock = |mode| {
        fs::set_permissions(host.root("locked"), Permissions::from_mode(mode)).unwrap();
    };
    lock(0o000);
    let ran = ls(&host, &["-R", &serve.url("")]);
    let want: [&[u8]; 5] = [b"a", b"a/file", b"locked", b"z", b"z/file"];
    assert_eq!((ran.code, paths(&ran)), (1, want.map(<[u8]>::to_vec).to_vec()), "{ran:?}");
    let is_told = |event: &Value| {
        event["event"] == "not_listed"
            && event["path"] == "locked"
            && event["reason"] == "Permission denied"
    };
    assert!(ran.events().iter().any(is_told), "{ran:?}");
    assert_eq!(summary(&ran)["not_listed"], 1);
    let text = run(host.qbulk().args(["ls", "-qR", &serve.url("")]));
    assert_eq!((text.code, text.stdout.lines().count()), (1, 5), "{text:?}");
    assert_eq!(text.stderr, "qbulk: locked: not listed: Permission denied\n");
    ls(&host, &[&serve.url("locked")]).assert_failed(5, "Permission denied");
    lock(0o755);
}

#[test]
fn a_client_that_the_server_does_not_know_is_told_nothing() {
    let (server, client) = (Host::new(), Host::new());
    let serve = Serve::start(&server);
    fs::write(server.root("file"), b"content").unwrap();
    ls(&client, &[&serve.url("")]).assert_failed(4, "--accept-new");
    let own = server.id();
    for path in ["", "file", "none"] {
        let ran = ls(&client, &["--fingerprint", &own, &serve.url(path)]);
        ran.assert_failed(4, "--authorize");
        assert_eq!(paths(&ran).len(), 0);
    }
    ls(&client, &["--fingerprint", &client.id(), &serve.url("")]).assert_failed(4, &own);
    ls(&client, &["--connect-timeout", "1s", "--fingerprint", &own, "qbulk://127.0.0.1:9/"])
        .assert_failed(3, "127.0.0.1:9 (UDP)");
}

#[test]
fn who_may_not_read_is_told_so_and_not_what_is_there() {
    let host = Host::new();
    fs::write(host.root("there"), b"1").unwrap();
    let serve = Serve::with(&host, &["--access", "append"]);
    for path in ["", "there", "none", "none/below/"] {
        let ran = ls(&host, &["-R", &serve.url(path)]);
        ran.assert_failed(5, "you may not read here: only append");
        assert_eq!(paths(&ran).len(), 0);
    }
    drop(serve);

    let mut named = host.qbulk();
    named.args(["serve", "--json", "--listen", "127.0.0.1:0", "--root"]);
    named.arg(format!("media={}", host.root("").display()));
    named.args(["--root", &format!("in={}", host.outside("").display()), "--access", "in=write"]);
    let serve = Serve::spawn(&host, named);
    for path in ["media", "media/", "media/there"] {
        let ran = ls(&host, &[&serve.url(path)]);
        assert_eq!((ran.code, paths(&ran)), (0, vec![b"there".to_vec()]), "{path}: {ran:?}");
    }
    ls(&host, &[&serve.url("media/none")]).assert_failed(5, "there is nothing at");
    ls(&host, &[&serve.url("in")]).assert_failed(5, "you may not read below");
    assert_eq!(paths(&ls(&host, &[&serve.url("")])), [b"media"]);
    ls(&host, &[&serve.url("other")]).assert_failed(5, "there is no root");
}

/// Makes a folder of so many long names.
fn crowd(folder: &Path, count: usize) -> BTreeSet<Vec<u8>> {
    fs::create_dir(folder).unwrap();
    let names: Vec<_> = (0..count).map(|number| format!("{number:0>200}")).collect();
    for name in &names {
        File::create(folder.join(name)).unwrap();
    }
    names.into_iter().map(String::into_bytes).collect()
}

/// A client that asks for a list and takes little of it.
async fn reluctant(host: &Host, serve: &Serve, path: &str) -> Attacker {
    let little = |config: &mut quinn::ClientConfig| {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(8 << 10));
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
        config.transport_config(Arc::new(transport));
    };
    let mut attacker = Attacker::with(host, host, serve, little).await;
    attacker.say(&request(path)).await;
    assert_eq!(attacker.answer().await, Some(Answer::Welcome(Destination::Folder)));
    attacker
}

fn request(path: &str) -> Request {
    Request::List(ListRequest { path: path.into(), recursive: true })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_folder_is_listed_whole_and_who_does_not_read_costs_little_and_waits_in_turn() {
    let host = Host::new();
    let names = crowd(&host.root("crowd"), 20_000);
    let mut serve = Serve::with(&host, &["--drain-time", "10m"]);
    let url = serve.url("crowd");
    let ran = ls(&host, &[&url]);
    assert_eq!((ran.code, paths(&ran).len()), (0, names.len()));
    assert_eq!(paths(&ran).into_iter().collect::<BTreeSet<_>>(), names);
    assert_eq!(summary(&ran)["files"], names.len());

    let before = resident_bytes(&serve.child);
    let mut others = Vec::new();
    for _ in 0..32 {
        others.push(reluctant(&host, &serve, "crowd").await);
    }
    let mut child = host.qbulk();
    child.args(["ls", "--json", &url]).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = told.next().unwrap();
    assert!(line.contains("list_waiting") && line.contains("(32)"), "{line}");
    // All of them could have been sent to their end by now.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let grown = resident_bytes(&serve.child).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for listings of 32 times 4 MB that nobody takes");
    assert_eq!(child.try_wait().unwrap(), None);
    others.pop();
    assert_eq!(told.count(), names.len() + 1);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // The one that is left may end; nobody else may begin.
    let mut last = others.pop().unwrap();
    drop(others);
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    serve.event("draining");
    ls(&host, &[&url]).assert_failed(3, "is being stopped");
    let mut listed = 0;
    loop {
        match last.answer().await {
            Some(Answer::Listed(_)) => listed += 1,
            Some(Answer::ListEnd) => break,
            other => panic!("{other:?}, {:?}", last.connection.close_reason()),
        }
    }
    assert_eq!(listed, names.len());
    last.connection.close(VarInt::from_u32(0), b"");
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_do_not_keep_to_the_protocol_are_cut_off() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.root("file"), b"1").unwrap();
    for path in ["..", "../x", "/etc", "a\0b", "a//b", "."] {
        let mut attacker = Attacker::connect(&host, &serve).await;
        attacker.say(&request(path)).await;
        attacker.expect_closed("is not allowed").await;
    }
    let mut old = Attacker::connect(&host, &serve).await;
    old.control.write_all(&[2, VERSION as u8 + 1, 4]).await.unwrap();
    old.expect_closed("version").await;
    crowd(&host.root("crowd"), 1_000);
    let mut twice = reluctant(&host, &serve, "crowd").await;
    twice.say(&request("")).await;
    twice.expect_closed("unknown message type").await;
    let ran = ls(&host, &[&serve.url("file")]);
    assert_eq!(paths(&ran), [b"file"], "{ran:?}");
    assert_eq!(serve.stop(), Some(0));
}

/// A server that says whatever it likes once it was asked for a list, the last of it without end if that is
/// wanted. Counts what the client took, in bytes.
fn liar(host: &Host, says: Vec<Vec<u8>>, is_endless: bool) -> (String, Arc<AtomicU64>) {
    let own = Identity::load_or_create(&host.config()).unwrap();
    let trust = ServerTrust { allowed: [own.fingerprint()].into(), ..ServerTrust::default() };
    let tls = Arc::new(server_config(&own, trust).unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    let endpoint = endpoint::server(&SystemSockets, listen, tls, &[7; 32]).unwrap();
    let url = format!("qbulk://{}/", endpoint.local_addr().unwrap());
    let taken = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            // One that only looks at the key asks for nothing.
            let Ok((answers, messages)) = connection.accept_bi().await else { continue };
            let asked = ControlReader::new(messages).next().await;
            assert!(matches!(asked, Ok(Some(Request::List(_)))), "{asked:?}");
            lie(answers, &says, is_endless, &counted).await;
            connection.closed().await;
        }
    });
    (url, taken)
}

async fn lie(mut answers: SendStream, says: &[Vec<u8>], is_endless: bool, taken: &AtomicU64) {
    let again = says.last().filter(|_| is_endless);
    for bytes in says.iter().chain(again.into_iter().cycle()) {
        if answers.write_all(bytes).await.is_err() {
            return;
        }
        taken.fetch_add(bytes.len() as u64, Relaxed);
    }
    answers.finish().ok();
}

fn encoded(messages: &[Answer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes);
    }
    bytes
}

fn welcome() -> Answer {
    Answer::Welcome(Destination::Folder)
}

fn listed(name: &[u8]) -> Answer {
    let meta = Meta { mode: u32::MAX, mtime_s: i64::MIN, mtime_ns: 0 };
    Answer::Listed(Listed { name: name.to_vec(), meta, kind: ListedKind::File { bytes: u64::MAX } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_lists_nonsense_is_believed_nothing() {
    let host = Host::new();
    host.id();
    let says = |messages: &[Answer]| encoded(&[&[welcome()], messages].concat());
    let unsafe_name = says(&[listed(b"..")]);
    for (bytes, code, words) in [
        (says(&[listed(b"a/b")]), 5, "the path"),
        (unsafe_name, 5, "the path"),
        (says(&[Answer::ListFolder(b"not/asked".to_vec())]), 5, "broke the protocol"),
        (says(&[welcome()]), 5, "broke the protocol"),
        (encoded(&[listed(b"a")]), 5, "broke the protocol"),
        (
            says(&[Answer::Compared { item: 0, verdict: Verdict::of(Content::Same) }]),
            5,
            "broke the protocol",
        ),
        ([says(&[listed(b"a")]), vec![0xff; 100]].concat(), 5, "above the limit"),
    ] {
        let (url, _) = liar(&host, vec![bytes], false);
        let ran = ls(&host, &[&url]);
        ran.assert_failed(code, words);
    }
    // What can be anything is shown as it is said.
    let (url, _) = liar(&host, vec![says(&[listed(b"odd"), Answer::ListEnd])], false);
    let ran = run(host.qbulk().args(["ls", &url]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("-rwsrwsrwt ") && ran.stdout.ends_with(" odd\n"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_an_end_is_taken_as_fast_as_it_is_read_and_can_be_stopped() {
    let host = Host::new();
    host.id();
    let many = encoded(&vec![listed(&[b'x'; 250]); 1_000]);
    let (url, taken) = liar(&host, vec![encoded(&[welcome(), listed(b"first")]), many], true);
    let mut command = host.qbulk();
    let mut child = command.args(["ls", "--json", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(told.next().unwrap().contains("first"));
    // Nobody reads on: the server gets no further than windows and queues reach.
    let started = std::time::Instant::now();
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let now = taken.load(Relaxed);
        assert!(now < 64 << 20, "{now} bytes were taken and not read");
        if now == before && now > 0 {
            break;
        }
        assert!(started.elapsed() < PATIENCE);
        before = now;
    }
    let resident = resident_bytes(&child);
    assert!(resident < 128 << 20, "{resident}");
    assert!(told.by_ref().take(50_000).all(|line| line.contains("\"entry\"")));
    eventually("it goes on", || taken.load(Relaxed) > before);
    kill_process(pid(&child), Signal::INT).unwrap();
    assert!(told.count() > 0, "what was printed by then");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
