//! Where a server is found: names are looked up, again at each attempt, and of the addresses that one name
//! has, the one is kept that works.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::address::{ServerAddress, read_ip};
use crate::clock;
use crate::mutex::lock;

/// What was looked up is believed for this long while there is no progress.
const FRESH_TIME: Duration = Duration::from_secs(3);

/// What a look-up finds, once it is done.
pub type Found<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Finds the addresses of hosts: the system's way, or that of a program that knows better.
pub trait Resolver: Send + Sync {
    /// All addresses of `host`, the best first, with `port`.
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> Found<'a>;
}

/// The system's look-up.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> Found<'a> {
        Box::pin(async move {
            match read_ip(host, port) {
                Some(address) => Ok(vec![address?]),
                None => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
            }
        })
    }
}

/// A name for which there is no address.
#[derive(Debug, thiserror::Error)]
#[error("cannot find the host {host}: {why}")]
pub struct LookupError {
    host: String,
    why: String,
}

/// The addresses of a server while it is connected to.
pub struct Addresses {
    resolver: Arc<dyn Resolver>,
    places: Vec<Place>,
}

/// What was given as one address. All that it is found at is the same server.
struct Place {
    given: ServerAddress,
    state: Mutex<State>,
}

struct State {
    found: Vec<SocketAddr>,
    found_at: Instant,
    /// Where a connection came up last.
    chosen: Option<SocketAddr>,
    /// How often that was another than before.
    choices: u64,
}

/// What is tried when a connection is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidates {
    /// The best first.
    pub(super) addresses: Vec<SocketAddr>,
    /// Of how many choices this is the result.
    choices: u64,
}

impl Addresses {
    /// Looks all of `given` up.
    pub async fn look_up(
        given: &[ServerAddress],
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, LookupError> {
        let mut places = Vec::with_capacity(given.len());
        for address in given {
            let found = find(address, &*resolver).await?;
            let state = State { found, found_at: clock::now(), chosen: None, choices: 0 };
            places.push(Place { given: address.clone(), state: Mutex::new(state) });
        }
        Ok(Self { resolver, places })
    }

    /// How many were given.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// All that were found.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.places.iter().flat_map(|place| lock(&place.state).found.clone()).collect()
    }

    /// Where a connection has come up last.
    pub fn chosen(&self) -> Option<SocketAddr> {
        self.places.iter().find_map(|place| lock(&place.state).chosen)
    }

    /// What to try for `place`: the address that works; all of them if none is known to, or `is_lost` says
    /// that it works no more.
    pub(super) fn candidates(&self, place: usize, is_lost: bool) -> Candidates {
        let state = lock(&self.places[place].state);
        let addresses = match state.chosen {
            Some(chosen) if !is_lost => vec![chosen],
            chosen => {
                let others = state.found.iter().copied().filter(|&other| Some(other) != chosen);
                chosen.into_iter().chain(others).collect()
            }
        };
        Candidates { addresses, choices: state.choices }
    }

    /// A connection to `address`, one of `tried`, is up. Returns which address to use: another one if that
    /// was chosen meanwhile, since several servers may have one name, and all connections must get to the
    /// same one.
    pub(super) fn choose(
        &self,
        place: usize,
        tried: &Candidates,
        address: SocketAddr,
    ) -> SocketAddr {
        let mut state = lock(&self.places[place].state);
        match state.chosen {
            Some(chosen) if chosen == address || state.choices != tried.choices => chosen,
            _ => {
                state.chosen = Some(address);
                state.choices += 1;
                address
            }
        }
    }

    /// Looks `place` up again if that was not done just now. Returns all that it is found at; nothing if
    /// there is no news.
    pub(super) async fn refresh(&self, place: usize) -> Vec<SocketAddr> {
        let Place { given, state } = &self.places[place];
        if matches!(given, ServerAddress::Socket(_)) {
            return Vec::new();
        }
        {
            let (mut state, now) = (lock(state), clock::now());
            if now - state.found_at < FRESH_TIME {
                return Vec::new();
            }
            state.found_at = now;
        }
        match find(given, &*self.resolver).await {
            Ok(found) => {
                lock(state).found.clone_from(&found);
                found
            }
            Err(error) => {
                tracing::debug!(%error, "the addresses that are known are kept");
                Vec::new()
            }
        }
    }
}

async fn find(
    given: &ServerAddress,
    resolver: &dyn Resolver,
) -> Result<Vec<SocketAddr>, LookupError> {
    let (host, port) = match given {
        ServerAddress::Socket(address) => return Ok(vec![*address]),
        ServerAddress::Named { host, port } => (host, *port),
    };
    let unknown = |why: String| LookupError { host: host.clone(), why };
    let found = resolver.look_up(host, port).await;
    let found = found.map_err(|error| unknown(crate::error::reason(&error)))?;
    if found.is_empty() {
        return Err(unknown("it has no address".into()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name whose addresses change.
    struct Moving(Mutex<Vec<SocketAddr>>);

    impl Resolver for Moving {
        fn look_up<'a>(&'a self, _: &'a str, _: u16) -> Found<'a> {
            Box::pin(async { Ok(lock(&self.0).clone()) })
        }
    }

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4_433))
    }

    #[tokio::test(start_paused = true)]
    async fn what_works_is_kept_until_it_does_not_and_names_are_looked_up_again() {
        let moving = Arc::new(Moving(Mutex::new(vec![at(1), at(2)])));
        let given = [ServerAddress::parse("host", 4_433).unwrap(), at(9).into()];
        let addresses = Addresses::look_up(&given, Arc::clone(&moving) as _).await.unwrap();
        assert_eq!(addresses.all(), [at(1), at(2), at(9)]);
        let first = addresses.candidates(0, false);
        assert_eq!(first.addresses, [at(1), at(2)], "nothing is known to work yet");
        assert_eq!(addresses.choose(0, &first, at(2)), at(2));
        assert_eq!(addresses.choose(0, &first, at(1)), at(2), "all get to the same one");
        assert_eq!(addresses.candidates(0, false).addresses, [at(2)]);
        let lost = addresses.candidates(0, true);
        assert_eq!(lost.addresses, [at(2), at(1)]);
        assert_eq!(addresses.choose(0, &lost, at(1)), at(1));

        *lock(&moving.0) = vec![at(3)];
        assert!(addresses.refresh(0).await.is_empty(), "it was just looked up");
        tokio::time::advance(FRESH_TIME).await;
        assert_eq!(addresses.refresh(0).await, [at(3)]);
        assert_eq!(addresses.candidates(0, true).addresses, [at(1), at(3)]);
        lock(&moving.0).clear();
        tokio::time::advance(FRESH_TIME).await;
        assert!(addresses.refresh(0).await.is_empty());
        assert_eq!(addresses.candidates(0, true).addresses, [at(1), at(3)], "better than none");
        assert_eq!(addresses.candidates(1, true).addresses, [at(9)]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_and_an_interface_that_is_not_there_as_well() {
        let none = Arc::new(Moving(Mutex::default()));
        let given = [ServerAddress::parse("host", 4_433).unwrap()];
        let error = Addresses::look_up(&given, none).await.err().unwrap();
        assert_eq!(error.to_string(), "cannot find the host host: it has no address");
        let given = [ServerAddress::parse("fe80::1%no-such-one", 4_433).unwrap()];
        let error = Addresses::look_up(&given, Arc::new(SystemResolver)).await.err().unwrap();
        assert!(error.to_string().contains("no network interface no-such-one"), "{error}");
    }
}
