//! What a server grants to clients that are let in but do not behave.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use qbulk::hashtree::piece_hash;
use qbulk::identity::Identity;
use qbulk::net::control::ControlReader;
use qbulk::net::tls::{self, ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use qbulk::store::descriptors::{Descriptors, Share};
use qbulk::store::own::OwnNames;
use qbulk::store::sink::{Applied, Sink, SinkError};
use qbulk::wire::{
    CLOSE_PROTOCOL, CONTENT_BYTES_MAX, Compares, Extras, Header, HostNumber, Keep, Message, Meta,
    Packing, Piece, PushNumber, PushRequest, RECORDS_MAX, Record, Request, Run, SourceBasis,
    SourceId, SourceState, SourceVersion, ToReceiver, ToSender, TransferSecret,
};
use quinn::{ConnectionError, Endpoint, SendStream, TransportConfig, VarInt};

struct Served {
    _dir: tempfile::TempDir,
    identity: Arc<Identity>,
    address: SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("set up");
        let identity = Arc::new(Identity::load_or_create(dir.path()).expect("set up"));
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("set up");
        let config = ServeConfig::new(
            "127.0.0.1:0".parse().expect("set up"),
            root,
            Arc::clone(&identity),
            ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() },
        );
        let server = Server::bind(config).expect("set up");
        let address = server.local_addr();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(server.run(Arc::new(|_| ()), async { drop(stopped.await) }));
        Self { _dir: dir, identity, address, _stop: stop }
    }

    fn client_config(&self) -> quinn::ClientConfig {
        let trust = ClientTrust::Pinned([self.identity.fingerprint()].into());
        quinn::ClientConfig::new(Arc::new(
            tls::client_config(&self.identity, trust).expect("set up"),
        ))
    }

    /// A client that has said hello and was told to go ahead.
    async fn join(&self, transport: TransportConfig) -> Client {
        let mut config = self.client_config();
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("set up")).expect("set up");
        let connecting = endpoint.connect_with(config, self.address, "localhost").expect("set up");
        let connection = connecting.await.expect("set up");
        let (control, messages) = connection.open_bi().await.expect("set up");
        let messages = ControlReader::new(messages);
        let mut client = Client { _endpoint: endpoint, connection, control, messages };
        let transfer = [7; 16];
        client
            .say(&Request::Push(PushRequest {
                transfer: TransferSecret(transfer),
                conn: 0,
                destination: vec![],
                push: PushNumber(transfer),
                host: HostNumber([0; 16]),
                keep: Keep::default(),
                extras: Extras::default(),
                is_stream: false,
                compares: Compares::default(),
                packing: Packing::None,
            }))
            .await;
        let welcome = client.messages.next().await.expect("set up");
        assert!(matches!(welcome, Some(ToSender::Welcome { .. })), "{welcome:?}");
        client
    }
}

struct Client {
    _endpoint: Endpoint,
    connection: quinn::Connection,
    control: SendStream,
    messages: ControlReader,
}

impl Client {
    async fn say(&mut self, message: &impl Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.control.write_all(&bytes).await.expect("set up");
    }
}

fn header(stripe: u64, table: &[u8], content: &[u8]) -> Header {
    Header {
        stripe,
        table_bytes: table.len() as u32,
        content_bytes: content.len() as u32,
        unpacked_bytes_max: 0,
        table_hash: *blake3::hash(table).as_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_can_be_told_once() {
    let served = Served::start();
    let mut client = served.join(TransportConfig::default()).await;
    client.say(&ToReceiver::Finish { stripes: 9 }).await;
    client.say(&ToReceiver::Finish { stripes: 9 }).await;
    let closed = tokio::time::timeout(Duration::from_secs(20), client.connection.closed()).await;
    let Ok(ConnectionError::ApplicationClosed(close)) = closed else { panic!("{closed:?}") };
    assert_eq!(close.error_code, VarInt::from_u32(CLOSE_PROTOCOL));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_answers_is_not_read_from() {
    const STREAMS: u32 = 10_000;
    let served = Served::start();
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(1_000));
    let mut client = served.join(transport).await;
    let mut head = Vec::new();
    header(0, b"", b"").encode(&mut head);
    let connection = client.connection.clone();
    let sending = async move {
        for _ in 0..STREAMS {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&head).await.ok();
        }
    };
    let mut sending = Box::pin(sending);
    let stalled = tokio::time::timeout(Duration::from_secs(3), &mut sending).await;
    assert!(stalled.is_err(), "all answers wait in the server's memory");

    let reading = async {
        for _ in 0..STREAMS {
            assert_eq!(client.messages.next().await.unwrap(), Some(ToSender::Confirm(0)));
        }
    };
    let both = async { tokio::join!(sending, reading) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("it goes on");
}

/// First packets from made-up addresses, and a client that is real.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_go_nowhere_keep_nobody_out() {
    let served = Served::start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let config = Arc::new(quinn_proto::EndpointConfig::default());
    let begin = Instant::now();
    let mut is_asked_to_retry = false;
    while !is_asked_to_retry {
        assert!(begin.elapsed() < Duration::from_secs(30), "any number of handshakes is begun");
        let mut endpoint = quinn_proto::Endpoint::new(Arc::clone(&config), None, true, None);
        let (_, mut connection) = endpoint
            .connect(Instant::now(), served.client_config(), served.address, "localhost")
            .unwrap();
        let mut packet = Vec::new();
        drop(connection.poll_transmit(Instant::now(), 1, &mut packet));
        socket.send_to(&packet, served.address).unwrap();
        let mut answer = [0; 2_048];
        while socket.recv(&mut answer).is_ok() {
            // RFC 9000, 17.2.5: a long header of type 3.
            is_asked_to_retry |= answer[0] & 0xf0 == 0xf0;
        }
    }
    let joining = served.join(TransportConfig::default());
    tokio::time::timeout(Duration::from_secs(20), joining).await.expect("it is let in");
}

struct Disk {
    dir: tempfile::TempDir,
    sink: Sink,
}

impl Disk {
    fn new() -> Self {
        Self::with(Share::alone())
    }

    fn with(share: Arc<Share>) -> Self {
        let dir = tempfile::tempdir().expect("set up");
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("set up");
        let (root, names) = (Arc::new(root), OwnNames::new([1; 32]));
        let sink = Sink::within(share, root, names, "test".into(), None).expect("set up");
        Self { dir, sink }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn apply(&self, records: &[Record], content: &[u8]) -> Result<Applied, SinkError> {
        let mut table = Vec::new();
        for record in records {
            record.encode(&mut table);
        }
        self.sink.apply(&header(0, &table, content), &table, content)
    }
}

fn meta(mode: u32) -> Meta {
    Meta { mode, mtime_s: 1_000_000_000, mtime_ns: 5 }
}

/// The piece at `offset` of a file that is `data`, or a hole if `sparse`.
fn piece(item: u64, path: &str, data: &[u8], offset: u64, len: u64, sparse: bool) -> Record {
    let content = &data[offset as usize..][..len as usize];
    let runs = if sparse || len == 0 { vec![] } else { vec![Run { offset: 0, len }] };
    let file_bytes = data.len() as u64;
    Record::Piece(Piece {
        item,
        path: path.into(),
        meta: meta(0o640),
        source: SourceId {
            version: SourceVersion([1; 16]),
            state: SourceState([2; 16]),
            basis: SourceBasis([2; 16]),
        },
        file_bytes,
        sparse,
        is_based: false,
        offset,
        len,
        runs,
        hash: piece_hash(offset, content, file_bytes),
    })
}

#[test]
fn a_small_table_stands_for_little_work() {
    let disk = Disk::new();
    let empty = |item| piece(item, &format!("empty{item}"), b"", 0, 0, false);
    let mut records: Vec<_> = (0..RECORDS_MAX as u64).map(empty).collect();
    assert_eq!(disk.apply(&records, b"").unwrap(), Applied::Written);
    records.push(empty(RECORDS_MAX as u64));
    assert!(matches!(disk.apply(&records, b""), Err(SinkError::Protocol(_))));

    let zeros = vec![0; CONTENT_BYTES_MAX as usize];
    let full = piece(1, "sparse", &zeros, 0, CONTENT_BYTES_MAX.into(), true);
    let more = piece(2, "more", &[0], 0, 1, true);
    assert_eq!(disk.apply(std::slice::from_ref(&full), b"").unwrap(), Applied::Written);
    assert!(matches!(disk.apply(&[full, more], b""), Err(SinkError::Protocol(_))));
    assert_eq!(disk.sink.finish().unwrap().files, RECORDS_MAX as u64 + 1);
}

/// Where pieces do not touch, each takes memory, although holes are all that there is of them.
#[test]
fn what_is_kept_of_unfinished_files_is_bounded_and_given_back() {
    const CHUNK: u64 = 1_024;
    let disk = Disk::with(Descriptors::new(1_000, 1 << 20).join([1; 32]));
    let data = vec![0; 64 << 20];
    let gap =
        |item, number: u64| piece(item, &item.to_string(), &data, 2 * number * CHUNK, CHUNK, true);
    let fill = |item: u64| {
        let pieces = (0..data.len() as u64 / CHUNK / 2).map(|number| gap(item, number));
        let pieces: Vec<_> = pieces.collect();
        pieces.chunks(RECORDS_MAX).map(|some| disk.apply(some, b"")).find(Result::is_err)
    };
    let refused = fill(1);
    assert!(matches!(&refused, Some(Err(SinkError::Disk(why))) if why.contains("no memory")));
    assert_eq!(disk.apply(&[Record::Discard { item: 1 }], b"").unwrap(), Applied::Written);
    assert_eq!(disk.apply(&[gap(2, 0), gap(2, 1)], b"").unwrap(), Applied::Written);
    assert!(fill(2).is_some());
}

/// What a client has sent that is much work is not done to its end once nobody wants it.
#[test]
fn what_is_under_way_for_a_transfer_ends_with_it() {
    let disk = Disk::new();
    let path = |number: u64| format!("{number}{}", "/d".repeat(200));
    let folder =
        |number| Record::Folder { item: number, path: path(number).into(), meta: meta(0o755) };
    assert_eq!(disk.apply(&[folder(0)], b"").unwrap(), Applied::Written);
    assert!(disk.path(&path(0)).is_dir());
    let records: Vec<_> = (1..RECORDS_MAX as u64).map(folder).collect();
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| disk.apply(&records, b""));
        while !disk.path(&path(1)).exists() {
            assert!(!applying.is_finished(), "it does not wait for that");
        }
        disk.sink.end();
        assert!(matches!(applying.join().unwrap(), Err(SinkError::Disk(_))));
    });
    assert!(!disk.path("1000").exists());
}

#[test]
fn a_file_that_fails_is_told_once_however_its_parts_arrive() {
    let disk = Disk::new();
    fs::write(disk.path("file"), "not a folder").unwrap();
    let data = vec![1; 4_096];
    let part = |item, offset| piece(item, "file/new", &data, offset, 1_024, false);
    let seal = |item, hash| Record::Seal { item, hash };
    let hash = *blake3::hash(&data).as_bytes();
    for record in [part(1, 0), seal(1, hash), part(1, 1_024), part(1, 2_048)] {
        let content = if matches!(record, Record::Piece(_)) { &data[..1_024] } else { b"" };
        assert_eq!(disk.apply(&[record], content).unwrap(), Applied::Written);
    }
    let part = |offset| piece(2, "wrong", &data, offset, 1_024, false);
    for record in [part(0), part(1_024), part(2_048), seal(2, [0; 32]), part(3_072), part(0)] {
        let content = if matches!(record, Record::Piece(_)) { &data[..1_024] } else { b"" };
        assert_eq!(disk.apply(&[record], content).unwrap(), Applied::Written);
    }
    let outcome = disk.sink.finish().unwrap();
    let told: Vec<_> = outcome.failures.iter().map(|failed| &*failed.path).collect();
    assert_eq!(told, [&b"file/new"[..], b"wrong"]);
    assert!(!disk.path("wrong").exists());
}

#[test]
fn new_folders_are_private_until_they_get_their_modes() {
    let disk = Disk::new();
    let mode = |name: &str| fs::metadata(disk.path(name)).unwrap().mode() & 0o7777;
    fs::create_dir(disk.path("plain")).unwrap();
    fs::create_dir(disk.path("kept")).unwrap();
    fs::set_permissions(disk.path("kept"), fs::Permissions::from_mode(0o1777)).unwrap();
    let folder =
        |item, path: &str, mode| Record::Folder { item, path: path.into(), meta: meta(mode) };
    let file = piece(1, "c/d/file", b"data", 0, 4, false);
    let records = [file, folder(2, "a/b", 0o751), folder(3, "kept", 0o770)];
    assert_eq!(disk.apply(&records, b"data").unwrap(), Applied::Written);
    for path in ["a", "a/b", "c", "c/d"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    let outcome = disk.sink.finish().unwrap();
    assert_eq!(outcome.failures, []);
    for path in ["a", "c", "c/d"] {
        assert_eq!(mode(path), mode("plain"), "{path}");
    }
    assert_eq!((mode("a/b"), mode("c/d/file"), mode("kept")), (0o751, 0o640, 0o1770));
}
