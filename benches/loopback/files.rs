//! File to file: `qbulk push` to `qbulk serve`, beside `cp` and rsync's daemon.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::Result;
use crate::meter::{Group, Receiver, Row, Sample, measure};

const BLOCK_BYTES: u64 = 1 << 20;

/// The rows that this machine has the programs for.
pub(crate) fn rows(place: &Path, bytes: u64) -> Result<Vec<Row>> {
    let source = place.join("source");
    generate(&source, bytes)?;
    let mut rows = vec![row(place, "cp", copy), row(place, "qbulk", qbulk)];
    if has("rsync") {
        rows.push(row(place, "rsync to its daemon, in clear", rsync));
    }
    Ok(rows)
}

/// Runs one program with a fresh target folder, and compares what arrived.
fn row(place: &Path, name: &str, run: fn(&Path, &Path, &Path) -> Result<Sample>) -> Row {
    let (place, source) = (place.to_owned(), place.join("source"));
    let run = move || {
        let target = place.join("target");
        fs::create_dir(&target)?;
        let sample = run(&place, &source, &target)?;
        if !same(&source, &target.join("source"))? {
            return Err("what arrived is not what was sent".into());
        }
        fs::remove_dir_all(&target)?;
        Ok(sample)
    };
    Row { group: Group::Files, name: name.into(), run: Box::new(run), samples: vec![] }
}

fn copy(_: &Path, source: &Path, target: &Path) -> Result<Sample> {
    let mut command = Command::new("cp");
    command.arg(source).arg(target);
    measure(command, None)
}

fn qbulk(place: &Path, source: &Path, target: &Path) -> Result<Sample> {
    let qbulk = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbulk"));
        command.env("QBULK_CONFIG_DIR", place.join("identity"));
        command
    };
    let mut serve = qbulk();
    serve.args(["serve", "--json", "--listen", "127.0.0.1:0", "--root"]).arg(target);
    let (server, line) = Receiver::start_and_hear(serve)?;
    let listening: serde_json::Value = serde_json::from_str(&line)?;
    let address = listening["address"].as_str().ok_or("the server does not say where it is")?;
    let mut push = qbulk();
    push.args(["push", "--quiet"]).arg(source).arg(format!("qbulk://{address}/"));
    measure(push, Some(server))
}

fn rsync(place: &Path, source: &Path, target: &Path) -> Result<Sample> {
    let port = free_port()?;
    let config = place.join("rsyncd.conf");
    // Root would else write as nobody, who may not.
    let uid = if rustix::process::getuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    fs::write(
        &config,
        format!(
            "use chroot = no\nread only = no\naddress = 127.0.0.1\n{uid}[to]\npath = {}\n",
            target.display()
        ),
    )?;
    let mut daemon = Command::new("rsync");
    daemon.args(["--daemon", "--no-detach", "--log-file=/dev/null"]);
    daemon.arg(format!("--port={port}")).arg(format!("--config={}", config.display()));
    let daemon = Receiver::start(daemon)?;
    wait_for(port)?;
    let mut rsync = Command::new("rsync");
    rsync.arg("-a").arg(source).arg(format!("rsync://127.0.0.1:{port}/to/"));
    measure(rsync, Some(daemon))
}

fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn wait_for(port: u16) -> Result<()> {
    for _ in 0..500 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("nobody listens on port {port}").into())
}

/// Random bytes: nothing can be gained by compressing or leaving out.
fn generate(path: &PathBuf, bytes: u64) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut random = SmallRng::seed_from_u64(7);
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut left = bytes;
    while left > 0 {
        random.fill_bytes(&mut block);
        let len = left.min(BLOCK_BYTES);
        file.write_all(&block[..len as usize])?;
        left -= len;
    }
    file.flush()
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    let mut left = fs::metadata(one)?.len();
    let (mut one, mut other) = (BufReader::new(File::open(one)?), File::open(other)?);
    let (mut first, mut second) = (vec![0; BLOCK_BYTES as usize], vec![0; BLOCK_BYTES as usize]);
    while left > 0 {
        let len = left.min(BLOCK_BYTES) as usize;
        one.read_exact(&mut first[..len])?;
        other.read_exact(&mut second[..len])?;
        if first[..len] != second[..len] {
            return Ok(false);
        }
        left -= len as u64;
    }
    Ok(true)
}
