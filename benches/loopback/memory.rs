//! Memory to memory: the transport alone, as qbulk sets it up, beside one plain TCP stream.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use clap::Args;
use qbulk::congestion::{Algorithm, BudgetConfig, SharedBudget};
use qbulk::identity::{Identity, config_dir};
use qbulk::net::endpoint::{self, PathMtu};
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{self, ClientTrust, ServerTrust};
use quinn::{Connection, Endpoint, VarInt};
use tokio::task::JoinSet;

use crate::Result;
use crate::meter::{Group, Receiver, Row, Sample, measure};

/// As much as qbulk sends on one stream.
const STRIPE_BYTES: u64 = 1 << 20;

/// What the receiving end is told.
#[derive(Args)]
pub(crate) struct Receive {
    stripes: u64,
    mtu: u16,
}

/// What the sending end is told.
#[derive(Args)]
pub(crate) struct Send {
    address: SocketAddr,
    stripes: u64,
    mtu: u16,
    connections: u32,
}

/// One TCP stream, and QUIC by every number of connections and datagram size.
pub(crate) fn rows(place: &Path, bytes: u64, connections: &[u32], mtus: &[u16]) -> Vec<Row> {
    let stripes = bytes.div_ceil(STRIPE_BYTES);
    let mut rows = vec![row(place, "one TCP stream, in clear".into(), "tcp", stripes, 0, 1)];
    for &mtu in mtus {
        for &count in connections {
            let name = format!("QUIC, connections: {count}, datagrams: {mtu} B");
            rows.push(row(place, name, "quic", stripes, mtu, count));
        }
    }
    rows
}

fn row(place: &Path, name: String, kind: &str, stripes: u64, mtu: u16, count: u32) -> Row {
    let (identity, kind) = (place.join("identity"), kind.to_owned());
    let run = move || -> Result<Sample> {
        let end = |side: &str| -> Result<Command> {
            let mut command = Command::new(std::env::current_exe()?);
            command.env("QBULK_CONFIG_DIR", &identity).arg(format!("{kind}-{side}"));
            Ok(command)
        };
        let mut receive = end("receive")?;
        receive.args([stripes.to_string(), mtu.to_string()]);
        let (receiver, address) = Receiver::start_and_hear(receive)?;
        let mut send = end("send")?;
        send.args([address, stripes.to_string(), mtu.to_string(), count.to_string()]);
        measure(send, Some(receiver))
    };
    Row { group: Group::Memory, name, run: Box::new(run), samples: vec![] }
}

/// Reads all of it, throws it away and says so.
pub(crate) fn tcp_receive(end: &Receive) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; STRIPE_BYTES as usize];
    for _ in 0..end.stripes {
        stream.read_exact(&mut buffer)?;
    }
    Ok(stream.write_all(b"k")?)
}

pub(crate) fn tcp_send(end: &Send) -> Result<()> {
    let mut stream = TcpStream::connect(end.address)?;
    let stripe = vec![7; STRIPE_BYTES as usize];
    for _ in 0..end.stripes {
        stream.write_all(&stripe)?;
    }
    Ok(stream.read_exact(&mut [0])?)
}

/// Threads as the `qbulk` command has them.
pub(crate) fn on_runtime(end: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(end)
}

/// Reads all streams, throws them away, and closes the connections when everything has come.
pub(crate) async fn quic_receive(end: Receive) -> Result<()> {
    let identity = Identity::load_or_create(&config_dir()?)?;
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let tls = Arc::new(tls::server_config(&identity, trust)?);
    let endpoint = endpoint::server((Ipv4Addr::LOCALHOST, 0).into(), Arc::clone(&tls))?;
    println!("{}", endpoint.local_addr()?);
    let left = Arc::new(AtomicU64::new(end.stripes * STRIPE_BYTES));
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let mtu = PathMtu::of(incoming.remote_address(), end.mtu);
        let config = endpoint::server_config(Arc::clone(&tls), mtu);
        let connection = incoming.accept_with(Arc::new(config))?.await?;
        tasks.spawn(drain(connection, endpoint.clone(), Arc::clone(&left)));
    }
    tasks.join_all().await;
    endpoint.wait_idle().await;
    match left.load(Relaxed) {
        0 => Ok(()),
        left => Err(format!("{left} bytes are missing").into()),
    }
}

async fn drain(connection: Connection, endpoint: Endpoint, left: Arc<AtomicU64>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        let (endpoint, left) = (endpoint.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, false).await {
                let bytes = chunk.bytes.len() as u64;
                if left.fetch_sub(bytes, Relaxed) == bytes {
                    endpoint.close(VarInt::from_u32(0), b"done");
                }
            }
        });
    }
}

/// Sends stripes over all connections, whichever takes them first.
pub(crate) async fn quic_send(end: Send) -> Result<()> {
    let identity = Identity::load_or_create(&config_dir()?)?;
    let trust = ClientTrust::Pinned([identity.fingerprint()].into());
    let tls = Arc::new(tls::client_config(&identity, trust)?);
    let next = Arc::new(AtomicU64::new(0));
    let budget = SharedBudget::new(BudgetConfig::default(), std::time::Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..end.connections {
        let endpoint = endpoint::client(endpoint::any_local(end.address))?;
        let mtu = PathMtu::of(end.address, end.mtu);
        let telemetry = Arc::new(Telemetry::default());
        let congestion = Algorithm::default().controllers(&budget);
        let config = endpoint::client_config(Arc::clone(&tls), mtu, congestion, telemetry);
        let connecting = endpoint.connect_with(config, end.address, "localhost")?;
        tasks.spawn(fill(connecting, Arc::clone(&next), end.stripes));
    }
    for sent in tasks.join_all().await {
        sent?;
    }
    Ok(())
}

async fn fill(
    connecting: quinn::Connecting,
    next: Arc<AtomicU64>,
    stripes: u64,
) -> std::result::Result<(), String> {
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let stripe = Bytes::from(vec![7; STRIPE_BYTES as usize]);
    while next.fetch_add(1, Relaxed) < stripes {
        let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
        stream.write_chunk(stripe.clone()).await.map_err(|error| error.to_string())?;
        stream.finish().map_err(|error| error.to_string())?;
    }
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) if &close.reason[..] == b"done" => Ok(()),
        error => Err(error.to_string()),
    }
}
