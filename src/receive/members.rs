//! The connections that bring one job, by the numbers that the sender has given them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, VarInt};
use tokio::time::Instant;

use crate::mutex::lock;
use crate::net::line::CLOSE_REASON_BYTES_MAX;

/// How often it is looked for signs of life.
const LIFE_TICK: Duration = Duration::from_millis(20);

/// Connections that are up.
#[derive(Debug, Default)]
pub(super) struct Members {
    connections: Mutex<HashMap<u32, Connection>>,
    /// When a connection was last lost.
    deserted_at: Mutex<Option<Instant>>,
}

impl Members {
    /// Adds a connection unless `is_over`. False then, and if there is one of its number.
    pub(super) fn join(
        &self,
        number: u32,
        connection: &Connection,
        is_over: impl FnOnce() -> bool,
    ) -> bool {
        let mut connections = lock(&self.connections);
        // Whoever ends the job says so before all connections are closed.
        if is_over() || connections.contains_key(&number) {
            return false;
        }
        connections.insert(number, connection.clone());
        true
    }

    /// A connection is over. Returns how many are left.
    pub(super) fn leave(&self, number: u32) -> usize {
        let mut connections = lock(&self.connections);
        connections.remove(&number);
        *lock(&self.deserted_at) = Some(Instant::now());
        connections.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.connections).is_empty()
    }

    /// Whether there has been none for at least `time`.
    pub(super) fn is_deserted(&self, time: Duration) -> bool {
        let connections = lock(&self.connections);
        connections.is_empty() && lock(&self.deserted_at).is_some_and(|at| at.elapsed() >= time)
    }

    /// Waits until something comes over any of them, which are asked for a sign of life. The sender's system
    /// answers, and not the sender.
    pub(super) async fn shows_life(&self) {
        let connections: Vec<_> = lock(&self.connections).values().cloned().collect();
        let heard = |connection: &Connection| connection.stats().udp_rx.datagrams;
        let before: Vec<_> = connections.iter().map(heard).collect();
        for connection in &connections {
            // One that cannot send is dead.
            drop(connection.send_datagram(Bytes::from_static(b"?")));
        }
        let is_alive = || connections.iter().map(heard).ne(before.iter().copied());
        while !is_alive() {
            tokio::time::sleep(LIFE_TICK).await;
        }
    }

    /// Closes one of them.
    pub(super) fn close(&self, number: u32, code: u32) {
        if let Some(connection) = lock(&self.connections).get(&number) {
            connection.close(VarInt::from_u32(code), b"");
        }
    }

    /// Closes all of them.
    pub(super) fn close_all(&self, code: u32, reason: &str) {
        let text = &reason.as_bytes()[..reason.len().min(CLOSE_REASON_BYTES_MAX)];
        for connection in lock(&self.connections).values() {
            connection.close(VarInt::from_u32(code), text);
        }
    }
}
