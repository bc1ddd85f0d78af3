//! One direction of a connection, and the sockets at its ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Path;

/// A queue on the path holds this much; more is lost.
const QUEUE_TIME: Duration = Duration::from_millis(50);
/// What is late comes this much later than what was sent after it.
const LATE_TIME: Duration = Duration::from_millis(8);

/// A socket of the relay, which can be closed, opened again, and given another port.
pub(super) struct Port {
    socket: watch::Sender<Option<Arc<UdpSocket>>>,
    address: Mutex<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl Port {
    /// Needs a runtime, as all does that opens sockets.
    pub(super) fn new(address: SocketAddr, peer: Option<SocketAddr>) -> Self {
        let socket = open(address, peer).unwrap();
        let address = Mutex::new(socket.local_addr().unwrap());
        Self { socket: watch::Sender::new(Some(Arc::new(socket))), address, peer }
    }

    pub(super) fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap()
    }

    pub(super) fn shut(&self) {
        self.socket.send_replace(None);
    }

    /// Opens it where it was; a port that somebody else has by now is as good as another one, but not
    /// where clients send to.
    pub(super) fn open(&self) {
        if self.socket.borrow().is_some() {
            return;
        }
        for _ in 0..1_000 {
            if let Ok(socket) = open(self.address(), self.peer) {
                self.socket.send_replace(Some(Arc::new(socket)));
                return;
            }
            // Whoever had received from it may not have noticed yet that it is closed.
            thread::sleep(Duration::from_millis(1));
        }
        assert!(self.peer.is_some(), "{} is taken", self.address());
        self.rebind();
    }

    /// Moves to another port.
    pub(super) fn rebind(&self) {
        let mut address = self.address();
        address.set_port(0);
        let socket = open(address, self.peer).unwrap();
        *self.address.lock().unwrap() = socket.local_addr().unwrap();
        self.socket.send_replace(Some(Arc::new(socket)));
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> (usize, SocketAddr) {
        let mut current = self.socket.subscribe();
        loop {
            let socket = current.borrow_and_update().clone();
            let received = async {
                match socket {
                    Some(socket) => socket.recv_from(buffer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // An error tells of a server that is gone, which the client has to notice by itself.
                received = received => if let Ok(received) = received {
                    return received;
                },
                changed = current.changed() => changed.unwrap(),
            }
        }
    }

    /// What cannot be sent is lost, as on any network.
    async fn send(&self, datagram: &[u8], to: SocketAddr) {
        let socket = self.socket.borrow().clone();
        match (socket, self.peer) {
            (Some(socket), Some(_)) => drop(socket.send(datagram).await),
            (Some(socket), None) => drop(socket.send_to(datagram, to).await),
            (None, _) => {}
        }
    }
}

fn open(address: SocketAddr, peer: Option<SocketAddr>) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    if let Some(peer) = peer {
        socket.connect(peer)?;
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// What carriers and their lane have in common.
#[derive(Default)]
struct Carriage {
    is_cut: AtomicBool,
    delivered: AtomicU64,
    /// The largest datagram, in bytes.
    largest: AtomicUsize,
}

/// One direction of a connection.
pub(super) struct Lane {
    path: Path,
    carriage: Arc<Carriage>,
    /// Bytes per second.
    rate: AtomicU64,
    state: Mutex<(SmallRng, Instant)>,
    queue: UnboundedSender<(Instant, Vec<u8>)>,
    late: UnboundedSender<(Instant, Vec<u8>)>,
}

impl Lane {
    pub(super) fn new(path: Path, seed: u64, port: Arc<Port>, to: SocketAddr) -> Self {
        let carriage = Arc::<Carriage>::default();
        let state = Mutex::new((SmallRng::seed_from_u64(seed), Instant::now()));
        let queue = carrier(Arc::clone(&port), to, Arc::clone(&carriage));
        let late = carrier(port, to, Arc::clone(&carriage));
        let rate = AtomicU64::new(path.bytes_per_s as u64);
        Self { path, carriage, rate, state, queue, late }
    }

    pub(super) fn set_cut(&self, is_cut: bool) {
        self.carriage.is_cut.store(is_cut, Relaxed);
    }

    /// Bytes that have reached its end.
    pub(super) fn delivered(&self) -> u64 {
        self.carriage.delivered.load(Relaxed)
    }

    /// The largest datagram that was sent, in bytes.
    pub(super) fn largest(&self) -> usize {
        self.carriage.largest.load(Relaxed)
    }

    pub(super) fn set_rate(&self, bytes_per_s: f64) {
        self.rate.store(bytes_per_s as u64, Relaxed);
    }

    pub(super) fn send(&self, datagram: &[u8]) {
        let (rng, free_at) = &mut *self.state.lock().unwrap();
        let (path, now) = (&self.path, Instant::now());
        self.carriage.largest.fetch_max(datagram.len(), Relaxed);
        if self.carriage.is_cut.load(Relaxed) || rng.random_bool(path.lost) {
            return;
        }
        let starts_at = (*free_at).max(now);
        if starts_at - now > QUEUE_TIME {
            return;
        }
        let rate = self.rate.load(Relaxed) as f64;
        *free_at = starts_at + Duration::from_secs_f64(datagram.len() as f64 / rate);
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
    port: Arc<Port>,
    to: SocketAddr,
    carriage: Arc<Carriage>,
) -> UnboundedSender<(Instant, Vec<u8>)> {
    let (queue, mut waiting) = unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, datagram)) = waiting.recv().await {
            if at > Instant::now() {
                sleep_until(at).await;
            }
            if !carriage.is_cut.load(Relaxed) {
                carriage.delivered.fetch_add(datagram.len() as u64, Relaxed);
                port.send(&datagram, to).await;
            }
        }
    });
    queue
}
