//! Room for stripes that are being received: bounded for the server, and shared fairly by its clients.
//!
//! A client may take what would be its share if one more client came: so whoever comes finds room, even
//! if all others hold on to theirs. Its transfers share what it has. One stripe always fits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::limits::{Clients, TransferSeat};
use crate::identity::Fingerprint;

/// What all transfers together may take, in bytes.
const SERVER_BYTES: usize = 256 << 20;
/// What one transfer may take, however few there are.
const TRANSFER_BYTES: usize = 96 << 20;
/// A client's share is not made smaller than this. Where there are so many clients that this is more than
/// there is, they wait for one another.
const CLIENT_BYTES_MIN: usize = 4 << 20;

/// The server's room.
#[derive(Debug)]
pub(super) struct Rooms {
    clients: Arc<Clients>,
    all: Arc<Semaphore>,
    /// By client, what its stripes take.
    taken: Mutex<HashMap<Fingerprint, Taken>>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    accounts: usize,
    /// Told whenever some of it is given back.
    freed: Arc<Notify>,
}

impl Rooms {
    pub(super) fn new(clients: Arc<Clients>) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(SERVER_BYTES));
        Arc::new(Self { clients, all, taken: Mutex::default(), waiting: AtomicUsize::new(0) })
    }
}

/// One transfer's room.
#[derive(Debug)]
pub(super) struct Account {
    rooms: Arc<Rooms>,
    client: Fingerprint,
    freed: Arc<Notify>,
    used: AtomicUsize,
    /// Stripes are given room in the order in which they ask, and only the first one of a transfer
    /// waits with those of others.
    turn: tokio::sync::Mutex<()>,
    seat: Mutex<Option<TransferSeat>>,
}

impl Account {
    /// Room for a transfer of `client`, which is counted for as long as it has its seat.
    pub(super) fn new(rooms: Arc<Rooms>, client: Fingerprint, seat: TransferSeat) -> Arc<Self> {
        let mut taken = lock(&rooms.taken);
        let own = taken.entry(client).or_default();
        own.accounts += 1;
        let freed = Arc::clone(&own.freed);
        drop(taken);
        let (used, turn) = (AtomicUsize::new(0), tokio::sync::Mutex::default());
        Arc::new(Self { rooms, client, freed, used, turn, seat: Mutex::new(Some(seat)) })
    }

    /// The transfer is over: another may begin in its place.
    pub(super) fn leave_seat(&self) {
        lock(&self.seat).take();
    }

    /// Waits for room for a stripe.
    pub(super) async fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let _turn = self.turn.lock().await;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.take(bytes) {
                break;
            }
            freed.await;
        }
        let mut room = Room { account: Arc::clone(self), bytes, all: None };
        let permits = u32::try_from(bytes.min(SERVER_BYTES)).unwrap_or(u32::MAX);
        let all = || Arc::clone(&self.rooms.all);
        room.all = all().try_acquire_many_owned(permits).ok();
        if room.all.is_none() {
            let _waiting = Waiting::new(&self.rooms.waiting);
            room.all = all().acquire_many_owned(permits).await.ok();
        }
        room.all.is_some().then_some(room)
    }

    /// Takes room of the client's share, if there is enough.
    fn take(&self, bytes: usize) -> bool {
        let (clients, transfers) = self.rooms.clients.count(self.client);
        let (share, own_share) = shares(clients, transfers);
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

impl Drop for Account {
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
fn shares(clients: usize, transfers: usize) -> (usize, usize) {
    let client = (SERVER_BYTES / (clients + 1)).max(CLIENT_BYTES_MIN);
    (client, (client / transfers.max(1)).min(TRANSFER_BYTES))
}

/// Room that a stripe takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    account: Arc<Account>,
    bytes: usize,
    all: Option<OwnedSemaphorePermit>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.take();
        self.account.give_back(self.bytes);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
