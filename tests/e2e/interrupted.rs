//! Either end stopped under way.

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Signal, kill_process};

use crate::common::{Host, Serve, eventually, finish, hash, names, pid, random, unfinished};
use crate::relay::{Path, Relay};

/// A transfer that would take a minute, some seconds under way, over an older version of the file.
struct Underway {
    host: Host,
    serve: Serve,
    push: Child,
    _relay: Relay,
}

impl Underway {
    fn start() -> Self {
        Self::with(&[], 2e5, 64 << 20)
    }

    fn with(args: &[&str], bytes_per_s: f64, bytes: usize) -> Self {
        let host = Host::new();
        let serve = Serve::with(&host, args);
        let relay = Relay::start(serve.address, Path { bytes_per_s, ..Path::default() });
        fs::write(host.src("file"), random(1, bytes)).unwrap();
        fs::write(host.root("file"), b"old").unwrap();
        let mut push = host.pushing(&[host.src("file").as_ref()], &relay.url(""));
        let mut push = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("a file is under way", || {
            assert_eq!(push.try_wait().unwrap(), None, "the push has ended");
            !unfinished(&host.root("")).is_empty()
        });
        Self { host, serve, push, _relay: relay }
    }
}

#[test]
fn a_push_that_is_stopped_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let Underway { host, serve, push, _relay } = Underway::start();
        kill_process(pid(&push), signal).unwrap();
        finish(push).assert_failed(130, "interrupted");
        serve.event("aborted");
        eventually("it is removed", || unfinished(&host.root("")).is_empty());
        assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
    }
}

#[test]
fn a_server_that_is_stopped_leaves_nothing_behind_and_tells_the_client() {
    let at_once = ["--drain-time", "0s"];
    for (signals, args) in [
        (&[Signal::TERM][..], &at_once[..]),
        (&[Signal::INT], &["--drain-time", "200ms"]),
        (&[Signal::TERM, Signal::TERM], &["--drain-time", "1h"]),
        (&[Signal::TERM, Signal::INT], &[]),
    ] {
        let Underway { host, mut serve, push, _relay } = Underway::with(args, 2e5, 64 << 20);
        kill_process(pid(&serve.child), signals[0]).unwrap();
        assert_eq!(serve.event("draining")["transfers"], 1);
        for signal in &signals[1..] {
            kill_process(pid(&serve.child), *signal).unwrap();
        }
        assert_eq!(serve.child.wait().unwrap().code(), Some(0));
        assert_eq!(names(&host.root("")), ["file"]);
        assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
        finish(push).assert_failed(5, "being stopped");
    }
}

#[test]
fn a_server_that_is_stopped_lets_a_transfer_end_and_takes_no_other() {
    let Underway { host, mut serve, push, _relay } =
        Underway::with(&["--drain-time", "10m"], 2e6, 6 << 20);
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    assert_eq!(serve.event("draining")["transfers"], 1);
    let ran = host.push(host.src("file"), &serve.url("other"));
    ran.assert_failed(5, "is being stopped, and takes no new transfers");
    let ran = finish(push);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    serve.event("finished");
    assert_eq!(serve.child.wait().unwrap().code(), Some(0));
    assert_eq!(names(&host.root("")), ["file"]);
}

#[test]
fn a_push_that_is_killed_changes_nothing_and_the_server_goes_on() {
    let Underway { host, serve, mut push, _relay } = Underway::start();
    push.kill().unwrap();
    push.wait().unwrap();
    assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
    fs::write(host.src("small"), b"new").unwrap();
    assert_eq!(host.push(host.src("small"), &serve.url("")).code, 0);
    serve.event("finished");
    // The server waits a while for the client to come back.
    serve.event("aborted");
    eventually("it is removed", || unfinished(&host.root("")).is_empty());
    assert_eq!(names(&host.root("")), ["file", "small"]);
    assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn a_server_that_is_killed_leaves_no_part_under_a_final_name() {
    let Underway { host, mut serve, mut push, _relay } = Underway::start();
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
    push.kill().unwrap();
    push.wait().unwrap();
    assert_eq!(fs::read(host.root("file")).unwrap(), b"old");
}
