//! scp.

use std::process::Command;

use crate::Result;
use crate::inetd::measure_with;
use crate::job::Job;
use crate::rounds::Sample;
use crate::ssh::Ssh;

pub(crate) fn run(job: &Job) -> Result<Sample> {
    let ssh = Ssh::of(&job.place)?;
    measure_with(ssh.server()?, |port| {
        let mut scp = Command::new("scp");
        scp.args(["-q", "-B", "-P", &port.to_string()]).args(ssh.client_options());
        if job.load.is_tree() {
            scp.arg("-r");
        }
        scp.arg(&job.source).arg(format!("127.0.0.1:{}/", job.target.display()));
        scp
    })
}
