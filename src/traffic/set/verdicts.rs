//! Who is given up: for being slow beside its siblings, for being silent, or for having been primed badly.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::conn::{Conn, JobStripe};
use super::health::{Siblings, median};
use super::verdict::Verdict;
use super::{CONDEMN_INTERVAL, Set};

/// Connections are given up for being silent at this pace at most, after as many at once as the set has.
const SILENT_INTERVAL: Duration = Duration::from_secs(1);
/// How many round trips the set needs to settle after one was given up.
const SETTLING_ROUNDS: u32 = 4;
/// Primed to less than this share of the threshold, a connection is replaced before use.
const PRIMED_BADLY_SHARE: f64 = 0.25;

impl Set {
    /// Gives `id` up if it is unsatisfactory and another can take over.
    pub(super) fn judge(&mut self, id: ConnId, now: Instant) {
        let siblings = self.siblings(id, now);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.stripes.is_empty() {
            return;
        }
        let Some(verdict) = conn.meter.evaluate(&self.config.health, siblings, now) else { return };
        let settling = CONDEMN_INTERVAL.min(conn.sample.rtt_min * SETTLING_ROUNDS);
        let too_soon = self.condemned_at.is_some_and(|at| now - at < settling);
        // A slow connection is better than none: it goes when another can take over.
        if !too_soon && !self.reserve.is_empty() {
            self.condemned_at = Some(now);
            self.condemn(id, verdict, now);
        }
    }

    /// What is usual among the other connections that carry data.
    fn siblings(&self, id: ConnId, now: Instant) -> Option<Siblings> {
        let others: Vec<&Conn> = self
            .conns
            .iter()
            .filter(|&(&other, conn)| {
                other != id && !conn.stripes.is_empty() && conn.meter.is_settled(now)
            })
            .map(|(_, conn)| conn)
            .collect();
        let of = |measure: fn(&Conn) -> f64| {
            median(&mut others.iter().map(|conn| measure(conn)).collect::<Vec<f64>>())
        };
        Some(Siblings {
            score: of(|conn| conn.meter.score())?,
            allowed: of(|conn| conn.meter.allowed())?,
            loss_share: of(|conn| conn.meter.loss_share())?,
            inflation: of(|conn| conn.meter.inflation())?,
            rtt: of(|conn| conn.meter.rtt())?,
        })
    }

    /// Gives up who is silent while others are heard, at a bounded pace; where nobody is heard, it is probed.
    pub(super) fn judge_silence(&mut self, now: Instant) {
        let passed = (now - self.silent_allowed_at).div_duration_f64(SILENT_INTERVAL) as u32;
        self.silent_allowed_at += SILENT_INTERVAL * passed;
        self.silent_allowed = (self.silent_allowed + passed as usize).min(self.config.connections);
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let others = self.conns.iter().filter(|&(&other, _)| other != id);
            let others_at = others.filter_map(|(_, conn)| conn.meter.acked_at()).max();
            let conn = &self.conns[&id];
            if conn.stripes.is_empty() || !conn.meter.is_quiet(now) {
                continue;
            }
            if others_at.is_some_and(|others_at| conn.meter.is_silent(others_at, now)) {
                if self.silent_allowed > 0 {
                    self.silent_allowed -= 1;
                    self.condemn(id, Verdict::Silent, now);
                }
            } else {
                self.probe(id, now);
            }
        }
    }

    /// Gives a connection up: what the receiver has not confirmed goes out again, and a new connection
    /// is opened in its place.
    pub(super) fn condemn(&mut self, id: ConnId, verdict: Verdict, now: Instant) {
        let Some(conn) = self.conns.remove(&id) else { return };
        self.reserve.retain(|&other| other != id);
        if conn.up_at.is_some() && matches!(verdict, Verdict::Silent | Verdict::Lost) {
            self.torn_at = Some(now);
        }
        let is_orphan = |&&stripe: &&JobStripe| self.jobs.release(stripe, id);
        let orphans = conn.stripes.keys().filter(is_orphan).count();
        self.delivered_by_gone += conn.sample.delivered_bytes;
        self.stats.condemned += u64::from(verdict != Verdict::Surplus);
        self.stats.takeovers += u64::from(orphans > 0);
        self.outputs.push_back(Output::Close { conn: id, verdict, stripes: orphans });
        self.open_missing(now);
    }

    /// Whether its siblings were primed to several times as much. A few of them are no measure: one that
    /// was primed while nobody else was had all of the path.
    pub(super) fn is_primed_badly(&self, id: ConnId) -> bool {
        let primed_bytes = self.conns[&id].primed_bytes;
        let others = || self.conns.iter().filter(|&(&other, _)| other != id).map(|(_, conn)| conn);
        let mut primed: Vec<f64> = others()
            .filter(|conn| conn.primed_bytes > 0)
            .map(|conn| conn.primed_bytes as f64)
            .collect();
        let share = self.config.health.threshold * PRIMED_BADLY_SHARE;
        primed_bytes > 0
            && primed.len() * 2 >= others().count()
            && median(&mut primed).is_some_and(|median| (primed_bytes as f64) < share * median)
    }
}
