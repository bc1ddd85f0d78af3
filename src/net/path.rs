//! What this host knows of the path to a peer: the address to leave by, and how large packets may be.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The largest datagram: about what fits into an IP packet, as the loopback carries it.
pub const DATAGRAM_BYTES_MAX: u16 = 65_000;
/// The least that QUIC needs (RFC 9000, 14).
pub const DATAGRAM_BYTES_MIN: u16 = 1_200;

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
    pub(super) fn initial(self) -> u16 {
        if self.sure { self.max } else { DATAGRAM_BYTES_MIN }
    }
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
    use super::*;

    #[test]
    fn the_loopback_carries_the_largest_datagrams_and_a_limit_holds() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 4433));
        let mtu = PathMtu::of(loopback, u16::MAX);
        assert_eq!(mtu, PathMtu { max: DATAGRAM_BYTES_MAX, sure: true });
        assert_eq!(PathMtu::of(loopback, 1_472).max, 1_472);
        assert_eq!(PathMtu::of(loopback, 10).max, DATAGRAM_BYTES_MIN);
    }
}
