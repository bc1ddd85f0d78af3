//! Connections that a push has given up: told together, and only where others make up for them.

/// How long one that was given up waits for others that share its fate, in seconds: a server that is
/// restarted loses all within this time, and then nobody takes over.
const GATHER_S: f64 = 1.0;

/// Those that are not told of yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    waiting: Vec<Loss>,
    since_s: Option<f64>,
    now_s: f64,
}

#[derive(Debug)]
struct Loss {
    conn: u32,
    verdict: &'static str,
    stripes: usize,
}

impl Losses {
    /// `conn` was given up while it carried `stripes`.
    pub(super) fn add(&mut self, conn: u32, verdict: &'static str, stripes: usize) {
        if stripes > 0 {
            self.since_s.get_or_insert(self.now_s);
            self.waiting.push(Loss { conn, verdict, stripes });
        }
    }

    /// All are lost: there are no others.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.since_s = None;
    }

    /// It is `now_s`, and so many connections are up. Returns what is to be told now.
    pub(super) fn due(&mut self, now_s: f64, connections: usize) -> Vec<String> {
        self.now_s = now_s;
        match self.since_s {
            Some(since_s) if now_s - since_s >= GATHER_S && connections > 0 => self.all(),
            _ => Vec::new(),
        }
    }

    /// Returns all that is still to be told.
    pub(super) fn all(&mut self) -> Vec<String> {
        self.since_s = None;
        let waiting = std::mem::take(&mut self.waiting);
        let mut verdicts: Vec<_> = waiting.iter().map(|loss| loss.verdict).collect();
        verdicts.sort_unstable();
        verdicts.dedup();
        let tell = |verdict: &str| {
            let same: Vec<_> = waiting.iter().filter(|loss| loss.verdict == verdict).collect();
            let stripes: usize = same.iter().map(|loss| loss.stripes).sum();
            let who = match same.as_slice() {
                [one] => format!("connection {} is", one.conn),
                more => format!("{} connections are", more.len()),
            };
            let why = verdict.replace('_', " ");
            let what = super::units::count(stripes as u64, "stripe");
            format!("{who} given up ({why}): others take over {what}")
        };
        verdicts.into_iter().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_together_is_told_in_one_line() {
        let mut losses = Losses::default();
        for conn in 0..3 {
            losses.add(conn, "lost", 2);
        }
        losses.add(3, "below_floor", 1);
        losses.add(4, "surplus", 0);
        assert!(losses.due(0.5, 6).is_empty());
        assert_eq!(
            losses.due(1.0, 6),
            [
                "connection 3 is given up (below floor): others take over 1 stripe",
                "3 connections are given up (lost): others take over 6 stripes",
            ]
        );
        assert!(losses.due(2.0, 6).is_empty());
    }

    #[test]
    fn nobody_takes_over_from_connections_that_were_all() {
        let mut losses = Losses::default();
        losses.add(0, "lost", 2);
        assert!(losses.due(5.0, 0).is_empty());
        losses.forget();
        assert!(losses.due(9.0, 10).is_empty());
    }
}
