//! How much memory a server may take, and what of it is for what.
//!
//! It follows the surroundings: what control groups allow, and what the host has. With plenty, as on any
//! larger host, the parts are as large as they are of use; with less, all of them are smaller, and fewer
//! transfers run at a time.

use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// What a server takes without any client, and what there is no account of.
const BASE_BYTES: u64 = 24 * MIB;
/// Less is as good as this.
const USABLE_BYTES_MIN: u64 = 24 * MIB;
/// What a transfer takes, in all parts together, where there is little.
const TRANSFER_BYTES: u64 = 8 * MIB;
/// What a connection takes beside what it has received.
const CONNECTION_BYTES: u64 = 128 << 10;
/// What one client's connections may take in before it is read: more than 6 Gbit/s over 100 ms.
const CLIENT_WINDOWS_MAX: usize = 80 << 20;
/// A connection begins with so much of that at most and at least, and with a part of what one client may have that
/// becomes smaller with how many there are.
const FIRST_BYTES_MAX: u64 = 256 << 10;
pub(super) const FIRST_BYTES_MIN: u32 = 16 << 10;
const FIRST_PART: u64 = 16;

/// What control groups and the host allow, in bytes: well below, since others live there as well.
pub(super) fn found() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let group = group_limit(&groups, read).map(|limit| limit / 4 * 3);
    let host = host_limit(&read(Path::new("/proc/meminfo")).unwrap_or_default());
    group.into_iter().chain(host).min().unwrap_or(u64::MAX)
}

/// The least that a process's control groups and those that they are in allow, of either version.
/// `groups` is what `/proc/self/cgroup` says.
fn group_limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limit = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, file) = if number == "0" && controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        // Within a container its own group may be mounted where the uppermost is elsewhere.
        let path = Path::new(path.trim_start_matches('/'));
        let limit = |path: &Path| {
            let file: PathBuf = [Path::new(mount), path, Path::new(file)].iter().collect();
            read(&file)?.trim().parse::<u64>().ok()
        };
        path.ancestors().filter_map(limit).min()
    };
    groups.lines().filter_map(limit).min()
}

/// Half of what the host has, or most of what is free, given what `/proc/meminfo` says.
fn host_limit(meminfo: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib << 10)
    };
    let total = bytes("MemTotal")? / 2;
    Some(bytes("MemAvailable").map_or(total, |free| total.min(free / 4 * 3)))
}

/// What of a server's memory is for what, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Stripes that are being received: of all transfers, and of those of one client.
    pub(super) stripes: usize,
    pub(super) client_stripes: usize,
    /// What has come of stripes before their headers: of all transfers, and of those of one client.
    pub(super) early: usize,
    pub(super) client_early: usize,
    /// What connections may take in before it is read, beside what each begins with: all together, and those of one
    /// client.
    pub(super) windows: usize,
    pub(super) client_windows: usize,
    /// What transfers keep from one stripe to the next, of all clients.
    pub(super) state: usize,
    /// Buffers that wait to be used again.
    pub(super) kept: usize,
    /// How many transfers and connections there is room for.
    pub(super) transfers: usize,
    pub(super) connections: usize,
}

impl Parts {
    /// The parts of `memory` bytes.
    pub(super) fn of(memory: u64) -> Self {
        let usable = memory.saturating_sub(BASE_BYTES).max(USABLE_BYTES_MIN);
        let part = |share: u64, max_mib: u64| (usable / share).min(max_mib * MIB) as usize;
        let (stripes, early, windows) = (part(5, 256), part(16, 128), part(4, 1_024));
        Self {
            stripes,
            client_stripes: stripes * 3 / 8,
            early,
            client_early: early / 8,
            windows,
            client_windows: (windows / 2).min(CLIENT_WINDOWS_MAX),
            state: part(8, 256),
            kept: part(16, 64),
            transfers: usize::try_from(usable / TRANSFER_BYTES).unwrap_or(usize::MAX),
            connections: usize::try_from(usable / 4 / CONNECTION_BYTES).unwrap_or(usize::MAX),
        }
    }

    /// What a connection may take in before it is known what for, where there are `others`.
    pub(super) fn first_window(&self, others: usize) -> u32 {
        let part = self.client_windows as u64 / FIRST_PART / (others as u64 + 1);
        part.clamp(FIRST_BYTES_MIN.into(), FIRST_BYTES_MAX) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;

    #[test]
    fn with_plenty_all_parts_are_as_large_as_they_are_of_use() {
        let parts = Parts::of(12 << 30);
        assert_eq!((parts.stripes, parts.client_stripes), (256 << 20, 96 << 20));
        assert_eq!((parts.early, parts.client_early), (128 << 20, 16 << 20));
        assert_eq!((parts.windows, parts.client_windows), (1 << 30, 80 << 20));
        assert_eq!((parts.first_window(0), parts.first_window(4_095)), (256 << 10, 16 << 10));
        assert_eq!((parts.state, parts.kept), (256 << 20, 64 << 20));
        assert!(parts.transfers >= 256 && parts.connections >= 4_096);
    }

    #[test]
    fn what_one_client_can_have_the_server_keep_is_bounded() {
        let parts = Parts::of(12 << 30);
        let limit = Limits::default().connections_per_client;
        let firsts: u64 = (0..limit).map(|others| u64::from(parts.first_window(others))).sum();
        let of_one = parts.client_stripes + parts.client_early + parts.client_windows;
        // Of what transfers keep, as long as it is alone.
        let all = of_one as u64 + firsts + parts.state as u64 / 2;
        assert!(all < 360 * MIB, "{}", all / MIB);
    }

    #[test]
    fn the_parts_fit_in_whatever_there_is() {
        for mib in [0_u64, 64, 128, 192, 256, 512, 1_024, 4_096, 1 << 20] {
            let parts = Parts::of(mib << 20);
            let all = parts.stripes + parts.early + parts.windows + parts.state + parts.kept;
            assert!(all as u64 <= (mib << 20).saturating_sub(BASE_BYTES).max(USABLE_BYTES_MIN));
            assert!(parts.transfers >= 3 && parts.connections >= 48, "{mib}: {parts:?}");
            assert!(parts.stripes >= 4 << 20 && parts.client_early >= 64 << 10);
        }
        assert!(Parts::of(256 << 20).transfers >= 24);
    }

    #[test]
    fn limits_are_found_in_groups_of_either_version_and_those_around_them() {
        let files = |files: &'static [(&str, &str)]| {
            move |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            }
        };
        let two = files(&[
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "268435456\n"),
            ("/sys/fs/cgroup/memory.max", "536870912\n"),
        ]);
        assert_eq!(group_limit("0::/a/b\n", two), Some(256 << 20));
        let one = files(&[
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n"),
            ("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
        ]);
        let groups = "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/0123\n1:name=systemd:/y\n0::/z\n";
        assert_eq!(group_limit(groups, one), Some(128 << 20), "mounted as its own");
        assert_eq!(group_limit("0::/\n", files(&[("/sys/fs/cgroup/memory.max", "max\n")])), None);
        assert_eq!(group_limit("nonsense\n::\n", files(&[])), None);
    }

    #[test]
    fn a_hosts_memory_is_not_all_for_one() {
        let info = |free: &str| format!("MemTotal:       16384 kB\nMemFree: 1 kB\n{free}");
        assert_eq!(host_limit(&info("MemAvailable:   16000 kB\n")), Some(8 << 20));
        assert_eq!(host_limit(&info("MemAvailable:    4096 kB\n")), Some(3 << 20));
        assert_eq!(host_limit(&info("")), Some(8 << 20));
        assert_eq!(host_limit("nonsense"), None);
    }
}
