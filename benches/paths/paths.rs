//! The paths that are measured.

use std::time::Duration;

use crate::network::Lane;
use crate::path::Path;

/// All of them, by what is special about them.
pub(crate) fn all() -> Vec<Path> {
    [clean(), lossy(), queues(), policed(), odd(), changing(), lanes(), shared()].concat()
}

fn clean() -> Vec<Path> {
    vec![
        Path::new("0.1 Mbit/s, 60 ms", 0.1, 60.0).queue_ms(1_000.0),
        Path::new("1 Mbit/s, 30 ms", 1.0, 30.0).queue_ms(200.0),
        Path::new("2 Mbit/s, 30 ms", 2.0, 30.0).queue_ms(100.0),
        Path::new("10 Mbit/s, 600 ms", 10.0, 600.0),
        Path::new("20 Mbit/s, 30 ms", 20.0, 30.0),
        Path::new("100 Mbit/s, 20 ms", 100.0, 20.0),
        Path::new("400 Mbit/s, 50 ms", 400.0, 50.0),
        Path::new("400 Mbit/s, 250 ms", 400.0, 250.0),
        Path::new("1 Gbit/s, 1 ms", 1_000.0, 1.0),
        Path::new("1 Gbit/s, 100 ms", 1_000.0, 100.0),
        Path::new("10 Gbit/s, 0.2 ms", 10_000.0, 0.2),
        Path::new("10 Gbit/s, 20 ms", 10_000.0, 20.0),
    ]
}

fn lossy() -> Vec<Path> {
    let bursts = |lane: &mut Lane| lane.lost_in_a_row = 8.0;
    vec![
        Path::new("100 Mbit/s, 50 ms, loses 0.1%", 100.0, 50.0).lost(0.001),
        Path::new("100 Mbit/s, 50 ms, loses 1%", 100.0, 50.0).lost(0.01),
        Path::new("100 Mbit/s, 50 ms, loses 5%", 100.0, 50.0).lost(0.05),
        Path::new("400 Mbit/s, 125 ms, loses 0.1%", 400.0, 125.0).lost(0.001),
        Path::new("20 Mbit/s, 200 ms, loses 2%", 20.0, 200.0).lost(0.02),
        Path::new("100 Mbit/s, 50 ms, loses 1% in runs", 100.0, 50.0).lost(0.01).trunk(bursts),
    ]
}

fn queues() -> Vec<Path> {
    vec![
        Path::new("100 Mbit/s, 40 ms, a queue of 2 ms", 100.0, 40.0).queue_ms(2.0),
        Path::new("400 Mbit/s, 50 ms, a queue of 5 ms", 400.0, 50.0).queue_ms(5.0),
        Path::new("20 Mbit/s, 30 ms, a queue of 2 s", 20.0, 30.0).queue_ms(2_000.0),
        Path::new("100 Mbit/s, 40 ms, a queue of 500 ms", 100.0, 40.0).queue_ms(500.0),
    ]
}

fn policed() -> Vec<Path> {
    let policer = |lane: &mut Lane| {
        lane.polices = true;
        lane.queue = Duration::from_millis(30);
    };
    let each = |mbit_per_s: f64| {
        move |_: usize, lane: &mut Lane| {
            lane.bytes_per_s = mbit_per_s * 1e6 / 8.0;
            lane.polices = true;
            lane.queue = Duration::from_millis(30);
        }
    };
    vec![
        Path::new("50 Mbit/s, 40 ms, policed", 50.0, 40.0).trunk(policer).uneven(),
        Path::new("400 Mbit/s, 50 ms, each flow policed to 40", 400.0, 50.0)
            .lanes(10, each(40.0))
            .uneven(),
    ]
}

fn odd() -> Vec<Path> {
    vec![
        Path::new("100 Mbit/s, 40 ms, 3% out of order", 100.0, 40.0).trunk(|lane| lane.late = 0.03),
        Path::new("100 Mbit/s, 40 ms, jitter of 20 ms", 100.0, 40.0)
            .trunk(|lane| lane.jitter = Duration::from_millis(20)),
        Path::new("100 Mbit/s, 40 ms, 1 Mbit/s back", 100.0, 40.0)
            .trunk(|lane| lane.back = Some((1e6 / 8.0, 0.0))),
        Path::new("100 Mbit/s, 40 ms, loses 3% back", 100.0, 40.0)
            .trunk(|lane| lane.back = Some((100e6 / 8.0, 0.03))),
    ]
}

/// After what was published of such networks: how often the rate changes, and how much.
fn changing() -> Vec<Path> {
    vec![
        Path::new("100 Mbit/s, 40 ms, halves and doubles", 100.0, 40.0)
            .changes(&[(5.0, 0.5), (10.0, 1.0)]),
        Path::new("LTE: 5 to 40 Mbit/s, 60 ms", 40.0, 60.0).queue_ms(400.0).changes(&[
            (1.0, 0.6),
            (2.0, 0.3),
            (2.5, 0.8),
            (4.0, 0.125),
            (4.6, 0.5),
            (6.0, 0.9),
            (7.5, 0.25),
            (8.5, 1.0),
        ]),
        Path::new("5G: 50 to 800 Mbit/s, 30 ms", 800.0, 30.0).queue_ms(100.0).changes(&[
            (0.8, 0.4),
            (1.5, 0.9),
            (2.2, 0.0625),
            (2.7, 0.6),
            (4.0, 0.25),
            (5.0, 1.0),
        ]),
        Path::new(
            "satellite in low orbit: 60 to 200 Mbit/s, 45 ms, loses 0.5% in runs",
            200.0,
            45.0,
        )
        .queue_ms(100.0)
        .lost(0.005)
        .trunk(|lane| lane.lost_in_a_row = 10.0)
        .changes(&[(3.0, 0.7), (6.0, 0.5), (9.0, 0.9), (12.0, 0.3), (15.0, 1.0)]),
    ]
}

fn lanes() -> Vec<Path> {
    let bad = |change: fn(&mut Lane)| {
        move |number: usize, lane: &mut Lane| {
            if number == 2 || number == 5 {
                change(lane);
            }
        }
    };
    let each = |_: usize, lane: &mut Lane| lane.bytes_per_s = 50e6 / 8.0;
    let unequal =
        |number: usize, lane: &mut Lane| lane.delay = Duration::from_millis(2 * number as u64);
    vec![
        Path::new("400 Mbit/s, 50 ms, 8 lanes of 50", 400.0, 50.0).lanes(8, each),
        Path::new("400 Mbit/s, 50 ms, 8 lanes of unequal delay", 400.0, 50.0).lanes(8, unequal),
        Path::new("40 Mbit/s, 50 ms, 8 lanes", 40.0, 50.0).lanes(8, |_, _| ()),
        Path::new("40 Mbit/s, 50 ms, 2 of 8 lanes dead", 40.0, 50.0)
            .lanes(8, bad(|lane| lane.is_cut = true)),
        Path::new("40 Mbit/s, 50 ms, 2 of 8 lanes narrow", 40.0, 50.0)
            .lanes(8, bad(|lane| lane.bytes_per_s = 300e3 / 8.0)),
        Path::new("40 Mbit/s, 50 ms, 2 of 8 lanes policed", 40.0, 50.0).lanes(
            8,
            bad(|lane| {
                lane.bytes_per_s = 300e3 / 8.0;
                lane.polices = true;
                lane.queue = Duration::from_millis(200);
            }),
        ),
        Path::new("40 Mbit/s, 50 ms, 2 of 8 lanes lose 30%", 40.0, 50.0)
            .lanes(8, bad(|lane| lane.lost = 0.3)),
        Path::new("2 Mbit/s, 50 ms, 2 of 8 lanes narrow", 2.0, 50.0)
            .lanes(8, bad(|lane| lane.bytes_per_s = 30e3 / 8.0)),
        Path::new("2 Mbit/s, 50 ms, 2 of 8 lanes lose 30%", 2.0, 50.0)
            .lanes(8, bad(|lane| lane.lost = 0.3)),
        Path::new("400 Mbit/s, 50 ms, 2 of 8 lanes narrow", 400.0, 50.0)
            .lanes(8, bad(|lane| lane.bytes_per_s = 3e6 / 8.0)),
        Path::new("400 Mbit/s, 50 ms, 2 of 8 lanes lose 30%", 400.0, 50.0)
            .lanes(8, bad(|lane| lane.lost = 0.3)),
        Path::new("400 Mbit/s, 50 ms, 2 of 8 lanes dead", 400.0, 50.0)
            .lanes(8, bad(|lane| lane.is_cut = true)),
    ]
}

fn shared() -> Vec<Path> {
    vec![
        Path::new("20 Mbit/s, 30 ms, beside CUBIC", 20.0, 30.0).queue_ms(100.0).shared(),
        Path::new("100 Mbit/s, 50 ms, beside CUBIC", 100.0, 50.0).shared(),
    ]
}
