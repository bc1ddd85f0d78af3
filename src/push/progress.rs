//! What is told of a push: how far and how fast it is, and what it did.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Push;
use crate::clock;
use crate::event::{Progress, PushEvent, Summary};
use crate::traffic::{ConnId, Role};
use crate::wire;

/// The time over which the current rate is measured.
const RATE_TIME: Duration = Duration::from_secs(1);

/// The rate over the last second or so.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    points: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes in how many bytes there are by now; returns bytes per second.
    pub(crate) fn update(&mut self, now: Instant, bytes: u64) -> f64 {
        self.points.push_back((now, bytes));
        while self.points.len() > 2 && now - self.points[1].0 >= RATE_TIME {
            self.points.pop_front();
        }
        let (since, before) = self.points[0];
        let seconds = (now - since).as_secs_f64();
        if seconds > 0.0 { (bytes - before) as f64 / seconds } else { 0.0 }
    }
}

impl Push {
    pub(super) fn tell_connections(&mut self, now: Instant) {
        let mut conns: Vec<ConnId> = self.links.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            let (Some(role), Some(link)) = (self.pool.role(conn), self.links.get(&conn)) else {
                continue;
            };
            if let Some(state) = self.connections.state(conn, role, link.sample(), now) {
                (self.report)(PushEvent::Connection(state));
            }
        }
    }

    pub(super) fn progress(&mut self, now: Instant) -> Progress {
        let scanned = self.source.scanned();
        Progress {
            elapsed_s: (now - self.began).as_secs_f64(),
            found_items: scanned.items.load(Relaxed),
            found_bytes: scanned.bytes.load(Relaxed),
            scan_done: scanned.done.load(Relaxed),
            confirmed_items: self.source.kept_files + self.confirmed_items,
            confirmed_bytes: self.source.kept_bytes + self.confirmed_bytes,
            kept_bytes: self.source.kept_bytes,
            bytes_per_s: self.rate.update(now, self.confirmed_bytes),
            connections: self.links.len(),
            active: self.pool.count(Role::Active),
            reserve: self.pool.count(Role::Reserve),
            takeovers: self.pool.stats().takeovers,
            finishing: self.finishing && self.pool.plan().is_drained(),
        }
    }

    /// What this end knows of the transfer.
    pub(super) fn summary(&mut self) -> Summary {
        let now = clock::now();
        let samples = || self.links.iter().map(|(&conn, link)| (conn, link.sample()));
        let padding_bytes = self.connections.gone_padding_bytes()
            + samples().map(|(_, sample)| sample.padding_bytes).sum::<u64>();
        let connections = self.connections.totals(samples(), now);
        let stats = self.pool.stats();
        let sent_bytes = padding_bytes + self.confirmed_bytes;
        Summary {
            transfer: wire::transfer_name(&self.transfer),
            failures: std::mem::take(&mut self.failures.named),
            failed: self.failures.count,
            vanished: self.failures.vanished,
            changed: self.failures.changed,
            failed_unnamed: self.failures.unnamed,
            seconds: (now - self.began).as_secs_f64(),
            padding_sent_bytes: padding_bytes,
            padding_percent: 100.0 * padding_bytes as f64 / sent_bytes.max(1) as f64,
            connections_opened: stats.opened,
            connections_condemned: stats.condemned,
            takeovers: stats.takeovers,
            kept_files: self.source.kept_files,
            kept_bytes: self.source.kept_bytes,
            sent_bytes: self.confirmed_bytes,
            stripes: self.pool.plan().confirmed_stripes(),
            stripes_again: stats.stripes_again,
            sub_transfers: stats.turns.div_ceil(self.pool.active().max(1) as u64),
            connections,
            ..Summary::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_last_second() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.update(start, 0).to_bits(), 0.0_f64.to_bits());
        let mut last = 0.0;
        for tenth in 1..=30 {
            let bytes = if tenth <= 10 { 0 } else { (tenth - 10) * 1_000 };
            last = rate.update(start + Duration::from_millis(tenth * 100), bytes);
        }
        assert!((last - 10_000.0).abs() < 1.0, "{last}");
    }
}
