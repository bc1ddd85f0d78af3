//! What connections may take in before it is read: one account for all of them, and one for each of their owners.
//!
//! A window is a promise. So much may come, and waits in memory if nobody reads it; and it cannot be taken back:
//! one that is made smaller is smaller only when enough has been read. So an account counts what is promised.
//! Whoever comes gets its part of what is left, those that have more than theirs give it back as they are read
//! from, and what is given back goes to those that have less. A part is small until something was read, so that
//! those that come first do not have all.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use quinn::{Connection, VarInt};

use crate::mutex::lock;

/// So much of a window is there for each stream, in bytes. About so much may be held of a stream of which little has
/// come, too.
const STREAM_BYTES: u32 = 32 << 10;
/// Streams that the other end may have open until a connection has its part.
pub(super) const STREAMS_FIRST: u32 = 16;
/// Streams that the other end may have open on one connection, at most.
pub const STREAMS_MAX: u32 = 256;
/// Parts of what an owner has that a connection has at most until it was read from, and how often that much must have
/// been read.
const EARLY_PART: u64 = 24;
const EARLY_TIMES: u64 = 2;
/// What waits to be confirmed of what is answered, in parts of the window, and within these bounds.
const ANSWERS_PART: u32 = 8;
const ANSWERS_BYTES_MIN: u32 = 16 << 10;
const ANSWERS_BYTES_MAX: u32 = 1 << 20;

/// How much there is to promise, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// To all connections, and to those of one owner, beside what each begins with.
    pub all: u64,
    /// See `all`.
    pub own: u64,
    /// One connection has so much at least, and at most.
    pub least: u32,
    /// See `least`.
    pub most: u32,
}

/// Whose connections they are: a key.
type Owner = [u8; 32];

/// The account.
#[derive(Debug)]
pub struct Windows {
    bounds: Bounds,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    owners: HashMap<Owner, Own>,
    /// What is promised to those that have their part.
    promised: u64,
    /// Connections that were counted so far.
    numbers: u64,
    /// Somebody has less than its part, because all is promised.
    is_short: bool,
}

/// Those of one owner that have their part.
#[derive(Debug, Default)]
struct Own {
    promised: u64,
    wide: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// What it began with, and has whatever the account says.
    first: u32,
    window: u32,
    state: Arc<State>,
    carrier: Box<dyn Carrier>,
}

#[derive(Debug)]
struct State {
    /// What is still to be read until no more than the window is promised.
    debt: AtomicU64,
    /// What is still to be read until it may have all of its part.
    early: AtomicU64,
}

/// Whose window it is.
trait Carrier: std::fmt::Debug + Send {
    fn set_window(&self, bytes: u32);
}

impl Carrier for Connection {
    fn set_window(&self, bytes: u32) {
        self.set_receive_window(VarInt::from_u32(bytes));
        let streams = (bytes / STREAM_BYTES).clamp(STREAMS_FIRST, STREAMS_MAX);
        self.set_max_concurrent_uni_streams(VarInt::from_u32(streams));
        let answers = (bytes / ANSWERS_PART).clamp(ANSWERS_BYTES_MIN, ANSWERS_BYTES_MAX);
        self.set_send_window(answers.into());
    }
}

impl Windows {
    /// An account of so much.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, table: Mutex::default() })
    }

    /// The account of somebody who has no other.
    pub fn own(self: &Arc<Self>, connection: &Connection, first: u32) -> Window {
        self.widen([0; 32], connection, first)
    }

    /// Gives a connection of `owner` its part, which has begun with `first` bytes.
    pub fn widen(self: &Arc<Self>, owner: Owner, connection: &Connection, first: u32) -> Window {
        self.add(owner, first, Box::new(connection.clone()))
    }

    fn add(self: &Arc<Self>, owner: Owner, first: u32, carrier: Box<dyn Carrier>) -> Window {
        let mut table = lock(&self.table);
        table.numbers += 1;
        let number = table.numbers;
        let early = AtomicU64::new(self.bounds.own / EARLY_PART * EARLY_TIMES);
        let state = Arc::new(State { debt: AtomicU64::default(), early });
        let entry = Entry { first, window: first, state: Arc::clone(&state), carrier };
        table.owners.entry(owner).or_default().wide.insert(number, entry);
        self.share(&mut table, owner);
        Window { account: Arc::clone(self), owner, number, state }
    }

    /// What each connection of an owner with `own` of them is to have.
    fn part(&self, table: &Table, own: u64) -> u32 {
        let most = self.bounds.own.min(self.bounds.all / level(table.owners.len() as u64));
        u32::try_from(most / level(own))
            .unwrap_or(u32::MAX)
            .clamp(self.bounds.least, self.bounds.most)
    }

    /// Brings the connections of `owner` to their parts, as far as that can be.
    fn share(&self, table: &mut Table, owner: Owner) {
        let Some(own) = table.owners.get(&owner) else { return };
        let part = self.part(table, own.wide.len() as u64);
        let all_free = self.bounds.all.saturating_sub(table.promised);
        let early = u32::try_from(self.bounds.own / EARLY_PART).unwrap_or(u32::MAX);
        let Some(own) = table.owners.get_mut(&owner) else { return };
        let own_free = self.bounds.own.saturating_sub(own.promised);
        let mut free = all_free.min(own_free);
        let mut more = 0;
        for entry in own.wide.values_mut() {
            let is_early = entry.state.early.load(Relaxed) > 0;
            more += entry.move_to(if is_early { part.min(early) } else { part }, &mut free);
        }
        own.promised += more;
        table.promised += more;
        table.is_short |= free == 0 && all_free < own_free;
    }

    /// The same for whoever may have got something to have.
    fn share_after(&self, table: &mut Table, owner: Owner) {
        if !std::mem::take(&mut table.is_short) {
            self.share(table, owner);
            return;
        }
        let owners: Vec<_> = table.owners.keys().copied().collect();
        for owner in owners {
            self.share(table, owner);
        }
    }
}

/// A number that is a little more than `count`: parts change seldom, and not with each connection that comes.
fn level(count: u64) -> u64 {
    let power = count.max(1).next_power_of_two();
    let less = power / 4 * 3;
    if count <= less { less.max(1) } else { power }
}

impl Entry {
    /// Returns what is promised more.
    fn move_to(&mut self, part: u32, free: &mut u64) -> u64 {
        // What it began with is neither taken back nor counted.
        let part = part.max(self.first);
        let debt = self.state.debt.load(Relaxed);
        if part < self.window {
            self.state.debt.store(debt + u64::from(self.window - part), Relaxed);
            self.window = part;
            self.carrier.set_window(part);
            return 0;
        }
        // What is asked back is not given again before it is there: both would count at the other end.
        let more = u64::from(part - self.window).min(*free);
        if debt > 0 || more == 0 {
            return 0;
        }
        *free -= more;
        self.window += more as u32;
        self.carrier.set_window(self.window);
        more
    }

    /// What is promised beside what it began with.
    fn promised(&self) -> u64 {
        u64::from(self.window - self.first) + self.state.debt.load(Relaxed)
    }
}

/// A connection that has its part, until it is dropped.
#[derive(Debug)]
pub struct Window {
    account: Arc<Windows>,
    owner: Owner,
    number: u64,
    state: Arc<State>,
}

impl Window {
    /// So much of what has come was read.
    pub fn read(&self, bytes: u64) {
        let State { debt, early } = &*self.state;
        let is_early = early.load(Relaxed) > 0;
        if !is_early && debt.load(Relaxed) == 0 {
            return;
        }
        let mut table = lock(&self.account.table);
        let owed = debt.load(Relaxed);
        let back = owed.min(bytes);
        debt.store(owed - back, Relaxed);
        table.promised -= back;
        if let Some(own) = table.owners.get_mut(&self.owner) {
            own.promised -= back;
        }
        let left = early.load(Relaxed).saturating_sub(bytes);
        early.store(left, Relaxed);
        if owed > 0 && owed == back || is_early && left == 0 {
            self.account.share_after(&mut table, self.owner);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut table = lock(&self.account.table);
        let Some(own) = table.owners.get_mut(&self.owner) else { return };
        let promised = own.wide.remove(&self.number).map_or(0, |entry| entry.promised());
        own.promised -= promised;
        if own.wide.is_empty() {
            table.owners.remove(&self.owner);
        }
        table.promised -= promised;
        self.account.share_after(&mut table, self.owner);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1 << 20;
    const BOUNDS: Bounds =
        Bounds { all: 256 << 20, own: 96 << 20, least: 16 << 10, most: 16 << 20 };
    const FIRST: u32 = 64 << 10;

    /// Does what quinn does: what was promised stays so until enough is read.
    #[derive(Clone, Debug, Default)]
    struct Peer(Arc<Mutex<Flow>>);

    #[derive(Debug, Default)]
    struct Flow {
        window: i64,
        debt: i64,
        /// What it may still send.
        credit: i64,
        unread: i64,
    }

    impl Carrier for Peer {
        fn set_window(&self, bytes: u32) {
            let mut state = lock(&self.0);
            let more = i64::from(bytes) - state.window;
            if more > 0 {
                state.credit += more;
            } else {
                state.debt -= more;
            }
            state.window = bytes.into();
        }
    }

    impl Peer {
        fn add(windows: &Arc<Windows>, owner: u8) -> (Self, Window) {
            let peer = Self::default();
            *lock(&peer.0) = Flow { window: FIRST.into(), credit: FIRST.into(), ..Flow::default() };
            let window = windows.add([owner; 32], FIRST, Box::new(peer.clone()));
            (peer, window)
        }

        fn window(&self) -> u32 {
            lock(&self.0).window as u32
        }

        fn send(&self, part: i64) {
            let mut state = lock(&self.0);
            let sent = state.credit / part;
            state.credit -= sent;
            state.unread += sent;
        }

        fn read(&self, window: &Window, part: i64) {
            let mut state = lock(&self.0);
            let read = state.unread / part;
            state.unread -= read;
            let paid = state.debt.min(read);
            state.debt -= paid;
            state.credit += read - paid;
            drop(state);
            window.read(read as u64);
        }

        /// What of it may have to be kept.
        fn promised(&self) -> i64 {
            let state = lock(&self.0);
            state.credit + state.unread
        }
    }

    #[test]
    fn whoever_is_alone_gets_much_and_many_get_little() {
        let windows = Windows::new(BOUNDS);
        let mut peers: Vec<_> = (0..10).map(|_| Peer::add(&windows, 1)).collect();
        let widths = |peers: &[(Peer, Window)]| -> Vec<u32> {
            peers.iter().map(|(peer, _)| peer.window()).collect()
        };
        assert_eq!(widths(&peers), [4 * MIB; 10]);
        for round in 0..6 {
            for (peer, window) in &peers {
                peer.send(1);
                peer.read(window, 1 + round % 2);
            }
        }
        assert_eq!(widths(&peers), [8 * MIB; 10]);
        peers.extend((0..6).map(|_| Peer::add(&windows, 1)));
        // The first ones have more than their part until they are read from.
        assert!(peers[10..].iter().any(|(peer, _)| peer.window() < 4 * MIB));
        for _ in 0..4 {
            for (peer, window) in &peers {
                peer.send(1);
                peer.read(window, 1);
            }
        }
        assert_eq!(widths(&peers), [6 * MIB; 16]);
        // Who is left has what the others have given back.
        peers.truncate(2);
        assert_eq!(widths(&peers), [16 * MIB; 2]);
        drop(peers);
        let table = lock(&windows.table);
        assert_eq!((table.promised, table.owners.len()), (0, 0));
    }

    #[test]
    fn what_is_never_read_is_bounded_however_many_there_are() {
        let windows = Windows::new(BOUNDS);
        let promised = AtomicI64::new(0);
        let peers: Vec<_> = (0..1_024)
            .map(|_| {
                let (peer, window) = Peer::add(&windows, 1);
                peer.send(1);
                promised.fetch_add(peer.promised(), Relaxed);
                (peer, window)
            })
            .collect();
        let all: i64 = peers.iter().map(|(peer, _)| peer.promised()).sum();
        assert!(all <= (96 << 20) + 1_024 * i64::from(FIRST), "{all}");
        // Another one gets its part all the same.
        let (other, _window) = Peer::add(&windows, 2);
        assert_eq!(other.window(), 4 * MIB);
    }

    proptest! {
        /// Whatever comes, goes, sends and is read: what the peers may send and have sent is what is counted at most.
        #[test]
        fn no_more_is_promised_than_there_is(
            steps in proptest::collection::vec((0..5_u8, 0..3_u8, any::<usize>(), 1..4_i64), 0..300),
        ) {
            let bounds = Bounds { all: 20 << 20, own: 8 << 20, ..BOUNDS };
            let windows = Windows::new(bounds);
            let mut peers: Vec<(u8, Peer, Window)> = Vec::new();
            for (step, owner, which, part) in steps {
                let at = which % peers.len().max(1);
                match step {
                    0 | 1 => {
                        let (peer, window) = Peer::add(&windows, owner);
                        peers.push((owner, peer, window));
                    }
                    2 if !peers.is_empty() => drop(peers.swap_remove(at)),
                    3 => peers.iter().for_each(|(_, peer, _)| peer.send(part)),
                    _ => peers.iter().for_each(|(_, peer, window)| peer.read(window, part)),
                }
                let of = |owner: Option<u8>| {
                    let of = peers.iter().filter(|peer| owner.is_none_or(|owner| peer.0 == owner));
                    of.map(|(_, peer, _)| peer.promised() - i64::from(FIRST)).sum::<i64>()
                };
                prop_assert!(of(None) <= bounds.all.cast_signed());
                prop_assert!((0..3).all(|owner| of(Some(owner)) <= bounds.own.cast_signed()));
                let table = lock(&windows.table);
                prop_assert!(table.promised.cast_signed() >= of(None));
                let wide: usize = table.owners.values().map(|own| own.wide.len()).sum();
                prop_assert_eq!(wide, peers.len());
            }
        }
    }
}
