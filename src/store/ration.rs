//! Memory that transfers keep from one stripe to the next: nodes of hash trees, folders, failures, and all
//! else that grows with what a client sends. It is bounded for the server, and shared fairly by its clients.
//!
//! A client may take what would be its share if one more client came; its transfers share what it has. A
//! little is always there for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::mutex::lock;

/// So much each transfer may keep, whatever others have, in bytes.
const LEAST_BYTES: usize = 256 << 10;

/// What all transfers share.
#[derive(Debug)]
pub(super) struct Rations {
    bytes_max: usize,
    clients: Mutex<HashMap<[u8; 32], Client>>,
}

#[derive(Debug, Default)]
struct Client {
    transfers: usize,
    bytes: usize,
}

/// One transfer's part.
#[derive(Debug)]
pub struct Ration {
    all: Arc<Rations>,
    client: [u8; 32],
    /// What it keeps.
    bytes: Mutex<usize>,
}

impl Rations {
    /// At most about `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, clients: Mutex::default() })
    }

    /// A transfer of `client` takes its part.
    pub(super) fn join(self: &Arc<Self>, client: [u8; 32]) -> Ration {
        lock(&self.clients).entry(client).or_default().transfers += 1;
        Ration { all: Arc::clone(self), client, bytes: Mutex::default() }
    }
}

impl Ration {
    /// Keeps `more` bytes, if there is room for them.
    fn take(&self, more: usize) -> bool {
        let mut clients = lock(&self.all.clients);
        let share = self.all.bytes_max / (clients.len() + 1);
        let Some(client) = clients.get_mut(&self.client) else { return false };
        let mut own = lock(&self.bytes);
        if client.bytes + more > share && *own + more > LEAST_BYTES {
            return false;
        }
        client.bytes += more;
        *own += more;
        true
    }

    fn give_back(&self, less: usize) {
        let mut clients = lock(&self.all.clients);
        if let Some(client) = clients.get_mut(&self.client) {
            client.bytes -= less;
        }
        *lock(&self.bytes) -= less;
    }
}

impl Drop for Ration {
    fn drop(&mut self) {
        let mut clients = lock(&self.all.clients);
        if let Some(client) = clients.get_mut(&self.client) {
            client.transfers -= 1;
            if client.transfers == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Memory that something takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    ration: Arc<Ration>,
    bytes: usize,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn none(ration: &Arc<Ration>) -> Self {
        Self { ration: Arc::clone(ration), bytes: 0 }
    }

    /// It takes `bytes` now. False if there is no room for that: then it takes what it took.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.ration.take(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.ration.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }

    /// The same for so much more.
    pub(super) fn add(&mut self, more: usize) -> bool {
        self.set(self.bytes + more)
    }

    /// The same for so much less.
    pub(super) fn less(&mut self, less: usize) {
        self.set(self.bytes.saturating_sub(less));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.ration.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_share_what_their_client_may_keep_and_each_has_a_little() {
        const MIB: usize = 1 << 20;
        let all = Rations::new(16 * MIB);
        let join = |client| Arc::new(all.join([client; 32]));
        let (first, second) = (join(1), join(1));
        let mut kept = Kept::none(&first);
        assert!(kept.set(8 * MIB) && !kept.add(1), "half, as if one more came");
        let mut other = Kept::none(&second);
        assert!(other.set(LEAST_BYTES) && !other.add(1));
        let stranger = join(2);
        let mut theirs = Kept::none(&stranger);
        assert!(theirs.set(16 * MIB / 3) && !theirs.set(16 * MIB / 2));
        kept.less(8 * MIB - 1);
        assert!(other.set(MIB));
        drop((kept, other, theirs, first, second, stranger));
        assert!(lock(&all.clients).is_empty());
    }
}
