//! How much a server takes on, and who has taken how much of it.
//!
//! Each client, known by its key, is counted by itself, so that one cannot take what all the others
//! need. What is counted is given back when its guard is dropped.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex};

use quinn::Connection;
use tokio::sync::Notify;

use super::memory::{FIRST_BYTES_MIN, Parts};
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::net::endpoint::RECEIVE_WINDOW_BYTES;
use crate::net::windows::{Bounds, Window, Windows};
use crate::store::descriptors::Descriptors;
use crate::work::Workers;

/// The most that a server takes on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transfers, of all clients together.
    pub transfers: usize,
    /// Transfers of one client.
    pub transfers_per_client: usize,
    /// Connections, of all clients together. A transfer has 10 to 64.
    pub connections: usize,
    /// Connections of one client.
    pub connections_per_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers: 256,
            transfers_per_client: 64,
            connections: 4_096,
            connections_per_client: 1_024,
        }
    }
}

impl Limits {
    /// The same where there is room for no more than so many. Of what is cut, no client has it all.
    pub(super) fn within(self, transfers: usize, connections: usize) -> Self {
        let part = |own: usize, all: usize, cut: usize| {
            if cut < all { own.min(cut.div_ceil(2)) } else { own }
        };
        Self {
            transfers,
            transfers_per_client: part(self.transfers_per_client, self.transfers, transfers),
            connections,
            connections_per_client: part(
                self.connections_per_client,
                self.connections,
                connections,
            ),
        }
    }
}

/// What a server has to give.
#[derive(Clone, Debug)]
pub(super) struct Means {
    pub(super) limits: Limits,
    /// What of its memory is for what.
    pub(super) parts: Parts,
    /// How much transfers may have open.
    pub(super) descriptors: Arc<Descriptors>,
    /// Who does what blocks.
    pub(super) workers: Arc<Workers>,
}

impl Means {
    /// Clients of what is not a transfer, `what` for a person: so many of all together, and so many of one client.
    pub(super) fn clients(&self, what: &'static str, all: usize, own: usize) -> Arc<Clients> {
        let limits = Limits { transfers: all, transfers_per_client: own, ..self.limits };
        Clients::new(what, limits, self.parts)
    }
}

/// Transfers that wait for their turn, at most.
const WAITING_MAX: usize = 1_024;
/// The same of one client.
const OWN_WAITING_MAX: usize = 256;

/// What the clients have taken.
#[derive(Debug)]
pub(super) struct Clients {
    /// What is counted, for a person.
    what: &'static str,
    limits: Limits,
    parts: Parts,
    /// What their connections may take in before it is read.
    windows: Arc<Windows>,
    table: Mutex<Table>,
    /// Told whenever somebody who waits may have got a turn.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<Fingerprint, Taken>,
    transfers: usize,
    connections: usize,
    /// Clients that have transfers.
    active: usize,
    /// Whose transfers wait for their turn, in the order in which they came.
    waiting: BTreeMap<u64, Fingerprint>,
    tickets: u64,
}

/// What one client has taken. It is forgotten when that is nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    transfers: usize,
    connections: usize,
}

impl Clients {
    pub(super) fn new(what: &'static str, limits: Limits, parts: Parts) -> Arc<Self> {
        let windows = Windows::new(Bounds {
            all: parts.windows as u64,
            own: parts.client_windows as u64,
            least: FIRST_BYTES_MIN,
            most: RECEIVE_WINDOW_BYTES,
        });
        let (table, changed) = (Mutex::default(), Notify::new());
        Arc::new(Self { what, limits, parts, windows, table, changed })
    }

    /// Whether there may be one more connection, whoever's it is.
    pub(super) fn has_room(&self) -> bool {
        lock(&self.table).connections < self.limits.connections
    }

    /// What one more connection may take in before it is known whose it is, and what for, beside `handshakes`.
    pub(super) fn first_window(&self, handshakes: usize) -> u32 {
        self.parts.first_window(lock(&self.table).connections + handshakes)
    }

    fn check(&self, table: &Table, client: Fingerprint) -> Result<(), String> {
        let (limit, own_limit) = (self.limits.transfers, self.limits.transfers_per_client);
        if table.transfers >= limit {
            return Err(over(&format!("{} as it allows ({limit})", self.what)));
        }
        if table.of(client).transfers >= own_limit {
            let what = self.what;
            return Err(over(&format!("{what} of yours as it allows a client ({own_limit})")));
        }
        Ok(())
    }

    /// Counts one transfer of `client`.
    pub(super) fn begin(self: &Arc<Self>, client: Fingerprint) -> Result<TransferSeat, String> {
        let mut table = lock(&self.table);
        self.check(&table, client)?;
        // Nobody overtakes those who wait for what there is.
        if self.next(&table).is_some() {
            return Err(over(&format!("{} waiting", self.what)));
        }
        Ok(self.seat(&mut table, client))
    }

    fn seat(self: &Arc<Self>, table: &mut Table, client: Fingerprint) -> TransferSeat {
        let own = table.clients.entry(client).or_default();
        own.transfers += 1;
        let is_first = own.transfers == 1;
        table.active += usize::from(is_first);
        table.transfers += 1;
        TransferSeat { clients: Arc::clone(self), client }
    }

    /// Waits until it is the turn of a transfer of `client`, and counts it.
    pub(super) async fn turn(
        self: &Arc<Self>,
        client: Fingerprint,
    ) -> Result<TransferSeat, String> {
        let ticket = Ticket::draw(self, client)?;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut table = lock(&self.table);
                if self.next(&table) == Some(ticket.number) {
                    return Ok(self.seat(&mut table, client));
                }
            }
            changed.await;
        }
    }

    /// Who is the next to begin, if anybody may: of the clients that have the fewest transfers, the one
    /// that waits longest.
    fn next(&self, table: &Table) -> Option<u64> {
        if table.transfers >= self.limits.transfers {
            return None;
        }
        let has_room = |client| table.of(client).transfers < self.limits.transfers_per_client;
        let may_begin = table.waiting.iter().filter(|(_, client)| has_room(**client));
        may_begin.min_by_key(|(_, client)| table.of(**client).transfers).map(|(ticket, _)| *ticket)
    }

    /// Counts one connection of `client`.
    pub(super) fn connect(self: &Arc<Self>, client: Fingerprint) -> Result<ConnectionSeat, String> {
        let mut table = lock(&self.table);
        let limit = self.limits.connections_per_client;
        if table.of(client).connections >= limit {
            return Err(over(&format!(
                "connections of yours as it allows a client ({limit}): try again later"
            )));
        }
        table.connections += 1;
        let own = table.clients.entry(client).or_default();
        own.connections += 1;
        Ok(ConnectionSeat { clients: Arc::clone(self), client })
    }

    /// Whether somebody waits for their turn.
    pub(super) fn has_waiting(&self) -> bool {
        !lock(&self.table).waiting.is_empty()
    }

    /// How many there are.
    pub(super) fn transfers(&self) -> usize {
        lock(&self.table).transfers
    }

    /// Connections that are up, transfers that wait, and the limits.
    pub(super) fn standing(&self) -> (u64, u64, Limits) {
        let table = lock(&self.table);
        (table.connections as u64, table.waiting.len() as u64, self.limits)
    }

    /// Clients with transfers, and how many `client` has.
    pub(super) fn count(&self, client: Fingerprint) -> (usize, usize) {
        let table = lock(&self.table);
        (table.active, table.of(client).transfers)
    }
}

impl Table {
    fn of(&self, client: Fingerprint) -> Taken {
        self.clients.get(&client).copied().unwrap_or_default()
    }

    fn give_back(&mut self, client: Fingerprint, change: impl FnOnce(&mut Taken)) {
        let Some(taken) = self.clients.get_mut(&client) else { return };
        change(taken);
        if taken.transfers == 0 && taken.connections == 0 {
            self.clients.remove(&client);
        }
    }
}

fn over(what: &str) -> String {
    format!("the server has as many {what}")
}

/// A place among those who wait.
struct Ticket {
    clients: Arc<Clients>,
    number: u64,
}

impl Ticket {
    fn draw(clients: &Arc<Clients>, client: Fingerprint) -> Result<Self, String> {
        let mut table = lock(&clients.table);
        let own = table.waiting.values().filter(|&&other| other == client).count();
        if table.waiting.len() >= WAITING_MAX || own >= OWN_WAITING_MAX {
            return Err(over(&format!("{} waiting as it allows: try again later", clients.what)));
        }
        let number = table.tickets;
        table.tickets += 1;
        table.waiting.insert(number, client);
        Ok(Self { clients: Arc::clone(clients), number })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.clients.table).waiting.remove(&self.number);
        self.clients.changed.notify_waiters();
    }
}

/// A transfer that is counted.
#[derive(Debug)]
pub(super) struct TransferSeat {
    clients: Arc<Clients>,
    client: Fingerprint,
}

impl Drop for TransferSeat {
    fn drop(&mut self) {
        let mut table = lock(&self.clients.table);
        table.transfers -= 1;
        let is_last = table.of(self.client).transfers == 1;
        table.active -= usize::from(is_last);
        table.give_back(self.client, |taken| taken.transfers -= 1);
        drop(table);
        self.clients.changed.notify_waiters();
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct ConnectionSeat {
    clients: Arc<Clients>,
    client: Fingerprint,
}

impl ConnectionSeat {
    /// Lets `connection`, which has this seat and has begun with `first` bytes, take in more.
    pub(super) fn widen(&self, connection: &Connection, first: u32) -> Window {
        self.clients.windows.widen(*self.client.as_bytes(), connection, first)
    }
}

impl Drop for ConnectionSeat {
    fn drop(&mut self) {
        let mut table = lock(&self.clients.table);
        table.connections -= 1;
        table.give_back(self.client, |taken| taken.connections -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Fingerprint {
        let mut text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF".to_owned();
        text.push(['A', 'E', 'I', 'M', 'Q', 'U'][usize::from(byte)]);
        text.parse().expect("a fingerprint")
    }

    #[test]
    fn a_client_gets_its_limit_and_all_of_them_theirs() {
        let limits = Limits { transfers: 3, transfers_per_client: 2, ..Limits::default() };
        let clients = Clients::new("transfers", limits, Parts::of(u64::MAX));
        let seats: Vec<_> = (0..2).map(|_| clients.begin(key(0)).expect("below")).collect();
        assert!(clients.begin(key(0)).expect_err("its limit").contains("allows a client (2)"));
        let other = clients.begin(key(1)).expect("below");
        assert_eq!((clients.count(key(0)), clients.count(key(1))), ((2, 2), (2, 1)));
        assert!(clients.begin(key(2)).expect_err("the limit").contains("as it allows (3)"));
        drop(seats);
        clients.begin(key(2)).expect("there is room again");
        drop(other);
        assert!(lock(&clients.table).clients.is_empty(), "who has nothing is forgotten");
    }

    #[tokio::test]
    async fn who_has_least_is_the_next_and_nobody_overtakes() {
        let limits = Limits { transfers: 2, ..Limits::default() };
        let clients = Clients::new("transfers", limits, Parts::of(u64::MAX));
        let mut seats = vec![clients.begin(key(0)).unwrap(), clients.begin(key(0)).unwrap()];
        let wait = |client| {
            let clients = Arc::clone(&clients);
            tokio::spawn(async move { clients.turn(client).await })
        };
        let waiting = |count| {
            let clients = &clients;
            async move {
                while lock(&clients.table).waiting.len() != count {
                    tokio::task::yield_now().await;
                }
            }
        };
        let same = wait(key(0));
        waiting(1).await;
        let other = wait(key(1));
        waiting(2).await;
        let gone = wait(key(2));
        waiting(3).await;
        seats.pop();
        let other = other.await.unwrap().unwrap();
        assert!(!same.is_finished() && !gone.is_finished());
        gone.abort();
        waiting(1).await;
        drop(other);
        assert!(clients.begin(key(1)).is_err(), "somebody waits for it");
        seats.push(same.await.unwrap().unwrap());
        assert!(clients.begin(key(1)).is_err());
        seats.clear();
        clients.begin(key(1)).unwrap();
    }

    #[test]
    fn connections_are_counted_by_client() {
        let limits = Limits { connections: 3, connections_per_client: 2, ..Limits::default() };
        let clients = Clients::new("transfers", limits, Parts::of(u64::MAX));
        let one = clients.connect(key(0)).expect("below");
        let _two = clients.connect(key(0)).expect("below");
        assert!(clients.connect(key(0)).expect_err("its limit").contains("allows a client (2)"));
        let _three = clients.connect(key(1)).expect("below");
        assert!(!clients.has_room());
        drop(one);
        assert!(clients.has_room());
        clients.connect(key(0)).expect("there is room again");
    }
}
