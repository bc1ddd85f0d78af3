//! Room for what is being received: bounded for the server, and shared fairly by its clients.
//!
//! A client may take what would be its share if one more client came, so that one alone never has all.
//! Its transfers share what it has. One stripe always fits. Room that others wait for must be used: see
//! [`Room::is_wanted`].

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::limits::{Clients, TransferSeat};
use super::memory::Parts;
use crate::buffers::{Buffer, Buffers};
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::receive::{Account, Asked, EarlyRoom, Room};

/// A client's share is not made smaller than this. Where there are so many clients that this is more than
/// there is, they wait for one another.
const CLIENT_BYTES_MIN: usize = 4 << 20;

/// The server's room.
#[derive(Debug)]
pub(super) struct Rooms {
    parts: Parts,
    clients: Arc<Clients>,
    all: Arc<Semaphore>,
    early: Arc<Semaphore>,
    /// By client, what its stripes take.
    taken: Mutex<HashMap<Fingerprint, Taken>>,
    waiting: AtomicUsize,
    /// Of all transfers: what each would keep for itself would add up.
    buffers: Buffers,
}

#[derive(Debug)]
struct Taken {
    bytes: usize,
    accounts: usize,
    /// Room for what has come before headers.
    early: Arc<Semaphore>,
    /// Told whenever some of it is given back.
    freed: Arc<Notify>,
}

impl Rooms {
    pub(super) fn new(clients: Arc<Clients>, parts: Parts) -> Arc<Self> {
        let [all, early] =
            [parts.stripes, parts.early].map(|bytes| Arc::new(Semaphore::new(bytes)));
        let (taken, waiting) = (Mutex::default(), AtomicUsize::new(0));
        let buffers = Buffers::keeping(parts.kept);
        Arc::new(Self { parts, clients, all, early, taken, waiting, buffers })
    }

    /// Gives up memory that waits to be used again.
    pub(super) fn clear(&self) {
        self.buffers.clear();
    }

    /// Whether a client waits for what others have, although it has less than its share.
    fn is_short(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

/// One transfer's share.
#[derive(Debug)]
pub(super) struct Share {
    rooms: Arc<Rooms>,
    client: Fingerprint,
    freed: Arc<Notify>,
    used: AtomicUsize,
    /// Stripes are given room in the order in which they ask, and only the first one of a transfer
    /// waits with those of others.
    turn: tokio::sync::Mutex<()>,
    early: Arc<Semaphore>,
    seat: Mutex<Option<TransferSeat>>,
}

impl Share {
    /// Room for a transfer of `client`, which is counted for as long as it has its seat.
    pub(super) fn new(rooms: Arc<Rooms>, client: Fingerprint, seat: TransferSeat) -> Arc<Self> {
        let mut taken = lock(&rooms.taken);
        let own = taken.entry(client).or_insert_with(|| Taken {
            bytes: 0,
            accounts: 0,
            early: Arc::new(Semaphore::new(rooms.parts.client_early)),
            freed: Arc::default(),
        });
        own.accounts += 1;
        let (freed, early) = (Arc::clone(&own.freed), Arc::clone(&own.early));
        drop(taken);
        Arc::new(Self {
            rooms,
            client,
            freed,
            used: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::default(),
            early,
            seat: Mutex::new(Some(seat)),
        })
    }

    /// Takes room of the client's share, if there is enough.
    fn take(&self, bytes: usize) -> bool {
        let (clients, transfers) = self.rooms.clients.count(self.client);
        let (share, own_share) = shares(&self.rooms.parts, clients, transfers);
        let mut taken = lock(&self.rooms.taken);
        let Some(client) = taken.get_mut(&self.client) else { return false };
        let fits = |used, share| used == 0 || used + bytes <= share;
        if !fits(client.bytes, share) || !fits(self.used.load(Relaxed), own_share) {
            return false;
        }
        client.bytes += bytes;
        self.used.fetch_add(bytes, Relaxed);
        true
    }

    fn give_back(&self, bytes: usize) {
        let mut taken = lock(&self.rooms.taken);
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(client) = taken.get_mut(&self.client) {
            client.bytes -= bytes;
        }
        drop(taken);
        self.freed.notify_waiters();
    }
}

impl Account for Share {
    fn room(self: Arc<Self>, bytes: usize) -> Asked<Box<dyn Room>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            loop {
                let mut freed = pin!(self.freed.notified());
                freed.as_mut().enable();
                if self.take(bytes) {
                    break;
                }
                freed.await;
            }
            let mut taken = TakenRoom { share: Arc::clone(&self), bytes, all: None };
            let permits = u32::try_from(bytes.min(self.rooms.parts.stripes)).unwrap_or(u32::MAX);
            let all = || Arc::clone(&self.rooms.all);
            taken.all = all().try_acquire_many_owned(permits).ok();
            if taken.all.is_none() {
                let _waiting = Waiting::new(&self.rooms.waiting);
                taken.all = all().acquire_many_owned(permits).await.ok();
            }
            taken.all.is_some().then(|| Box::new(taken) as Box<dyn Room>)
        })
    }

    fn early_room(self: Arc<Self>, bytes: usize) -> Asked<EarlyRoom> {
        let permits = bytes.min(self.rooms.parts.client_early) as u32;
        Box::pin(async move {
            let own = Arc::clone(&self.early).acquire_many_owned(permits).await.ok()?;
            let all = Arc::clone(&self.rooms.early).acquire_many_owned(permits).await.ok()?;
            Some(Box::new([own, all]) as EarlyRoom)
        })
    }

    fn buffer(&self, bytes: usize) -> Buffer {
        self.rooms.buffers.take(bytes)
    }

    /// Another transfer may begin in its place.
    fn over(&self) {
        lock(&self.seat).take();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.rooms.taken);
        if let Some(client) = taken.get_mut(&self.client) {
            client.accounts -= 1;
            if client.accounts == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

/// What a client may take where `clients` have transfers, and what each of its `transfers`.
fn shares(parts: &Parts, clients: usize, transfers: usize) -> (usize, usize) {
    let client = (parts.stripes / (clients + 1)).min(parts.client_stripes).max(CLIENT_BYTES_MIN);
    (client, (client / transfers.max(1)).min(parts.client_stripes))
}

/// Room that a stripe takes, until it is dropped.
#[derive(Debug)]
struct TakenRoom {
    share: Arc<Share>,
    bytes: usize,
    all: Option<OwnedSemaphorePermit>,
}

impl Room for TakenRoom {
    fn is_wanted(&self) -> bool {
        self.share.rooms.is_short()
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        self.all.take();
        self.share.give_back(self.bytes);
    }
}

/// Counts who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::limits::Limits;

    const MIB: usize = 1 << 20;

    struct Server {
        clients: Arc<Clients>,
        rooms: Arc<Rooms>,
    }

    impl Server {
        fn new() -> Self {
            let parts = Parts::of(u64::MAX);
            let clients = Clients::new("transfers", Limits::default(), parts);
            Self { rooms: Rooms::new(Arc::clone(&clients), parts), clients }
        }

        fn begin(&self, client: u8) -> Arc<Share> {
            let mut text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF".to_owned();
            text.push(['A', 'E', 'I', 'M', 'Q', 'U', 'Y', 'c'][usize::from(client)]);
            let client = text.parse().expect("a fingerprint");
            let seat = self.clients.begin(client).expect("there are few");
            Share::new(Arc::clone(&self.rooms), client, seat)
        }
    }

    /// Room that is there at once.
    async fn at_once(account: &Arc<Share>, bytes: usize) -> Option<Box<dyn Room>> {
        tokio::time::timeout(Duration::from_millis(1), Arc::clone(account).room(bytes))
            .await
            .ok()?
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_takes_its_share_and_leaves_room_for_one_more() {
        let server = Server::new();
        let (first, second) = (server.begin(0), server.begin(0));
        let mut held = Vec::new();
        while let Some(room) = at_once(&first, MIB).await {
            held.push(room);
        }
        assert_eq!(held.len(), 48, "half of what the client may have");
        while let Some(room) = at_once(&second, MIB).await {
            held.push(room);
        }
        assert_eq!(held.len(), 96, "all of it");
        let other = server.begin(1);
        let _room = at_once(&other, 85 * MIB).await.expect("a third of what there is");
        assert!(at_once(&other, MIB).await.is_none());
        assert!(held.iter().all(|room| !room.is_wanted()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_stripe_fits_however_small_the_share() {
        let server = Server::new();
        let accounts: Vec<_> = (0..8).map(|client| server.begin(client)).collect();
        let first = at_once(&accounts[0], 32 * MIB).await.expect("more than its share");
        assert!(at_once(&accounts[0], 1).await.is_none());
        drop(first);
        at_once(&accounts[0], 1).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_that_somebody_waits_until_that_is_over() {
        let server = Server::new();
        let mut held = Vec::new();
        let mut accounts = Vec::new();
        for (client, bytes) in [(0, 96), (1, 80), (2, 64), (3, 16)] {
            let account = server.begin(client);
            held.push(at_once(&account, bytes * MIB).await.expect("it is there"));
            accounts.push(account);
        }
        assert!(!held[0].is_wanted());
        let own = tokio::spawn(wait(&accounts[0]));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!held[0].is_wanted(), "it lacks what it has itself");
        own.abort();

        let late = server.begin(4);
        for is_given_up in [true, false] {
            let waiting = tokio::spawn(wait(&late));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(held[0].is_wanted());
            if is_given_up {
                waiting.abort();
                assert!(waiting.await.is_err());
            } else {
                drop(held.pop());
                assert!(waiting.await.expect("it runs").is_some());
            }
            assert!(!held[0].is_wanted());
        }
        drop(held);
        at_once(&late, 40 * MIB).await.expect("who gave up holds nothing");
    }

    fn wait(account: &Arc<Share>) -> Asked<Box<dyn Room>> {
        Arc::clone(account).room(MIB)
    }
}
