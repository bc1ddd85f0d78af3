//! Whether connections are too many for a path: the least window of each is some packets, and where the path holds
//! less than all of those, what is too much is lost over and over, however slow the connections become.

use std::time::{Duration, Instant};

/// A path that loses this share, and holds less than this for each connection, in bytes, is crowded.
const LOSS_SHARE: f64 = 0.1;
const HOLDS_BYTES: f64 = 6_000.0;
/// Below this share it is not any more.
const LOSS_SHARE_WELL: f64 = 0.02;
/// Fewer after this time, and one more after that.
const LESS_TIME: Duration = Duration::from_millis(300);
const MORE_TIME: Duration = Duration::from_secs(1);
/// One more is tried after this time whatever is lost: those that are active may just be the wrong ones.
const RETRY_TIME: Duration = Duration::from_secs(2);
/// So many stay active, so that one can be told from another.
const ACTIVE_MIN: usize = 2;

/// How many connections a path holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// `None` where that is no matter.
    most: Option<usize>,
    changed_at: Instant,
}

/// What is seen of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// What most of those lose that carry something.
    pub(super) loss_share: f64,
    /// What it delivers in its shortest round trip, in bytes.
    pub(super) holds_bytes: f64,
    pub(super) active: usize,
}

impl Crowd {
    pub(super) fn new(now: Instant) -> Self {
        Self { most: None, changed_at: now }
    }

    /// How many of `active` connections should carry data.
    pub(super) fn fits(self, active: usize) -> usize {
        self.most.map_or(active, |most| active.min(most))
    }

    /// Takes in how it looks now.
    pub(super) fn on_view(&mut self, view: View, now: Instant) {
        let passed = now - self.changed_at;
        let is_crowded = view.loss_share > LOSS_SHARE
            && view.holds_bytes > 0.0
            && view.holds_bytes < HOLDS_BYTES * view.active as f64;
        if is_crowded && view.active > ACTIVE_MIN && passed >= LESS_TIME {
            let fits = (view.holds_bytes / HOLDS_BYTES) as usize;
            *self = Self { most: Some(fits.max(ACTIVE_MIN)), changed_at: now };
        } else if passed >= RETRY_TIME || view.loss_share < LOSS_SHARE_WELL && passed >= MORE_TIME {
            // Those that are not active may be needed elsewhere, so this grows whether they are or not.
            let most = self.most.map(|most| most + 1).filter(|&most| most <= view.active + 1);
            *self = Self { most, changed_at: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of eight carry data after as many looks at a path, a tenth of a second apart.
    fn after(crowd: &mut Crowd, looks: u32, loss_share: f64, holds_bytes: f64) -> usize {
        for _ in 0..looks {
            let view = View { loss_share, holds_bytes, active: crowd.fits(8) };
            crowd.on_view(view, crowd.changed_at + Duration::from_millis(100));
            crowd.on_view(view, crowd.changed_at + MORE_TIME);
        }
        crowd.fits(8)
    }

    #[test]
    fn a_path_that_loses_what_it_cannot_hold_gets_fewer_and_gets_them_back() {
        let mut crowd = Crowd::new(Instant::now());
        assert_eq!(after(&mut crowd, 3, 0.3, 31_000.0), 5);
        assert_eq!(after(&mut crowd, 20, 0.3, 7_500.0), 2);
        assert_eq!(after(&mut crowd, 20, 0.05, 7_500.0), 2);
        crowd.on_view(
            View { loss_share: 0.3, holds_bytes: 1.0, active: 2 },
            crowd.changed_at + RETRY_TIME,
        );
        assert_eq!(crowd.fits(8), 3, "one more is tried in time");
        assert_eq!(after(&mut crowd, 1, 0.3, 7_500.0), 2);
        assert_eq!(after(&mut crowd, 3, 0.0, 7_500.0), 5);
        assert_eq!(after(&mut crowd, 20, 0.0, 7_500.0), 8);
    }

    #[test]
    fn one_that_loses_much_and_holds_more_is_left_alone_and_so_is_a_short_one_without_loss() {
        let mut crowd = Crowd::new(Instant::now());
        assert_eq!(after(&mut crowd, 20, 0.3, 1e6), 8);
        assert_eq!(after(&mut crowd, 20, 0.0, 10.0), 8);
    }
}
