//! From a pipe, and to one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::{Host, Ran, Serve, eventually, finish, names, random, run, unfinished};

/// Has `data` piped into a push.
fn push(host: &Host, args: &[&str], url: &str, data: Vec<u8>) -> Ran {
    let mut command = host.qbulk();
    command.args(["push", "--json"]).args(args).args(["-", url]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // Whoever refuses it does not read it.
    let writing = thread::spawn(move || drop(pipe.write_all(&data)));
    let ran = finish(child);
    writing.join().unwrap();
    ran
}

fn nothing_is_left(host: &Host) {
    eventually("nothing unfinished is left", || unfinished(&host.root("")).is_empty());
}

#[test]
fn what_comes_from_a_pipe_arrives_however_much_it_is() {
    const MIB: usize = 1 << 20;
    let host = Host::new();
    let serve = Serve::start(&host);
    for (number, bytes) in
        [0, 1, MIB - 1, MIB, MIB + 1, 8 * MIB, 20 * MIB + 77].into_iter().enumerate()
    {
        let data = random(number as u64, bytes);
        let ran = push(&host, &[], &serve.url("folder/name"), data.clone());
        assert_eq!(ran.code, 0, "{bytes}: {ran:?}");
        let summary = ran.summary();
        assert_eq!(
            (summary["files"].as_u64(), summary["bytes"].as_u64()),
            (Some(1), Some(bytes as u64))
        );
        assert!(fs::read(host.root("folder/name")).unwrap() == data, "{bytes}");
        assert_eq!(names(&host.root("")), ["folder", "folder/name"]);
    }
    // It has no name of its own, and nothing else comes with it.
    for (args, url, words) in [
        (&[][..], "folder", "no name"),
        (&[], "other/", "no name"),
        (&[], "", "no name"),
        (&["-n"], "x", "tried"),
        (&["--ignore-existing"], "x", "all is sent"),
        (&["/etc/passwd"], "x", "nothing else"),
    ] {
        push(&host, args, &serve.url(url), b"data".to_vec()).assert_failed(2, words);
    }
    assert_eq!(names(&host.root("")), ["folder", "folder/name"]);
    let mode = fs::metadata(host.root("folder/name")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7133, 0o0000, "{mode:o}: no more than a new file has");
}

#[test]
fn of_a_command_that_fails_nothing_is_there_and_what_was_there_stays() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let url = serve.url("dump");
    let push = |script: &str| {
        let mut command = host.qbulk();
        command.args(["push", "--json", &url, "--stdin-from-command", "sh", "-c", script]);
        run(&mut command)
    };
    for script in ["printf half; exit 7", "head -c 5000000 /dev/zero; kill -9 $$", "exit 1"] {
        push(script).assert_failed(6, "has failed");
        nothing_is_left(&host);
        assert!(names(&host.root("")).is_empty(), "{script}");
    }
    let ran = push("head -c 5000000 /dev/zero");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(fs::read(host.root("dump")).unwrap() == vec![0; 5_000_000]);
    push("head -c 9000000 /dev/urandom; false").assert_failed(6, "has failed");
    nothing_is_left(&host);
    assert!(fs::read(host.root("dump")).unwrap() == vec![0; 5_000_000]);
    let none = run(host.qbulk().args(["push", "--json", &url, "--stdin-from-command", "/none"]));
    none.assert_failed(6, "cannot run /none");
}

#[test]
fn a_push_from_a_pipe_that_is_killed_leaves_nothing() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let mut command = host.qbulk();
    command.args(["push", "--json", "-", &serve.url("dump")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&random(1, 9 << 20)).unwrap();
    eventually("something is written", || !unfinished(&host.root("")).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    serve.event("aborted");
    nothing_is_left(&host);
    assert!(names(&host.root("")).is_empty());
}

#[test]
fn what_is_pulled_to_a_pipe_comes_in_order_and_as_it_is() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let pull = |url: &str| {
        let out = host.dir.path().join("out");
        let mut command = host.qbulk();
        let piped = command.args(["pull", url, "-"]).stdout(File::create(&out).unwrap());
        let ended = piped.stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code(), fs::read(out).unwrap(), told)
    };
    for (number, bytes) in [0, 1, 70_000, 25_000_001].into_iter().enumerate() {
        let data = random(number as u64, bytes);
        fs::write(host.root("file"), &data).unwrap();
        let (code, out, told) = pull(&serve.url("file"));
        assert_eq!(code, Some(0), "{told}");
        assert!(out == data, "{bytes}");
    }
    // Holes come as what they read as.
    let sparse = File::create(host.root("sparse")).unwrap();
    sparse.set_len(6_000_000).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(host.root("sparse"))
        .unwrap()
        .write_all(b"end")
        .unwrap();
    let (code, out, told) = pull(&serve.url("sparse"));
    assert_eq!(code, Some(0), "{told}");
    assert!(out == fs::read(host.root("sparse")).unwrap());

    fs::create_dir(host.root("folder")).unwrap();
    std::os::unix::fs::symlink("file", host.root("link")).unwrap();
    for (path, code, words) in [
        ("folder", 6, "folder"),
        ("link", 6, "a link to"),
        ("none", 5, "none"),
        ("folder/", 2, "one file"),
    ] {
        let (found, out, told) = pull(&serve.url(path));
        assert!(found == Some(code) && out.is_empty(), "{path}: {found:?} {told}");
        assert!(told.contains(words), "{told}");
    }
    for option in ["--json", "-n", "-a"] {
        let url = serve.url("file");
        let ran = run(host.qbulk().args(["pull", option, &url, "-"]));
        assert_eq!(ran.code, 2, "{option}: {ran:?}");
    }
}

#[test]
fn who_stops_reading_ends_a_pull_to_a_pipe() {
    let host = Host::new();
    fs::write(host.root("file"), random(1, 30_000_000)).unwrap();
    let serve = Serve::start(&host);
    let mut command: Command = host.qbulk();
    command.args(["pull", &serve.url("file"), "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(6), "{ended:?}");
    assert!(String::from_utf8(ended.stderr).unwrap().contains("nobody takes"));
    assert_eq!(first[..], random(1, 30_000_000)[..10]);
}
