//! What is small goes over few connections, and comes through where those lead nowhere.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use qbulk::traffic::{ConnId, Input, Item, ItemId, JobId, Output, Sample, Set, SetConfig};

const JOB: JobId = JobId(0);
const RTT: Duration = Duration::from_millis(50);

struct Run {
    set: Set,
    now: Instant,
    opened: Vec<ConnId>,
    /// Which stripes were sent, and over which connections.
    sent: Vec<(ConnId, u64)>,
}

impl Run {
    fn new(bytes: u64) -> Self {
        let now = Instant::now();
        let set = Set::new(SetConfig::default(), 1, now);
        let mut run = Self { set, now, opened: vec![], sent: vec![] };
        run.tell(Input::Begun { job: JOB, weight: NonZeroU32::MIN });
        run.tell(Input::Found(JOB, bytes));
        run
    }

    fn tell(&mut self, input: Input) {
        self.set.handle(input, self.now);
        self.act();
    }

    fn act(&mut self) {
        while let Some(output) = self.set.poll() {
            match output {
                Output::Open { conn } => self.opened.push(conn),
                Output::Send { conn, stripe, .. } => self.sent.push((conn, stripe.id.0)),
                _ => {}
            }
        }
    }

    /// Time passes in which nothing is heard of any connection.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(10);
            self.set.handle_timeout(self.now);
            self.act();
        }
    }
}

#[test]
fn there_is_a_connection_for_each_part_of_what_there_is_to_send() {
    for (bytes, connections) in [(0, 1), (1, 1), (40_000, 2), (100_000, 4), (300_000, 10)] {
        assert_eq!(Run::new(bytes).opened.len(), connections, "for {bytes}");
    }
    // More is found.
    let mut run = Run::new(10);
    run.tell(Input::Found(JOB, 1 << 40));
    assert_eq!(run.opened.len(), 10);
}

#[test]
fn one_that_does_not_come_up_is_not_waited_for_alone() {
    let mut run = Run::new(10);
    run.wait(Duration::from_millis(390));
    assert_eq!(run.opened.len(), 1);
    run.wait(Duration::from_millis(20));
    assert_eq!(run.opened.len(), 2);
    run.wait(Duration::from_secs(10));
    assert_eq!(run.opened.len(), 10, "and no more than N");
}

#[test]
fn one_over_which_all_arrives_and_nothing_is_confirmed_gets_company_once() {
    for (in_flight_bytes, connections) in [(0, 2), (10, 1)] {
        let mut run = Run::new(10);
        run.tell(Input::Up(ConnId(0)));
        run.tell(Input::Offered(JOB, vec![Item::split(ItemId(0), 10)]));
        run.tell(Input::SourceDone(JOB));
        run.tell(Input::Accepted(JOB));
        let mut sample = Sample { rtt: RTT, rtt_min: RTT, pto: RTT * 2, ..Sample::default() };
        for turn in 0..400 {
            sample = Sample { delivered_bytes: 10 * turn, in_flight_bytes, ..sample };
            run.tell(Input::Sample(ConnId(0), sample));
            run.wait(Duration::from_millis(10));
            assert!(turn > 100 || run.opened.len() == 1, "not at once");
        }
        // What is under way is only slow.
        assert_eq!(run.opened.len(), connections, "{in_flight_bytes} in flight");
    }
}

#[test]
fn one_that_falls_silent_with_all_there_is_gets_company() {
    let mut run = Run::new(10);
    run.tell(Input::Up(ConnId(0)));
    run.tell(Input::Offered(JOB, vec![Item::split(ItemId(0), 10)]));
    run.tell(Input::SourceDone(JOB));
    run.tell(Input::Accepted(JOB));
    assert_eq!(run.sent, [(ConnId(0), 0)]);
    let sample =
        Sample { rtt: RTT, rtt_min: RTT, pto: RTT * 2, in_flight_bytes: 10, ..Sample::default() };
    run.tell(Input::Sample(ConnId(0), sample));
    run.wait(RTT * 8);
    assert_eq!(run.opened.len(), 2, "well before the network counts as gone");
    run.tell(Input::Up(ConnId(1)));
    run.wait(RTT);
    assert_eq!(run.sent, [(ConnId(0), 0), (ConnId(1), 0)]);
}
