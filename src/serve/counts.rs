//! What a server has done since it began, and what it is at: by root, and by which way content goes.
//!
//! Whoever looks pays for it: a transfer only adds to a number of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use super::config::ServeReporter;
use super::drain::Drain;
use super::limits::{Clients, Limits};
use super::turned_away::TurnedAway;
use crate::event::ServeEvent;
use crate::mutex::lock;

/// What stands for the one root that has no name; no name has a slash.
pub const NAMELESS: &str = "/";

/// Which way the content of a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// A client pushes.
    In,
    /// A client pulls.
    Out,
}

/// What was done in one direction below one root.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Transfers that run.
    pub running: u64,
    /// Transfers that are done and durable.
    pub done: u64,
    /// Transfers that ended before.
    pub aborted: u64,
    /// Content that has arrived and was verified, of those that run as well, in bytes.
    pub bytes: u64,
    /// Files of transfers that are done.
    pub files: u64,
    /// What could not be moved, of transfers that are done.
    pub failed: u64,
    /// Padding of transfers that are done, in bytes.
    pub padding_bytes: u64,
    /// How long transfers took that are done, together, in seconds.
    pub seconds: f64,
}

/// What a server has done, and is at.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By root (`NAMELESS` or its name) and direction.
    pub tallies: BTreeMap<(String, Direction), Tally>,
    /// Verifications that clients were answered to their end.
    pub verified: u64,
    /// Listings and looks ahead that they were.
    pub listed: u64,
    /// Clients that were turned away, each attempt.
    pub turned_away: u64,
    /// Connections that are up.
    pub connections: u64,
    /// Transfers that wait for their turn.
    pub waiting: u64,
    /// The most that is taken on at a time.
    pub limits: Limits,
    /// Whether it is being stopped.
    pub is_draining: bool,
}

/// Counts what a server does.
#[derive(Default)]
pub struct Counts {
    table: Mutex<Table>,
    verified: AtomicU64,
    listed: AtomicU64,
    /// What is there once the server runs.
    live: OnceLock<Live>,
}

/// What is asked when somebody looks.
pub(super) struct Live {
    pub(super) clients: Arc<Clients>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) drain: Arc<Drain>,
}

#[derive(Default)]
struct Table {
    tallies: BTreeMap<(String, Direction), Tally>,
    running: BTreeMap<u64, Running>,
    runs: u64,
}

struct Running {
    place: (String, Direction),
    bytes: Arc<AtomicU64>,
}

/// A transfer that is counted: as aborted, unless it is said to be done.
#[derive(Debug)]
pub(super) struct Run {
    counts: Arc<Counts>,
    number: u64,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl Counts {
    /// For each of these roots there are numbers from the start.
    pub(super) fn new(roots: impl Iterator<Item = Option<String>>) -> Arc<Self> {
        let counts = Self::default();
        {
            let mut table = lock(&counts.table);
            for root in roots {
                let root = root.unwrap_or_else(|| NAMELESS.into());
                for direction in [Direction::In, Direction::Out] {
                    table.tallies.insert((root.clone(), direction), Tally::default());
                }
            }
        }
        Arc::new(counts)
    }

    pub(super) fn watch(&self, live: Live) {
        // A server runs once.
        self.live.set(live).ok();
    }

    /// Counts what is told as well.
    pub(super) fn through(self: &Arc<Self>, report: ServeReporter) -> ServeReporter {
        let counts = Arc::clone(self);
        Arc::new(move |event| {
            counts.note(&event);
            report(event);
        })
    }

    fn note(&self, event: &ServeEvent) {
        match event {
            ServeEvent::Verified { .. } => drop(self.verified.fetch_add(1, Relaxed)),
            ServeEvent::Listed { .. } => drop(self.listed.fetch_add(1, Relaxed)),
            _ => {}
        }
    }

    /// Counts a transfer below the root of this name, with what has arrived of it in `bytes`.
    pub(super) fn begin(
        self: &Arc<Self>,
        root: &[u8],
        direction: Direction,
        bytes: Arc<AtomicU64>,
    ) -> Run {
        let root = std::str::from_utf8(root).ok().filter(|name| !name.is_empty());
        let place = (root.unwrap_or(NAMELESS).to_owned(), direction);
        let mut table = lock(&self.table);
        let number = table.runs;
        table.runs += 1;
        table.running.insert(number, Running { place, bytes });
        Run { counts: Arc::clone(self), number }
    }

    /// How it stands now.
    pub fn snapshot(&self) -> Snapshot {
        let table = lock(&self.table);
        let mut tallies = table.tallies.clone();
        for Running { place, bytes } in table.running.values() {
            let tally = tallies.entry(place.clone()).or_default();
            tally.running += 1;
            tally.bytes += bytes.load(Relaxed);
        }
        drop(table);
        let mut snapshot = Snapshot {
            tallies,
            verified: self.verified.load(Relaxed),
            listed: self.listed.load(Relaxed),
            ..Snapshot::default()
        };
        if let Some(Live { clients, turned_away, drain }) = self.live.get() {
            (snapshot.connections, snapshot.waiting, snapshot.limits) = clients.standing();
            snapshot.turned_away = turned_away.count();
            snapshot.is_draining = drain.is_on();
        }
        snapshot
    }
}

impl Run {
    /// It is done: this comes to what was done before.
    pub(super) fn done(&self, files: u64, failed: u64, padding_bytes: u64, seconds: f64) {
        self.end(|tally| {
            tally.done += 1;
            tally.files += files;
            tally.failed += failed;
            tally.padding_bytes += padding_bytes;
            tally.seconds += seconds;
        });
    }

    /// It has ended before it was done.
    pub(super) fn aborted(&self) {
        self.end(|tally| tally.aborted += 1);
    }

    /// It ends once. What has arrived counts on in the same moment in which it counts no more as under way: no number
    /// ever falls.
    fn end(&self, change: impl FnOnce(&mut Tally)) {
        let mut table = lock(&self.counts.table);
        let Some(Running { place, bytes }) = table.running.remove(&self.number) else { return };
        let tally = table.tallies.entry(place).or_default();
        tally.bytes += bytes.load(Relaxed);
        change(tally);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.aborted();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_never_becomes_less() {
        let counts = Counts::new([Some("media".to_owned())].into_iter());
        let place = ("media".to_owned(), Direction::In);
        let tally = || counts.snapshot().tallies[&place];
        assert_eq!(tally(), Tally::default(), "there are numbers before anything was done");
        let bytes = [Arc::new(AtomicU64::new(5)), Arc::new(AtomicU64::new(0))];
        let run = |at: usize| counts.begin(b"media", Direction::In, Arc::clone(&bytes[at]));
        let (one, two) = (run(0), run(1));
        bytes[1].store(7, Relaxed);
        assert_eq!(tally(), Tally { running: 2, bytes: 12, ..Tally::default() });
        one.done(1, 0, 3, 2.0);
        drop(two);
        // Who still writes for one that has ended counts no more.
        bytes[0].store(50, Relaxed);
        let ended = Tally {
            running: 0,
            done: 1,
            aborted: 1,
            bytes: 12,
            files: 1,
            failed: 0,
            padding_bytes: 3,
            seconds: 2.0,
        };
        assert_eq!(tally(), ended);
        let out = ("media".to_owned(), Direction::Out);
        assert_eq!(counts.snapshot().tallies[&out], Tally::default());
    }

    #[test]
    fn the_root_without_a_name_has_one_that_no_other_can_have() {
        let counts = Counts::new([None].into_iter());
        drop(counts.begin(b"", Direction::Out, Arc::default()));
        let snapshot = counts.snapshot();
        assert_eq!(snapshot.tallies[&(NAMELESS.to_owned(), Direction::Out)].aborted, 1);
        assert_eq!(snapshot.tallies.len(), 2);
    }
}
