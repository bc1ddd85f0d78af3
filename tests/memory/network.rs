//! A network in memory, in the runtime's time: hosts that reach each other over lanes, each connection
//! over one of them, which delay, queue, lose, reorder, double, damage and cut off what they carry. All of
//! them may have one line in common, which is what traffic of others shares with them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use qbulk::net::sockets::Sockets;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What is late comes so much later than what was sent after it.
const LATE_TIME: Duration = Duration::from_millis(8);
/// Ports that the system would choose from; servers have lower ones.
const FIRST_PORT: u16 = 40_000;

/// The halted clock waits for tasks, and not for the thread that looks through a push's source: it stands still for as
/// long as that takes, on a busy machine as well.
pub(crate) fn hold_time() {
    drop(tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(30))));
}

/// What one lane does to what it carries, either way; shares are of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) bytes_per_s: f64,
    /// Where the way back is another: its rate, and the share that it loses.
    pub(crate) back: Option<(f64, f64)>,
    /// One way.
    pub(crate) delay: Duration,
    /// What comes on top of it, up to this much, with the order kept.
    pub(crate) jitter: Duration,
    /// What does not fit is lost.
    pub(crate) queue: Duration,
    /// What fits does not wait: the queue is a policer's burst.
    pub(crate) polices: bool,
    pub(crate) lost: f64,
    /// How many are lost in a row, on average.
    pub(crate) lost_in_a_row: f64,
    pub(crate) late: f64,
    pub(crate) doubled: f64,
    pub(crate) damaged: f64,
    pub(crate) is_cut: bool,
    /// Larger datagrams are lost without a word.
    pub(crate) mtu: usize,
}

impl Lane {
    pub(crate) fn new(bytes_per_s: f64, delay: Duration) -> Self {
        Self {
            bytes_per_s,
            back: None,
            delay,
            jitter: Duration::ZERO,
            queue: Duration::from_millis(50),
            polices: false,
            lost: 0.0,
            lost_in_a_row: 1.0,
            late: 0.0,
            doubled: 0.0,
            damaged: 0.0,
            is_cut: false,
            mtu: 1_472,
        }
    }
}

/// A lane, and how things stand on it: towards the server, and back.
struct Hop {
    lane: Lane,
    ways: [Way; 2],
}

#[derive(Clone, Copy)]
struct Way {
    /// When it is free again.
    free_at: Instant,
    /// When what came last comes out.
    out_at: Instant,
    /// It is at losing several in a row.
    is_losing: bool,
}

impl Hop {
    fn new(lane: Lane) -> Self {
        let now = Instant::now();
        Self { lane, ways: [Way { free_at: now, out_at: now, is_losing: false }; 2] }
    }

    /// When something comes out that is put in at `at`, and how long it waits; `None` if it is lost.
    fn pass(
        &mut self,
        is_answer: bool,
        bytes: usize,
        at: Instant,
        rng: &mut SmallRng,
    ) -> Option<(Instant, Duration)> {
        let (lane, way) = (&self.lane, &mut self.ways[usize::from(is_answer)]);
        let (bytes_per_s, lost) =
            lane.back.filter(|_| is_answer).unwrap_or((lane.bytes_per_s, lane.lost));
        let in_a_row = lane.lost_in_a_row;
        let chance = if in_a_row <= 1.0 {
            lost
        } else if way.is_losing {
            1.0 - 1.0 / in_a_row
        } else {
            // Runs of losses begin so rarely that the share is right.
            lost / ((1.0 - lost) * in_a_row)
        };
        way.is_losing = rng.random_bool(chance);
        let starts_at = way.free_at.max(at);
        let wait = starts_at - at;
        if lane.is_cut || bytes > lane.mtu || wait > lane.queue || way.is_losing {
            return None;
        }
        way.free_at = starts_at + Duration::from_secs_f64(bytes as f64 / bytes_per_s);
        let sent_at = if lane.polices { at } else { way.free_at };
        let jitter = lane.jitter.mul_f64(rng.random_range(0.0..=1.0));
        way.out_at = way.out_at.max(sent_at + lane.delay + jitter);
        Some((way.out_at, if lane.polices { Duration::ZERO } else { wait }))
    }
}

/// What the lines have carried towards the server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    /// Bytes that clients have sent.
    pub(crate) sent_bytes: u64,
    /// Datagrams that have got through, and how long they have waited in queues, all together.
    pub(crate) datagrams: u32,
    pub(crate) waited: Duration,
}

/// All hosts and what is between them.
pub(crate) struct Network {
    state: Mutex<State>,
    /// Something is on its way that arrives earlier than all else.
    sooner: Notify,
}

struct State {
    rng: SmallRng,
    /// What all lanes have in common.
    trunk: Option<Hop>,
    lanes: Vec<Hop>,
    server: SocketAddr,
    /// Who is at other addresses as well, and addresses that nothing gets to or comes from any more.
    aliases: HashMap<SocketAddr, SocketAddr>,
    dead: HashSet<IpAddr>,
    sockets: HashMap<SocketAddr, Weak<Socket>>,
    /// What a client's address is to the others, and back.
    outside: HashMap<SocketAddr, SocketAddr>,
    inside: HashMap<SocketAddr, SocketAddr>,
    /// The last port that was given to a socket, and the last by which a client is known to the server. Not
    /// one for both: sockets opened one at a time would all be on one lane of two.
    last_port: u16,
    last_outside_port: u16,
    on_the_way: BinaryHeap<Reverse<Packet>>,
    sent: u64,
    /// Bytes that clients have sent and that have arrived, by lane.
    delivered: Vec<u64>,
    /// By the client's host.
    carried: HashMap<IpAddr, Carried>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Instant,
    number: u64,
    lane: usize,
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

impl Network {
    /// A network of `lanes` to `server`, and of a line that they have in common. Needs a tokio runtime.
    pub(crate) fn start(
        seed: u64,
        server: SocketAddr,
        lanes: Vec<Lane>,
        trunk: Option<Lane>,
    ) -> Arc<Self> {
        let network = Arc::new(Self {
            state: Mutex::new(State {
                rng: SmallRng::seed_from_u64(seed),
                delivered: vec![0; lanes.len()],
                carried: HashMap::new(),
                trunk: trunk.map(Hop::new),
                lanes: lanes.into_iter().map(Hop::new).collect(),
                server,
                aliases: HashMap::new(),
                dead: HashSet::new(),
                sockets: HashMap::new(),
                outside: HashMap::new(),
                inside: HashMap::new(),
                last_port: FIRST_PORT,
                last_outside_port: FIRST_PORT,
                on_the_way: BinaryHeap::new(),
                sent: 0,
            }),
            sooner: Notify::new(),
        });
        tokio::spawn(carry(Arc::downgrade(&network)));
        network
    }

    /// Sockets for a host of this network.
    pub(crate) fn host(self: &Arc<Self>, ip: IpAddr) -> Arc<dyn Sockets> {
        Arc::new(Host { network: Arc::clone(self), ip })
    }

    /// Changes lanes as `change` says, which is given their numbers.
    pub(crate) fn change(&self, mut change: impl FnMut(usize, &mut Lane)) {
        for (number, hop) in self.lock().lanes.iter_mut().enumerate() {
            change(number, &mut hop.lane);
        }
    }

    /// Changes what all lanes have in common.
    pub(crate) fn change_trunk(&self, change: impl FnOnce(&mut Lane)) {
        if let Some(hop) = &mut self.lock().trunk {
            change(&mut hop.lane);
        }
    }

    /// Gives each connection another address at the server's side, as a NAT does that was restarted.
    pub(crate) fn rebind(&self) {
        let mut state = self.lock();
        state.outside.clear();
        state.inside.clear();
    }

    /// Who is at `address` is at `alias` as well.
    pub(crate) fn alias(&self, alias: SocketAddr, address: SocketAddr) {
        self.lock().aliases.insert(alias, address);
    }

    /// Whether nothing gets to `ip`, nor comes from there.
    pub(crate) fn set_dead(&self, ip: IpAddr, is_dead: bool) {
        let dead = &mut self.lock().dead;
        if is_dead {
            dead.insert(ip)
        } else {
            dead.remove(&ip)
        };
    }

    /// Takes whoever is at `address` off the network, as if it were killed.
    pub(crate) fn unplug(&self, address: SocketAddr) {
        if let Some(socket) = self.lock().sockets.remove(&address).and_then(|it| it.upgrade()) {
            socket.is_unplugged.store(true, Relaxed);
        }
    }

    /// Bytes that have got from clients to the server so far, by lane.
    pub(crate) fn delivered(&self) -> Vec<u64> {
        self.lock().delivered.clone()
    }

    /// What was carried for the clients at `ip`.
    pub(crate) fn carried(&self, ip: IpAddr) -> Carried {
        self.lock().carried.get(&ip).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if self.lock().send(from, to, data) {
            self.sooner.notify_one();
        }
    }
}

impl State {
    /// True if what is sent arrives before all else.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> bool {
        // Servers may be anywhere, and have the lower ports.
        let is_answer = from.port() < FIRST_PORT;
        let (client, from, to) = if is_answer {
            let Some(&client) = self.inside.get(&to) else { return false };
            (client, from, client)
        } else {
            (from, self.outside_of(from), to)
        };
        let number = usize::from(client.port()) % self.lanes.len();
        let carried = self.carried.entry(client.ip()).or_default();
        carried.sent_bytes += if is_answer { 0 } else { data.len() as u64 };
        if self.dead.contains(&from.ip()) || self.dead.contains(&to.ip()) {
            return false;
        }
        let (mut at, mut waited) = (Instant::now(), Duration::ZERO);
        for hop in self.trunk.iter_mut().chain([&mut self.lanes[number]]) {
            let Some((out_at, wait)) = hop.pass(is_answer, data.len(), at, &mut self.rng) else {
                return false;
            };
            (at, waited) = (out_at, waited + wait);
        }
        if !is_answer {
            carried.datagrams += 1;
            carried.waited += waited;
        }
        let lane = self.lanes[number].lane;
        let is_late = self.rng.random_bool(lane.late);
        let at = at + if is_late { LATE_TIME } else { Duration::ZERO };
        let mut data = data.to_vec();
        if self.rng.random_bool(lane.damaged) {
            let byte = self.rng.random_range(0..data.len());
            data[byte] ^= self.rng.random_range(1..=255);
        }
        let is_first = self.on_the_way.peek().is_none_or(|Reverse(first)| at < first.at);
        for _ in 0..=usize::from(self.rng.random_bool(lane.doubled)) {
            self.sent += 1;
            let data = data.clone();
            let packet = Packet { at, number: self.sent, lane: number, from, to, data };
            self.on_the_way.push(Reverse(packet));
        }
        is_first
    }

    fn outside_of(&mut self, client: SocketAddr) -> SocketAddr {
        if let Some(&outside) = self.outside.get(&client) {
            return outside;
        }
        self.last_outside_port += 1;
        let outside = SocketAddr::new(client.ip(), self.last_outside_port);
        self.outside.insert(client, outside);
        self.inside.insert(outside, client);
        outside
    }

    fn new_port(&mut self) -> u16 {
        self.last_port += 1;
        self.last_port
    }

    /// Hands over what has arrived. Returns when more does.
    fn deliver(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse(first)) = self.on_the_way.peek() {
            if first.at > now {
                return Some(first.at);
            }
            let Some(Reverse(packet)) = self.on_the_way.pop() else { break };
            let Packet { lane, from, to, data, .. } = packet;
            let at = self.aliases.get(&to).unwrap_or(&to);
            let socket = self.sockets.get(at).and_then(Weak::upgrade);
            if let (Some(socket), false) = (socket, self.lanes[lane].lane.is_cut) {
                if to.port() == self.server.port() {
                    self.delivered[lane] += data.len() as u64;
                }
                socket.take(from, to.ip(), data);
            }
        }
        None
    }
}

/// Delivers what is on its way, until the network is gone.
async fn carry(network: Weak<Network>) {
    while let Some(network) = network.upgrade() {
        let next = network.lock().deliver(Instant::now());
        let arrival = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Looks from time to time whether there still is somebody.
        let look = tokio::time::sleep(Duration::from_secs(1));
        tokio::select! {
            () = arrival => {}
            () = network.sooner.notified() => {}
            () = look => {}
        }
    }
}

struct Host {
    network: Arc<Network>,
    ip: IpAddr,
}

impl Sockets for Host {
    fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.network.lock();
        let port = if local.port() == 0 { state.new_port() } else { local.port() };
        let address = SocketAddr::new(self.ip, port);
        let is_taken = state.sockets.get(&address).is_some_and(|other| other.strong_count() > 0);
        if is_taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let network = Arc::clone(&self.network);
        let (inbox, is_unplugged) = (Mutex::default(), AtomicBool::new(false));
        let socket = Arc::new(Socket { network, address, is_unplugged, inbox });
        state.sockets.insert(address, Arc::downgrade(&socket));
        Ok(socket)
    }
}

struct Socket {
    network: Arc<Network>,
    address: SocketAddr,
    is_unplugged: AtomicBool,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// From where, to which of this host's addresses, and what.
    waiting: VecDeque<(SocketAddr, IpAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

impl Socket {
    fn take(&self, from: SocketAddr, to: IpAddr, data: Vec<u8>) {
        let mut inbox = self.inbox.lock().expect("nobody panics with it");
        inbox.waiting.push_back((from, to, data));
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_unplugged.load(Relaxed) {
            return Ok(());
        }
        let datagram_bytes = transmit.segment_size.unwrap_or(transmit.contents.len());
        let ip = transmit.src_ip.unwrap_or(self.address.ip());
        let from = SocketAddr::new(ip, self.address.port());
        for datagram in transmit.contents.chunks(datagram_bytes) {
            self.network.send(from, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().expect("nobody panics with it");
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, to, data)) = inbox.waiting.pop_front() else { break };
            buf[..data.len()].copy_from_slice(&data);
            *meta = RecvMeta {
                addr: from,
                len: data.len(),
                stride: data.len(),
                ecn: None,
                dst_ip: Some(to),
            };
            count += 1;
        }
        if count == 0 {
            inbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        64 // as Linux
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
