//! Taking transfers into folders.

mod access;
mod awaited;
mod config;
mod conn;
mod counts;
mod desk;
mod door;
mod drain;
mod give;
mod greeting;
mod handshakes;
mod lately;
mod limits;
mod list;
mod memory;
mod opening;
mod paths;
mod place;
mod refusal;
mod shares;
mod sources;
mod survey;
mod sweep;
mod transfer;
mod turned_away;
mod turns;
mod verify;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, VarInt};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::access::Access;
pub use self::config::{KEEP_UNFINISHED, Roots, ServeConfig, ServeReporter, ServedFolder};
use self::conn::Services;
use self::counts::Live;
pub use self::counts::{Counts, Direction, NAMELESS, Snapshot, Tally};
use self::desk::Desk;
use self::door::Door;
use self::drain::{Drain, STOPPED};
use self::give::Giver;
pub use self::limits::Limits;
use self::limits::{Clients, Means};
use self::list::Lister;
use self::memory::Parts;
use self::sweep::Sweeper;
use self::turned_away::TurnedAway;
use self::verify::Verifier;
use crate::error::Error;
use crate::event::{ServeEvent, ServedRoot};
use crate::heap;
use crate::identity::{Identity, RootName};
use crate::net::endpoint::{self, RECEIVE_BUFFER_LIMIT};
use crate::net::tls;
use crate::store::clean::{Left, clean};
use crate::store::descriptors::{self, Descriptors};
use crate::store::own::OwnNames;
use crate::store::reason;
use crate::store::root::Root;
use crate::text::logged;
use crate::wire::CLOSE_STOPPING;

/// How often it is looked for what nobody has gone on with.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often a server that is being stopped looks whether its transfers have ended.
const DRAIN_TICK: Duration = Duration::from_millis(50);
/// How often a server looks whether it can give memory back.
const REST_TICK: Duration = Duration::from_secs(2);
/// How long closing may take.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// How long transfers that were ended may take to be seen off.
const END_TIME: Duration = Duration::from_secs(2);

/// A server that has its socket and root folders.
pub struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    tls: Arc<QuicServerConfig>,
    datagram_bytes_max: u16,
    keep_unfinished: Duration,
    access: Arc<Access>,
    /// What is told of the roots.
    served: Vec<ServedRoot>,
    names: OwnNames,
    means: Means,
    counts: Arc<Counts>,
    discards: bool,
    allows_super: bool,
}

impl Server {
    /// Opens the root folders and the socket. Needs a tokio runtime.
    pub fn bind(config: ServeConfig) -> Result<Self, Error> {
        heap::have_few();
        let access = Access::open(&config.roots, config.trust.clone())?;
        let secret = config.identity.secret("qbulk server endpoint 1");
        let names = own_names(&config.identity);
        let names = if config.one_user { names.of_one_client() } else { names };
        let tls = Arc::new(tls::server_config(&config.identity, config.trust)?);
        let listen = |error: std::io::Error| {
            Error::Connect(format!("cannot listen on {}: {}", config.listen, reason(&error)))
        };
        let (sockets, ours) = (&*config.sockets, Arc::clone(&tls));
        let endpoint = endpoint::server(sockets, config.listen, ours, &secret).map_err(listen)?;
        let address = endpoint.local_addr().map_err(listen)?;
        let open_max = descriptors::budget(descriptors::raise_limit());
        let parts = Parts::of(config.memory.unwrap_or_else(memory::found));
        let limits = config.limits;
        let transfers = limits.transfers.min(parts.transfers);
        let limits = limits.within(
            transfers.min(descriptors::transfers_max(open_max)),
            limits.connections.min(parts.connections),
        );
        let names_of_roots = config.roots.folders().map(|(name, _)| name.map(ToString::to_string));
        Ok(Self {
            counts: Counts::new(names_of_roots),
            endpoint,
            address,
            tls,
            datagram_bytes_max: config.datagram_bytes_max,
            keep_unfinished: config.keep_unfinished,
            access: Arc::new(access),
            served: served(&config.roots),
            names,
            means: Means {
                limits,
                parts,
                descriptors: Descriptors::new(open_max, parts.state),
                workers: Arc::default(),
            },
            discards: false,
            allows_super: config.allows_super,
        })
    }

    /// Verifies what arrives and throws it away, so that transfers can be measured without a disk:
    /// files get their names and stay empty.
    #[must_use]
    pub fn discarding(self) -> Self {
        Self { discards: true, ..self }
    }

    /// What it does, for whoever looks while it runs.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes transfers until `stop` resolves; then unfinished ones are cleaned up.
    pub async fn run(
        self,
        report: ServeReporter,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        self.run_and_drain(report, std::future::pending(), stop).await
    }

    /// Takes transfers until `drain` resolves, and then no new ones: it ends when those that run have
    /// ended, and in any case when `stop` resolves.
    pub async fn run_and_drain(
        self,
        report: ServeReporter,
        drain: impl Future<Output = ()> + Send,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        report(ServeEvent::Listening { address: self.address, roots: self.served.clone() });
        if let Some(limit) = endpoint::small_receive_buffer(Path::new(RECEIVE_BUFFER_LIMIT)) {
            tracing::warn!(
                "the system limits receive buffers to {limit} bytes, which is too small for fast paths; \
                 as root: sysctl -w net.core.rmem_max=8388608"
            );
        }
        let (door, services) = self.open(report);
        let stop_cleaning = Arc::new(AtomicBool::new(false));
        let mut cleaning = JoinSet::new();
        let cleans = self.keep_unfinished < Duration::MAX;
        for root in self.access.roots().filter(|_| cleans) {
            let (root, stop) = (Arc::clone(root), Arc::clone(&stop_cleaning));
            cleaning.spawn(clean_often(root, self.names.clone(), self.keep_unfinished, stop));
        }
        let mut tasks = JoinSet::new();
        tokio::pin!(drain, stop);
        let mut drain_tick = tokio::time::interval(DRAIN_TICK);
        let mut is_draining = false;
        let mut rest_tick = tokio::time::interval(REST_TICK);
        rest_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut span_tick = tokio::time::interval(turned_away::SPAN);
        let mut result = Ok(());
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = &mut drain, if !is_draining => {
                    is_draining = true;
                    services.drain();
                }
                _ = drain_tick.tick(), if is_draining => {
                    if !services.is_serving() {
                        break;
                    }
                }
                _ = rest_tick.tick(), if !services.is_idle() => {
                    let services = Arc::clone(&services);
                    tasks.spawn_blocking(move || services.rest());
                }
                _ = span_tick.tick() => door.turned_away.tell_of_the_others(),
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else {
                        result = Err(Error::Connect("the UDP socket cannot be used any more".into()));
                        break;
                    };
                    if let Some((incoming, seat)) = door.knock(incoming) {
                        let (door, services) = (Arc::clone(&door), Arc::clone(&services));
                        tasks.spawn(async move {
                            if let Some(guest) = door.open(incoming, seat).await {
                                services.serve(guest).await;
                            }
                        });
                    }
                }
                Some(_) = tasks.join_next() => {}
            }
        }
        stop_cleaning.store(true, Relaxed);
        cleaning.shutdown().await;
        services.desk.stop(STOPPED);
        drop(tokio::time::timeout(CLOSE_TIME, services.giver.stop()).await);
        self.endpoint.close(VarInt::from_u32(CLOSE_STOPPING), STOPPED.as_bytes());
        drop(tokio::time::timeout(CLOSE_TIME, self.endpoint.wait_idle()).await);
        // What is being seen off is told of.
        let ended = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(END_TIME, ended).await);
        tasks.shutdown().await;
        services.desk.forget_all().await;
        // What is unfinished goes with the last reference to it; that touches the disk.
        drop(tokio::task::spawn_blocking(move || drop(services)).await);
        result
    }

    /// What clients come in by, and what they find there.
    fn open(&self, report: ServeReporter) -> (Arc<Door>, Arc<Services>) {
        let Means { limits, parts, .. } = self.means;
        let clients = Clients::new("transfers", limits, parts);
        let report = self.counts.through(report);
        let turned_away = Arc::new(TurnedAway::new(Arc::clone(&report)));
        let drain = Arc::new(Drain::default());
        self.counts.watch(Live {
            clients: Arc::clone(&clients),
            turned_away: Arc::clone(&turned_away),
            drain: Arc::clone(&drain),
        });
        let desk = Desk::new(
            Arc::clone(&self.access),
            self.names.clone(),
            (self.discards, self.allows_super),
            Arc::clone(&report),
            &self.means,
            Arc::clone(&clients),
            (Arc::clone(&drain), Arc::clone(&turned_away), Arc::clone(&self.counts)),
        );
        let giver = Giver::new(
            Arc::clone(&self.access),
            self.address,
            Arc::clone(&report),
            Arc::clone(&clients),
            &self.means,
            (Arc::clone(&drain), Arc::clone(&turned_away), Arc::clone(&self.counts)),
            self.allows_super,
        );
        let door = Door {
            tls: Arc::clone(&self.tls),
            datagram_bytes_max: self.datagram_bytes_max,
            clients,
            turned_away: Arc::clone(&turned_away),
            handshakes: Arc::default(),
        };
        let services = Services {
            desk,
            giver,
            verifier: Verifier::new(Arc::clone(&self.access), &self.means, Arc::clone(&drain)),
            lister: Lister::new(Arc::clone(&self.access), &self.means, Arc::clone(&drain)),
            sweeper: Sweeper::new(Arc::clone(&self.access), &self.means, Arc::clone(&drain)),
            drain,
            turned_away,
            report,
            is_idle: AtomicBool::new(true),
        };
        (Arc::new(door), Arc::new(services))
    }
}

/// What is told of what is served.
fn served(roots: &Roots) -> Vec<ServedRoot> {
    let told = |(name, folder): (Option<&RootName>, &ServedFolder)| ServedRoot {
        name: name.map(ToString::to_string),
        path: folder.path.canonicalize().as_ref().unwrap_or(&folder.path).display().to_string(),
        access: folder.rights.to_string(),
    };
    roots.folders().map(told).collect()
}

/// The names that the server with this identity gives to what is not finished.
pub fn own_names(identity: &Identity) -> OwnNames {
    OwnNames::new(identity.secret("qbulk names of unfinished files 1"))
}

async fn clean_often(root: Arc<Root>, names: OwnNames, age_min: Duration, stop: Arc<AtomicBool>) {
    let mut interval = tokio::time::interval(CLEAN_INTERVAL);
    let (began, began_at) = (Instant::now(), SystemTime::now());
    loop {
        interval.tick().await;
        // If the clock was put forward meanwhile, everything looks older than it is.
        let age = began_at.elapsed().unwrap_or_default();
        let age_min = age_min + age.saturating_sub(began.elapsed());
        let (root, names, stop) = (Arc::clone(&root), names.clone(), Arc::clone(&stop));
        let clean = move || {
            let root = match root.current() {
                Ok(root) => root,
                Err(error) => {
                    tracing::warn!("{error}");
                    return 0;
                }
            };
            let mut removed = 0_u64;
            let decide = |_: &Left<'_>| {
                let goes_on = !stop.load(Relaxed);
                removed += u64::from(goes_on);
                goes_on
            };
            clean(&root, &names, age_min, decide, |left, error| {
                tracing::warn!(path = logged(left.path), %error, "cannot be removed");
            });
            removed
        };
        if let Ok(files @ 1..) = tokio::task::spawn_blocking(clean).await {
            tracing::info!(files, "removed what unfinished transfers had left behind");
        }
    }
}
