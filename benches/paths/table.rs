//! The results, the worst first.

use std::fmt;

use crate::contender::{Contender, Run};
use crate::path::Path;

/// One path and size.
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) bytes: u64,
    /// The bytes as bandwidth-delay products.
    pub(crate) bdps: f64,
    pub(crate) is_uneven: bool,
    pub(crate) is_shared: bool,
    least_s: f64,
    pub(crate) runs: Vec<(Contender, Run)>,
}

impl Row {
    pub(crate) fn new(path: &Path, bytes: u64) -> Self {
        Self {
            path: path.name,
            bytes,
            bdps: bytes as f64 / path.bdp_bytes().max(1) as f64,
            is_uneven: path.is_uneven,
            is_shared: path.is_shared,
            least_s: path.least_s(bytes),
            runs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, contender: Contender, run: Run) {
        self.runs.push((contender, run));
    }

    /// The share of what is possible.
    pub(crate) fn share(&self, run: &Run) -> f64 {
        self.least_s / run.seconds
    }

    fn of(&self, contender: Contender) -> Option<&Run> {
        self.runs.iter().find(|(other, _)| *other == contender).map(|(_, run)| run)
    }

    /// How many times the time of the better CUBIC.
    pub(crate) fn to_cubic(&self) -> Option<f64> {
        let qbulk = self.of(Contender::Qbulk)?;
        let others = self.runs.iter().filter(|(contender, _)| *contender != Contender::Qbulk);
        let best = others.map(|(_, run)| run.seconds).min_by(f64::total_cmp)?;
        Some(qbulk.seconds / best)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<52} {:>9} {:>6.1}", self.path, size(self.bytes), self.bdps)?;
        for (contender, run) in &self.runs {
            write!(f, " | {contender} {:.3} s {:.2}", run.seconds, self.share(run))?;
            write!(f, " {:.0} ms x{:.2}", run.queue_ms, run.overhead)?;
            if run.condemned > 0 {
                write!(f, " -{}", run.condemned)?;
            }
        }
        match self.to_cubic() {
            Some(times) => write!(f, " | {times:.2}"),
            None => Ok(()),
        }
    }
}

/// A number of bytes in few letters.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// All rows.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        let badness = |row: &Row| row.to_cubic().unwrap_or(0.0);
        rows.sort_by(|one, other| badness(other).total_cmp(&badness(one)));
        writeln!(
            f,
            "The worst beside CUBIC first; how many times its time at the end of each row:"
        )?;
        rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        let long = || self.rows.iter().filter(|row| row.bdps >= 199.0 && !row.is_shared);
        for (name, is_uneven, goal) in [("even", false, 0.90), ("uneven", true, 0.75)] {
            let shares = || {
                long()
                    .filter(move |row| row.is_uneven == is_uneven)
                    .filter_map(|row| row.of(Contender::Qbulk).map(|run| row.share(run)))
            };
            let least = shares().min_by(f64::total_cmp).unwrap_or(1.0);
            let good = shares().filter(|share| *share >= goal).count();
            writeln!(
                f,
                "200 bandwidth-delay products, {name}: {good} of {} at {goal} of the possible, the least {least:.2}",
                shares().count()
            )?;
        }
        let slower = self.rows.iter().filter_map(Row::to_cubic).filter(|times| *times > 1.05);
        writeln!(f, "slower than CUBIC by more than 5%: {} of {}", slower.count(), self.rows.len())
    }
}
