//! Which connections there are: opened, replaced, retired, and sent out as scouts.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::Set;
use super::conn::{Conn, Role, State};
use super::crowd::View;
use super::tuner::Load;
use super::verdict::Verdict;

/// Nothing is heard on any connection for at least this long, and the network counts as gone.
const DARK_TIME: Duration = Duration::from_secs(1);
/// Then a new connection is tried this often, and this many at a time.
const SCOUT_INTERVAL: Duration = Duration::from_secs(1);
const SCOUTS_MAX: usize = 16;
/// Where few connections were worth it, one more is tried after this time without any.
const PATIENCE: Duration = Duration::from_millis(400);
/// Once a connection was lost that was up, the set needs so long to be what it was.
const MENDING_TIME: Duration = Duration::from_secs(3);

impl Set {
    /// N as it is now.
    fn wanted(&self) -> usize {
        let most = self.config.connections + self.tuner.active() - self.config.active;
        most.min(self.worth)
    }

    /// Looks how many connections are worth their handshakes by now. What was opened once is not closed because
    /// a job is smaller than those before.
    pub(super) fn weigh_jobs(&mut self) {
        let worth = match self.config.bytes_per_connection {
            0 => usize::MAX,
            bytes => {
                usize::try_from(self.jobs.size_bytes() / bytes).map_or(usize::MAX, |it| it + 1)
            }
        };
        self.worth = self.worth.max(worth);
    }

    /// Whether more connections would be opened if there were more to send.
    pub fn is_small(&self) -> bool {
        self.worth < self.config.connections
    }

    /// Those that there are may lead nowhere: one more is worth it.
    pub(super) fn reinforce(&mut self, now: Instant) {
        if self.is_small() {
            self.worth = self.worth.max(self.conns.len()) + 1;
            self.opened_at = now;
            self.open_missing(now);
        }
    }

    /// Does so where none has come up for too long.
    pub(super) fn reinforce_late(&mut self, now: Instant) {
        if self.reinforces_at().is_some_and(|at| now >= at) {
            self.reinforce(now);
        }
    }

    /// From when on one more is tried because none has come up.
    pub(super) fn reinforces_at(&self) -> Option<Instant> {
        let is_bare = self.conns.values().all(Conn::is_opening);
        (self.is_small() && is_bare && !self.jobs.is_empty())
            .then(|| self.opened_at.max(self.alive_at) + PATIENCE)
    }

    /// Looks whether more connections, or fewer, would do better.
    pub(super) fn tune(&mut self, now: Instant) {
        let active: Vec<&Conn> = self.conns.values().filter(|conn| conn.is_active()).collect();
        let full = active
            .iter()
            .filter(|conn| conn.sample.in_flight_bytes * 2 >= conn.sample.window_bytes)
            .count();
        let queued = active.iter().filter(|conn| conn.sample.has_queue()).count();
        let delivered: u64 = self.conns.values().map(|conn| conn.sample.delivered_bytes).sum();
        let load = Load {
            delivered_bytes: self.delivered_by_gone + delivered,
            is_limited: self.jobs.have_waiting() && full * 2 > active.len() && !self.is_torn(now),
            is_full: queued * 2 > active.len(),
            rtt: active.iter().map(|conn| conn.sample.rtt).max().unwrap_or_default(),
        };
        self.tuner.on_load(load, now);
        self.note_crowd(now);
        self.retire_surplus(now);
    }

    /// Looks whether the path holds the least windows of those that carry something.
    fn note_crowd(&mut self, now: Instant) {
        let busy = || self.conns.values().filter(|conn| !conn.stripes.is_empty());
        let rate: f64 = busy().map(|conn| conn.meter.goodput()).sum();
        let rtt_min = busy().map(|conn| conn.sample.rtt_min).min().unwrap_or_default();
        // Where some lose nothing, it is not the path that is too full, but the lanes of the others.
        let mut losses: Vec<f64> = busy().map(|conn| conn.meter.loss_share()).collect();
        losses.sort_by(f64::total_cmp);
        let view = View {
            loss_share: losses.get(losses.len() / 4).copied().unwrap_or_default(),
            holds_bytes: rate * rtt_min.as_secs_f64(),
            active: self.active_ids().len(),
        };
        self.crowd.on_view(view, now);
    }

    /// Fewer connections are wanted: the active ones that deliver least become reserves, and idle reserves go.
    fn retire_surplus(&mut self, now: Instant) {
        while self.count(Role::Active) > self.crowd.fits(self.tuner.active()) {
            let active = self.conns.iter().filter(|(_, conn)| conn.is_active());
            let paces = active.map(|(&id, conn)| (id, conn.meter.pace()));
            let Some((id, _)) = paces.min_by(|(_, one), (_, other)| one.total_cmp(other)) else {
                return;
            };
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.state = State::Reserve;
                conn.used_at = now;
            }
            self.reserve.push_back(id);
        }
        while self.conns.len() > self.wanted() {
            let idle = self.reserve.iter().find(|id| self.conns[id].stripes.is_empty());
            let Some(&id) = idle else { return };
            self.condemn(id, Verdict::Surplus, now);
        }
    }

    /// Whether there are more than wanted, and one of them could go.
    pub(super) fn has_idle_surplus(&self) -> bool {
        self.conns.len() > self.wanted()
            && self.reserve.iter().any(|id| self.conns[id].stripes.is_empty())
    }

    /// Opens what is missing to N, once lost ones may be opened again.
    pub(super) fn open_missing(&mut self, now: Instant) {
        while self.reopens_at().is_some_and(|at| now >= at) {
            self.open(now);
        }
    }

    /// From when on what is missing to N may be opened.
    pub(super) fn reopens_at(&self) -> Option<Instant> {
        // Once all is confirmed, one connection is enough to hear that it is durable.
        let wanted = if self.jobs.are_done() { 1 } else { self.wanted() };
        (self.conns.len() < wanted).then_some(self.reopen_at)
    }

    fn open(&mut self, now: Instant) {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.stats.opened += 1;
        self.opened_at = now;
        self.conns.insert(id, Conn::new(now));
        self.outputs.push_back(Output::Open { conn: id });
    }

    /// While the network is gone, connections wait longer and longer before they try again (RFC 9002,
    /// 6.2.1). New ones notice at once that it is back, and then the old ones are silent beside them.
    pub(super) fn scout(&mut self, now: Instant) {
        if self.is_dark(now)
            && now - self.scouted_at >= SCOUT_INTERVAL
            && self.count(Role::Opening) < SCOUTS_MAX
        {
            self.scouted_at = now;
            self.open(now);
        }
    }

    /// From when on the network counts as gone for want of any connection, and one more is tried.
    pub(super) fn scouts_at(&self) -> Option<Instant> {
        let is_bare = self.conns.values().all(Conn::is_opening);
        let may_scout = is_bare && self.jobs.are_awaited() && self.conns.len() < SCOUTS_MAX;
        may_scout.then(|| (self.alive_at + DARK_TIME).max(self.scouted_at + SCOUT_INTERVAL))
    }

    /// Whether connections are silent, or were just replaced because they were: what the set does is a
    /// matter of how soon it is whole again, not of how many there are.
    fn is_torn(&self, now: Instant) -> bool {
        let is_silent = |conn: &Conn| {
            conn.is_active() && !conn.stripes.is_empty() && conn.meter.quiet_time(now) >= DARK_TIME
        };
        self.torn_at.is_some_and(|at| now - at < MENDING_TIME) || self.conns.values().any(is_silent)
    }

    /// Whether the whole network seems to be gone.
    pub fn is_dark(&self, now: Instant) -> bool {
        if !self.jobs.are_awaited() {
            return false;
        }
        let up = || self.conns.values().filter(|conn| !conn.is_opening());
        if up().next().is_none() {
            return now - self.alive_at >= DARK_TIME;
        }
        let patience = |conn: &Conn| DARK_TIME.max(2 * conn.meter.silence_max());
        let mut waiting = up()
            .filter(|conn| !conn.stripes.is_empty() && conn.sample.in_flight_bytes > 0)
            .peekable();
        let is_heard = |conn: &Conn| conn.meter.acked_at().is_some_and(|at| now - at < DARK_TIME);
        waiting.peek().is_some()
            && waiting.all(|conn| conn.meter.quiet_time(now) >= patience(conn))
            && !up().any(is_heard)
    }
}
