//! A receiver without a server: it has dialled, and whoever was dialled sends.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use quinn::{Connection, Endpoint, SendStream, VarInt};
use tokio::task::JoinHandle;

use super::room::Bounded;
use super::{Inflow, Left, Padding, Receiver};
use crate::congestion::{Algorithm, BudgetConfig, SharedBudget, cubic};
use crate::hashtree::piece_hash;
use crate::identity::Identity;
use crate::net::control::ControlReader;
use crate::net::controllers::Late;
use crate::net::endpoint::{self, SAID_WINDOW_BYTES};
use crate::net::path::PathMtu;
use crate::net::sockets::SystemSockets;
use crate::net::telemetry::Telemetry;
use crate::net::tls::{self, ClientTrust, ServerTrust};
use crate::net::windows::{Bounds, Windows};
use crate::store::own::OwnNames;
use crate::store::sink::Sink;
use crate::wire::{
    CLOSE_DONE, Header, Message, Meta, Piece, Record, Run, SourceBasis, SourceId, SourceState,
    SourceVersion, ToReceiver, ToSender,
};
use crate::work::Work;

/// Less room than any stripe takes: each gets all of it.
const ROOM_BYTES: usize = 16;
const PATIENCE: Duration = Duration::from_secs(20);

/// The end that was dialled, and sends.
struct Dialled {
    _endpoint: Endpoint,
    connection: Connection,
    control: SendStream,
    messages: ControlReader,
    controllers: Arc<Late>,
    telemetry: Arc<Telemetry>,
}

impl Dialled {
    async fn say(&mut self, message: &ToReceiver) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.control.write_all(&bytes).await.unwrap();
    }

    async fn hear(&mut self) -> ToSender {
        let heard = tokio::time::timeout(PATIENCE, self.messages.next()).await;
        heard.expect("in time").unwrap().expect("a message")
    }

    /// Sends `content`, which is announced as the file `path`.
    async fn send(&self, stripe: u64, path: &str, content: &[u8]) {
        let mut table = Vec::new();
        file(path, b"data").encode(&mut table);
        let header = Header {
            stripe,
            table_bytes: table.len() as u32,
            content_bytes: content.len() as u32,
            unpacked_bytes_max: 0,
            table_hash: *blake3::hash(&table).as_bytes(),
        };
        let mut head = Vec::new();
        header.encode(&mut head);
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&[head.as_slice(), &table, content].concat()).await.unwrap();
        stream.finish().unwrap();
    }
}

fn source() -> SourceId {
    SourceId {
        version: SourceVersion([1; 16]),
        state: SourceState([2; 16]),
        basis: SourceBasis([3; 16]),
    }
}

fn file(path: &str, data: &[u8]) -> Record {
    let len = data.len() as u64;
    Record::Piece(Piece {
        item: 1,
        path: path.into(),
        meta: Meta { mode: 0o640, mtime_s: 1_000_000_000, mtime_ns: 5 },
        source: source(),
        file_bytes: len,
        sparse: false,
        is_based: false,
        offset: 0,
        len,
        runs: vec![Run { offset: 0, len }],
        hash: piece_hash(0, data, len),
    })
}

/// Two ends of a connection. What comes over it is taken by `receiver`, which has dialled.
async fn connect(receiver: &Arc<Receiver>) -> (Dialled, JoinHandle<Left>) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_create(dir.path()).unwrap();
    let allowed = [identity.fingerprint()];
    let trust = ServerTrust { allowed: allowed.into(), ..ServerTrust::default() };
    let server_tls = Arc::new(tls::server_config(&identity, trust).unwrap());
    let client_tls = tls::client_config(&identity, ClientTrust::Pinned(allowed.into())).unwrap();

    let local = "127.0.0.1:0".parse().unwrap();
    let dialled =
        endpoint::server(&SystemSockets, local, Arc::clone(&server_tls), &[1; 32]).unwrap();
    let address = dialled.local_addr().unwrap();
    let mtu = PathMtu::of(address, 1_472);
    let (controllers, telemetry) = (Late::new(cubic()), Arc::<Telemetry>::default());
    let accepting = async {
        let incoming = dialled.accept().await.unwrap();
        let controllers = Arc::clone(&controllers);
        let telemetry = Arc::clone(&telemetry);
        let config = endpoint::server_config(server_tls, mtu, 1 << 20, controllers, telemetry);
        incoming.accept_with(Arc::new(config)).unwrap().await.unwrap()
    };
    let dialling = async {
        let endpoint = endpoint::client(&SystemSockets, local, mtu).unwrap();
        let config = endpoint::client_config(Arc::new(client_tls), mtu, cubic(), Arc::default());
        endpoint.connect_with(config, address, "localhost").unwrap().await.unwrap()
    };
    let (theirs, ours) = tokio::join!(accepting, dialling);

    let (answers, messages) = ours.open_bi().await.unwrap();
    let padding = Padding::count(ours.clone());
    let inflow = Inflow::new(ours.clone(), 0, ControlReader::new(messages), answers, padding);
    let bounds = Bounds { all: 1 << 20, own: 1 << 20, least: 1 << 20, most: 1 << 20 };
    let window = Windows::new(bounds).widen([0; 32], &ours, SAID_WINDOW_BYTES);
    inflow.say(ToSender::KeptEnd);
    assert!(receiver.join(inflow.number(), inflow.connection()));
    let receiver = Arc::clone(receiver);
    let receiving = tokio::spawn(async move { inflow.run(&receiver, window).await });
    let (control, messages) = theirs.accept_bi().await.unwrap();
    let messages = ControlReader::new(messages);
    let mut dialled = Dialled {
        _endpoint: dialled,
        connection: theirs,
        control,
        messages,
        controllers,
        telemetry,
    };
    assert_eq!(dialled.hear().await, ToSender::KeptEnd);
    (dialled, receiving)
}

fn receiver(root: &Path) -> Arc<Receiver> {
    let root = Dir::open_ambient_dir(root, ambient_authority()).unwrap();
    let names = OwnNames::new([1; 32]);
    let sink = Sink::new(Arc::new(root), names, "test".into(), None).unwrap();
    Arc::new(Receiver::new(sink, Bounded::new(ROOM_BYTES, ROOM_BYTES), Work::alone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dials_can_receive() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver(dir.path());
    let (mut sender, receiving) = connect(&receiver).await;
    sender.connection.send_datagram(vec![0; 1_000].into()).unwrap();
    sender.send(0, "one", b"daft").await;
    assert_eq!(sender.hear().await, ToSender::Damaged(0));
    for round in 0..2 {
        sender.send(0, "one", b"data").await;
        assert_eq!(sender.hear().await, ToSender::Confirm(0), "{round}");
    }
    sender.send(1, "folder/two", b"data").await;
    assert_eq!(sender.hear().await, ToSender::Confirm(1));
    sender.say(&ToReceiver::Finish { stripes: 2 }).await;
    let ToSender::Finished { files, bytes, padding_bytes, .. } = sender.hear().await else {
        panic!("it is finished")
    };
    assert_eq!((files, bytes, padding_bytes), (2, 8, 1_000));
    assert_eq!(fs::read(dir.path().join("one")).unwrap(), b"data");
    assert_eq!(fs::read(dir.path().join("folder/two")).unwrap(), b"data");
    sender.connection.close(VarInt::from_u32(CLOSE_DONE), b"");
    assert!(matches!(receiving.await.unwrap(), Left::Done));
    assert_eq!(receiver.leave(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_asked_for_one_thing_writes_nothing_beside_it() {
    for (path, is_wanted) in [
        ("wanted", true),
        ("wanted/below", true),
        ("beside", false),
        ("wanted2", false),
        ("folder/wanted", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let sink = Sink::new(Arc::new(root), OwnNames::new([1; 32]), "test".into(), None).unwrap();
        let room = Bounded::new(ROOM_BYTES, ROOM_BYTES);
        let receiver =
            Arc::new(Receiver::new(sink.only_at(b"wanted".to_vec()), room, Work::alone()));
        let (mut sender, receiving) = connect(&receiver).await;
        sender.send(0, path, b"data").await;
        if is_wanted {
            assert_eq!(sender.hear().await, ToSender::Confirm(0), "{path}");
            continue;
        }
        tokio::time::timeout(PATIENCE, receiving).await.expect("in time").unwrap();
        assert!(receiver.is_broken(), "{path}");
        let why = receiver.end_reason().unwrap();
        assert!(why.contains("nobody has asked for"), "{why}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_dialled_sends_by_the_budget_that_it_is_bound_to_late() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver(dir.path());
    let (mut sender, _receiving) = connect(&receiver).await;
    let now = tokio::time::Instant::now().into_std();
    let budget = SharedBudget::new(BudgetConfig::default(), now);
    let mtu = sender.connection.stats().path.current_mtu;
    assert!(sender.controllers.bind(Algorithm::Model.controllers(&budget), mtu, now));
    sender.send(0, "one", b"data").await;
    assert_eq!(sender.hear().await, ToSender::Confirm(0));
    let window = || sender.connection.congestion_state().metrics().congestion_window;
    // Sixteen packets, and one for which quinn leaves no room.
    assert_eq!(window(), 17 * 1_472, "of the budget");
    assert!(sender.telemetry.sample().delivered_bytes > 0);
    assert_eq!(sender.telemetry.sample().window_bytes, window());
}
