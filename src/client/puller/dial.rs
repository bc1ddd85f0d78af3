//! The lines of an attempt: what each says first, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use tokio::sync::mpsc::Sender;

use super::super::config::PullConfig;
use super::super::number::host_number;
use super::super::place::Place;
use super::{Event, Up};
use crate::clock;
use crate::congestion::{Aggressiveness, Algorithm};
use crate::net::control::{self, ControlReader};
use crate::net::endpoint::SAID_WINDOW_BYTES;
use crate::net::line::LineError;
use crate::net::path::any_local;
use crate::net::route::{Route, Siblings};
use crate::net::windows::Windows;
use crate::receive::{Inflow, Left, News, Padding, Receiver};
use crate::traffic::ConnId;
use crate::wire::{
    CLOSE_PROTOCOL, Message, PullRequest, Request, ToSender, TransferSecret, VARINT_MAX, Wish,
};

/// What each line of an attempt is dialled with.
pub(super) struct Dial {
    pub(super) route: Arc<Route>,
    pub(super) request: PullRequest,
    pub(super) welcome: ToSender,
    pub(super) receiver: Arc<Receiver>,
    /// What all lines may take in before it is read, whatever the server sends, and over however many of them.
    pub(super) windows: Arc<Windows>,
    pub(super) news: Sender<News>,
    pub(super) events: Sender<Event>,
}

impl Dial {
    /// Dials a line and takes what comes over it, to its end.
    pub(super) async fn run(self: Arc<Self>, conn: u32, siblings: Siblings) {
        let gone = match self.attend(conn, siblings).await {
            Ok(gone) | Err(gone) => gone,
        };
        drop(self.events.send(Event::Gone(conn, gone)).await);
    }

    async fn attend(&self, conn: u32, siblings: Siblings) -> Result<LineError, LineError> {
        let dialled = self.route.connect(ConnId(conn), siblings).await?;
        let (connection, endpoint) = (dialled.connection, dialled.endpoint);
        let (mut control_out, control_in) = connection.open_bi().await?;
        control::prefer(&control_out);
        let mut introduction = Vec::new();
        let request = PullRequest { conn, ..self.request.clone() };
        Request::Pull(Box::new(request)).encode(&mut introduction);
        self.welcome.encode(&mut introduction);
        if control_out.write_all(&introduction).await.is_err() {
            return Err(connection.closed().await.into());
        }
        let messages = ControlReader::new(control_in);
        let padding = Padding::count(connection.clone());
        let inflow = Inflow::new(connection.clone(), conn, messages, control_out, padding);
        let inflow = inflow.telling(self.news.clone());
        if !self.receiver.join(conn, &connection) {
            return Err(LineError::NotOpened);
        }
        let window = self.windows.widen([0; 32], &connection, SAID_WINDOW_BYTES);
        let remote = connection.remote_address();
        let local = endpoint.local_addr();
        let up = Up {
            connection: connection.clone(),
            local: local.unwrap_or_else(|_| any_local(remote)),
            speaker: inflow.speaker(),
            since: clock::now(),
        };
        drop(self.events.send(Event::Up(conn, up)).await);
        if let Left::Protocol(fault) = inflow.run(&self.receiver, window).await {
            connection.close(VarInt::from_u32(CLOSE_PROTOCOL), fault.as_bytes());
            self.receiver.end_broken(&fault);
        }
        self.receiver.leave(conn);
        Ok(connection.closed().await.into())
    }
}

/// What `config` asks for, to be written at `place`.
pub(super) fn request(config: &PullConfig, transfer: TransferSecret, place: &Place) -> PullRequest {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let pressure = match (config.congestion, config.aggressiveness) {
        (Algorithm::Cubic | Algorithm::Fixed, _) => 0,
        (Algorithm::Model, Aggressiveness::Background) => 1,
        (Algorithm::Model, Aggressiveness::Normal) => 2,
        (Algorithm::Model, Aggressiveness::Max) => 3,
    };
    PullRequest {
        select: config.filter.select(),
        transfer,
        conn: 0,
        pull: place.number,
        host: host_number(),
        destination: place.path.clone(),
        found: place.found,
        sources: config.sources.clone(),
        wish: Wish {
            connections: count(config.set.connections),
            active: count(config.set.active),
            active_max: count(config.set.active_max),
            rate_max: config.rate_max.unwrap_or(0),
            pressure,
            prime_bytes: config.set.prime.budget_bytes,
            stripe_bytes: [config.set.stripe_bytes_min, config.set.stripe_bytes_max],
            turn_stripes: config.set.turn_stripes,
            reprime_after_us: microseconds(config.set.reprime_after),
            prime_target_bytes: config.set.prime.target_bytes,
            prime_time_us: microseconds(config.set.prime.budget_time),
            threshold_ppm: (config.set.health.threshold * 1e6) as u64,
            floor_bytes_per_s: config.set.health.floor_bytes_per_s,
            rtt_max_us: config.set.health.rtt_max.map_or(0, microseconds),
            no_memory: u64::from(!config.remembers),
        },
        names_kept: config.receipt.is_some(),
        skip: config.skip,
        extras: config.extras,
        packing: config.packing,
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(VARINT_MAX).min(VARINT_MAX)
}
