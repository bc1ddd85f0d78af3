//! Servers that a client pulls from, and that do not send what they were asked for.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use qbulk::wire::{
    CONTENT_BYTES_MAX, LineDoes, LineGivenUp, LinePrimed, Meta, Piece, Record, Sending, ToReceiver,
    ToSender, Unsendable,
};
use rustix::process::{Signal, kill_process};
use tokio::time::timeout;

use crate::common::{Host, Node, PATIENCE, Ran, finish, pid, tree};
use crate::greedy::countless_runs;
use crate::hostile::{file, piece, stripe};
use crate::hostile_server::{Victim, assert_well, client, peak, rogue};

const META: Meta = Meta { mode: 0o755, mtime_s: 981_173_106, mtime_ns: 0 };
/// What a client takes, whatever it is sent, in MiB.
const MEMORY_MIB: usize = 400;

impl Victim {
    /// Lets a pull go ahead, once its client has said what is there.
    async fn grant(&mut self) -> bool {
        // One that the client has no use for any more says nothing.
        matches!(self.messages.next().await, Ok(Some(ToSender::Welcome { .. })))
            && self.say([ToReceiver::Grant { instance: 1 }]).await
    }

    /// Sends a stripe. False if the client takes no more.
    async fn send(&self, bytes: &[u8]) -> bool {
        let Ok(mut stream) = self.connection.open_uni().await else { return false };
        // The client may have had enough before it has all.
        stream.write_all(bytes).await.ok();
        stream.finish().ok();
        stream.stopped().await.ok();
        self.connection.close_reason().is_none()
    }
}

/// A folder that is pulled into, and what is beside it.
struct Scene {
    host: Host,
    outside: Vec<(PathBuf, Node)>,
}

impl Scene {
    fn new() -> Self {
        let host = Host::new();
        host.id();
        fs::write(host.src("beside"), b"precious").unwrap();
        fs::write(host.outside("precious"), b"precious").unwrap();
        let outside = Self::beside(&host);
        Self { host, outside }
    }

    fn beside(host: &Host) -> Vec<(PathBuf, Node)> {
        tree(&host.src("")).into_iter().chain(tree(&host.outside(""))).collect()
    }

    fn pull(&self, address: SocketAddr, options: &[&str]) -> Child {
        let (url, into) = (format!("qbulk://{address}/all/"), self.host.root(""));
        let args = [&["pull", "--retry-for", "0s", &url, into.to_str().unwrap()], options].concat();
        client(&self.host, &args)
    }

    #[track_caller]
    fn assert_unharmed(&self) {
        assert_eq!(Self::beside(&self.host), self.outside);
    }
}

async fn ended(child: Child) -> Ran {
    tokio::task::spawn_blocking(|| finish(child)).await.unwrap()
}

fn link(item: u64, path: &[u8], target: &str) -> Record {
    Record::Symlink { item, path: path.into(), meta: META, target: target.into() }
}

/// Paths that lead out of the folder, by dots, from the root, or by the server's own names for what is unfinished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_leads_out_of_where_it_is_pulled_to_ends_the_pull() {
    for path in ["../src/beside", "/etc/motd", "a/../../src/beside", "..", "a//b", "a\0b"] {
        let scene = Scene::new();
        let address = rogue(&scene.host, move |_, mut victim| async move {
            if !victim.grant().await {
                return;
            }
            let records = [file(1, path.as_bytes(), b"evil"), link(2, path.as_bytes(), "x")];
            for (number, record) in records.into_iter().enumerate() {
                victim.send(&stripe(number as u64, &[record], b"evil")).await;
            }
            victim.connection.closed().await;
        });
        let ran = ended(scene.pull(address, &[])).await;
        ran.assert_failed(5, "broke the protocol");
        assert_eq!(fs::read_dir(scene.host.root("")).unwrap().count(), 0, "{path}");
        scene.assert_unharmed();
    }
}

/// What is sent through a link that was sent before is not written where that leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_pulled_leads_nothing_that_is_pulled_out() {
    let scene = Scene::new();
    let outside = scene.host.outside("").to_str().unwrap().to_owned();
    let address = rogue(&scene.host, move |_, mut victim| {
        let outside = outside.clone();
        async move {
            if !victim.grant().await {
                return;
            }
            let links = [link(1, b"out", &outside), link(2, b"up", "..")];
            assert!(victim.send(&stripe(0, &links, b"")).await);
            let through = [file(3, b"out/precious", b"evil"), file(4, b"up/src/beside", b"evil")];
            assert!(victim.send(&stripe(1, &through, b"evilevil")).await);
            let folders = [b"out".as_slice(), b"up"].map(|path| {
                let meta = Meta { mode: 0o777, ..META };
                Record::Folder { item: 5, path: path.into(), meta }
            });
            assert!(victim.send(&stripe(2, &folders[..1], b"")).await);
            victim.say([ToReceiver::Finish { stripes: 3 }]).await;
            while !matches!(
                victim.messages.next().await,
                Ok(Some(ToSender::Finished { .. }) | None) | Err(_)
            ) {}
            victim.connection.closed().await;
        }
    });
    let ran = ended(scene.pull(address, &["--connections", "1"])).await;
    assert!(ran.code != 0, "{ran:?}");
    assert!(ran.events().iter().any(|event| event["event"] == "failed"), "{ran:?}");
    scene.assert_unharmed();
}

/// What a server that sends can have its client do, again and again.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Holes of one file that do not touch.
    Gaps,
    /// Folders without an end, deep ones, and the same ones through links.
    Folders,
    DeepFolders,
    LinkedFolders,
    /// Runs of a byte.
    Runs,
    /// Files that are given up, of which nothing was there.
    Discards,
    /// Names of files of which nothing comes.
    Begun,
}

impl Load {
    fn stripe(self, number: u64) -> Vec<u8> {
        let folder = |item: u64, path: String| Record::Folder {
            item: 1_000 * number + item,
            path: path.into(),
            meta: META,
        };
        let mut content = Vec::new();
        let records: Vec<_> = match self {
            Self::Gaps => {
                let zeros = vec![0; 1_024];
                let gap = |at: u64| {
                    let offset = 2_048 * (1_000 * number + at);
                    let whole = piece(1, b"gaps", 1 << 40, offset, &zeros);
                    Record::Piece(Piece { sparse: true, runs: vec![], ..whole })
                };
                (0..1_000).map(gap).collect()
            }
            Self::Folders => (0..1_000).map(|at| folder(at, format!("{number}-{at}"))).collect(),
            Self::DeepFolders => {
                let deep = |at| folder(at, format!("{number}-{at}{}", "/d".repeat(200)));
                (0..24).map(deep).collect()
            }
            Self::LinkedFolders if number == 0 => vec![link(0, b"self", ".")],
            Self::LinkedFolders => {
                let linked = |at| folder(at, format!("{}{number}-{at}", "self/".repeat(20)));
                (0..1_000).map(linked).collect()
            }
            Self::Runs => {
                let (records, runs) = countless_runs(8 * number);
                content = runs;
                records
            }
            Self::Discards => {
                (0..1_000).map(|at| Record::Discard { item: 1_000 * number + at }).collect()
            }
            Self::Begun => {
                let begun = |at: u64| {
                    let path = format!("{number}-{at}");
                    let part = piece(1_000 * number + at, path.as_bytes(), 1 << 30, 0, &[1; 1_024]);
                    // Or else room is made for all of them, and the disk is full.
                    Record::Piece(Piece { sparse: true, ..part })
                };
                content = vec![1; 100 << 10];
                (0..100).map(begun).collect()
            }
        };
        stripe(number, &records, &content)
    }
}

/// However much of it comes: it is bounded, and the client can be stopped, or has had enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_sends_without_an_end_takes_no_memory_without_one() {
    /// So much of each is plenty, and it takes so long at most.
    const STRIPES: u64 = 1_500;
    const LOAD_TIME: Duration = Duration::from_secs(3);
    for load in [
        Load::Gaps,
        Load::Folders,
        Load::DeepFolders,
        Load::LinkedFolders,
        Load::Runs,
        Load::Discards,
        Load::Begun,
    ] {
        let scene = Scene::new();
        let (over, mut is_over) = tokio::sync::mpsc::channel(64);
        let address = rogue(&scene.host, move |conn, mut victim| {
            let over = over.clone();
            async move {
                if !victim.grant().await {
                    return;
                }
                if conn == 0 {
                    let sending = async {
                        let mut number = 0;
                        while number < STRIPES && victim.send(&load.stripe(number)).await {
                            number += 1;
                        }
                        number
                    };
                    let sent = timeout(LOAD_TIME, sending).await;
                    over.send(sent.unwrap_or(STRIPES)).await.ok();
                }
                victim.connection.closed().await;
            }
        });
        let child = scene.pull(address, &["--connections", "1"]);
        let sent = timeout(PATIENCE, is_over.recv()).await.expect("it ends").unwrap();
        let mib = peak(&child);
        eprintln!("{load:?}: {sent} stripes, {mib} MiB");
        assert!(mib < MEMORY_MIB, "{load:?}: {mib} MiB");
        if sent == STRIPES {
            assert_well(child, MEMORY_MIB).await;
        } else {
            let ran = ended(child).await;
            assert!(ran.code != 0 && ran.code != 101, "{ran:?}");
        }
        scene.assert_unharmed();
    }
}

/// Stripes that never come to their end, over all the connections that a client opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_sends_and_nobody_can_use_takes_little_memory() {
    /// Nothing more goes out when nothing did for so long.
    const STUCK: Duration = Duration::from_secs(3);
    let scene = Scene::new();
    let content = vec![1; CONTENT_BYTES_MAX as usize];
    let whole = Record::Piece(piece(1, b"file", content.len() as u64, 0, &content));
    let bytes = Arc::new(
        (0..64).map(|at| stripe(at, std::slice::from_ref(&whole), &content)).collect::<Vec<_>>(),
    );
    let (stuck, mut is_stuck) = tokio::sync::mpsc::channel(64);
    let address = rogue(&scene.host, move |conn, mut victim| {
        let (stuck, bytes) = (stuck.clone(), Arc::clone(&bytes));
        async move {
            if !victim.grant().await {
                return;
            }
            victim.connection.set_send_window(1 << 20);
            for _ in 0..2 {
                let Ok(mut stream) = victim.connection.open_uni().await else { break };
                let bytes = &bytes[conn as usize % 64];
                for part in bytes[..bytes.len() - 1].chunks(1 << 16) {
                    if timeout(STUCK, stream.write_all(part)).await.is_err() {
                        break;
                    }
                }
                // It would be over otherwise, and what came of it forgotten.
                std::mem::forget(stream);
            }
            stuck.send(()).await.ok();
            victim.connection.closed().await;
        }
    });
    let child = scene.pull(address, &["--connections", "48"]);
    for _ in 0..48 {
        timeout(PATIENCE, is_stuck.recv()).await.expect("it takes no more").unwrap();
    }
    eprintln!("{} MiB", peak(&child));
    assert_well(child, MEMORY_MIB).await;
    scene.assert_unharmed();
}

/// Whatever a server says beside what it sends, and as often as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_that_sends_says_without_an_end_takes_no_memory() {
    const TIMES: u64 = 300_000;
    let messages: [fn(u64) -> ToReceiver; 9] = [
        |at| ToReceiver::Unsent {
            number: at,
            why: Unsendable::Changed,
            path: at.to_string().into(),
            message: b"\x1b]0;evil\x07".to_vec(),
        },
        |at| ToReceiver::GivenUp(LineGivenUp { conn: at, ..LineGivenUp::default() }),
        |at| ToReceiver::Primed(LinePrimed { conn: at, ..LinePrimed::default() }),
        |at| ToReceiver::Does(LineDoes { conn: at, ..LineDoes::default() }),
        |_| ToReceiver::Sending(Sending::default()),
        |at| ToReceiver::Wanted { lines: at },
        |_| ToReceiver::Waiting { message: vec![b'x'; 2_000] },
        |at| ToReceiver::Drop(at as u32),
        ToReceiver::Heard,
    ];
    for (kind, message) in messages.into_iter().enumerate() {
        let scene = Scene::new();
        let (over, mut is_over) = tokio::sync::mpsc::channel(256);
        let address = rogue(&scene.host, move |conn, mut victim| {
            let over = over.clone();
            async move {
                if !victim.grant().await {
                    return;
                }
                if conn == 0 {
                    let took_all = victim.say((0..TIMES).map(message)).await;
                    over.send(took_all).await.ok();
                }
                victim.connection.closed().await;
            }
        });
        let child = scene.pull(address, &["--connections", "1"]);
        let took_all = timeout(PATIENCE, is_over.recv()).await.expect("it ends").unwrap();
        let mib = peak(&child);
        eprintln!("{kind}: {took_all}, {mib} MiB");
        assert!(mib < 128, "{kind}: {mib} MiB");
        // It may have had enough before it has all.
        kill_process(pid(&child), Signal::INT).ok();
        let ran = ended(child).await;
        match ran.code {
            130 => assert!(took_all, "{ran:?}"),
            _ => ran.assert_failed(5, "broke the protocol"),
        }
        scene.assert_unharmed();
    }
}

/// One that takes the connection and says nothing, and one that then sends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_given_up_and_one_that_sends_nothing_can_be_left() {
    let scene = Scene::new();
    let mute = rogue(&scene.host, |_, victim| async move {
        victim.connection.closed().await;
    });
    let ran = ended(scene.pull(mute, &["--connect-timeout", "2s"])).await;
    ran.assert_failed(3, "");
    let (granted, mut is_granted) = tokio::sync::mpsc::channel(64);
    let idle = rogue(&scene.host, move |_, mut victim| {
        let granted = granted.clone();
        async move {
            if !victim.grant().await {
                return;
            }
            granted.send(()).await.ok();
            victim.connection.closed().await;
        }
    });
    let child = scene.pull(idle, &[]);
    timeout(PATIENCE, is_granted.recv()).await.expect("it comes").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_well(child, 64).await;
    scene.assert_unharmed();
}
