//! The way to a server: lines are dialled over it, each from a socket of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, VarInt};

use super::address::tls_name;
use super::control::{self, ControlReader};
use super::dial::{race, unless_barred};
use super::endpoint;
use super::line::{Line, LineError, LineEvent, LineReport, listen};
use super::lookup::Addresses;
use super::path::{self, PathMtu};
use super::sockets::Sockets;
use super::telemetry::Telemetry;
use crate::congestion::Controllers;
use crate::traffic::ConnId;
use crate::wire::{CLOSE_DONE, Message, Request};

/// What all connections of a push have in common.
pub struct Route {
    /// Where the server is; connections take turns over the places that were given.
    pub addresses: Addresses,
    /// The name in the server's certificate, where one is looked at.
    pub server_name: String,
    /// Local addresses, with port 0; connections take turns over them. Empty: the system chooses.
    pub bind: Vec<SocketAddr>,
    /// Where each connection gets its socket from.
    pub sockets: Arc<dyn Sockets>,
    /// Our identity, and whom we accept.
    pub tls: Arc<QuicClientConfig>,
    /// Datagrams are never larger than this, in bytes.
    pub datagram_bytes_max: u16,
    /// Decides how much may be in flight.
    pub congestion: Controllers,
}

/// How the other connections of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siblings {
    /// Some are up.
    Well,
    /// None is up.
    Lost,
    /// None is heard of any more, and perhaps nobody is there.
    Dark,
}

/// A connection whose handshake is done, on a socket of its own.
pub(crate) struct Dialled {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    telemetry: Arc<Telemetry>,
}

impl Route {
    /// Opens connection `conn` from a new local port and introduces it with `request`; reports all that
    /// happens on it, until it is lost. While the others are lost, all addresses that the server may have by
    /// now are tried.
    pub async fn run(
        self: Arc<Self>,
        conn: ConnId,
        siblings: Siblings,
        request: Request,
        report: LineReport,
    ) {
        let opened = match self.connect(conn, siblings).await {
            Ok(dialled) => self.introduce(dialled, request, &report).await,
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            report.tell(LineEvent::Lost(error)).await;
        }
    }

    /// Opens connection `conn`, as `run` does.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        conn: ConnId,
        siblings: Siblings,
    ) -> Result<Dialled, LineError> {
        let is_lost = siblings != Siblings::Well;
        // The first ones ask for all.
        let knocks = siblings == Siblings::Dark || (conn.0 as usize) < self.addresses.places();
        let place = self.place(conn);
        let tried = self.addresses.candidates(place, is_lost);
        let refreshed =
            async { if is_lost { self.addresses.refresh(place).await } else { Vec::new() } };
        let dial = |remote| {
            let this = Arc::clone(self);
            async move { this.dial(conn, knocks, remote).await }
        };
        let (remote, dialled) = race(tried.addresses.clone(), refreshed, dial).await?;
        let chosen = self.addresses.choose(place, &tried, remote);
        if chosen == remote {
            return Ok(dialled);
        }
        dialled.connection.close(VarInt::from_u32(CLOSE_DONE), b"");
        self.dial(conn, knocks, chosen).await
    }

    async fn dial(
        &self,
        conn: ConnId,
        knocks: bool,
        remote: SocketAddr,
    ) -> Result<Dialled, LineError> {
        // Every local address is paired with every one of the server's.
        let turn = conn.0 as usize / self.addresses.places();
        let local = path::local_for(&self.bind, remote, turn).ok_or(LineError::NoAddress)?;
        let connected = self.dial_from(local, remote);
        if knocks {
            unless_barred(&*self.sockets, local, remote, connected).await
        } else {
            connected.await
        }
    }

    async fn dial_from(&self, local: SocketAddr, remote: SocketAddr) -> Result<Dialled, LineError> {
        let telemetry = Arc::new(Telemetry::default());
        let mtu = PathMtu::of(remote, self.datagram_bytes_max);
        let endpoint = endpoint::client(&*self.sockets, local, mtu)?;
        let config = endpoint::client_config(
            Arc::clone(&self.tls),
            mtu,
            Arc::clone(&self.congestion),
            Arc::clone(&telemetry),
        );
        let name = &tls_name(&self.server_name);
        let connection = endpoint.connect_with(config, remote, name)?.await?;
        Ok(Dialled { endpoint, connection, telemetry })
    }

    async fn introduce(
        &self,
        dialled: Dialled,
        request: Request,
        report: &LineReport,
    ) -> Result<(), LineError> {
        let Dialled { endpoint, connection, telemetry } = dialled;
        let (mut control_out, control_in) = connection.open_bi().await?;
        control::prefer(&control_out);
        // Before there are stripes: they could use up all that the server takes in of somebody who has
        // not said yet what he wants.
        let mut introduction = Vec::new();
        request.encode(&mut introduction);
        if control_out.write_all(&introduction).await.is_err() {
            return Err(connection.closed().await.into());
        }

        let local = endpoint.local_addr();
        let local = local.unwrap_or_else(|_| path::any_local(connection.remote_address()));
        let line = Line::new(connection.clone(), local, telemetry, control_out);
        report.tell(LineEvent::Up(line)).await;
        let hear = |message| report.tell(LineEvent::Said(message));
        Err(listen(&connection, ControlReader::new(control_in), hear).await)
    }

    fn place(&self, conn: ConnId) -> usize {
        conn.0 as usize % self.addresses.places()
    }
}
