//! A transfer with a far side that is started for it, and started again if it is gone under way.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::near::{Agreed, Session, SshConfig, Told};
use super::way::{Known, Probe, Via};
use crate::client::{PeerConfig, PullConfig, PushConfig};
use crate::clock;
use crate::congestion::Algorithm;
use crate::error::Error;
use crate::identity::Identity;
use crate::net::address::ServerAddress;
use crate::net::lookup::{Resolver, SystemResolver};
use crate::net::pipe::{PipeSockets, pipe_address};
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::tls::ClientTrust;
use crate::traffic::{PrimeConfig, SetConfig};

/// UDP has so much time from when the far side is ready, or as many round trips through ssh, before it is taken
/// for what does not get through.
const UDP_TIME_MIN: Duration = Duration::from_millis(400);
const UDP_ROUND_TRIPS: u32 = 3;
/// How long it is waited before the far side is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Whether it is the far side that has ended what has failed is known within this time.
const END_TIME: Duration = Duration::from_secs(1);
/// A far side that lives for less long is started so often in a row.
const LIFE_TIME: Duration = Duration::from_secs(10);
const SHORT_LIVES_MAX: u32 = 5;

/// What is wanted of the far side.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// To write there, and not to read.
    pub writes: bool,
    /// Where, as it was typed.
    pub paths: Vec<Vec<u8>>,
}

/// A far side that serves, and the way to it.
#[derive(Clone)]
pub struct Far {
    /// The host, as it was typed.
    pub name: String,
    /// Who this side is for the session.
    pub identity: Arc<Identity>,
    /// The far side's key for the session, and no other.
    pub trust: ClientTrust,
    /// Where it is.
    pub server: ServerAddress,
    resolver: Arc<dyn Resolver>,
    sockets: Arc<dyn Sockets>,
    /// The paths as they are said to the server.
    pub paths: Vec<Vec<u8>>,
    /// Datagrams go through ssh.
    pub is_pipe: bool,
}

/// Resolves when what is under way is to end.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Far {
    /// A push to it that is otherwise as `config` says.
    pub fn push(&self, config: PushConfig) -> PushConfig {
        let mut config = PushConfig {
            servers: vec![self.server.clone()],
            resolver: Arc::clone(&self.resolver),
            server_name: self.name.clone(),
            destination: self.paths.first().cloned().unwrap_or_default(),
            sockets: Arc::clone(&self.sockets),
            identity: Arc::clone(&self.identity),
            trust: self.trust.clone(),
            ..config
        };
        if self.is_pipe {
            config.set = one_line(&config.set);
            config.congestion = Algorithm::Fixed;
            config.paths = None;
            config.bind.clear();
        }
        config
    }

    /// A pull from it that is otherwise as `config` says.
    pub fn pull(&self, config: PullConfig) -> PullConfig {
        let mut config = PullConfig {
            sources: self.paths.clone(),
            servers: vec![self.server.clone()],
            resolver: Arc::clone(&self.resolver),
            server_name: self.name.clone(),
            sockets: Arc::clone(&self.sockets),
            identity: Arc::clone(&self.identity),
            trust: self.trust.clone(),
            ..config
        };
        if self.is_pipe {
            config.set = one_line(&config.set);
            config.congestion = Algorithm::Fixed;
            config.bind.clear();
        }
        config
    }

    /// A question to it that is otherwise as `config` says.
    pub fn peer(&self, config: PeerConfig) -> PeerConfig {
        PeerConfig {
            server: self.server.clone(),
            resolver: Arc::clone(&self.resolver),
            server_name: self.name.clone(),
            sockets: Arc::clone(&self.sockets),
            identity: Arc::clone(&self.identity),
            trust: self.trust.clone(),
            bind: if self.is_pipe { Vec::new() } else { config.bind },
            ..config
        }
    }
}

/// A pipe has one lane, which is neither primed nor judged.
fn one_line(set: &SetConfig) -> SetConfig {
    let prime = PrimeConfig { budget_bytes: 0, ..set.prime };
    SetConfig { connections: 1, active: 1, active_max: 1, prime, ..set.clone() }
}

/// Starts the far side, has `job` done with it, and lets it end. If it is gone under way it is started again, as
/// long as `config` has patience: what is there already is gone on from.
pub async fn carry<T, F: Future<Output = Result<T, Error>>>(
    config: &SshConfig,
    identity: &Identity,
    wanted: &Wanted,
    tell: &(dyn Fn(Told) + Sync),
    stop: impl Future<Output = ()>,
    job: impl Fn(Far, Stop) -> F,
) -> Result<T, Error> {
    tokio::pin!(stop);
    let mut alive_at: Option<Instant> = None;
    let mut short_lives = 0;
    loop {
        let began = clock::now();
        let begun = tokio::select! {
            begun = begin(config, identity, wanted, tell) => begun,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let error = match begun {
            Err(error) => error,
            Ok((session, far)) => {
                let (end, ended) = oneshot::channel::<()>();
                let ended: Stop = Box::pin(async move { drop(ended.await) });
                let working = job(far, ended);
                let mut session_ended = session.ended.clone();
                tokio::pin!(working);
                let early = tokio::select! {
                    result = &mut working => Ok(result),
                    () = &mut stop => Err(Error::Interrupted),
                    why = session_ended.wait_for(Option::is_some) => Err(gone(config, why.ok())),
                };
                let result = match early {
                    Ok(result) => result,
                    Err(error) => {
                        drop(end);
                        match working.await {
                            Err(Error::Interrupted) => Err(error),
                            result => result,
                        }
                    }
                };
                let is_gone = async { session_ended.wait_for(Option::is_some).await.is_ok() };
                let lost = matches!(&result, Err(error) if error.may_pass())
                    && tokio::time::timeout(END_TIME, is_gone).await.unwrap_or(false);
                session.finish().await;
                match result {
                    Err(error) if lost => {
                        alive_at = Some(clock::now());
                        let is_short = clock::now() - began < LIFE_TIME;
                        short_lives = if is_short { short_lives + 1 } else { 0 };
                        error
                    }
                    result => return result,
                }
            }
        };
        let is_patient = alive_at.is_some_and(|at| clock::now() - at < config.retry_for);
        if !error.may_pass() || !is_patient || short_lives > SHORT_LIVES_MAX {
            return Err(error);
        }
        tell(Told::Again(error.to_string()));
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            () = &mut stop => return Err(Error::Interrupted),
        }
    }
}

fn gone(config: &SshConfig, why: Option<tokio::sync::watch::Ref<'_, Option<String>>>) -> Error {
    let why = why.and_then(|why| why.clone()).unwrap_or_default();
    Error::Connect(format!("{}: {why}", config.host))
}

/// Starts the far side and finds a way to it.
async fn begin(
    config: &SshConfig,
    identity: &Identity,
    wanted: &Wanted,
    tell: &(dyn Fn(Told) + Sync),
) -> Result<(Session, Far), Error> {
    let wish = (wanted.writes, wanted.paths.as_slice());
    let mut session = Session::start(config, identity, wish, tell).await?;
    let probe = Probe {
        name: config.host.clone(),
        identity: Arc::clone(&session.identity),
        far: session.far,
        bind: config.bind.clone(),
        datagram_bytes_max: config.datagram_bytes_max,
    };
    let addresses = session.addresses.clone();
    // It is tried while the far side is still getting ready, if it is known where.
    let early = session.hello_port.map(|port| {
        let (probe, addresses) = (probe.clone(), addresses.clone());
        AbortOnDrop(tokio::spawn(async move { probe.find(&addresses, port).await }))
    });
    let Agreed { paths, port } = session.agreed(config).await?;
    let found = match (config.via, port) {
        (Via::Always, _) => None,
        (_, None) => Some(Err("the far side has no UDP".to_owned())),
        (via, Some(port)) => {
            let time = match via {
                Via::Never => config.connect_timeout,
                _ => UDP_TIME_MIN.max(UDP_ROUND_TRIPS * session.round_trip),
            };
            let found = async {
                match early {
                    Some(mut early) => (&mut early.0)
                        .await
                        .unwrap_or_else(|error| Err(Error::Connect(error.to_string()))),
                    None => probe.find(&addresses, port).await,
                }
            };
            Some(match tokio::time::timeout(time, found).await {
                Ok(Ok(ip)) => Ok(SocketAddr::new(ip, port)),
                Ok(Err(error)) => Err(format!("{error}; {}", tried(&addresses, port))),
                Err(_) => Err(format!("no answer; {}", tried(&addresses, port))),
            })
        }
    };
    let name = config.host.clone();
    let trust = ClientTrust::Pinned([session.far].into());
    let identity = Arc::clone(&session.identity);
    let far = match found {
        Some(Ok(to)) => {
            // The one that answers first, and the others if it does no more.
            let others = addresses.iter().copied().filter(|ip| *ip != to.ip());
            let known = [to.ip()].into_iter().chain(others).collect();
            let server = ServerAddress::Named { host: name.clone(), port: to.port() };
            let (resolver, sockets) = (Arc::new(Known(known)), Arc::new(SystemSockets));
            Far { name, identity, trust, server, resolver, sockets, paths, is_pipe: false }
        }
        Some(Err(why)) if config.via == Via::Never => {
            return Err(Error::Connect(format!(
                "UDP does not get through to {name}: {why}; let it through (--udp-ports says where), say where \
                 else the host is (--udp-host), or go through ssh (--via-ssh auto)"
            )));
        }
        through_ssh => {
            if let Some(Err(why)) = through_ssh {
                tell(Told::Via(why));
            }
            let (server, resolver) = (pipe_address().into(), Arc::new(SystemResolver));
            let sockets = Arc::new(PipeSockets(Arc::clone(&session.pipe)));
            Far { name, identity, trust, server, resolver, sockets, paths, is_pipe: true }
        }
    };
    Ok((session, far))
}

fn tried(addresses: &[IpAddr], port: u16) -> String {
    let tried: Vec<_> = addresses.iter().map(|&ip| SocketAddr::new(ip, port).to_string()).collect();
    if tried.is_empty() {
        "no address is known".into()
    } else {
        format!("tried {}", tried.join(", "))
    }
}

/// A task that nobody waits for any more is of no use.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
