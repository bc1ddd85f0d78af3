//! One attempt at a pull: dials the lines that the server wants, and has what comes over them written.

mod dial;
mod lines;
mod summary;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, VarInt};
use tokio::sync::mpsc::{self, Receiver as Inbox, Sender};
use tokio::task::JoinSet;

use self::dial::{Dial, request};
use self::lines::GivenUp;
use self::summary::{not_kept, total};
use super::config::PullConfig;
use super::notes::Notes;
use super::place::{Local, Place};
use super::reach::Reach;
use crate::clock;
use crate::congestion::cubic;
use crate::error::Error;
use crate::event::{ConnectionTotal, Failure, FailureKind, PushEvent, PushReporter, Summary};
use crate::net::endpoint::SAID_WINDOW_BYTES;
use crate::net::line::{CLOSE_TIME, LineError};
use crate::net::lookup::Addresses;
use crate::net::route::{Route, Siblings};
use crate::net::tls;
use crate::net::windows::{Bounds, Windows};
use crate::rate::Rate;
use crate::receive::{Bounded, News, Receiver};
use crate::store::sink::Sink;
use crate::store::tally::Failed;
use crate::text::{said, shown};
use crate::wire::{
    CLOSE_ABORTED, CLOSE_CONDEMNED, Sending, Sent, ToReceiver, ToSender, TransferSecret,
    Unsendable, VARINT_MAX,
};
use crate::work::Work;

/// How often it is looked at lines and time.
const TICK: Duration = Duration::from_millis(50);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Nothing comes for so long, although the server tells how far it is several times a second: perhaps all
/// lines are dead. Then so many are dialled at a time, and one so often.
const DARK_TIME: Duration = Duration::from_secs(1);
const DARK_DIALLING_MAX: usize = 8;
const DARK_INTERVAL: Duration = Duration::from_millis(250);
/// The waits between lines that are dialled because all were lost.
const REDIAL_MIN: Duration = Duration::from_millis(200);
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// How long it is waited for what the sender did, once all is durable.
const SENT_TIME: Duration = Duration::from_secs(3);
/// Lines that are being dialled, at most.
const DIALLING_MAX: usize = 64;
/// Lines that there are at a time, at most, whatever the server wants.
const LINES_MAX: usize = 128;
/// What the server has said and was not looked at yet, at most.
const NEWS_MAX: usize = 1 << 12;
/// Connections that are over and that the summary tells about one by one.
const GONE_MAX: usize = 1_000;
/// What has failed and is told by name, at most.
const FAILURES_MAX: usize = 1_000;
/// Memory for stripes that are being received, and for what comes of them before their headers.
const STRIPES_BYTES: usize = 96 << 20;
const EARLY_BYTES: usize = 16 << 20;
/// What all lines together may take in before it is read, and each of them.
const WINDOWS: Bounds =
    Bounds { all: 64 << 20, own: 64 << 20, least: SAID_WINDOW_BYTES, most: 8 << 20 };

enum Event {
    Up(u32, Up),
    Gone(u32, LineError),
}

/// A line that is up.
struct Up {
    connection: Connection,
    local: SocketAddr,
    speaker: Sender<ToSender>,
    since: Instant,
}

/// One attempt.
pub(super) struct Puller {
    report: PushReporter,
    pub(super) began: Instant,
    transfer: TransferSecret,
    server: String,
    retry_for: Duration,
    reach: Reach,
    dial: Arc<Dial>,
    inbox: Inbox<Event>,
    news: Inbox<News>,
    tasks: JoinSet<()>,
    lines: BTreeMap<u32, Up>,
    gone: Vec<ConnectionTotal>,
    /// The next line's number.
    next: u32,
    /// Lines with lower numbers are wanted.
    wanted: u32,
    dialling: usize,
    opened: u64,
    redial_at: Instant,
    redial_wait: Duration,
    /// Datagrams that have come, and when there were more last.
    heard: u64,
    heard_at: Instant,
    alive_at: Instant,
    instance: Option<u64>,
    sending: Sending,
    sent: Option<Sent>,
    finished_at: Option<Instant>,
    failures: Vec<Failure>,
    /// Numbers of what could not be sent, and of what could not be written.
    unsent: HashSet<u64>,
    unwritten: HashSet<u64>,
    rate: Rate,
    progress_at: Instant,
    /// How people know what is written.
    local: Local,
    /// Lines that the server has given up.
    given_up: GivenUp,
    /// What is noted for the receipt.
    notes: Option<Arc<Notes>>,
}

impl Puller {
    /// An attempt under the name `transfer`, which writes to `sink`, at `place`.
    pub(super) fn new(
        config: &PullConfig,
        addresses: Addresses,
        transfer: TransferSecret,
        place: &Place,
        (sink, notes): (Sink, Option<Arc<Notes>>),
        report: PushReporter,
    ) -> Result<Self, Error> {
        let now = clock::now();
        let server = config.server_name.clone();
        let (all, places) = (addresses.all(), addresses.places());
        let reach = Reach::new(server.clone(), all, places, config.connect_timeout, now);
        let account = Bounded::new(STRIPES_BYTES, EARLY_BYTES);
        let receiver = Arc::new(Receiver::new(sink, account, Work::alone()));
        let route = Route {
            addresses,
            server_name: server.clone(),
            bind: config.bind.clone(),
            sockets: Arc::clone(&config.sockets),
            tls: Arc::new(tls::client_config(&config.identity, config.trust.clone())?),
            datagram_bytes_max: config.datagram_bytes_max,
            // What is said is little, whatever the path.
            congestion: cubic(),
        };
        let (events, inbox) = mpsc::channel(DIALLING_MAX);
        let (news_in, news) = mpsc::channel(NEWS_MAX);
        let dial = Dial {
            route: Arc::new(route),
            request: request(config, transfer, place),
            welcome: ToSender::Welcome {
                destination: place.found,
                instance: rand::random::<u64>() & VARINT_MAX,
                kept: receiver.has_kept(),
                looks: receiver.shows(),
            },
            receiver,
            windows: Windows::new(WINDOWS),
            news: news_in,
            events,
        };
        Ok(Self {
            report,
            began: now,
            transfer,
            server,
            retry_for: config.retry_for,
            reach,
            wanted: dial.request.wish.connections,
            dial: Arc::new(dial),
            inbox,
            news,
            tasks: JoinSet::new(),
            lines: BTreeMap::new(),
            gone: Vec::new(),
            next: 0,
            dialling: 0,
            opened: 0,
            redial_at: now,
            redial_wait: REDIAL_MIN,
            heard: 0,
            heard_at: now,
            alive_at: now,
            instance: None,
            sending: Sending::default(),
            sent: None,
            finished_at: None,
            failures: Vec::new(),
            unsent: HashSet::new(),
            unwritten: HashSet::new(),
            rate: Rate::default(),
            progress_at: now,
            local: place.local.clone(),
            given_up: GivenUp::default(),
            notes,
        })
    }

    /// When there was a line last, if the server has ever granted the pull.
    pub(super) fn alive_at(&self) -> Option<Instant> {
        self.instance.map(|_| self.alive_at)
    }

    /// Goes on until all is durable here, or `stop` resolves.
    pub(super) async fn run_until(
        &mut self,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Summary, Error> {
        (self.report)(PushEvent::Begun { transfer: self.transfer.name() });
        let result = tokio::select! {
            biased;
            result = self.run() => result,
            () = stop => Err(Error::Interrupted),
        };
        self.close(&result).await;
        result.map(|()| self.summary())
    }

    async fn run(&mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // However much is said, what time asks for is done.
                _ = tick.tick() => self.on_time()?,
                Some(event) = self.inbox.recv() => self.on_event(event)?,
                Some(news) = self.news.recv() => self.on_news(news)?,
            }
            self.dial_wanted();
            if self.is_done()? {
                return Ok(());
            }
        }
    }

    /// Whether all is durable. An error if it never will be.
    fn is_done(&mut self) -> Result<bool, Error> {
        let receiver = &self.dial.receiver;
        let now = clock::now();
        if receiver.outcome().is_some() {
            let finished_at = *self.finished_at.get_or_insert(now);
            return Ok(self.sent.is_some()
                || self.lines.is_empty()
                || now - finished_at >= SENT_TIME);
        }
        match receiver.end_reason() {
            None => Ok(false),
            Some(reason) if receiver.is_broken() => {
                Err(Error::Peer(format!("{} broke the protocol: {reason}", self.server)))
            }
            Some(reason) => Err(Error::Disk(reason)),
        }
    }

    fn dial_wanted(&mut self) {
        while self.next < self.wanted && self.dialling < DIALLING_MAX && self.may_dial() {
            self.dial(Siblings::Well);
        }
    }

    /// Whatever the server wants, and however silent it is, there are only so many lines.
    fn may_dial(&self) -> bool {
        self.lines.len() + self.dialling < LINES_MAX
    }

    fn dial(&mut self, siblings: Siblings) {
        let conn = self.next;
        self.next += 1;
        self.wanted = self.wanted.max(self.next);
        self.dialling += 1;
        self.opened += 1;
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(Arc::clone(&self.dial).run(conn, siblings));
    }

    fn on_event(&mut self, event: Event) -> Result<(), Error> {
        let now = clock::now();
        match event {
            Event::Up(conn, up) => {
                self.dialling -= 1;
                self.reach.up(now);
                (self.alive_at, self.redial_wait) = (now, REDIAL_MIN);
                let (local, remote) = (up.local, up.connection.remote_address());
                if let Some(notes) = &self.notes {
                    let key = tls::peer_fingerprint(&up.connection);
                    notes.begin(&self.transfer, key, (&self.server, remote));
                }
                (self.report)(PushEvent::Connected { conn, local, remote });
                self.lines.insert(conn, up);
            }
            Event::Gone(conn, error) => self.on_gone(conn, error, now)?,
        }
        Ok(())
    }

    fn on_gone(&mut self, conn: u32, error: LineError, now: Instant) -> Result<(), Error> {
        tracing::info!(conn, %error, "connection lost");
        if let Some(up) = self.lines.remove(&conn) {
            if self.gone.len() < GONE_MAX {
                self.gone.push(total(&self.transfer, conn, &up, "lost", now));
            }
        } else {
            self.dialling -= 1;
            self.say(ToSender::Unopened(conn));
        }
        if self.finished_at.is_some() || is_condemned(&error) {
            return Ok(());
        }
        if self.is_dark(now) {
            self.reach.refused(&error, now)?;
        }
        self.reach.lost(error, self.opened)
    }

    fn on_news(&mut self, news: News) -> Result<(), Error> {
        match news {
            News::Said(message) => return self.on_said(message),
            News::Failed(failed) => self.fail_here(failed),
        }
        Ok(())
    }

    fn on_said(&mut self, message: ToReceiver) -> Result<(), Error> {
        match message {
            ToReceiver::Grant { instance } => {
                self.reach.accepted();
                if *self.instance.get_or_insert(instance) != instance {
                    return Err(Error::Connect(format!(
                        "{} has lost the transfer (was it restarted?)",
                        self.server
                    )));
                }
            }
            ToReceiver::Waiting { message } if self.reach.waits() => {
                (self.report)(PushEvent::Waiting { reason: said(&message) });
            }
            ToReceiver::Wanted { lines } => {
                // It may ask for one more than there were, again and again, and not for all at once.
                let most = self.next + DIALLING_MAX as u32;
                let lines = u32::try_from(lines).unwrap_or(u32::MAX);
                self.wanted = self.wanted.max(lines.min(most));
            }
            ToReceiver::Sending(sending) => self.sending = sending,
            ToReceiver::Sent(sent) => self.sent = Some(sent),
            ToReceiver::Drop(conn) => self.given_up.dropped(conn, self.next, clock::now()),
            ToReceiver::GivenUp(line) => {
                if let Some(event) = self.given_up.told(line, self.next) {
                    (self.report)(event);
                }
            }
            ToReceiver::Primed(line) => drop(lines::primed(line).map(|event| (self.report)(event))),
            ToReceiver::Does(line) => drop(lines::does(line).map(|event| (self.report)(event))),
            ToReceiver::Unsent { number, why, path, message } => {
                self.say(ToSender::Heard(number));
                if self.unsent.len() < FAILURES_MAX && self.unsent.insert(number) {
                    let kind = match why {
                        Unsendable::Source => FailureKind::Source,
                        Unsendable::Vanished => FailureKind::Vanished,
                        Unsendable::Changed => FailureKind::Changed,
                    };
                    let failure = Failure { kind, path: shown(&path), reason: said(&message) };
                    if let Some(notes) = &self.notes {
                        notes.fail(&failure);
                    }
                    self.fail(failure);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the receipt, once it is known what was delivered.
    pub(super) async fn finish_receipt(&mut self, summary: &Summary) -> Result<(), Error> {
        let Some(notes) = self.notes.take() else { return Ok(()) };
        let summary = summary.clone();
        let finished = tokio::task::spawn_blocking(move || notes.finish(&summary)).await;
        finished.unwrap_or_else(|error| Err(Error::Disk(error.to_string())))
    }

    fn fail_here(&mut self, failed: Failed) {
        let Failed { number, path, reason, .. } = failed;
        if self.unwritten.len() < FAILURES_MAX && self.unwritten.insert(number) {
            let (path, reason) = (self.local.path(&path), said(reason.as_bytes()));
            self.fail(Failure { kind: FailureKind::Destination, path, reason });
        }
    }

    fn fail(&mut self, failure: Failure) {
        (self.report)(PushEvent::Failed(failure.clone()));
        self.failures.push(failure);
    }

    /// Says something over some line.
    fn say(&self, message: ToSender) {
        if let Some(up) = self.lines.values().next_back() {
            // One that takes nothing more is as good as lost.
            drop(up.speaker.try_send(message));
        }
    }

    fn on_time(&mut self) -> Result<(), Error> {
        let now = clock::now();
        if !self.lines.is_empty() {
            self.alive_at = now;
        }
        let heard: u64 = self.lines.values().map(|up| up.connection.stats().udp_rx.datagrams).sum();
        if heard > self.heard {
            self.heard_at = now;
            self.reach.heard();
        }
        // It is less when a line is lost, which is no sign of life.
        self.heard = heard;
        if self.finished_at.is_none() {
            self.reach.check(now)?;
            self.redial(now)?;
        }
        for event in self.given_up.unexplained(now) {
            (self.report)(event);
        }
        if now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            let progress = self.progress(now);
            (self.report)(PushEvent::Progress(progress));
        }
        Ok(())
    }

    /// Whether nothing comes any more, and something should.
    fn is_dark(&self, now: Instant) -> bool {
        self.instance.is_some() && (self.lines.is_empty() || now - self.heard_at >= DARK_TIME)
    }

    /// The server may not get it through which lines it wants.
    fn redial(&mut self, now: Instant) -> Result<(), Error> {
        if now < self.redial_at || self.next < self.wanted || !self.may_dial() {
            return Ok(());
        }
        if self.lines.is_empty() && self.dialling == 0 {
            if self.instance.is_some() && now - self.alive_at >= self.retry_for {
                return Err(self.reach.unreachable("every connection was lost"));
            }
            self.redial_at = now + self.redial_wait;
            self.redial_wait = (2 * self.redial_wait).min(REDIAL_MAX);
            self.dial(if self.instance.is_some() { Siblings::Dark } else { Siblings::Lost });
        } else if self.is_dark(now) && self.dialling < DARK_DIALLING_MAX {
            self.redial_at = now + DARK_INTERVAL;
            self.dial(Siblings::Dark);
        }
        Ok(())
    }

    /// Ends all lines, and what was to be written.
    async fn close(&mut self, result: &Result<(), Error>) {
        let receiver = &self.dial.receiver;
        if let Some(outcome) = receiver.outcome() {
            for unkept in &outcome.unkept {
                (self.report)(not_kept(unkept, self.local.path(&unkept.path)));
            }
        }
        match result {
            Ok(()) => receiver.end("all is done"),
            Err(Error::Interrupted) => {
                for up in self.lines.values() {
                    up.connection.close(VarInt::from_u32(CLOSE_ABORTED), b"");
                }
                receiver.end("interrupted");
            }
            Err(error) => receiver.end(&error.to_string()),
        }
        if !self.lines.is_empty() {
            tokio::time::sleep(CLOSE_TIME).await;
        }
        self.tasks.shutdown().await;
    }
}

/// Whether the sender goes on over others.
fn is_condemned(error: &LineError) -> bool {
    use quinn::ConnectionError::ApplicationClosed;
    matches!(error, LineError::Connection(ApplicationClosed(close))
        if close.error_code == VarInt::from_u32(CLOSE_CONDEMNED))
}
