//! Pushing files to a server: the loop that joins the traffic manager to connections and disk.

mod again;
mod config;
mod connections;
mod failures;
pub(crate) mod names;
pub(crate) mod progress;
pub(crate) mod reach;
mod recall;
mod receipt;
mod retry;
mod source;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::again::Again;
pub use self::config::{PushConfig, PushReporter};
use self::connections::Connections;
use self::failures::Failures;
use self::names::{host_number, push_number, starts};
use self::progress::{Rate, together};
use self::reach::Reach;
pub use self::reach::no_way;
use self::recall::{KeptFiles, Recall};
use self::receipt::Receipt;
use self::retry::{REACH_TIME, Retry};
use self::source::{Check, Found, Source};
use crate::buffers::Buffers;
use crate::clock;
use crate::congestion::{BudgetConfig, SharedBudget};
use crate::error::Error;
use crate::event::{PushEvent, Summary};
use crate::net::address::ServerAddress;
use crate::net::knock::Barrier;
use crate::net::limit::Limit;
use crate::net::link::{CLOSE_TIME, Link, LinkError, LinkEvent, Ready, Route, Siblings};
use crate::net::lookup::{Addresses, Resolver};
use crate::net::tls;
use crate::store::compare::Wanted;
use crate::store::descriptors::raise_limit;
use crate::store::paths::{PathCache, PathKey};
use crate::store::scan::{Entry, FileInfo, Lost};
use crate::store::shown;
use crate::store::source::{
    Outcome, Prepared, ReadOptions, Sealed, SourceItem, Unreadable, confirm, prepare,
};
use crate::traffic::{
    ConnId, Input, Item, ItemId, Output, Pool, PoolConfig, PrimeEnd, Stripe, StripeId, Verdict,
};
use crate::wire::{self, Control, Destination, Keep, VERSION};

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

/// Looks a server up, and whether it can be reached from all of `bind`.
pub async fn find(
    servers: &[ServerAddress],
    resolver: &Arc<dyn Resolver>,
    bind: &[SocketAddr],
) -> Result<Addresses, Error> {
    let found = Addresses::look_up(servers, Arc::clone(resolver)).await;
    let addresses = found.map_err(|error| Error::Connect(error.to_string()))?;
    let all = addresses.all();
    let reaches = |local: &SocketAddr| all.iter().any(|to| local.is_ipv4() == to.is_ipv4());
    match bind.iter().find(|local| !reaches(local)) {
        None => Ok(addresses),
        Some(local) => Err(Error::Usage(format!(
            "{} cannot reach {}: one is IPv4 and the other IPv6",
            local.ip(),
            all[0].ip()
        ))),
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

    /// Looks at files of which the server has something.
    fn check(&mut self) {
        while self.checking < CHECKS_MAX
            && let Some(check) = self.source.next_check()
        {
            self.checking += 1;
            let (events, wanted) = (self.events.clone(), self.wanted.watch());
            tokio::task::spawn_blocking(move || {
                let same = check.run(&wanted);
                drop(events.send(Event::Checked(check, same)));
            });
        }
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

    /// Starts to read a stripe for the first time.
    fn read(&mut self, stripe: &Stripe) -> Flight {
        let parts = self.source.parts(stripe);
        let content_bytes = parts.iter().map(|part| part.len).sum();
        let items = parts.iter().filter(|part| part.ends_item()).count() as u64;
        self.reading += 1;
        let (ready_in, ready) = watch::channel(None::<Prepared>);
        let (id, events, buffers) = (stripe.id.0, self.events.clone(), self.buffers.clone());
        let (receipt, options) = (self.receipt.clone(), self.read);
        tokio::task::spawn_blocking(move || {
            let outcome = prepare(id, &parts, &buffers, options);
            if let Some(receipt) = receipt {
                receipt.add(&parts, &outcome);
            }
            let Outcome { prepared, sealed, failures, covered_bytes, .. } = outcome;
            let stripe = StripeId(id);
            // A seal must be known before its last piece can be confirmed.
            drop(events.send(Event::Prepared { stripe, covered_bytes, sealed, failures }));
            ready_in.send_replace(Some(prepared));
        });
        Flight { ready, content_bytes, items }
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

    /// All of a file was sent, and something about it has changed under way: it is read once more.
    fn confirm(&mut self, sealed: Sealed) {
        self.confirming += 1;
        let (events, options, wanted) = (self.events.clone(), self.read, self.wanted.watch());
        tokio::task::spawn_blocking(move || {
            let result = confirm(&sealed, options, &wanted);
            drop(events.send(Event::Confirmed(sealed, result)));
        });
    }

    fn on_confirmation(&mut self, sealed: &Sealed, result: Result<(), Unreadable>) {
        self.confirming -= 1;
        let item = match result {
            Ok(()) => {
                if let Some(receipt) = &self.receipt {
                    receipt.seal(sealed);
                }
                self.source.seal(&sealed.item, sealed.hash)
            }
            Err(why) => {
                self.lose(&sealed.item, why);
                self.source.take_back(&sealed.item)
            }
        };
        self.offer(vec![item]);
    }

    /// Something cannot be read as it was found. It may be another time.
    fn lose(&mut self, item: &SourceItem, why: Unreadable) {
        let is_tried_again = why.kind.is_live()
            && !item.is_last_try
            && self.again.add(item.local.clone(), item.path.clone());
        if !is_tried_again {
            self.failures.add(item.failure(why));
        }
    }

    fn on_up(&mut self, conn: ConnId, link: Link) {
        let now = clock::now();
        if self.pool.role(conn).is_none() {
            return link.close(wire::CLOSE_CONDEMNED); // given up while it was opened
        }
        self.reach.up(now);
        let (local, remote) = link.addresses();
        self.connections.up(conn, local, remote, now);
        if let Some(receipt) = &self.receipt {
            let key = link.fingerprint();
            receipt.begin(&self.transfer, key, &self.server, remote, &self.destination);
        }
        (self.report)(PushEvent::Connected { conn: conn.0, local, remote });
        if self.finishing {
            link.say(Control::Finish { stripes: self.pool.plan().cut_stripes() });
        }
        self.links.insert(conn, link);
        self.note_found(now);
        self.pool.handle(Input::Up(conn), now);
    }

    fn on_lost(&mut self, conn: ConnId, error: LinkError) -> Result<(), Error> {
        tracing::info!(conn = conn.0, %error, "connection lost");
        if self.pool.role(conn).is_none() {
            return Ok(()); // given up before
        }
        let is_refused = matches!(error, LinkError::Barred(Barrier::Refused));
        self.reach.lost(error, self.pool.stats().opened)?;
        // Who had the transfer is gone, and nobody is heard any more: nothing is left to wait for.
        if is_refused && self.pool.is_dark(clock::now()) {
            return Err(self.reach.unreachable("nobody listens any more"));
        }
        self.pool.handle(Input::Lost(conn), clock::now());
        Ok(())
    }

    fn on_control(&mut self, conn: ConnId, message: Control) -> Result<(), Error> {
        let now = clock::now();
        match message {
            Control::Welcome { version: VERSION, destination, instance, kept } => {
                self.on_welcome(conn, destination, instance, kept)?;
            }
            Control::Welcome { version, .. } => {
                let server = &self.server;
                return Err(Error::Peer(format!(
                    "{server} speaks version {version} of the protocol, this host version {VERSION}"
                )));
            }
            Control::Waiting { message } => {
                if self.reach.waits() {
                    (self.report)(PushEvent::Waiting { reason: shown(&message) });
                }
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
            Control::Failed { number, item, path, message } => {
                if let Some(link) = self.links.get(&conn) {
                    link.say(Control::Heard(number));
                }
                if self.failures.hear(number, path, shown(&message))
                    && let Some(item) = item
                {
                    self.source.cancel(ItemId(item));
                    self.pool.handle(Input::Cancelled(ItemId(item)), now);
                }
            }
            Control::Unkept(unkept) => self.failures.hear_unkept(unkept),
            finished @ Control::Finished { .. } => self.on_finished(&finished)?,
            Control::KeptFiles(files) => self.recall.hear_files(conn, files),
            Control::KeptPieces { file, basis, state, pieces } => {
                self.recall.hear_pieces(conn, file, [basis, state], pieces);
            }
            Control::KeptEnd => {
                if let Some((destination, kept)) = self.recall.end(conn) {
                    self.begin(destination, kept)?;
                }
            }
            Control::Hello { .. }
            | Control::Drop(_)
            | Control::Finish { .. }
            | Control::Recall
            | Control::Heard(_)
            | Control::Verify { .. }
            | Control::Compare { .. }
            | Control::Expect { .. }
            | Control::Compared { .. } => {
                return Err(Error::Peer(format!("{} broke the protocol", self.server)));
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

    fn on_welcome(
        &mut self,
        conn: ConnId,
        destination: Destination,
        instance: u64,
        kept: bool,
    ) -> Result<(), Error> {
        match self.instance {
            None => {
                self.instance = Some(instance);
                self.reach.accepted();
                if !kept {
                    return self.begin(destination, KeptFiles::new());
                }
                self.recall.begin(destination);
            }
            Some(first) if first == instance => {}
            Some(_) => {
                return Err(Error::Connect(format!(
                    "{} has lost the transfer (was it restarted?)",
                    self.server
                )));
            }
        }
        self.ask(conn);
        Ok(())
    }

    /// Asks over `conn` what is kept, if that has to be asked.
    fn ask(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get(&conn)
            && let Some(question) = self.recall.ask(conn)
        {
            link.say(question);
        }
    }

    /// The connection that was asked is lost; another one that the server has welcomed is asked.
    fn ask_again(&mut self) {
        if let Some(&conn) = self.links.keys().min() {
            self.ask(conn);
        }
    }

    /// It is known what is at the destination: data may flow.
    fn begin(&mut self, destination: Destination, kept: KeptFiles) -> Result<(), Error> {
        self.source.name(&self.destination, destination, kept)?;
        self.pool.handle(Input::Accepted, clock::now());
        Ok(())
    }

    fn on_confirmed(&mut self, conn: ConnId, stripe: StripeId, now: Instant) {
        if let Some(link) = self.links.get(&conn) {
            link.confirmed(stripe);
        }
        if let Some(flight) = self.flights.remove(&stripe) {
            self.connections.confirmed(conn);
            self.confirmed_bytes += flight.content_bytes;
            self.confirmed_items += flight.items;
            self.confirmed_stripes += 1;
        }
        self.pool.handle(Input::Confirmed(conn, stripe), now);
    }

    fn on_finished(&mut self, finished: &Control) -> Result<(), Error> {
        let &Control::Finished {
            files,
            bytes,
            failed_files,
            discarded_files,
            failed_others,
            padding_bytes,
        } = finished
        else {
            return Ok(());
        };
        // Every file that was sent is there, or the server knows why not.
        if !self.finishing || files + failed_files + discarded_files != self.source.files {
            return Err(Error::Peer(format!(
                "{} has made {files} files durable of {} that were sent: push again",
                self.server, self.source.files
            )));
        }
        self.failures.settle(failed_files + failed_others);
        // The last confirmations may still be on their way over other connections.
        let unconfirmed = std::mem::take(&mut self.flights);
        self.confirmed_bytes +=
            unconfirmed.values().map(|flight| flight.content_bytes).sum::<u64>();
        self.confirmed_stripes += unconfirmed.len() as u64;
        self.remember_path();
        let others = self.source.others.saturating_sub(failed_others);
        let told = Summary {
            files: files + self.source.kept_files,
            others,
            bytes: bytes + self.source.kept_whole_bytes,
            padding_received_bytes: padding_bytes,
            ..self.summary()
        };
        let moved_bytes = told.bytes.saturating_sub(told.kept_bytes);
        self.done = Some(Summary { bytes_per_s: moved_bytes as f64 / told.seconds, ..told });
        Ok(())
    }

    /// Keeps what was learned about the path for the next push.
    fn remember_path(&self) {
        let chosen = self.route.addresses.chosen();
        let (Some(paths), Some(memory), Some(server)) = (&self.paths, self.budget.memory(), chosen)
        else {
            return;
        };
        if let Err(error) = paths.remember(&PathKey::new(server.ip(), self.local), memory) {
            tracing::debug!(%error, "the path is not remembered");
        }
    }

    fn offer(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.pool.handle(Input::Offered(items), clock::now());
        }
    }

    fn on_found(&mut self, found: Found) {
        match found {
            Found::Entries(entries) => {
                let mut items = Vec::with_capacity(entries.len());
                for entry in entries {
                    match entry.map(|entry| self.source.take(entry)) {
                        Ok(Ok(found)) => items.extend(found),
                        Ok(Err(failure)) => self.failures.add(failure),
                        Err(lost) => self.on_lost_entry(lost),
                    }
                }
                self.offer(items);
            }
            Found::End => {
                self.source_done = true;
                self.pool.handle(Input::SourceDone, clock::now());
            }
        }
    }

    /// Something could not be looked at. It may be back at the end.
    fn on_lost_entry(&mut self, lost: Lost) {
        let is_tried_again = lost.why.kind.is_live()
            && self
                .source
                .path(&lost.remote)
                .is_some_and(|path| self.again.add(lost.local.clone(), path));
        if !is_tried_again {
            self.failures.add(lost.into());
        }
    }

    /// Tells how much there is to send, as far as that is known.
    fn note_found(&mut self, now: Instant) {
        let bytes = self.source.scanned().bytes.load(Relaxed);
        self.pool.handle(Input::Found(bytes), now);
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
