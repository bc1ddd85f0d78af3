//! QUIC connections as qbulk sets them up, and nothing of qbulk above them, from memory to memory. For
//! comparison, the same on quinn's own endpoints.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use qbulk::congestion::{Algorithm, BudgetConfig, SharedBudget, cubic};
use qbulk::identity::{Identity, config_dir};
use qbulk::net::controllers::Late;
use qbulk::net::endpoint;
use qbulk::net::path::{self, PathMtu};
use qbulk::net::sockets::{Sockets, SystemSockets};
use qbulk::net::telemetry::Telemetry;
use qbulk::net::tls::{self, ClientTrust, ServerTrust};
use quinn::{Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, VarInt};
use tokio::task::JoinSet;

use crate::Result;
use crate::ends::{self, STRIPE_BYTES};
use crate::job::Job;
use crate::rounds::Row;

/// Whose code is between quinn and the system's sockets.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Endpoints {
    /// qbulk's, which sends in larger batches.
    Qbulk,
    /// quinn's own, on sockets with qbulk's buffers.
    Quinn,
}

#[derive(Args)]
pub(crate) struct Receive {
    stripes: u64,
    mtu: u16,
    endpoints: Endpoints,
}

#[derive(Args)]
pub(crate) struct Send {
    address: SocketAddr,
    stripes: u64,
    mtu: u16,
    endpoints: Endpoints,
    connections: u32,
}

/// In whole stripes.
pub(crate) fn row(job: &Job, endpoints: Endpoints, connections: u32, mtu: u16) -> Row {
    let (name, argument) = match endpoints {
        Endpoints::Qbulk => ("QUIC", "qbulk"),
        Endpoints::Quinn => ("quinn alone", "quinn"),
    };
    let stripes = job.load.bytes().div_ceil(STRIPE_BYTES);
    let receive = vec![stripes.to_string(), mtu.to_string(), argument.to_owned()];
    let send = [&receive[..], &[connections.to_string()]].concat();
    Row::new(
        format!("{name}, connections: {connections}, datagrams: {mtu} B"),
        ends::between(job.place.clone(), "quic", receive, send),
    )
}

/// quinn's own endpoint.
fn plain(local: SocketAddr, server: Option<ServerConfig>) -> std::io::Result<Endpoint> {
    let socket = SystemSockets.open(local)?;
    let config = EndpointConfig::default();
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

/// Reads all streams, throws them away, and closes the connections when everything has come.
pub(crate) async fn receive(end: Receive) -> Result<()> {
    let identity = Identity::load_or_create(&config_dir()?)?;
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let tls = Arc::new(tls::server_config(&identity, trust)?);
    let (local, crypto) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Arc::clone(&tls));
    let endpoint = match end.endpoints {
        Endpoints::Qbulk => endpoint::server(&SystemSockets, local, crypto, &[0; 32])?,
        Endpoints::Quinn => plain(local, Some(ServerConfig::with_crypto(crypto)))?,
    };
    println!("{}", endpoint.local_addr()?);
    let left = Arc::new(AtomicU64::new(end.stripes * STRIPE_BYTES));
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let mtu = PathMtu::of(incoming.remote_address(), end.mtu);
        let config = endpoint::server_config(
            Arc::clone(&tls),
            mtu,
            1 << 20,
            Late::new(cubic()),
            Arc::default(),
        );
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
pub(crate) async fn send(end: Send) -> Result<()> {
    let identity = Identity::load_or_create(&config_dir()?)?;
    let trust = ClientTrust::Pinned([identity.fingerprint()].into());
    let tls = Arc::new(tls::client_config(&identity, trust)?);
    let next = Arc::new(AtomicU64::new(0));
    let budget = SharedBudget::new(BudgetConfig::default(), std::time::Instant::now());
    let mut connections = JoinSet::new();
    for _ in 0..end.connections {
        let mtu = PathMtu::of(end.address, end.mtu);
        let local = path::any_local(end.address);
        let endpoint = match end.endpoints {
            Endpoints::Qbulk => endpoint::client(&SystemSockets, local, mtu)?,
            Endpoints::Quinn => plain(local, None)?,
        };
        let telemetry = Arc::new(Telemetry::default());
        let congestion = Algorithm::default().controllers(&budget);
        let config = endpoint::client_config(Arc::clone(&tls), mtu, congestion, telemetry);
        connections.spawn(endpoint.connect_with(config, end.address, "localhost")?.into_future());
    }
    // The receiver closes all of them when it has everything: they must be there by then.
    let connections =
        connections.join_all().await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(fill(connection, Arc::clone(&next), end.stripes));
    }
    for sent in tasks.join_all().await {
        sent?;
    }
    Ok(())
}

async fn fill(
    connection: Connection,
    next: Arc<AtomicU64>,
    stripes: u64,
) -> std::result::Result<(), String> {
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
