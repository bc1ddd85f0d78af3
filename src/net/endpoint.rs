//! Sockets and the transport's settings.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};

use super::batch::{BatchRuntime, Batched};
use super::controllers::Late;
use super::parts::RECEIVED_BYTES_MAX;
use super::path::{DATAGRAM_BYTES_MAX, PathMtu};
use super::reset::make_lasting;
use super::sockets::Sockets;
use super::telemetry::{Observed, Telemetry};
use super::windows::STREAMS_FIRST;
use crate::congestion::Controllers;

/// What the receiver takes in per connection before it is read, at most: more than a connection's share of
/// 1 Gbit/s over 300 ms.
pub const RECEIVE_WINDOW_BYTES: u32 = 16 << 20;
/// What a client takes in per connection of what it is told, before it has looked at it.
pub const SAID_WINDOW_BYTES: u32 = 256 << 10;
/// What the sender keeps per connection until it is acknowledged.
pub const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// The same for whoever answers.
const ANSWER_WINDOW_BYTES: u64 = 64 << 10;
/// Padding waits in a queue ahead of data: keep it to about one burst.
const PADDING_QUEUE_BYTES: usize = 16 << 10;
/// The receiver drops padding that it has not counted yet; this bounds what it keeps.
const PADDING_RECEIVE_BYTES: usize = 1 << 20;
/// Less than this is lost within a few milliseconds at 1 Gbit/s.
const RECEIVE_BUFFER_MIN: u64 = 2 << 20;
/// Where Linux keeps its limit on receive buffers.
pub const RECEIVE_BUFFER_LIMIT: &str = "/proc/sys/net/core/rmem_max";
const IDLE_TIMEOUT_MS: u32 = 15_000;
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// A client's endpoint on a socket and local port of its own, for a connection over a path of `mtu`.
pub fn client(
    sockets: &dyn Sockets,
    local: SocketAddr,
    mtu: PathMtu,
) -> io::Result<quinn::Endpoint> {
    let socket = Batched::new(sockets.open(local)?, mtu.max, mtu.max);
    // What is too large for the way there is too large for the way back.
    endpoint(socket, endpoint_config(mtu.max)?, None)
}

/// A server's endpoint. Its clients know it by `secret` after a restart. Where the system has no IPv6, all
/// addresses that this host has are those of IPv4.
pub fn server(
    sockets: &dyn Sockets,
    local: SocketAddr,
    tls: Arc<QuicServerConfig>,
    secret: &[u8; 32],
) -> io::Result<quinn::Endpoint> {
    let mut config = endpoint_config(RECEIVED_BYTES_MAX)?;
    make_lasting(&mut config, secret);
    // The paths to its clients differ: datagrams of any size are handed over one by one, and gathered.
    let socket = Batched::new(open_any(sockets, local)?, DATAGRAM_BYTES_MAX, RECEIVED_BYTES_MAX);
    endpoint(socket, config, Some(quinn::ServerConfig::with_crypto(tls)))
}

fn open_any(sockets: &dyn Sockets, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let error = match sockets.open(local) {
        Err(error) if local.ip() == Ipv6Addr::UNSPECIFIED => error,
        opened => return opened,
    };
    // Somebody else's port is no reason to listen on half of the addresses.
    if error.kind() == io::ErrorKind::AddrInUse {
        return Err(error);
    }
    let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), local.port());
    let Ok(socket) = sockets.open(ipv4) else { return Err(error) };
    tracing::info!(%error, "there is no IPv6 on this host: listening on IPv4 alone");
    Ok(socket)
}

/// The settings for one outgoing connection, which is held back by `congestion` and reports to
/// `telemetry`. It takes in little at a time: what is said, and not what is pulled, for which it is to be widened.
pub fn client_config(
    tls: Arc<QuicClientConfig>,
    mtu: PathMtu,
    congestion: Controllers,
    telemetry: Arc<Telemetry>,
) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(tls);
    let mut transport = transport(mtu, congestion, telemetry);
    transport.receive_window(VarInt::from_u32(SAID_WINDOW_BYTES));
    config.transport_config(Arc::new(transport));
    config
}

/// The settings for one incoming connection, which reports to `telemetry`. Once it is known what it is for,
/// its window of `window_bytes` is to be widened if much comes over it; if much is sent, `congestion` is to be bound,
/// and the send window to be [`SEND_WINDOW_BYTES`].
pub fn server_config(
    tls: Arc<QuicServerConfig>,
    mtu: PathMtu,
    window_bytes: u32,
    congestion: Arc<Late>,
    telemetry: Arc<Telemetry>,
) -> quinn::ServerConfig {
    let mut transport = transport(mtu, congestion, telemetry);
    transport.receive_window(VarInt::from_u32(window_bytes));
    transport.send_window(ANSWER_WINDOW_BYTES);
    let mut config = quinn::ServerConfig::with_crypto(tls);
    config.transport_config(Arc::new(transport));
    config
}

fn transport(mtu: PathMtu, congestion: Controllers, telemetry: Arc<Telemetry>) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu.max);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(false)
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_FIRST))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(Some(PADDING_RECEIVE_BYTES))
        .datagram_send_buffer_size(PADDING_QUEUE_BYTES)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_mtu(mtu.initial())
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(Observed { telemetry, inner: congestion }));
    transport
}

/// An endpoint that takes in datagrams of up to `bytes`, and says so to the other end (RFC 9000, 18.2).
fn endpoint_config(bytes: u16) -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(bytes.min(RECEIVED_BYTES_MAX)).map_err(io::Error::other)?;
    Ok(config)
}

fn endpoint(
    socket: Batched,
    config: EndpointConfig,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    let socket = Arc::new(socket);
    let runtime = Arc::new(BatchRuntime(Arc::clone(&socket)));
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime)
}

/// The system's limit on receive buffers, in bytes, if it is too small to take in a fast path's data
/// while the process waits for a core.
pub fn small_receive_buffer(limit_file: &Path) -> Option<u64> {
    let limit = std::fs::read_to_string(limit_file).ok()?.trim().parse().ok()?;
    (limit < RECEIVE_BUFFER_MIN).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::super::sockets::SystemSockets;
    use super::*;

    #[test]
    fn a_small_limit_on_receive_buffers_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rmem_max");
        assert_eq!(small_receive_buffer(&file), None, "not this system");
        std::fs::write(&file, "212992\n").unwrap();
        assert_eq!(small_receive_buffer(&file), Some(212_992));
        std::fs::write(&file, "67108864\n").unwrap();
        assert_eq!(small_receive_buffer(&file), None);
    }

    /// A system that fails like this where it is asked for IPv6.
    struct WithoutIpv6(io::ErrorKind);

    impl Sockets for WithoutIpv6 {
        fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
            if local.is_ipv6() { Err(self.0.into()) } else { SystemSockets.open(local) }
        }
    }

    #[tokio::test]
    async fn without_ipv6_all_addresses_are_those_of_ipv4() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, Unsupported};
        let (all, one) = ("[::]:0".parse().unwrap(), "[::1]:0".parse().unwrap());
        for kind in [Unsupported, AddrNotAvailable] {
            let socket = open_any(&WithoutIpv6(kind), all).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
            assert_eq!(open_any(&WithoutIpv6(kind), one).unwrap_err().kind(), kind);
        }
        assert_eq!(open_any(&WithoutIpv6(AddrInUse), all).unwrap_err().kind(), AddrInUse);
    }
}
