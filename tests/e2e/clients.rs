//! Many clients, and what a server grants to each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

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
async fn a_client_over_a_limit_is_told_which_and_waits_for_its_turn() {
    let (host, other, third) = (Host::new(), Host::new(), Host::new());
    let limits = ["--max-transfers", "2", "--max-transfers-per-client", "1"];
    let keys = format!("{},{}", other.id(), third.id());
    let serve = Serve::with(&host, &[&limits[..], &["--authorize", &keys]].concat());
    for client in [&host, &third] {
        fs::write(client.src("file"), random(1, 100_000)).unwrap();
    }
    let one = holding(&host, &host, &serve).await;
    let two = holding(&other, &host, &serve).await;
    let mut waiting = [(&third, one), (&host, two)].map(|(client, holder)| {
        let mut command = client.qbulk();
        command.args(["push", "--json", "--connect-timeout", "1s", "--fingerprint", &host.id()]);
        command.arg(client.src("file")).arg(serve.url(""));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_waiting = |line: &String| line.contains(r#""event":"waiting""#);
        let line = told.by_ref().map_while(Result::ok).find(is_waiting).unwrap();
        assert!(line.contains("the server has as many transfers as it allows (2)"), "{line}");
        (child, told, holder)
    });
    // Longer than the server may take to answer.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for (child, told, holder) in &mut waiting {
        assert_eq!(child.try_wait().unwrap(), None);
        holder.connection.close(CLOSE_ABORTED.into(), b"");
        assert!(told.map_while(Result::ok).any(|line| line.contains(r#""event":"summary""#)));
        assert_eq!(child.wait().unwrap().code(), Some(0));
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
    Header { stripe: 0, table_bytes, content_bytes, unpacked_bytes_max: 0, table_hash: [0; 32] }
        .encode(&mut header);
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
    (serve.open_files(), memory(serve, "VmRSS:"))
}

/// What the system says of a process's memory, in MiB.
fn memory(serve: &Serve, what: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", serve.child.id())).unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
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
        let slowly: &[&str] = if client < KILLED { &["--limit", "20kB"] } else { &[] };
        let args: Vec<_> = ["--connections", "3"].iter().chain(slowly).map(AsRef::as_ref).collect();
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

/// There is room for half of them at a time; the others wait for their turn, or come when it is theirs.
#[test]
fn a_server_with_little_memory_serves_one_after_the_other_and_gives_back_what_it_took() {
    const CLIENTS: u64 = 10;
    let host = Host::new();
    let serve = Serve::with(&host, &["--memory", "64MiB"]);
    for client in 0..CLIENTS {
        fs::write(host.src(client.to_string()), random(client, 8_000_000)).unwrap();
    }
    assert_eq!(host.push(host.src("0"), &serve.url("first")).code, 0);
    let start = |client: u64| {
        let source = host.src(client.to_string());
        let mut command = host.pushing(&[source.as_ref()], &serve.url(&format!("{client}/")));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for _ in 0..3 {
        let pushes: Vec<_> = (0..CLIENTS).map(start).collect();
        for (client, push) in pushes.into_iter().enumerate() {
            let ran = finish(push);
            assert_eq!(ran.code, 0, "{ran:?}");
            let there = host.root(format!("{client}/{client}"));
            assert_eq!(hash(&host.src(client.to_string())), hash(&there));
        }
        let peak = memory(&serve, "VmHWM:");
        assert!(peak < 96, "{peak} MiB");
        eventually("memory is given back", || holds(&serve).1 < 40);
    }
}
