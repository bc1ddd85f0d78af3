//! Many clients, and what a server grants to each.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use qbulk::wire::{CLOSE_ABORTED, CONTENT_BYTES_MAX, Header, TABLE_BYTES_MAX};
use quinn::SendStream;

use crate::common::{Host, Ran, Serve, eventually, finish, hash, random, run, unfinished};
use crate::hostile::{Attacker, file, stripe};

/// Pushes the file `name` of `client` to the server of `server`.
fn push(client: &Host, server: &Host, serve: &Serve, name: &str, args: &[&str]) -> Ran {
    let mut command = client.qbulk();
    command.args(["push", "--json", "--fingerprint", &server.id()]).args(args);
    run(command.arg(client.src(name)).arg(serve.url("")))
}

async fn holding(client: &Host, server: &Host, serve: &Serve) -> Attacker {
    let mut attacker = Attacker::with_key_of(client, server, serve).await;
    attacker.hello(b"").await;
    attacker.expect_welcome().await;
    attacker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_over_a_limit_is_told_which_and_served_later() {
    let (host, other, third) = (Host::new(), Host::new(), Host::new());
    let limits = ["--max-transfers", "2", "--max-transfers-per-client", "1"];
    let keys = format!("{},{}", other.id(), third.id());
    let serve = Serve::with(&host, &[&limits[..], &["--authorize", &keys]].concat());
    for client in [&host, &third] {
        fs::write(client.src("file"), random(1, 100_000)).unwrap();
    }
    let one = holding(&host, &host, &serve).await;
    let ran = push(&host, &host, &serve, "file", &[]);
    ran.assert_failed(5, "as many transfers of yours as it allows a client (1): try again later");
    let two = holding(&other, &host, &serve).await;
    let ran = push(&third, &host, &serve, "file", &[]);
    ran.assert_failed(5, "the server has as many transfers as it allows (2): try again later");
    for attacker in [one, two] {
        attacker.connection.close(CLOSE_ABORTED.into(), b"");
        serve.event("aborted");
    }
    // One after the other, without waiting: what is done does not count.
    for _ in 0..3 {
        for client in [&host, &third] {
            let ran = push(client, &host, &serve, "file", &[]);
            assert_eq!(ran.code, 0, "{ran:?}");
        }
    }
    assert_eq!(serve.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_push_does_with_the_connections_that_it_is_granted() {
    let host = Host::new();
    let serve = Serve::with(&host, &["--max-connections-per-client", "4"]);
    fs::write(host.src("file"), random(1, 20_000_000)).unwrap();
    let ran = push(&host, &host, &serve, "file", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));

    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(holding(&host, &host, &serve).await);
    }
    let ran = push(&host, &host, &serve, "file", &["--connect-timeout", "1s"]);
    ran.assert_failed(5, "as many connections of yours as it allows a client (4): try again later");
    drop(all);
}

/// Announces a stripe of 32 MiB, and sends none of it.
async fn announce(attacker: &Attacker) -> SendStream {
    let mut stream = attacker.connection.open_uni().await.unwrap();
    let (table_bytes, content_bytes) = (TABLE_BYTES_MAX, CONTENT_BYTES_MAX);
    let mut header = Vec::new();
    Header { stripe: 0, table_bytes, content_bytes, table_hash: [0; 32] }.encode(&mut header);
    stream.write_all(&header).await.unwrap();
    stream
}

/// Eight clients hold all the memory that the server has for stripes: it is theirs only until somebody
/// else needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_hold_room_and_do_not_use_it_lose_it() {
    let host = Host::new();
    let hogs: [Host; 8] = std::array::from_fn(|_| Host::new());
    let keys = hogs.each_ref().map(Host::id).join(",");
    let serve = Serve::with(&host, &["--authorize", &keys]);
    let mut held = Vec::new();
    for hog in &hogs {
        let attacker = holding(hog, &host, &serve).await;
        held.push((announce(&attacker).await, attacker));
    }
    fs::write(host.src("file"), random(1, 5_000_000)).unwrap();
    let ran = push(&host, &host, &serve, "file", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    let closed = held.iter().filter_map(|(_, attacker)| attacker.close_words());
    let closed: Vec<_> = closed.collect();
    assert!(closed.iter().any(|words| words.contains("others wait for the room")), "{closed:?}");
}

/// Whoever says nothing holds nothing for long, but a client with a slow source has all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silence_is_bounded_where_it_holds_something() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let mut slow = holding(&host, &host, &serve).await;
    let mute = Attacker::connect(&host, &serve).await;
    let headless = holding(&host, &host, &serve).await;
    let mut stream = headless.connection.open_uni().await.unwrap();
    stream.write_all(&[0; 10]).await.unwrap();
    let mut speechless = holding(&host, &host, &serve).await;
    speechless.control.finish().unwrap();
    let mut lingering = holding(&host, &host, &serve).await;
    assert_eq!(lingering.finish(0).await, (vec![], 0));
    tokio::join!(
        mute.expect_closed("no hello"),
        headless.expect_closed("a stripe's header did not come"),
        speechless.expect_closed("ended its control stream"),
        lingering.expect_closed("stayed when all was done"),
    );
    slow.send(&stripe(0, &[file(1, b"late", b"content")], b"content")).await;
    assert_eq!(slow.finish(1).await, (vec![], 1));
    assert_eq!(fs::read(host.root("late")).unwrap(), b"content");
}

/// What a process has open, and how much memory it has, in MiB.
fn holds(serve: &Serve) -> (usize, usize) {
    let proc = PathBuf::from(format!("/proc/{}", serve.child.id()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss: usize = rss.trim().trim_end_matches(" kB").parse().unwrap();
    (fs::read_dir(proc.join("fd")).unwrap().count(), rss >> 10)
}

#[test]
fn fifty_clients_at_once_are_served_though_some_are_killed() {
    const CLIENTS: usize = 50;
    const KILLED: usize = 6;
    let host = Host::new();
    let serve = Serve::start(&host);
    for client in 0..CLIENTS {
        fs::write(host.src(client.to_string()), random(client as u64, 2_000_000)).unwrap();
    }
    // The server is known before they all want to remember it.
    assert_eq!(host.push(host.src("0"), &serve.url("first")).code, 0);
    let before = holds(&serve);
    let start = |client: usize| {
        let source = host.src(client.to_string());
        let slowly: &[&str] = if client < KILLED { &["--limit", "100kB"] } else { &[] };
        let args: Vec<_> = ["-n", "3"].iter().chain(slowly).map(AsRef::as_ref).collect();
        let args = [&args[..], &[source.as_ref()]].concat();
        let mut command = host.pushing(&args, &serve.url(&format!("{client}/")));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut pushes: Vec<_> = (0..CLIENTS).map(start).collect();
    for (client, push) in pushes.iter_mut().enumerate().take(KILLED) {
        let under_way = || !unfinished(&host.root(client.to_string())).is_empty();
        eventually("it is under way", under_way);
        push.kill().unwrap();
    }
    for (client, push) in pushes.into_iter().enumerate() {
        let ran = finish(push);
        if client >= KILLED {
            assert_eq!(ran.code, 0, "{client}: {ran:?}");
            let name = client.to_string();
            assert_eq!(hash(&host.src(&name)), hash(&host.root(&name).join(&name)));
        }
    }
    assert_eq!(host.push(host.src("1"), &serve.url("last")).code, 0);
    eventually("what was opened is closed", || holds(&serve).0 <= before.0 + KILLED * 8);
    let after = holds(&serve);
    assert!(after.1 < before.1 + 200, "memory piles up: {before:?}, {after:?} MiB");
}
