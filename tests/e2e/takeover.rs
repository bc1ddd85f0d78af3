//! Runs of the same push: one after the other, at once, and at two servers of the same folder.

use std::fs;
use std::process::Stdio;

use qbulk::wire::{
    Compares, Extras, HostNumber, Keep, Packing, PushNumber, PushRequest, Request, TransferSecret,
};
use tokio::runtime::Runtime;

use crate::common::{Host, Serve, eventually, finish, hash, names, random, unfinished};
use crate::hostile::Attacker;
use crate::relay::{Path, Relay};
use crate::scene::MIB;

/// The same push of the same client, at one of its hosts.
async fn run_at(place: u8, host: &Host, serve: &Serve) -> Attacker {
    let mut run = Attacker::connect(host, serve).await;
    run.say(&Request::Push(PushRequest {
        transfer: TransferSecret(rand::random()),
        conn: 0,
        destination: vec![],
        push: PushNumber([1; 16]),
        host: HostNumber([place; 16]),
        keep: Keep::default(),
        extras: Extras::default(),
        is_stream: false,
        compares: Compares::default(),
        packing: Packing::None,
    }))
    .await;
    run.expect_welcome().await;
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_push_takes_over_from_its_own_host_and_leaves_others_alone() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let here = run_at(1, &host, &serve).await;
    let there = run_at(2, &host, &serve).await;
    assert!(here.close_words().is_none());
    let here_again = run_at(1, &host, &serve).await;
    here.expect_closed("taken over").await;
    assert!(there.close_words().is_none() && here_again.close_words().is_none());
}

#[test]
fn a_push_takes_over_from_another_host_that_is_dead() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let dying = Runtime::new().unwrap();
    std::mem::forget(dying.block_on(run_at(1, &host, &serve)));
    dying.shutdown_background();
    let living = Runtime::new().unwrap();
    let there = living.block_on(run_at(2, &host, &serve));
    assert_eq!(unfinished(&host.root("")).len(), 1, "it has its journal");
    assert_eq!(serve.event("aborted")["reason"], "its client was lost");
    assert!(there.close_words().is_none());
}

/// A client that was killed is not known to be dead by the server that it pushed to; another one of the
/// same folder goes on as soon as that lets go, however the source is spelt by then.
#[test]
fn a_push_goes_on_at_another_server_once_the_first_lets_go() {
    let host = Host::new();
    let first = Serve::with(&host, &["--drain-time", "0s"]);
    let second = Serve::start(&host);
    let relay = Relay::start(first.address, Path { bytes_per_s: 2e5, ..Path::default() });
    fs::create_dir(host.src("sub")).unwrap();
    fs::write(host.src("file"), random(1, 32 * MIB as usize)).unwrap();
    let mut push = relay.pushing(&host, &[host.src("file").as_ref()]);
    let mut push = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let journal = || unfinished(&host.root("")).into_iter().find(|path| path.ends_with("journal"));
    eventually("a good part is durable", || {
        journal().is_some_and(|path| fs::metadata(path).is_ok_and(|found| found.len() > 3_200))
    });
    push.kill().unwrap();
    push.wait().unwrap();

    let mut again = host.pushing(&[host.src("sub/../file").as_ref()], &second.url(""));
    let again = again.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let refused = second.event("refused");
    assert!(refused["reason"].as_str().unwrap().contains("has not ended yet"), "{refused}");
    assert_eq!(first.stop(), Some(0));
    let ran = finish(again);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.summary()["kept_bytes"].as_u64().unwrap() >= MIB, "{ran:?}");
    let count = |name: &str| ran.events().iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("waiting"), count("interrupted")), (1, 0), "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    assert_eq!(names(&host.root("")), ["file"]);
}
