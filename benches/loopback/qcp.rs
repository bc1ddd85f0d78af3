//! qcp, which copies over QUIC and has its server started by ssh.

use std::process::Command;

use crate::Result;
use crate::inetd::measure_with;
use crate::job::Job;
use crate::process::find_program;
use crate::rounds::Sample;
use crate::ssh::Ssh;

/// What it is told beside the defaults, which are for 100 Mbit/s and 300 ms.
pub(crate) const OPTIONS: [&str; 6] = ["--tx", "4G", "--rx", "4G", "--rtt", "1"];

pub(crate) fn run(job: &Job) -> Result<Sample> {
    let ssh = Ssh::of(&job.place)?;
    // sshd looks in the system's folders only.
    let program = find_program("qcp").ok_or("it is not installed")?;
    measure_with(ssh.server()?, |port| {
        let mut qcp = Command::new(&program);
        qcp.args(["-q", "-4", "--ssh-config", "/dev/null"]).args(OPTIONS);
        qcp.arg("--remote-qcp-binary").arg(&program);
        for option in ["-p", &port.to_string()] {
            qcp.args(["-S", option]);
        }
        for option in ssh.client_options() {
            qcp.args(["-S", &option]);
        }
        if job.load.is_tree() {
            qcp.arg("-r");
        }
        qcp.arg(&job.source).arg(format!("127.0.0.1:{}/", job.target.display()));
        qcp
    })
}
