//! What is known of the paths to clients, from one pull to the next: a second one starts from what the first has
//! measured (RFC 9959). It is what this server has seen itself, and nobody is believed anything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::congestion::PathMemory;
use crate::identity::Fingerprint;
use crate::mutex::lock;

/// What is older says too little about the path as it is now.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Paths that are remembered, the latest ones: of all clients, and of one.
const PATHS_MAX: usize = 1_024;
const OWN_PATHS_MAX: usize = 16;

/// The remembered paths. They are gone with the server.
#[derive(Debug, Default)]
pub(super) struct Paths {
    known: Mutex<HashMap<Path, (PathMemory, Instant)>>,
}

/// A client, and where it was.
type Path = (Fingerprint, IpAddr);

impl Paths {
    /// What is known of the path to `client` at `address`.
    pub(super) fn recall(
        &self,
        client: Fingerprint,
        address: IpAddr,
        now: Instant,
    ) -> Option<PathMemory> {
        let known = lock(&self.known);
        let &(memory, at) = known.get(&(client, address.to_canonical()))?;
        (now.saturating_duration_since(at) <= AGE_MAX).then_some(memory)
    }

    /// Remembers what was measured.
    pub(super) fn remember(
        &self,
        client: Fingerprint,
        address: IpAddr,
        memory: PathMemory,
        now: Instant,
    ) {
        let mut known = lock(&self.known);
        known.insert((client, address.to_canonical()), (memory, now));
        let own = known.keys().filter(|(other, _)| *other == client).count();
        let is_own = own > OWN_PATHS_MAX;
        if is_own || known.len() > PATHS_MAX {
            let paths = known.iter().filter(|((other, _), _)| !is_own || *other == client);
            let oldest = paths.min_by_key(|(_, (_, at))| *at).map(|(path, _)| *path);
            oldest.map(|oldest| known.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD_NO_PAD;

    use super::*;

    const MEMORY: PathMemory =
        PathMemory { rtt_min: Duration::from_millis(50), in_flight_bytes: 6_000_000 };

    fn client(number: u64) -> Fingerprint {
        let hash = *blake3::hash(&number.to_be_bytes()).as_bytes();
        format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(hash)).parse().unwrap()
    }

    fn address(number: usize) -> IpAddr {
        IpAddr::from([192, 0, (number >> 8) as u8, number as u8])
    }

    #[test]
    fn a_path_is_one_clients_at_one_address_and_is_forgotten_after_a_day() {
        let (paths, now) = (Paths::default(), Instant::now());
        let mapped = "::ffff:192.0.0.1".parse().unwrap();
        paths.remember(client(1), mapped, MEMORY, now);
        assert_eq!(paths.recall(client(1), address(1), now), Some(MEMORY));
        assert_eq!(paths.recall(client(1), address(2), now), None);
        assert_eq!(paths.recall(client(2), address(1), now), None);
        assert_eq!(paths.recall(client(1), address(1), now + 2 * AGE_MAX), None);
    }

    #[test]
    fn a_client_with_many_addresses_pushes_out_nobody_elses() {
        let (paths, now) = (Paths::default(), Instant::now());
        let at = |step: usize| now + Duration::from_millis(step as u64);
        paths.remember(client(1), address(1), MEMORY, now);
        for number in 1..=3_000 {
            paths.remember(client(2), address(number), MEMORY, at(number));
        }
        assert_eq!(lock(&paths.known).len(), 1 + OWN_PATHS_MAX);
        assert!(paths.recall(client(1), address(1), now).is_some());
        assert!(paths.recall(client(2), address(3_000), now).is_some());
        for number in 3..3_000 {
            paths.remember(client(number), address(1), MEMORY, at(3_000 + number as usize));
        }
        assert_eq!(lock(&paths.known).len(), PATHS_MAX);
        assert!(paths.recall(client(2_999), address(1), now).is_some());
        assert!(paths.recall(client(1), address(1), now).is_none());
    }
}
