//! What this process takes, with the names that Prometheus' own libraries use.

use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::text::Text;

static BEGAN: LazyLock<f64> = LazyLock::new(|| {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
});

/// It is from now on that the process is said to run.
pub(super) fn begin() {
    LazyLock::force(&BEGAN);
}

/// Adds what the system says; what it does not say is left out.
pub(super) fn add(text: &mut Text) {
    text.gauge("process_start_time_seconds", "When the process began, since 1970.", *BEGAN);
    if let Some((cpu_seconds, resident_bytes)) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| times(&stat, clock_ticks_per_second() as f64, page_size() as u64))
    {
        text.counter(
            "process_cpu_seconds_total",
            "User and system time of all threads.",
            cpu_seconds,
        );
        text.gauge(
            "process_resident_memory_bytes",
            "Memory that is resident.",
            resident_bytes as f64,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is what reads them.
        let open = open.count().saturating_sub(1);
        text.gauge("process_open_fds", "Files and sockets that are open.", open as f64);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        text.gauge("process_max_fds", "The most that may be open.", most as f64);
    }
}

/// Seconds of CPU and bytes that are resident; proc_pid_stat(5).
fn times(stat: &str, ticks_per_s: f64, page_bytes: u64) -> Option<(f64, u64)> {
    // The name of the program, in parentheses, may have anything in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some((ticks as f64 / ticks_per_s, field(24)? * page_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat =
            "7 (a b) c) S 1 7 7 0 -1 4194560 90 0 0 0 150 50 0 0 20 0 9 0 5000 99999 256 184467\n";
        assert_eq!(times(stat, 100.0, 4_096), Some((2.0, 256 * 4_096)));
        assert_eq!(times("7 (a) S 1", 100.0, 4_096), None);
        let own = fs::read_to_string("/proc/self/stat").expect("Linux");
        let (_, resident) = times(&own, 100.0, page_size() as u64).expect("as it is written");
        assert!((1 << 20..1 << 36).contains(&resident), "{resident}");
    }
}
