//! Where endpoints get their sockets from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// What the socket may hold while the process does not run.
const BUFFER_BYTES: usize = 16 << 20;

/// Opens UDP sockets: the system's, or those of a network that a program brings along.
pub trait Sockets: Send + Sync {
    /// A socket at `local`; port 0 stands for any that is free, the unspecified address for all that
    /// this host has. Called within a tokio runtime.
    fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// The system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSockets;

impl Sockets for SystemSockets {
    fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The system may grant less; what it grants is used.
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.bind(&local.into())?;
        TokioRuntime.wrap_udp_socket(socket.into())
    }
}
