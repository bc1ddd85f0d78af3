//! Sockets whose datagrams go through a pipe.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::queue::{Inbox, Outgoing};
use super::{DATAGRAM, PIPE_IP, is_pipe, pipe_address};
use crate::net::sockets::Sockets;

/// A socket at one end of a pipe.
#[derive(Debug)]
pub(super) struct PipeSocket {
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) inbox: Arc<Inbox>,
    /// The client's; the server's goes by the port of who is sent to.
    pub(super) port: Option<u16>,
}

impl AsyncUdpSocket for PipeSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { pipe: Arc::clone(&self.outgoing), udp: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self.outgoing.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let port = self.port.unwrap_or(transmit.destination.port());
        let segment_bytes = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment_bytes) {
            self.outgoing.push(DATAGRAM, port, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Poll::Ready((port, datagram)) = self.inbox.poll_pop(cx) else { break };
            // There is room for the longest; what were longer would be no datagram of ours.
            let len = datagram.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram[..len]);
            let addr = match self.port {
                Some(_) => pipe_address(),
                None => (PIPE_IP, port).into(),
            };
            *meta = RecvMeta { addr, len, stride: len.max(1), ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((PIPE_IP, self.port.unwrap_or(1)).into())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Ready once the pipe takes more, and UDP as well if there is some.
#[derive(Debug)]
pub(super) struct Writable {
    pub(super) pipe: Arc<Outgoing>,
    pub(super) udp: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pipe.poll_room(cx).is_pending() {
            return Poll::Pending;
        }
        self.udp.as_mut().map_or(Poll::Ready(Ok(())), |udp| udp.as_mut().poll_writable(cx))
    }
}

/// What is served: a pipe's end, and UDP where there is some. It can be opened once.
#[derive(Debug)]
pub struct WithPipe {
    pipe: Arc<PipeSocket>,
    udp: Option<Arc<dyn AsyncUdpSocket>>,
}

impl WithPipe {
    pub(super) fn new(pipe: Arc<PipeSocket>, udp: Option<Arc<dyn AsyncUdpSocket>>) -> Self {
        Self { pipe, udp }
    }
}

impl Sockets for WithPipe {
    fn open(&self, _local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let pipe = Arc::clone(&self.pipe);
        Ok(match &self.udp {
            Some(udp) => Arc::new(Both { pipe, udp: Arc::clone(udp) }),
            None => pipe,
        })
    }
}

#[derive(Debug)]
struct Both {
    pipe: Arc<PipeSocket>,
    udp: Arc<dyn AsyncUdpSocket>,
}

impl AsyncUdpSocket for Both {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let udp = Arc::clone(&self.udp).create_io_poller();
        Box::pin(Writable { pipe: Arc::clone(&self.pipe.outgoing), udp: Some(udp) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if is_pipe(transmit.destination) {
            self.pipe.try_send(transmit)
        } else {
            self.udp.try_send(transmit)
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        match self.pipe.poll_recv(cx, bufs, meta) {
            Poll::Pending => self.udp.poll_recv(cx, bufs, meta),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}
