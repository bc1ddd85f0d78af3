//! Either end stopped under way, and the push run again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, kill_process};

use crate::common::{
    Host, Ran, Serve, eventually, finish, hash, names, pid, random, run, unfinished,
};
use crate::relay::{Path, Relay};
use crate::scene::{MIB, beside_the_content};

const FILE_MIB: u64 = 32;
/// So much of a journal tells of at least 2 MiB: an entry takes less than 130 bytes, and no stripe is
/// smaller than 64 KiB.
const JOURNAL_BYTES: u64 = 4_200;
/// What is kept then, even if one stripe's entry is damaged.
const KEPT_BYTES_MIN: u64 = MIB;

/// A transfer that would take half a minute, of which a good part is durable, over an older version of
/// the file.
struct Underway {
    host: Host,
    serve: Serve,
    push: Child,
    relay: Relay,
}

impl Underway {
    fn start() -> Self {
        Self::with(&["--drain-time", "0s"], 2e5)
    }

    fn with(args: &[&str], bytes_per_s: f64) -> Self {
        let host = Host::new();
        let serve = Serve::with(&host, args);
        let relay = Relay::start(serve.address, Path { bytes_per_s, ..Path::default() });
        fs::write(host.src("file"), random(1, (FILE_MIB * MIB) as usize)).unwrap();
        fs::write(host.root("file"), b"old").unwrap();
        let mut push = relay.pushing(&host, &[host.src("file").as_ref()]);
        let mut push = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("a good part is durable", || {
            assert_eq!(push.try_wait().unwrap(), None, "the push has ended");
            journal_bytes(&host) > JOURNAL_BYTES
        });
        Self { host, serve, push, relay }
    }
}

fn journal_bytes(host: &Host) -> u64 {
    let journals = unfinished(&host.root("")).into_iter().filter(|path| path.ends_with(".journal"));
    journals.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
}

/// Pushes again, to the end: nothing but the file is left, and it is whole.
#[track_caller]
fn push_again(host: &Host, serve: &Serve) -> Ran {
    let ran = host.push(host.src("file"), &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    assert_eq!(names(&host.root("")), ["file"]);
    ran
}

/// That it went on where it was.
#[track_caller]
fn assert_resumed(ran: &Ran) {
    let summary = ran.summary();
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert!(number("kept_bytes") >= KEPT_BYTES_MIN, "{summary}");
    assert_eq!(number("kept_bytes") + number("sent_bytes"), FILE_MIB * MIB, "{summary}");
}

#[test]
fn a_push_that_is_stopped_changes_nothing_and_goes_on_when_it_is_run_again() {
    for signal in [Signal::INT, Signal::TERM] {
        let Underway { host, serve, push, relay: _relay } = Underway::start();
        kill_process(pid(&push), signal).unwrap();
        finish(push).assert_failed(130, "the same command goes on from what the server keeps");
        serve.event("aborted");
        assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
        assert_resumed(&push_again(&host, &serve));
        serve.event("finished");
    }
}

#[test]
fn a_server_that_is_stopped_tells_the_client() {
    for (signals, time) in [
        (&[Signal::INT][..], "200ms"),
        (&[Signal::TERM, Signal::TERM], "1h"),
        (&[Signal::TERM, Signal::INT], "1h"),
    ] {
        let Underway { host, mut serve, mut push, relay: _relay } =
            Underway::with(&["--drain-time", time], 2e5);
        kill_process(pid(&serve.child), signals[0]).unwrap();
        assert_eq!(serve.event("draining")["transfers"], 1);
        for signal in &signals[1..] {
            kill_process(pid(&serve.child), *signal).unwrap();
        }
        assert!(serve.event("aborted")["reason"].as_str().unwrap().contains("being stopped"));
        assert_eq!(serve.child.wait().unwrap().code(), Some(0));
        assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
        push.kill().unwrap();
        push.wait().unwrap();
    }
}

#[test]
fn a_server_that_is_stopped_lets_a_transfer_end_and_takes_no_other() {
    let Underway { host, mut serve, push, relay: _relay } =
        Underway::with(&["--drain-time", "10m"], 1e6);
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    assert_eq!(serve.event("draining")["transfers"], 1);
    let ran = host.push(host.src("file"), &serve.url("other"));
    ran.assert_failed(3, "is being stopped, and takes no new transfers");
    let ran = finish(push);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    serve.event("finished");
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
    assert_eq!(names(&host.root("")), ["file"]);
}

#[test]
fn a_push_that_is_killed_goes_on_at_once_when_it_is_run_again() {
    let Underway { host, serve, mut push, relay: _relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
    fs::write(host.src("small"), b"new").unwrap();
    assert_eq!(host.push(host.src("small"), &serve.url("sub/")).code, 0);
    fs::remove_dir_all(host.root("sub")).unwrap();
    // The server does not know yet that the first run is gone.
    assert_resumed(&push_again(&host, &serve));
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn a_server_that_is_stopped_or_killed_goes_on_with_the_same_push() {
    for signal in [Signal::TERM, Signal::KILL] {
        let Underway { host, mut serve, push, relay: _relay } = Underway::start();
        kill_process(pid(&serve.child), signal).unwrap();
        serve.child.wait().unwrap();
        assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
        // Run again at the same address, it is found by the push that waits for it.
        let again = Serve::at(&host, serve.address);
        let ran = finish(push);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
        assert_eq!(names(&host.root("")), ["file"]);
        assert!(ran.events().iter().any(|event| event["event"] == "interrupted"), "{ran:?}");
        let summary = ran.summary();
        assert_eq!(summary["interruptions"], 1, "{summary}");
        assert_all_is_told(&ran);
        assert!(summary["kept_bytes"].as_u64() >= Some(KEPT_BYTES_MIN), "{summary}");
        again.event("finished");
    }
}

/// What is told after an interruption carries the new transfer's number, and the summary counts both.
fn assert_all_is_told(ran: &Ran) {
    let (events, summary) = (ran.events(), ran.summary());
    let mut begun = String::new();
    let mut connected = 0;
    for event in &events {
        let transfer = event["transfer"].as_str().unwrap();
        if event["event"] == "begun" {
            begun = transfer.into();
        }
        assert_eq!(transfer, begun, "{event}");
        connected += u64::from(event["event"] == "connected");
    }
    assert_eq!(summary["transfer"], begun);
    assert!(summary["connections_opened"].as_u64() >= Some(connected), "{summary}");
    let connections = summary["connections"].as_array().unwrap();
    assert_eq!(connections.len() as u64, connected, "{summary}");
    assert!(connections.iter().any(|connection| connection["transfer"] != begun));
    let sum =
        |field: &str| connections.iter().map(|told| told[field].as_u64().unwrap()).sum::<u64>();
    assert!(summary["stripes"].as_u64() >= Some(sum("stripes")), "{summary}");
    assert_eq!(summary["padding_sent_bytes"], sum("padding_bytes"), "{summary}");
}

#[test]
fn both_ends_killed_and_run_again_go_on() {
    let Underway { host, mut serve, mut push, relay: _relay } = Underway::start();
    serve.child.kill().unwrap();
    push.kill().unwrap();
    serve.child.wait().unwrap();
    push.wait().unwrap();
    assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
    assert_resumed(&push_again(&host, &Serve::start(&host)));
}

#[test]
fn a_push_that_may_not_wait_ends_when_the_server_does() {
    let host = Host::new();
    let mut serve = Serve::with(&host, &["--drain-time", "0s"]);
    let relay = Relay::start(serve.address, Path { bytes_per_s: 2e5, ..Path::default() });
    fs::write(host.src("file"), random(1, (FILE_MIB * MIB) as usize)).unwrap();
    let mut push = relay.pushing(&host, &[host.src("file").as_ref()]);
    push.args(["--retry-for", "0s"]);
    let child = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some of it is durable", || journal_bytes(&host) > 0);
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
    finish(child).assert_failed(3, "being stopped");
}

#[test]
fn a_push_that_may_not_wait_ends_soon_when_its_server_was_killed() {
    let host = Host::new();
    let mut serve = Serve::start(&host);
    fs::write(host.src("file"), random(1, (FILE_MIB * MIB) as usize)).unwrap();
    let mut push = host.pushing(&[host.src("file").as_ref()], &serve.url("file"));
    push.args(["--retry-for", "0s", "--limit", "1MB"]);
    let child = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some of it is durable", || journal_bytes(&host) > 0);
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
    let since = Instant::now();
    finish(child).assert_failed(3, "nobody listens there");
    // Nothing but the silence of its connections would tell it after 15 seconds.
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
}

#[test]
fn a_source_that_was_changed_meanwhile_is_never_mixed_with_its_old_half() {
    let Underway { host, serve, mut push, relay: _relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    // The same size, and the time put back.
    let modified = fs::metadata(host.src("file")).unwrap().modified().unwrap();
    let file = File::options().write(true).open(host.src("file")).unwrap();
    file.write_all_at(&random(2, MIB as usize), 0).unwrap();
    file.set_modified(modified).unwrap();
    let summary = push_again(&host, &serve).summary();
    assert_eq!(summary["kept_bytes"], 0, "{summary}");
}

#[test]
fn a_source_whose_content_holds_goes_on_whatever_else_was_changed() {
    let deeds = beside_the_content();
    let Underway { host, serve, mut push, relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    for (index, (what, deed)) in deeds.into_iter().enumerate() {
        deed(&host.src("file"));
        if index + 1 == deeds.len() {
            assert_resumed(&push_again(&host, &serve));
            break;
        }
        // What is added now goes with what was checked.
        let before = journal_bytes(&host);
        let mut push = relay.pushing(&host, &[host.src("file").as_ref()]);
        let mut push = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("more of it is durable", || {
            assert_eq!(push.try_wait().unwrap(), None, "the push has ended after {what}");
            journal_bytes(&host) > before
        });
        push.kill().unwrap();
        push.wait().unwrap();
    }
}

#[test]
fn files_that_are_there_and_whose_content_holds_are_not_sent_again() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let relay = Relay::start(serve.address, Path { bytes_per_s: 2e5, ..Path::default() });
    fs::create_dir(host.src("tree")).unwrap();
    let small = |number: u64| host.src(format!("tree/{number}"));
    for number in 0..20 {
        fs::write(small(number), random(number, 20_000)).unwrap();
    }
    fs::write(host.src("large"), random(99, 16 << 20)).unwrap();
    let sources = [host.src("tree"), host.src("large")];
    let args: Vec<_> = sources.iter().map(|path| path.as_os_str()).collect();
    let mut push = relay.pushing(&host, &args);
    let mut push = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the small ones are there", || {
        (0..20).all(|number| host.root(format!("tree/{number}")).exists())
    });
    push.kill().unwrap();
    push.wait().unwrap();
    // Of one only the permissions change, of another the content, and its time is put back.
    fs::set_permissions(small(3), fs::Permissions::from_mode(0o640)).unwrap();
    let modified = fs::metadata(small(7)).unwrap().modified().unwrap();
    fs::write(small(7), random(777, 20_000)).unwrap();
    File::options().write(true).open(small(7)).unwrap().set_modified(modified).unwrap();
    let ran = run(&mut host.pushing(&args, &serve.url("")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.summary()["kept_files"], 19, "{ran:?}");
    for number in 0..20 {
        let there = host.root(format!("tree/{number}"));
        assert_eq!(hash(&small(number)), hash(&there), "{number}");
    }
    assert_eq!(hash(&host.src("large")), hash(&host.root("large")));
}

#[test]
fn a_journal_that_is_cut_or_damaged_costs_what_it_told_of_and_no_more() {
    for damage in ["cut", "flip", "empty", "gone"] {
        let Underway { host, mut serve, mut push, relay: _relay } = Underway::start();
        for child in [&mut push, &mut serve.child] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let journal = unfinished(&host.root("")).into_iter().find(|path| path.ends_with("journal"));
        let journal = journal.expect("there is one");
        let mut bytes = fs::read(&journal).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            "cut" => bytes.truncate(bytes.len() - 30),
            "flip" => bytes[middle] ^= 0x40,
            _ => bytes.clear(),
        }
        fs::write(&journal, bytes).unwrap();
        if damage == "gone" {
            fs::remove_file(&journal).unwrap();
        }
        let serve = Serve::start(&host);
        let ran = push_again(&host, &serve);
        if matches!(damage, "cut" | "flip") {
            assert_resumed(&ran);
        }
    }
}

#[test]
fn a_tree_goes_on_after_the_files_that_are_there() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let relay = Relay::start(serve.address, Path { bytes_per_s: 2e5, ..Path::default() });
    fs::create_dir_all(host.src("tree/sub")).unwrap();
    for number in 0..400 {
        fs::write(host.src(format!("tree/sub/{number:03}")), random(number, 50_000)).unwrap();
    }
    let mut push = relay.pushing(&host, &[host.src("tree").as_ref()]);
    let mut child = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sub = host.root("tree/sub");
    eventually("half of the files are there", || {
        assert_eq!(child.try_wait().unwrap(), None, "the push has ended");
        fs::read_dir(&sub).is_ok_and(|entries| entries.count() > 200)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let there = |name: &std::path::Path| !name.to_string_lossy().contains(".qbulk-");
    let mut files: Vec<_> =
        fs::read_dir(&sub).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| there(path));
    files.sort();
    // One was removed meanwhile, one changed: both must come again.
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], b"changed").unwrap();
    let ran = host.push(host.src("tree"), &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    let summary = ran.summary();
    assert_eq!(summary["files"], 400, "{summary}");
    let kept = summary["kept_files"].as_u64().unwrap();
    // The server may have made more durable after that.
    assert!((150..=398).contains(&kept), "{kept} of {}", files.len());
    assert_eq!(crate::common::tree(&host.src("tree")), crate::common::tree(&host.root("tree")));
}

#[test]
fn what_nobody_goes_on_with_can_be_removed() {
    let Underway { host, serve, mut push, relay: _relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    let clean = || run(host.qbulk().arg("clean").arg(host.root("")));
    assert_eq!(clean().stdout, "", "a transfer is running, as far as the server knows");
    assert_eq!(serve.stop(), Some(0));
    let dry = run(host.qbulk().args(["clean", "--dry-run"]).arg(host.root("")));
    assert_eq!(dry.stdout.lines().count(), 2, "{dry:?}");
    let young = run(host.qbulk().args(["clean", "--older-than", "1h"]).arg(host.root("")));
    assert_eq!((young.code, young.stdout.as_str()), (0, ""));
    let other = run(host
        .qbulk()
        .arg("clean")
        .arg(host.root(""))
        .env("QBULK_CONFIG_DIR", host.dir.path().join("other")));
    assert!(
        other.code == 0 && other.stdout.is_empty() && other.stderr.contains("2 files with such")
    );

    // A server removes by itself what is too old, and nothing that it has not made.
    let old = SystemTime::now() - Duration::from_secs(100);
    let foreign = [host.root(".qbulk-0123456789abcdef-0.part"), host.root(".qbulk-x.journal")];
    for path in &foreign {
        File::create(path).unwrap();
    }
    for path in unfinished(&host.root("")) {
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let serve = Serve::with(&host, &["--keep-unfinished", "50s"]);
    eventually("it is removed", || unfinished(&host.root("")).len() == 2);
    assert_eq!(serve.stop(), Some(0));
    assert!(foreign.iter().all(|path| path.exists()));
    assert_eq!(clean().stdout, "");
}

#[test]
fn what_nobody_goes_on_with_can_be_removed_at_once() {
    let Underway { host, serve, mut push, relay: _relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    assert_eq!(serve.stop(), Some(0));
    let ran = run(host.qbulk().arg("clean").arg(host.root("")));
    assert_eq!(ran.stdout.lines().count(), 2, "{ran:?}");
    assert_eq!(names(&host.root("")), ["file"]);
}
