//! A push and its server over a network in memory.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qbulk::client::{PushConfig, push};
use qbulk::error::Error;
use qbulk::event::{Progress, PushEvent, Summary};
use qbulk::identity::Identity;
use qbulk::net::tls::{ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::network::{Carried, Lane, Network, hold_time};

const SERVER: &str = "198.51.100.1:4433";
const CLIENT: &str = "203.0.113.1";
/// Halted time runs on while a thread writes, as if the disk were slow. It is held to this many times the
/// real one, and the files are in memory where there is room for them.
const HASTE: u32 = 20;
const IN_MEMORY: &str = "/dev/shm";

pub(crate) struct Scene {
    dir: tempfile::TempDir,
    identity: Arc<Identity>,
    pub(crate) network: Arc<Network>,
    pub(crate) bytes: usize,
    server: Mutex<AbortHandle>,
    address: Mutex<SocketAddr>,
    /// The server has confirmed something.
    is_begun: Arc<AtomicBool>,
    /// Connections that were up at a time, at most, since this was last asked.
    connections_most: Arc<AtomicUsize>,
    pacer: AbortHandle,
}

impl Scene {
    /// A server, and a file of `bytes` to push to it over `lanes`.
    pub(crate) fn new(seed: u64, bytes: usize, lanes: Vec<Lane>) -> Self {
        Self::with_trunk(seed, bytes, lanes, None)
    }

    /// The same, with a line that all lanes have in common.
    pub(crate) fn with_trunk(
        seed: u64,
        bytes: usize,
        lanes: Vec<Lane>,
        trunk: Option<Lane>,
    ) -> Self {
        // The folders are made in real time.
        let dir = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir());
        let dir = dir.expect("a folder");
        let identity = Arc::new(Identity::load_or_create(dir.path()).expect("an identity"));
        fs::create_dir(dir.path().join("root")).expect("a root");
        let mut data = vec![0; bytes];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
        fs::write(dir.path().join("file"), data).expect("a file");
        let network = Network::start(seed, address(), lanes, trunk);
        let server = Mutex::new(serve(dir.path(), &identity, &network, address()));
        let address = Mutex::new(address());
        let pacer = tokio::spawn(hold_back()).abort_handle();
        Self {
            dir,
            identity,
            network,
            bytes,
            server,
            address,
            is_begun: Arc::default(),
            connections_most: Arc::default(),
            pacer,
        }
    }

    /// Pushes the file, as `adapt` wants it.
    pub(crate) async fn push_with(
        &self,
        adapt: impl FnOnce(&mut PushConfig),
    ) -> Result<Summary, Error> {
        let trust = ClientTrust::Pinned([self.identity.fingerprint()].into());
        let (sources, identity) = (vec![self.dir.path().join("file")], Arc::clone(&self.identity));
        let mut config = PushConfig {
            destination: b"copy".into(),
            sockets: self.network.host(CLIENT.parse().expect("an address")),
            ..PushConfig::new(sources, vec![address()], "server", identity, trust)
        };
        adapt(&mut config);
        let (is_begun, began) = (Arc::clone(&self.is_begun), Instant::now());
        let most = Arc::clone(&self.connections_most);
        let tell = move |event| match event {
            PushEvent::Progress(Progress { confirmed_bytes, connections, .. }) => {
                most.fetch_max(connections, Relaxed);
                is_begun.fetch_or(confirmed_bytes > 0, Relaxed);
            }
            // Shown of tests that fail.
            event => println!("{:?}: {event:?}", began.elapsed()),
        };
        hold_time();
        push(config, Arc::new(tell), std::future::pending()).await
    }

    /// How many connections were up at a time, at most, since this was last asked.
    pub(crate) fn connections_most(&self) -> usize {
        self.connections_most.swap(0, Relaxed)
    }

    pub(crate) async fn push(&self) -> Result<Summary, Error> {
        self.push_with(|_| ()).await
    }

    /// Waits until the server has confirmed something, and so much of the file has arrived, counted with
    /// what it takes to send it.
    pub(crate) async fn arrived(&self, share: f64) {
        while !self.is_begun.load(Relaxed) || self.arrived_share() < share {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Cuts all lanes off, or no longer.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.network.change(|_, lane| lane.is_cut = is_cut);
    }

    /// What the network has carried for the client.
    pub(crate) fn carried(&self) -> Carried {
        self.network.carried(CLIENT.parse().expect("an address"))
    }

    pub(crate) fn arrived_share(&self) -> f64 {
        self.network.delivered().iter().sum::<u64>() as f64 / self.bytes as f64
    }

    /// Ends the server without a word, and starts it again after `pause`.
    pub(crate) async fn restart_server(&self, pause: Duration) {
        let same = *self.address.lock().expect("nobody panics with it");
        self.move_server(pause, same).await;
    }

    /// The same, and then it is at `address`.
    pub(crate) async fn move_server(&self, pause: Duration, address: SocketAddr) {
        let before = {
            let mut current = self.address.lock().expect("nobody panics with it");
            std::mem::replace(&mut *current, address)
        };
        self.network.unplug(before);
        self.server.lock().expect("nobody panics with it").abort();
        sleep(pause).await;
        *self.server.lock().expect("nobody panics with it") =
            serve(self.dir.path(), &self.identity, &self.network, address);
    }

    /// The file has arrived as it is, and nothing is left besides it.
    pub(crate) async fn check(&self) {
        let root = self.dir.path().join("root");
        let is_same = fs::read(self.dir.path().join("file")).expect("the file")
            == fs::read(root.join("copy")).expect("the copy");
        assert!(is_same, "the copy differs");
        // The server sees the transfer off once the client's farewell has arrived, or is missed.
        let waited_from = Instant::now();
        loop {
            let left = names(&root);
            if left == [PathBuf::from("copy")] {
                break;
            }
            assert!(waited_from.elapsed() < Duration::from_secs(60), "left behind: {left:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.pacer.abort();
        self.server.lock().expect("nobody panics with it").abort();
    }
}

pub(crate) fn address() -> SocketAddr {
    SERVER.parse().expect("an address")
}

fn serve(
    dir: &Path,
    identity: &Arc<Identity>,
    network: &Arc<Network>,
    address: SocketAddr,
) -> AbortHandle {
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let config = ServeConfig {
        sockets: network.host(address.ip()),
        ..ServeConfig::new(address, dir.join("root"), Arc::clone(identity), trust)
    };
    let server = Server::bind(config).expect("a server");
    tokio::spawn(server.run(Arc::new(|_| ()), std::future::pending())).abort_handle()
}

fn names(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).expect("the root");
    entries.map(|entry| entry.expect("an entry").file_name().into()).collect()
}

/// Has the runtime's time go at most [`HASTE`] times as fast as the real one.
async fn hold_back() {
    let (halted, real) = (Instant::now(), std::time::Instant::now());
    loop {
        sleep(Duration::from_millis(5)).await;
        let ahead = (halted.elapsed() / HASTE).saturating_sub(real.elapsed());
        if !ahead.is_zero() {
            // Time does not go on while this works.
            let wait = tokio::task::spawn_blocking(move || std::thread::sleep(ahead));
            wait.await.expect("it only sleeps");
        }
    }
}
