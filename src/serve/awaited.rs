//! The lines of a transfer that this server sends: it says how many it wants, and the client opens them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::{ConnectionError, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::limits::Clients;
use crate::error::Error;
use crate::event::{ConnectionState, Failure, FailureKind, Progress, PushEvent, Summary};
use crate::mutex::lock;
use crate::net::control::ControlReader;
use crate::net::line::{Line, LineError, LineEvent, LineReport, listen};
use crate::net::route::Siblings;
use crate::send::{Awaits, Lines};
use crate::traffic::ConnId;
use crate::wire::{
    CLOSE_ABORTED, CLOSE_BUSY, CLOSE_CONDEMNED, CLOSE_CROWDED, CLOSE_REFUSED, LineDoes,
    LineGivenUp, LinePrimed, PRIME_ENDS, ROLES, Sending, Sent, TEXT_BYTES_MAX, ToReceiver,
    ToSender, Unsendable, VERDICTS,
};

/// How long a client may take to open a line, or to say that it cannot.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// A client that takes nothing of what was sent to it for so long is one that does not want it, or sooner if others
/// wait for their turn.
const STALLED_TIME: Duration = Duration::from_secs(600);
const CROWDED_TIME: Duration = Duration::from_secs(60);
/// How long a client may look at what it has, or make it durable.
const ANSWER_TIME: Duration = Duration::from_secs(6 * 3_600);
/// Lines that may be there before they are wanted.
const EARLY_MAX: usize = 64;
/// What waits to be said, at most, beside that.
const NEWS_MAX: usize = 2_000;
/// What could not be sent and is told by name, at most.
const UNSENT_MAX: usize = 1_000;

/// Where the lines of a transfer come together: those that are wanted, and those that were opened.
#[derive(Default)]
pub(super) struct Awaited {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Wanted, and not there yet: who is told, and since when.
    wanted: BTreeMap<u32, (LineReport, Instant)>,
    /// There before they were wanted.
    early: BTreeMap<u32, (Line, ControlReader)>,
    /// Lines with lower numbers were wanted.
    next: u32,
    /// Those of them that the client opens without being asked.
    first: u32,
    /// What is to be said to the client.
    news: Vec<ToReceiver>,
    /// What could not be sent and the client has not heard of, by number.
    unsent: BTreeMap<u64, ToReceiver>,
    unsent_count: u64,
    /// A task for each line that is up.
    lines: JoinSet<()>,
}

impl Awaited {
    /// The client opens the `first` lines by itself.
    pub(super) fn new(first: usize) -> Arc<Self> {
        let state = State { first: u32::try_from(first).unwrap_or(u32::MAX), ..State::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The client has opened line `number`.
    pub(super) fn arrived(self: &Arc<Self>, number: u32, line: Line, messages: ControlReader) {
        let mut state = lock(&self.state);
        if let Some((report, _)) = state.wanted.remove(&number) {
            let this = Arc::clone(self);
            state.lines.spawn(this.attend(line, messages, report));
        } else if number < state.next {
            line.close(CLOSE_CONDEMNED); // given up meanwhile
        } else if state.early.len() < EARLY_MAX {
            state.early.insert(number, (line, messages));
        } else {
            line.close(CLOSE_CROWDED);
        }
    }

    /// Whether a line is up.
    pub(super) fn is_served(&self) -> bool {
        let mut state = lock(&self.state);
        while state.lines.try_join_next().is_some() {}
        !state.lines.is_empty()
    }

    /// Takes in what the sender tells, for the client to hear.
    pub(super) fn note(&self, event: &PushEvent) {
        let mut state = lock(&self.state);
        match event {
            PushEvent::Progress(progress) => {
                state.news.retain(|message| !matches!(message, ToReceiver::Sending(_)));
                state.news.push(ToReceiver::Sending(sending(progress)));
            }
            PushEvent::Failed(Failure { kind, path, reason }) => {
                let why = match kind {
                    FailureKind::Source => Unsendable::Source,
                    FailureKind::Vanished => Unsendable::Vanished,
                    FailureKind::Changed => Unsendable::Changed,
                    // The client's own end has told of it.
                    FailureKind::Destination => return,
                };
                let number = state.unsent_count;
                state.unsent_count += 1;
                if state.unsent.len() >= UNSENT_MAX {
                    return;
                }
                let mut message = reason.clone().into_bytes();
                message.truncate(TEXT_BYTES_MAX);
                let path = path.clone().into_bytes();
                let unsent = ToReceiver::Unsent { number, why, path, message };
                state.unsent.insert(number, unsent.clone());
                state.news.push(unsent);
            }
            &PushEvent::Primed { conn, end, window_bytes, padding_bytes } => {
                let (conn, end) = (conn.into(), number_of(&PRIME_ENDS, end));
                let primed = LinePrimed { conn, end, window_bytes, padding_bytes };
                state.news.push(ToReceiver::Primed(primed));
            }
            &PushEvent::Condemned { conn, verdict, stripes } => {
                let (conn, verdict) = (conn.into(), number_of(&VERDICTS, verdict));
                let given_up = LineGivenUp { conn, verdict, stripes: stripes as u64 };
                state.news.push(ToReceiver::GivenUp(given_up));
            }
            PushEvent::Connection(does) => {
                let does = line_does(does);
                state.news.retain(
                    |said| !matches!(said, ToReceiver::Does(other) if other.conn == does.conn),
                );
                state.news.push(ToReceiver::Does(does));
            }
            _ => {}
        }
        // While no line is up, nobody hears of what is of the moment.
        if state.news.len() > NEWS_MAX {
            let is_lasting = |said: &ToReceiver| {
                !matches!(
                    said,
                    ToReceiver::Primed(_) | ToReceiver::GivenUp(_) | ToReceiver::Does(_)
                )
            };
            state.news.retain(is_lasting);
        }
    }

    /// Listens to a line until it is lost.
    async fn attend(self: Arc<Self>, line: Line, messages: ControlReader, report: LineReport) {
        let connection = line.connection().clone();
        report.tell(LineEvent::Up(line)).await;
        let lost = listen(&connection, messages, |message| self.hear(message, &report)).await;
        report.tell(LineEvent::Lost(lost)).await;
    }

    async fn hear(&self, message: ToSender, report: &LineReport) {
        match message {
            ToSender::Heard(number) => {
                lock(&self.state).unsent.remove(&number);
            }
            ToSender::Unopened(number) => self.not_opened(number).await,
            message => report.tell(LineEvent::Said(message)).await,
        }
    }

    async fn not_opened(&self, number: u32) {
        let wanted = lock(&self.state).wanted.remove(&number);
        if let Some((report, _)) = wanted {
            report.tell(LineEvent::Lost(LineError::NotOpened)).await;
        }
    }
}

/// Why a transfer is ended by the server, and the code that its client hears.
pub(super) type Ending = (u32, &'static str);

/// How much a transfer may have sent and not confirmed now, in bytes.
pub(super) type Share = Box<dyn Fn() -> u64 + Send + Sync>;

/// A sender's lines to a client that pulls.
pub(super) struct PulledLines {
    client: String,
    awaited: Arc<Awaited>,
    ending: watch::Receiver<Option<Ending>>,
    share: Share,
    clients: Arc<Clients>,
}

impl PulledLines {
    /// Those that come together in `awaited`, to a client that is called so. If the server ends the transfer,
    /// `ending` says why. It may hold its `share`, and less patience is had with it when others of `clients` wait.
    pub(super) fn new(
        client: String,
        awaited: Arc<Awaited>,
        ending: watch::Receiver<Option<Ending>>,
        share: Share,
        clients: Arc<Clients>,
    ) -> Self {
        Self { client, awaited, ending, share, clients }
    }
}

impl Lines for PulledLines {
    fn peer(&self) -> &str {
        &self.client
    }

    fn open(&mut self, conn: ConnId, _: Siblings, report: LineReport) {
        let mut state = lock(&self.awaited.state);
        state.next = state.next.max(conn.0 + 1);
        while state.lines.try_join_next().is_some() {}
        if let Some((line, messages)) = state.early.remove(&conn.0) {
            let this = Arc::clone(&self.awaited);
            state.lines.spawn(this.attend(line, messages, report));
            return;
        }
        state.wanted.insert(conn.0, (report, Instant::now()));
        if state.next > state.first {
            let lines = u64::from(state.next);
            state.news.retain(|message| !matches!(message, ToReceiver::Wanted { .. }));
            state.news.push(ToReceiver::Wanted { lines });
        }
    }

    fn up(&mut self, _: Instant) {}

    fn accepted(&mut self) {}

    fn waits(&mut self) -> bool {
        false
    }

    fn lost(&mut self, error: LineError, _: u64, _: bool, _: Instant) -> Result<(), Error> {
        match error {
            LineError::Connection(ConnectionError::ApplicationClosed(close))
                if close.error_code == VarInt::from_u32(CLOSE_ABORTED) =>
            {
                Err(Error::Peer("its client has given it up".into()))
            }
            LineError::Protocol(fault) => {
                Err(Error::Peer(format!("its client broke the protocol: {fault}")))
            }
            _ => Ok(()),
        }
    }

    fn due_at(&self) -> Option<Instant> {
        let state = lock(&self.awaited.state);
        state.wanted.values().map(|(_, since)| *since + OPEN_TIME).min()
    }

    fn check(&mut self, _: bool, now: Instant) -> Result<(), Error> {
        let late: Vec<_> = {
            let mut state = lock(&self.awaited.state);
            let is_late = |(_, since): &(LineReport, Instant)| now - *since >= OPEN_TIME;
            let numbers: Vec<_> = state
                .wanted
                .iter()
                .filter(|(_, wanted)| is_late(wanted))
                .map(|(&n, _)| n)
                .collect();
            numbers.into_iter().filter_map(|number| state.wanted.remove(&number)).collect()
        };
        let mut state = lock(&self.awaited.state);
        for (report, _) in late {
            // Whoever asks is who is told.
            state.lines.spawn(async move {
                report.tell(LineEvent::Lost(LineError::NotOpened)).await;
            });
        }
        Ok(())
    }

    fn flying_bytes_max(&self) -> Option<u64> {
        Some((self.share)())
    }

    fn stalled(&mut self, on: Awaits, time: Duration) -> Result<(), Error> {
        if time < patience(on, self.clients.has_waiting()) {
            return Ok(());
        }
        let seconds = time.as_secs();
        Err(Error::Busy(match on {
            Awaits::Confirmation => format!("nothing of it was taken for {seconds} seconds"),
            Awaits::Answer => format!("no answer for {seconds} seconds"),
        }))
    }

    fn news(&mut self) -> Vec<ToReceiver> {
        std::mem::take(&mut lock(&self.awaited.state).news)
    }

    fn last_words(&self) -> Vec<ToReceiver> {
        lock(&self.awaited.state).unsent.values().cloned().collect()
    }

    fn farewell(&self, summary: &Summary) -> Option<ToReceiver> {
        Some(ToReceiver::Sent(Sent {
            files: summary.files,
            others: summary.others,
            bytes: summary.bytes,
            unsent: lock(&self.awaited.state).unsent_count,
            vanished: summary.vanished,
            changed: summary.changed,
            kept_files: summary.kept_files,
            kept_bytes: summary.kept_bytes,
            skipped_files: summary.skipped_files,
            skipped_bytes: summary.skipped_bytes,
            sent_bytes: summary.sent_bytes,
            padding_bytes: summary.padding_sent_bytes,
            opened: summary.connections_opened,
            condemned: summary.connections_condemned,
            takeovers: summary.takeovers,
            stripes: summary.stripes,
            stripes_again: summary.stripes_again,
            sub_transfers: summary.sub_transfers,
        }))
    }

    fn closing(&self, error: &Error) -> (u32, String) {
        match *self.ending.borrow() {
            Some((code, reason)) => (code, reason.into()),
            None if matches!(error, Error::Busy(_)) => (CLOSE_BUSY, error.to_string()),
            None => (CLOSE_REFUSED, error.to_string()),
        }
    }

    fn unreachable(&self, what: &str) -> Error {
        Error::Connect(format!("its client was lost: {what}"))
    }

    async fn end(&mut self) {
        let mut lines = std::mem::take(&mut lock(&self.awaited.state).lines);
        lines.shutdown().await;
        let mut state = lock(&self.awaited.state);
        state.wanted.clear();
        state.early.clear();
    }
}

/// How long a client may take nothing of what was sent to it, or not say what it has or that all is durable, which
/// may mean much reading or writing at its end.
fn patience(on: Awaits, others_wait: bool) -> Duration {
    match (on, others_wait) {
        (Awaits::Confirmation, true) => CROWDED_TIME,
        (Awaits::Confirmation, false) => STALLED_TIME,
        (Awaits::Answer, _) => ANSWER_TIME,
    }
}

/// The number of a word.
fn number_of(words: &[&str], word: &str) -> u64 {
    words.iter().position(|other| *other == word).unwrap_or(words.len()) as u64
}

fn line_does(state: &ConnectionState) -> LineDoes {
    let microseconds = |milliseconds: f64| (milliseconds * 1e3) as u64;
    LineDoes {
        conn: state.conn.into(),
        role: number_of(&ROLES, state.role),
        rtt_us: microseconds(state.rtt_ms),
        rtt_min_us: microseconds(state.rtt_min_ms),
        goodput_bytes_per_s: state.goodput_bytes_per_s as u64,
        window_bytes: state.window_bytes,
        in_flight_bytes: state.in_flight_bytes,
        delivered_bytes: state.delivered_bytes,
        lost_bytes: state.lost_bytes,
        padding_bytes: state.padding_bytes,
        stripes: state.stripes,
    }
}

fn sending(progress: &Progress) -> Sending {
    Sending {
        found_items: progress.found_items,
        found_bytes: progress.found_bytes,
        scan_done: u64::from(progress.scan_done),
        confirmed_items: progress.confirmed_items,
        confirmed_bytes: progress.confirmed_bytes,
        kept_bytes: progress.kept_bytes,
        skipped_bytes: progress.skipped_bytes,
        active: progress.active as u64,
        reserve: progress.reserve as u64,
        takeovers: progress.takeovers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits::Limits;
    use crate::serve::memory::Parts;

    #[test]
    fn who_takes_nothing_makes_room_for_who_waits_and_is_asked_to_come_back() {
        let limits = Limits { transfers: 1, ..Limits::default() };
        let clients = Clients::new("transfers", limits, Parts::of(u64::MAX));
        let client = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU".parse().unwrap();
        let _seat = clients.begin(client).unwrap();
        let (_end, ending) = watch::channel(None);
        let share = Box::new(|| 7);
        let awaited = Awaited::new(1);
        let mut lines =
            PulledLines::new("client".into(), awaited, ending, share, Arc::clone(&clients));
        assert_eq!(lines.flying_bytes_max(), Some(7));
        lines.stalled(Awaits::Confirmation, STALLED_TIME / 2).unwrap();
        lines.stalled(Awaits::Answer, STALLED_TIME).unwrap();
        let error = lines.stalled(Awaits::Confirmation, STALLED_TIME).unwrap_err();
        assert_eq!(lines.closing(&error).0, CLOSE_BUSY);
        lines.stalled(Awaits::Answer, ANSWER_TIME).unwrap_err();

        let mut turn = std::pin::pin!(clients.turn(client));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(turn.as_mut().poll(&mut context).is_pending());
        lines.stalled(Awaits::Confirmation, CROWDED_TIME).unwrap_err();
        lines.stalled(Awaits::Answer, STALLED_TIME).unwrap();
    }

    #[test]
    fn each_word_has_a_number() {
        use crate::traffic::{PrimeEnd, Verdict};
        let ends = [
            PrimeEnd::Target,
            PrimeEnd::Plateau,
            PrimeEnd::Congestion,
            PrimeEnd::Budget,
            PrimeEnd::Data,
        ];
        assert_eq!(ends.map(PrimeEnd::name), PRIME_ENDS);
        let verdicts = [
            Verdict::Silent,
            Verdict::Slow,
            Verdict::Collapsed,
            Verdict::BelowFloor,
            Verdict::RttTooHigh,
            Verdict::PrimedBadly,
            Verdict::Lost,
            Verdict::Surplus,
        ];
        assert_eq!(verdicts.map(Verdict::name), VERDICTS);
        assert_eq!((number_of(&ROLES, "active"), number_of(&ROLES, "none")), (3, 4));
    }
}
