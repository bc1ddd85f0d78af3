//! One connection of a set: what it is for, what it carries, and how it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::plan::{Stripe, StripeId};
use super::super::{JobId, Sample};
use super::health::Meter;
use super::prime::Primer;

/// A stripe is late when it has taken twice as long as predicted, and this much more.
pub(super) const LATE_MARGIN: Duration = Duration::from_millis(50);
const LATE_MAX: Duration = Duration::from_secs(5);

/// What a connection is for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its handshake is under way.
    Opening,
    /// It carries padding.
    Priming,
    /// It is ready and waits for its turn.
    Reserve,
    /// It is given stripes.
    Active,
}

/// A stripe of any job.
pub(super) type JobStripe = (JobId, StripeId);

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) state: State,
    pub(super) sample: Sample,
    pub(super) meter: Meter,
    pub(super) stripes: BTreeMap<JobStripe, Carried>,
    pub(super) flying_bytes: u64,
    pub(super) turn_bytes: u64,
    pub(super) used_at: Instant,
    pub(super) up_at: Option<Instant>,
    /// Something has come back since its handshake.
    pub(super) is_heard: bool,
    /// It was primed, or carried data, since then.
    pub(super) is_opened_up: bool,
    /// What it delivered in its best round trip of priming; 0 before it was fully primed.
    pub(super) primed_bytes: u64,
}

/// A stripe that a connection has been given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    pub(super) bytes: u64,
    /// By its own prediction it is confirmed then.
    pub(super) expected_at: Instant,
    /// It is late from then on.
    pub(super) due_at: Instant,
}

#[derive(Debug)]
pub(super) enum State {
    Opening,
    Priming(Box<Primer>),
    Reserve,
    Active,
}

impl Conn {
    /// One that is being opened.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Opening,
            sample: Sample::default(),
            meter: Meter::new(now),
            stripes: BTreeMap::new(),
            flying_bytes: 0,
            turn_bytes: 0,
            used_at: now,
            up_at: None,
            is_heard: false,
            is_opened_up: false,
            primed_bytes: 0,
        }
    }

    pub(super) fn role(&self) -> Role {
        match self.state {
            State::Opening => Role::Opening,
            State::Priming(_) => Role::Priming,
            State::Reserve => Role::Reserve,
            State::Active => Role::Active,
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening)
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Active)
    }

    /// It is given a stripe.
    pub(super) fn carry(&mut self, job: JobId, stripe: &Stripe, now: Instant) {
        if self.stripes.is_empty() {
            self.meter.resume(now);
        }
        self.flying_bytes += stripe.bytes;
        let goodput = self.meter.pace();
        let sending = if goodput > 0.0 { self.flying_bytes as f64 / goodput } else { 0.0 };
        // Far too long is no longer a prediction.
        let sending = Duration::from_secs_f64(sending.min(LATE_MAX.as_secs_f64()));
        let time = sending + self.sample.rtt;
        let (expected_at, due_at) = (now + time, now + time * 2 + LATE_MARGIN);
        let carried = Carried { bytes: stripe.bytes, expected_at, due_at };
        self.stripes.insert((job, stripe.id), carried);
    }

    /// How long it would take for so many bytes if it had nothing else to send.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let pace = match self.meter.pace() {
            pace if pace > 0.0 => pace,
            _ => self.meter.allowed(),
        };
        let sending = if pace > 0.0 { bytes as f64 / pace } else { f64::MAX };
        Duration::from_secs_f64(sending.min(LATE_MAX.as_secs_f64())) + self.sample.rtt
    }

    /// It has a stripe no more. False if it had not.
    pub(super) fn put_down(&mut self, stripe: JobStripe, now: Instant) -> bool {
        let carried = self.stripes.remove(&stripe);
        self.flying_bytes -= carried.map_or(0, |carried| carried.bytes);
        if carried.is_some() && self.stripes.is_empty() {
            self.meter.pause(now);
        }
        carried.is_some()
    }

    /// It has nothing of a job any more. Returns which stripes it had.
    pub(super) fn put_down_all(&mut self, job: JobId, now: Instant) -> Vec<StripeId> {
        let of_job = self.stripes.keys().filter(|&&(of, _)| of == job);
        let stripes: Vec<StripeId> = of_job.map(|&(_, stripe)| stripe).collect();
        for &stripe in &stripes {
            self.put_down((job, stripe), now);
            self.used_at = now;
        }
        stripes
    }

    /// Nothing of what a stripe holds is wanted.
    pub(super) fn empty(&mut self, stripe: JobStripe) {
        if let Some(carried) = self.stripes.get_mut(&stripe) {
            self.flying_bytes -= std::mem::take(&mut carried.bytes);
        }
    }
}
