//! Which rows stand beside each other.

use std::process::Command;

use clap::ValueEnum;
use qbulk::net::endpoint::DATAGRAM_BYTES_MAX;

use crate::job::Job;
use crate::load::Load;
use crate::place::Place;
use crate::rounds::{Row, Sample, measure, measure_all};
use crate::table::Table;
use crate::{Args, Result, push, quic, rsync, scp, tcp};

/// The largest UDP payload of an Ethernet path.
const ETHERNET_DATAGRAM_BYTES: u16 = 1_472;
/// Connections that a push begins with.
const CONNECTIONS: u32 = 10;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// One file and two trees, beside cp, TCP, rsync and scp.
    Files,
    /// The transport alone and a push whose receiver keeps nothing, beside TCP.
    Memory,
    /// One file by number of connections.
    Connections,
    /// One file by stripe size.
    Stripes,
    /// One file by largest datagram.
    Mtu,
    /// Start-up times, and what an idle server costs.
    Idle,
}

impl Suite {
    /// What it moves, one after the other.
    pub(crate) fn loads(self, args: &Args) -> Vec<Load> {
        let file = Load::file(args.size());
        match self {
            Self::Files => [&[file], &args.trees[..]].concat(),
            Self::Idle => vec![],
            _ => vec![file],
        }
    }

    /// Measures all of its tables but those of [`Self::Idle`].
    pub(crate) fn measure(self, args: &Args, place: &Place) -> Result<Vec<Table>> {
        let table = |load| self.measure_one(args, &Job::new(place, load));
        self.loads(args).into_iter().map(table).collect()
    }

    fn measure_one(self, args: &Args, job: &Job) -> Result<Table> {
        let title = match self {
            Self::Files => job.load.to_string(),
            Self::Memory => format!("{}, memory to memory", job.load),
            Self::Connections => format!("{}, by number of connections", job.load),
            Self::Stripes => format!("{}, by stripe size", job.load),
            Self::Mtu => format!("{}, by largest datagram", job.load),
            Self::Idle => "idle".into(),
        };
        let (mut rows, skipped) = self.rows(args, job);
        job.generate()?;
        measure_all(&title, &mut rows, args.rounds)?;
        job.remove()?;
        Ok(Table::of(title, job.load, args.rounds, &rows, skipped))
    }

    fn rows(self, args: &Args, job: &Job) -> (Vec<Row>, Vec<String>) {
        let tcp = tcp::row(&job.place, job.load.bytes());
        if self == Self::Memory {
            let mut rows = vec![tcp];
            rows.extend(transports(job));
            return (rows, vec![]);
        }
        let mut rows = vec![copy(job), tcp];
        let mut skipped = vec![];
        match self {
            Self::Files => {
                rows.push(pushed(job, "qbulk", &[], &[]));
                skipped = peers(job, &mut rows);
            }
            Self::Connections => rows.extend(args.connections.iter().map(|count| {
                pushed(
                    job,
                    &format!("qbulk, connections: {count}"),
                    &[],
                    &["--connections", &count.to_string()],
                )
            })),
            Self::Stripes => rows.extend(args.stripes.iter().map(|size| {
                let (name, size) = (size.display().iec().to_string(), size.as_u64().to_string());
                let options = ["--stripe-min", &size, "--stripe-max", &size];
                pushed(job, &format!("qbulk, stripes: {name}"), &[], &options)
            })),
            Self::Mtu => rows.extend(args.mtu.iter().map(|bytes| {
                pushed(
                    job,
                    &format!("qbulk, datagrams: {bytes} B"),
                    &["--mtu", &bytes.to_string()],
                    &[],
                )
            })),
            Self::Memory | Self::Idle => {}
        }
        (rows, skipped)
    }
}

fn copy(job: &Job) -> Row {
    let copy = |job: &Job| {
        let mut command = Command::new("cp");
        if job.load.is_tree() {
            command.arg("-r");
        }
        command.arg(&job.source).arg(&job.target);
        measure(command)
    };
    let name = if job.load.is_tree() { "cp -r" } else { "cp" };
    job.row(name, copy).reference("cp")
}

/// A push with options for both ends, and for the push alone.
fn pushed(job: &Job, name: &str, both: &[&str], push_only: &[&str]) -> Row {
    let owned = |options: &[&str]| options.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (both, push_only) = (owned(both), owned(push_only));
    job.row(name, move |job| push::run(job, &both, &push_only))
}

type Run = fn(&Job) -> Result<Sample>;

/// Adds the rows that this machine has the programs for; returns what is missing.
fn peers(job: &Job, rows: &mut Vec<Row>) -> Vec<String> {
    let peers: [(String, Run); 2] = [
        ("rsync -a to its daemon, in clear".into(), rsync::run),
        (format!("scp, {}", scp::CIPHER), scp::run),
    ];
    let mut skipped = vec![];
    for (name, run) in peers {
        match job.trial(run) {
            None => rows.push(job.row(name, run)),
            Some(why) => skipped.push(format!("{name}: {why}")),
        }
    }
    skipped
}

fn transports(job: &Job) -> Vec<Row> {
    let row =
        |mtu| [1, CONNECTIONS].map(|count| quic::row(&job.place, job.load.bytes(), count, mtu));
    [DATAGRAM_BYTES_MAX, ETHERNET_DATAGRAM_BYTES].into_iter().flat_map(row).collect()
}
