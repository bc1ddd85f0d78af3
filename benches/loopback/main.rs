//! Throughput over loopback, beside what else this machine has to move the same bytes.
//!
//! `cargo bench --bench loopback`; what the rows mean is in benches/README.md.

mod files;
mod memory;
mod meter;
mod table;

use std::error::Error;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Parser, Subcommand};
use qbulk::net::endpoint::DATAGRAM_BYTES_MAX;

use meter::Row;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Loopback throughput: file to file beside cp and rsync, memory to memory beside TCP.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    end: Option<End>,
    /// What each row moves.
    #[arg(long, default_value = "1GiB", env = "QBULK_BENCH_SIZE")]
    size: ByteSize,
    /// Every row is measured once a round; medians are shown.
    #[arg(long, default_value_t = 3, env = "QBULK_BENCH_ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of connections for the memory-to-memory rows.
    #[arg(long, default_value = "1,10", value_delimiter = ',', env = "QBULK_BENCH_CONNECTIONS")]
    connections: Vec<u32>,
    /// Largest datagrams for the memory-to-memory rows, in bytes of UDP payload.
    #[arg(long, default_values_t = [DATAGRAM_BYTES_MAX, 1_472], value_delimiter = ',', env = "QBULK_BENCH_MTU")]
    mtu: Vec<u16>,
    /// The folder for the files [default: /dev/shm if it is there, else the one for temporary files].
    #[arg(long, value_name = "DIR", env = "QBULK_BENCH_DIR")]
    dir: Option<PathBuf>,
    /// Write the results to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One end of a memory-to-memory row: the benchmark runs itself for it, so that each end is a process
/// whose time and memory can be told.
#[derive(Subcommand)]
#[command(hide = true)]
enum End {
    TcpReceive(memory::Receive),
    TcpSend(memory::Send),
    QuicReceive(memory::Receive),
    QuicSend(memory::Send),
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.end {
        Some(End::TcpReceive(end)) => memory::tcp_receive(&end),
        Some(End::TcpSend(end)) => memory::tcp_send(&end),
        Some(End::QuicReceive(end)) => memory::on_runtime(memory::quic_receive(end)),
        Some(End::QuicSend(end)) => memory::on_runtime(memory::quic_send(end)),
        None => compare(&args),
    }
}

fn compare(args: &Args) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(|| {
        let memory = PathBuf::from("/dev/shm");
        if memory.is_dir() { memory } else { std::env::temp_dir() }
    });
    let place = tempfile::Builder::new().prefix("qbulk-bench-").tempdir_in(dir)?;
    let mut rows: Vec<Row> = files::rows(place.path(), args.size.as_u64())?;
    rows.extend(memory::rows(place.path(), args.size.as_u64(), &args.connections, &args.mtu));
    for round in 1..=args.rounds {
        for row in &mut rows {
            eprintln!("round {round} of {}: {}", args.rounds, row.name);
            let sample = (row.run)().map_err(|error| format!("{}: {error}", row.name))?;
            row.samples.push(sample);
        }
    }
    let results = table::Results::of(&rows, args.size.as_u64(), args.rounds);
    print!("{results}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(())
}
