//! One attempt at a server: dials the lines of a set, introduces each, and knows what their loss means.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::config::PushConfig;
use super::number::{host_number, push_number};
use super::path_memory::{PathCache, PathKey};
use super::reach::Reach;
use crate::clock;
use crate::congestion::{BudgetConfig, SharedBudget};
use crate::error::Error;
use crate::net::line::{LineError, LineReport};
use crate::net::lookup::Addresses;
use crate::net::route::{Route, Siblings};
use crate::net::tls;
use crate::send::Lines;
use crate::store::start::Start;
use crate::traffic::ConnId;
use crate::wire::{
    Compares, Extras, HostNumber, Keep, Packing, PushNumber, PushRequest, Request, TransferSecret,
};

/// Brings a sender its lines to a server.
pub(super) struct Session {
    server: String,
    route: Arc<Route>,
    reach: Reach,
    budget: SharedBudget,
    local: Option<IpAddr>,
    paths: Option<PathCache>,
    introduction: Introduction,
    /// A task for each line.
    lines: JoinSet<()>,
}

/// What is the same in the first message of every line.
struct Introduction {
    transfer: TransferSecret,
    destination: Vec<u8>,
    /// The number that this attempt has in common with others at the same push.
    push: PushNumber,
    /// Where it runs.
    host: HostNumber,
    keep: Keep,
    extras: Extras,
    is_stream: bool,
    compares: Compares,
    packing: Packing,
}

impl Session {
    /// A session for the push of `starts` that `config` says, in the attempt `transfer` at it.
    pub(super) fn new(
        config: &PushConfig,
        addresses: Addresses,
        starts: &[Start],
        transfer: TransferSecret,
    ) -> Result<Self, Error> {
        let now = clock::now();
        let all = addresses.all();
        let local = config.bind.first().map(SocketAddr::ip);
        let remembered = config.paths.as_ref().and_then(|paths| {
            // Of several addresses, the one that worked.
            let path = |address: &SocketAddr| PathKey::new(address.ip(), local);
            all.iter().find_map(|address| paths.recall(&path(address)))
        });
        let memory = config.budget.memory.or(remembered);
        let budget = SharedBudget::new(BudgetConfig { memory, ..config.budget }, now);
        let server = config.server_name.clone();
        let reach =
            Reach::new(server.clone(), all, addresses.places(), config.connect_timeout, now);
        let route = Route {
            addresses,
            server_name: config.server_name.clone(),
            bind: config.bind.clone(),
            sockets: Arc::clone(&config.sockets),
            tls: Arc::new(tls::client_config(&config.identity, config.trust.clone())?),
            datagram_bytes_max: config.datagram_bytes_max,
            congestion: config.congestion.controllers(&budget),
        };
        Ok(Self {
            server,
            route: Arc::new(route),
            reach,
            budget,
            local,
            paths: config.paths.clone(),
            introduction: Introduction {
                transfer,
                destination: config.destination.clone(),
                // What is read once is pushed once.
                push: if config.stream.is_some() {
                    PushNumber(rand::random())
                } else {
                    push_number(starts, &config.destination, config.extras)
                },
                host: host_number(),
                keep: config.keep,
                extras: config.extras,
                is_stream: config.stream.is_some(),
                compares: config.skip.compares(),
                packing: config.read.packing,
            },
            lines: JoinSet::new(),
        })
    }

    /// Whether the server has ever accepted the transfer.
    pub(super) fn is_accepted(&self) -> bool {
        self.reach.is_accepted()
    }

    /// Keeps what was learned about the path for the next push.
    pub(super) fn remember_path(&self) {
        let chosen = self.route.addresses.chosen();
        let (Some(paths), Some(memory), Some(server)) = (&self.paths, self.budget.memory(), chosen)
        else {
            return;
        };
        if let Err(error) = paths.remember(&PathKey::new(server.ip(), self.local), memory) {
            tracing::debug!(%error, "the path is not remembered");
        }
    }
}

impl Introduction {
    fn request(&self, conn: ConnId) -> Request {
        Request::Push(PushRequest {
            transfer: self.transfer,
            conn: conn.0,
            destination: self.destination.clone(),
            push: self.push,
            host: self.host,
            keep: self.keep,
            extras: self.extras,
            is_stream: self.is_stream,
            compares: self.compares,
            packing: self.packing,
        })
    }
}

impl Lines for Session {
    fn peer(&self) -> &str {
        &self.server
    }

    fn open(&mut self, conn: ConnId, siblings: Siblings, report: LineReport) {
        // Those that are over leave nothing behind.
        while self.lines.try_join_next().is_some() {}
        let request = self.introduction.request(conn);
        self.lines.spawn(Arc::clone(&self.route).run(conn, siblings, request, report));
    }

    fn up(&mut self, now: Instant) {
        self.reach.up(now);
    }

    fn accepted(&mut self) {
        self.reach.accepted();
    }

    fn waits(&mut self) -> bool {
        self.reach.waits()
    }

    fn lost(
        &mut self,
        error: LineError,
        opened: u64,
        is_dark: bool,
        now: Instant,
    ) -> Result<(), Error> {
        if is_dark {
            self.reach.refused(&error, now)?;
        }
        self.reach.lost(error, opened)
    }

    fn due_at(&self) -> Option<Instant> {
        self.reach.due_at()
    }

    fn check(&mut self, is_dark: bool, now: Instant) -> Result<(), Error> {
        if !is_dark {
            self.reach.heard();
        }
        self.reach.check(now)
    }

    fn unreachable(&self, what: &str) -> Error {
        self.reach.unreachable(what)
    }

    async fn end(&mut self) {
        self.lines.shutdown().await;
    }
}
