//! `qbulk push` to a running `qbulk serve`, as released.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::job::Job;
use crate::process::Process;
use crate::rounds::{Row, measure_to};

/// The binary, with an identity of the benchmark's own and none of the user's settings.
pub(crate) fn qbulk(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbulk"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"QBULK_") {
            command.env_remove(name);
        }
    }
    command.env("QBULK_CONFIG_DIR", place.join("identity"));
    command
}

/// A server that listens, and its address.
pub(crate) fn serve(place: &Path, root: &Path, options: &[String]) -> Result<(Process, String)> {
    let mut serve = qbulk(place);
    serve.args(["serve", "--json", "--listen", "127.0.0.1:0", "--root"]).arg(root).args(options);
    let (server, line) = Process::start_and_hear(serve)?;
    let listening: serde_json::Value = serde_json::from_str(&line)?;
    let address = listening["address"].as_str().ok_or("the server does not say where it is")?;
    Ok((server, address.to_owned()))
}

/// Pushes the source to `address`. Nothing is remembered of the path: all rounds begin alike.
pub(crate) fn push(job: &Job, address: &str, options: &[String]) -> Command {
    let mut push = qbulk(&job.place);
    push.args(["push", "--quiet", "--no-memory"]).args(options);
    push.arg(&job.source).arg(format!("qbulk://{address}/"));
    push
}

/// A row with options for both ends, and for the push alone.
pub(crate) fn row(job: &Job, name: &str, both: &[&str], push_only: &[&str]) -> Row {
    let owned = |options: &[&str]| options.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (serve_options, push_options) = (owned(both), owned(&[both, push_only].concat()));
    job.row(name, move |job| {
        let (server, address) = serve(&job.place, &job.target, &serve_options)?;
        measure_to(push(job, &address, &push_options), server, Process::stop)
    })
}
