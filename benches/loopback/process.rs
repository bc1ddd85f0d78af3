//! Child processes: each in a group of its own, always reaped, and what they cost.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::signal::unix::{SignalKind, signal};
use wait4::Wait4;

use crate::Result;

/// How long a receiver may take to end once everything was sent, or once it was told to.
const END_TIME: Duration = Duration::from_secs(10);

/// A program's full path: where the user's programs are, or the system's.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(usual);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// What a process and those that it has waited for have used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// The largest resident set that any of them had.
    pub(crate) peak_bytes: u64,
}

/// A process that was started; killed and reaped if it is dropped.
pub(crate) struct Process {
    child: Option<Child>,
    pid: Pid,
    name: String,
    errors: File,
}

/// All that were started and not reaped yet.
struct Running {
    interrupted: bool,
    pids: Vec<Pid>,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { interrupted: false, pids: Vec::new() });

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody wants the benchmark to end.
pub(crate) fn is_interrupted() -> bool {
    running().interrupted
}

/// Fails if somebody wants the benchmark to end.
pub(crate) fn go_on() -> io::Result<()> {
    if is_interrupted() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// On a signal that would end the benchmark, kills what runs and starts nothing more, so that the
/// benchmark ends with an error and removes its files.
pub(crate) fn heed_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let within = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(within);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let mut running = running();
        running.interrupted = true;
        for &pid in &running.pids {
            // Fails only for a group that has ended by itself.
            kill_process_group(pid, Signal::KILL).ok();
        }
    });
    Ok(())
}

impl Process {
    /// Starts `command` without input and output.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::spawn(command)
    }

    /// Starts `command` with a connection as its input and output, as inetd does.
    pub(crate) fn start_on(mut command: Command, connection: OwnedFd) -> Result<Self> {
        command.stdin(Stdio::from(connection.try_clone()?)).stdout(Stdio::from(connection));
        Self::spawn(command)
    }

    /// Starts `command` and waits for its first line of output.
    pub(crate) fn start_and_hear(mut command: Command) -> Result<(Self, String)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Self::spawn(command)?;
        let stdout = process.child.as_mut().and_then(|child| child.stdout.take());
        let mut output = BufReader::new(stdout.ok_or("no output")?);
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 {
            return Err(format!("{} said nothing{}", process.name, process.said()).into());
        }
        // Whatever else it says must not fill the pipe and hold it up.
        std::thread::spawn(move || drop(io::copy(&mut output, &mut io::sink())));
        Ok((process, line.trim().to_owned()))
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let errors = tempfile::tempfile()?;
        command.stderr(errors.try_clone()?).process_group(0);
        let mut running = running();
        if running.interrupted {
            return Err("interrupted".into());
        }
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let pid = Pid::from_child(&child);
        running.pids.push(pid);
        Ok(Self { child: Some(child), pid, name, errors })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn succeed(mut self) -> Result<Usage> {
        let (status, usage) = self.reap()?;
        if status.success() {
            Ok(usage)
        } else {
            Err(format!("{} failed: {status}{}", self.name, self.said()).into())
        }
    }

    /// Waits for its end, which must come by itself and may be anything.
    pub(crate) fn finish(mut self) -> Result<Usage> {
        if !self.ends_within(END_TIME)? {
            return Err(format!("{} does not end{}", self.name, self.said()).into());
        }
        Ok(self.reap()?.1)
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<Usage> {
        kill_process(self.pid, Signal::TERM)?;
        if !self.ends_within(END_TIME)? {
            kill_process_group(self.pid, Signal::KILL)?;
        }
        Ok(self.reap()?.1)
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    fn ends_within(&self, time: Duration) -> Result<bool> {
        let start = Instant::now();
        while !self.has_ended()? {
            if start.elapsed() > time {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    fn reap(&mut self) -> Result<(ExitStatus, Usage)> {
        // Until it is reaped, nobody else can have its number.
        while let Err(error) =
            waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        let mut running = running();
        // Fails only if nobody of the group is left.
        kill_process_group(self.pid, Signal::KILL).ok();
        running.pids.retain(|&pid| pid != self.pid);
        let mut child = self.child.take().ok_or("ended twice")?;
        let used = child.wait4()?;
        let (user, system) = (used.rusage.utime, used.rusage.stime);
        Ok((used.status, Usage { user, system, peak_bytes: used.rusage.maxrss }))
    }

    /// The end of what it said was wrong.
    pub(crate) fn said(&self) -> String {
        let mut said = Vec::new();
        let read = (&self.errors).rewind().and_then(|()| (&self.errors).read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        match said.trim() {
            said if read.is_err() || said.is_empty() => String::new(),
            said => {
                let lines: Vec<&str> = said.lines().collect();
                format!(": {}", lines[lines.len().saturating_sub(5)..].join("; "))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            kill_process_group(self.pid, Signal::KILL).ok();
            drop(self.reap());
        }
    }
}
