//! Congestion control that is chosen late: an incoming connection is up before it is known what it is for.
//!
//! quinn makes a controller when a connection begins, and another one when its path changes. All that one
//! factory here makes follow what it is bound to, whenever that is.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::telemetry::ACK_BYTES_MAX;
use crate::congestion::Controllers;
use crate::mutex::lock;

/// The controllers of one connection, which can be bound to others' once.
///
/// ```
/// # use std::time::Instant;
/// # use qbulk::congestion::{Algorithm, BudgetConfig, SharedBudget, cubic};
/// # use qbulk::net::controllers::Late;
/// let late = Late::new(cubic());
/// // To be given to the connection's transport; it has its own until it is known what it is for.
/// let budget = SharedBudget::new(BudgetConfig::default(), Instant::now());
/// assert!(late.bind(Algorithm::Model.controllers(&budget), 1_200, Instant::now()));
/// ```
pub struct Late {
    first: Controllers,
    bound: OnceLock<Bound>,
}

struct Bound {
    controllers: Controllers,
    mtu: u16,
    at: Instant,
}

impl Late {
    /// Those of `first` decide until others are bound.
    pub fn new(first: Controllers) -> Arc<Self> {
        Arc::new(Self { first, bound: OnceLock::new() })
    }

    /// From `now` on those of `controllers` decide. They begin anew, and know what is in flight: where that
    /// is more than they allow, nothing is sent until it is less. Datagrams are of `mtu` bytes at most by then, which
    /// quinn does not tell where that is what the other end takes in. False if others were bound before.
    pub fn bind(&self, controllers: Controllers, mtu: u16, now: Instant) -> bool {
        self.bound.set(Bound { controllers, mtu, at: now }).is_ok()
    }
}

impl fmt::Debug for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bound = self.bound.get().is_some();
        formatter.debug_struct("Late").field("is_bound", &is_bound).finish_non_exhaustive()
    }
}

impl ControllerFactory for Late {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let bound = self.bound.get();
        let factory = bound.map_or(&self.first, |bound| &bound.controllers);
        let mtu = bound.map_or(current_mtu, |bound| bound.mtu.min(current_mtu));
        let inner = Arc::clone(factory).build(now, mtu);
        let is_bound = bound.is_some();
        let state = State { late: self, inner, is_bound, mtu, in_flight_bytes: 0 };
        Box::new(Follower(Mutex::new(state)))
    }
}

struct State {
    late: Arc<Late>,
    inner: Box<dyn Controller>,
    is_bound: bool,
    mtu: u16,
    in_flight_bytes: u64,
}

impl State {
    /// The one that decides.
    fn inner(&mut self) -> &mut dyn Controller {
        if !self.is_bound
            && let Some(bound) = self.late.bound.get()
        {
            self.mtu = self.mtu.min(bound.mtu);
            self.inner = Arc::clone(&bound.controllers).build(bound.at, self.mtu);
            if self.in_flight_bytes > 0 {
                self.inner.on_sent(bound.at, self.in_flight_bytes, 0);
            }
            self.is_bound = true;
        }
        &mut *self.inner
    }
}

/// A controller that asks whether it is bound whenever it is asked. Nobody waits for the lock: quinn has
/// one around it.
struct Follower(Mutex<State>);

impl Follower {
    fn state(&mut self) -> &mut State {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller for Follower {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        let state = self.state();
        state.inner().on_sent(now, bytes, last_packet_number);
        if bytes > ACK_BYTES_MAX {
            state.in_flight_bytes += bytes;
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.state().inner().on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let state = self.state();
        state.inner().on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        state.in_flight_bytes = in_flight;
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let state = self.state();
        state.inner().on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        state.in_flight_bytes = state.in_flight_bytes.saturating_sub(lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        let state = self.state();
        state.mtu = new_mtu;
        state.inner().on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        lock(&self.0).inner().window()
    }

    fn metrics(&self) -> ControllerMetrics {
        lock(&self.0).inner().metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let mut state = lock(&self.0);
        let inner = state.inner().clone_box();
        let late = Arc::clone(&state.late);
        let State { is_bound, mtu, in_flight_bytes, .. } = *state;
        Box::new(Self(Mutex::new(State { late, inner, is_bound, mtu, in_flight_bytes })))
    }

    fn initial_window(&self) -> u64 {
        lock(&self.0).inner().initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::congestion::{Algorithm, BudgetConfig, SharedBudget, cubic};

    /// Remembers what was sent, beside what it allows.
    #[derive(Clone, Debug, Default)]
    struct Known(Arc<Mutex<Vec<(u16, u64)>>>);

    impl ControllerFactory for Known {
        fn build(self: Arc<Self>, _: Instant, mtu: u16) -> Box<dyn Controller> {
            lock(&self.0).push((mtu, 0));
            Box::new((*self).clone())
        }
    }

    impl Controller for Known {
        fn on_sent(&mut self, _: Instant, bytes: u64, _: u64) {
            lock(&self.0).last_mut().expect("one was built").1 += bytes;
        }

        fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

        fn on_mtu_update(&mut self, _: u16) {}

        fn window(&self) -> u64 {
            77_777
        }

        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(self.clone())
        }

        fn initial_window(&self) -> u64 {
            66_666
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    fn windows(controller: &dyn Controller) -> (u64, u64, u64) {
        let told = controller.metrics().congestion_window;
        (controller.window(), told, controller.initial_window())
    }

    #[test]
    fn until_it_is_bound_it_is_the_first_one() {
        let now = Instant::now();
        let late = Late::new(cubic()) as Controllers;
        let (mut ours, mut theirs) = (late.build(now, 1_200), cubic().build(now, 1_200));
        for step in 1..40_u64 {
            let now = now + Duration::from_millis(step);
            let lost = if step % 7 == 0 { 3_000 } else { 0 };
            for controller in [&mut ours, &mut theirs] {
                controller.on_sent(now, 12_000, step);
                controller.on_end_acks(now, 6_000 * step, false, Some(step));
                if lost > 0 {
                    controller.on_congestion_event(now, now, step == 28, lost);
                }
                if step == 20 {
                    controller.on_mtu_update(9_000);
                }
                if step == 30 {
                    *controller = controller.clone_box();
                }
            }
            assert_eq!(windows(&*ours), windows(&*theirs), "{step}");
        }
    }

    #[test]
    fn once_it_is_bound_all_that_the_connection_has_or_gets_are() {
        let now = Instant::now();
        let (late, known) = (Late::new(cubic()), Known::default());
        let mut first = Arc::clone(&late).build(now, 1_200);
        let mut moved = first.clone_box();
        first.on_sent(now, 30_000, 1);
        first.on_sent(now, 60, 2);
        first.on_congestion_event(now, now, false, 4_000);
        first.on_mtu_update(1_472);
        moved.on_end_acks(now, 5_000, false, None);
        assert!(late.bind(Arc::new(known.clone()), 1_472, now));
        assert!(!late.bind(cubic(), 1_472, now), "it is bound");

        let bound = (77_777, 77_777, 66_666);
        assert_eq!(windows(&*first), bound);
        assert_eq!(windows(&*first.clone_box()), bound);
        assert_eq!(windows(&*moved), bound);
        assert_eq!(windows(&*late.build(now, 1_300)), bound, "a new path");
        let built = [(1_472, 26_000), (1_200, 5_000), (1_300, 0)];
        assert_eq!(*lock(&known.0), built, "each knows its packets and what is in flight");
        first.on_sent(now, 1_000, 3);
        assert_eq!(lock(&known.0).len(), 3, "it is bound once");
    }

    #[test]
    fn those_that_are_bound_to_one_budget_share_it() {
        let now = Instant::now();
        let budget = SharedBudget::new(BudgetConfig::default(), now);
        let model = Algorithm::Model.controllers(&budget);
        let dialled = Arc::clone(&model).build(now, 1_200);
        let late = Late::new(cubic());
        let incoming = Arc::clone(&late).build(now, 1_200);
        late.bind(model, 1_200, now);
        assert_eq!(windows(&*incoming), windows(&*dialled));
        // The other end takes in less than quinn has said before it knew that.
        let changed = Arc::clone(&late).build(now, 65_000);
        assert_eq!(windows(&*changed), windows(&*dialled));
    }
}
