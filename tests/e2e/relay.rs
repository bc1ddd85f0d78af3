//! A network between a push and its server: a UDP relay that keeps the connections apart, and delays,
//! slows, loses, reorders, doubles and damages what they send, cuts them off, turns them away, and
//! changes their addresses under way.

mod lane;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use self::lane::{Lane, Port};
use crate::common::{Host, free_address};

/// The largest datagram that either end may send over it, in bytes.
pub(crate) const MTU: usize = 1_472;

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

/// Which connections a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// All that there are, and all that are opened until it is over.
    All,
    /// Every other one of those that there are.
    Half,
    /// The one that last carried data.
    One,
}

/// Which way datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
    Both,
}

/// Anything larger carries data or padding.
const LARGE: usize = 1_000;

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    net: Arc<Net>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Net {
    server: SocketAddr,
    path: Path,
    /// Where the clients send to.
    front: Arc<Port>,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
    /// Bytes that came from the client.
    carried: AtomicU64,
    /// Once so much was carried, whichever connection sends data next is cut off.
    cut_one_at: AtomicU64,
    /// The client's port of the connection that was cut off; 0 before.
    cut_port: AtomicU16,
    /// So many of the connections that are opened next are cut off from their start.
    cut_next: AtomicUsize,
    /// Connections that are opened now are cut off: to the server, to the client.
    cut_new: [AtomicBool; 2],
    /// What they carry, in bytes per second.
    pace_new: AtomicU64,
    /// Where nobody listens, what is sent is turned away.
    is_shut: AtomicBool,
}

/// One connection, with a port of its own towards the server.
struct Flow {
    number: usize,
    back: Arc<Port>,
    to_server: Lane,
    to_client: Lane,
    /// What the relay had carried when it last carried data.
    busy_at: AtomicU64,
}

impl Relay {
    pub(crate) fn start(server: SocketAddr, path: Path) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let net = Arc::new(Net::new(server, path));
                ready.send((Arc::clone(&net), Handle::current())).unwrap();
                tokio::select! {
                    () = net.run() => {}
                    _ = stopped => {}
                }
            });
        });
        let (net, runtime) = started.recv().unwrap();
        Self { address: net.front.address(), net, runtime, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("qbulk://{}/{path}", self.address)
    }

    /// A push with `--json` over this network, whose packets are not as large as those of the loopback.
    pub(crate) fn pushing(&self, host: &Host, sources: &[&OsStr]) -> Command {
        let mut command = host.pushing(sources, &self.url(""));
        command.args(["--mtu", &MTU.to_string()]);
        command
    }

    /// A pull with `--json` over this network.
    pub(crate) fn pulling(&self, host: &Host, source: &str, to: &std::path::Path) -> Command {
        let mut command = host.qbulk();
        command.args(["pull", "--json", "--mtu", &MTU.to_string()]).arg(self.url(source)).arg(to);
        command
    }

    /// The largest datagram of those connections that there are, in bytes.
    pub(crate) fn largest(&self) -> usize {
        let flows = self.net.choose(Lanes::All);
        let of = |flow: &Arc<Flow>| flow.to_server.largest().max(flow.to_client.largest());
        flows.iter().map(of).max().unwrap_or_default()
    }

    /// Bytes that have got through so far: to the server, and to the client.
    pub(crate) fn delivered(&self) -> [u64; 2] {
        let flows = self.net.choose(Lanes::All);
        let sum = |lane: fn(&Flow) -> &Lane| flows.iter().map(|flow| lane(flow).delivered()).sum();
        [sum(|flow| &flow.to_server), sum(|flow| &flow.to_client)]
    }

    /// Cuts one connection off for good, in the middle of what it sends, after `bytes` of the whole.
    pub(crate) fn cut_one_at(&self, bytes: u64) {
        self.net.cut_one_at.store(bytes, Relaxed);
    }

    /// The client's port of the connection that was cut off; 0 if none was.
    pub(crate) fn cut_port(&self) -> u16 {
        self.net.cut_port.load(Relaxed)
    }

    /// Cuts off the next `count` connections, from their start.
    pub(crate) fn cut_next(&self, count: usize) {
        self.net.cut_next.store(count, Relaxed);
    }

    /// What `lanes` carry `way` is lost from now on.
    pub(crate) fn cut(&self, lanes: Lanes, way: Way) {
        for flow in self.net.choose(lanes) {
            flow.cut(way);
        }
        if lanes == Lanes::All {
            let [to_server, to_client] = &self.net.cut_new;
            to_server.store(way != Way::ToClient, Relaxed);
            to_client.store(way != Way::ToServer, Relaxed);
        }
    }

    /// Turns `lanes` away: what the server sends finds no port any more, and, if they are all, what
    /// the client sends does not either.
    pub(crate) fn reject(&self, lanes: Lanes) {
        for flow in self.net.choose(lanes) {
            flow.cut(Way::Both);
            flow.back.shut();
        }
        if lanes == Lanes::All {
            self.net.is_shut.store(true, Relaxed);
            self.net.front.shut();
        }
    }

    /// The network is as it was at first.
    pub(crate) fn heal(&self) {
        let _in_runtime = self.runtime.enter();
        for cut in &self.net.cut_new {
            cut.store(false, Relaxed);
        }
        for flow in self.net.choose(Lanes::All) {
            flow.back.open();
            flow.to_server.set_cut(false);
            flow.to_client.set_cut(false);
        }
        if self.net.is_shut.swap(false, Relaxed) {
            self.net.front.open();
        }
    }

    /// From now on `lanes` carry so much per second each.
    pub(crate) fn pace(&self, lanes: Lanes, bytes_per_s: f64) {
        if lanes == Lanes::All {
            self.net.pace_new.store(bytes_per_s as u64, Relaxed);
        }
        for flow in self.net.choose(lanes) {
            flow.to_server.set_rate(bytes_per_s);
            flow.to_client.set_rate(bytes_per_s);
        }
    }

    /// The server sees what `lanes` send come from other ports from now on.
    pub(crate) fn rebind(&self, lanes: Lanes) {
        let _in_runtime = self.runtime.enter();
        for flow in self.net.choose(lanes) {
            flow.back.rebind();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Net {
    fn new(server: SocketAddr, path: Path) -> Self {
        Self {
            server,
            path,
            front: Arc::new(Port::new(free_address(), None)),
            flows: Mutex::default(),
            carried: AtomicU64::new(0),
            cut_one_at: AtomicU64::new(u64::MAX),
            cut_port: AtomicU16::new(0),
            cut_next: AtomicUsize::new(0),
            cut_new: Default::default(),
            pace_new: AtomicU64::new(path.bytes_per_s as u64),
            is_shut: AtomicBool::new(false),
        }
    }

    async fn run(self: &Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        loop {
            let (bytes, client) = self.front.receive(&mut buffer).await;
            let carried = self.carried.fetch_add(bytes as u64, Relaxed) + bytes as u64;
            let flow = self.flow(client);
            if bytes > LARGE {
                flow.busy_at.store(carried, Relaxed);
                if carried >= self.cut_one_at.load(Relaxed) {
                    self.cut_one_at.store(u64::MAX, Relaxed);
                    self.cut_port.store(client.port(), Relaxed);
                    flow.cut(Way::Both);
                }
            }
            flow.to_server.send(&buffer[..bytes]);
        }
    }

    /// The connection of a client's address; a new one if there is none yet.
    fn flow(&self, client: SocketAddr) -> Arc<Flow> {
        let mut flows = self.flows.lock().unwrap();
        let number = flows.len();
        let flow = flows.entry(client).or_insert_with(|| self.open(number, client));
        Arc::clone(flow)
    }

    fn open(&self, number: usize, client: SocketAddr) -> Arc<Flow> {
        let path = Path { bytes_per_s: self.pace_new.load(Relaxed) as f64, ..self.path };
        let seed = path.seed + 2 * number as u64;
        let back = Arc::new(Port::new(SocketAddr::from(([127, 0, 0, 1], 0)), Some(self.server)));
        let flow = Arc::new(Flow {
            number,
            to_server: Lane::new(path, seed, Arc::clone(&back), self.server),
            to_client: Lane::new(path, seed + 1, Arc::clone(&self.front), client),
            back,
            busy_at: AtomicU64::new(0),
        });
        let [to_server, to_client] = &self.cut_new;
        flow.to_server.set_cut(to_server.load(Relaxed));
        flow.to_client.set_cut(to_client.load(Relaxed));
        let is_left = |left: usize| left.checked_sub(1);
        if self.cut_next.fetch_update(Relaxed, Relaxed, is_left).is_ok() {
            flow.cut(Way::Both);
        }
        tokio::spawn({
            let flow = Arc::clone(&flow);
            async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    let (bytes, _) = flow.back.receive(&mut buffer).await;
                    flow.to_client.send(&buffer[..bytes]);
                }
            }
        });
        flow
    }

    fn choose(&self, lanes: Lanes) -> Vec<Arc<Flow>> {
        let flows = self.flows.lock().unwrap();
        let all = flows.values().cloned();
        match lanes {
            Lanes::All => all.collect(),
            Lanes::Half => all.filter(|flow| flow.number % 2 == 0).collect(),
            Lanes::One => all.max_by_key(|flow| flow.busy_at.load(Relaxed)).into_iter().collect(),
        }
    }
}

impl Flow {
    fn cut(&self, way: Way) {
        if way != Way::ToClient {
            self.to_server.set_cut(true);
        }
        if way != Way::ToServer {
            self.to_client.set_cut(true);
        }
    }
}
