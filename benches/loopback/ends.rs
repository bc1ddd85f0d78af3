//! The ends of memory-to-memory rows: the benchmark runs itself for each, so that its time and memory can
//! be told.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use crate::process::Process;
use crate::rounds::{Sample, measure_to};
use crate::{Result, discard, quic, tcp};

/// As much as qbulk sends on one stream.
pub(crate) const STRIPE_BYTES: u64 = 1 << 20;

/// The first argument where the benchmark runs itself.
pub(crate) const END: &str = "end";

/// What an end is told.
#[derive(Parser)]
enum End {
    TcpReceive(tcp::Receive),
    TcpSend(tcp::Send),
    QuicReceive(quic::Receive),
    QuicSend(quic::Send),
    Discard(discard::Receive),
}

/// Is one end.
pub(crate) fn run() -> Result<()> {
    match End::parse_from(std::env::args_os().skip(1)) {
        End::TcpReceive(end) => tcp::receive(&end),
        End::TcpSend(end) => tcp::send(&end),
        End::QuicReceive(end) => on_runtime(quic::receive(end)),
        End::QuicSend(end) => on_runtime(quic::send(end)),
        End::Discard(end) => on_runtime(discard::receive(end)),
    }
}

/// Threads as the `qbulk` command has them.
fn on_runtime(end: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(end)
}

fn end(place: &Path, kind: &str, arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("QBULK_CONFIG_DIR", place.join("identity"));
    command.args([END, kind]).args(arguments);
    Ok(command)
}

/// A receiver that listens, and its address.
pub(crate) fn receiver(
    place: &Path,
    kind: &str,
    arguments: &[String],
) -> Result<(Process, String)> {
    Process::start_and_hear(end(place, kind, arguments)?)
}

/// A run of `KIND-send` to `KIND-receive`.
pub(crate) fn between(
    place: PathBuf,
    kind: &'static str,
    receive: Vec<String>,
    send: Vec<String>,
) -> impl FnMut() -> Result<Sample> {
    move || {
        let (receiver, address) = receiver(&place, &format!("{kind}-receive"), &receive)?;
        let send = [&[address], &send[..]].concat();
        measure_to(end(&place, &format!("{kind}-send"), &send)?, receiver, Process::finish)
    }
}
