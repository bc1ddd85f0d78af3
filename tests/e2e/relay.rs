//! A network between a push and its server: a UDP relay that keeps the connections apart, and delays,
//! slows, loses, reorders, doubles and damages what they send, or cuts them off.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// What the network does to each connection, in both directions; shares are of its datagrams.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) bytes_per_s: f64,
    /// One way.
    pub(crate) delay: Duration,
    pub(crate) lost: f64,
    pub(crate) late: f64,
    pub(crate) doubled: f64,
    pub(crate) damaged: f64,
    pub(crate) seed: u64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            bytes_per_s: 1e9,
            delay: Duration::ZERO,
            lost: 0.0,
            late: 0.0,
            doubled: 0.0,
            damaged: 0.0,
            seed: 1,
        }
    }
}

/// A queue on the path holds this much; more is lost.
const QUEUE_TIME: Duration = Duration::from_millis(50);
/// What is late comes this much later than what was sent after it.
const LATE_TIME: Duration = Duration::from_millis(8);
/// Anything larger carries data or padding.
const LARGE: usize = 1_000;

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    faults: Arc<Faults>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Faults {
    /// Bytes that came from the client.
    carried: AtomicU64,
    /// Once so much was carried, whichever connection sends data next is cut off.
    cut_one_at: AtomicU64,
    cut_all: AtomicBool,
    /// The client's port of the connection that was cut off; 0 before.
    cut_port: AtomicU16,
}

impl Relay {
    pub(crate) fn start(server: SocketAddr, path: Path) -> Self {
        let faults = Arc::new(Faults { cut_one_at: u64::MAX.into(), ..Faults::default() });
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let shared = Arc::clone(&faults);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                bound.send(front.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = run(Arc::new(front), server, path, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        let address = address.recv().unwrap();
        Self { address, faults, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("qbulk://{}/{path}", self.address)
    }

    /// Bytes that came from the client so far.
    pub(crate) fn carried(&self) -> u64 {
        self.faults.carried.load(Relaxed)
    }

    /// Cuts one connection off for good, in the middle of what it sends, after `bytes` of the whole.
    pub(crate) fn cut_one_at(&self, bytes: u64) {
        self.faults.cut_one_at.store(bytes, Relaxed);
    }

    /// The client's port of the connection that was cut off; 0 if none was.
    pub(crate) fn cut_port(&self) -> u16 {
        self.faults.cut_port.load(Relaxed)
    }

    /// Nothing passes any more.
    pub(crate) fn cut_all(&self) {
        self.faults.cut_all.store(true, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn run(front: Arc<UdpSocket>, server: SocketAddr, path: Path, faults: Arc<Faults>) {
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((bytes, client)) = front.recv_from(&mut buffer).await else { continue };
        let carried = faults.carried.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        if !flows.contains_key(&client) {
            let seed = path.seed + 2 * flows.len() as u64;
            flows.insert(client, Flow::open(Arc::clone(&front), client, server, path, seed).await);
        }
        let flow = &flows[&client];
        if bytes > LARGE && carried >= faults.cut_one_at.load(Relaxed) {
            faults.cut_one_at.store(u64::MAX, Relaxed);
            faults.cut_port.store(client.port(), Relaxed);
            flow.cut.store(true, Relaxed);
        }
        if faults.cut_all.load(Relaxed) {
            flow.cut.store(true, Relaxed);
        }
        flow.there.send(&buffer[..bytes]);
    }
}

/// One connection, with a port of its own towards the server.
struct Flow {
    cut: Arc<AtomicBool>,
    there: Lane,
}

impl Flow {
    async fn open(
        front: Arc<UdpSocket>,
        client: SocketAddr,
        server: SocketAddr,
        path: Path,
        seed: u64,
    ) -> Self {
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        back.connect(server).await.unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let there = Lane::new(path, seed, Arc::clone(&cut), Arc::clone(&back), server);
        let here = Lane::new(path, seed + 1, Arc::clone(&cut), front, client);
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // An error tells of a server that is gone, which the client has to notice by itself.
                if let Ok(bytes) = back.recv(&mut buffer).await {
                    here.send(&buffer[..bytes]);
                }
            }
        });
        Self { cut, there }
    }
}

/// One direction of a connection.
struct Lane {
    path: Path,
    cut: Arc<AtomicBool>,
    state: Mutex<(SmallRng, Instant)>,
    queue: UnboundedSender<(Instant, Vec<u8>)>,
    late: UnboundedSender<(Instant, Vec<u8>)>,
}

impl Lane {
    fn new(
        path: Path,
        seed: u64,
        cut: Arc<AtomicBool>,
        socket: Arc<UdpSocket>,
        to: SocketAddr,
    ) -> Self {
        let state = Mutex::new((SmallRng::seed_from_u64(seed), Instant::now()));
        let queue = carrier(Arc::clone(&socket), to, Arc::clone(&cut));
        let late = carrier(socket, to, Arc::clone(&cut));
        Self { path, cut, state, queue, late }
    }

    fn send(&self, datagram: &[u8]) {
        let (rng, free_at) = &mut *self.state.lock().unwrap();
        let (path, now) = (&self.path, Instant::now());
        if self.cut.load(Relaxed) || rng.random_bool(path.lost) {
            return;
        }
        let starts_at = (*free_at).max(now);
        if starts_at - now > QUEUE_TIME {
            return;
        }
        *free_at = starts_at + Duration::from_secs_f64(datagram.len() as f64 / path.bytes_per_s);
        let arrives_at = *free_at + path.delay;
        let mut datagram = datagram.to_vec();
        if rng.random_bool(path.damaged) {
            let at = rng.random_range(0..datagram.len());
            datagram[at] ^= rng.random_range(1..=255);
        }
        if rng.random_bool(path.doubled) {
            self.queue.send((arrives_at, datagram.clone())).ok();
        }
        let is_late = rng.random_bool(path.late);
        let (queue, at) =
            if is_late { (&self.late, arrives_at + LATE_TIME) } else { (&self.queue, arrives_at) };
        queue.send((at, datagram)).ok();
    }
}

/// Sends datagrams in the order of the queue, each when its time has come.
fn carrier(
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    cut: Arc<AtomicBool>,
) -> UnboundedSender<(Instant, Vec<u8>)> {
    let (queue, mut waiting) = unbounded_channel::<(Instant, Vec<u8>)>();
    let is_connected = socket.peer_addr().is_ok();
    tokio::spawn(async move {
        while let Some((at, datagram)) = waiting.recv().await {
            if at > Instant::now() {
                sleep_until(at).await;
            }
            if cut.load(Relaxed) {
                continue;
            }
            // What cannot be sent is lost, as on any network.
            if is_connected {
                socket.send(&datagram).await.ok();
            } else {
                socket.send_to(&datagram, to).await.ok();
            }
        }
    });
    queue
}
