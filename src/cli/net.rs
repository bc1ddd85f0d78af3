//! Names and addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use qbulk::error::Error;
use qbulk::net::endpoint::{DATAGRAM_BYTES_MIN, any_local};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::url::Destination;

/// How often an address of several is asked whether anybody is there, and how many times.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
const PROBES: u32 = 12;

/// The server's first address, and the further ones that were given.
pub(super) async fn resolve(
    destination: &Destination,
    further: &[String],
) -> Result<Vec<SocketAddr>, Error> {
    let mut addresses = vec![lookup(&destination.host, destination.port).await?];
    for server in further {
        let (host, port) = host_and_port(server, destination.port)?;
        addresses.push(lookup(&host, port).await?);
    }
    Ok(addresses)
}

fn host_and_port(server: &str, default_port: u16) -> Result<(String, u16), Error> {
    Ok(match (server.parse::<SocketAddr>(), server.parse::<IpAddr>()) {
        (Ok(address), _) => (address.ip().to_string(), address.port()),
        (_, Ok(ip)) => (ip.to_string(), default_port),
        _ => match server.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().map_err(|_| {
                    Error::Usage(format!("--server {server}: expected HOST or HOST:PORT"))
                })?;
                (host.to_owned(), port)
            }
            None => (server.to_owned(), default_port),
        },
    })
}

/// The address of `host`; of several, the one that answers first.
async fn lookup(host: &str, port: u16) -> Result<SocketAddr, Error> {
    let unknown = |why: String| Error::Connect(format!("cannot find the host {host}: {why}"));
    let found: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| unknown(qbulk::store::reason(&error)))?
        .collect();
    match *found.as_slice() {
        [] => Err(unknown("it has no address".into())),
        [only] => Ok(only),
        [first, ..] => Ok(first_to_answer(&found).await.unwrap_or(first)),
    }
}

/// Which of `addresses` a QUIC server answers from first; `None` if none does.
async fn first_to_answer(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut probes = JoinSet::new();
    for &address in addresses {
        probes.spawn(async move { probe(address).await.then_some(address) });
    }
    while let Some(answer) = probes.join_next().await {
        if let Ok(Some(address)) = answer {
            return Some(address);
        }
    }
    None
}

/// Whether a QUIC server answers. It is asked for a version that no server has, which it answers with
/// those that it has, and forgets (RFC 9000, 6.1 and 15).
async fn probe(address: SocketAddr) -> bool {
    let Ok(socket) = UdpSocket::bind(any_local(address)).await else { return false };
    if socket.connect(address).await.is_err() {
        return false;
    }
    let question = unknown_version();
    let mut answer = [0; 1];
    for _ in 0..PROBES {
        let asked = socket.send(&question).await;
        let heard = tokio::time::timeout(PROBE_INTERVAL, socket.recv(&mut answer)).await;
        match (asked, heard) {
            (_, Ok(Ok(_))) => return true,
            // The system knows that nobody is there.
            (Err(_), _) | (_, Ok(Err(_))) => return false,
            (Ok(_), Err(_)) => {}
        }
    }
    false
}

/// The first packet of a connection, of a version that is reserved for never being one.
fn unknown_version() -> Vec<u8> {
    const CONNECTION_ID_BYTES: u8 = 8;
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    for _ in 0..2 {
        packet.push(CONNECTION_ID_BYTES);
        packet.extend(rand::random::<[u8; CONNECTION_ID_BYTES as usize]>());
    }
    packet.resize(DATAGRAM_BYTES_MIN.into(), 0);
    packet
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qbulk::identity::Identity;
    use qbulk::net::endpoint;
    use qbulk::net::sockets::SystemSockets;
    use qbulk::net::tls::{self, ServerTrust};

    use super::*;

    #[test]
    fn further_addresses_have_the_destinations_port() {
        for (server, host, port) in [
            ("other", "other", 7_000),
            ("other:9", "other", 9),
            ("10.0.0.1", "10.0.0.1", 7_000),
            ("::1", "::1", 7_000),
            ("[::1]:9", "::1", 9),
        ] {
            assert_eq!(host_and_port(server, 7_000).unwrap(), (host.into(), port), "{server}");
        }
        assert!(host_and_port("other:port", 7_000).is_err());
    }

    #[tokio::test]
    async fn of_several_addresses_the_one_with_a_server_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let tls = tls::server_config(&identity, ServerTrust::default()).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = endpoint::server(&SystemSockets, listen, Arc::new(tls), &[0; 32]).unwrap();
        let there = server.local_addr().unwrap();
        // Silent, not closed: nobody says that there is no server.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 1], 9));
        let addresses = [silent.local_addr().unwrap(), closed, there];
        let answering = async {
            let answer = first_to_answer(&addresses).await;
            server.close(0_u32.into(), b"");
            answer
        };
        let serving = async { while server.accept().await.is_some() {} };
        assert_eq!(tokio::join!(answering, serving).0, Some(there));
    }
}
