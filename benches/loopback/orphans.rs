//! Processes that a server has started and not waited for, such as those of a user's session at sshd.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use crate::Result;
use crate::process::Usage;

/// How long they may take to end after their server.
const END_TIME: Duration = Duration::from_secs(2);
/// What Linux tells times in, on every machine.
const TICK: Duration = Duration::from_millis(10);

/// From now on they become this process's own when their parent ends.
pub(crate) fn adopt() -> Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Waits for all children, which must be orphans, and adds what they have used to `usage`: their times,
/// and not their memory, which nobody knows any more.
pub(crate) fn add_orphans(usage: &mut Usage) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < END_TIME {
        let children = children()?;
        if children.is_empty() {
            break;
        }
        for pid in children {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if waitid(WaitId::Pid(pid), ended | WaitIdOptions::NOWAIT)?.is_some() {
                let (user, system) = times(pid)?;
                waitid(WaitId::Pid(pid), ended)?;
                usage.user += user;
                usage.system += system;
            }
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn children() -> Result<Vec<Pid>> {
    let mut children = vec![];
    for thread in fs::read_dir("/proc/self/task")? {
        // Not every kernel tells.
        let of_thread = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        let pids = of_thread.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        children.extend(pids);
    }
    Ok(children)
}

/// User and system time of a process that has ended, and of those that it has waited for.
fn times(pid: Pid) -> Result<(Duration, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // The name before it may hold anything.
    let (_, fields) = stat.rsplit_once(')').ok_or("no times of a process")?;
    let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse);
    match ticks.collect::<std::result::Result<Vec<u32>, _>>()?[..] {
        [user, system, waited_user, waited_system] => {
            Ok((TICK * (user + waited_user), TICK * (system + waited_system)))
        }
        _ => Err("no times of a process".into()),
    }
}
