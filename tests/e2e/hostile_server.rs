//! Servers that a client trusts, and that do not keep to the protocol.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use qbulk::identity::Identity;
use qbulk::net::control::ControlReader;
use qbulk::net::endpoint;
use qbulk::net::sockets::SystemSockets;
use qbulk::net::tls::{self, ServerTrust};
use qbulk::wire::{
    Answer, Content, Destination, FileKey, Message, Question, Request, SourceBasis, SourceState,
    ToReceiver, ToSender, Verdict,
};
use quinn::{Connection, SendStream};
use rustix::process::{Signal, kill_process};

use crate::common::{Host, PATIENCE, finish, pid, random};

/// A connection at such a server, whose client has said what it wants.
pub(crate) struct Victim {
    pub(crate) connection: Connection,
    control: SendStream,
    pub(crate) messages: ControlReader,
}

impl Victim {
    /// Says something as often as the client takes it; false once that is gone.
    pub(crate) async fn say<M: Message>(&mut self, messages: impl IntoIterator<Item = M>) -> bool {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(&mut bytes);
            if bytes.len() > 1 << 16 {
                if self.control.write_all(&bytes).await.is_err() {
                    return false;
                }
                bytes.clear();
            }
        }
        self.control.write_all(&bytes).await.is_ok()
    }

    /// Lets a push go ahead.
    async fn welcome(&mut self, kept: bool) {
        let destination = Destination::Folder;
        let welcome = ToSender::Welcome { destination, instance: 1, kept, looks: false };
        assert!(self.say([welcome]).await);
    }
}

/// A server with the key of `host` that does with its first, second... connection of a push, a pull or a verification
/// as `behave` says.
pub(crate) fn rogue<F, R>(host: &Host, behave: F) -> SocketAddr
where
    F: Fn(u32, Victim) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let identity = Identity::load_or_create(&host.config()).unwrap();
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let tls = Arc::new(tls::server_config(&identity, trust).unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    let endpoint = endpoint::server(&SystemSockets, listen, tls, &[0; 32]).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (behave, count) = (Arc::new(behave), Arc::new(AtomicU32::new(0)));
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (behave, count) = (Arc::clone(&behave), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let Ok((control, messages)) = connection.accept_bi().await else { return };
                let mut messages = ControlReader::new(messages);
                if let Ok(Some(Request::Push(_) | Request::Pull(_) | Request::Verify(_))) =
                    messages.next().await
                {
                    let victim = Victim { connection, control, messages };
                    behave(count.fetch_add(1, Relaxed), victim).await;
                }
            });
        }
    });
    address
}

/// A client of `host` that was started with `args`.
pub(crate) fn client(host: &Host, args: &[&str]) -> Child {
    let id = host.id();
    let mut command = host.qbulk();
    command.args(args).args(["--json", "--fingerprint", &id]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The most memory that a process has had so far, in MiB; nothing if it is over.
pub(crate) fn peak(child: &Child) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// It is still there, has not taken more than `mib`, and ends when it is told to.
pub(crate) async fn assert_well(child: Child, mib: usize) {
    let peak = peak(&child);
    assert!(peak < mib, "{peak} MiB");
    kill_process(pid(&child), Signal::INT).unwrap();
    let ran = tokio::task::spawn_blocking(|| finish(child)).await.unwrap();
    assert_eq!(ran.code, 130, "{ran:?}");
}

/// What a client is told it may take in as slowly as it can, and no faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_confirmations_takes_no_memory_at_the_client() {
    let host = Host::new();
    fs::write(host.src("file"), random(1, 1_000_000)).unwrap();
    let (done, mut is_done) = tokio::sync::mpsc::channel(64);
    let address = rogue(&host, move |_, mut victim| {
        let done = done.clone();
        async move {
            victim.welcome(false).await;
            victim.say((0..500_000).map(|stripe| ToSender::Confirm((1 << 40) + stripe))).await;
            done.send(()).await.ok();
            victim.connection.closed().await;
        }
    });
    let url = format!("qbulk://{address}/");
    let child = client(&host, &["push", host.src("file").to_str().unwrap(), &url]);
    for _ in 0..8 {
        tokio::time::timeout(PATIENCE, is_done.recv()).await.expect("it takes them all in");
    }
    assert_well(child, 96).await;
}

/// What a server says that it has of earlier runs, without an end and with nothing in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_told_of_nothing_without_an_end_can_be_stopped() {
    let host = Host::new();
    fs::write(host.src("file"), random(1, 1_000_000)).unwrap();
    let (begun, mut has_begun) = tokio::sync::mpsc::channel(64);
    let address = rogue(&host, move |_, mut victim| {
        let begun = begun.clone();
        async move {
            victim.welcome(true).await;
            while let Ok(Some(message)) = victim.messages.next::<ToReceiver>().await {
                if message != ToReceiver::Recall {
                    continue;
                }
                let of = |number: u128| ToSender::KeptPieces {
                    file: FileKey(number.to_be_bytes()),
                    basis: SourceBasis([1; 16]),
                    state: SourceState([1; 16]),
                    pieces: Vec::new(),
                };
                victim.say((0..2_500_000).map(of)).await;
                begun.send(()).await.ok();
                victim.say((2_500_000..).map(of)).await;
            }
        }
    });
    let url = format!("qbulk://{address}/");
    let child = client(&host, &["push", host.src("file").to_str().unwrap(), &url]);
    tokio::time::timeout(PATIENCE, has_begun.recv()).await.expect("it asks").unwrap();
    assert_well(child, 200).await;
}

/// A verdict on what was not asked for, or on a content of which the server was told nothing, and a turn that is waited
/// for twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_cannot_know_is_not_taken_for_a_verification() {
    let host = Host::new();
    // Nobody is done with hashing it.
    File::create(host.src("huge")).unwrap().set_len(1 << 42).unwrap();
    let same = |item| Answer::Compared { item, verdict: Verdict::of(Content::Same) };
    let different = Answer::Compared { item: 0, verdict: Verdict::of(Content::Different) };
    let waits = || Answer::Waiting { message: b"others".to_vec() };
    let missing = Answer::Compared { item: 0, verdict: Verdict::of(Content::Missing) };
    for (said, is_asked, code, words) in [
        (vec![waits(), waits()], false, 5, "broke the protocol"),
        (vec![waits(), Answer::ListEnd], false, 5, "broke the protocol"),
        (vec![same(77)], true, 5, "broke the protocol"),
        (vec![same(0)], true, 5, "broke the protocol"),
        (vec![different], true, 5, "broke the protocol"),
        (vec![missing], true, 1, "missing"),
    ] {
        let told = format!("{said:?}");
        let address = rogue(&host, move |_, mut victim| {
            let said = said.clone();
            async move {
                if is_asked {
                    victim.say([Answer::Welcome(Destination::Folder)]).await;
                    let asked = victim.messages.next().await;
                    assert!(matches!(asked, Ok(Some(Question::Compare { item: 0, .. }))));
                }
                victim.say(said).await;
                victim.connection.closed().await;
            }
        });
        let url = format!("qbulk://{address}/");
        let child = client(&host, &["verify", host.src("huge").to_str().unwrap(), &url]);
        let ran = tokio::task::spawn_blocking(|| finish(child)).await.unwrap();
        assert_eq!(ran.code, code, "{told}: {ran:?}");
        ran.assert_failed(code, words);
    }
}

/// It takes every question, and answers none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_of_a_verification_can_be_left() {
    let host = Host::new();
    fs::write(host.src("file"), "data").unwrap();
    let (begun, mut has_begun) = tokio::sync::mpsc::channel(64);
    let address = rogue(&host, move |_, mut victim| {
        let begun = begun.clone();
        async move {
            victim.say([Answer::Welcome(Destination::Folder)]).await;
            while let Ok(Some(_)) = victim.messages.next::<Question>().await {
                begun.send(()).await.ok();
            }
        }
    });
    let url = format!("qbulk://{address}/");
    let child = client(&host, &["verify", host.src("file").to_str().unwrap(), &url]);
    tokio::time::timeout(PATIENCE, has_begun.recv()).await.expect("it asks").unwrap();
    assert_well(child, 64).await;
}
