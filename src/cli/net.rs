//! Names and addresses.

use std::net::{IpAddr, SocketAddr};

use qbulk::error::Error;

use super::url::{DEFAULT_PORT, Destination};

/// The server's first address, and the further ones that were given.
pub(super) async fn resolve(
    destination: &Destination,
    further: &[String],
) -> Result<Vec<SocketAddr>, Error> {
    let mut addresses = vec![lookup(&destination.host, destination.port).await?];
    for server in further {
        let (host, port) = match (server.parse::<SocketAddr>(), server.parse::<IpAddr>()) {
            (Ok(address), _) => (address.ip().to_string(), address.port()),
            (_, Ok(ip)) => (ip.to_string(), destination.port),
            _ => match server.rsplit_once(':') {
                Some((host, port)) => {
                    let port = port.parse().map_err(|_| {
                        Error::Usage(format!("--server {server}: expected HOST or HOST:PORT"))
                    })?;
                    (host.to_owned(), port)
                }
                None => (server.clone(), DEFAULT_PORT),
            },
        };
        addresses.push(lookup(&host, port).await?);
    }
    Ok(addresses)
}

async fn lookup(host: &str, port: u16) -> Result<SocketAddr, Error> {
    let unknown = |why: String| Error::Connect(format!("cannot find the host {host}: {why}"));
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| unknown(qbulk::store::reason(&error)))?;
    found.next().ok_or_else(|| unknown("it has no address".into()))
}
