//! What is small, or slow, is not slower for being sent over a set of connections.

use std::time::Duration;

use tokio::time::Instant;

use super::{MS, SLACK};
use crate::network::Lane;
use crate::scene::Scene;

/// A line of so many bits per second that all connections share, over eight lanes as wide.
fn line(seed: u64, bytes: usize, bits_per_s: f64, rtt: Duration) -> Scene {
    let wide = Lane::new(1e12, Duration::ZERO);
    let trunk = Lane { queue: Duration::from_secs(1), ..Lane::new(bits_per_s / 8.0, rtt / 2) };
    Scene::with_trunk(seed, bytes, vec![wide; 8], Some(trunk))
}

#[tokio::test(start_paused = true)]
async fn few_bytes_over_a_slow_line_do_not_wait_for_handshakes() {
    let scene = line(1, 1_000, 1e5, 60 * MS);
    let began = Instant::now();
    scene.push().await.expect("a push that goes through");
    let took = began.elapsed();
    // A handshake and an exchange of hello and welcome, of about 6 kB, and two round trips at the end.
    assert!(took < Duration::from_millis(1_200), "{took:?}");
    let sent = scene.carried().sent_bytes;
    assert!(sent < 16_000, "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn what_is_limited_is_sent_once_and_padding_takes_nothing_of_the_limit() {
    for (bytes, rate, padding_most) in
        [(2, 10_000, 0), (70_000, 20_000, 0), (1_000_000, 100_000, 130_000)]
    {
        let scene = line(1, bytes, 1e8, 20 * MS);
        let began = Instant::now();
        let pushed = scene.push_with(|config| config.rate_max = Some(rate)).await;
        let (took, summary) = (began.elapsed(), pushed.expect("a push that goes through"));
        let least = Duration::from_secs_f64(bytes as f64 / rate as f64);
        assert!(took < least.mul_f64(1.05) + SLACK, "{took:?} of {least:?}");
        // The last one may be late when all that is left of the limit is its own.
        assert!(summary.stripes_again <= 1, "{bytes} bytes");
        assert!(summary.padding_sent_bytes <= padding_most, "{}", summary.padding_sent_bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_lane_holds_little_data_up_for_a_few_round_trips_only() {
    let mut times = Vec::new();
    for is_bad in [false, true] {
        let scene = line(1, 100_000, 4e7, 50 * MS);
        scene.network.change(|number, lane| {
            if is_bad && (number == 2 || number == 5) {
                (lane.bytes_per_s, lane.polices) = (300e3 / 8.0, true);
                lane.queue = 200 * MS;
            }
        });
        let began = Instant::now();
        scene.push().await.expect("a push that goes through");
        times.push(began.elapsed());
    }
    assert!(times[1] < times[0] + 5 * 50 * MS, "{times:?}");
}
