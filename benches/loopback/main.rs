//! Throughput over loopback, beside what else this machine has to move the same bytes.
//!
//! `cargo bench --bench loopback`; what the rows mean is in benches/README.md.

mod discard;
mod ends;
mod idle;
mod inetd;
mod job;
mod load;
mod orphans;
mod place;
mod process;
mod push;
mod qcp;
mod quic;
mod rounds;
mod rsync;
mod scp;
mod ssh;
mod suites;
mod table;
mod tcp;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Parser;
use serde::Serialize;

use crate::idle::Idle;
use crate::job::SPARE_BYTES;
use crate::load::Load;
use crate::place::Place;
use crate::suites::Suite;
use crate::table::Table;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LARGE_BYTES: u64 = 4 << 30;
const MIB: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples, each after `cargo bench --bench loopback --`:
  connections stripes mtu                  how a push depends on its options
  files --large --json files.json          with a file of 4 GiB
  --rounds 1 --size 64MiB --trees 9x1MiB   only to see that it runs

What is not installed is named and skipped. benches/README.md says what the rows mean.";

/// Throughput, CPU time and memory over loopback: qbulk beside cp, plain TCP, rsync, scp and qcp.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench loopback --", after_help = EXAMPLES, max_term_width = 100)]
struct Args {
    /// What to measure.
    #[arg(value_name = "SUITE", default_values = ["files", "memory", "idle"])]
    suites: Vec<Suite>,
    /// Every row is measured once a round, in turn; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The size of the one file, in whole MiB.
    #[arg(long, default_value = "2GiB")]
    size: ByteSize,
    /// The same as --size 4GiB.
    #[arg(long, conflicts_with = "size")]
    large: bool,
    /// The trees of the suite `files`.
    #[arg(
        long,
        value_name = "FILESxSIZE",
        default_value = "1000x1MiB,50000x4KiB",
        value_delimiter = ','
    )]
    trees: Vec<Load>,
    /// Numbers of connections, for the suite of that name.
    #[arg(long, value_name = "N", default_value = "1,2,4,8,10,16,32", value_delimiter = ',')]
    connections: Vec<u32>,
    /// Stripe sizes, for the suite of that name; powers of two.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "64KiB,256KiB,512KiB,1MiB,4MiB",
        value_delimiter = ','
    )]
    stripes: Vec<ByteSize>,
    /// Largest datagrams, in bytes of UDP payload, for the suite of that name.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "1200,1472,3000,6500,65000",
        value_delimiter = ','
    )]
    mtu: Vec<u16>,
    /// The folder for the files [default: /dev/shm or another tmpfs with room, else the one for temporary files].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the results to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn size(&self) -> u64 {
        let size = if self.large { LARGE_BYTES } else { self.size.as_u64() };
        size.next_multiple_of(MIB).max(MIB)
    }
}

/// What `--json` writes.
#[derive(Serialize)]
struct Results {
    qbulk: &'static str,
    cores: usize,
    folder: PathBuf,
    is_tmpfs: bool,
    tables: Vec<Table>,
    idle: Option<Idle>,
}

fn main() -> ExitCode {
    let is_end = std::env::args_os().nth(1).is_some_and(|first| first == ends::END);
    let result = if is_end { ends::run() } else { compare(&Args::parse()) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if process::is_interrupted() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<()> {
    process::heed_signals()?;
    orphans::adopt()?;
    // Once as the source and once as the target, or as what warms up for that.
    let loads = args.suites.iter().flat_map(|suite| suite.loads(args));
    let disk_bytes = loads.map(|load| 2 * load.disk_bytes() + SPARE_BYTES).max().unwrap_or(0);
    let place = Place::find(args.dir.as_deref(), disk_bytes)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "both ends on this machine of {cores} cores, files in {}, {}",
        place.parent().display(),
        place.kind()
    );
    let mut results = Results {
        qbulk: env!("CARGO_PKG_VERSION"),
        cores,
        folder: place.parent().to_owned(),
        is_tmpfs: place.is_tmpfs,
        tables: vec![],
        idle: None,
    };
    for suite in &args.suites {
        for table in suite.measure(args, &place)? {
            print!("\n{table}");
            results.tables.push(table);
        }
        if *suite == Suite::Idle {
            let idle = results.idle.insert(idle::measure(place.path(), args.rounds)?);
            print!("\n{idle}");
        }
    }
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(())
}
