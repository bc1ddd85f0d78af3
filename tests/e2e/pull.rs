//! Pulling, as users do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use rustix::process::{Signal, geteuid, kill_process};

use crate::common::{Host, Ran, Serve, finish, hash, names, pid, random, run, tree, unfinished};
use crate::scene::{Course, MIB, Push, Scene};

fn pull(host: &Host, urls: &[&str], to: &str) -> Ran {
    run(host.qbulk().args(["pull", "--json"]).args(urls).arg(host.src(to)))
}

/// A tree with all kinds of things in it, below the root.
fn plant(host: &Host) {
    let top = host.root("tree");
    for folder in ["empty", "a/b/c", "later"] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    for (number, bytes) in [0, 1, 65_536, 65_537, 3 << 20].into_iter().enumerate() {
        fs::write(top.join(format!("a/b/{number}")), random(number as u64, bytes)).unwrap();
    }
    for number in 0..300 {
        fs::write(top.join(format!("a/small{number}")), random(number, number as usize)).unwrap();
    }
    symlink("b/1", top.join("a/link")).unwrap();
    symlink("/etc/passwd", top.join("a/out")).unwrap();
    symlink("..", top.join("later/up")).unwrap();
    fs::set_permissions(top.join("a/b/1"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(top.join("later"), Permissions::from_mode(0o555)).unwrap();
}

#[test]
fn what_is_pulled_arrives_under_the_names_that_a_push_would_give_it() {
    let host = Host::new();
    plant(&host);
    fs::write(host.root("file"), random(1, 1_000_000)).unwrap();
    let serve = Serve::start(&host);
    let there = tree(&host.root("tree"));
    for (urls, to, arrived) in [
        (&["tree"][..], "into", "into/tree"),
        (&["tree/"], "as", "as"),
        (&["tree"], "new/deep", "new/deep/tree"),
    ] {
        if to == "into" {
            fs::create_dir(host.src(to)).unwrap();
        }
        let urls: Vec<_> = urls.iter().map(|path| serve.url(path)).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let ran = pull(&host, &urls, to);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(tree(&host.src(arrived)), there, "{to}");
        let summary = ran.summary();
        assert_eq!((summary["files"].as_u64(), summary["failed"].as_u64()), (Some(305), Some(0)));
    }
    for (urls, to, arrived) in [
        (&["file"][..], "name", "name"),
        (&["file"], "as/", "as/file"),
        (&["file"], "into", "into/file"),
    ] {
        let ran = pull(&host, &[&serve.url(urls[0])], to);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(hash(&host.src(arrived)), hash(&host.root("file")), "{to}");
    }
    let ran = pull(&host, &[&serve.url("file"), &serve.url("tree/a/b")], "both");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(tree(&host.src("both/b")), tree(&host.root("tree/a/b")));
    assert_eq!(hash(&host.src("both/file")), hash(&host.root("file")));
    let event = serve.event("sent");
    assert_eq!((event["files"].as_u64(), event["failed"].as_u64()), (Some(305), Some(0)));
}

#[test]
fn all_that_is_served_can_be_pulled_and_what_is_there_is_replaced_whole() {
    let host = Host::new();
    plant(&host);
    fs::create_dir_all(host.src("copy/tree/a/b")).unwrap();
    fs::write(host.src("copy/tree/a/b/4"), b"old").unwrap();
    fs::write(host.src("copy/own"), b"mine").unwrap();
    let serve = Serve::start(&host);
    let ran = pull(&host, &[&serve.url("")], "copy");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read(host.src("copy/own")).unwrap(), b"mine");
    assert_eq!(tree(&host.src("copy/tree")), tree(&host.root("tree")));
}

#[test]
fn what_cannot_be_had_is_told_and_nothing_is_made() {
    let host = Host::new();
    plant(&host);
    fs::write(host.outside("secret"), b"secret").unwrap();
    symlink(host.outside(""), host.root("way_out")).unwrap();
    let serve = Serve::start(&host);
    for (path, code, words) in [
        ("none", 5, "No such file"),
        ("way_out/secret", 5, "symbolic links"),
        ("way_out/", 5, "symbolic links"),
        ("tree/a/b/1/", 5, "Not a directory"),
        ("tree/../../outside/secret", 2, ". or .."),
    ] {
        pull(&host, &[&serve.url(path)], "made").assert_failed(code, words);
        assert!(!host.src("made").exists(), "{path}");
    }
    // A link is what was asked for.
    let ran = pull(&host, &[&serve.url("way_out")], "made");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read_link(host.src("made")).unwrap(), host.outside(""));
    let stranger = Host::new();
    let url = serve.url("tree");
    let mut command = stranger.qbulk();
    command.args(["pull", "--json", "--accept-new", &url]).arg(stranger.src("made"));
    run(&mut command).assert_failed(4, "");
    let ran = run(host.qbulk().args(["pull", &url, "qbulk://127.0.0.1:1/x"]).arg(host.src("made")));
    assert_eq!(ran.code, 2, "{ran:?}");
    let ran = run(host.qbulk().args(["pull", &url]));
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_arrive() {
    let host = Host::unprivileged();
    fs::create_dir(host.root("tree")).unwrap();
    for name in ["good", "locked"] {
        fs::write(host.root("tree").join(name), name).unwrap();
    }
    fs::set_permissions(host.root("tree/locked"), Permissions::from_mode(0o000)).unwrap();
    let serve = Serve::start(&host);
    let mut command = host.qbulk();
    command.args(["pull", "--json", &serve.url("tree/")]).arg(host.src("copy"));
    let ran = run(&mut command);
    assert_eq!(ran.code, 1, "{ran:?}");
    let failed: Vec<_> =
        ran.events().into_iter().filter(|event| event["event"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["path"].as_str().unwrap().ends_with("tree/locked"), "{failed:?}");
    assert_eq!(failed[0]["kind"], "source");
    assert_eq!(ran.summary()["failed"], 1);
    assert_eq!(names(&host.src("copy")), ["good"]);
}

#[test]
fn where_nothing_can_be_written_that_is_told() {
    if !geteuid().is_root() {
        let host = Host::new();
        fs::write(host.root("file"), b"x").unwrap();
        fs::create_dir(host.src("locked")).unwrap();
        fs::set_permissions(host.src("locked"), Permissions::from_mode(0o555)).unwrap();
        let serve = Serve::start(&host);
        pull(&host, &[&serve.url("file")], "locked").assert_failed(6, "cannot write to");
    }
    let host = Host::new();
    fs::write(host.root("file"), b"x").unwrap();
    fs::write(host.src("plain"), b"x").unwrap();
    let serve = Serve::start(&host);
    pull(&host, &[&serve.url("file")], "plain/below").assert_failed(6, "cannot write to");
}

#[test]
fn a_pull_that_is_stopped_changes_nothing_and_goes_on_when_it_is_run_again() {
    for signal in [Signal::INT, Signal::KILL] {
        let scene = Scene::slowly(Course::Pull, 16, 4e5);
        fs::write(scene.arrived("file"), b"old").unwrap();
        let mut under_way = scene.push(&[]);
        under_way.wait_for(6 * MIB);
        kill_process(pid(&under_way.child), signal).unwrap();
        let code = under_way.child.wait().unwrap().code();
        assert_eq!(code, (signal == Signal::INT).then_some(130));
        assert_eq!(fs::read(scene.arrived("file")).unwrap(), b"old");
        scene.hurry();
        let ran = scene.push(&[]).finish();
        scene.assert_arrived(&ran);
        let summary = ran.summary();
        let number = |name: &str| summary[name].as_u64().unwrap();
        assert!(number("kept_bytes") >= 2 * MIB, "{summary}");
        assert_eq!(number("kept_bytes") + number("sent_bytes"), 16 * MIB, "{summary}");
    }
}

#[test]
fn a_pull_that_has_made_its_folder_goes_on_in_it() {
    let host = Host::new();
    fs::create_dir_all(host.root("tree/in")).unwrap();
    fs::write(host.root("tree/in/file"), random(1, 8 << 20)).unwrap();
    let serve = Serve::start(&host);
    for (number, to) in ["new", "new/deep/er/", "../src/other"].into_iter().enumerate() {
        let mut command = host.qbulk();
        command.current_dir(host.src("")).args(["pull", "--json", "--limit", "2MB"]);
        let mut under_way = Push::start(command.arg(serve.url("tree/")).arg(to));
        under_way.wait_for(3 * MIB);
        kill_process(pid(&under_way.child), Signal::KILL).unwrap();
        under_way.child.wait().unwrap();
        assert!(host.src(to).is_dir());
        // It is the same place, however it is written.
        let to = if number == 1 { host.src("new/deep/er") } else { to.into() };
        let mut command = host.qbulk();
        command.current_dir(host.src("")).args(["pull", "--json"]).arg(serve.url("tree/"));
        let ran = run(command.arg(&to));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.summary()["kept_bytes"].as_u64() >= Some(MIB), "{to:?}: {ran:?}");
        assert_eq!(hash(&host.src(&to).join("in/file")), hash(&host.root("tree/in/file")));
        assert!(unfinished(&host.src("")).is_empty());
        fs::remove_dir_all(host.src(&to)).unwrap();
    }
}

#[test]
fn a_server_that_is_stopped_tells_of_a_pull_and_one_that_is_back_goes_on_with_it() {
    let mut scene = Scene::slowly(Course::Pull, 16, 4e5);
    let mut under_way = scene.push(&[]);
    under_way.wait_for(4 * MIB);
    kill_process(pid(&scene.serve.child), Signal::TERM).unwrap();
    assert_eq!(scene.serve.event("draining")["transfers"], 1);
    kill_process(pid(&scene.serve.child), Signal::TERM).unwrap();
    assert!(scene.serve.event("aborted")["reason"].as_str().unwrap().contains("being stopped"));
    assert_eq!(scene.serve.child.wait().unwrap().code(), Some(0));
    scene.serve = Serve::at(&scene.host, scene.serve.address);
    scene.hurry();
    let ran = under_way.finish();
    scene.assert_arrived(&ran);
    assert_eq!(ran.summary()["interruptions"], 1, "{ran:?}");
    assert!(ran.summary()["kept_bytes"].as_u64() >= Some(MIB), "{ran:?}");
}

#[test]
fn a_pull_is_told_of_connections_as_a_push_is_and_its_options_reach_the_server() {
    let host = Host::new();
    fs::write(host.root("file"), random(1, 8 << 20)).unwrap();
    let serve = Serve::start(&host);
    let mut command = host.qbulk();
    command.args(["pull", "--json", "--limit", "3MB", "--connections", "5", "-m", "3"]);
    command.args(["--stripe-max", "64KiB", "--threshold", "0.3", "--no-memory"]);
    let ran = run(command.arg(serve.url("file")).arg(host.src("file")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.summary()["stripes"].as_u64() >= Some(128), "{ran:?}");
    let events = |name: &str| {
        let events = ran.events().into_iter().filter(|event| event["event"] == name);
        events.collect::<Vec<_>>()
    };
    let primed = events("primed");
    assert!(!primed.is_empty() && primed.len() <= 10, "{primed:?}");
    let does = events("connection");
    let conns: std::collections::BTreeSet<_> =
        does.iter().map(|event| event["conn"].as_u64().unwrap()).collect();
    assert_eq!(conns.len(), 5, "{does:?}");
    assert!(does.iter().any(|event| event["role"] == "active"));
    let stripes: u64 = does.iter().map(|event| event["stripes"].as_u64().unwrap()).sum();
    assert!(stripes > 0, "{does:?}");
}

#[test]
fn a_pull_whose_client_is_gone_lets_go_of_its_place() {
    let host = Host::new();
    fs::write(host.root("file"), random(1, 8 << 20)).unwrap();
    let serve = Serve::with(&host, &["--max-transfers", "1"]);
    let url = serve.url("file");
    let mut first = host.qbulk();
    first.args(["pull", "--json", "--limit", "100kB", &url]).arg(host.src("one"));
    let first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    serve.event("sending");
    let mut second = host.qbulk();
    second.args(["pull", "--json", &url]).arg(host.src("two"));
    let second = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    kill_process(pid(&first), Signal::INT).unwrap();
    assert_eq!(finish(first).code, 130);
    assert!(serve.event("aborted")["reason"].as_str().unwrap().contains("given it up"));
    assert_eq!(finish(second).code, 0);
    assert_eq!(hash(&host.src("two")), hash(&host.root("file")));
}
