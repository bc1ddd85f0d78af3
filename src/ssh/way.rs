//! Whether UDP gets through to the far side.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::congestion::cubic;
use crate::error::Error;
use crate::identity::{Fingerprint, Identity};
use crate::net::address::ServerAddress;
use crate::net::line::CLOSE_TIME;
use crate::net::lookup::{Addresses, Found, Resolver};
use crate::net::route::{Route, Siblings};
use crate::net::sockets::SystemSockets;
use crate::net::tls::{self, ClientTrust};
use crate::traffic::ConnId;
use crate::wire::CLOSE_DONE;

/// Whether datagrams go through ssh itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Where UDP does not get through.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// First packets get lost: so many attempts are made, so long after one another.
const ATTEMPTS: u32 = 4;
const NEXT_AFTER: Duration = Duration::from_millis(80);

/// What an attempt at the far side by UDP is made with.
#[derive(Clone)]
pub(super) struct Probe {
    pub(super) name: String,
    pub(super) identity: Arc<Identity>,
    pub(super) far: Fingerprint,
    pub(super) bind: Vec<SocketAddr>,
    pub(super) datagram_bytes_max: u16,
}

/// Addresses that are known without looking them up.
pub(super) struct Known(pub(super) Vec<IpAddr>);

impl Resolver for Known {
    fn look_up<'a>(&'a self, _host: &'a str, port: u16) -> Found<'a> {
        Box::pin(async move { Ok(self.0.iter().map(|&ip| SocketAddr::new(ip, port)).collect()) })
    }
}

impl Probe {
    /// The first of `addresses` that the far side answers from.
    pub(super) async fn find(&self, addresses: &[IpAddr], port: u16) -> Result<IpAddr, Error> {
        let mut attempts = JoinSet::new();
        for number in 0..ATTEMPTS {
            let (probe, addresses) = (self.clone(), addresses.to_vec());
            attempts.spawn(async move {
                tokio::time::sleep(number * NEXT_AFTER).await;
                probe.attempt(addresses, port).await
            });
        }
        let mut failed = Error::Connect("no address is known".into());
        while let Some(tried) = attempts.join_next().await {
            match tried {
                Ok(Ok(ip)) => return Ok(ip),
                Ok(Err(error)) => failed = error,
                Err(error) => failed = Error::Connect(error.to_string()),
            }
        }
        Err(failed)
    }

    async fn attempt(self, addresses: Vec<IpAddr>, port: u16) -> Result<IpAddr, Error> {
        let given = [ServerAddress::Named { host: self.name.clone(), port }];
        let found = Addresses::look_up(&given, Arc::new(Known(addresses))).await;
        let trust = ClientTrust::Pinned([self.far].into());
        let route = Arc::new(Route {
            addresses: found.map_err(|error| Error::Connect(error.to_string()))?,
            server_name: self.name,
            bind: self.bind,
            sockets: Arc::new(SystemSockets),
            tls: Arc::new(tls::client_config(&self.identity, trust)?),
            datagram_bytes_max: self.datagram_bytes_max,
            congestion: cubic(),
        });
        let dialled = route.connect(ConnId(0), Siblings::Well).await;
        let dialled = dialled.map_err(|error| Error::Connect(error.to_string()))?;
        let ip = dialled.connection.remote_address().ip();
        dialled.connection.close(CLOSE_DONE.into(), b"");
        // The news has a moment to leave.
        tokio::spawn(async move {
            tokio::time::sleep(CLOSE_TIME).await;
            drop(dialled);
        });
        Ok(ip.to_canonical())
    }
}
