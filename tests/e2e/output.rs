//! Who reads what is said may have gone, have no room, or not read: no transfer minds.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::common::{Host, Serve, eventually, finish, free_address, names, pid, random, run};

/// More of what cannot be sent than there is room for in a pipe.
const PIPES: usize = 2_000;

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that has gone at its other end.
fn gone() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    OwnedFd::from(writer).into()
}

/// What fails by name, each with a line.
fn pipes(host: &Host, count: usize) {
    for index in 0..count {
        let path = host.src(format!("pipe{index}"));
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    }
}

#[test]
fn nothing_that_is_said_ends_a_command_that_has_something_to_do() {
    let host = Host::new();
    host.id();
    let server = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    let (url, src, root) = (server.url(""), host.src("file"), host.root(""));
    let (src, root) = (src.to_str().unwrap(), root.to_str().unwrap());
    let elsewhere = format!("{url}elsewhere/");
    for broken in [full as fn() -> Stdio, gone] {
        for (args, code) in [
            (&["push", "-vv", src, &url] as &[&str], 0),
            (&["push", "--json", src, &url], 0),
            (&["push", "/nowhere", &url], 6),
            (&["push", "--json", "/nowhere", &url], 6),
            (&["verify", "-v", src, &url], 0),
            (&["verify", "--json", src, &url], 0),
            (&["verify", src, &elsewhere], 1),
            (&["clean", root, "--older-than", "1h"], 0),
            (&["demo", "--size", "1MB"], 0),
            (&["push"], 2),
            (&["serve", "--listen", "192.0.2.1:1"], 3),
        ] {
            let mut command = host.qbulk();
            command.args(args).stdout(broken()).stderr(broken());
            let status = command.status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}");
        }
    }
    assert_eq!(fs::read(host.root("file")).unwrap(), b"content");
}

#[test]
fn what_is_run_for_its_output_alone_says_by_its_exit_code_that_it_could_not_be_written() {
    let host = Host::new();
    let dir = host.outside("certs");
    let ca = ["cert", "ca", "--dir", dir.to_str().unwrap()];
    for args in [&["id"] as &[&str], &ca] {
        let child = host.qbulk().args(args).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        finish(child).assert_failed(6, "cannot write to standard output");
    }
    for args in [&["--help"] as &[&str], &["push", "--help"], &["--version"]] {
        let status = host.qbulk().args(args).stdout(full()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(6), "{args:?}");
    }
    assert!(dir.join("ca.key").exists());
}

#[test]
fn files_that_fail_are_named_or_not_and_the_others_arrive() {
    let host = Host::new();
    pipes(&host, 50);
    for index in 0..50 {
        fs::write(host.src(format!("file{index}")), b"content").unwrap();
    }
    let server = Serve::start(&host);
    for broken in [full as fn() -> Stdio, gone] {
        let to = format!("{:?}", broken as *const ());
        let mut command = host.qbulk();
        command.args(["push".into(), host.src("")]).arg(server.url(&to)).stderr(broken());
        assert_eq!(command.status().unwrap().code(), Some(1));
        assert_eq!(names(&host.root(&to)).len(), 50);
    }
}

/// A server that writes its log to `stderr`.
fn serve_to(host: &Host, stderr: Stdio, args: &[&str]) -> (std::process::Child, String) {
    let address = free_address();
    let root = host.root("");
    let mut command: Command = host.qbulk();
    command.args(["serve", "--listen", &address.to_string(), "--root", root.to_str().unwrap()]);
    let child = command.args(args).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    (child, format!("qbulk://{address}/"))
}

#[test]
fn a_server_whose_log_nobody_reads_takes_transfers() {
    let host = Host::new();
    host.id();
    fs::write(host.src("file"), random(1, 3 << 20)).unwrap();
    let (unread, mut writer) = std::io::pipe().unwrap();
    // Nothing more goes in.
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'.'; 4_096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    for stderr in [gone(), full(), OwnedFd::from(writer).into()] {
        let (mut child, url) = serve_to(&host, stderr, &["-vv"]);
        let ran = host.push(host.src("file"), &url);
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::remove_file(host.root("file")).unwrap();
        kill_process(pid(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    drop(unread);
}

/// A server, and a source of many pipes, which fail, and one file, which does not.
fn many_failures() -> (Host, Serve) {
    let host = Host::new();
    pipes(&host, PIPES);
    fs::write(host.src("file"), b"content").unwrap();
    let server = Serve::start(&host);
    (host, server)
}

#[test]
fn a_push_ends_though_nobody_reads_what_it_says() {
    let (host, server) = many_failures();
    let mut command = host.qbulk();
    command.args(["push".into(), host.src("")]).arg(server.url("")).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let unread = child.stderr.take();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(names(&host.root("")), ["file"]);
    drop(unread);
}

#[test]
fn a_slow_reader_of_json_gets_every_line() {
    let (host, server) = many_failures();
    let mut command = host.pushing(&[host.src("").as_os_str()], &server.url(""));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It begins to read when all is over.
    server.event("finished");
    let ran = finish(child);
    assert_eq!(ran.code, 1);
    let failed = ran.events().iter().filter(|event| event["event"] == "failed").count();
    assert_eq!((failed as u64, &ran.summary()["failed"]), (PIPES as u64, &Value::from(PIPES)));
}

#[test]
fn a_reader_that_takes_one_line_has_that() {
    let host = Host::new();
    fs::write(host.src("file"), random(2, 1 << 20)).unwrap();
    let server = Serve::start(&host);
    let mut command = host.pushing(&[host.src("file").as_os_str()], &server.url(""));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("begun"), "{first}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(host.root("file").exists());
}

#[test]
fn a_server_outlives_its_terminal() {
    let host = Host::new();
    fs::write(host.src("file"), b"content").unwrap();
    let server = Serve::start(&host);
    kill_process(pid(&server.child), Signal::HUP).unwrap();
    assert_eq!(host.push(host.src("file"), &server.url("")).code, 0);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_push_is_interrupted_when_its_terminal_goes_unless_that_is_ignored() {
    let host = Host::new();
    fs::write(host.src("file"), random(3, 20 << 20)).unwrap();
    let server = Serve::start(&host);
    for (setup, code, limit) in [("true", 130, "1MB"), ("trap '' HUP", 0, "20MB")] {
        let mut command = host.qbulk_after(setup);
        command.args(["push", "--limit", limit]).arg(host.src("file")).arg(server.url(""));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        server.event("started");
        kill_process(pid(&child), Signal::HUP).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{setup}: {said}");
        assert_eq!(said.contains("interrupted"), code == 130, "{said}");
    }
}

#[test]
fn only_who_is_turned_away_is_told_of_as_such() {
    let (host, stranger) = (Host::new(), Host::new());
    host.id();
    let server = Serve::start(&host);
    for index in 0..5 {
        let file = host.src(format!("file{index}"));
        fs::write(&file, b"content").unwrap();
        assert_eq!(host.push(&file, &server.url("")).code, 0);
    }
    // Who looks at the key and goes is none of them.
    let file = host.src("file0");
    stranger.push(&file, &server.url("")).assert_failed(4, "not known");
    let to = server.url("");
    let ran = run(&mut stranger.pushing(&["--accept-new".as_ref(), file.as_os_str()], &to));
    assert_eq!(ran.code, 4, "{ran:?}");
    let refused = server.event("refused");
    let reason = refused["reason"].as_str().unwrap();
    assert_eq!(reason, format!("the key {} is not authorized", stranger.id()));
}

#[test]
fn a_path_that_no_server_takes_is_wrong_usage() {
    let host = Host::new();
    fs::write(host.src("file"), b"content").unwrap();
    let url = format!("qbulk://127.0.0.1:1/{}", "x".repeat(300));
    host.push(host.src("file"), &url).assert_failed(2, "300 bytes long; 255 are possible");
    let src = host.src("file");
    host.verify(&[src.as_os_str(), url.as_ref()]).assert_failed(2, "300 bytes long");
}

#[test]
fn what_a_verification_need_not_read_makes_it_no_faster() {
    let host = Host::new();
    // So large that nobody gets through it before the server has answered.
    let bytes = 1_u64 << 40;
    File::create(host.src("file")).unwrap().set_len(bytes).unwrap();
    let server = Serve::start(&host);
    let (src, url) = (host.src("file"), server.url("elsewhere/"));
    let ran = host.verify(&[src.as_os_str(), url.as_ref()]);
    let summary = ran.events().pop().unwrap();
    assert_eq!(summary["missing"], 1);
    let [speed, seconds] = ["bytes_per_s", "seconds"].map(|name| summary[name].as_f64().unwrap());
    assert!(speed * seconds < bytes as f64 / 2.0, "{summary}");
}

#[test]
fn what_has_failed_is_neither_counted_nor_called_verified_and_durable() {
    let host = Host::new();
    for name in ["small", "large"] {
        fs::create_dir_all(host.root(name).join("in the way")).unwrap();
    }
    fs::write(host.src("small"), b"content").unwrap();
    fs::write(host.src("large"), random(5, 3 << 20)).unwrap();
    let server = Serve::start(&host);
    let ran = host.push(host.src(""), &server.url(""));
    let summary = ran.summary();
    assert_eq!(
        (&summary["failed"], &summary["files"], &summary["bytes"]),
        (&2.into(), &0.into(), &0.into())
    );
    let finished = server.event("finished");
    assert_eq!((&finished["files"], &finished["bytes"]), (&0.into(), &0.into()));
    let ran = run(host.qbulk().arg("push").arg(host.src("")).arg(server.url("")));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.ends_with("nothing was delivered; 2 FAILED\n"), "{ran:?}");
    assert!(ran.stderr.contains("destination: small: "), "{ran:?}");
}

#[test]
fn a_log_holds_times_and_no_colours() {
    let host = Host::new();
    host.id();
    fs::write(host.src("file"), b"content").unwrap();
    let log = host.outside("log");
    let (mut child, url) = serve_to(&host, File::create(&log).unwrap().into(), &["-vv"]);
    assert_eq!(host.push(host.src("file"), &url).code, 0);
    eventually("the log", || fs::read_to_string(&log).unwrap().contains("done, 1 file"));
    kill_process(pid(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    let log = fs::read_to_string(&log).unwrap();
    assert!(!log.contains('\u{1b}'), "{log}");
    for line in log.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
    }
}
