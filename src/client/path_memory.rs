//! What was learned about paths, from one push to the next: a file in the user's cache folder, which
//! may be deleted at any time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use serde::{Deserialize, Serialize};

use crate::congestion::PathMemory;
use crate::folder::parent;
use crate::identity::make_private_dir;

/// What is older says too little about the path as it is now.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Paths that are remembered, the latest ones.
const PATHS_MAX: usize = 256;
/// No path holds more, in bytes: 100 Gbit/s over a third of a second.
const IN_FLIGHT_BYTES_MAX: u64 = 4 << 30;
/// A file that is larger was not written by this program.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The remembered paths.
#[derive(Clone, Debug)]
pub struct PathCache {
    file: PathBuf,
}

/// One path, from a local address (if one was chosen) to a server's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathKey {
    /// The server.
    pub server: IpAddr,
    /// The local address; `None` if the system chooses it.
    pub local: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    rtt_min_us: u64,
    in_flight_bytes: u64,
    /// Seconds since 1970.
    saved_at: u64,
}

type Entries = BTreeMap<String, Entry>;

impl PathCache {
    /// The user's own: `$QBULK_CACHE_DIR/paths.json`, else in the usual cache folder. `None` if there is
    /// none.
    pub fn of_user() -> Option<Self> {
        let dir = match std::env::var_os("QBULK_CACHE_DIR") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => Xdg::new().ok()?.cache_dir().join("qbulk"),
        };
        Some(Self::in_dir(&dir))
    }

    /// Kept in `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self { file: dir.join("paths.json") }
    }

    /// What is known of a path.
    pub fn recall(&self, key: &PathKey) -> Option<PathMemory> {
        let entry = *self.load().get(&key.text())?;
        let age = now_s().checked_sub(entry.saved_at)?;
        let is_credible = entry.in_flight_bytes <= IN_FLIGHT_BYTES_MAX;
        (is_credible && age <= AGE_MAX.as_secs()).then_some(PathMemory {
            rtt_min: Duration::from_micros(entry.rtt_min_us),
            in_flight_bytes: entry.in_flight_bytes,
        })
    }

    /// Remembers what was learned of a path.
    pub fn remember(&self, key: &PathKey, memory: PathMemory) -> io::Result<()> {
        let mut entries = self.load();
        let entry = Entry {
            rtt_min_us: memory.rtt_min.as_micros() as u64,
            in_flight_bytes: memory.in_flight_bytes,
            saved_at: now_s(),
        };
        entries.insert(key.text(), entry);
        while entries.len() > PATHS_MAX {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.saved_at);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            entries.remove(&oldest);
        }
        let dir = parent(&self.file);
        make_private_dir(dir)?;
        let mut temp = tempfile::NamedTempFile::new_in(dir)?;
        temp.write_all(&serde_json::to_vec_pretty(&entries)?)?;
        temp.persist(&self.file)?;
        Ok(())
    }

    /// A file that cannot be read is as good as none.
    fn load(&self) -> Entries {
        let small = fs::metadata(&self.file).is_ok_and(|found| found.len() <= FILE_BYTES_MAX);
        let text = if small { fs::read(&self.file).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

impl PathKey {
    /// The path to `server` from `local`.
    pub fn new(server: IpAddr, local: Option<IpAddr>) -> Self {
        Self { server: server.to_canonical(), local }
    }

    fn text(&self) -> String {
        match self.local {
            Some(local) => format!("{local} {}", self.server),
            None => self.server.to_string(),
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_path_is_recalled_until_the_file_is_deleted_or_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let cache = PathCache::in_dir(&folder);
        let key = PathKey { server: "192.0.2.1".parse().unwrap(), local: None };
        let other = PathKey { local: Some("192.0.2.9".parse().unwrap()), ..key.clone() };
        let memory = PathMemory { rtt_min: Duration::from_millis(50), in_flight_bytes: 6_000_000 };
        assert_eq!(cache.recall(&key), None);
        cache.remember(&key, memory).unwrap();
        for (path, mode) in [(&folder, 0o700), (&cache.file, 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(cache.recall(&key), Some(memory));
        assert_eq!(cache.recall(&other), None);
        fs::write(&cache.file, b"{ \"192.0.2.1\": 3").unwrap();
        assert_eq!(cache.recall(&key), None);
        cache.remember(&key, memory).unwrap();
        assert_eq!(cache.recall(&key), Some(memory));
    }

    #[test]
    fn what_is_old_or_from_the_future_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PathCache::in_dir(dir.path());
        let key = PathKey { server: "192.0.2.1".parse().unwrap(), local: None };
        for saved_at in [now_s() - AGE_MAX.as_secs() - 10, now_s() + 1_000] {
            let entry = Entry { rtt_min_us: 1, in_flight_bytes: 1, saved_at };
            let entries = Entries::from([(key.text(), entry)]);
            fs::write(&cache.file, serde_json::to_vec(&entries).unwrap()).unwrap();
            assert_eq!(cache.recall(&key), None);
        }
    }

    #[test]
    fn the_number_of_paths_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PathCache::in_dir(dir.path());
        let memory = PathMemory { rtt_min: Duration::from_millis(1), in_flight_bytes: 1 };
        for host in 0..PATHS_MAX as u16 + 20 {
            let server = IpAddr::from([192, 0, (host >> 8) as u8, host as u8]);
            cache.remember(&PathKey { server, local: None }, memory).unwrap();
        }
        assert_eq!(cache.load().len(), PATHS_MAX);
    }
}
