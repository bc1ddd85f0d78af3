//! A random network, and what happens to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use crate::TIME_MAX;
use crate::network::Lane;
use crate::scene::Scene;

/// What may come between, whatever the network is like.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a lane still carries that loses up to half of it, or up to a tenth if it is the only one.
const LOSSY_SHARE: f64 = 0.02;

#[derive(Debug)]
pub(crate) struct Scenario {
    seed: u64,
    bytes: usize,
    lanes: Vec<Lane>,
    /// What happens, and how much of the file has arrived by then.
    faults: Vec<(f64, Fault)>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut { lane: usize },
    Slow { lane: usize, factor: f64 },
    Lossy { lane: usize, lost: f64 },
    Small { mtu: usize },
    Away { time: Duration },
    Heal,
    Rebind,
    RestartServer { pause: Duration },
}

impl Fault {
    fn draw(rng: &mut SmallRng, lanes: usize) -> Self {
        let lane = rng.random_range(0..lanes);
        let time = Duration::from_millis(rng.random_range(200..60_000));
        match rng.random_range(0..8) {
            // A network of one lane would be gone for good.
            0 if lanes > 1 => Self::Cut { lane },
            1 => Self::Slow { lane, factor: rng.random_range(0.01..0.5) },
            2 => Self::Lossy {
                lane,
                lost: rng.random_range(0.05..0.5) / if lanes > 1 { 1.0 } else { 5.0 },
            },
            3 => Self::Small { mtu: rng.random_range(1_228..1_472) },
            4 => Self::Away { time },
            5 => Self::Heal,
            6 => Self::RestartServer { pause: time },
            _ => Self::Rebind,
        }
    }
}

impl Scenario {
    fn draw(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sometimes = |rng: &mut SmallRng, most: f64| {
            if rng.random_bool(0.3) { rng.random_range(0.0..most) } else { 0.0 }
        };
        let whole = Lane {
            queue: Duration::from_millis(rng.random_range(10..150)),
            lost: sometimes(&mut rng, 0.02),
            late: sometimes(&mut rng, 0.05),
            doubled: sometimes(&mut rng, 0.05),
            damaged: sometimes(&mut rng, 0.01),
            ..Lane::new(
                10_f64.powf(rng.random_range(6.3..7.7)),
                Duration::from_millis(rng.random_range(1..150)),
            )
        };
        let count = rng.random_range(1..=16);
        let lanes: Vec<_> = (0..count)
            .map(|_| {
                let bytes_per_s = whole.bytes_per_s / f64::from(count) * rng.random_range(0.5..1.5);
                let delay = whole.delay.mul_f64(rng.random_range(0.9..1.2));
                Lane { bytes_per_s, delay, ..whole }
            })
            .collect();
        let bytes = rng.random_range(1..16_000_000);
        let mut faults: Vec<(f64, Fault)> = (0..rng.random_range(0..5))
            .map(|_| (rng.random_range(0.0..0.9), Fault::draw(&mut rng, lanes.len())))
            .collect();
        faults.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Self { seed, bytes, lanes, faults }
    }

    /// Whether a push comes through.
    pub(crate) fn holds(seed: u64) -> bool {
        let scenario = Self::draw(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(scenario.run())));
        if ran.is_err() {
            eprintln!("that was {scenario:#?}");
        }
        ran.is_ok()
    }

    async fn run(&self) {
        let scene = Scene::new(self.seed, self.bytes, self.lanes.clone());
        let began = Instant::now();
        let pushing = async {
            let pushed = timeout(TIME_MAX, scene.push()).await.expect("an end");
            pushed.expect("a push that comes through")
        };
        // What has not happened when the push ends does not matter.
        let mut away = Duration::ZERO;
        let summary = tokio::select! {
            summary = pushing => summary,
            () = self.disturb(&scene, &mut away) => unreachable!("it goes on for ever"),
        };
        let took = began.elapsed();
        assert_eq!((summary.failed, summary.bytes), (0, self.bytes as u64));
        scene.check().await;
        let ideal = self.bytes as f64 / self.rate_min();
        eprintln!(
            "seed {}: {:.1} s of {ideal:.1} s, {away:?} away, {} given up, {} interruptions",
            self.seed,
            took.as_secs_f64(),
            summary.connections_condemned,
            summary.interruptions,
        );
        let most = Duration::from_secs_f64(ideal * 10.0) + away + PATIENCE;
        assert!(took < most, "{took:?}, at most {most:?}");
    }

    /// What the network carries at its worst while it is there, in bytes per second.
    fn rate_min(&self) -> f64 {
        let mut rates: Vec<_> = self.lanes.iter().map(|lane| lane.bytes_per_s).collect();
        let mut least = rates.iter().sum();
        for (_, fault) in &self.faults {
            match *fault {
                Fault::Cut { lane } => rates[lane] = 0.0,
                Fault::Slow { lane, factor } => rates[lane] *= factor,
                Fault::Lossy { lane, .. } => rates[lane] *= LOSSY_SHARE,
                _ => {}
            }
            least = rates.iter().sum::<f64>().min(least);
        }
        least
    }

    async fn disturb(&self, scene: &Scene, away: &mut Duration) {
        for &(share, fault) in &self.faults {
            scene.arrived(share).await;
            let network = &scene.network;
            match fault {
                Fault::Cut { lane } => network.change(|number, it| it.is_cut |= number == lane),
                Fault::Slow { lane, factor } => network.change(|number, it| {
                    if number == lane {
                        it.bytes_per_s *= factor;
                    }
                }),
                Fault::Lossy { lane, lost } => network.change(|number, it| {
                    if number == lane {
                        it.lost = lost;
                    }
                }),
                Fault::Small { mtu } => network.change(|_, it| it.mtu = mtu),
                Fault::Away { time } => {
                    network.change(|_, it| it.is_cut = true);
                    *away += time;
                    sleep(time).await;
                    network.change(|number, it| *it = self.lanes[number]);
                }
                Fault::Heal => network.change(|number, it| *it = self.lanes[number]),
                Fault::Rebind => network.rebind(),
                Fault::RestartServer { pause } => {
                    *away += pause;
                    scene.restart_server(pause).await;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}
