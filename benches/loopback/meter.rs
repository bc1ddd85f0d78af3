//! Processes and what they cost.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wait4::{ResUse, Wait4};

use crate::Result;

/// One way to move the bytes.
pub(crate) struct Row {
    pub(crate) group: Group,
    pub(crate) name: String,
    pub(crate) run: Box<dyn FnMut() -> Result<Sample>>,
    pub(crate) samples: Vec<Sample>,
}

/// Rows are compared within a group, with its first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Files,
    Memory,
}

/// What moving the bytes once has cost.
pub(crate) struct Sample {
    /// From the sender's start to its end.
    pub(crate) time: Duration,
    /// User and system time of both ends.
    pub(crate) cpu: Duration,
    pub(crate) sender_rss_bytes: u64,
    /// None where one process is both ends.
    pub(crate) receiver_rss_bytes: Option<u64>,
}

/// A receiver that was started; killed if it is not ended.
pub(crate) struct Receiver {
    child: Option<Child>,
    output: Option<JoinHandle<()>>,
}

/// Runs `sender` to its end, with `receiver` at the other end.
pub(crate) fn measure(mut sender: Command, receiver: Option<Receiver>) -> Result<Sample> {
    let start = Instant::now();
    let sent = sender.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?.wait4()?;
    let time = start.elapsed();
    if !sent.status.success() {
        return Err(format!("the sender failed: {}", sent.status).into());
    }
    let received = receiver.map(Receiver::end).transpose()?;
    let cpu = |used: &ResUse| used.rusage.utime + used.rusage.stime;
    Ok(Sample {
        time,
        cpu: cpu(&sent) + received.as_ref().map(cpu).unwrap_or_default(),
        sender_rss_bytes: sent.rusage.maxrss,
        receiver_rss_bytes: received.map(|used| used.rusage.maxrss),
    })
}

impl Receiver {
    /// Starts `command`, which needs no waiting for.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child: Some(child), output: None })
    }

    /// Starts `command` and waits for its first line of output.
    pub(crate) fn start_and_hear(mut command: Command) -> Result<(Self, String)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut receiver = Self { child: Some(child), output: None };
        let mut output = BufReader::new(stdout);
        let mut line = String::new();
        output.read_line(&mut line)?;
        // Whatever else it says must not fill the pipe and hold it up.
        receiver.output = Some(std::thread::spawn(move || {
            drop(std::io::copy(&mut output.by_ref(), &mut std::io::sink()));
        }));
        Ok((receiver, line.trim().to_owned()))
    }

    fn end(mut self) -> Result<ResUse> {
        let mut child = self.child.take().ok_or("ended twice")?;
        terminate(&child);
        Ok(child.wait4()?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            terminate(child);
            drop(child.wait());
        }
        if let Some(output) = self.output.take() {
            drop(output.join());
        }
    }
}

fn terminate(child: &Child) {
    // Fails only for a process that has ended by itself.
    kill_process(Pid::from_child(child), Signal::TERM).ok();
}
