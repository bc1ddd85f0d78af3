//! Batches of datagrams that the system takes and gives at once (UDP GSO and GRO on Linux).
//!
//! quinn hands over ten datagrams at a time and stops after twenty, to be driven again. At 1,472 bytes
//! the system would take 44, and a call costs it about as much whatever is in it, as does waking up the
//! receiver and answering. So what a connection sends while it is driven is gathered and sent together:
//! nothing waits longer than that takes.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tracing::debug;

use super::parts::{RECEIVED_BATCHES_MAX, RECEIVED_BYTES_MAX, part};
use crate::mutex::lock;

/// The system takes a batch of datagrams as one buffer, of less than 64 KiB.
const BATCH_BYTES_MAX: usize = 65_000;
/// So much is received at a time where nothing of it is a batch: more leaves the cache before it is looked at. If batches
/// come all the same, their parts are larger, once.
const RECEIVED_SINGLES_MAX: usize = 8;
/// So often nothing must have been a batch until nothing is expected to be one.
const SINGLE_TIMES: usize = 64;
/// What quinn sends at most before it asks to be driven again, in datagrams.
const DRIVEN_DATAGRAMS_MAX: usize = 20;
/// So often it is driven at once: a batch has no room for more full datagrams, and other tasks wait.
const DRIVES_MAX: usize = 3;
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
    /// How many datagrams were sent since the driver was polled last, in batches or by themselves.
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
    /// How many more datagrams fit, where the system takes `segments_max` at once.
    fn room(&self, head: &Head, segments_max: usize) -> usize {
        if self.contents.len().is_multiple_of(head.segment_bytes) {
            let datagrams = self.contents.len() / head.segment_bytes;
            datagrams_max(segments_max, head.segment_bytes).saturating_sub(datagrams)
        } else {
            0
        }
    }

    /// Whether `transmit` can be part of it.
    fn fits(&self, transmit: &Transmit<'_>, segments_max: usize) -> bool {
        let Some(head) = self.head else { return true };
        let mut wanted = Head::of(transmit);
        let is_short = wanted.segment_bytes < head.segment_bytes;
        if is_short && datagrams(transmit) == 1 {
            wanted.segment_bytes = head.segment_bytes;
        }
        wanted == head && datagrams(transmit) <= self.room(&head, segments_max)
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

/// How many datagrams of `datagram_bytes` make a batch, where the system takes `segments_max` at once.
fn datagrams_max(segments_max: usize, datagram_bytes: usize) -> usize {
    segments_max.min(BATCH_BYTES_MAX / datagram_bytes).max(1)
}

fn datagrams(transmit: &Transmit<'_>) -> usize {
    transmit.contents.len().div_ceil(segment_bytes(transmit))
}

fn would_block(sent: &io::Result<()>) -> bool {
    matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A socket that sends and receives batches of datagrams which the system and the caches can hold.
///
/// quinn hands over ten datagrams at a time whatever their size, and what is too large is lost; and it
/// keeps room for 64 of the largest where the system never gives more than 64 KiB.
#[derive(Debug)]
pub(super) struct Batched {
    socket: Arc<dyn AsyncUdpSocket>,
    datagram_bytes_max: u16,
    received_bytes_max: u16,
    /// How often something was received since a batch was.
    single_times: AtomicUsize,
}

impl Batched {
    /// For sending datagrams of at most `datagram_bytes_max`, and telling the other end to send none larger than
    /// `received_bytes_max`.
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        datagram_bytes_max: u16,
        received_bytes_max: u16,
    ) -> Self {
        let single_times = AtomicUsize::new(0);
        Self { socket, datagram_bytes_max, received_bytes_max, single_times }
    }

    fn gather(&self, batch: &mut Batch, transmit: &Transmit<'_>) -> io::Result<()> {
        let segments_max = self.socket.max_transmit_segments();
        if !batch.fits(transmit, segments_max) {
            batch.send(&*self.socket)?;
        }
        batch.sent += datagrams(transmit);
        // Where no second one would fit, do without the copy.
        let datagrams_max = datagrams_max(segments_max, segment_bytes(transmit));
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
        let times = self.single_times.load(Relaxed);
        let most = if times < SINGLE_TIMES { RECEIVED_BATCHES_MAX } else { RECEIVED_SINGLES_MAX };
        let count = bufs.len().min(most);
        let received = self.socket.poll_recv(cx, &mut bufs[..count], &mut meta[..count])?;
        received.map(|received| {
            let has_batch = meta[..received].iter().any(|meta| meta.len > meta.stride);
            self.single_times.store(if has_batch { 0 } else { times.saturating_add(1) }, Relaxed);
            Ok(if has_batch { part(bufs, meta, received) } else { received })
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        datagrams_max(self.socket.max_transmit_segments(), self.datagram_bytes_max.into())
    }

    fn max_receive_segments(&self) -> usize {
        // The buffer has room for so many datagrams: for as large a batch as can be.
        RECEIVED_BYTES_MAX.div_ceil(self.received_bytes_max).into()
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
        let mut polled = this.drive(cx);
        for _ in 1..DRIVES_MAX {
            if polled.is_ready() || !this.has_more() {
                break;
            }
            polled = this.drive(cx);
        }
        this.send(cx);
        polled
    }
}

impl Driver {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        lock(&self.batch).sent = 0;
        let batch = Arc::clone(&self.batch);
        GATHERED.sync_scope(batch, || self.task.as_mut().poll(cx))
    }

    /// Whether the driver has more to send that the batch has room for.
    fn has_more(&self) -> bool {
        let batch = lock(&self.batch);
        let Some(head) = batch.head else { return false };
        let room = batch.room(&head, self.socket.max_transmit_segments());
        batch.sent >= DRIVEN_DATAGRAMS_MAX && room >= HANDED_DATAGRAMS_MAX
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::*;

    /// Takes what is sent unless it is full.
    #[derive(Debug, Default)]
    struct Recorder {
        segments_max: usize,
        is_full: AtomicBool,
        taken: Mutex<Vec<Owned>>,
        waiting: Mutex<Option<Waker>>,
    }

    impl Recorder {
        /// Can take more.
        fn empty(&self) {
            self.is_full.store(false, Relaxed);
            if let Some(waker) = self.waiting.lock().unwrap().take() {
                waker.wake();
            }
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Owned {
        head: Head,
        contents: Vec<u8>,
        is_single: bool,
    }

    impl Owned {
        /// `count` datagrams of `bytes` each, but for the last.
        fn new(port: u16, bytes: usize, count: usize, last_bytes: usize, mark: u8) -> Self {
            let destination = ([192, 0, 2, 1], port).into();
            let head = Head { destination, ecn: None, src_ip: None, segment_bytes: bytes };
            let contents = vec![mark; bytes * (count - 1) + last_bytes];
            Self { head, contents, is_single: count == 1 }
        }

        fn transmit(&self) -> Transmit<'_> {
            Transmit {
                destination: self.head.destination,
                ecn: self.head.ecn,
                contents: &self.contents,
                segment_size: (!self.is_single).then_some(self.head.segment_bytes),
                src_ip: self.head.src_ip,
            }
        }

        fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
            let contents = self.contents.chunks(self.head.segment_bytes);
            contents.map(|datagram| (self.head.destination, datagram))
        }
    }

    #[derive(Debug)]
    struct Writable(Arc<Recorder>);

    impl UdpPoller for Writable {
        fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.is_full.load(Relaxed) {
                *self.0.waiting.lock().unwrap() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncUdpSocket for Recorder {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Writable(self))
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            if self.is_full.load(Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.taken.lock().unwrap().push(Owned {
                head: Head::of(transmit),
                contents: transmit.contents.to_vec(),
                is_single: transmit.segment_size.is_none(),
            });
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn max_transmit_segments(&self) -> usize {
            self.segments_max
        }
    }

    /// A driver that hands over `queue` as quinn does, twenty datagrams or a few more each time that it is
    /// polled, and lives on.
    fn driver(socket: &Arc<Recorder>, mut queue: VecDeque<Owned>) -> Driver {
        let batched = Batched::new(Arc::clone(socket) as _, 1_472, RECEIVED_BYTES_MAX);
        let task = poll_fn(move |_| {
            let mut sent = 0;
            while let Some(next) = queue.front() {
                match batched.try_send(&next.transmit()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Poll::Pending;
                    }
                    sent => sent.unwrap(),
                }
                sent += datagrams(&next.transmit());
                queue.pop_front();
                if sent >= DRIVEN_DATAGRAMS_MAX {
                    break;
                }
            }
            Poll::Pending
        });
        let socket = Arc::clone(socket) as Arc<dyn AsyncUdpSocket>;
        let writable = Arc::clone(&socket).create_io_poller();
        Driver { task: Box::pin(task), batch: Arc::default(), socket, writable }
    }

    fn recorder(segments_max: usize) -> Arc<Recorder> {
        Arc::new(Recorder { segments_max, ..Recorder::default() })
    }

    fn poll(driver: &mut Driver, waker: &Waker) {
        let polled = Pin::new(driver).poll(&mut Context::from_waker(waker));
        assert!(polled.is_pending());
    }

    fn counts(socket: &Recorder) -> Vec<usize> {
        socket.taken.lock().unwrap().iter().map(|taken| taken.datagrams().count()).collect()
    }

    #[test]
    fn what_a_connection_sends_while_it_is_driven_is_sent_together() {
        let socket = recorder(64);
        let tens = (0..9).map(|mark| Owned::new(1, 1_472, 10, 1_472, mark));
        let mut driver = driver(&socket, tens.collect());
        poll(&mut driver, Waker::noop());
        assert_eq!(counts(&socket), [40], "more than 44 of this size the system does not take");
        poll(&mut driver, Waker::noop());
        poll(&mut driver, Waker::noop());
        assert_eq!(counts(&socket), [40, 40, 10], "nothing waits for more to come");
    }

    #[test]
    fn a_driver_that_always_has_more_lets_others_run() {
        let socket = recorder(64);
        let ones = (0..1_000).map(|port| Owned::new(port, 40, 1, 40, 0));
        let mut driver = driver(&socket, ones.collect());
        poll(&mut driver, Waker::noop());
        assert_eq!(counts(&socket).len(), DRIVES_MAX * DRIVEN_DATAGRAMS_MAX);
    }

    #[test]
    fn a_shorter_datagram_ends_a_batch_and_another_destination_begins_one() {
        let socket = recorder(64);
        let handed = [
            Owned::new(1, 1_472, 2, 1_472, 0),
            Owned::new(1, 1_472, 3, 100, 1),
            Owned::new(1, 1_472, 1, 1_472, 2),
            Owned::new(1, 50, 1, 50, 3),
            Owned::new(2, 50, 1, 50, 4),
            Owned::new(2, 20, 2, 20, 5),
        ];
        let mut driver = driver(&socket, handed.into());
        poll(&mut driver, Waker::noop());
        assert_eq!(counts(&socket), [5, 2, 1, 2]);
    }

    #[test]
    fn outside_of_a_driver_nothing_waits() {
        let socket = recorder(64);
        let batched = Batched::new(Arc::clone(&socket) as _, 1_472, RECEIVED_BYTES_MAX);
        batched.try_send(&Owned::new(1, 40, 1, 40, 0).transmit()).unwrap();
        assert_eq!(counts(&socket), [1]);
    }

    #[test]
    fn a_socket_that_takes_one_at_a_time_gets_one_at_a_time() {
        let socket = recorder(1);
        let ones = (0..3).map(|mark| Owned::new(1, 1_472, 1, 1_472, mark));
        let mut driver = driver(&socket, ones.collect());
        poll(&mut driver, Waker::noop());
        assert_eq!(counts(&socket), [1, 1, 1]);
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_sent_once_it_does() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Relaxed);
            }
        }
        let woken = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let socket = recorder(64);
        socket.is_full.store(true, Relaxed);
        let mut driver = driver(&socket, [Owned::new(1, 1_472, 5, 1_472, 0)].into());
        poll(&mut driver, &waker);
        assert!(counts(&socket).is_empty());
        assert!(!woken.0.load(Relaxed));
        socket.empty();
        assert!(woken.0.load(Relaxed), "the task must wait for the socket");
        poll(&mut driver, &waker);
        assert_eq!(counts(&socket), [5]);
    }

    fn handed() -> impl Strategy<Value = Vec<Owned>> {
        let bytes = prop_oneof![Just(40), Just(1_200), Just(1_472), Just(8_900), Just(65_000)];
        let one = (0..3_u16, bytes, 1..=10_usize, any::<bool>(), any::<u8>());
        let one = one.prop_map(|(port, bytes, count, is_short, mark)| {
            let count = count.min(BATCH_BYTES_MAX / bytes);
            Owned::new(port, bytes, count, if is_short { bytes / 2 } else { bytes }, mark)
        });
        prop::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn every_datagram_is_sent_once_in_order_and_in_batches_that_the_system_takes(
            handed in handed(),
            segments_max in prop_oneof![Just(1_usize), Just(10), Just(64)],
            full in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let handed: Vec<_> =
                handed.into_iter().filter(|one| one.datagrams().count() <= segments_max).collect();
            let socket = recorder(segments_max);
            let mut driver = driver(&socket, handed.clone().into());
            for is_full in full {
                socket.is_full.store(is_full, Relaxed);
                poll(&mut driver, Waker::noop());
            }
            socket.is_full.store(false, Relaxed);
            for _ in 0..=handed.len() {
                poll(&mut driver, Waker::noop());
            }
            let taken = socket.taken.lock().unwrap();
            let all = |some: &[Owned]| -> Vec<_> {
                let each = some.iter().flat_map(Owned::datagrams);
                each.map(|(to, contents)| (to, contents.to_vec())).collect()
            };
            prop_assert_eq!(all(&taken), all(&handed));
            for batch in &*taken {
                prop_assert!(batch.contents.len() <= BATCH_BYTES_MAX);
                prop_assert!(batch.datagrams().count() <= segments_max);
                prop_assert_eq!(batch.is_single, batch.datagrams().count() == 1);
            }
        }
    }
}
