//! What is told of a push: how far and how fast it is, and what it did.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::lines::Lines;
use super::sender::Sender;
use crate::clock;
use crate::event::{Progress, PushEvent, Summary};
use crate::traffic::{ConnId, Plan, Role};
use crate::wire::What;

/// Connections that the summary of a push tells about one by one.
const CONNECTIONS_TOLD_MAX: usize = 2_000;

impl<L: Lines> Sender<L> {
    pub(super) fn tell_connections(&mut self, now: Instant) {
        let mut conns: Vec<ConnId> = self.outflows.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            let (Some(role), Some(outflow)) = (self.set.role(conn), self.outflows.get(&conn))
            else {
                continue;
            };
            if let Some(state) =
                self.connections.state(conn, role, outflow.line().told_sample(), now)
            {
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
            confirmed_items: self.source.kept_files
                + self.source.skipped_files
                + self.source.skipped_others
                + self.confirmed_items,
            confirmed_bytes: self.source.kept_bytes
                + self.source.skipped_bytes
                + self.confirmed_bytes,
            kept_bytes: self.source.kept_bytes,
            skipped_bytes: self.source.skipped_bytes,
            bytes_per_s: self.rate.update(now, self.confirmed_bytes),
            connections: self.outflows.len(),
            active: self.set.count(Role::Active),
            reserve: self.set.count(Role::Reserve),
            takeovers: self.set.stats().takeovers,
            finishing: self.finishing && self.plan().is_some_and(Plan::is_drained),
        }
    }

    /// What this end knows of the transfer.
    pub(crate) fn summary(&mut self) -> Summary {
        let now = clock::now();
        let transfer = self.transfer.name();
        let samples =
            || self.outflows.iter().map(|(&conn, outflow)| (conn, outflow.line().told_sample()));
        let padding_bytes = self.connections.gone_padding_bytes()
            + samples().map(|(_, sample)| sample.padding_bytes).sum::<u64>();
        let connections = self.connections.totals(&transfer, samples(), now);
        let stats = self.set.stats();
        let content_bytes = self.confirmed_bytes - self.left_out.matched_bytes;
        let not_kept = self.failures.unkept();
        Summary {
            transfer,
            failures: std::mem::take(&mut self.failures.named),
            failed: self.failures.count,
            vanished: self.failures.vanished,
            changed: self.failures.changed,
            failed_unnamed: self.failures.unnamed,
            modes_not_kept: not_kept[What::Modes as usize],
            times_not_kept: not_kept[What::Times as usize],
            owners_not_kept: not_kept[What::Owners as usize],
            special_bits_not_kept: not_kept[What::SpecialBits as usize],
            xattrs_not_kept: not_kept[What::Xattrs as usize],
            acls_not_kept: not_kept[What::Acls as usize],
            seconds: (now - self.began).as_secs_f64(),
            padding_sent_bytes: padding_bytes,
            padding_percent: share_percent(
                padding_bytes,
                content_bytes - self.left_out.saved_bytes,
            ),
            connections_opened: stats.opened,
            connections_condemned: stats.condemned,
            takeovers: stats.takeovers,
            kept_files: self.source.kept_files,
            kept_bytes: self.source.kept_bytes,
            skipped_files: self.source.skipped_files,
            skipped_bytes: self.source.skipped_bytes,
            sent_bytes: content_bytes,
            matched_bytes: self.left_out.matched_bytes,
            saved_bytes: self.left_out.saved_bytes,
            stripes: self.confirmed_stripes,
            stripes_again: stats.stripes_again,
            sub_transfers: stats.turns.div_ceil(self.set.active().max(1) as u64),
            connections,
            ..Summary::default()
        }
    }
}

/// What a push that was interrupted did in all: what was counted `earlier`, and by its last transfer.
/// What has arrived, failed, and was kept is what that one says.
pub(crate) fn together(earlier: Summary, last: Summary) -> Summary {
    let padding_sent_bytes = earlier.padding_sent_bytes + last.padding_sent_bytes;
    let sent_bytes = earlier.sent_bytes + last.sent_bytes;
    let mut connections = earlier.connections;
    for connection in connections.iter_mut().filter(|connection| connection.end == "done") {
        connection.end = "interrupted"; // it has lasted as long as its transfer
    }
    connections.extend(last.connections);
    connections.truncate(CONNECTIONS_TOLD_MAX);
    Summary {
        sent_bytes,
        matched_bytes: earlier.matched_bytes + last.matched_bytes,
        saved_bytes: earlier.saved_bytes + last.saved_bytes,
        padding_sent_bytes,
        padding_percent: share_percent(padding_sent_bytes, sent_bytes),
        padding_received_bytes: earlier.padding_received_bytes + last.padding_received_bytes,
        connections_opened: earlier.connections_opened + last.connections_opened,
        connections_condemned: earlier.connections_condemned + last.connections_condemned,
        takeovers: earlier.takeovers + last.takeovers,
        stripes: earlier.stripes + last.stripes,
        stripes_again: earlier.stripes_again + last.stripes_again,
        sub_transfers: earlier.sub_transfers + last.sub_transfers,
        connections,
        ..last
    }
}

/// Padding as a share of all that was sent.
fn share_percent(padding_bytes: u64, content_bytes: u64) -> f64 {
    100.0 * padding_bytes as f64 / (padding_bytes + content_bytes).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_interruptions_and_what_has_arrived_is_what_the_last_one_says() {
        let summary = |files, kept_files, count| Summary {
            files,
            kept_files,
            sent_bytes: count * 300,
            padding_sent_bytes: count * 100,
            connections_opened: count,
            connections_condemned: count,
            takeovers: count,
            stripes: count,
            stripes_again: count,
            sub_transfers: count,
            ..Summary::default()
        };
        let all = together(together(Summary::default(), summary(0, 0, 10)), summary(7, 3, 20));
        assert_eq!((all.files, all.kept_files), (7, 3));
        assert_eq!((all.sent_bytes, all.padding_sent_bytes), (9_000, 3_000));
        assert!((all.padding_percent - 25.0).abs() < 1e-9);
        assert_eq!((all.connections_opened, all.connections_condemned), (30, 30));
        assert_eq!((all.takeovers, all.stripes), (30, 30));
        assert_eq!((all.stripes_again, all.sub_transfers), (30, 30));
    }
}
