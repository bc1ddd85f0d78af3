//! Looking a server up before anything is opened.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::error::Error;
use crate::net::address::ServerAddress;
use crate::net::lookup::{Addresses, Resolver};

/// Looks a server up, and whether it can be reached from all of `bind`.
pub(crate) async fn find(
    servers: &[ServerAddress],
    resolver: &Arc<dyn Resolver>,
    bind: &[SocketAddr],
) -> Result<Addresses, Error> {
    let found = Addresses::look_up(servers, Arc::clone(resolver)).await;
    let addresses = found.map_err(|error| Error::Connect(error.to_string()))?;
    let all = addresses.all();
    let reaches = |local: &SocketAddr| all.iter().any(|to| local.is_ipv4() == to.is_ipv4());
    match bind.iter().find(|local| !reaches(local)) {
        None => Ok(addresses),
        Some(local) => Err(Error::Usage(format!(
            "{} cannot reach {}: one is IPv4 and the other IPv6",
            local.ip(),
            all[0].ip()
        ))),
    }
}
