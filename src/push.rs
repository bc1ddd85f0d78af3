//! Pushing files to a server: the loop that joins the traffic manager to connections and disk.

mod again;
mod config;
mod connections;
mod failures;
mod progress;
mod reading;
mod recall;
mod receipt;
mod retry;
mod said;
mod source;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::again::Again;
pub use self::config::{PushConfig, PushReporter};
use self::connections::Connections;
use self::failures::Failures;
use self::progress::together;
use self::recall::Recall;
use self::receipt::Receipt;
use self::retry::{REACH_TIME, Retry};
use self::source::{Check, Source};
use crate::buffers::Buffers;
use crate::client::find;
use crate::client::path_memory::{PathCache, PathKey};
use crate::client::reach::Reach;
use crate::clock;
use crate::congestion::{BudgetConfig, SharedBudget};
use crate::error::Error;
use crate::event::{PushEvent, Summary};
use crate::net::limit::Limit;
use crate::net::link::{CLOSE_TIME, Link, LinkEvent, Ready, Route, Siblings};
use crate::net::lookup::Addresses;
use crate::net::tls;
use crate::rate::Rate;
use crate::send::names::{host_number, push_number, starts};
use crate::store::compare::Wanted;
use crate::store::descriptors::raise_limit;
use crate::store::scan::{Entry, FileInfo, Lost};
use crate::store::source::{ReadOptions, Sealed, SourceItem, Unreadable, prepare};
use crate::traffic::{
    ConnId, Input, Output, Pool, PoolConfig, PrimeEnd, Stripe, StripeId, Verdict,
};
use crate::wire::{self, Control, Keep, VERSION};

/// How often connections are sampled and time is looked at.
const TICK: Duration = Duration::from_millis(10);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How often it is told how each connection does.
const CONNECTIONS_INTERVAL: Duration = Duration::from_secs(1);
/// Items that may wait in the plan.
const WAITING_MAX: usize = 4_096;
/// Files that are read at the same time to see whether they have changed.
const CHECKS_MAX: usize = 4;
/// Stripes may arrive damaged this often: more means that something is broken.
const DAMAGED_MAX: u32 = 100;

/// Pushes, until everything is durable at the destination or `stop` resolves. What the receiver has of
/// an earlier run of the same push is not sent again; an interruption that may pass is waited out.
///
/// Single files that fail are in the summary; an error means that the transfer as a whole failed.
pub async fn push(
    config: PushConfig,
    report: PushReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    let (began, started) = (clock::now(), SystemTime::now());
    // Sockets, and files that are read.
    raise_limit();
    let mut retry = Retry::new(config.retry_for);
    if let Some(fault) = wire::path_fault(&config.destination) {
        return Err(Error::Usage(format!("the destination cannot be: {fault}")));
    }
    let (mut interruptions, mut earlier) = (0, Summary::default());
    // For an earlier run to end: it is asked for again and again, and told once.
    let mut is_waiting = false;
    tokio::pin!(stop);
    loop {
        let mut config = config.clone();
        if interruptions > 0 {
            config.connect_timeout = config.connect_timeout.min(REACH_TIME);
        }
        let client = config.identity.fingerprint();
        let receipt = config.receipt.clone().map(|path| Receipt::create(path, client, started));
        let receipt = receipt.transpose()?.map(Arc::new);
        receipt.as_ref().map_or(Ok(()), |receipt| receipt.check(&config.sources))?;
        // The server may be somewhere else by now.
        let found = tokio::select! {
            found = find(&config.servers, &config.resolver, &config.bind) => found,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let (error, alive_at) = match found {
            Err(error) => (error, None),
            Ok(addresses) => {
                let mut push = Push::start(config, addresses, Arc::clone(&report), receipt)?;
                push.began = began;
                let error = match push.run_until(&mut stop).await {
                    Ok(summary) => {
                        let summary = Summary { interruptions, ..together(earlier, summary) };
                        tokio::select! {
                            finished = push.finish_receipt(&summary) => finished?,
                            () = &mut stop => return Err(Error::Interrupted),
                        }
                        report(PushEvent::Summary(summary.clone()));
                        return Ok(summary);
                    }
                    Err(error) => error,
                };
                earlier = together(earlier, push.summary());
                (error, push.reach.is_accepted().then(|| push.pool.alive_at()))
            }
        };
        let was_accepted = alive_at.is_some();
        let Some(wait) = retry.wait_after(&error, alive_at, clock::now()) else {
            return Err(error);
        };
        interruptions += u64::from(was_accepted);
        let reason = error.to_string();
        let was_waiting = std::mem::replace(&mut is_waiting, matches!(error, Error::Busy(_)));
        match (is_waiting, was_waiting && !was_accepted) {
            (true, true) => {}
            (true, false) => report(PushEvent::Waiting { reason }),
            (false, _) => {
                report(PushEvent::Interrupted { reason, retry_in_s: wait.as_secs_f64() });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut stop => return Err(Error::Interrupted),
        }
    }
}

enum Event {
    Link(ConnId, LinkEvent),
    Prepared {
        stripe: StripeId,
        /// What of files it covers, in bytes.
        covered_bytes: u64,
        sealed: Vec<Sealed>,
        failures: Vec<(Arc<SourceItem>, Unreadable)>,
    },
    /// A file of which something had changed under way was read once more.
    Confirmed(Sealed, Result<(), Unreadable>),
    LookedAgain(Vec<Result<Entry, Lost>>),
    /// A file of which the server has something was read, and is still the same if there is an answer.
    Checked(Check, Option<FileInfo>),
}

/// A stripe that is sent and not confirmed. What was read of it is kept, so that another connection can
/// take it over at once.
struct Flight {
    ready: Ready,
    content_bytes: u64,
    /// Items that are whole with it.
    items: u64,
}

struct Push {
    report: PushReporter,
    server: String,
    began: Instant,
    pool: Pool,
    route: Arc<Route>,
    budget: SharedBudget,
    local: Option<IpAddr>,
    paths: Option<PathCache>,
    transfer: [u8; 16],
    /// The number that this run has in common with others of the same push.
    number: [u8; 16],
    /// Where it runs.
    host: [u8; 16],
    destination: Vec<u8>,
    keep: Keep,
    source: Source,
    read: ReadOptions,
    again: Again,
    /// Stops who reads for it when it is dropped.
    wanted: Wanted,
    receipt: Option<Arc<Receipt>>,
    recall: Recall,
    /// Which of the server's transfers this is.
    instance: Option<u64>,
    links: HashMap<ConnId, Link>,
    flights: HashMap<StripeId, Flight>,
    buffers: Buffers,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    tasks: JoinSet<()>,
    confirmed_bytes: u64,
    confirmed_items: u64,
    confirmed_stripes: u64,
    rate: Rate,
    progress_at: Instant,
    connections: Connections,
    connections_at: Instant,
    failures: Failures,
    damaged: u32,
    /// All that the scan found was offered.
    source_done: bool,
    /// Stripes that are being read for the first time.
    reading: usize,
    /// Files that are read once more before they are sealed.
    confirming: usize,
    /// Files that are read to see whether they still have what the server has of them.
    checking: usize,
    /// The server knows how many stripes there are.
    finishing: bool,
    reach: Reach,
    done: Option<Summary>,
}

impl Push {
    fn start(
        config: PushConfig,
        addresses: Addresses,
        report: PushReporter,
        receipt: Option<Arc<Receipt>>,
    ) -> Result<Self, Error> {
        let starts = starts(&config.sources)?;
        let number = push_number(&starts, &config.destination);
        let source = Source::new(starts, receipt.clone());
        let pool = PoolConfig {
            stuck_after: config.retry_for,
            up_within: config.connect_timeout,
            ..config.pool
        };
        let now = clock::now();
        let transfer: [u8; 16] = rand::random();
        let (events, inbox) = mpsc::unbounded_channel();
        let all = addresses.all();
        let local = config.bind.first().map(SocketAddr::ip);
        let remembered = config.paths.as_ref().and_then(|paths| {
            // Of several addresses, the one that worked.
            let path = |address: &SocketAddr| PathKey::new(address.ip(), local);
            all.iter().find_map(|address| paths.recall(&path(address)))
        });
        let memory = config.budget.memory.or(remembered);
        let budget = SharedBudget::new(BudgetConfig { memory, ..config.budget }, now);
        let route = Route {
            addresses,
            server_name: config.server_name.clone(),
            bind: config.bind,
            sockets: config.sockets,
            tls: Arc::new(tls::client_config(&config.identity, config.trust)?),
            datagram_bytes_max: config.datagram_bytes_max,
            congestion: config.congestion.controllers(&budget),
            limit: config.rate_max.map(|rate_max| Arc::new(Limit::new(rate_max))),
        };
        let server = config.server_name;
        let places = route.addresses.places();
        let reach = Reach::new(server.clone(), all, places, config.connect_timeout, now);
        Ok(Self {
            failures: Failures::new(Arc::clone(&report), receipt.clone()),
            reach,
            report,
            server,
            began: now,
            pool: Pool::new(pool, rand::random(), now),
            route: Arc::new(route),
            budget,
            local,
            paths: config.paths,
            transfer,
            number,
            host: host_number(),
            destination: config.destination,
            keep: config.keep,
            source,
            read: config.read,
            again: Again::default(),
            wanted: Wanted::default(),
            receipt,
            recall: Recall::default(),
            instance: None,
            links: HashMap::new(),
            flights: HashMap::new(),
            buffers: Buffers::default(),
            events,
            inbox,
            tasks: JoinSet::new(),
            confirmed_bytes: 0,
            confirmed_items: 0,
            confirmed_stripes: 0,
            rate: Rate::default(),
            progress_at: now,
            connections: Connections::default(),
            connections_at: now + CONNECTIONS_INTERVAL,
            damaged: 0,
            source_done: false,
            reading: 0,
            confirming: 0,
            checking: 0,
            finishing: false,
            done: None,
        })
    }

    async fn run_until(&mut self, stop: impl Future<Output = ()> + Send) -> Result<Summary, Error> {
        (self.report)(PushEvent::Begun { transfer: wire::transfer_name(&self.transfer) });
        let result = tokio::select! {
            biased;
            result = self.run() => result,
            () = stop => Err(Error::Interrupted),
        };
        self.close(result.is_ok()).await;
        result
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
            let takes_found = self.source.is_named()
                && self.pool.plan().waiting_items() < WAITING_MAX
                && self.source.waiting_checks() < WAITING_MAX;
            tokio::select! {
                biased;
                Some(event) = self.inbox.recv() => self.on_event(event)?,
                _ = tick.tick() => self.on_tick()?,
                Some(found) = self.source.next(), if takes_found => self.on_found(found),
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
                Output::Stuck => {
                    return Err(self.reach.unreachable("every connection was lost"));
                }
            }
        }
        self.check();
        self.announce_end();
        Ok(())
    }

    /// Tells the server how many stripes there are as soon as that is known.
    fn announce_end(&mut self) {
        let plan = self.pool.plan();
        let is_read = self.source_done
            && self.reading + self.confirming + self.checking + self.source.waiting_checks() == 0
            && plan.waiting_items() == 0
            && !self.again.is_looking();
        if !is_read || self.finishing {
            return;
        }
        if let Some(look) = self.again.begin() {
            let events = self.events.clone();
            tokio::task::spawn_blocking(move || drop(events.send(Event::LookedAgain(look()))));
            return;
        }
        self.finishing = true;
        for link in self.links.values() {
            link.say(Control::Finish { stripes: plan.cut_stripes() });
        }
    }

    fn open(&mut self, conn: ConnId) {
        let hello = Control::Hello {
            version: VERSION,
            transfer: self.transfer,
            conn: conn.0,
            destination: self.destination.clone(),
            push: self.number,
            host: self.host,
            keep: self.keep,
        };
        let events = self.events.clone();
        let report = move |event| drop(events.send(Event::Link(conn, event)));
        let siblings = if self.pool.is_dark(clock::now()) {
            Siblings::Dark
        } else if self.links.is_empty() {
            Siblings::Lost
        } else {
            Siblings::Well
        };
        self.tasks.spawn(Arc::clone(&self.route).run(conn, siblings, hello, report));
    }

    fn stop_priming(&mut self, conn: ConnId, end: PrimeEnd) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.stop_priming();
        let sample = link.told_sample();
        (self.report)(PushEvent::Primed {
            conn: conn.0,
            end: end.name(),
            window_bytes: sample.window_bytes,
            padding_bytes: sample.padding_bytes,
        });
    }

    fn send(&mut self, conn: ConnId, stripe: &Stripe) {
        if stripe.extents.is_empty() {
            // What it held is not wanted any more.
            let prepared = prepare(stripe.id.0, &[], &self.buffers, self.read).prepared;
            let (_, ready) = watch::channel(Some(prepared));
            self.flights.insert(stripe.id, Flight { ready, content_bytes: 0, items: 0 });
        } else if !self.flights.contains_key(&stripe.id) {
            let flight = self.read(stripe);
            self.flights.insert(stripe.id, flight);
        }
        let flight = &self.flights[&stripe.id];
        if let Some(link) = self.links.get(&conn) {
            link.send(stripe.id, flight.ready.clone());
        }
    }

    fn drop_link(&mut self, conn: ConnId, verdict: Verdict, stripes: usize) {
        let Some(link) = self.links.remove(&conn) else { return };
        if self.recall.lost(conn) {
            self.ask_again();
        }
        self.connections.down(conn, link.told_sample(), verdict.name(), clock::now());
        link.close(wire::CLOSE_CONDEMNED);
        // The server hears by the others, any of which may be dead as well.
        for other in self.links.values() {
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
            Event::Prepared { stripe, covered_bytes, sealed, failures } => {
                self.reading -= 1;
                // What could not be read is not sent either.
                if let Some(flight) = self.flights.get_mut(&stripe) {
                    flight.content_bytes = covered_bytes;
                }
                let (unsure, sure): (Vec<_>, Vec<_>) =
                    sealed.into_iter().partition(|sealed| sealed.is_unsure);
                let seal = |sealed: Sealed| self.source.seal(&sealed.item, sealed.hash);
                let seals = sure.into_iter().map(seal).collect();
                self.offer(seals);
                for sealed in unsure {
                    self.confirm(sealed);
                }
                for (item, why) in failures {
                    self.lose(&item, why);
                }
            }
            Event::Checked(check, same) => {
                self.checking -= 1;
                let items = self.source.take_checked(check, same);
                self.offer(items);
            }
            Event::Confirmed(sealed, result) => self.on_confirmation(&sealed, result),
            Event::LookedAgain(entries) => {
                self.again.end();
                for entry in entries {
                    match entry {
                        Ok(entry) => {
                            let items = self.source.take_again(entry);
                            self.offer(items);
                        }
                        Err(lost) => self.failures.add(lost.into()),
                    }
                }
            }
        }
        Ok(())
    }

    /// What was not delivered is known by now.
    async fn finish_receipt(&mut self, summary: &Summary) -> Result<(), Error> {
        let Some(receipt) = self.receipt.take() else { return Ok(()) };
        let (summary, failures) = (summary.clone(), std::mem::take(&mut self.failures.settled));
        let finish = move || receipt.finish(&summary, failures);
        let finished = tokio::task::spawn_blocking(finish).await;
        finished.unwrap_or_else(|error| Err(Error::Disk(error.to_string())))
    }

    fn on_tick(&mut self) -> Result<(), Error> {
        let now = clock::now();
        self.note_found(now);
        for (&conn, link) in &self.links {
            self.pool.handle(Input::Sample(conn, link.sample()), now);
        }
        self.pool.handle_timeout(now);
        self.reach.check(now)?;
        if now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            let progress = self.progress(now);
            (self.report)(PushEvent::Progress(progress));
        }
        if now >= self.connections_at {
            self.connections_at = now + CONNECTIONS_INTERVAL;
            self.tell_connections(now);
        }
        Ok(())
    }

    /// Ends all connections, and gives the news a moment to leave.
    async fn close(&mut self, done: bool) {
        self.source.stop();
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
