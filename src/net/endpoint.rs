//! Sockets and the transport's settings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};

use super::batch::{BatchRuntime, Batched, RECEIVED_BYTES_MAX};
use super::controllers::Late;
use super::reset::make_lasting;
use super::sockets::Sockets;
use super::telemetry::{Observed, Telemetry};
use crate::congestion::Controllers;

/// The largest datagram: about what fits into an IP packet, as the loopback carries it.
pub const DATAGRAM_BYTES_MAX: u16 = 65_000;
/// The least that QUIC needs (RFC 9000, 14).
pub const DATAGRAM_BYTES_MIN: u16 = 1_200;

/// What the receiver takes in per connection before it is read: more than a connection's share of
/// 1 Gbit/s over 300 ms.
pub const RECEIVE_WINDOW_BYTES: u32 = 16 << 20;
/// What the sender keeps per connection until it is acknowledged.
const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// Streams that a client may have open towards the server on one connection.
pub const STREAMS_MAX: u32 = 256;
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

/// What the path to a peer can carry, as far as this host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// The largest datagram worth trying, in bytes of UDP payload.
    pub max: u16,
    /// Whether that needs no trying: the peer is this host.
    pub sure: bool,
}

impl PathMtu {
    /// Asks the system for the MTU of the route to `remote`; `limit` caps it.
    pub fn of(remote: SocketAddr, limit: u16) -> Self {
        let limit = limit.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX);
        let sure = is_loopback(remote.ip());
        let max = match route_mtu(remote) {
            Ok(mtu) => {
                u16::try_from(mtu.saturating_sub(header_bytes(remote).into())).unwrap_or(u16::MAX)
            }
            Err(_) => 1_452,
        };
        Self { max: max.clamp(DATAGRAM_BYTES_MIN, limit), sure }
    }

    /// What is known to get through, in bytes.
    fn initial(self) -> u16 {
        if self.sure { self.max } else { DATAGRAM_BYTES_MIN }
    }
}

/// A client's endpoint on a socket and local port of its own, for a connection over a path of `mtu`.
pub fn client(
    sockets: &dyn Sockets,
    local: SocketAddr,
    mtu: PathMtu,
) -> io::Result<quinn::Endpoint> {
    let socket = Batched::new(sockets.open(local)?, mtu.max);
    endpoint(socket, endpoint_config()?, None)
}

/// A server's endpoint. Its clients know it by `secret` after a restart. Where the system has no IPv6, all
/// addresses that this host has are those of IPv4.
pub fn server(
    sockets: &dyn Sockets,
    local: SocketAddr,
    tls: Arc<QuicServerConfig>,
    secret: &[u8; 32],
) -> io::Result<quinn::Endpoint> {
    let mut config = endpoint_config()?;
    make_lasting(&mut config, secret);
    // The paths to its clients differ: datagrams of any size are handed over one by one, and gathered.
    let socket = Batched::new(open_any(sockets, local)?, DATAGRAM_BYTES_MAX);
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

/// Which of `bind` to reach `remote` from, in turn; any address if nothing was asked for, and `None` if none
/// of what was leads there.
pub fn local_for(bind: &[SocketAddr], remote: SocketAddr, turn: usize) -> Option<SocketAddr> {
    if bind.is_empty() {
        return Some(any_local(remote));
    }
    let fit: Vec<_> =
        bind.iter().filter(|local| local.is_ipv4() == remote.is_ipv4()).copied().collect();
    fit.get(turn.checked_rem(fit.len())?).copied()
}

/// The address to bind to for reaching `remote` by any interface.
pub fn any_local(remote: SocketAddr) -> SocketAddr {
    let ip = match remote.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// The settings for one outgoing connection, which is held back by `congestion` and reports to
/// `telemetry`.
pub fn client_config(
    tls: Arc<QuicClientConfig>,
    mtu: PathMtu,
    congestion: Controllers,
    telemetry: Arc<Telemetry>,
) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(tls);
    config.transport_config(Arc::new(transport(mtu, congestion, telemetry)));
    config
}

/// The settings for one incoming connection, which reports to `telemetry`. Once it is known what it is for,
/// its window of `window_bytes` is to be widened, and `congestion` to be bound if much is sent over it.
pub fn server_config(
    tls: Arc<QuicServerConfig>,
    mtu: PathMtu,
    window_bytes: u32,
    congestion: Arc<Late>,
    telemetry: Arc<Telemetry>,
) -> quinn::ServerConfig {
    let mut transport = transport(mtu, congestion, telemetry);
    transport.receive_window(VarInt::from_u32(window_bytes));
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
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
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

fn endpoint_config() -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(RECEIVED_BYTES_MAX).map_err(io::Error::other)?;
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

/// Why nothing that QUIC sends gets to `remote`, if the system knows that packets of its size do not.
pub fn too_small(remote: SocketAddr) -> Option<String> {
    let needed = u32::from(DATAGRAM_BYTES_MIN + header_bytes(remote));
    let mtu = route_mtu(remote).ok().filter(|&mtu| mtu < needed)?;
    Some(format!("packets of {mtu} bytes are the largest that get there, and QUIC needs {needed}"))
}

/// What IP and UDP put before each datagram.
pub(super) fn header_bytes(remote: SocketAddr) -> u16 {
    if remote.ip().to_canonical().is_ipv4() { 28 } else { 48 }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Linux knows the MTU of the route that a connected socket takes, and what ICMP has told of the path.
fn route_mtu(remote: SocketAddr) -> io::Result<u32> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let socket = UdpSocket::bind(any_local(remote))?;
    socket.connect(remote)?;
    Ok(if remote.is_ipv4() {
        rustix::net::sockopt::ip_mtu(&socket)?
    } else {
        rustix::net::sockopt::ipv6_mtu(&socket)?
    })
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

    #[test]
    fn the_loopback_carries_the_largest_datagrams_and_a_limit_holds() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 4433));
        let mtu = PathMtu::of(loopback, u16::MAX);
        assert_eq!(mtu, PathMtu { max: DATAGRAM_BYTES_MAX, sure: true });
        assert_eq!(PathMtu::of(loopback, 1_472).max, 1_472);
        assert_eq!(PathMtu::of(loopback, 10).max, DATAGRAM_BYTES_MIN);
    }
}
