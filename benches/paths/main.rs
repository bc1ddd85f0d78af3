//! How much of what a path could give is used, beside quinn's CUBIC: real transports over networks in memory,
//! in halted time, so that neither the processor nor luck is in the figures. `benches/README.md` says how to
//! read them.

mod contender;
mod cubic;
#[expect(dead_code, reason = "the tests change lanes in more ways")]
#[path = "../../tests/memory/network.rs"]
mod network;
mod path;
mod paths;
mod plot;
mod pushed;
mod table;

use std::path::PathBuf;

use clap::Parser;

use contender::Contender;
use path::Path;
use table::Table;

/// Whatever goes wrong in a benchmark ends it.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures paths in memory.
#[derive(Parser)]
struct Options {
    /// Only paths whose names hold one of these.
    only: Vec<String>,
    /// No transfer is larger than this, in MB.
    #[arg(long, default_value_t = 64)]
    most: u64,
    /// The first seed; runs of one path have seeds of their own.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs of each, of which the median counts.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Only qbulk, for trying things out.
    #[arg(long)]
    alone: bool,
    /// What becomes of its connections goes to standard error.
    #[arg(long)]
    tell: bool,
    /// Where to draw the results.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// What cargo passes to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let is_wanted = |path: &Path| {
        options.only.is_empty() || options.only.iter().any(|part| path.name.contains(part.as_str()))
    };
    let mut table = Table::default();
    for path in paths::all().into_iter().filter(is_wanted) {
        for bytes in path.sizes(options.most * 1_000_000) {
            let contenders = Contender::of(&path, options.alone);
            let mut row = table::Row::new(&path, bytes);
            for contender in contenders {
                let mut runs = (options.seed..options.seed + options.rounds)
                    .map(|seed| contender.run(&path, bytes, seed, options.tell))
                    .collect::<Result<Vec<_>>>()?;
                runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
                row.add(contender, runs.swap_remove(runs.len() / 2));
            }
            println!("{row}");
            table.push(row);
        }
    }
    println!("\n{table}");
    if let Some(file) = &options.plot {
        std::fs::write(file, plot::svg(&table))?;
    }
    Ok(())
}
