//! Many clients, and what a server grants to each.

use std::fs;

use qbulk::wire::CLOSE_ABORTED;

use crate::common::{Host, Ran, Serve, hash, random, run};
use crate::hostile::Attacker;

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
