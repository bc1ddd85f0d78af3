//! Where endpoints get their sockets from.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use super::knock::{Barrier, knock};

/// What the socket may hold while the process does not run.
const BUFFER_BYTES: usize = 16 << 20;

/// Opens UDP sockets: the system's, or those of a network that a program brings along.
pub trait Sockets: Send + Sync {
    /// A socket at `local`; port 0 stands for any that is free, the unspecified address for all that
    /// this host has. Called within a tokio runtime.
    fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// Resolves once it is known that nothing gets from `local` to `remote`; never, if nobody knows.
    fn knock(&self, _local: SocketAddr, _remote: SocketAddr) -> Knock {
        Box::pin(std::future::pending())
    }
}

/// What keeps an address from being reached, once that is known.
pub type Knock = Pin<Box<dyn Future<Output = Barrier> + Send>>;

/// The system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSockets;

impl Sockets for SystemSockets {
    fn open(&self, local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            courtesy("IPv4 on the same socket", socket.set_only_v6(false));
        }
        // The system may grant less; what it grants is used.
        courtesy("a large receive buffer", socket.set_recv_buffer_size(BUFFER_BYTES));
        courtesy("a large send buffer", socket.set_send_buffer_size(BUFFER_BYTES));
        socket.bind(&local.into())?;
        TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn knock(&self, local: SocketAddr, remote: SocketAddr) -> Knock {
        Box::pin(knock(local, remote))
    }
}

/// What the system was asked for and can be done without.
fn courtesy(what: &str, granted: io::Result<()>) {
    if let Err(error) = granted {
        tracing::debug!(%error, "the system does not grant {what}");
    }
}
