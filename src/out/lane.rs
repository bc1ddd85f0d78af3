//! A queue of lines, and the thread that writes them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::status::{Status, columns};

/// What may be queued, in bytes: of what the next line of its kind makes good, and of everything.
const PASSING_MAX: usize = 256 << 10;
const KEPT_MAX: usize = 16 << 20;
/// What may be queued where whoever has more waits.
const ROOM_BYTES: usize = 1 << 20;
/// What a line takes beside its text, in bytes and roughly.
const LINE_BYTES: usize = 64;
/// How long to wait for somebody who has made the descriptor one that does not block.
const BUSY_TIME: Duration = Duration::from_millis(10);
/// Goes back to the start of a line, and clears it.
const CLEAR: &str = "\r\x1b[K";

/// How much it matters that a line arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// There will be others that say the same, or more.
    Passing,
    /// It is said once.
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// How it is said that so many lines were lost.
pub(crate) type Notice = Arc<dyn Fn(u64) -> String + Send + Sync>;

pub(super) struct Line {
    to: Stream,
    text: String,
    notice: Notice,
    /// How many lines are lost with it.
    stands_for: u64,
}

impl Line {
    /// `text` must hold no line break.
    pub(super) fn new(to: Stream, mut text: String, notice: Notice) -> Self {
        text.push('\n');
        Self { to, text, notice, stands_for: 1 }
    }

    /// A line that goes on when somebody has answered.
    pub(super) fn unended(to: Stream, text: String, notice: Notice) -> Self {
        Self { to, text, notice, stands_for: 1 }
    }

    /// That `lines` were lost.
    fn notice(lines: u64, to: Stream, notice: Notice) -> Self {
        Self { stands_for: lines, ..Self::new(to, notice(lines), notice) }
    }

    fn bytes(&self) -> usize {
        self.text.len() + LINE_BYTES
    }
}

/// Whether all is written that was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Done,
    /// Nothing was read for as long as was waited.
    Stuck,
}

/// One queue.
#[derive(Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
    /// Told of whatever is taken out of the queue, for those that may not block.
    taken: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Line>,
    queued_bytes: usize,
    /// Lines for which there was no room since there last was, and how that is to be said.
    lost: Option<(u64, Stream, Notice)>,
    status: Option<Status>,
    /// The status is not what is shown.
    is_status_new: bool,
    /// The thread has something in hand.
    is_writing: bool,
    /// Grows whenever something was taken.
    taken_bytes: u64,
    failure: Option<String>,
    /// Nobody will read any more.
    is_gone: bool,
}

enum Work {
    Line(Line),
    Status(Option<Status>),
}

impl Lane {
    /// Starts the thread that writes to standard output and standard error, or one of them.
    pub(super) fn start(files: [Option<File>; 2]) -> Arc<Self> {
        let lane = Arc::<Self>::default();
        let writer =
            Writer { lane: Arc::clone(&lane), files, is_status_shown: false, is_torn: false };
        let thread = thread::Builder::new().name("qbulk-out".into());
        if let Err(error) = thread.spawn(move || writer.run()) {
            lane.lock().give_up(&error);
        }
        lane
    }

    /// Queues a line, if there is room for it.
    pub(super) fn push(&self, line: Line, weight: Weight) {
        let mut state = self.lock();
        if !state.is_gone {
            state.push(line, weight);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What the status line is to be.
    pub(super) fn show(&self, status: Option<Status>) {
        let mut state = self.lock();
        if state.status != status && !state.is_gone {
            (state.status, state.is_status_new) = (status, true);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing more is said: no status, and what was lost at the end is told of.
    pub(super) fn close(&self) {
        self.show(None);
        let mut state = self.lock();
        if let Some((lines, to, notice)) = state.lost.take() {
            state.append(Line::notice(lines, to, notice));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all is written, or nothing was for `patience`.
    pub(super) fn wait(&self, patience: Option<Duration>) -> Waited {
        let mut state = self.lock();
        loop {
            if state.is_done() {
                return Waited::Done;
            }
            let Some(patience) = patience else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let taken_bytes = state.taken_bytes;
            let waited = self.changed.wait_timeout_while(state, patience, |state| {
                !state.is_done() && state.taken_bytes == taken_bytes
            });
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() && !next.is_done() {
                return Waited::Stuck;
            }
            state = next;
        }
    }

    /// Waits until much more can be queued, or nobody will read any more.
    pub(super) async fn room(&self) {
        loop {
            let mut taken = pin!(self.taken.notified());
            taken.as_mut().enable();
            if self.lock().queued_bytes <= ROOM_BYTES {
                return;
            }
            taken.await;
        }
    }

    /// Why the first line that was not written was not.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do.
    fn next(&self) -> Work {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            let work = if let Some(line) = state.queue.pop_front() {
                state.queued_bytes -= line.bytes();
                self.taken.notify_waiters();
                Work::Line(line)
            } else if state.is_status_new {
                state.is_status_new = false;
                Work::Status(state.status.clone())
            } else {
                state.queue.shrink_to_fit();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.is_writing = true;
            return work;
        }
    }
}

impl State {
    fn push(&mut self, line: Line, weight: Weight) {
        let max = match weight {
            Weight::Passing => PASSING_MAX,
            Weight::Kept => KEPT_MAX,
        };
        if self.queued_bytes + line.bytes() > max {
            let lost = self.lost.get_or_insert((0, line.to, line.notice));
            lost.0 += line.stands_for;
            return;
        }
        if let Some((lines, to, notice)) = self.lost.take() {
            self.append(Line::notice(lines, to, notice));
        }
        self.append(line);
    }

    fn append(&mut self, line: Line) {
        self.queued_bytes += line.bytes();
        self.queue.push_back(line);
    }

    fn is_done(&self) -> bool {
        self.is_gone || self.queue.is_empty() && !self.is_writing && !self.is_status_new
    }

    /// Nobody will read any more.
    fn give_up(&mut self, error: &io::Error) {
        self.failure.get_or_insert_with(|| qbulk::store::reason(error));
        let failure = self.failure.take();
        *self = Self { failure, is_gone: true, ..Self::default() };
    }
}

/// Writes what is queued, and draws the status.
struct Writer {
    lane: Arc<Lane>,
    /// Standard output, and standard error.
    files: [Option<File>; 2],
    is_status_shown: bool,
    /// The last line was not written to its end.
    is_torn: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.lane.next() {
                Work::Line(line) => self.write(&line),
                Work::Status(status) => self.draw(status),
            }
        }
    }

    fn write(&mut self, line: &Line) {
        let mut text = String::new();
        if std::mem::take(&mut self.is_status_shown) {
            text.push_str(CLEAR);
            // It comes again below the line.
            let mut state = self.lane.lock();
            state.is_status_new |= state.status.is_some();
        }
        if std::mem::take(&mut self.is_torn) {
            text.push('\n');
        }
        text.push_str(&line.text);
        let Some(file) = &mut self.files[line.to as usize] else { return };
        let written = write_all(file, text.as_bytes(), |bytes| {
            self.lane.lock().taken_bytes += bytes;
            self.lane.changed.notify_all();
        });
        let Err((error, bytes)) = written else { return };
        self.is_torn = bytes > 0;
        let mut state = self.lane.lock();
        if error.kind() == ErrorKind::BrokenPipe {
            state.give_up(&error);
            self.lane.taken.notify_waiters();
        } else {
            state.failure.get_or_insert_with(|| qbulk::store::reason(&error));
            state.lost.get_or_insert((0, line.to, Arc::clone(&line.notice))).0 += line.stands_for;
        }
    }

    fn draw(&mut self, status: Option<Status>) {
        let Some(terminal) = &mut self.files[Stream::Stderr as usize] else { return };
        let mut text = String::new();
        if self.is_status_shown || status.is_some() {
            text.push_str(CLEAR);
        }
        self.is_status_shown = status.is_some();
        if let Some(status) = status {
            text.push_str(&status.line(columns(&*terminal)));
        }
        // The next one is drawn anew.
        drop(write_all(terminal, text.as_bytes(), |_| ()));
    }
}

/// Writes all of it, however long that takes. An error comes with how much was written.
fn write_all(
    file: &mut impl Write,
    mut bytes: &[u8],
    mut taken: impl FnMut(u64),
) -> Result<(), (io::Error, usize)> {
    let all = bytes.len();
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err((ErrorKind::WriteZero.into(), all - bytes.len())),
            Ok(written) => {
                bytes = &bytes[written..];
                taken(written as u64);
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => thread::sleep(BUSY_TIME),
                _ => return Err((error, all - bytes.len())),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::OwnedFd;

    use super::*;

    fn line(text: &str) -> Line {
        Line::new(Stream::Stdout, text.into(), Arc::new(|lines| format!("{lines} lost")))
    }

    fn piped() -> (Arc<Lane>, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (Lane::start([Some(File::from(OwnedFd::from(writer))), None]), reader)
    }

    #[test]
    fn a_reader_that_reads_nothing_holds_nobody_up_and_hears_later_what_it_has_missed() {
        let (lane, reader) = piped();
        let (passing, kept) = ("p".repeat(1_000), "k".repeat(1_000));
        for _ in 0..1_000 {
            lane.push(line(&passing), Weight::Passing);
        }
        for _ in 0..1_000 {
            lane.push(line(&kept), Weight::Kept);
        }
        lane.push(line("end"), Weight::Kept);
        assert_eq!(lane.wait(Some(Duration::from_millis(20))), Waited::Stuck);
        let reading = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map_while(Result::ok);
            lines.take_while(|line| line != "end").collect::<Vec<_>>()
        });
        assert_eq!(lane.wait(None), Waited::Done);
        let lines = reading.join().expect("read");
        // Where this is slower than who writes, there is room in between.
        let passed = lines.iter().filter(|line| **line == passing).count();
        let lost = lines.iter().filter_map(|line| line.strip_suffix(" lost"));
        let lost: Vec<usize> = lost.map(|count| count.parse().expect("a number")).collect();
        assert!((1..1_000).contains(&passed), "{passed}");
        assert_eq!(passed + lost.iter().sum::<usize>(), 1_000, "{lost:?}");
        let first_kept = lines.iter().position(|line| *line == kept).expect("all that is kept");
        assert!(lines[first_kept..].iter().all(|line| *line == kept));
        assert_eq!(lines.len(), passed + lost.len() + 1_000);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_told_of_in_its_place() {
        let mut state = State::default();
        let long = "x".repeat(PASSING_MAX / 2);
        for _ in 0..5 {
            state.push(line(&long), Weight::Passing);
        }
        state.push(line("kept"), Weight::Kept);
        let told: Vec<_> = state.queue.iter().map(|line| line.text.trim_end()).collect();
        assert_eq!(told, [long.as_str(), "4 lost", "kept"]);
        state.push(line(&"x".repeat(KEPT_MAX)), Weight::Kept);
        assert_eq!(state.queue.len(), 3);
        let bytes: usize = state.queue.iter().map(Line::bytes).sum();
        assert_eq!(state.queued_bytes, bytes);
    }

    #[test]
    fn a_reader_that_has_gone_costs_nothing_more() {
        let (lane, mut reader) = piped();
        lane.push(line("first"), Weight::Kept);
        lane.wait(None);
        let mut first = [0; 6];
        reader.read_exact(&mut first).expect("a line");
        drop(reader);
        for _ in 0..100 {
            lane.push(line("more"), Weight::Kept);
            assert_eq!(lane.wait(None), Waited::Done);
        }
        assert!(lane.failure().is_some());
        assert_eq!(lane.lock().queue.len(), 0);
    }

    #[test]
    fn a_full_disk_is_tried_again_and_what_it_has_cost_is_said() {
        let Ok(full) = File::options().write(true).open("/dev/full") else {
            return; // not this system
        };
        let lane = Lane::start([Some(full), None]);
        for _ in 0..3 {
            lane.push(line("x"), Weight::Kept);
            assert_eq!(lane.wait(None), Waited::Done);
        }
        assert!(lane.failure().is_some_and(|why| why.contains("space")), "{:?}", lane.failure());
        // Each line came with what was said of those before it.
        assert_eq!(lane.lock().lost.as_ref().map(|(lines, ..)| *lines), Some(3));
    }
}
