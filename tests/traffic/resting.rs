//! A set that has nothing to do, and what wakes it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use qbulk::traffic::{ConnId, Input, Item, ItemId, JobId, Output, Role, Sample, Set, SetConfig};

const RTT: Duration = Duration::from_millis(50);
const N: u32 = 10;

/// A set whose connections come up at once and get everything through at once.
struct Run {
    set: Set,
    now: Instant,
    samples: Vec<Sample>,
}

impl Run {
    fn new(config: SetConfig) -> Self {
        let now = Instant::now();
        let samples = vec![Sample { rtt: RTT, rtt_min: RTT, ..Sample::default() }; N as usize];
        let mut run = Self { set: Set::new(config, 1, now), now, samples };
        assert_eq!(run.act().len(), N as usize, "it opens its connections");
        for conn in 0..N {
            run.set.handle(Input::Up(ConnId(conn)), now);
        }
        run
    }

    /// Does what is wanted, and says what that was.
    fn act(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.set.poll() {
            if let Output::Send { conn, job, ref stripe, .. } = output {
                self.samples[conn.0 as usize].delivered_bytes += stripe.bytes;
                self.set.handle(Input::Confirmed(conn, job, stripe.id), self.now);
            }
            outputs.push(output);
        }
        outputs
    }

    /// Time passes. Says what was done, and how often the set wanted to be woken up.
    fn wait(&mut self, time: Duration) -> (Vec<Output>, usize) {
        let (mut outputs, mut woken, until) = (Vec::new(), 0, self.now + time);
        while self.now < until {
            self.now += Duration::from_millis(10);
            for (conn, &sample) in (0..).zip(&self.samples) {
                self.set.handle(Input::Sample(ConnId(conn), sample), self.now);
            }
            if self.set.poll_timeout().is_some_and(|at| at <= self.now) {
                self.set.handle_timeout(self.now);
                woken += 1;
            }
            outputs.extend(self.act());
        }
        (outputs, woken)
    }

    fn begin(&mut self, job: JobId, bytes: u64) {
        self.set.handle(Input::Begun { job, weight: NonZeroU32::MIN }, self.now);
        self.set.handle(Input::Found(job, bytes), self.now);
    }

    fn send(&mut self, job: JobId, bytes: u64) {
        self.begin(job, bytes);
        let items = vec![Item::split(ItemId(0), bytes)];
        for input in [Input::Offered(job, items), Input::SourceDone(job), Input::Accepted(job)] {
            self.set.handle(input, self.now);
        }
        assert!(self.act().contains(&Output::Drained(job)));
        self.set.handle(Input::Ended(job), self.now);
        let is_end = |output: &Output| matches!(output, Output::StopPrime { .. });
        assert!(self.act().iter().all(is_end));
    }
}

/// All connections are opened before there is anything to send.
fn at_once() -> SetConfig {
    SetConfig { bytes_per_connection: 0, ..SetConfig::default() }
}

/// What primings may cost, in bytes.
fn budgets(outputs: &[Output]) -> Vec<u64> {
    let budgets = outputs.iter().filter_map(|output| match output {
        Output::Prime { budget_bytes, .. } => Some(*budget_bytes),
        _ => None,
    });
    budgets.collect()
}

#[test]
fn without_a_job_nothing_is_waited_for() {
    let mut run = Run::new(at_once());
    run.wait(RTT);
    assert_eq!(run.set.count(Role::Reserve), N as usize);
    assert_eq!(run.set.poll_timeout(), None);
    assert_eq!(run.wait(Duration::from_secs(60)), (vec![], 0));
}

#[test]
fn after_its_jobs_it_comes_to_rest_with_all_connections_in_reserve() {
    let mut run = Run::new(at_once());
    run.wait(RTT);
    run.send(JobId(0), 80 << 20);
    assert_eq!(run.set.count(Role::Reserve), N as usize);
    let (outputs, woken) = run.wait(Duration::from_secs(5));
    assert!(outputs.is_empty() && woken < 200, "{woken} times, {outputs:?}");
    assert_eq!(run.set.poll_timeout(), None);
    assert_eq!(run.wait(Duration::from_secs(120)), (vec![], 0));
}

#[test]
fn at_rest_only_the_last_connection_is_replaced_and_a_job_brings_the_others_back() {
    let mut run = Run::new(at_once());
    run.wait(RTT);
    run.send(JobId(0), 1 << 20);
    run.wait(Duration::from_secs(5));
    let is_open = |output: &Output| matches!(output, Output::Open { .. });
    for conn in 0..N {
        run.set.handle(Input::Lost(ConnId(conn)), run.now);
        assert_eq!(run.act().iter().any(is_open), conn == N - 1);
    }
    run.begin(JobId(1), 0);
    assert_eq!(run.act().into_iter().filter(is_open).count(), N as usize - 1);
}

#[test]
fn windows_that_closed_at_rest_are_opened_once_when_a_job_begins() {
    let mut run = Run::new(at_once());
    run.wait(RTT);
    run.send(JobId(0), 1 << 20);
    run.wait(Duration::from_secs(1));
    run.begin(JobId(1), 1 << 30);
    assert!(budgets(&run.act()).is_empty(), "they are open still");
    run.set.handle(Input::Ended(JobId(1)), run.now);
    run.wait(Duration::from_secs(60));

    run.set.handle(Input::Begun { job: JobId(2), weight: NonZeroU32::MIN }, run.now);
    run.wait(RTT);
    assert!(budgets(&run.act()).is_empty(), "nobody knows how much is worth it");
    run.set.handle(Input::Found(JobId(2), 1 << 30), run.now);
    assert_eq!(budgets(&run.act()), [4 << 20; N as usize]);
    let (outputs, _) = run.wait(Duration::from_secs(60));
    assert!(budgets(&outputs).is_empty());
}

#[test]
fn those_that_were_up_before_there_was_anything_to_send_are_primed_once_unless_they_carry_it() {
    let mut run = Run::new(at_once());
    run.wait(RTT);
    run.begin(JobId(0), 80_000_000);
    assert_eq!(budgets(&run.act()), [1_000_000; N as usize]);
    run.wait(RTT);
    run.set.handle(Input::Found(JobId(0), 90_000_000), run.now);
    assert!(budgets(&run.act()).is_empty(), "they are primed");

    let mut run = Run::new(at_once());
    run.wait(RTT);
    run.set.handle(Input::Begun { job: JobId(0), weight: NonZeroU32::MIN }, run.now);
    run.set.handle(Input::Accepted(JobId(0)), run.now);
    let items = vec![Item::split(ItemId(0), 80_000_000)];
    run.set.handle(Input::Offered(JobId(0), items), run.now);
    let active = SetConfig::default().active;
    assert_eq!(budgets(&run.act()).len(), N as usize - active);
}

#[test]
fn what_was_padded_for_one_job_is_not_held_against_the_next() {
    let mut run = Run::new(at_once());
    for job in (0..3).map(JobId) {
        run.wait(Duration::from_secs(60));
        run.begin(job, 80_000_000);
        assert_eq!(budgets(&run.act()), [1_000_000; N as usize], "{job:?}");
        for sample in &mut run.samples {
            sample.padding_bytes += 1_000_000;
        }
        run.wait(RTT);
        run.set.handle(Input::Ended(job), run.now);
    }
}
