//! What was measured, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::Load;
use crate::process::Usage;
use crate::rounds::{Row, Sample};

/// One comparison: rows in the order that they were run in.
#[derive(Serialize)]
pub(crate) struct Table {
    title: String,
    files: u64,
    bytes: u64,
    rounds: u32,
    rows: Vec<Line>,
    /// What is missing, and why.
    skipped: Vec<String>,
}

/// Medians over the rounds, but for the memory.
#[derive(Serialize)]
struct Line {
    name: String,
    seconds: f64,
    /// Every round's own, in order.
    seconds_by_round: Vec<f64>,
    gbit_per_s: f64,
    files_per_s: Option<f64>,
    /// Its rate by the rates of the rows that it is compared with: medians of the rounds' own ratios.
    ratios: Vec<Ratio>,
    /// Of both ends.
    user_s_per_gb: f64,
    system_s_per_gb: f64,
    sender: End,
    /// None where one process is both ends.
    receiver: Option<End>,
}

#[derive(Serialize)]
struct Ratio {
    to: &'static str,
    ratio: f64,
}

#[derive(Serialize)]
struct End {
    user_s_per_gb: f64,
    system_s_per_gb: f64,
    /// The highest of all rounds.
    peak_bytes: u64,
}

impl Table {
    pub(crate) fn of(
        title: String,
        load: Load,
        rounds: u32,
        rows: &[Row],
        skipped: Vec<String>,
    ) -> Self {
        let rows = rows.iter().map(|row| Line::of(row, rows, load)).collect();
        Self { title, files: load.files, bytes: load.bytes(), rounds, rows, skipped }
    }
}

impl Line {
    fn of(row: &Row, all: &[Row], load: Load) -> Self {
        let seconds_of = |sample: &Sample| sample.time.as_secs_f64();
        let seconds = median(row.samples.iter().map(seconds_of));
        let ratio = |reference: &Row| {
            let pairs = row.samples.iter().zip(&reference.samples);
            let ratio = median(pairs.map(|(own, its)| seconds_of(its) / seconds_of(own)));
            reference.reference.map(|to| Ratio { to, ratio })
        };
        let gb = load.bytes() as f64 * 1e-9;
        let both = |part: fn(&Usage) -> Duration| {
            let ends = |sample: &Sample| {
                (part(&sample.sender) + sample.receiver.as_ref().map(part).unwrap_or_default())
                    .as_secs_f64()
            };
            median(row.samples.iter().map(ends)) / gb
        };
        let receivers: Vec<Usage> = row.samples.iter().filter_map(|s| s.receiver).collect();
        Self {
            name: row.name.clone(),
            seconds,
            seconds_by_round: row.samples.iter().map(seconds_of).collect(),
            gbit_per_s: gb * 8.0 / seconds,
            files_per_s: load.is_tree().then_some(load.files as f64 / seconds),
            ratios: all.iter().filter_map(ratio).collect(),
            user_s_per_gb: both(|usage| usage.user),
            system_s_per_gb: both(|usage| usage.system),
            sender: End::of(row.samples.iter().map(|sample| sample.sender), gb),
            receiver: (!receivers.is_empty()).then(|| End::of(receivers.iter().copied(), gb)),
        }
    }
}

impl End {
    fn of(usages: impl Iterator<Item = Usage> + Clone, gb: f64) -> Self {
        Self {
            user_s_per_gb: median(usages.clone().map(|usage| usage.user.as_secs_f64())) / gb,
            system_s_per_gb: median(usages.clone().map(|usage| usage.system.as_secs_f64())) / gb,
            peak_bytes: usages.map(|usage| usage.peak_bytes).max().unwrap_or(0),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios = self.rows.first().map_or(&[][..], |row| &row.ratios);
        let of_files = self.files > 1;
        writeln!(out, "{}, medians of {}", self.title, self.rounds)?;
        write!(out, "{:44} Gbit/s", "")?;
        for Ratio { to, .. } in ratios {
            write!(out, " {:>7}", format!("to {to}"))?;
        }
        if of_files {
            write!(out, " files/s")?;
        }
        writeln!(out, "   CPU s/GB: user system   peak memory, MiB")?;
        for row in &self.rows {
            write!(out, "{:44} {:6.2}", row.name, row.gbit_per_s)?;
            for Ratio { ratio, .. } in &row.ratios {
                write!(out, " {ratio:7.2}")?;
            }
            if let Some(files_per_s) = row.files_per_s {
                write!(out, " {files_per_s:7.0}")?;
            }
            write!(out, " {:16.2} {:6.2}", row.user_s_per_gb, row.system_s_per_gb)?;
            write!(out, "   {:6.0}", mib(row.sender.peak_bytes))?;
            match &row.receiver {
                Some(receiver) => writeln!(out, " + {:.0}", mib(receiver.peak_bytes))?,
                None => writeln!(out)?,
            }
        }
        for skipped in &self.skipped {
            writeln!(out, "skipped: {skipped}")?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
