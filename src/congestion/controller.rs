//! The budget behind quinn's [`Controller`].

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::{Budget, BudgetConfig, MemberId, PathMemory};
use crate::mutex::lock;

/// Who decides how much may be in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The budget, for all connections together.
    #[default]
    Model,
    /// CUBIC (RFC 9438), for each connection by itself.
    Cubic,
    /// A window that never changes: for what is held back by something else.
    Fixed,
}

/// The controllers of one transfer's connections.
pub type Controllers = Arc<dyn ControllerFactory + Send + Sync>;

impl Algorithm {
    /// The controllers; with [`Algorithm::Model`] they share `budget`.
    pub fn controllers(self, budget: &SharedBudget) -> Controllers {
        match self {
            Self::Model => Arc::new(ModelConfig { budget: budget.clone() }),
            Self::Cubic => cubic(),
            Self::Fixed => Arc::new(FixedWindow),
        }
    }
}

/// CUBIC for each connection alone (RFC 9438).
pub fn cubic() -> Controllers {
    Arc::new(Cubic)
}

/// quinn's begins with a number of bytes, into which a datagram of the loopback does not fit.
#[derive(Debug)]
struct Cubic;

impl ControllerFactory for Cubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mtu = u64::from(current_mtu);
        let mut config = CubicConfig::default();
        // RFC 9002, 7.2.
        config.initial_window((10 * mtu).min((2 * mtu).max(14_720)));
        Arc::new(config).build(now, current_mtu)
    }
}

/// What may be in flight in a window that never changes, in bytes: more than what is under way in a pipe and in
/// what it leads through, before that holds back whoever writes.
const FIXED_WINDOW_BYTES: u64 = 16 << 20;

/// Whoever carries the datagrams says how fast, and loses none.
#[derive(Clone, Debug)]
struct FixedWindow;

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        FIXED_WINDOW_BYTES
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIXED_WINDOW_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The budget that a transfer's connections share.
#[derive(Clone, Debug)]
pub struct SharedBudget(Arc<Mutex<Budget>>);

impl SharedBudget {
    /// A budget for connections that have yet to join.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Budget::new(config, now))))
    }

    /// What is worth remembering of the path.
    pub fn memory(&self) -> Option<PathMemory> {
        self.lock().memory()
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        lock(&self.0)
    }
}

#[derive(Debug)]
struct ModelConfig {
    budget: SharedBudget,
}

impl ControllerFactory for ModelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let (id, window) = self.budget.lock().join(current_mtu, now);
        let initial_window = window.load(Relaxed);
        let seat = Arc::new(Seat { budget: self.budget.clone(), id, window });
        Box::new(Model { seat, initial_window, mtu: current_mtu, in_flight_bytes: 0 })
    }
}

/// A connection's place in the budget; it is given back when the connection is gone.
#[derive(Debug)]
struct Seat {
    budget: SharedBudget,
    id: MemberId,
    window: Arc<AtomicU64>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.budget.lock().leave(self.id);
    }
}

#[derive(Clone, Debug)]
struct Model {
    seat: Arc<Seat>,
    initial_window: u64,
    mtu: u16,
    in_flight_bytes: u64,
}

/// quinn paces at 1.25 windows a round trip, and what its timers come late for is lost. A window that
/// looks larger while there is room in it makes up for that.
const PACING_BOOST: f64 = 1.6;
/// quinn looks at the window before each packet of a batch, and tells of the batch after it.
const BATCH_PACKETS: u64 = 16;

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.in_flight_bytes += bytes;
        self.seat.budget.lock().on_sent(self.seat.id, bytes, now);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.seat.budget.lock().on_ack(self.seat.id, sent, bytes, now);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight_bytes = in_flight;
        self.seat.budget.lock().on_acks_end(self.seat.id, in_flight, app_limited, now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let mut budget = self.seat.budget.lock();
        budget.on_lost(self.seat.id, lost_bytes, is_persistent_congestion, now);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.seat.budget.lock().on_mtu(self.seat.id, new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.seat.window.load(Relaxed);
        let is_roomy = self.in_flight_bytes + BATCH_PACKETS * u64::from(self.mtu) < window;
        if is_roomy { (window as f64 * PACING_BOOST) as u64 } else { window }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.seat.window.load(Relaxed);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
