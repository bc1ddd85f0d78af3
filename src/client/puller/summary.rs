//! How far an attempt is, and what it did.

use std::time::Instant;

use super::{Puller, Up};
use crate::clock;
use crate::event::{ConnectionTotal, Progress, PushEvent, Summary};
use crate::text::said;
use crate::wire::{Sending, Sent, TransferSecret, Unkept, What};

impl Puller {
    pub(super) fn progress(&mut self, now: Instant) -> Progress {
        let Sending { found_items, found_bytes, kept_bytes, skipped_bytes, takeovers, .. } =
            self.sending;
        let written_bytes = self.dial.receiver.written_bytes();
        Progress {
            elapsed_s: (now - self.began).as_secs_f64(),
            found_items,
            found_bytes,
            scan_done: self.sending.scan_done != 0,
            confirmed_items: self.sending.confirmed_items,
            confirmed_bytes: kept_bytes + skipped_bytes + written_bytes,
            kept_bytes,
            skipped_bytes,
            bytes_per_s: self.rate.update(now, written_bytes),
            connections: self.lines.len(),
            active: self.sending.active as usize,
            reserve: self.sending.reserve as usize,
            takeovers,
            finishing: self.sending.scan_done != 0
                && found_bytes > 0
                && self.sending.confirmed_bytes >= found_bytes,
        }
    }

    /// What this end knows of it.
    pub(in crate::client) fn summary(&mut self) -> Summary {
        let now = clock::now();
        let seconds = (now - self.began).as_secs_f64();
        let outcome = self.dial.receiver.outcome().cloned();
        if let Some(outcome) = &outcome {
            for failed in &outcome.failures {
                self.fail_here(failed.clone());
            }
        }
        let mut connections = std::mem::take(&mut self.gone);
        let ends = if outcome.is_some() { "done" } else { "interrupted" };
        let up = self.lines.iter();
        connections.extend(up.map(|(&conn, up)| total(&self.transfer, conn, up, ends, now)));
        connections.sort_by_key(|total| total.conn);
        let sent = self.sent.unwrap_or_else(|| {
            let outcome = outcome.as_ref();
            Sent {
                files: outcome.map_or(0, |outcome| outcome.files),
                bytes: outcome.map_or(0, |outcome| outcome.bytes),
                kept_bytes: self.sending.kept_bytes,
                sent_bytes: self.dial.receiver.written_bytes(),
                takeovers: self.sending.takeovers,
                unsent: self.unsent.len() as u64,
                ..Sent::default()
            }
        });
        let unwritten = outcome.as_ref().map_or(0, |it| it.failed_files + it.failed_others);
        let unkept = |what| {
            let all = outcome.iter().flat_map(|outcome| &outcome.unkept);
            all.filter(|unkept| unkept.what == what).map(|unkept| unkept.count).sum()
        };
        let padding_received_bytes = self.dial.receiver.padding_bytes();
        let all_bytes = padding_received_bytes + sent.sent_bytes;
        Summary {
            deleted: 0,
            delete_refused: None,
            transfer: self.transfer.name(),
            files: sent.files,
            others: sent.others,
            bytes: sent.bytes,
            kept_files: sent.kept_files,
            kept_bytes: sent.kept_bytes,
            skipped_files: sent.skipped_files,
            skipped_bytes: sent.skipped_bytes,
            sent_bytes: sent.sent_bytes,
            matched_bytes: self.dial.receiver.matched_bytes(),
            saved_bytes: self.dial.receiver.saved_bytes(),
            interruptions: 0,
            failures: std::mem::take(&mut self.failures),
            failed: sent.unsent + unwritten,
            vanished: sent.vanished,
            changed: sent.changed,
            failed_unnamed: (sent.unsent + unwritten)
                .saturating_sub((self.unsent.len() + self.unwritten.len()) as u64),
            modes_not_kept: unkept(What::Modes),
            times_not_kept: unkept(What::Times),
            owners_not_kept: unkept(What::Owners),
            special_bits_not_kept: unkept(What::SpecialBits),
            xattrs_not_kept: unkept(What::Xattrs),
            acls_not_kept: unkept(What::Acls),
            seconds,
            bytes_per_s: sent.bytes.saturating_sub(sent.kept_bytes) as f64 / seconds,
            padding_sent_bytes: sent.padding_bytes,
            padding_received_bytes,
            padding_percent: if all_bytes == 0 {
                0.0
            } else {
                100.0 * padding_received_bytes as f64 / all_bytes as f64
            },
            connections_opened: sent.opened.max(self.opened),
            connections_condemned: sent.condemned,
            takeovers: sent.takeovers,
            stripes: sent.stripes,
            stripes_again: sent.stripes_again,
            sub_transfers: sent.sub_transfers,
            connections,
        }
    }
}

/// What could not be kept, as it is told; `path` is that of the first.
pub(super) fn not_kept(unkept: &Unkept, path: String) -> PushEvent {
    PushEvent::NotKept {
        what: unkept.what.name(),
        count: unkept.count,
        path,
        reason: said(&unkept.reason),
    }
}

/// What a line that is over did, or one that has lasted to the end.
pub(super) fn total(
    transfer: &TransferSecret,
    conn: u32,
    up: &Up,
    end: &'static str,
    now: Instant,
) -> ConnectionTotal {
    let (stats, up_s) = (up.connection.stats(), (now - up.since).as_secs_f64());
    let rtt_ms = up.connection.rtt().as_secs_f64() * 1e3;
    ConnectionTotal {
        transfer: transfer.name(),
        conn,
        local: up.local,
        remote: up.connection.remote_address(),
        end,
        up_s,
        rtt_ms,
        rtt_min_ms: rtt_ms,
        goodput_bytes_per_s: if up_s > 0.0 { stats.udp_rx.bytes as f64 / up_s } else { 0.0 },
        delivered_bytes: stats.udp_rx.bytes,
        lost_bytes: 0,
        padding_bytes: 0,
        stripes: 0,
    }
}
