//! Where endpoints get their sockets from.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
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

/// The system takes a batch of datagrams as one buffer, of less than 64 KiB.
const BATCH_BYTES_MAX: usize = 65_000;
/// A batch that is received is no larger than this, whatever is in it. Each has room for that much.
pub(super) const RECEIVED_BYTES_MAX: u16 = 65_527;
/// So many batches are received at a time: more of them leave the cache before they are looked at.
const RECEIVED_BATCHES_MAX: usize = 8;

/// A socket that sends and receives batches of datagrams which the system and the caches can hold.
///
/// quinn hands over ten datagrams at a time whatever their size, and what is too large is lost; and it
/// keeps room for 64 of the largest where the system never gives more than 64 KiB.
#[derive(Debug)]
pub(super) struct Batched {
    socket: Arc<dyn AsyncUdpSocket>,
    segments_max: usize,
}

impl Batched {
    /// For sending datagrams of at most `datagram_bytes_max`.
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, datagram_bytes_max: u16) -> Self {
        let segments_max = (BATCH_BYTES_MAX / usize::from(datagram_bytes_max)).max(1);
        Self { segments_max: socket.max_transmit_segments().min(segments_max), socket }
    }
}

impl AsyncUdpSocket for Batched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = bufs.len().min(RECEIVED_BATCHES_MAX);
        self.socket.poll_recv(cx, &mut bufs[..count], &mut meta[..count])
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments_max
    }

    fn max_receive_segments(&self) -> usize {
        1 // as large as a batch can be
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
