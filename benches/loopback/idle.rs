//! What a server costs that nobody uses, and how long the programs take to start.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde::Serialize;

use crate::Result;
use crate::process::Process;
use crate::push::{qbulk, serve};
use crate::table::median;

/// How long the server is watched.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Medians of the rounds, but for the server, which is watched once.
#[derive(Serialize)]
pub(crate) struct Idle {
    rounds: u32,
    /// From start to end.
    push_help_ms: f64,
    /// From start to the line that says that it listens.
    serve_listens_ms: f64,
    watched_seconds: f64,
    /// User and system time in `watched_seconds`.
    watched_cpu_ms: f64,
    /// After `watched_seconds`.
    watched_rss_bytes: u64,
}

pub(crate) fn measure(place: &Path, rounds: u32) -> Result<Idle> {
    let root = place.join("idle");
    fs::create_dir(&root)?;
    // The first start makes the identity.
    serve(place, &root, &[])?.0.stop()?;
    let (mut helps, mut listens) = (vec![], vec![]);
    for round in 1..=rounds {
        eprintln!("start-up: round {round} of {rounds}");
        let mut help: Command = qbulk(place);
        help.args(["push", "--help"]);
        let start = Instant::now();
        Process::start(help)?.succeed()?;
        helps.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let (server, _) = serve(place, &root, &[])?;
        listens.push(start.elapsed().as_secs_f64() * 1e3);
        server.stop()?;
    }
    eprintln!("an idle server: {} s", IDLE_TIME.as_secs());
    let (server, _) = serve(place, &root, &[])?;
    let before = cpu_ms(server.pid())?;
    std::thread::sleep(IDLE_TIME);
    let idle = Idle {
        rounds,
        push_help_ms: median(helps.into_iter()),
        serve_listens_ms: median(listens.into_iter()),
        watched_seconds: IDLE_TIME.as_secs_f64(),
        watched_cpu_ms: cpu_ms(server.pid())? - before,
        watched_rss_bytes: rss_bytes(server.pid())?,
    };
    server.stop()?;
    fs::remove_dir(&root)?;
    Ok(idle)
}

/// What a process has used, to the nanosecond: its threads' time, without those that have ended.
fn cpu_ms(pid: Pid) -> Result<f64> {
    let mut ns = 0.0;
    for thread in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        ns += schedstat.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(ns * 1e-6)
}

fn rss_bytes(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

impl fmt::Display for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds, push_help_ms, serve_listens_ms, watched_seconds, watched_cpu_ms, ..
        } = self;
        let rss_mib = self.watched_rss_bytes as f64 / f64::from(1 << 20);
        writeln!(out, "start-up, medians of {rounds}, and an idle server")?;
        writeln!(out, "qbulk push --help, start to end          {push_help_ms:8.1} ms")?;
        writeln!(out, "qbulk serve, start to listening          {serve_listens_ms:8.1} ms")?;
        writeln!(
            out,
            "an idle server, CPU time in {watched_seconds} s         {watched_cpu_ms:8.1} ms"
        )?;
        writeln!(out, "an idle server, resident set             {rss_mib:8.1} MiB")
    }
}
