//! Bytes moved by quinn alone: stripes over connections with CUBIC each, without windows that are too small.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use qbulk::congestion::cubic;
use qbulk::identity::Identity;
use qbulk::net::sockets::Sockets;
use qbulk::net::tls::{self, ClientTrust, ServerTrust};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;

const STRIPE_BYTES: u64 = 256 << 10;
/// More than any path here holds.
const WINDOW_BYTES: u32 = 1 << 30;

/// Returns the seconds from the start to when the receiver has said that it has all.
pub(crate) async fn move_bytes(
    ours: Arc<dyn Sockets>,
    theirs: Arc<dyn Sockets>,
    server: SocketAddr,
    connections: usize,
    bytes: u64,
) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let identity = Identity::load_or_create(dir.path())?;
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let mut config = ServerConfig::with_crypto(Arc::new(tls::server_config(&identity, trust)?));
    config.transport_config(transport());
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint_config = EndpointConfig::default();
    let receiver = Endpoint::new_with_abstract_socket(
        endpoint_config.clone(),
        Some(config),
        theirs.open(server)?,
        runtime.clone(),
    )?;
    let receiving = tokio::spawn(receive(receiver));
    let began = Instant::now();
    let left = Arc::new(AtomicU64::new(bytes));
    let mut sending = JoinSet::new();
    for _ in 0..connections {
        let trust = ClientTrust::Pinned([identity.fingerprint()].into());
        let mut config = ClientConfig::new(Arc::new(tls::client_config(&identity, trust)?));
        config.transport_config(transport());
        let socket = ours.open(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let config_of_endpoint = endpoint_config.clone();
        let endpoint =
            Endpoint::new_with_abstract_socket(config_of_endpoint, None, socket, runtime.clone())?;
        sending.spawn(send(endpoint, config, server, Arc::clone(&left)));
    }
    while let Some(sent) = sending.join_next().await {
        sent?.map_err(|error| error.to_string())?;
    }
    receiving.abort();
    Ok(began.elapsed().as_secs_f64())
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(WINDOW_BYTES.into())
        .max_concurrent_uni_streams(VarInt::from_u32(1_024))
        .keep_alive_interval(Some(Duration::from_secs(4)))
        .congestion_controller_factory(cubic());
    Arc::new(transport)
}

/// Connects, and sends stripes for as long as some are left.
async fn send(
    endpoint: Endpoint,
    config: ClientConfig,
    server: SocketAddr,
    left: Arc<AtomicU64>,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    static CONTENT: [u8; STRIPE_BYTES as usize] = [7; STRIPE_BYTES as usize];
    let connection = endpoint.connect_with(config, server, "server")?.await?;
    let mut unanswered = JoinSet::new();
    loop {
        let take = |left: u64| Some(left.saturating_sub(STRIPE_BYTES));
        let before = left.fetch_update(Relaxed, Relaxed, take).unwrap_or_default();
        if before == 0 {
            break;
        }
        let (mut stream, mut answer) = connection.open_bi().await?;
        let len = before.min(STRIPE_BYTES) as usize;
        stream.write_chunk(Bytes::from_static(&CONTENT[..len])).await?;
        stream.finish()?;
        unanswered.spawn(async move { answer.read_to_end(1).await });
        // Enough to fill the window, and no more: who is slow is not to have what others could send.
        while unanswered.len() as u64 >= 2 + 2 * connection.stats().path.cwnd / STRIPE_BYTES {
            if let Some(answered) = unanswered.join_next().await {
                answered??;
            }
        }
    }
    while let Some(answered) = unanswered.join_next().await {
        answered??;
    }
    Ok(())
}

async fn receive(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                answer(connection).await;
            }
        });
    }
}

/// Says of each stream when it is there.
async fn answer(connection: Connection) {
    while let Ok((mut answer, mut stream)) = connection.accept_bi().await {
        tokio::spawn(async move {
            while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
            drop(answer.write_all(&[1]).await);
            drop(answer.finish());
        });
    }
}
