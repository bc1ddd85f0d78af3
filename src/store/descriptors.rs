//! How many files and folders transfers have open at a time: bounded for the server, and shared fairly
//! by its clients.
//!
//! A client may take what would be its share if one more client came, so that one alone never has all;
//! its transfers share what it has. Who wants more first closes what can be opened again and hands on
//! what is complete, then has those close some that have more than their share, and then waits. It holds
//! nothing meanwhile that others could wait for.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::ration::{Ration, Rations};
use crate::mutex::lock;

/// What one record may open while it is written: a folder and the one that it is made in, a file, and
/// one to watch the file system by.
const RECORD_MAX: usize = 4;
/// What a transfer has open for all of its time: its journal, and a folder of its file system.
const TRANSFER_FIXED: usize = 3;
/// A transfer's share is not made smaller than this.
const TRANSFER_MIN: usize = 2 * RECORD_MAX;
/// What whoever is alone keeps in memory, half of it for one transfer, in bytes.
pub const ALONE_BYTES: usize = 256 << 20;
/// Who waits is told when something is closed, and looks again after so long in any case.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What the system does not open for lack of room is tried again for so long, and so often.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// What transfers may use of a limit of `limit` open files: well below it. The rest is for sockets, for
/// what is opened for a moment, and for what else the process does.
pub fn budget(limit: usize) -> usize {
    (limit - (limit / 4).min(64)) / 4 * 3
}

/// So many transfers can be open at a time with that.
pub fn transfers_max(budget: usize) -> usize {
    (budget / (TRANSFER_FIXED + TRANSFER_MIN)).max(1)
}

/// Raises this process's limit on open files as far as it may, and returns it.
pub fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Opens something. Where the process or the system has no room for it at the moment, that is waited
/// out: it is no fault of what is opened.
pub fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match open() {
            Err(error) if is_shortage(&error) && began.elapsed() < PATIENCE => {
                tracing::debug!(%error, "waiting");
                thread::sleep(RETRY_INTERVAL);
            }
            opened => return opened,
        }
    }
}

/// Whether something fails only because others use too much at the moment.
pub fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Whoever can close what it has open, and open it again when it is needed.
pub(super) trait Shed: std::fmt::Debug + Send + Sync {
    /// Closes what it can.
    fn shed(&self);
}

/// What all transfers share.
#[derive(Debug)]
pub struct Descriptors {
    limit: usize,
    rations: Arc<Rations>,
    table: Mutex<Table>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    used: usize,
    clients: HashMap<[u8; 32], Client>,
    members: Vec<Weak<Share>>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Client {
    used: usize,
    transfers: usize,
}

impl Descriptors {
    /// At most about `limit` of them, and `memory_bytes` of memory for what transfers keep.
    pub fn new(limit: usize, memory_bytes: usize) -> Arc<Self> {
        let rations = Rations::new(memory_bytes);
        Arc::new(Self { limit, rations, table: Mutex::default(), freed: Condvar::new() })
    }

    /// A transfer of `client` takes its part.
    pub fn join(self: &Arc<Self>, client: [u8; 32]) -> Arc<Share> {
        let share = Arc::new(Share {
            all: Arc::clone(self),
            client,
            ration: Arc::new(self.rations.join(client)),
            used: Mutex::default(),
            shed: Mutex::default(),
        });
        let mut table = lock(&self.table);
        table.used += TRANSFER_FIXED;
        table.clients.entry(client).or_default().transfers += 1;
        table.members.retain(|member| member.strong_count() > 0);
        table.members.push(Arc::downgrade(&share));
        share
    }
}

/// One transfer's part.
#[derive(Debug)]
pub struct Share {
    all: Arc<Descriptors>,
    client: [u8; 32],
    ration: Arc<Ration>,
    used: Mutex<usize>,
    shed: Mutex<Option<Weak<dyn Shed>>>,
}

impl Share {
    /// The part of whoever is alone.
    pub fn alone() -> Arc<Self> {
        Descriptors::new(usize::MAX / 2, ALONE_BYTES).join([0; 32])
    }

    /// The memory that it may keep.
    pub(super) fn ration(&self) -> &Arc<Ration> {
        &self.ration
    }

    /// Names who can close something for others.
    pub(super) fn sheds(&self, who: Weak<dyn Shed>) {
        *lock(&self.shed) = Some(who);
    }

    /// Counts `count` that are open, or are about to be by whoever has entered.
    pub(super) fn hold(self: &Arc<Self>, count: usize) -> Held {
        let mut table = lock(&self.all.table);
        self.take(&mut table, count);
        Held { share: Arc::clone(self), count }
    }

    /// Waits until what a record needs can be opened. `hand_over` gives away what the caller has of
    /// complete files, before it waits.
    pub(super) fn enter(self: &Arc<Self>, hand_over: impl FnMut()) -> Held {
        self.enter_with(RECORD_MAX, hand_over)
    }

    /// Waits until some can be opened, and takes up to `max`.
    pub(super) fn enter_with(self: &Arc<Self>, max: usize, mut hand_over: impl FnMut()) -> Held {
        if let Some(held) = self.try_enter(max) {
            return held;
        }
        hand_over();
        self.shed();
        loop {
            if let Some(held) = self.try_enter(max) {
                return held;
            }
            self.all.shed_surplus();
            let mut table = lock(&self.all.table);
            if self.room(&table) < RECORD_MAX {
                table.waiting += 1;
                let (mut table, _) = self
                    .all
                    .freed
                    .wait_timeout(table, LOOK_INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner);
                table.waiting -= 1;
            }
            self.shed();
        }
    }

    fn try_enter(self: &Arc<Self>, max: usize) -> Option<Held> {
        let mut table = lock(&self.all.table);
        let count = self.room(&table).min(max);
        if count < RECORD_MAX.min(max) {
            return None;
        }
        self.take(&mut table, count);
        Some(Held { share: Arc::clone(self), count })
    }

    fn take(&self, table: &mut Table, count: usize) {
        table.used += count;
        if let Some(client) = table.clients.get_mut(&self.client) {
            client.used += count;
        }
        *lock(&self.used) += count;
    }

    /// How many more it may have open: one record's always, if it has nothing.
    fn room(&self, table: &Table) -> usize {
        let used = *lock(&self.used);
        let client = table.clients.get(&self.client).map_or(0, |client| client.used);
        let (client_max, own_max) = self.maxima(table);
        let free = self.all.limit.saturating_sub(table.used);
        let room = free.min(client_max.saturating_sub(client)).min(own_max.saturating_sub(used));
        if used == 0 { room.max(RECORD_MAX) } else { room }
    }

    /// What its client may have open, and what it may.
    fn maxima(&self, table: &Table) -> (usize, usize) {
        let transfers = table.clients.get(&self.client).map_or(1, |client| client.transfers);
        shares(self.all.limit, table.clients.len(), transfers)
    }

    fn shed(&self) {
        let shed = lock(&self.shed).as_ref().and_then(Weak::upgrade);
        if let Some(shed) = shed {
            shed.shed();
        }
    }
}

impl Descriptors {
    /// Where all of them are used up, those that have more than their share close what they can.
    fn shed_surplus(&self) {
        let table = lock(&self.table);
        if self.limit.saturating_sub(table.used) >= RECORD_MAX {
            return;
        }
        // Whoever is the last to have a member needs the table when it goes.
        let members: Vec<_> = table.members.iter().filter_map(Weak::upgrade).collect();
        let is_over = |member: &Arc<Share>| *lock(&member.used) > member.maxima(&table).1;
        let is_over: Vec<_> = members.iter().map(is_over).collect();
        drop(table);
        for (member, _) in members.iter().zip(is_over).filter(|(_, is_over)| *is_over) {
            member.shed();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = lock(&self.all.table);
        table.used -= TRANSFER_FIXED;
        if let Some(client) = table.clients.get_mut(&self.client) {
            client.transfers -= 1;
            if client.transfers == 0 {
                table.clients.remove(&self.client);
            }
        }
        drop(table);
        self.all.freed.notify_all();
    }
}

/// What a client may have open where there are `clients`, and what each of its `transfers`.
fn shares(limit: usize, clients: usize, transfers: usize) -> (usize, usize) {
    let least = TRANSFER_FIXED + TRANSFER_MIN;
    let client = (limit / (clients + 1)).max(least * transfers);
    (client, (client / transfers.max(1)).saturating_sub(TRANSFER_FIXED))
}

/// Some that are counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    share: Arc<Share>,
    count: usize,
}

impl Held {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = lock(&self.share.all.table);
        table.used -= self.count;
        if let Some(client) = table.clients.get_mut(&self.share.client) {
            client.used -= self.count;
        }
        *lock(&self.share.used) -= self.count;
        let is_awaited = table.waiting > 0;
        drop(table);
        if is_awaited {
            self.share.all.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const LIMIT: usize = 240;

    fn taken(share: &Arc<Share>) -> Vec<Held> {
        std::iter::from_fn(|| share.try_enter(RECORD_MAX)).collect()
    }

    #[test]
    fn the_budget_is_well_below_the_limit_and_lets_transfers_in_accordingly() {
        for limit in [64, 256, 1_024, 4_096, 1 << 20, usize::MAX] {
            let budget = budget(limit);
            assert!(budget >= limit / 2 && budget <= limit / 4 * 3, "{limit}: {budget}");
            assert!((1..=budget).contains(&transfers_max(budget)), "{limit}");
        }
        assert!(transfers_max(budget(64)) >= 3);
    }

    #[test]
    fn a_client_with_many_transfers_leaves_others_theirs() {
        let all = Descriptors::new(LIMIT, 0);
        let greedy: Vec<_> = (0..5).map(|_| all.join([1; 32])).collect();
        let held: Vec<_> = greedy.iter().flat_map(taken).collect();
        let used = lock(&all.table).used;
        assert!((LIMIT / 3..=LIMIT / 2 + RECORD_MAX).contains(&used), "{used}");
        let other = all.join([2; 32]);
        assert!(taken(&other).len() * RECORD_MAX > LIMIT / 4, "a third of what there is");
        drop(held);
        drop(greedy);
        assert_eq!(lock(&all.table).clients.len(), 1);
    }

    /// Holds on to some until somebody else needs them.
    #[derive(Debug, Default)]
    struct Hoard {
        held: Mutex<Vec<Held>>,
        asked: AtomicUsize,
    }

    impl Shed for Hoard {
        fn shed(&self) {
            self.asked.fetch_add(1, Relaxed);
            lock(&self.held).clear();
        }
    }

    fn hoard(share: &Arc<Share>, count: usize) -> Arc<Hoard> {
        let hoard = Arc::<Hoard>::default();
        let weak: Weak<dyn Shed> = Arc::<Hoard>::downgrade(&hoard);
        share.sheds(weak);
        lock(&hoard.held).push(share.hold(count));
        hoard
    }

    #[test]
    fn whoever_wants_more_first_closes_what_is_its_own() {
        let share = Descriptors::new(LIMIT, 0).join([1; 32]);
        let hoard = hoard(&share, LIMIT / 2);
        let mut handed_over = 0;
        drop(share.enter(|| handed_over += 1));
        assert_eq!((handed_over, hoard.asked.load(Relaxed)), (1, 1));
        drop(share.enter(|| handed_over += 1));
        assert_eq!((handed_over, hoard.asked.load(Relaxed)), (1, 1), "there is room");
    }

    #[test]
    fn what_an_idle_transfer_has_beyond_its_share_is_taken_from_it() {
        let all = Descriptors::new(LIMIT, 0);
        let idle = all.join([1; 32]);
        let hoard = hoard(&idle, LIMIT);
        let other = all.join([2; 32]);
        let first = other.enter(|| ());
        let second = other.enter(|| ());
        assert!(hoard.asked.load(Relaxed) > 0);
        assert_eq!(first.count() + second.count(), 2 * RECORD_MAX);
    }

    #[test]
    fn who_waits_goes_on_when_something_is_closed() {
        let all = Descriptors::new(LIMIT, 0);
        let share = all.join([1; 32]);
        let mut held = taken(&share);
        let waiting = thread::spawn({
            let share = Arc::clone(&share);
            move || share.enter(|| ()).count()
        });
        while lock(&all.table).waiting == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        held.pop();
        assert_eq!(waiting.join().unwrap(), RECORD_MAX);
        assert!(!held.is_empty());
    }

    #[test]
    fn a_shortage_passes_and_nothing_else_is_waited_for() {
        let mut left = 2;
        let opened = patiently(|| {
            left -= 1;
            if left > 0 { Err(Errno::MFILE.into()) } else { Ok(()) }
        });
        assert!(opened.is_ok());
        let mut tries = 0;
        let failed: io::Result<()> = patiently(|| {
            tries += 1;
            Err(Errno::NOENT.into())
        });
        assert!(failed.is_err() && tries == 1);
    }
}
