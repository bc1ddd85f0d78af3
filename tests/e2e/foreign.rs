//! Names, and what the other side says, reach no terminal and no log as they are: they could steer it, or forge lines.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::Arc;

use qbulk::identity::Identity;
use qbulk::net::endpoint;
use qbulk::net::sockets::SystemSockets;
use qbulk::net::tls::{ServerTrust, server_config};
use qbulk::serve::own_names;
use qbulk::wire::{
    CLOSE_REFUSED, Compares, Extras, HostNumber, Keep, Packing, PushNumber, PushRequest, Request,
    TransferSecret,
};
use quinn::VarInt;
use rustix::process::{Signal, kill_process};

use crate::common::{Host, Serve, eventually, finish, free_address, pid, run};
use crate::hostile::Attacker;

/// The title of a terminal, a colour by a single character, a line of a log, and letters in reverse order.
const ODD: &str =
    "x\u{1b}]0;title\u{7}\u{9b}31m\n2026-01-01T00:00:00Z qbulk: forged\r\u{202e}gpj.exe";

/// That nothing of that is in it as it is.
#[track_caller]
fn assert_harmless(said: &str) {
    let bad = |char: &char| (char.is_control() && *char != '\n') || *char == '\u{202e}';
    let found: Vec<char> = said.chars().filter(bad).collect();
    assert!(found.is_empty(), "{found:?} in {said:?}");
    assert!(!said.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{said:?}");
}

#[test]
fn names_of_files_are_escaped_whatever_tells_of_them() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let odd = OsStr::from_bytes(ODD.as_bytes());
    fs::create_dir(host.src(odd)).unwrap();
    fs::write(host.src(odd).join("file"), b"content").unwrap();
    // What cannot be moved is named by both.
    let pipe = host.src(odd).join("pipe");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let url = serve.url("");
    for args in [
        &["push", "-vv"] as &[&str],
        &["push", "--json"],
        &["verify", "-vv"],
        &["verify", "--json"],
    ] {
        let ran = run(host.qbulk().args(args).arg(host.src("")).arg(&url));
        assert!(ran.code == 1 && format!("{ran:?}").contains("forged"), "{ran:?}");
        assert_harmless(&ran.stdout);
        assert_harmless(&ran.stderr);
    }
    for args in [&["ls", "-R"] as &[&str], &["ls", "-R", "--json"]] {
        let ran = run(host.qbulk().args(args).arg(&url));
        assert!(ran.code == 0 && ran.stdout.contains("forged"), "{ran:?}");
        assert_harmless(&ran.stdout);
    }
    // What a program reads is the name itself.
    let told = run(host.qbulk().args(["ls", "--json"]).arg(&url)).events();
    assert!(told.iter().any(|event| event["path"] == ODD), "{told:?}");
}

#[test]
fn what_is_cleaned_up_is_named_in_one_line() {
    let host = Host::new();
    host.id();
    let folder = host.root(OsStr::from_bytes(ODD.as_bytes()));
    fs::create_dir(&folder).unwrap();
    let names = own_names(&Identity::load_or_create(&host.config()).unwrap());
    fs::write(folder.join(names.part("a", 1)), b"data").unwrap();
    for option in ["--dry-run", "--older-than=0s"] {
        let ran = run(host.qbulk().args(["clean", option]).arg(host.root("")));
        assert!(ran.code == 0 && ran.stdout.contains("forged"), "{ran:?}");
        assert_harmless(&ran.stdout);
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        assert_harmless(&ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_holds_nothing_as_clients_say_it_and_no_secret_of_a_transfer() {
    let host = Host::new();
    host.id();
    let (log, address) = (host.outside("log"), free_address());
    let mut command = host.qbulk();
    command.env("RUST_LOG", "trace").args(["serve", "--listen", &address.to_string(), "--root"]);
    let log_file: Stdio = File::create(&log).unwrap().into();
    let mut child =
        command.arg(host.root("")).stdout(Stdio::null()).stderr(log_file).spawn().unwrap();
    let has = |words: &str| fs::read_to_string(&log).unwrap().contains(words);
    eventually("it listens", || has("listening on"));

    let hello = |secret: u8, destination: &str| {
        Request::Push(PushRequest {
            transfer: TransferSecret([secret; 16]),
            conn: 0,
            destination: destination.into(),
            push: PushNumber([0x11; 16]),
            host: HostNumber([0; 16]),
            keep: Keep::default(),
            extras: Extras::default(),
            is_stream: false,
            compares: Compares::default(),
            packing: Packing::None,
        })
    };
    let mut attacker = Attacker::to(&host, &host, address).await;
    attacker.say(&hello(0xab, ODD)).await;
    attacker.expect_welcome().await;
    attacker.connection.close(VarInt::from_u32(99), format!("{ODD} close").as_bytes());
    eventually("it is told of", || has("exe close"));
    let mut other = Attacker::to(&host, &host, address).await;
    other.say(&hello(0xac, &format!("../{ODD}"))).await;
    other.expect_closed("not allowed").await;
    eventually("it is told of, too", || has("turned away"));

    kill_process(pid(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    let log = fs::read_to_string(&log).unwrap();
    assert_harmless(&log);
    assert!(log.contains("exe close") && log.matches("forged").count() > 2);
    for secret in ["abababab", "ABABABAB", "171, 171, 171", "\\xab\\xab"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// A server that closes every connection that is let in, and gives as the reason what it likes.
fn rude(host: &Host) -> String {
    let own = Identity::load_or_create(&host.config()).unwrap();
    let trust = ServerTrust { allowed: [own.fingerprint()].into(), ..ServerTrust::default() };
    let tls = Arc::new(server_config(&own, trust).unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    let endpoint = endpoint::server(&SystemSockets, listen, tls, &[7; 32]).unwrap();
    let url = format!("qbulk://{}/", endpoint.local_addr().unwrap());
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            connection.close(VarInt::from_u32(CLOSE_REFUSED), ODD.as_bytes());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_what_a_server_says_in_one_line() {
    let host = Host::new();
    host.id();
    fs::write(host.src("file"), b"content").unwrap();
    let url = rude(&host);
    for args in [&["push"] as &[&str], &["push", "-vv"], &["push", "--json"], &["verify"]] {
        let mut command = host.qbulk();
        command.args(args).arg(host.src("file")).arg(&url);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ran = tokio::task::spawn_blocking(|| finish(child)).await.unwrap();
        ran.assert_failed(5, "forged");
        assert_harmless(&ran.stdout);
        assert_harmless(&ran.stderr);
    }
}
