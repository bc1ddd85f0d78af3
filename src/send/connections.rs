//! What the connections of a push did, for who watches it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::event::{ConnectionState, ConnectionTotal};
use crate::traffic::{ConnId, Role, Sample};

/// Connections that are over and that the summary tells about one by one.
const GONE_MAX: usize = 1_000;

/// Counts by connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    up: BTreeMap<ConnId, Up>,
    gone: Vec<ConnectionTotal>,
    gone_padding_bytes: u64,
}

#[derive(Debug)]
struct Up {
    local: SocketAddr,
    remote: SocketAddr,
    since: Instant,
    stripes: u64,
    /// What was delivered when its state was last told, and when that was.
    told_bytes: u64,
    told_at: Instant,
}

impl Connections {
    pub(super) fn up(&mut self, conn: ConnId, local: SocketAddr, remote: SocketAddr, now: Instant) {
        let up = Up { local, remote, since: now, stripes: 0, told_bytes: 0, told_at: now };
        self.up.insert(conn, up);
    }

    /// The server has a stripe that came over `conn`.
    pub(super) fn confirmed(&mut self, conn: ConnId) {
        if let Some(up) = self.up.get_mut(&conn) {
            up.stripes += 1;
        }
    }

    /// `conn` is over, for the reason `end`.
    pub(super) fn down(&mut self, conn: ConnId, sample: Sample, end: &'static str, now: Instant) {
        let Some(up) = self.up.remove(&conn) else { return };
        self.gone_padding_bytes += sample.padding_bytes;
        if self.gone.len() < GONE_MAX {
            self.gone.push(up.total(conn, sample, end, now));
        }
    }

    /// How `conn` does. Its goodput is that since this was last asked.
    pub(super) fn state(
        &mut self,
        conn: ConnId,
        role: Role,
        sample: Sample,
        now: Instant,
    ) -> Option<ConnectionState> {
        let up = self.up.get_mut(&conn)?;
        let bytes = sample.delivered_bytes.saturating_sub(up.told_bytes);
        let goodput_bytes_per_s = per_second(bytes, now - up.told_at);
        (up.told_bytes, up.told_at) = (sample.delivered_bytes, now);
        Some(ConnectionState {
            conn: conn.0,
            role: role_name(role),
            rtt_ms: milliseconds(sample.rtt),
            rtt_min_ms: milliseconds(sample.rtt_min),
            goodput_bytes_per_s,
            window_bytes: sample.window_bytes,
            in_flight_bytes: sample.in_flight_bytes,
            delivered_bytes: sample.delivered_bytes,
            lost_bytes: sample.lost_bytes,
            padding_bytes: sample.padding_bytes,
            stripes: up.stripes,
        })
    }

    /// What each did, by their numbers: those that are over, and those that have lasted to the end.
    pub(super) fn totals(
        &self,
        transfer: &str,
        samples: impl IntoIterator<Item = (ConnId, Sample)>,
        now: Instant,
    ) -> Vec<ConnectionTotal> {
        let mut totals = self.gone.clone();
        totals.extend(samples.into_iter().filter_map(|(conn, sample)| {
            Some(self.up.get(&conn)?.total(conn, sample, "done", now))
        }));
        totals.sort_by_key(|total| total.conn);
        for total in &mut totals {
            total.transfer = transfer.into();
        }
        totals
    }

    /// Padding sent on connections that are over.
    pub(super) fn gone_padding_bytes(&self) -> u64 {
        self.gone_padding_bytes
    }
}

impl Up {
    fn total(
        &self,
        conn: ConnId,
        sample: Sample,
        end: &'static str,
        now: Instant,
    ) -> ConnectionTotal {
        let up = now - self.since;
        ConnectionTotal {
            transfer: String::new(),
            conn: conn.0,
            local: self.local,
            remote: self.remote,
            end,
            up_s: up.as_secs_f64(),
            rtt_ms: milliseconds(sample.rtt),
            rtt_min_ms: milliseconds(sample.rtt_min),
            goodput_bytes_per_s: per_second(sample.delivered_bytes, up),
            delivered_bytes: sample.delivered_bytes,
            lost_bytes: sample.lost_bytes,
            padding_bytes: sample.padding_bytes,
            stripes: self.stripes,
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Opening => "opening",
        Role::Priming => "priming",
        Role::Reserve => "reserve",
        Role::Active => "active",
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(delivered_bytes: u64) -> Sample {
        Sample { delivered_bytes, padding_bytes: 10, ..Sample::default() }
    }

    #[test]
    fn goodput_is_that_of_the_last_interval_and_totals_are_those_of_all_time() {
        let (mut connections, start) = (Connections::default(), Instant::now());
        let second = |count| start + Duration::from_secs(count);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for conn in [ConnId(0), ConnId(1)] {
            connections.up(conn, address, address, start);
        }
        connections.confirmed(ConnId(1));
        let mut goodput = |delivered_bytes, now| {
            let state =
                connections.state(ConnId(1), Role::Active, sample(delivered_bytes), second(now));
            state.unwrap().goodput_bytes_per_s
        };
        assert!((goodput(1_000, 1) - 1_000.0).abs() < 1e-6);
        assert!((goodput(4_000, 2) - 3_000.0).abs() < 1e-6);

        connections.down(ConnId(0), sample(500), "slow", second(1));
        let totals = connections.totals("x", [(ConnId(1), sample(8_000))], second(4));
        let told: Vec<_> = totals
            .iter()
            .map(|total| (total.conn, total.end, total.goodput_bytes_per_s as u64, total.stripes))
            .collect();
        assert_eq!(told, [(0, "slow", 500, 0), (1, "done", 2_000, 1)]);
        assert_eq!(connections.gone_padding_bytes(), 10);
    }
}
