//! Batches of datagrams that the system takes and gives at once (UDP GSO and GRO on Linux).
//!
//! quinn hands over ten datagrams at a time and stops after twenty, to be driven again. At 1,472 bytes
//! the system would take 44, and a call costs it about as much whatever is in it, as does waking up the
//! receiver and answering. So what a connection sends while it is driven is gathered and sent together:
//! nothing waits longer than that takes.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tracing::debug;

/// The system takes a batch of datagrams as one buffer, of less than 64 KiB.
const BATCH_BYTES_MAX: usize = 65_000;
/// A batch that is received is no larger than this, whatever is in it. Each has room for that much.
pub(super) const RECEIVED_BYTES_MAX: u16 = 65_527;
/// So many batches are received at a time: more of them leave the cache before they are looked at.
const RECEIVED_BATCHES_MAX: usize = 8;
/// What quinn sends at most before it asks to be driven again, in datagrams.
const DRIVEN_DATAGRAMS_MAX: usize = 20;
/// What quinn hands over at a time, in datagrams.
const HANDED_DATAGRAMS_MAX: usize = 10;

tokio::task_local! {
    /// What the driver that is polled has sent.
    static GATHERED: Arc<Mutex<Batch>>;
}

/// Datagrams to one destination, all as long as the first but for the last, which may be shorter.
#[derive(Debug, Default)]
struct Batch {
    contents: Vec<u8>,
    /// Everything but the contents; `None` while there are none.
    head: Option<Head>,
    /// How many datagrams were sent since the driver was polled, by whatever way.
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    segment_bytes: usize,
}

impl Head {
    fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            ecn: transmit.ecn,
            src_ip: transmit.src_ip,
            segment_bytes: segment_bytes(transmit),
        }
    }
}

fn segment_bytes(transmit: &Transmit<'_>) -> usize {
    transmit.segment_size.unwrap_or(transmit.contents.len()).max(1)
}

impl Batch {
    /// How many more datagrams fit, if a batch is to have `datagrams_max`.
    fn room(&self, datagrams_max: usize) -> usize {
        match self.head {
            None => datagrams_max,
            Some(Head { segment_bytes, .. })
                if self.contents.len().is_multiple_of(segment_bytes) =>
            {
                datagrams_max.saturating_sub(self.contents.len() / segment_bytes)
            }
            Some(_) => 0,
        }
    }

    /// Whether `transmit` can be part of it.
    fn fits(&self, transmit: &Transmit<'_>, datagrams_max: usize) -> bool {
        let Some(head) = self.head else { return true };
        let is_one_and_short = transmit.contents.len() < head.segment_bytes;
        let segment_bytes =
            if is_one_and_short { head.segment_bytes } else { segment_bytes(transmit) };
        Head { segment_bytes, ..Head::of(transmit) } == head
            && datagrams(transmit) <= self.room(datagrams_max)
    }

    fn append(&mut self, transmit: &Transmit<'_>) {
        self.head.get_or_insert_with(|| Head::of(transmit));
        self.contents.extend_from_slice(transmit.contents);
    }

    /// Sends what there is. If the socket would block, it stays.
    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(head) = self.head else { return Ok(()) };
        let several = self.contents.len() > head.segment_bytes;
        let sent = socket.try_send(&Transmit {
            destination: head.destination,
            ecn: head.ecn,
            contents: &self.contents,
            segment_size: several.then_some(head.segment_bytes),
            src_ip: head.src_ip,
        });
        if !would_block(&sent) {
            self.contents.clear();
            self.head = None;
        }
        sent
    }
}

fn datagrams(transmit: &Transmit<'_>) -> usize {
    transmit.contents.len().div_ceil(segment_bytes(transmit))
}

fn would_block(sent: &io::Result<()>) -> bool {
    matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn lock(batch: &Mutex<Batch>) -> MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that sends and receives batches of datagrams which the system and the caches can hold.
///
/// quinn hands over ten datagrams at a time whatever their size, and what is too large is lost; and it
/// keeps room for 64 of the largest where the system never gives more than 64 KiB.
#[derive(Debug)]
pub(super) struct Batched {
    socket: Arc<dyn AsyncUdpSocket>,
    datagram_bytes_max: u16,
}

impl Batched {
    /// For sending datagrams of at most `datagram_bytes_max`.
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, datagram_bytes_max: u16) -> Self {
        Self { socket, datagram_bytes_max }
    }

    /// How many datagrams of `datagram_bytes` the system takes at once.
    fn datagrams_max(&self, datagram_bytes: usize) -> usize {
        self.socket.max_transmit_segments().min(BATCH_BYTES_MAX / datagram_bytes).max(1)
    }

    fn gather(&self, batch: &mut Batch, transmit: &Transmit<'_>) -> io::Result<()> {
        let datagrams_max = self.datagrams_max(segment_bytes(transmit));
        if !batch.fits(transmit, datagrams_max) {
            batch.send(&*self.socket)?;
        }
        batch.sent += datagrams(transmit);
        // Where no second one would fit, do without the copy.
        if batch.head.is_none() && datagrams(transmit) * 2 > datagrams_max {
            return self.socket.try_send(transmit);
        }
        batch.append(transmit);
        Ok(())
    }
}

impl AsyncUdpSocket for Batched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        GATHERED
            .try_with(|batch| self.gather(&mut lock(batch), transmit))
            .unwrap_or_else(|_| self.socket.try_send(transmit))
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
        self.datagrams_max(usize::from(self.datagram_bytes_max))
    }

    fn max_receive_segments(&self) -> usize {
        1 // as large as a batch can be
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// tokio, for an endpoint on a socket that sends in batches.
#[derive(Debug)]
pub(super) struct BatchRuntime(pub(super) Arc<Batched>);

impl Runtime for BatchRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let socket = Arc::clone(&self.0.socket);
        let writable = Arc::clone(&socket).create_io_poller();
        let batch = Arc::default();
        TokioRuntime.spawn(Box::pin(Driver { task: driver, batch, socket, writable }));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

/// quinn's driver of a connection or an endpoint, and what it sends.
struct Driver {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    batch: Arc<Mutex<Batch>>,
    socket: Arc<dyn AsyncUdpSocket>,
    writable: Pin<Box<dyn UdpPoller>>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut polled;
        loop {
            lock(&this.batch).sent = 0;
            let batch = Arc::clone(&this.batch);
            polled = GATHERED.sync_scope(batch, || this.task.as_mut().poll(cx));
            if polled.is_ready() || !this.has_more() {
                break;
            }
        }
        this.send(cx);
        polled
    }
}

impl Driver {
    /// Whether the driver has more to send that the batch has room for.
    fn has_more(&self) -> bool {
        let batch = lock(&self.batch);
        let Some(head) = batch.head else { return false };
        let datagrams_max =
            self.socket.max_transmit_segments().min(BATCH_BYTES_MAX / head.segment_bytes);
        batch.sent >= DRIVEN_DATAGRAMS_MAX && batch.room(datagrams_max) >= HANDED_DATAGRAMS_MAX
    }

    /// Sends what is gathered. If the socket would block, the task is woken up once it does not.
    fn send(&mut self, cx: &mut Context<'_>) {
        let mut batch = lock(&self.batch);
        loop {
            match batch.send(&*self.socket) {
                Ok(()) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return debug!(%error, "cannot send");
                }
                Err(_) => match self.writable.as_mut().poll_writable(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return debug!(%error, "cannot send"),
                },
            }
        }
    }
}
