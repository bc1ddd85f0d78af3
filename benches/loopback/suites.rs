//! Which rows stand beside each other.

use std::process::Command;

use bytesize::ByteSize;
use clap::ValueEnum;
use qbulk::net::path::DATAGRAM_BYTES_MAX;

use crate::job::Job;
use crate::load::Load;
use crate::place::Place;
use crate::quic::{self, Endpoints};
use crate::rounds::{Row, Sample, measure, measure_all};
use crate::table::Table;
use crate::{Args, Result, discard, push, qcp, rsync, scp, ssh, tcp};

/// The largest UDP payload of an Ethernet path.
const ETHERNET_DATAGRAM_BYTES: u16 = 1_472;
/// Connections that a push begins with.
const CONNECTIONS: u32 = 10;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// One file and two trees, beside cp, TCP, rsync, scp and qcp.
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
        let (by, mut rows, skipped) = match self {
            Self::Files => files(job),
            Self::Memory => memory(job),
            Self::Connections => by_connections(job, &args.connections),
            Self::Stripes => by_stripe(job, &args.stripes),
            Self::Mtu => by_mtu(job, &args.mtu),
            Self::Idle => ("", vec![], vec![]),
        };
        let title = format!("{}{by}", job.load);
        job.generate()?;
        measure_all(&title, &mut rows, args.rounds)?;
        job.remove()?;
        Ok(Table::of(title, job.load, args.rounds, &rows, skipped))
    }
}

/// What the title says beside the load, the rows, and what is missing.
type Comparison = (&'static str, Vec<Row>, Vec<String>);
type Run = fn(&Job) -> Result<Sample>;

/// With the peers that this machine has the programs for.
fn files(job: &Job) -> Comparison {
    let peers: [(String, Run); 3] = [
        ("rsync -a to its daemon, in clear".into(), rsync::run),
        (format!("scp, {}", ssh::CIPHER), scp::run),
        (format!("qcp {}", qcp::OPTIONS.join(" ")), qcp::run),
    ];
    let mut rows = references(job);
    rows.push(push::row(job, "qbulk", &[], &[]));
    let mut skipped = vec![];
    for (name, run) in peers {
        match job.trial(run) {
            None => rows.push(job.row(name, run)),
            Some(why) => skipped.push(format!("{name}: {why}")),
        }
    }
    (", file to file", rows, skipped)
}

/// The transport by itself, and qbulk on top of it.
fn memory(job: &Job) -> Comparison {
    let mut rows = vec![tcp::row(job)];
    for mtu in [DATAGRAM_BYTES_MAX, ETHERNET_DATAGRAM_BYTES] {
        // quinn's own endpoints send ten datagrams at once, which must fit into 64 KiB.
        if mtu == ETHERNET_DATAGRAM_BYTES {
            rows.push(quic::row(job, Endpoints::Quinn, 1, mtu));
        }
        for connections in [1, CONNECTIONS] {
            rows.push(quic::row(job, Endpoints::Qbulk, connections, mtu));
        }
        rows.push(discard::row(job, mtu));
    }
    (", memory to memory", rows, vec![])
}

fn by_connections(job: &Job, counts: &[u32]) -> Comparison {
    let row = |count: &u32| {
        let name = format!("qbulk, connections: {count}");
        push::row(job, &name, &[], &["--connections", &count.to_string()])
    };
    let rows = references(job).into_iter().chain(counts.iter().map(row)).collect();
    (", by number of connections", rows, vec![])
}

fn by_stripe(job: &Job, sizes: &[ByteSize]) -> Comparison {
    let row = |size: &ByteSize| {
        let name = format!("qbulk, stripes: {}", size.display().iec());
        let bytes = size.as_u64().to_string();
        push::row(job, &name, &[], &["--stripe-min", &bytes, "--stripe-max", &bytes])
    };
    let rows = references(job).into_iter().chain(sizes.iter().map(row)).collect();
    (", by stripe size", rows, vec![])
}

fn by_mtu(job: &Job, mtus: &[u16]) -> Comparison {
    let row = |mtu: &u16| {
        let name = format!("qbulk, datagrams: {mtu} B");
        push::row(job, &name, &["--mtu", &mtu.to_string()], &[])
    };
    let rows = references(job).into_iter().chain(mtus.iter().map(row)).collect();
    (", by largest datagram", rows, vec![])
}

/// What file-to-file rows are compared with.
fn references(job: &Job) -> Vec<Row> {
    vec![copy(job), tcp::row(job)]
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
