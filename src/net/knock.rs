//! Whether anything gets to an address at all. Connections hear nothing of what the system knows about that:
//! that there is no way there, that nobody listens, that packets are too large for the interface.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::path::DATAGRAM_BYTES_MIN;
use crate::error::reason;

/// Most connections are up by then, and nothing was asked.
const FIRST_AFTER: Duration = Duration::from_millis(100);
/// How often it is asked, and how many times: neighbours that do not answer are given up after three
/// seconds.
const INTERVAL: Duration = Duration::from_millis(250);
const TIMES: u32 = 16;

/// Why nothing gets to an address.
#[derive(Debug, thiserror::Error)]
pub enum Barrier {
    /// The host is there, and nobody listens at the port.
    #[error("nobody listens there (connection refused)")]
    Refused,
    /// The least that QUIC sends is more than the interface takes.
    #[error(
        "the MTU of a network interface on the way is too small: QUIC needs packets of {} bytes",
        packet_bytes_min(*.0)
    )]
    SmallMtu(SocketAddr),
    /// There is no way there.
    #[error("{}", reason(.0))]
    NoWay(io::Error),
}

impl Barrier {
    /// What an error of a socket says about the way to `remote`; `None` if that may be different in a moment.
    fn of(error: io::Error, remote: SocketAddr) -> Option<Self> {
        Some(match Errno::from_io_error(&error)? {
            Errno::CONNREFUSED => Self::Refused,
            Errno::MSGSIZE => Self::SmallMtu(remote),
            Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM => return None,
            _ => Self::NoWay(error),
        })
    }
}

/// Resolves once the system knows that nothing gets from `local` to `remote`; never, if somebody answers or
/// nobody knows.
pub(super) async fn knock(local: SocketAddr, remote: SocketAddr) -> Barrier {
    match ask(local, remote).await {
        Ok(()) => std::future::pending().await,
        Err(barrier) => barrier,
    }
}

/// Asks for a version that no server has, which it answers with those that it has, and forgets (RFC 9000, 6.1
/// and 15).
async fn ask(local: SocketAddr, remote: SocketAddr) -> Result<(), Barrier> {
    // That there is no socket is told by who needs one in earnest.
    let Ok(socket) = open(local) else { return Ok(()) };
    socket
        .connect(&remote.into())
        .or_else(|error| Barrier::of(error, remote).map_or(Ok(()), Err))?;
    let socket = std::net::UdpSocket::from(socket);
    // Sends as connections do: never in fragments.
    let Ok(state) = UdpSocketState::new((&socket).into()) else { return Ok(()) };
    let Ok(socket) = UdpSocket::from_std(socket) else { return Ok(()) };
    let question = unknown_version();
    tokio::time::sleep(FIRST_AFTER).await;
    for _ in 0..TIMES {
        let transmit = Transmit {
            destination: remote,
            ecn: None,
            contents: &question,
            segment_size: None,
            src_ip: None,
        };
        let sent =
            socket.try_io(Interest::WRITABLE, || state.try_send((&socket).into(), &transmit));
        if let Err(error) = sent
            && let Some(barrier) = Barrier::of(error, remote)
        {
            return Err(barrier);
        }
        match tokio::time::timeout(INTERVAL, hear(&socket, &state)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                if let Some(barrier) = Barrier::of(error, remote) {
                    return Err(barrier);
                }
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn open(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

async fn hear(socket: &UdpSocket, state: &UdpSocketState) -> io::Result<()> {
    loop {
        socket.readable().await?;
        let mut answer = [0; 64];
        let (mut buffers, mut meta) = ([IoSliceMut::new(&mut answer)], [RecvMeta::default()]);
        let heard = socket
            .try_io(Interest::READABLE, || state.recv((&*socket).into(), &mut buffers, &mut meta));
        match heard {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            heard => return heard.map(drop),
        }
    }
}

/// The first packet of a connection, of a version that is reserved for never being one.
fn unknown_version() -> Vec<u8> {
    const CONNECTION_ID_BYTES: u8 = 8;
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    for _ in 0..2 {
        packet.push(CONNECTION_ID_BYTES);
        packet.extend(rand::random::<[u8; CONNECTION_ID_BYTES as usize]>());
    }
    packet.resize(DATAGRAM_BYTES_MIN.into(), 0);
    packet
}

/// The least packets, headers included, that the way to `remote` must carry.
fn packet_bytes_min(remote: SocketAddr) -> u16 {
    DATAGRAM_BYTES_MIN + super::path::header_bytes(remote)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::super::sockets::SystemSockets;
    use super::super::tls::{self, ServerTrust};
    use super::super::{endpoint, path};
    use super::*;
    use crate::identity::Identity;

    const ANY: &str = "127.0.0.1:0";

    async fn ask_at(remote: &str) -> Result<(), Barrier> {
        let remote: SocketAddr = remote.parse().unwrap();
        ask(path::any_local(remote), remote).await
    }

    #[tokio::test]
    async fn a_closed_port_and_a_way_that_does_not_exist_are_known_at_once() {
        let closed = std::net::UdpSocket::bind(ANY).unwrap().local_addr().unwrap();
        let barrier = ask_at(&closed.to_string()).await.unwrap_err();
        assert!(matches!(barrier, Barrier::Refused), "{barrier}");
        // No interface leads to an address of one link that names none.
        let barrier = ask_at("[fe80::1]:9").await.unwrap_err();
        assert!(matches!(barrier, Barrier::NoWay(_)), "{barrier}");
    }

    #[tokio::test]
    async fn who_answers_is_no_barrier_and_who_is_silent_is_none_either() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let tls = Arc::new(tls::server_config(&identity, ServerTrust::default()).unwrap());
        let server = endpoint::server(&SystemSockets, ANY.parse().unwrap(), tls, &[0; 32]).unwrap();
        let there = server.local_addr().unwrap().to_string();
        assert!(ask_at(&there).await.is_ok());
        let silent = UdpSocket::bind(ANY).await.unwrap();
        let asked = ask_at(&silent.local_addr().unwrap().to_string()).await;
        assert!(asked.is_ok(), "{asked:?}");
        let local = ANY.parse().unwrap();
        let knocked = knock(local, silent.local_addr().unwrap());
        assert!(timeout(Duration::from_millis(300), knocked).await.is_err());
    }

    #[test]
    fn what_passes_in_a_moment_is_no_barrier() {
        let remote = "[::1]:9".parse().unwrap();
        let of = |errno: Errno| Barrier::of(errno.into(), remote);
        assert!(of(Errno::NOBUFS).is_none());
        let words = of(Errno::NETUNREACH).unwrap().to_string();
        assert_eq!(words, "Network is unreachable");
        assert!(of(Errno::MSGSIZE).unwrap().to_string().ends_with("1248 bytes"));
    }
}
