//! What was measured, as a table and as JSON.

use std::fmt;

use bytesize::ByteSize;
use serde::Serialize;

use crate::meter::{Group, Row, Sample};

/// All rows, in the order that they were run in.
#[derive(Serialize)]
pub(crate) struct Results {
    bytes: u64,
    rounds: u32,
    cores: usize,
    file_to_file: Vec<Line>,
    memory_to_memory: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// Medians over the rounds.
    seconds: f64,
    gbit_per_s: f64,
    /// Its rate beside the rate of the group's first row: the median of the rounds' own ratios.
    ratio: f64,
    cpu_s_per_gb: f64,
    /// The highest of all rounds.
    sender_rss_bytes: u64,
    receiver_rss_bytes: Option<u64>,
}

impl Results {
    pub(crate) fn of(rows: &[Row], bytes: u64, rounds: u32) -> Self {
        let group = |group| {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.group == group).collect();
            rows.iter().map(|row| Line::of(row, rows[0], bytes)).collect()
        };
        Self {
            bytes,
            rounds,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            file_to_file: group(Group::Files),
            memory_to_memory: group(Group::Memory),
        }
    }
}

impl Line {
    fn of(row: &Row, first: &Row, bytes: u64) -> Self {
        let of_all = |value: &dyn Fn(&Sample) -> f64| median(row.samples.iter().map(value));
        let seconds = of_all(&|sample| sample.time.as_secs_f64());
        let pairs = row.samples.iter().zip(&first.samples);
        Self {
            name: row.name.clone(),
            seconds,
            gbit_per_s: bytes as f64 * 8e-9 / seconds,
            ratio: median(pairs.map(|(own, its)| its.time.as_secs_f64() / own.time.as_secs_f64())),
            cpu_s_per_gb: of_all(&|sample| sample.cpu.as_secs_f64()) / (bytes as f64 * 1e-9),
            sender_rss_bytes: row.samples.iter().map(|s| s.sender_rss_bytes).max().unwrap_or(0),
            receiver_rss_bytes: row.samples.iter().filter_map(|s| s.receiver_rss_bytes).max(),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, cores, .. } = self;
        let size = ByteSize(self.bytes).display().iec();
        writeln!(out, "{size}, both ends on this machine of {cores} cores, medians of {rounds}")?;
        for (title, lines) in
            [("file to file", &self.file_to_file), ("memory to memory", &self.memory_to_memory)]
        {
            writeln!(out, "\n{title:42} Gbit/s   ratio CPU s/GB    peak memory, MiB")?;
            for line in lines {
                write!(
                    out,
                    "{:42} {:6.2} {:7.2} {:8.2}   {:6.0}",
                    line.name,
                    line.gbit_per_s,
                    line.ratio,
                    line.cpu_s_per_gb,
                    mib(line.sender_rss_bytes)
                )?;
                match line.receiver_rss_bytes {
                    Some(bytes) => writeln!(out, " + {:.0}", mib(bytes))?,
                    None => writeln!(out)?,
                }
            }
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
