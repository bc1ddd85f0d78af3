//! Pushing files to a server: the loop that joins the traffic manager to connections and disk.

mod names;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::names::Names;
use crate::congestion::{Algorithm, BudgetConfig, SharedBudget};
use crate::error::Error;
use crate::event::{Failure, Progress, PushEvent, Summary};
use crate::identity::Identity;
use crate::net::limit::Limit;
use crate::net::link::{CLOSE_TIME, Link, LinkError, LinkEvent, Ready, Route};
use crate::net::tls::{self, ClientTrust};
use crate::store::paths::{PathCache, PathKey};
use crate::store::scan::{Entry, Kind, Start, scan};
use crate::store::source::{Outcome, Part, Prepared, SourceItem, SourceKind, prepare};
use crate::store::{reason, shown};
use crate::traffic::{
    ConnId, Input, Item, ItemId, Output, Pool, PoolConfig, PrimeEnd, Role, Stripe, StripeId,
    Verdict,
};
use crate::wire::{self, Control, PATH_BYTES_MAX, VERSION, is_path_safe};

/// What to push, and where to.
#[derive(Clone)]
pub struct PushConfig {
    /// Files and folders. A trailing slash means a folder's contents.
    pub sources: Vec<PathBuf>,
    /// The server's addresses; connections take turns over them.
    pub servers: Vec<SocketAddr>,
    /// The server's name: for its certificate, and for messages.
    pub server_name: String,
    /// Where to write, relative to the server's root. A trailing slash means a folder.
    pub destination: Vec<u8>,
    /// Local addresses to send from; connections take turns over them. Empty: the system chooses.
    pub bind: Vec<IpAddr>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Whom we accept.
    pub trust: ClientTrust,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The connection set.
    pub pool: PoolConfig,
    /// Who decides how much may be in flight.
    pub congestion: Algorithm,
    /// The most to send, in bytes per second.
    pub rate_max: Option<u64>,
    /// How the connections' common budget is kept.
    pub budget: BudgetConfig,
    /// Where paths are remembered; `None` starts every push from nothing.
    pub paths: Option<PathCache>,
    /// How long to try for a first connection.
    pub connect_timeout: Duration,
}

/// Called with every event, from the transfer's own task: it must not block for long.
pub type PushReporter = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// How often connections are sampled and time is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The time over which the current rate is measured.
const RATE_TIME: Duration = Duration::from_secs(1);
/// Entries that the scan may be ahead of the plan, and items that may wait in the plan.
const SCAN_AHEAD: usize = 1_024;
const WAITING_MAX: usize = 4_096;
/// Items up to this size are never cut.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// What a record takes beside its path, in bytes, at most and roughly.
const RECORD_BYTES: u64 = 80;
/// Failures whose path and reason are kept for the summary; more are only counted.
const FAILURES_MAX: usize = 1_000;
/// Stripes may arrive damaged this often: more means that something is broken.
const DAMAGED_MAX: u32 = 100;

/// Pushes, until everything is durable at the destination or `stop` resolves.
///
/// Single files that fail are in the summary; an error means that the transfer as a whole failed.
pub async fn push(
    config: PushConfig,
    report: PushReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    let mut push = Push::start(config, report)?;
    let result = tokio::select! {
        biased;
        result = push.run() => result,
        () = stop => Err(Error::Interrupted),
    };
    push.close(result.is_ok()).await;
    if let Ok(summary) = &result {
        (push.report)(PushEvent::Summary(summary.clone()));
    }
    result
}

enum Event {
    Link(ConnId, LinkEvent),
    Found(Result<Entry, Failure>),
    ScanDone,
    Prepared { sealed: Vec<(Arc<SourceItem>, [u8; 32])>, failures: Vec<Failure> },
}

/// A stripe that is sent and not confirmed. What was read of it is kept, so that another connection can
/// take it over at once.
struct Flight {
    ready: Ready,
    content_bytes: u64,
}

struct Push {
    report: PushReporter,
    server: String,
    connect_timeout: Duration,
    began: Instant,
    pool: Pool,
    route: Arc<Route>,
    budget: SharedBudget,
    path: PathKey,
    paths: Option<PathCache>,
    transfer: [u8; 16],
    destination: Vec<u8>,
    names: Option<Names>,
    starts: Vec<Start>,
    links: HashMap<ConnId, Link>,
    /// Items that are not cut up yet.
    items: HashMap<ItemId, Arc<SourceItem>>,
    flights: HashMap<StripeId, Flight>,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    found: mpsc::Receiver<Event>,
    scanned: Arc<Scanned>,
    tasks: JoinSet<()>,
    stop_scan: Arc<AtomicBool>,
    next_item: u64,
    files_sent: u64,
    others_sent: u64,
    confirmed_bytes: u64,
    rates: VecDeque<(Instant, u64)>,
    progress_at: Instant,
    failures: Vec<Failure>,
    failed: u64,
    /// What the server could not write, by the connection that it said so on.
    server_failures: HashMap<ConnId, Vec<Failure>>,
    damaged: u32,
    padding_bytes: u64,
    delivered_bytes: u64,
    /// All that the scan found was offered.
    source_done: bool,
    /// Stripes that are being read for the first time.
    reading: usize,
    /// The server knows how many stripes there are.
    finishing: bool,
    last_error: Option<LinkError>,
    was_up: bool,
    done: Option<Summary>,
}

/// What the scan has found so far.
#[derive(Default)]
struct Scanned {
    items: AtomicU64,
    bytes: AtomicU64,
    done: AtomicBool,
}

impl Push {
    fn start(config: PushConfig, report: PushReporter) -> Result<Self, Error> {
        let starts = starts(&config.sources)?;
        let now = Instant::now();
        let transfer: [u8; 16] = rand::random();
        let (events, inbox) = mpsc::unbounded_channel();
        let (found_in, found) = mpsc::channel(SCAN_AHEAD);
        let path = PathKey {
            server: config.servers[0].ip().to_canonical(),
            local: config.bind.first().copied(),
        };
        let remembered = config.paths.as_ref().and_then(|paths| paths.recall(&path));
        let memory = config.budget.memory.or(remembered);
        let budget = SharedBudget::new(BudgetConfig { memory, ..config.budget }, now);
        let route = Route {
            servers: config.servers,
            server_name: config.server_name.clone(),
            bind: config.bind,
            tls: Arc::new(tls::client_config(&config.identity, config.trust)?),
            datagram_bytes_max: config.datagram_bytes_max,
            congestion: config.congestion.controllers(&budget),
            limit: config.rate_max.map(|rate_max| Arc::new(Limit::new(rate_max))),
        };
        let push = Self {
            report,
            server: config.server_name,
            connect_timeout: config.connect_timeout,
            began: now,
            pool: Pool::new(config.pool, rand::random(), now),
            route: Arc::new(route),
            budget,
            path,
            paths: config.paths,
            transfer,
            destination: config.destination,
            names: None,
            starts,
            links: HashMap::new(),
            items: HashMap::new(),
            flights: HashMap::new(),
            events,
            inbox,
            found,
            scanned: Arc::default(),
            tasks: JoinSet::new(),
            stop_scan: Arc::default(),
            next_item: 0,
            files_sent: 0,
            others_sent: 0,
            confirmed_bytes: 0,
            rates: VecDeque::new(),
            progress_at: now,
            failures: Vec::new(),
            failed: 0,
            server_failures: HashMap::new(),
            damaged: 0,
            padding_bytes: 0,
            delivered_bytes: 0,
            source_done: false,
            reading: 0,
            finishing: false,
            last_error: None,
            was_up: false,
            done: None,
        };
        push.start_scan(found_in);
        Ok(push)
    }

    fn start_scan(&self, found: mpsc::Sender<Event>) {
        let (starts, scanned) = (self.starts.clone(), Arc::clone(&self.scanned));
        let stop = Arc::clone(&self.stop_scan);
        tokio::task::spawn_blocking(move || {
            scan(&starts, |entry| {
                scanned.items.fetch_add(1, Relaxed);
                if let Ok(Entry { kind: Kind::File(info), .. }) = &entry {
                    scanned.bytes.fetch_add(info.bytes, Relaxed);
                }
                found.blocking_send(Event::Found(entry)).is_ok() && !stop.load(Relaxed)
            });
            scanned.done.store(true, Relaxed);
            drop(found.blocking_send(Event::ScanDone));
        });
    }

    async fn run(&mut self) -> Result<Summary, Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act()?;
            if let Some(summary) = self.done.take() {
                return Ok(summary);
            }
            // Paths are known once the server has said what is at the destination.
            let takes_found =
                self.names.is_some() && self.pool.plan().waiting_items() < WAITING_MAX;
            tokio::select! {
                biased;
                Some(event) = self.inbox.recv() => self.on_event(event)?,
                _ = tick.tick() => self.on_tick()?,
                Some(event) = self.found.recv(), if takes_found => self.on_event(event)?,
            }
        }
    }

    /// Does what the traffic manager wants done.
    fn act(&mut self) -> Result<(), Error> {
        while let Some(output) = self.pool.poll() {
            match output {
                Output::Open { conn } => self.open(conn),
                Output::Prime { conn, budget_bytes } => {
                    if let Some(link) = self.links.get_mut(&conn) {
                        link.prime(budget_bytes);
                    }
                }
                Output::StopPrime { conn, end } => self.stop_priming(conn, end),
                Output::Send { conn, stripe, .. } => self.send(conn, &stripe),
                Output::Abandon { conn, stripe } => {
                    if let Some(link) = self.links.get(&conn) {
                        link.abandon(stripe);
                    }
                }
                Output::Close { conn, verdict, stripes } => self.drop_link(conn, verdict, stripes),
                Output::Drained => {}
                Output::Stuck => return Err(self.unreachable("every connection was lost")),
            }
        }
        self.announce_end();
        Ok(())
    }

    /// Tells the server how many stripes there are as soon as that is known.
    fn announce_end(&mut self) {
        let plan = self.pool.plan();
        let known = self.source_done && self.reading == 0 && plan.waiting_items() == 0;
        if known && !self.finishing {
            self.finishing = true;
            for link in self.links.values() {
                link.say(Control::Finish { stripes: plan.cut_stripes() });
            }
        }
    }

    fn open(&mut self, conn: ConnId) {
        let hello = Control::Hello {
            version: VERSION,
            transfer: self.transfer,
            conn: conn.0,
            destination: self.destination.clone(),
        };
        let events = self.events.clone();
        let report = move |event| drop(events.send(Event::Link(conn, event)));
        self.tasks.spawn(Arc::clone(&self.route).run(conn, hello, report));
    }

    fn stop_priming(&mut self, conn: ConnId, end: PrimeEnd) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.stop_priming();
        let sample = link.sample();
        (self.report)(PushEvent::Primed {
            conn: conn.0,
            end: end.name(),
            window_bytes: sample.window_bytes,
            padding_bytes: sample.padding_bytes,
        });
    }

    fn send(&mut self, conn: ConnId, stripe: &Stripe) {
        if !self.flights.contains_key(&stripe.id) {
            let flight = self.read(stripe);
            self.flights.insert(stripe.id, flight);
        }
        let flight = &self.flights[&stripe.id];
        if let Some(link) = self.links.get(&conn) {
            link.send(stripe.id, flight.ready.clone());
        }
    }

    /// Starts to read a stripe for the first time.
    fn read(&mut self, stripe: &Stripe) -> Flight {
        let mut parts = Vec::with_capacity(stripe.extents.len());
        let mut content_bytes = 0;
        for extent in &stripe.extents {
            let Some(item) = self.items.get(&extent.item).cloned() else { continue };
            let item_bytes = match &item.kind {
                SourceKind::Found(Kind::File(info)) => info.bytes,
                _ => 0,
            };
            if extent.offset + extent.len >= item_bytes {
                self.items.remove(&extent.item);
            }
            content_bytes += extent.len;
            parts.push(Part { item, offset: extent.offset, len: extent.len });
        }
        self.reading += 1;
        let (ready_in, ready) = watch::channel(None::<Prepared>);
        let (id, events) = (stripe.id.0, self.events.clone());
        tokio::task::spawn_blocking(move || {
            let Outcome { prepared, sealed, failures } = prepare(id, &parts);
            // A seal must be known before its last piece can be confirmed.
            drop(events.send(Event::Prepared { sealed, failures }));
            ready_in.send_replace(Some(prepared));
        });
        Flight { ready, content_bytes }
    }

    fn drop_link(&mut self, conn: ConnId, verdict: Verdict, stripes: usize) {
        let Some(link) = self.links.remove(&conn) else { return };
        self.count_padding(&link);
        link.close(wire::CLOSE_CONDEMNED);
        // The connection may be dead: the server hears by another one.
        if let Some(other) = self.links.values().next() {
            other.say(Control::Drop(conn.0));
        }
        tracing::info!(conn = conn.0, ?verdict, stripes, "connection given up");
        (self.report)(PushEvent::Condemned { conn: conn.0, verdict: verdict.name(), stripes });
    }

    fn on_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Link(conn, LinkEvent::Up(link)) => self.on_up(conn, link),
            Event::Link(conn, LinkEvent::Control(message)) => self.on_control(conn, message)?,
            Event::Link(conn, LinkEvent::Lost(error)) => self.on_lost(conn, error)?,
            Event::Found(Ok(entry)) => self.on_found(entry),
            Event::Found(Err(failure)) => self.fail(failure),
            Event::ScanDone => {
                self.source_done = true;
                self.pool.handle(Input::SourceDone, Instant::now());
            }
            Event::Prepared { sealed, failures } => {
                self.reading -= 1;
                for (item, hash) in sealed {
                    self.offer_seal(&item, hash);
                }
                for failure in failures {
                    self.fail(failure);
                }
            }
        }
        Ok(())
    }

    fn on_up(&mut self, conn: ConnId, link: Link) {
        self.was_up = true;
        let (local, remote) = link.addresses();
        (self.report)(PushEvent::Connected { conn: conn.0, local, remote });
        if self.finishing {
            link.say(Control::Finish { stripes: self.pool.plan().cut_stripes() });
        }
        self.links.insert(conn, link);
        self.pool.handle(Input::Up(conn), Instant::now());
    }

    fn on_lost(&mut self, conn: ConnId, error: LinkError) -> Result<(), Error> {
        tracing::info!(conn = conn.0, %error, "connection lost");
        if self.pool.role(conn).is_none() {
            return Ok(()); // given up before
        }
        if let LinkError::Connection(cause) = &error {
            if tls::is_auth_failure(cause) {
                let server = &self.server;
                return Err(Error::Auth(format!(
                    "{server} and this host do not trust each other: {cause}"
                )));
            }
            if let quinn::ConnectionError::ApplicationClosed(close) = cause {
                return Err(self.closed(close));
            }
        }
        if let LinkError::Protocol(_) | LinkError::Socket(_) = error {
            return Err(Error::Peer(error.to_string()));
        }
        self.last_error = Some(error);
        self.pool.handle(Input::Lost(conn), Instant::now());
        Ok(())
    }

    fn closed(&self, close: &quinn::ApplicationClose) -> Error {
        let why = String::from_utf8_lossy(&close.reason);
        let why = if why.is_empty() { "it closed the connection".into() } else { why };
        Error::Peer(format!("{}: {why}", self.server))
    }

    fn on_control(&mut self, conn: ConnId, message: Control) -> Result<(), Error> {
        let now = Instant::now();
        match message {
            Control::Welcome { version: VERSION, destination } if self.names.is_none() => {
                self.names = Some(Names::new(&self.destination, destination, &self.starts)?);
                self.pool.handle(Input::Accepted, now);
            }
            Control::Welcome { version: VERSION, .. } => {}
            Control::Welcome { version, .. } => {
                let server = &self.server;
                return Err(Error::Peer(format!(
                    "{server} speaks version {version} of the protocol, this host version {VERSION}"
                )));
            }
            Control::Confirm(stripe) => self.on_confirmed(conn, StripeId(stripe), now),
            Control::Damaged(stripe) => {
                self.damaged += 1;
                tracing::warn!(conn = conn.0, stripe, "a stripe arrived damaged");
                if self.damaged > DAMAGED_MAX {
                    return Err(Error::Peer("too many stripes arrived damaged".into()));
                }
                self.pool.handle(Input::Damaged(conn, StripeId(stripe)), now);
            }
            Control::Failed { path, message } => {
                let failure = Failure { path: shown(&path), reason: shown(&message) };
                self.server_failures.entry(conn).or_default().push(failure);
            }
            Control::Finished { files, padding_bytes } => {
                self.on_finished(conn, files, padding_bytes)?;
            }
            Control::Hello { .. } | Control::Drop(_) | Control::Finish { .. } => {
                return Err(Error::Peer(format!("{} broke the protocol", self.server)));
            }
        }
        Ok(())
    }

    fn on_confirmed(&mut self, conn: ConnId, stripe: StripeId, now: Instant) {
        if let Some(link) = self.links.get(&conn) {
            link.confirmed(stripe);
        }
        if let Some(flight) = self.flights.remove(&stripe) {
            self.confirmed_bytes += flight.content_bytes;
        }
        self.pool.handle(Input::Confirmed(conn, stripe), now);
    }

    fn on_finished(&mut self, conn: ConnId, files: u64, padding_bytes: u64) -> Result<(), Error> {
        let failures = self.server_failures.remove(&conn).unwrap_or_default();
        if !self.finishing || files + self.failed + (failures.len() as u64) < self.files_sent {
            return Err(Error::Peer(format!(
                "{} has made {files} files durable of {} that were sent: push again",
                self.server, self.files_sent
            )));
        }
        for failure in failures {
            self.fail(failure);
        }
        // The last confirmations may still be on their way over other connections.
        let unconfirmed = std::mem::take(&mut self.flights);
        self.confirmed_bytes +=
            unconfirmed.values().map(|flight| flight.content_bytes).sum::<u64>();
        self.remember_path();
        self.done = Some(self.summary(files, padding_bytes));
        Ok(())
    }

    /// Keeps what was learned about the path for the next push.
    fn remember_path(&self) {
        let (Some(paths), Some(memory)) = (&self.paths, self.budget.memory()) else { return };
        if let Err(error) = paths.remember(&self.path, memory) {
            tracing::debug!(%error, "the path is not remembered");
        }
    }

    fn on_found(&mut self, entry: Entry) {
        let Some(names) = &self.names else { return };
        let path = names.remote(&entry.remote);
        let (bytes, extra_bytes) = match &entry.kind {
            Kind::File(info) => (info.bytes, 0),
            Kind::Folder(_) if path.is_empty() => return, // the root is the server's own
            Kind::Folder(_) => (0, 0),
            Kind::Symlink { target, .. } => (0, target.len() as u64),
        };
        if !is_path_safe(&path) || extra_bytes > PATH_BYTES_MAX as u64 {
            let path = entry.local.to_string_lossy().into_owned();
            return self.fail(Failure { path, reason: "its path is too long to be sent".into() });
        }
        if let Kind::File(_) = entry.kind {
            self.files_sent += 1;
        } else {
            self.others_sent += 1;
        }
        let overhead_bytes = path.len() as u64 + extra_bytes + RECORD_BYTES;
        let id = self.next_item();
        let item = if bytes > WHOLE_BYTES_MAX {
            Item::split(id, bytes)
        } else {
            Item::whole(id, bytes, overhead_bytes)
        };
        let kind = SourceKind::Found(entry.kind);
        self.offer(item, SourceItem::new(id.0, entry.local, path, kind));
    }

    /// All pieces of a file have been read: its hash follows them.
    fn offer_seal(&mut self, file: &SourceItem, hash: [u8; 32]) {
        let id = self.next_item();
        let kind = SourceKind::Seal { of: file.id, hash };
        let seal = SourceItem::new(id.0, file.local.clone(), file.path.clone(), kind);
        self.offer(Item { urgent: true, ..Item::whole(id, 0, RECORD_BYTES) }, seal);
    }

    fn offer(&mut self, item: Item, source: SourceItem) {
        self.items.insert(item.id, Arc::new(source));
        self.pool.handle(Input::Offered(item), Instant::now());
    }

    fn next_item(&mut self) -> ItemId {
        self.next_item += 1;
        ItemId(self.next_item)
    }

    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        (self.report)(PushEvent::Failed(failure.clone()));
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    fn on_tick(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for (&conn, link) in &self.links {
            self.pool.handle(Input::Sample(conn, link.sample()), now);
        }
        self.pool.handle_timeout(now);
        if !self.was_up && now - self.began >= self.connect_timeout {
            return Err(self.unreachable("no answer"));
        }
        if now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            let progress = self.progress(now);
            (self.report)(PushEvent::Progress(progress));
        }
        Ok(())
    }

    fn unreachable(&self, what: &str) -> Error {
        let address = self.route.servers[0];
        let why = match &self.last_error {
            Some(error) => format!("{what} ({error})"),
            None => what.into(),
        };
        Error::Connect(format!(
            "cannot reach {} at {address} (UDP): {why}; is `qbulk serve` running there, and does a \
             firewall let UDP port {} through?",
            self.server,
            address.port()
        ))
    }

    fn progress(&mut self, now: Instant) -> Progress {
        self.rates.push_back((now, self.confirmed_bytes));
        while self.rates.len() > 2 && now - self.rates[1].0 >= RATE_TIME {
            self.rates.pop_front();
        }
        let (since, before) = self.rates[0];
        let seconds = (now - since).as_secs_f64();
        let bytes = (self.confirmed_bytes - before) as f64;
        Progress {
            elapsed_s: (now - self.began).as_secs_f64(),
            found_items: self.scanned.items.load(Relaxed),
            found_bytes: self.scanned.bytes.load(Relaxed),
            scan_done: self.scanned.done.load(Relaxed),
            confirmed_bytes: self.confirmed_bytes,
            bytes_per_s: if seconds > 0.0 { bytes / seconds } else { 0.0 },
            connections: self.links.len(),
            active: self.pool.count(Role::Active),
            reserve: self.pool.count(Role::Reserve),
            takeovers: self.pool.stats().takeovers,
            finishing: self.finishing && self.pool.plan().is_drained(),
        }
    }

    fn count_padding(&mut self, link: &Link) {
        let sample = link.sample();
        self.padding_bytes += sample.padding_bytes;
        self.delivered_bytes += sample.delivered_bytes;
    }

    fn summary(&mut self, files: u64, padding_received_bytes: u64) -> Summary {
        let links = std::mem::take(&mut self.links);
        for link in links.values() {
            self.count_padding(link);
        }
        self.links = links;
        let stats = self.pool.stats();
        let seconds = self.began.elapsed().as_secs_f64();
        let bytes = self.confirmed_bytes;
        let sent_bytes = self.padding_bytes + bytes;
        Summary {
            transfer: wire::transfer_name(&self.transfer),
            files,
            others: self.others_sent,
            bytes,
            failures: std::mem::take(&mut self.failures),
            failed: self.failed,
            seconds,
            bytes_per_s: bytes as f64 / seconds,
            padding_sent_bytes: self.padding_bytes,
            padding_received_bytes,
            padding_percent: 100.0 * self.padding_bytes as f64 / sent_bytes.max(1) as f64,
            connections_opened: stats.opened,
            connections_condemned: stats.condemned,
            takeovers: stats.takeovers,
            stripes: self.pool.plan().confirmed_stripes(),
            stripes_again: stats.stripes_again,
            sub_transfers: stats.turns.div_ceil(self.pool.active().max(1) as u64),
        }
    }

    /// Ends all connections, and gives the news a moment to leave.
    async fn close(&mut self, done: bool) {
        self.stop_scan.store(true, Relaxed);
        self.found.close();
        let code = if done { wire::CLOSE_DONE } else { wire::CLOSE_ABORTED };
        for link in self.links.values() {
            link.close(code);
        }
        if !self.links.is_empty() {
            tokio::time::sleep(CLOSE_TIME).await;
        }
        self.tasks.shutdown().await;
    }
}

/// Looks at the sources as they were typed, before anything is opened.
fn starts(sources: &[PathBuf]) -> Result<Vec<Start>, Error> {
    let mut starts: Vec<Start> = Vec::with_capacity(sources.len());
    for source in sources {
        let start = Start::new(source).map_err(|error| {
            Error::Disk(format!("cannot read {}: {}", source.display(), reason(&error)))
        })?;
        let name = start.name();
        if !name.is_empty() && starts.iter().any(|other| other.name() == name) {
            return Err(Error::Usage(format!(
                "two sources would both be called {:?} at the destination: push them one by one",
                shown(name)
            )));
        }
        starts.push(start);
    }
    Ok(starts)
}
