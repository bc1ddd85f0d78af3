//! Transfers that clients pull: what they ask for is sent over the connections that they open.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::VarInt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::access::Access;
use super::awaited::{Awaited, Ending, PulledLines, Share};
use super::config::ServeReporter;
use super::counts::{Counts, Direction, Run};
use super::drain::{Drain, STOPPED};
use super::greeting::Asked;
use super::lately::TransferKey;
use super::limits::{Clients, ConnectionSeat, Means, TransferSeat};
use super::memory::Parts;
use super::paths::Paths;
use super::refusal::Refusal;
use super::sources::{reach, starts};
use super::turned_away::{TurnedAway, has_heard};
use super::turns::Turns;
use crate::buffers::Buffers;
use crate::congestion::{Aggressiveness, Algorithm, BudgetConfig, Controllers, SharedBudget};
use crate::error::Error;
use crate::event::{PushEvent, ServeEvent, Summary};
use crate::filter::Filter;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::net::controllers::Late;
use crate::net::endpoint::SEND_WINDOW_BYTES;
use crate::net::limit::Limit;
use crate::net::line::Line;
use crate::net::pipe::is_pipe;
use crate::net::telemetry::Telemetry;
use crate::send::{Job, Search, Sender};
use crate::store::owners::is_root;
use crate::store::scan::LookFor;
use crate::store::shown;
use crate::store::source::ReadOptions;
use crate::store::start::Start;
use crate::traffic::{HealthConfig, PrimeConfig, SetConfig};
use crate::wire::{
    CLOSE_REFUSED, CLOSE_STOPPING, HostNumber, PullRequest, PushNumber, ToReceiver, VARINT_MAX,
    Wish,
};
use crate::work::Workers;

/// A transfer that no line is up for ends after this time: its client may come back until then.
const DESERTED_TIME: Duration = Duration::from_secs(30);
/// Why an earlier run ends.
const TAKEN_OVER: &str = "the same pull was started again and has taken over";
/// Connections of one set, at most.
const CONNECTIONS_MAX: u32 = 64;
/// Stripes, in bytes; of the largest, four fit into what any transfer may have under way.
const STRIPE_BYTES_MIN: u64 = 64 << 10;
const STRIPE_BYTES_MAX: u64 = 1 << 20;
/// Stripes that a connection carries before a reserve takes its turn, at most.
const TURN_STRIPES_MAX: u64 = 1_000_000;
/// Reserves are not primed more often, and not for longer.
const REPRIME_AFTER_MIN: Duration = Duration::from_secs(1);
const PRIME_TIME_MAX: Duration = Duration::from_secs(10);
/// What remembering files with several names may take for one transfer, in bytes.
const LINKED_BYTES_MAX: usize = 16 << 20;
/// What may be sent and not confirmed of one transfer, at least, in bytes.
const FLYING_BYTES_MIN: usize = 4 << 20;

/// Sends what clients pull.
pub(super) struct Giver {
    access: Arc<Access>,
    address: SocketAddr,
    report: ServeReporter,
    clients: Arc<Clients>,
    parts: Parts,
    workers: Arc<Workers>,
    drain: Arc<Drain>,
    turned_away: Arc<TurnedAway>,
    counts: Arc<Counts>,
    pulls: Arc<Mutex<HashMap<TransferKey, Arc<Pull>>>>,
    admissions: Turns<TransferKey>,
    paths: Arc<Paths>,
    /// Of all transfers: what each would keep for itself would add up.
    buffers: Buffers,
    /// Clients may have what is root's.
    allows_super: bool,
    /// One for each transfer.
    tasks: Mutex<JoinSet<()>>,
}

/// A transfer that is being sent.
struct Pull {
    instance: u64,
    /// Which of its client's pulls it is a run of, and where that runs.
    run: (PushNumber, HostNumber),
    awaited: Arc<Awaited>,
    congestion: Controllers,
    /// Ends it, with a reason.
    end: watch::Sender<Option<Ending>>,
}

/// A connection whose client pulls, and what is known of it.
pub(super) struct Caller {
    pub(super) client: Fingerprint,
    pub(super) seat: ConnectionSeat,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) controllers: Arc<Late>,
}

impl Giver {
    pub(super) fn new(
        access: Arc<Access>,
        address: SocketAddr,
        report: ServeReporter,
        clients: Arc<Clients>,
        means: &Means,
        (drain, turned_away, counts): (Arc<Drain>, Arc<TurnedAway>, Arc<Counts>),
        allows_super: bool,
    ) -> Self {
        Self {
            access,
            address,
            report,
            clients,
            parts: means.parts,
            workers: Arc::clone(&means.workers),
            drain,
            turned_away,
            counts,
            pulls: Arc::default(),
            admissions: Turns::default(),
            paths: Arc::default(),
            buffers: Buffers::keeping(means.parts.kept),
            allows_super,
            tasks: Mutex::default(),
        }
    }

    /// Serves a connection of a transfer to its end.
    pub(super) async fn serve(&self, caller: Caller, asked: Asked<PullRequest>) {
        let Caller { client, seat, telemetry, controllers } = caller;
        let Asked { connection, answers, messages, request } = asked;
        let line = Line::new(connection.clone(), self.address, telemetry, answers);
        let key = (client, request.transfer);
        let gone = async { drop(connection.closed().await) };
        let number = request.conn;
        let admitted = self.admissions.take(key, gone, self.admit(key, &request, &line)).await;
        // It may be large, and the connection may be there for long.
        drop(request);
        match admitted {
            None => {}
            Some(Ok(pull)) => {
                let mtu = connection.stats().path.current_mtu;
                controllers.bind(Arc::clone(&pull.congestion), mtu, Instant::now());
                connection.set_send_window(SEND_WINDOW_BYTES);
                line.say(ToReceiver::Grant { instance: pull.instance });
                pull.awaited.arrived(number, line, messages);
                connection.closed().await;
            }
            Some(Err(refusal)) => {
                let reason = refusal.to_string();
                connection.close(VarInt::from_u32(refusal.code()), reason.as_bytes());
                self.turned_away.tell(connection.remote_address(), reason);
                has_heard(&connection).await;
            }
        }
        drop(seat);
    }

    /// Gives up memory that waits to be used again.
    pub(super) fn clear(&self) {
        self.buffers.clear();
    }

    /// How many transfers are being sent.
    pub(super) fn served(&self) -> usize {
        lock(&self.pulls).values().filter(|pull| pull.awaited.is_served()).count()
    }

    /// Ends all of them, and tells of it.
    pub(super) async fn stop(&self) {
        for pull in lock(&self.pulls).values() {
            pull.end.send_replace(Some((CLOSE_STOPPING, STOPPED)));
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        while tasks.join_next().await.is_some() {}
    }

    /// The transfer that a connection belongs to; the first one begins it.
    async fn admit(
        &self,
        key: TransferKey,
        request: &PullRequest,
        line: &Line,
    ) -> Result<Arc<Pull>, Refusal> {
        if let Some(pull) = lock(&self.pulls).get(&key) {
            return Ok(Arc::clone(pull));
        }
        if self.drain.is_on() {
            return Err(Refusal::Stopping);
        }
        // Before anything is looked at, so that nothing can be learned from what takes how long.
        reach(&self.access, key.0, &request.sources)?;
        self.end_earlier(key.0, (request.pull, request.host));
        let seat = match self.clients.begin(key.0) {
            Ok(seat) => seat,
            Err(reason) => self.turn(key.0, line, reason).await?,
        };
        // It may have been taken back meanwhile.
        let reached = reach(&self.access, key.0, &request.sources)?;
        // Of several, the first counts for all.
        let root = reached.first().map(|reached| reached.name.clone()).unwrap_or_default();
        let starts = starts(&self.workers.of(*key.0.as_bytes()), reached).await?;
        let sent = Arc::default();
        let counted = (self.counts.begin(&root, Direction::Out, Arc::clone(&sent)), sent);
        let filter = Filter::of(&request.select).map_err(Refusal::Final)?;
        Ok(self.begin(key, request, (starts, Arc::new(filter)), seat, line, counted))
    }

    /// A pull that is run again takes over from its earlier run, of which this host may not know yet that it
    /// has ended.
    fn end_earlier(&self, client: Fingerprint, run: (PushNumber, HostNumber)) {
        for ((other, _), pull) in lock(&self.pulls).iter() {
            if *other == client && pull.run == run {
                pull.end.send_replace(Some((CLOSE_REFUSED, TAKEN_OVER)));
            }
        }
    }

    /// Has a client wait for its turn, as long as it is there, and tells it why.
    async fn turn(
        &self,
        client: Fingerprint,
        line: &Line,
        reason: String,
    ) -> Result<TransferSeat, Refusal> {
        line.say(ToReceiver::Waiting { message: reason.into_bytes() });
        tokio::select! {
            seat = self.clients.turn(client) => Ok(seat?),
            error = line.connection().closed() => Err(error.to_string().into()),
            () = self.drain.begun() => Err(Refusal::Stopping),
        }
    }

    fn begin(
        &self,
        key: TransferKey,
        request: &PullRequest,
        (starts, filter): (Vec<Start>, Arc<Filter>),
        seat: TransferSeat,
        line: &Line,
        (run, sent): (Run, Arc<AtomicU64>),
    ) -> Arc<Pull> {
        let (now, remote) = (Instant::now(), line.connection().remote_address());
        let (set, wish) = (self.set(key.0, &request.wish), &request.wish);
        let (algorithm, aggressiveness) = match pressure(wish.pressure) {
            // It carries only so much by itself.
            (_, aggressiveness) if is_pipe(remote) => (Algorithm::Fixed, aggressiveness),
            asked => asked,
        };
        let remembers = wish.no_memory == 0;
        let memory = self.paths.recall(key.0, remote.ip(), now).filter(|_| remembers);
        let budget = SharedBudget::new(BudgetConfig { aggressiveness, memory }, now);
        let awaited = Awaited::new(set.connections);
        let pull = Arc::new(Pull {
            instance: rand::random::<u64>() & VARINT_MAX,
            run: (request.pull, request.host),
            awaited: Arc::clone(&awaited),
            end: watch::Sender::new(None),
            congestion: algorithm.controllers(&budget),
        });
        lock(&self.pulls).insert(key, Arc::clone(&pull));
        let name = request.transfer.name();
        (self.report)(ServeEvent::Sending {
            transfer: name.clone(),
            client: key.0.to_string(),
            remote,
            sources: request.sources.iter().map(|source| shown(source)).collect(),
        });
        let (extras, is_privileged) = (request.extras, self.allows_super && is_root());
        let job = Job {
            transfer: request.transfer,
            search: Search::once(starts, filter, LookFor { extras, is_privileged }),
            destination: request.destination.clone(),
            set,
            limit: (wish.rate_max > 0).then(|| Arc::new(Limit::new(wish.rate_max))),
            work: self.workers.of(*key.0.as_bytes()),
            read: ReadOptions {
                extras,
                is_privileged,
                packing: request.packing,
                ..ReadOptions::default()
            },
            buffers: self.buffers.clone(),
            receipt: None,
            names_kept: request.names_kept,
            gives_root: true,
            linked_bytes_max: LINKED_BYTES_MAX,
            skip: request.skip,
            began: now,
        };
        let note = {
            let (awaited, sent) = (Arc::clone(&awaited), Arc::clone(&sent));
            move |event| {
                if let PushEvent::Progress(progress) = &event {
                    let had = progress.kept_bytes + progress.skipped_bytes;
                    sent.fetch_max(progress.confirmed_bytes.saturating_sub(had), Relaxed);
                }
                awaited.note(&event);
            }
        };
        let lines = PulledLines::new(
            remote.to_string(),
            awaited,
            pull.end.subscribe(),
            self.share(key.0),
            Arc::clone(&self.clients),
        );
        let mut sender = Sender::new(job, lines, Arc::new(note));
        let (pulls, report) = (Arc::clone(&self.pulls), Arc::clone(&self.report));
        let paths = Arc::clone(&self.paths);
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        let mut end = pull.end.subscribe();
        tasks.spawn(async move {
            let ended = async { drop(end.wait_for(Option::is_some).await) };
            let result = sender.run_until(ended).await;
            lock(&pulls).remove(&key);
            if let (Ok(_), Some(memory), true) = (&result, budget.memory(), remembers) {
                paths.remember(key.0, remote.ip(), memory, Instant::now());
            }
            let result = match (result, *end.borrow()) {
                (Err(Error::Interrupted), Some((_, reason))) => Err(Error::Peer(reason.into())),
                (result, _) => result,
            };
            let so_far = sender.summary();
            sent.fetch_max(so_far.sent_bytes, Relaxed);
            let event = over(name, result, &so_far, now);
            match event {
                ServeEvent::Sent { files, failed, padding_bytes, seconds, .. } => {
                    run.done(files, failed, padding_bytes, seconds);
                }
                _ => run.aborted(),
            }
            report(event);
            drop(seat);
        });
        pull
    }

    /// What a transfer of `client` may have sent and not confirmed, in bytes, whenever that is asked: it becomes
    /// less when others come, and more when they are gone.
    fn share(&self, client: Fingerprint) -> Share {
        let (clients, parts) = (Arc::clone(&self.clients), self.parts);
        Box::new(move || {
            let (clients, transfers) = clients.count(client);
            let share = parts.stripes / (clients + 1) / transfers.max(1);
            let share = share.min(parts.client_stripes).max(FLYING_BYTES_MIN) as u64;
            share.min(SetConfig::default().flying_bytes_max)
        })
    }

    /// The set that is asked for, within what this server gives.
    fn set(&self, client: Fingerprint, wish: &Wish) -> SetConfig {
        let most = |count: u32| count.clamp(1, CONNECTIONS_MAX) as usize;
        let connections = most(wish.connections);
        let active = most(wish.active).min(connections);
        let [stripe_min, stripe_max] = wish.stripe_bytes.map(stripe_bytes);
        let prime = PrimeConfig::default();
        SetConfig {
            connections,
            // The client opens as many as it has asked for.
            bytes_per_connection: 0,
            active,
            active_max: most(wish.active_max).max(active),
            stripe_bytes_min: stripe_min.min(stripe_max),
            stripe_bytes_max: stripe_max,
            flying_bytes_max: self.share(client)(),
            turn_stripes: wish.turn_stripes.clamp(1, TURN_STRIPES_MAX),
            reprime_after: Duration::from_micros(wish.reprime_after_us).max(REPRIME_AFTER_MIN),
            stuck_after: DESERTED_TIME,
            up_within: DESERTED_TIME,
            prime: PrimeConfig {
                target_bytes: wish.prime_target_bytes,
                budget_bytes: wish.prime_bytes.min(prime.budget_bytes),
                budget_time: Duration::from_micros(wish.prime_time_us).min(PRIME_TIME_MAX),
            },
            health: HealthConfig {
                threshold: (wish.threshold_ppm as f64 / 1e6).clamp(0.05, 0.95),
                floor_bytes_per_s: wish.floor_bytes_per_s,
                rtt_max: (wish.rtt_max_us > 0).then(|| Duration::from_micros(wish.rtt_max_us)),
            },
        }
    }
}

/// The largest stripe that is no larger than what is asked for, within bounds.
fn stripe_bytes(asked: u64) -> u64 {
    let bytes = asked.clamp(STRIPE_BYTES_MIN, STRIPE_BYTES_MAX);
    1 << bytes.ilog2()
}

fn pressure(number: u64) -> (Algorithm, Aggressiveness) {
    match number {
        0 => (Algorithm::Cubic, Aggressiveness::default()),
        1 => (Algorithm::Model, Aggressiveness::Background),
        2 => (Algorithm::Model, Aggressiveness::Normal),
        _ => (Algorithm::Model, Aggressiveness::Max),
    }
}

/// What is told when a transfer is over.
fn over(
    transfer: String,
    result: Result<Summary, Error>,
    so_far: &Summary,
    began: Instant,
) -> ServeEvent {
    match result {
        Ok(summary) => ServeEvent::Sent {
            transfer,
            files: summary.files,
            bytes: summary.bytes,
            failed: summary.failed,
            seconds: began.elapsed().as_secs_f64(),
            padding_bytes: summary.padding_sent_bytes,
        },
        Err(error) => {
            ServeEvent::Aborted { transfer, reason: error.to_string(), bytes: so_far.sent_bytes }
        }
    }
}
