//! Clients that are let in and do not keep to the protocol.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BufMut;
use qbulk::congestion::cubic;
use qbulk::hashtree::{FILE_BYTES_MAX, piece_hash};
use qbulk::identity::Identity;
use qbulk::net::control::ControlReader;
use qbulk::net::endpoint;
use qbulk::net::path::{self, DATAGRAM_BYTES_MAX, PathMtu};
use qbulk::net::sockets::SystemSockets;
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{ClientTrust, client_config};
use qbulk::wire::{
    Answer, CONTENT_BYTES_MAX, Compares, Extra, Extras, Header, HostNumber, Keep, Message, Meta,
    Owner, PATH_BYTES_MAX, Packing, Piece, PushNumber, PushRequest, Record, Request, Run,
    SourceBasis, SourceId, SourceState, SourceVersion, Special, TABLE_BYTES_MAX, ToReceiver,
    ToSender, TransferSecret, VERSION, Xattr, put_varint,
};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream, VarInt};
use tokio::time::timeout;

use crate::common::{
    Host, Node, PATIENCE, Serve, eventually, hash, names, random, tree, unfinished,
};

const META: Meta = Meta { mode: 0o644, mtime_s: 981_173_106, mtime_ns: 0 };

/// A server under attack, and what must not change.
struct Scene {
    host: Host,
    serve: Serve,
    outside: BTreeMap<PathBuf, Node>,
}

impl Scene {
    fn new() -> Self {
        let host = Host::new();
        fs::write(host.outside("precious"), b"precious").unwrap();
        let serve = Serve::start(&host);
        let outside = tree(&host.outside(""));
        Self { host, serve, outside }
    }

    async fn attacker(&self, destination: &[u8]) -> Attacker {
        let mut attacker = Attacker::connect(&self.host, &self.serve).await;
        attacker.hello(destination).await;
        attacker.expect_welcome().await;
        attacker
    }

    /// Nothing was written but below the root, nothing unfinished stays, and honest clients are served.
    fn assert_unharmed(self, below: &[&str]) {
        let root = self.host.root("");
        eventually("nothing unfinished is left", || unfinished(&root).is_empty());
        assert_eq!(names(&root), below);
        let data = random(9, 2_000_000);
        fs::write(self.host.src("honest"), &data).unwrap();
        let ran = self.host.push(self.host.src("honest"), &self.serve.url("honest"));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(hash(&self.host.src("honest")), hash(&self.host.root("honest")));
        assert_eq!(tree(&self.host.outside("")), self.outside);
        let mut beside = fs::read_dir(self.host.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>();
        beside.retain(|name| name != "cache");
        beside.sort();
        assert_eq!(beside, ["config", "outside", "root", "serve.stderr", "src"]);
        assert_eq!(self.serve.stop(), Some(0));
    }
}

pub(crate) struct Attacker {
    pub(crate) connection: Connection,
    pub(crate) control: SendStream,
    pub(crate) messages: ControlReader,
    /// What the server could not write, by the numbers that it gives: it says so until it hears that it is known.
    failed: BTreeMap<u64, String>,
    _endpoint: Endpoint,
}

impl Attacker {
    pub(crate) async fn connect(host: &Host, serve: &Serve) -> Self {
        Self::with_key_of(host, host, serve).await
    }

    /// Shows the key of `host` to the server of `server`.
    pub(crate) async fn with_key_of(host: &Host, server: &Host, serve: &Serve) -> Self {
        Self::with(host, server, serve, |_| ()).await
    }

    /// The same, at that address.
    pub(crate) async fn to(host: &Host, server: &Host, address: SocketAddr) -> Self {
        Self::with_settings(host, server, address, DATAGRAM_BYTES_MAX, |_| ()).await
    }

    /// The same, sending datagrams of at most `bytes`.
    pub(crate) async fn with_datagrams_of(
        bytes: u16,
        host: &Host,
        server: &Host,
        serve: &Serve,
        set: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        Self::with_settings(host, server, serve.address, bytes, set).await
    }

    /// The same with other settings of the connection.
    pub(crate) async fn with(
        host: &Host,
        server: &Host,
        serve: &Serve,
        set: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        Self::with_datagrams_of(DATAGRAM_BYTES_MAX, host, server, serve, set).await
    }

    async fn with_settings(
        host: &Host,
        server: &Host,
        address: SocketAddr,
        datagram_bytes: u16,
        set: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let [own, other] =
            [host, server].map(|host| Identity::load_or_create(&host.config()).unwrap());
        let trust = ClientTrust::Pinned([other.fingerprint()].into());
        let tls = Arc::new(client_config(&own, trust).unwrap());
        let mtu = PathMtu::of(address, datagram_bytes);
        let mut config = endpoint::client_config(tls, mtu, cubic(), Arc::new(Telemetry::default()));
        set(&mut config);
        let endpoint = endpoint::client(&SystemSockets, path::any_local(address), mtu).unwrap();
        let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
        let connection = connecting.await.unwrap();
        let (control, messages) = connection.open_bi().await.unwrap();
        let messages = ControlReader::new(messages);
        let failed = BTreeMap::new();
        Self { connection, control, messages, failed, _endpoint: endpoint }
    }

    pub(crate) async fn say(&mut self, message: &impl Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.control.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn hello(&mut self, destination: &[u8]) {
        self.hello_for(destination, Extras::default()).await;
    }

    async fn hello_for(&mut self, destination: &[u8], extras: Extras) {
        let destination = destination.to_vec();
        self.say(&Request::Push(PushRequest {
            transfer: TransferSecret(rand::random()),
            conn: 0,
            destination,
            push: PushNumber(rand::random()),
            host: HostNumber([0; 16]),
            keep: Keep::default(),
            extras,
            is_stream: false,
            compares: Compares::default(),
            packing: Packing::None,
        }))
        .await;
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.unwrap();
        // The server may have had enough before it has all.
        stream.write_all(bytes).await.ok();
        stream.finish().ok();
        stream.stopped().await.ok();
    }

    /// What the server says next, failures aside.
    pub(crate) async fn next(&mut self) -> Option<ToSender> {
        loop {
            let next = timeout(PATIENCE, self.messages.next()).await.expect("an answer");
            match next.unwrap_or_default() {
                Some(ToSender::Failed { number, path, .. }) => {
                    self.failed.insert(number, String::from_utf8(path).unwrap());
                }
                next => return next,
            }
        }
    }

    /// What the server answers next to a client that moves no data.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.messages.next()).await.expect("an answer").unwrap_or_default()
    }

    pub(crate) async fn expect_welcome(&mut self) {
        assert!(matches!(self.next().await, Some(ToSender::Welcome { .. })));
    }

    /// Says that these stripes were all; what the server could not write, and how many files it has.
    pub(crate) async fn finish(&mut self, stripes: u64) -> (Vec<String>, u64) {
        self.say(&ToReceiver::Finish { stripes }).await;
        loop {
            match self.next().await {
                Some(ToSender::Finished { files, .. }) => {
                    return (std::mem::take(&mut self.failed).into_values().collect(), files);
                }
                Some(ToSender::Confirm(_)) => {}
                other => panic!("{other:?}, {:?}", self.connection.close_reason()),
            }
        }
    }

    /// The server closes the connection and says why.
    pub(crate) async fn expect_closed(&self, words: &str) {
        timeout(PATIENCE, self.connection.closed()).await.expect("it is closed");
        let reason = self.close_words().unwrap_or_default();
        assert!(reason.contains(words), "{reason:?} has no {words:?}");
    }

    /// Why the server has closed the connection.
    pub(crate) fn close_words(&self) -> Option<String> {
        let reason = self.connection.close_reason()?;
        let ConnectionError::ApplicationClosed(close) = reason else {
            panic!("closed without words: {reason:?}")
        };
        Some(String::from_utf8_lossy(&close.reason).into_owned())
    }
}

pub(crate) fn stripe(number: u64, records: &[Record], content: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    for record in records {
        record.encode(&mut table);
    }
    with_table(number, &table, content)
}

pub(crate) fn with_table(stripe: u64, table: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (table_bytes, content_bytes) = (table.len() as u32, content.len() as u32);
    let table_hash = *blake3::hash(table).as_bytes();
    Header { stripe, table_bytes, content_bytes, unpacked_bytes_max: 0, table_hash }
        .encode(&mut out);
    out.extend_from_slice(table);
    out.extend_from_slice(content);
    out
}

/// A piece of a file without holes.
pub(crate) fn piece(item: u64, path: &[u8], file_bytes: u64, offset: u64, content: &[u8]) -> Piece {
    let len = content.len() as u64;
    Piece {
        item,
        path: path.to_vec(),
        meta: META,
        source: SourceId {
            version: SourceVersion([1; 16]),
            state: SourceState([2; 16]),
            basis: SourceBasis([2; 16]),
        },
        file_bytes,
        sparse: false,
        is_based: false,
        offset,
        len,
        runs: if len == 0 { vec![] } else { vec![Run { offset: 0, len }] },
        hash: piece_hash(offset, content, file_bytes),
    }
}

/// A whole small file.
pub(crate) fn file(item: u64, path: &[u8], content: &[u8]) -> Record {
    Record::Piece(piece(item, path, content.len() as u64, 0, content))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn paths_that_lead_out_are_refused() {
    let scene = Scene::new();
    let absolute = scene.host.outside("evil").as_os_str().as_bytes().to_vec();
    let paths: [&[u8]; 9] = [
        b"../evil",
        b"../outside/evil",
        b"a/../../evil",
        b"..",
        b"a/..",
        b"./evil",
        b"a//evil",
        b"a\0b",
        &absolute,
    ];
    for path in paths {
        let link =
            Record::Symlink { item: 1, path: path.to_vec(), meta: META, target: b"x".into() };
        let folder = Record::Folder { item: 1, path: path.to_vec(), meta: META };
        for (record, content) in
            [(file(1, path, b"evil"), &b"evil"[..]), (link, b""), (folder, b"")]
        {
            let attacker = scene.attacker(b"").await;
            attacker.send(&stripe(0, &[record], content)).await;
            attacker.expect_closed("is not allowed").await;
        }
    }
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn destinations_that_lead_out_are_refused() {
    let scene = Scene::new();
    symlink("../outside", scene.host.root("out")).unwrap();
    let absolute = scene.host.outside("").as_os_str().as_bytes().to_vec();
    let paths: [&[u8]; 7] =
        [b"..", b"../outside", b"a/../../b", &absolute, b"/", b"out/new", b"out/new/"];
    for path in paths {
        let mut attacker = Attacker::connect(&scene.host, &scene.serve).await;
        attacker.hello(path).await;
        if path == b"/" {
            // Slashes at the end mean a folder: this is the root.
            attacker.expect_welcome().await;
            continue;
        }
        attacker.expect_closed("").await;
    }
    fs::remove_file(scene.host.root("out")).unwrap();
    scene.assert_unharmed(&[]);
}

/// A link may say anything; nothing is ever written through one that leads out.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_of_ones_own_leads_nowhere() {
    let scene = Scene::new();
    let absolute = scene.host.outside("").as_os_str().as_bytes().to_vec();
    let link = |item, path: &[u8], target: &[u8]| Record::Symlink {
        item,
        path: path.to_vec(),
        meta: META,
        target: target.to_vec(),
    };
    let open = Meta { mode: 0o777, ..META };
    let mut attacker = scene.attacker(b"").await;
    let links = [
        link(1, b"relative", b"../outside"),
        link(2, b"absolute", &absolute),
        link(3, b"twice", b"relative"),
        link(4, b"file", b"../outside/precious"),
        link(5, b"up", b".."),
    ];
    attacker.send(&stripe(0, &links, b"")).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
    let paths: [&[u8]; 6] =
        [b"relative/x", b"absolute/x", b"twice/x", b"relative/deep/x", b"up/x", b"up/outside/x"];
    let mut records = Vec::new();
    for (item, path) in (10..).step_by(10).zip(paths) {
        records.push(file(item, path, b""));
        records.push(Record::Folder { item: item + 1, path: [path, b"dir"].concat(), meta: open });
        records.push(link(item + 2, &[path, b"link"].concat(), b"x"));
    }
    for (item, path) in (100..).zip([&b"relative"[..], b"absolute", b"up"]) {
        records.push(Record::Folder { item, path: path.to_vec(), meta: open });
    }
    let failing = records.len();
    records.push(file(200, b"file", b"")); // takes the link's place
    attacker.send(&stripe(1, &records, b"")).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(1)));
    // Pieces come by another way than whole files.
    let content = random(1, 2_048);
    let half = Record::Piece(piece(300, b"relative/y", 2_048, 0, &content[..1_024]));
    attacker.send(&stripe(2, &[half], &content[..1_024])).await;
    let (failed, files) = attacker.finish(3).await;
    assert_eq!((failed.len(), files), (failing + 1, 1), "{failed:?}");
    drop(attacker);
    assert!(fs::symlink_metadata(scene.host.root("file")).unwrap().is_file());
    scene.assert_unharmed(&["absolute", "file", "relative", "twice", "up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metadata_reaches_nothing_outside_and_nothing_that_was_not_asked_for() {
    let scene = Scene::new();
    symlink("../outside", scene.host.root("out")).unwrap();
    fs::write(scene.host.root("there"), b"there").unwrap();
    let xattrs = vec![Xattr { name: b"user.a".into(), value: b"a".into() }];
    let (uid, gid) = (12_345, 12_345);
    let owner = Some(Owner { uid, gid, ..Owner::default() });
    let extra =
        || Some(Extra { owner: owner.clone(), xattrs: Some(xattrs.clone()), is_linked: true });
    let link = |path: &str, of: &str| {
        let (path, of) = (path.into(), of.into());
        Record::Link { item: 1, path, of, meta: META, file_bytes: 8 }
    };
    let adopt =
        |path: &str| Record::Adopt { item: 2, path: path.into(), meta: META, file_bytes: 8 };
    let special = |path: &str| Record::Special {
        item: 3,
        path: path.into(),
        meta: META,
        what: Special::Fifo,
    };
    for record in [file(1, b"new", b"").with(extra()), link("new", "there")] {
        let attacker = scene.attacker(b"").await;
        attacker.send(&stripe(0, &[record], b"")).await;
        attacker.expect_closed("protocol").await;
    }
    let mut attacker = Attacker::connect(&scene.host, &scene.serve).await;
    attacker.hello_for(b"", Extras::all()).await;
    attacker.expect_welcome().await;
    let records = [
        link("precious", "out/precious"),
        link("out/there", "there"),
        link("way", "out"),
        adopt("out/precious").with(extra()),
        adopt("out").with(extra()),
        special("out/fifo").with(extra()),
        file(4, b"out/new", b"").with(extra()),
        Record::Folder { item: 5, path: b"out".into(), meta: META }.with(extra()),
    ];
    attacker.send(&stripe(0, &records, b"")).await;
    let (failed, files) = attacker.finish(1).await;
    assert_eq!((failed.len(), files), (records.len(), 0), "{failed:?}");
    drop(attacker);
    fs::remove_file(scene.host.root("out")).unwrap();
    fs::remove_file(scene.host.root("there")).unwrap();
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_file_becomes_set_user_id() {
    let scene = Scene::new();
    let mut attacker = scene.attacker(b"").await;
    let Record::Piece(mut piece) = file(1, b"tool", b"#!") else { unreachable!() };
    piece.meta.mode = 0o6755;
    attacker.send(&stripe(0, &[Record::Piece(piece)], b"#!")).await;
    assert_eq!(attacker.finish(1).await, (vec![], 1));
    let mode = fs::metadata(scene.host.root("tool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    drop(attacker);
    scene.assert_unharmed(&["tool"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_does_not_match_its_hash_is_not_written() {
    let scene = Scene::new();
    let mut attacker = scene.attacker(b"").await;
    let good = stripe(0, &[file(1, b"file", b"content")], b"content");
    // A byte of the content, of the table and of the table's hash.
    for at in [good.len() - 1, Header::BYTES + 3, Header::BYTES - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        attacker.send(&bad).await;
        assert_eq!(attacker.next().await, Some(ToSender::Damaged(0)), "byte {at}");
        let names = names(&scene.host.root(""));
        assert!(names.iter().all(|name| name.ends_with(".journal")), "{names:?}");
    }
    attacker.send(&good).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
    // It is known by now: nothing else is taken under its number.
    attacker.send(&stripe(0, &[file(1, b"file", b"another")], b"another")).await;
    assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
    assert_eq!(attacker.finish(1).await, (vec![], 1));
    assert_eq!(fs::read(scene.host.root("file")).unwrap(), b"content");
    drop(attacker);
    scene.assert_unharmed(&["file"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_whose_pieces_do_not_make_up_its_hash_gets_no_name() {
    let scene = Scene::new();
    let content = random(1, 2_048);
    let mut attacker = scene.attacker(b"").await;
    for (number, range) in [(0, 0..1_024), (1, 1_024..2_048)] {
        let piece = piece(1, b"file", 2_048, range.start as u64, &content[range.clone()]);
        attacker.send(&stripe(number, &[Record::Piece(piece)], &content[range])).await;
    }
    attacker.send(&stripe(2, &[Record::Seal { item: 1, hash: [7; 32] }], b"")).await;
    assert_eq!(attacker.finish(3).await, (vec!["file".into()], 0));
    drop(attacker);
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stripes_that_are_no_stripes_end_the_transfer() {
    let scene = Scene::new();
    let header = |table_bytes, content_bytes| {
        let mut out = Vec::new();
        Header {
            stripe: 0,
            table_bytes,
            content_bytes,
            unpacked_bytes_max: 0,
            table_hash: [0; 32],
        }
        .encode(&mut out);
        out
    };
    let good = stripe(0, &[file(1, b"file", b"content")], b"content");
    let mut followed = Vec::new();
    file(1, b"file", b"content").encode(&mut followed);
    followed.extend_from_slice(&[0xff; 40]);
    let mut long_path = Vec::new();
    for number in [1, 1, PATH_BYTES_MAX as u64 + 1] {
        put_varint(&mut long_path, number);
    }
    long_path.put_bytes(b'a', PATH_BYTES_MAX + 1);
    for (bytes, words) in [
        (header(TABLE_BYTES_MAX + 1, 0), "limit"),
        (header(0, CONTENT_BYTES_MAX + 1), "limit"),
        (header(u32::MAX, u32::MAX), "limit"),
        (header(100, 100), "cut short"),
        (good[..Header::BYTES - 1].to_vec(), "cut short"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        ([&good[..], b"x"].concat(), "left over"),
        (with_table(0, &followed, b"content"), "unknown record type"),
        (with_table(0, &random(1, 500), b""), "protocol"),
        (with_table(0, &long_path, b""), "limit"),
        (stripe(0, &[file(1, b"file", b"content")], b"conten"), "too short"),
        (stripe(0, &[file(1, b"file", b"content")], b"contents"), "too long"),
        (stripe(1 << 40, &[], b""), "too far ahead"),
        (stripe(u64::MAX, &[], b""), "too far ahead"),
    ] {
        let attacker = scene.attacker(b"").await;
        attacker.send(&bytes).await;
        attacker.expect_closed(words).await;
        scene.serve.event("aborted");
    }
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pieces_that_do_not_fit_together_end_the_transfer() {
    let scene = Scene::new();
    let content = random(1, 4_096);
    let part = |path: &[u8], bytes, offset: usize, len: usize| {
        Record::Piece(piece(1, path, bytes, offset as u64, &content[offset..offset + len]))
    };
    for (second, len, words) in [
        (part(b"file", 4_096, 1_024, 1_024), 1_024, "do not fit"),
        (part(b"file", 4_096, 0, 2_048), 2_048, "do not fit"),
        (part(b"file", 4_096, 2_048, 1_000), 1_000, "cannot be at"),
        (part(b"file", 5_000, 2_048, 1_024), 1_024, "two files"),
        (part(b"other", 4_096, 2_048, 1_024), 1_024, "two files"),
    ] {
        let mut attacker = scene.attacker(b"").await;
        let first = stripe(0, &[part(b"file", 4_096, 0, 2_048)], &content[..2_048]);
        attacker.send(&first).await;
        assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
        let Record::Piece(at) = &second else { unreachable!() };
        let start = at.offset as usize;
        let second = stripe(1, &[second], &content[start..start + len]);
        attacker.send(&second).await;
        attacker.expect_closed(words).await;
    }
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sizes_beyond_all_disks_harm_nobody() {
    let scene = Scene::new();
    let content = random(1, 1_024);
    for bytes in [1 << 45, 1 << 53, FILE_BYTES_MAX, FILE_BYTES_MAX + 1, (1 << 62) - 1] {
        for sparse in [false, true] {
            let attacker = scene.attacker(b"").await;
            let mut piece = piece(1, b"huge", FILE_BYTES_MAX, 0, &content);
            (piece.file_bytes, piece.sparse) = (bytes, sparse);
            attacker.send(&stripe(0, &[Record::Piece(piece)], &content)).await;
            attacker.connection.close(VarInt::from_u32(2), b"");
            scene.serve.event("aborted");
        }
    }
    scene.assert_unharmed(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn talk_that_makes_no_sense_ends_the_connection() {
    let scene = Scene::new();
    let hello = |out: &mut Vec<u8>| {
        let request = PushRequest {
            transfer: TransferSecret(rand::random()),
            conn: 0,
            destination: vec![],
            push: PushNumber(rand::random()),
            host: HostNumber([0; 16]),
            keep: Keep::default(),
            extras: Extras::default(),
            is_stream: false,
            compares: Compares::default(),
            packing: Packing::None,
        };
        Request::Push(request).encode(out);
    };
    let future = [2, VERSION as u8 + 1, 77].to_vec();
    let mut huge = Vec::new();
    put_varint(&mut huge, 1 << 40);
    let and = |message: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        hello(&mut out);
        message(&mut out);
        out
    };
    let mut finish = Vec::new();
    ToReceiver::Finish { stripes: 1 }.encode(&mut finish);
    for (bytes, words) in [
        (huge, "limit"),
        (finish, "version"),
        (vec![2, VERSION as u8, 63], "there is no request 63"),
        (future, "version"),
        (and(&|out| hello(out)), "unknown message type"),
        (and(&|out| ToSender::Confirm(0).encode(out)), "unknown message type"),
        (and(&|out| ToReceiver::Drop(0).encode(out)), "unexpected message"),
        (and(&|out| ToReceiver::Wanted { lines: 9 }.encode(out)), "unexpected message"),
    ] {
        let mut attacker = Attacker::connect(&scene.host, &scene.serve).await;
        attacker.control.write_all(&bytes).await.unwrap();
        attacker.expect_closed(words).await;
    }
    scene.assert_unharmed(&[]);
}

/// Who knows a transfer's secret but not its key is not part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transfer_belongs_to_the_client_that_began_it() {
    let (host, other) = (Host::new(), Host::new());
    let serve = Serve::with(&host, &["--authorize", &other.id()]);
    let hello = Request::Push(PushRequest {
        transfer: TransferSecret([7; 16]),
        conn: 0,
        destination: vec![],
        push: PushNumber([7; 16]),
        host: HostNumber([0; 16]),
        keep: Keep::default(),
        extras: Extras::default(),
        is_stream: false,
        compares: Compares::default(),
        packing: Packing::None,
    });
    let mut owner = Attacker::connect(&host, &serve).await;
    owner.say(&hello).await;
    owner.expect_welcome().await;
    let content = random(1, 2_048);
    let half = Record::Piece(piece(1, b"file", 2_048, 0, &content[..1_024]));
    owner.send(&stripe(0, &[half], &content[..1_024])).await;
    assert_eq!(owner.next().await, Some(ToSender::Confirm(0)));

    let mut thief = Attacker::with_key_of(&other, &host, &serve).await;
    thief.say(&hello).await;
    thief.expect_welcome().await;
    let part = Record::Piece(piece(1, b"file", 2_048, 1_024, &content[1_024..]));
    let seal = Record::Seal { item: 1, hash: *blake3::hash(&content).as_bytes() };
    thief.send(&stripe(0, &[part, seal], &content[1_024..])).await;
    assert_eq!(thief.finish(1).await, (vec!["file".into()], 0));
    assert!(!host.root("file").exists(), "two clients have made one file");
}
