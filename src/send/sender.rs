//! The loop that sends one job: it joins the traffic manager to lines and disk.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::again::Again;
use super::check::Check;
use super::connections::Connections;
use super::failures::Failures;
use super::outflow::{Outflow, Ready};
use super::recall::Recall;
use super::receipt::Receipt;
use super::search::Search;
use super::source::Source;
use super::{Awaits, Lines};
use crate::buffers::Buffers;
use crate::clock;
use crate::error::Error;
use crate::event::{PushEvent, PushReporter, Summary};
use crate::net::limit::Limit;
use crate::net::line::{CLOSE_TIME, Line, LineEvent, LineEvents, LineReports};
use crate::net::route::Siblings;
use crate::rate::Rate;
use crate::store::compare::Wanted;
use crate::store::kind::FileInfo;
use crate::store::scan::{Entry, Lost};
use crate::store::source::{LeftOut, ReadOptions, Sealed, SourceItem, prepare};
use crate::store::unreadable::Unreadable;
use crate::traffic::{
    ConnId, Input, JobId, Output, Plan, PrimeEnd, Set, SetConfig, Stripe, StripeId, Verdict,
};
use crate::wire::{self, Skip, ToReceiver, TransferSecret};
use crate::work::Work;

/// The one job of its set.
pub(super) const JOB: JobId = JobId(0);
/// How often lines are sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// How often it is looked how much was found while that decides how many lines there are.
const FOUND_INTERVAL: Duration = Duration::from_millis(1);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How often it is told how each connection does.
const CONNECTIONS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a receiver may take to close the lines when it was told that all is done.
const LEAVE_TIME: Duration = Duration::from_secs(3);
/// Items that may wait in the plan.
const WAITING_MAX: usize = 4_096;
/// Of what comes from a pipe so much may wait there, in bytes; what is read once is kept until it is confirmed.
const STREAM_WAITING_BYTES: u64 = 8 << 20;
/// Files of which it is not known yet whether they have to be sent.
const LOOKED_MAX: usize = 16_384;
/// Files that are read at the same time to see whether they have changed.
pub(super) const CHECKS_MAX: usize = 4;
/// Stripes may arrive damaged this often: more means that something is broken.
pub(super) const DAMAGED_MAX: u32 = 100;

pub(super) enum Event {
    Prepared {
        stripe: StripeId,
        /// What of files it covers, in bytes, and what of that does not go over the wire.
        bytes: (u64, LeftOut),
        sealed: Vec<Sealed>,
        failures: Vec<(Arc<SourceItem>, Unreadable)>,
    },
    /// A file of which something had changed under way was read once more.
    Confirmed(Sealed, Result<(), Unreadable>),
    LookedAgain(Vec<Result<Entry, Lost>>),
    /// A file of which the server has something was read, and is still the same if there is an answer.
    Checked(Box<Check>, Option<FileInfo>),
}

/// A stripe that is sent and not confirmed. What was read of it is kept, so that another connection can
/// take it over at once.
pub(super) struct Flight {
    pub(super) ready: Ready,
    pub(super) content_bytes: u64,
    /// What of that does not go over the wire.
    pub(super) left_out: LeftOut,
    /// Items that are whole with it.
    pub(super) items: u64,
}

/// What is to be sent.
pub(crate) struct Job {
    /// What the receiver knows it by, and nobody else.
    pub(crate) transfer: TransferSecret,
    /// What finds it.
    pub(crate) search: Search,
    /// Where it goes, relative to the receiver's root.
    pub(crate) destination: Vec<u8>,
    /// The connection set that it goes over.
    pub(crate) set: SetConfig,
    /// The most to send, all connections together.
    pub(crate) limit: Option<Arc<Limit>>,
    /// Does what blocks.
    pub(crate) work: Work,
    /// How sources are read.
    pub(crate) read: ReadOptions,
    /// What they are read into.
    pub(crate) buffers: Buffers,
    /// Where it is noted what was delivered.
    pub(crate) receipt: Option<Arc<Receipt>>,
    /// The receiver wants to hear of files that it has already.
    pub(crate) names_kept: bool,
    /// The receiver has the folder that it writes below get mode and time.
    pub(crate) gives_root: bool,
    /// What remembering files with several names may take, in bytes.
    pub(crate) linked_bytes_max: usize,
    /// What is not sent if it is there already.
    pub(crate) skip: Skip,
    /// When it began, for what is told of it.
    pub(crate) began: Instant,
}

/// A job that is being sent.
pub(crate) struct Sender<L> {
    pub(super) report: PushReporter,
    pub(super) lines: L,
    pub(super) limit: Option<Arc<Limit>>,
    pub(super) work: Work,
    pub(super) began: Instant,
    pub(super) set: Set,
    pub(super) transfer: TransferSecret,
    pub(super) destination: Vec<u8>,
    pub(super) source: Source,
    pub(super) read: ReadOptions,
    pub(super) again: Again,
    /// Stops who reads for it when it is dropped.
    pub(super) wanted: Wanted,
    pub(super) receipt: Option<Arc<Receipt>>,
    pub(super) recall: Recall,
    /// Which of the server's transfers this is.
    pub(super) instance: Option<u64>,
    pub(super) outflows: HashMap<ConnId, Outflow>,
    pub(super) flights: HashMap<StripeId, Flight>,
    pub(super) buffers: Buffers,
    /// What comes of its own work, of which there is only so much.
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) inbox: mpsc::UnboundedReceiver<Event>,
    /// What comes over the lines.
    pub(super) reports: LineReports,
    pub(super) heard: LineEvents,
    pub(super) confirmed_bytes: u64,
    /// What of that did not go over the wire.
    pub(super) left_out: LeftOut,
    /// Where so many stripes are being read, no more of them are packed.
    pub(super) packed_at_once: usize,
    pub(super) confirmed_items: u64,
    pub(super) confirmed_stripes: u64,
    pub(super) rate: Rate,
    pub(super) sample_at: Instant,
    pub(super) progress_at: Instant,
    pub(super) connections: Connections,
    pub(super) connections_at: Instant,
    pub(super) failures: Failures,
    pub(super) damaged: u32,
    /// The set knows how much the scan found in all.
    pub(super) found_all: bool,
    /// All that the scan found was offered.
    pub(super) source_done: bool,
    /// Stripes that are being read for the first time.
    pub(super) reading: usize,
    /// Files that are read once more before they are sealed.
    pub(super) confirming: usize,
    /// Files that are read to see whether they still have what the server has of them.
    pub(super) checking: usize,
    /// The server knows how many stripes there are.
    pub(super) finishing: bool,
    /// When the receiver has last done what was waited for.
    pub(super) moved_at: Instant,
    pub(super) done: Option<Summary>,
}

impl<L: Lines> Sender<L> {
    /// Sends `job` over what `lines` brings, once it runs.
    pub(crate) fn new(job: Job, lines: L, report: PushReporter) -> Self {
        let now = clock::now();
        let (events, inbox) = mpsc::unbounded_channel();
        let (reports, heard) = LineReports::new();
        let mut set = Set::new(job.set, rand::random(), now);
        set.handle(Input::Begun { job: JOB, weight: NonZeroU32::MIN }, now);
        Self {
            failures: Failures::new(Arc::clone(&report), job.receipt.clone()),
            report,
            lines,
            limit: job.limit,
            work: job.work,
            began: job.began,
            set,
            transfer: job.transfer,
            destination: job.destination,
            source: Source::new(
                job.search,
                job.skip,
                job.receipt.clone(),
                job.names_kept,
                job.gives_root,
                (job.read, job.linked_bytes_max),
            ),
            read: job.read,
            again: Again::default(),
            wanted: Wanted::default(),
            receipt: job.receipt,
            recall: Recall::default(),
            instance: None,
            outflows: HashMap::new(),
            flights: HashMap::new(),
            buffers: job.buffers,
            events,
            inbox,
            reports,
            heard,
            confirmed_bytes: 0,
            left_out: LeftOut::default(),
            packed_at_once: 2 * available_parallelism().map_or(1, Into::into),
            confirmed_items: 0,
            confirmed_stripes: 0,
            rate: Rate::default(),
            sample_at: now,
            progress_at: now,
            connections: Connections::default(),
            connections_at: now + CONNECTIONS_INTERVAL,
            damaged: 0,
            found_all: false,
            source_done: false,
            reading: 0,
            confirming: 0,
            checking: 0,
            finishing: false,
            moved_at: now,
            done: None,
        }
    }

    /// What finds what is to be sent, for another attempt at it.
    pub(crate) fn into_search(self) -> Search {
        self.source.into_search()
    }

    /// Who brings the lines.
    pub(crate) fn lines(&self) -> &L {
        &self.lines
    }

    /// What is left of it, in flight and confirmed.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.set.plan(JOB)
    }

    /// When there was a line last.
    pub(crate) fn alive_at(&self) -> Instant {
        self.set.alive_at()
    }

    /// Sends until all is durable at the receiver, or `stop` resolves.
    pub(crate) async fn run_until(
        &mut self,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Summary, Error> {
        (self.report)(PushEvent::Begun { transfer: self.transfer.name() });
        let result = tokio::select! {
            biased;
            result = self.run() => result,
            () = stop => Err(Error::Interrupted),
        };
        if let Ok(summary) = &result {
            self.take_leave(summary).await;
        }
        self.close(result.as_ref().err()).await;
        result
    }

    /// Has the receiver close the lines if there is something left to tell it.
    async fn take_leave(&self, summary: &Summary) {
        let Some(farewell) = self.lines.farewell(summary) else { return };
        for outflow in self.outflows.values() {
            outflow.line().say(farewell.clone());
        }
        let closed = async {
            for outflow in self.outflows.values() {
                outflow.line().connection().closed().await;
            }
        };
        drop(tokio::time::timeout(LEAVE_TIME, closed).await);
    }

    async fn run(&mut self) -> Result<Summary, Error> {
        loop {
            self.act()?;
            if let Some(summary) = self.done.take() {
                return Ok(summary);
            }
            // Paths are known once the server has said what is at the destination.
            let has_room = !self.source.is_stream()
                || self.plan().is_some_and(|plan| plan.waiting_bytes() < STREAM_WAITING_BYTES);
            let takes_found = has_room
                && self.source.is_named()
                && self.plan().is_some_and(|plan| plan.waiting_items() < WAITING_MAX)
                && self.source.waiting_checks() < WAITING_MAX
                && self.source.looks.count() + self.source.compares.count() < LOOKED_MAX;
            let due_at = self.due_at();
            // However much is said meanwhile.
            if clock::now() >= due_at {
                self.on_time()?;
            }
            tokio::select! {
                biased;
                Some(event) = self.inbox.recv() => self.on_event(event),
                Some((conn, event)) = self.heard.recv() => self.on_line(conn, event)?,
                () = tokio::time::sleep_until(due_at.into()) => {}
                Some(found) = self.source.next(), if takes_found => self.on_found(found)?,
            }
        }
    }

    /// When time alone asks for something.
    fn due_at(&self) -> Instant {
        let is_sampled = !self.outflows.is_empty() || self.is_weighed();
        let sample_at = is_sampled.then_some(self.sample_at);
        let asked = [sample_at, self.set.poll_timeout(), self.lines.due_at()];
        let told = self.progress_at.min(self.connections_at);
        asked.into_iter().flatten().fold(told, Instant::min)
    }

    /// Whether more connections will be opened once more has been found.
    fn is_weighed(&self) -> bool {
        self.set.is_small() && !self.found_all
    }

    /// Does what the traffic manager wants done.
    fn act(&mut self) -> Result<(), Error> {
        while let Some(output) = self.set.poll() {
            match output {
                Output::Open { conn } => self.open(conn),
                Output::Prime { conn, budget_bytes } => {
                    if let Some(outflow) = self.outflows.get_mut(&conn) {
                        outflow.prime(budget_bytes);
                    }
                }
                Output::StopPrime { conn, end } => self.stop_priming(conn, end),
                Output::Send { conn, stripe, .. } => self.send(conn, &stripe),
                Output::Abandon { conn, stripe, .. } => {
                    if let Some(outflow) = self.outflows.get(&conn) {
                        outflow.abandon(stripe);
                    }
                }
                Output::Close { conn, verdict, stripes } => self.give_up(conn, verdict, stripes),
                Output::Drained(_) => {}
                Output::Stuck => {
                    return Err(self.lines.unreachable("every connection was lost"));
                }
            }
        }
        self.check();
        self.ask_what_is_there();
        self.announce_end();
        Ok(())
    }

    /// Tells the server how many stripes there are as soon as that is known.
    fn announce_end(&mut self) {
        let Some(plan) = self.set.plan(JOB) else { return };
        let is_read = self.source_done
            && self.reading + self.confirming + self.checking + self.source.waiting_checks() == 0
            && self.source.looks.count() + self.source.compares.count() == 0
            && plan.waiting_items() == 0
            && !self.again.is_looking();
        if !is_read || self.finishing {
            return;
        }
        if let Some(look) = self.again.begin() {
            let events = self.events.clone();
            self.work.start(move || drop(events.send(Event::LookedAgain(look()))));
            return;
        }
        self.finishing = true;
        let stripes = plan.cut_stripes();
        for outflow in self.outflows.values() {
            self.say_last(outflow.line(), stripes);
        }
    }

    /// Tells the receiver how many stripes there are.
    pub(super) fn say_last(&self, line: &Line, stripes: u64) {
        for message in self.lines.last_words() {
            line.say(message);
        }
        line.say(ToReceiver::Finish { stripes });
    }

    fn open(&mut self, conn: ConnId) {
        let report = self.reports.of(conn);
        let siblings = if self.set.is_dark(clock::now()) {
            Siblings::Dark
        } else if self.outflows.is_empty() {
            Siblings::Lost
        } else {
            Siblings::Well
        };
        self.lines.open(conn, siblings, report);
    }

    fn stop_priming(&mut self, conn: ConnId, end: PrimeEnd) {
        let Some(outflow) = self.outflows.get_mut(&conn) else { return };
        outflow.stop_priming();
        let sample = outflow.line().told_sample();
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
            let left_out = LeftOut::default();
            let flight = Flight { ready, content_bytes: 0, left_out, items: 0 };
            self.flights.insert(stripe.id, flight);
        } else if !self.flights.contains_key(&stripe.id) {
            let flight = self.read(stripe);
            self.flights.insert(stripe.id, flight);
        }
        let flight = &self.flights[&stripe.id];
        if let Some(outflow) = self.outflows.get(&conn) {
            outflow.send(stripe.id, flight.ready.clone());
        }
    }

    fn give_up(&mut self, conn: ConnId, verdict: Verdict, stripes: usize) {
        let Some(outflow) = self.outflows.remove(&conn) else { return };
        if self.recall.lost(conn) {
            self.ask_again();
        }
        self.source.looks.lost(conn);
        self.source.compares.lost(conn);
        self.connections.down(conn, outflow.line().told_sample(), verdict.name(), clock::now());
        outflow.line().close(wire::CLOSE_CONDEMNED);
        // The server hears by the others, any of which may be dead as well.
        for other in self.outflows.values() {
            other.line().say(ToReceiver::Drop(conn.0));
        }
        tracing::info!(conn = conn.0, ?verdict, stripes, "connection given up");
        (self.report)(PushEvent::Condemned { conn: conn.0, verdict: verdict.name(), stripes });
    }

    fn on_line(&mut self, conn: ConnId, event: LineEvent) -> Result<(), Error> {
        match event {
            LineEvent::Up(line) => self.on_up(conn, line),
            LineEvent::Said(message) => self.on_said(conn, message)?,
            LineEvent::Lost(error) => self.on_lost(conn, error)?,
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Prepared { stripe, bytes, sealed, failures } => {
                self.reading -= 1;
                // What could not be read is not sent either.
                if let Some(flight) = self.flights.get_mut(&stripe) {
                    (flight.content_bytes, flight.left_out) = bytes;
                }
                let (unsure, sure): (Vec<_>, Vec<_>) =
                    sealed.into_iter().partition(|sealed| sealed.is_unsure);
                let seal = |sealed: Sealed| self.source.seal(&sealed);
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
                let items = self.source.take_checked(*check, same);
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
    }

    /// What was not delivered is known by now.
    pub(crate) async fn finish_receipt(&mut self, summary: &Summary) -> Result<(), Error> {
        let Some(receipt) = self.receipt.take() else { return Ok(()) };
        let (summary, failures) = (summary.clone(), std::mem::take(&mut self.failures.settled));
        let finish = move || receipt.finish(&summary, failures, summary.failed_unnamed);
        let finished = tokio::task::spawn_blocking(finish).await;
        finished.unwrap_or_else(|error| Err(Error::Disk(error.to_string())))
    }

    fn on_time(&mut self) -> Result<(), Error> {
        let now = clock::now();
        if now >= self.sample_at {
            self.note_found(now);
            let interval = if self.is_weighed() { FOUND_INTERVAL } else { SAMPLE_INTERVAL };
            self.sample_at = now + interval;
            for (&conn, outflow) in &self.outflows {
                self.set.handle(Input::Sample(conn, outflow.line().sample()), now);
            }
        }
        self.set.handle_timeout(now);
        self.lines.check(self.set.is_dark(now), now)?;
        if let Some(awaited) = self.awaits() {
            self.lines.stalled(awaited, now - self.moved_at)?;
        } else {
            self.moved_at = now;
        }
        if let Some(first) = self.outflows.keys().min() {
            for message in self.lines.news() {
                self.outflows[first].line().say(message);
            }
        }
        if now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            if let Some(bytes) = self.lines.flying_bytes_max() {
                self.set.limit_flying(bytes);
            }
            let progress = self.progress(now);
            (self.report)(PushEvent::Progress(progress));
        }
        if now >= self.connections_at {
            self.connections_at = now + CONNECTIONS_INTERVAL;
            self.tell_connections(now);
        }
        Ok(())
    }

    /// What the receiver is to do next, if it is its turn.
    fn awaits(&self) -> Option<Awaits> {
        if !self.flights.is_empty() {
            return Some(Awaits::Confirmation);
        }
        let asked = self.source.looks.count() + self.source.compares.count();
        let is_asked = asked > 0 && self.checking + self.reading == 0;
        (self.finishing || !self.source.is_named() || is_asked).then_some(Awaits::Answer)
    }

    /// Ends all connections, and gives the news a moment to leave.
    async fn close(&mut self, error: Option<&Error>) {
        let done = (wire::CLOSE_DONE, String::new());
        let (code, reason) = error.map_or(done, |error| self.lines.closing(error));
        for outflow in self.outflows.values() {
            outflow.line().close_with(code, &reason);
        }
        if !self.outflows.is_empty() {
            tokio::time::sleep(CLOSE_TIME).await;
        }
        self.lines.end().await;
    }
}
