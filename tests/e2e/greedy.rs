//! Clients that are let in and want more than their share: nobody else is kept waiting for that.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use qbulk::congestion::cubic;
use qbulk::hashtree::hash_parts;
use qbulk::identity::Identity;
use qbulk::net::endpoint;
use qbulk::net::path::{self, DATAGRAM_BYTES_MAX, PathMtu};
use qbulk::net::sockets::SystemSockets;
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{ClientTrust, client_config};
use qbulk::wire::{
    Answer, Compares, Destination, Extras, HostNumber, Keep, ListRequest, Meta, Packing, Piece,
    PullRequest, PushNumber, PushRequest, Question, Record, Request, Run, Select, Skip, Subject,
    ToReceiver, ToSender, TransferSecret, VerifyRequest, Wish,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::common::{Host, PATIENCE, Ran, Serve, eventually, finish, hash, random};
use crate::hostile::{Attacker, file, piece, stripe};
use crate::hostile_server::{client, peak};
use crate::unread::stuck;

/// Nobody who is served beside others waits so long for a small thing.
const SOON: Duration = Duration::from_secs(8);

/// A server, a client of it with a key of its own, and who wants all.
pub(crate) struct Beside {
    pub(crate) host: Host,
    pub(crate) greedy: Host,
    pub(crate) serve: Serve,
}

impl Beside {
    pub(crate) fn new() -> Self {
        let (host, greedy) = (Host::new(), Host::new());
        let serve = Serve::with(&host, &["--authorize", &greedy.id()]);
        Self { host, greedy, serve }
    }

    pub(crate) async fn attacker(&self) -> Attacker {
        Attacker::with_key_of(&self.greedy, &self.host, &self.serve).await
    }

    /// What the honest client does with `args` is done soon.
    async fn assert_served(&self, args: &[&str]) -> Ran {
        let began = Instant::now();
        let child = client(&self.host, args);
        let ran = tokio::task::spawn_blocking(|| finish(child)).await.unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        ran
    }

    pub(crate) async fn assert_push_served(&self) {
        fs::write(self.host.src("honest"), random(9, 1_000_000)).unwrap();
        let source = self.host.src("honest");
        self.assert_served(&["push", source.to_str().unwrap(), &self.serve.url("honest")]).await;
        assert_eq!(hash(&source), hash(&self.host.root("honest")));
    }
}

pub(crate) fn hello(push: [u8; 16]) -> Request {
    Request::Push(PushRequest {
        transfer: TransferSecret(rand::random()),
        conn: 0,
        destination: vec![],
        push: PushNumber(push),
        host: HostNumber([0; 16]),
        keep: Keep::default(),
        extras: Extras::default(),
        is_stream: false,
        compares: Compares::default(),
        packing: Packing::None,
    })
}

/// Each takes over from the one before, and waits for its journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_pushes_wait_for_one_another_keeps_nobody_else_waiting() {
    let beside = Beside::new();
    let mut first = beside.attacker().await;
    first.say(&hello([1; 16])).await;
    first.expect_welcome().await;
    let mut waiting = Vec::new();
    for _ in 0..128 {
        waiting.push(beside.attacker().await);
    }
    // All of them at once: each ends the one that there is, and only one of them is the next.
    for attacker in &mut waiting {
        attacker.say(&hello([1; 16])).await;
    }
    beside.assert_push_served().await;
    drop(waiting);
    assert_eq!(beside.serve.stop(), Some(0));
}

/// What is searched and found waits for a client that takes none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_of_what_it_pulls_keeps_nobody_else_waiting() {
    let beside = Beside::new();
    for number in 0..8_000 {
        File::create(beside.host.root(format!("{number}"))).unwrap();
    }
    let mut pulling = Vec::new();
    for _ in 0..40 {
        let mut attacker = idle_pull(&beside).await;
        assert!(matches!(granted(&mut attacker).await, Some(ToReceiver::Grant { .. })));
        pulling.push(attacker);
    }
    beside.assert_push_served().await;
    drop(pulling);
    assert_eq!(beside.serve.stop(), Some(0));
}

/// A client that pulls and takes nothing.
async fn idle_pull(beside: &Beside) -> Attacker {
    let mut attacker = beside.attacker().await;
    let wish = Wish {
        connections: 1,
        active: 1,
        active_max: 1,
        rate_max: 0,
        pressure: 0,
        prime_bytes: 0,
        stripe_bytes: [1 << 16, 1 << 20],
        turn_stripes: 1,
        reprime_after_us: 1_000_000,
        prime_target_bytes: 0,
        prime_time_us: 0,
        threshold_ppm: 500_000,
        floor_bytes_per_s: 0,
        rtt_max_us: 0,
        no_memory: 0,
    };
    let request = PullRequest {
        select: Select::default(),
        transfer: TransferSecret(rand::random()),
        conn: 0,
        pull: PushNumber(rand::random()),
        host: HostNumber([0; 16]),
        destination: vec![],
        found: Destination::Folder,
        sources: vec![vec![]],
        wish,
        names_kept: false,
        skip: Skip::NOTHING,
        packing: Packing::None,
        extras: Extras::default(),
    };
    attacker.say(&Request::Pull(Box::new(request))).await;
    // It never says what is at its end: then nothing can be sent.
    attacker
}

/// What a server that sends says next.
async fn granted(attacker: &mut Attacker) -> Option<ToReceiver> {
    timeout(PATIENCE, attacker.messages.next()).await.expect("an answer").unwrap_or_default()
}

async fn verifying(beside: &Beside) -> Attacker {
    let mut attacker = beside.attacker().await;
    attacker.say(&Request::Verify(VerifyRequest { destination: vec![], writes: false })).await;
    assert!(matches!(attacker.answer().await, Some(Answer::Welcome(_))));
    attacker
}

fn compare(item: u64, path: &str, bytes: u64) -> Question {
    let meta = Meta { mode: 0o644, mtime_s: 0, mtime_ns: 0 };
    Question::Compare { item, path: path.into(), subject: Subject::File { bytes, meta } }
}

/// Holes cost nothing on the disk, and hashing them takes for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_large_files_hashed_keeps_nobody_else_waiting() {
    const BYTES: u64 = 1 << 42;
    let beside = Beside::new();
    File::create(beside.host.root("huge")).unwrap().set_len(BYTES).unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut attacker = verifying(&beside).await;
        for item in 0..16 {
            attacker.say(&compare(item, "huge", BYTES)).await;
        }
        held.push(attacker);
    }
    for root in [beside.host.src("honest"), beside.host.root("honest")] {
        fs::write(root, random(9, 1_000_000)).unwrap();
    }
    let source = beside.host.src("honest");
    let url = beside.serve.url("honest");
    let ran = beside.assert_served(&["verify", "--no-times", source.to_str().unwrap(), &url]).await;
    assert!(ran.stdout.contains(r#""files":1"#), "{ran:?}");
    beside.assert_push_served().await;
    drop(held);
    assert_eq!(beside.serve.stop(), Some(0));
}

/// A file is closed once it is hashed, however long its client waits to say what it expects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparisons_that_wait_for_their_client_have_no_files_open() {
    const FILES: u64 = 300;
    let beside = Beside::new();
    for number in 0..FILES {
        fs::write(beside.host.root(number.to_string()), b"content").unwrap();
    }
    let mut attacker = verifying(&beside).await;
    let before = beside.serve.open_files();
    for item in 0..FILES {
        attacker.say(&compare(item, &item.to_string(), 7)).await;
    }
    // Answered when all before it were looked at.
    attacker.say(&compare(FILES, "none", 7)).await;
    assert!(matches!(attacker.answer().await, Some(Answer::Compared { item: FILES, .. })));
    eventually("all are hashed", || beside.serve.open_files() <= before + 10);
    for item in 0..FILES {
        let hash = Some(*blake3::hash(b"content").as_bytes());
        attacker.say(&Question::Expect { item, hash }).await;
    }
    for _ in 0..FILES {
        let answer = attacker.answer().await;
        assert!(matches!(answer, Some(Answer::Compared { .. })), "{answer:?}");
    }
    drop(attacker);
    assert_eq!(beside.serve.stop(), Some(0));
}

/// Each run is written by itself: a stripe that has nothing but such as are a byte long would cost seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stripe_of_countless_small_runs_is_refused() {
    let beside = Beside::new();
    let mut attacker = beside.attacker().await;
    attacker.say(&hello([2; 16])).await;
    attacker.expect_welcome().await;
    let (mut records, mut content) = countless_runs(0);
    attacker.send(&stripe(0, &records, &content)).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
    records.push(countless_runs(8).0.remove(0));
    content.extend_from_within(..4_096);
    attacker.send(&stripe(1, &records, &content)).await;
    attacker.expect_closed("a stripe holds too much").await;
    assert_eq!(beside.serve.stop(), Some(0));
}

/// Eight pieces that have as many runs as one may have, of a byte each, and their content.
pub(crate) fn countless_runs(first_item: u64) -> (Vec<Record>, Vec<u8>) {
    const RUNS: u64 = 4_096;
    static HASH: OnceLock<[u8; 32]> = OnceLock::new();
    let runs: Vec<_> = (0..RUNS).map(|run| Run { offset: 2 * run, len: 1 }).collect();
    let content = vec![1; RUNS as usize];
    let hash = *HASH.get_or_init(|| {
        let parts = content.chunks(1).flat_map(|byte| [byte, &[0]]);
        hash_parts(0, 2 * RUNS, parts, 2 * RUNS)
    });
    let piece = |item: u64| {
        let path = item.to_string().into_bytes();
        let (file_bytes, len, runs) = (2 * RUNS, 2 * RUNS, runs.clone());
        let whole = piece(item, &path, 0, 0, b"");
        Record::Piece(Piece { file_bytes, sparse: true, len, runs, hash, ..whole })
    };
    ((first_item..first_item + 8).map(piece).collect(), content.repeat(8))
}

/// What a client can have a server do, again and again.
#[derive(Clone, Copy, Debug)]
enum Toil {
    Runs,
    DeepFolders,
    Gaps,
    Waiting,
    Hashing,
    LinkedFolders,
    Discards,
    Failures,
    Unread,
    Pulling,
    Listing,
    Strangers,
}

impl Toil {
    const ALL: [Self; 12] = [
        Self::Waiting,
        Self::Gaps,
        Self::LinkedFolders,
        Self::Discards,
        Self::Failures,
        Self::Unread,
        Self::Hashing,
        Self::DeepFolders,
        Self::Runs,
        Self::Pulling,
        Self::Listing,
        Self::Strangers,
    ];
}

impl Toil {
    async fn go_on(self, beside: &Beside) {
        match self {
            Self::Hashing => {
                let mut held = Vec::new();
                for _ in 0..4 {
                    let mut attacker = verifying(beside).await;
                    for item in 0..16 {
                        attacker.say(&compare(item, "huge", 1 << 42)).await;
                    }
                    held.push(attacker);
                }
                std::future::pending::<()>().await;
            }
            Self::Waiting => loop {
                let mut waiting = Vec::new();
                for _ in 0..128 {
                    let mut attacker = beside.attacker().await;
                    attacker.say(&hello([1; 16])).await;
                    waiting.push(attacker);
                }
            },
            Self::Unread => {
                let _stuck = stuck(beside, 128).await;
                std::future::pending::<()>().await;
            }
            Self::Pulling => {
                let mut pulling = Vec::new();
                for _ in 0..40 {
                    pulling.push(idle_pull(beside).await);
                }
                std::future::pending::<()>().await;
            }
            Self::Listing => loop {
                let mut listing = Vec::new();
                for _ in 0..64 {
                    let mut attacker = beside.attacker().await;
                    let request = ListRequest { path: vec![], recursive: true };
                    attacker.say(&Request::List(request)).await;
                    listing.push(attacker);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            },
            Self::Strangers => {
                let knocks = Arc::new(Semaphore::new(32));
                loop {
                    let knock = Arc::clone(&knocks).acquire_owned().await.unwrap();
                    let (host, address) = (beside.host.id(), beside.serve.address);
                    tokio::spawn(async move {
                        stranger(&host, address).await;
                        drop(knock);
                    });
                }
            }
            toil => {
                // Made before: what that costs is no fault of the server's.
                let stripes: Vec<_> = (0..256).map(|number| toil.stripe(number)).collect();
                loop {
                    let mut attacker = beside.attacker().await;
                    attacker.say(&hello(rand::random())).await;
                    attacker.expect_welcome().await;
                    for stripe in &stripes {
                        attacker.send(stripe).await;
                        if attacker.connection.close_reason().is_some() {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn stripe(self, number: u64) -> Vec<u8> {
        let meta = Meta { mode: 0o755, mtime_s: 0, mtime_ns: 0 };
        match self {
            Self::Runs => {
                let (records, content) = countless_runs(number * 8);
                stripe(number, &records, &content)
            }
            Self::DeepFolders => {
                let folder = |item: u64| {
                    let path = format!("{number}-{item}{}", "/d".repeat(2_000)).into_bytes();
                    Record::Folder { item, path, meta }
                };
                stripe(number, &(0..24).map(folder).collect::<Vec<_>>(), b"")
            }
            Self::Gaps => {
                let zeros = vec![0; 1_024];
                let gap = |at: u64| {
                    let offset = 2_048 * (1_000 * number + at);
                    let content = piece(1, b"gaps", 1 << 40, offset, &zeros);
                    Record::Piece(Piece { sparse: true, runs: vec![], ..content })
                };
                stripe(number, &(0..1_000).map(gap).collect::<Vec<_>>(), b"")
            }
            Self::LinkedFolders if number == 0 => {
                let target = b".".to_vec();
                stripe(0, &[Record::Symlink { item: 0, path: b"self".into(), meta, target }], b"")
            }
            Self::LinkedFolders => {
                let folder = |item: u64| {
                    let path = format!("{}{number}-{item}", "self/".repeat(20)).into_bytes();
                    Record::Folder { item, path, meta }
                };
                stripe(number, &(0..1_000).map(folder).collect::<Vec<_>>(), b"")
            }
            Self::Discards => {
                let discard = |at: u64| Record::Discard { item: 1_000 * number + at };
                stripe(number, &(0..1_000).map(discard).collect::<Vec<_>>(), b"")
            }
            // None of them can be where there is a file.
            Self::Failures => {
                let folder = |at: u64| {
                    let path = format!("huge/{number}-{at}").into_bytes();
                    Record::Folder { item: 1_000 * number + at, path, meta }
                };
                stripe(number, &(0..1_000).map(folder).collect::<Vec<_>>(), b"")
            }
            _ => Vec::new(),
        }
    }
}

/// Somebody with a key that nobody knows, who is turned away.
async fn stranger(server: &str, address: SocketAddr) {
    let create = || {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap()
    };
    // What it waits for the disk is no fault of the server's.
    let own = tokio::task::spawn_blocking(create).await.unwrap();
    let trust = ClientTrust::Pinned([server.parse().unwrap()].into());
    let tls = Arc::new(client_config(&own, trust).unwrap());
    let mtu = PathMtu::of(address, DATAGRAM_BYTES_MAX);
    let config = endpoint::client_config(tls, mtu, cubic(), Arc::new(Telemetry::default()));
    let endpoint = endpoint::client(&SystemSockets, path::any_local(address), mtu).unwrap();
    if let Ok(connecting) = endpoint.connect_with(config, address, "localhost")
        && let Ok(connection) = connecting.await
    {
        connection.closed().await;
    }
}

/// How long 64 MiB take the honest client, in seconds.
async fn timed(beside: &Beside, to: &str) -> f64 {
    let (source, url) = (beside.host.src("honest"), beside.serve.url(to));
    let began = Instant::now();
    let child = client(&beside.host, &["push", source.to_str().unwrap(), &url]);
    // On a thread of its own, which waits for nobody here.
    let finished = move || (finish(child), began.elapsed().as_secs_f64());
    let (ran, took) = tokio::task::spawn_blocking(finished).await.unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    took
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Says how long 64 MiB take an honest client beside another one that pushes all the time, and beside each of these,
/// and what the server takes meanwhile. `GREEDY=Runs,Gaps` chooses some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures, and takes minutes"]
async fn whoever_is_beside_a_greedy_client_takes_little_longer() {
    const BYTES: usize = 64 << 20;
    let chosen = std::env::var("GREEDY").unwrap_or_default();
    let is_chosen = |toil: &Toil| chosen.is_empty() || chosen.contains(&format!("{toil:?}"));
    let mut slow = Vec::new();
    for toil in Toil::ALL.into_iter().filter(is_chosen) {
        let beside = Beside::new();
        File::create(beside.host.root("huge")).unwrap().set_len(1 << 42).unwrap();
        for number in 0..8_000 {
            File::create(beside.host.root(format!("{number}"))).unwrap();
        }
        fs::write(beside.host.src("honest"), random(9, BYTES)).unwrap();
        fs::write(beside.greedy.src("other"), random(8, 4 * BYTES)).unwrap();
        // Within the same minute, as others may be at work on this machine.
        let (mut honest, mut took) = (Vec::new(), Vec::new());
        for round in 0..3 {
            let (source, url) = (beside.greedy.src("other"), beside.serve.url("other"));
            let args = ["push", "-I", source.to_str().unwrap(), &url, "--fingerprint"];
            let mut command = beside.greedy.qbulk();
            command.args(args).arg(beside.host.id()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut other = command.spawn().unwrap();
            honest.push(timed(&beside, &format!("honest{round}")).await);
            other.kill().unwrap();
            other.wait().unwrap();
            tokio::select! {
                () = toil.go_on(&beside) => {}
                () = async {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    took.push(timed(&beside, &format!("beside{round}")).await);
                } => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (files, mib) = (beside.serve.open_files(), peak(&beside.serve.child));
        let (honest, took) = (median(honest), median(took));
        let times = took / honest;
        eprintln!(
            "{toil:?}: {honest:.2} s, {took:.2} s, {times:.2} times; {mib} MiB, {files} open"
        );
        if times > 1.5 || mib >= 400 {
            slow.push(toil);
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}

/// The root folder is as who serves it wants it, by whatever way a client gets there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_the_root_does_not_change_its_mode_or_time() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    let root = host.root("");
    let mode = || fs::metadata(&root).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(&root, Permissions::from_mode(0o310)).unwrap();
    let mut attacker = Attacker::connect(&host, &serve).await;
    attacker.hello(b"").await;
    attacker.expect_welcome().await;
    let meta = Meta { mode: 0o777, mtime_s: 981_173_106, mtime_ns: 0 };
    let link = |item, path: &[u8], target: &[u8]| Record::Symlink {
        item,
        path: path.into(),
        meta,
        target: target.into(),
    };
    let folder = |item, path: &[u8]| Record::Folder { item, path: path.into(), meta };
    attacker.send(&stripe(0, &[link(1, b"self", b"."), link(2, b"twice", b"self/.")], b"")).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
    let records = [
        folder(3, b"self"),
        folder(4, b"twice"),
        folder(5, b"self/self"),
        folder(6, b"self/new/deep"),
        file(7, b"twice/other/file", b""),
        file(8, b"self/file", b""),
        folder(9, b""),
    ];
    attacker.send(&stripe(1, &records, b"")).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(1)));
    assert_eq!(mode(), 0o310, "not even meanwhile");
    let (failed, files) = attacker.finish(2).await;
    // Nobody but its owner can read it either: whether its names last cannot be seen to.
    let failed: Vec<_> = failed.iter().filter(|path| !path.is_empty()).collect();
    assert_eq!((failed.len(), files), (6, 0), "{failed:?}");
    assert_eq!(mode(), 0o310);
    let modified = fs::metadata(&root).unwrap().modified().unwrap();
    assert!(modified.elapsed().unwrap() < Duration::from_secs(3_600));
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    chown(&root, None, None).unwrap();
}
