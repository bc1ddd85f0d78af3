//! What a connection's transport measures, told live and without taking the connection's lock.
//!
//! quinn calls its congestion controller for every packet that is sent, acknowledged or lost. This one
//! counts and leaves the decisions to the controller inside it.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use crate::congestion::Controllers;
use crate::mutex::lock;
use crate::traffic::Sample;

/// What is sent and is no larger than this holds acknowledgements alone, which nobody answers.
pub(super) const ACK_BYTES_MAX: u64 = 128;
/// RFC 9002, 6.1.2.
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);
/// How long a receiver may hold an acknowledgement back (RFC 9000, 18.2: the default).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// A connection's counters.
#[derive(Debug, Default)]
pub struct Telemetry {
    delivered_bytes: AtomicU64,
    lost_bytes: AtomicU64,
    padding_bytes: AtomicU64,
    window_bytes: AtomicU64,
    rtt_ns: AtomicU64,
    rtt_min_ns: AtomicU64,
    pto_ns: AtomicU64,
    in_flight_bytes: AtomicU64,
    /// Padding by the sizes of its datagrams, in the order in which they go out: how many of which size.
    padding_runs: Mutex<Vec<(u64, u64)>>,
}

impl Telemetry {
    /// Counts padding that was handed to the transport, in bytes.
    pub fn add_padding(&self, bytes: u64) {
        self.padding_bytes.fetch_add(bytes, Relaxed);
        let mut runs = lock(&self.padding_runs);
        match runs.last_mut() {
            Some((count, size)) if *size == bytes => *count += 1,
            _ => runs.push((1, bytes)),
        }
    }

    /// How much of it is in the first `datagrams`, in bytes.
    pub fn padding_in(&self, mut datagrams: u64) -> u64 {
        let mut bytes = 0;
        for &(count, size) in &*lock(&self.padding_runs) {
            bytes += count.min(datagrams) * size;
            datagrams = datagrams.saturating_sub(count);
        }
        bytes
    }

    /// All counters as they are now.
    pub fn sample(&self) -> Sample {
        Sample {
            delivered_bytes: self.delivered_bytes.load(Relaxed),
            padding_bytes: self.padding_bytes.load(Relaxed),
            lost_bytes: self.lost_bytes.load(Relaxed),
            window_bytes: self.window_bytes.load(Relaxed),
            rtt: Duration::from_nanos(self.rtt_ns.load(Relaxed)),
            rtt_min: Duration::from_nanos(self.rtt_min_ns.load(Relaxed)),
            pto: Duration::from_nanos(self.pto_ns.load(Relaxed)),
            in_flight_bytes: self.in_flight_bytes.load(Relaxed),
        }
    }
}

/// Builds controllers that report to one [`Telemetry`]: one factory for each connection.
pub struct Observed {
    /// Where the counts go.
    pub telemetry: Arc<Telemetry>,
    /// Builds the controllers that decide.
    pub inner: Controllers,
}

impl fmt::Debug for Observed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Observed")
            .field("telemetry", &self.telemetry)
            .finish_non_exhaustive()
    }
}

impl ControllerFactory for Observed {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.inner).build(now, current_mtu);
        self.telemetry.window_bytes.store(inner.metrics().congestion_window, Relaxed);
        let telemetry = Arc::clone(&self.telemetry);
        Box::new(Observer { telemetry, rtt_var: Duration::ZERO, inner })
    }
}

struct Observer {
    telemetry: Arc<Telemetry>,
    rtt_var: Duration,
    inner: Box<dyn Controller>,
}

impl Controller for Observer {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if bytes > ACK_BYTES_MAX {
            self.telemetry.in_flight_bytes.fetch_add(bytes, Relaxed);
        }
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.telemetry.delivered_bytes.fetch_add(bytes, Relaxed);
        let latest = now.saturating_duration_since(sent);
        // RFC 9002, 5.3 and 6.2.1; quinn keeps the variation to itself. What it tells is from before this
        // acknowledgement: of the first one that is a guess of a third of a second.
        let (smoothed, least) = if self.telemetry.rtt_ns.load(Relaxed) == 0 {
            self.rtt_var = latest / 2;
            (latest, latest)
        } else {
            self.rtt_var = (self.rtt_var * 3 + rtt.get().abs_diff(latest)) / 4;
            (rtt.get(), rtt.min())
        };
        let pto = smoothed + (self.rtt_var * 4).max(TIMER_GRANULARITY) + MAX_ACK_DELAY;
        self.telemetry.pto_ns.store(pto.as_nanos() as u64, Relaxed);
        self.telemetry.rtt_ns.store(smoothed.as_nanos() as u64, Relaxed);
        self.telemetry.rtt_min_ns.store(least.as_nanos() as u64, Relaxed);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        self.telemetry.window_bytes.store(self.inner.metrics().congestion_window, Relaxed);
        self.telemetry.in_flight_bytes.store(in_flight, Relaxed);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.telemetry.lost_bytes.fetch_add(lost_bytes, Relaxed);
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        self.telemetry.window_bytes.store(self.inner.metrics().congestion_window, Relaxed);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let inner = self.inner.clone_box();
        Box::new(Self { telemetry: Arc::clone(&self.telemetry), rtt_var: self.rtt_var, inner })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_counts_as_sent_when_its_datagrams_have_left() {
        let telemetry = Telemetry::default();
        for bytes in [1_200, 1_200, 8_000, 1_200] {
            telemetry.add_padding(bytes);
        }
        let sent: Vec<_> = (0..6).map(|datagrams| telemetry.padding_in(datagrams)).collect();
        assert_eq!(sent, [0, 1_200, 2_400, 10_400, 11_600, 11_600]);
        assert_eq!(telemetry.sample().padding_bytes, 11_600);
    }
}
