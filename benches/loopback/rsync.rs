//! rsync to its daemon, in clear.

use std::fs;
use std::process::Command;

use crate::Result;
use crate::inetd::measure_with;
use crate::job::Job;
use crate::rounds::Sample;

pub(crate) fn run(job: &Job) -> Result<Sample> {
    let config = job.place.join("rsyncd.conf");
    // Root would else write as nobody, who may not.
    let uid = if rustix::process::getuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let path = job.target.display();
    let text = format!(
        "use chroot = no\nread only = no\nlog file = /dev/null\n{uid}[to]\npath = {path}\n"
    );
    fs::write(&config, text)?;
    let mut daemon = Command::new("rsync");
    daemon.arg("--daemon").arg(format!("--config={}", config.display()));
    measure_with(daemon, |port| {
        let mut rsync = Command::new("rsync");
        rsync.arg("-a").arg(&job.source).arg(format!("rsync://127.0.0.1:{port}/to/"));
        rsync
    })
}
