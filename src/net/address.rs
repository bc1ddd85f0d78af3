//! Addresses as people type them: with a port or without one, and with the zone that a link-local IPv6
//! address needs, as in `fe80::1%eth0`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// An address that needs no looking up.
    Socket(SocketAddr),
    /// A name, or an address as it was typed, without brackets; to be looked up at each attempt.
    Named {
        /// The name.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl ServerAddress {
    /// Reads `HOST` or `HOST:PORT`, IPv6 addresses with a port in brackets.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        const FORM: &str =
            "expected HOST or HOST:PORT, as in backup.example:4433 or [fe80::1%eth0]:4433";
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(FORM)?;
                (
                    host,
                    if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(FORM)?) },
                )
            }
            // More than one colon is an IPv6 address as it is.
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        if host.is_empty() {
            return Err(FORM.into());
        }
        check_zone(host)?;
        let port = port.map_or(Ok(default_port), str::parse).map_err(|_| FORM)?;
        Ok(Self::Named { host: host.into(), port })
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Named { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// That `host` has a zone if it is a link-local address, and none if it is not.
pub fn check_zone(host: &str) -> Result<(), String> {
    let (ip, zone) = split_zone(host);
    match (ip.parse(), zone) {
        (Ok(ip), None) if is_link_local(ip) => Err(format!(
            "{ip} is an address of one link: say which interface leads there, as in {ip}%eth0"
        )),
        (Ok(ip), Some(_)) if !is_link_local(ip) => Err(format!(
            "{ip} is no address of one link (fe80::...), and an interface (%) has no meaning with it"
        )),
        (Ok(_), Some("")) => {
            Err(format!("{host}: the name of an interface is missing behind the %"))
        }
        (Err(_), Some(_)) => {
            Err(format!("{host}: only an IPv6 address can be followed by % and an interface"))
        }
        _ => Ok(()),
    }
}

/// `host` as a certificate has it: without the zone, which only this host knows.
fn without_zone(host: &str) -> &str {
    split_zone(host).0
}

/// `host` as TLS has it, which knows neither users nor zones, nor what only ssh's configuration makes a host of.
/// Where names are compared with certificates, they have none of these.
pub fn tls_name(host: &str) -> String {
    let name = without_zone(host.rsplit('@').next().unwrap_or(host));
    let is_known = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    let name: String = name.chars().map(|c| if is_known(c) { c } else { '-' }).collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() { "host".to_owned() } else { name }
}

/// The address that `text` is, with its zone's number on this host; `None` if it is none but a name.
pub fn read_ip(text: &str, port: u16) -> Option<io::Result<SocketAddr>> {
    let (ip, zone) = split_zone(text);
    let ip: IpAddr = ip.parse().ok()?;
    Some(match (ip, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            zone_number(zone).map(|number| SocketAddrV6::new(ip, port, 0, number).into())
        }
        (IpAddr::V4(_), Some(_)) => return None,
        (ip, None) => Ok(SocketAddr::new(ip, port)),
    })
}

/// A local address, as in `192.0.2.1` or `fe80::1%eth0`; with port 0.
pub fn parse_local(text: &str) -> Result<SocketAddr, String> {
    check_zone(text)?;
    match read_ip(text, 0) {
        Some(address) => address.map_err(|error| error.to_string()),
        None => Err("expected an IP address, as in 192.0.2.1 or fe80::1%eth0".into()),
    }
}

/// Where a server listens: `IP:PORT`, an IP alone, or a port alone (`4433`, `:4433`, `*:4433`) of all
/// addresses that this host has.
pub fn parse_listen(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    const FORM: &str =
        "expected IP:PORT, IP or :PORT, as in 192.0.2.1:4433, [::]:4433 or [fe80::1%eth0]:4433";
    let text = text.trim();
    let bracketed = |ip: &str| ip.strip_prefix('[')?.strip_suffix(']').map(String::from);
    let alone = bracketed(text).unwrap_or_else(|| text.into());
    let (ip, port) = if read_ip(&alone, default_port).is_some() {
        (alone, default_port)
    } else {
        let (ip, port) = text.rsplit_once(':').unwrap_or(("", text));
        let ip = match ip {
            "" | "*" => "::".into(),
            // Without brackets, the port may be a part of the address.
            ip if ip.contains(':') => bracketed(ip).ok_or(FORM)?,
            ip => ip.into(),
        };
        (ip, port.parse().map_err(|_| FORM)?)
    };
    check_zone(&ip)?;
    read_ip(&ip, port).ok_or(FORM)?.map_err(|error| error.to_string())
}

fn split_zone(host: &str) -> (&str, Option<&str>) {
    host.split_once('%').map_or((host, None), |(ip, zone)| (ip, Some(zone)))
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

/// Interfaces have names and numbers, and both are typed.
fn zone_number(zone: &str) -> io::Result<u32> {
    if let Ok(number) = zone.parse() {
        return Ok(number);
    }
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    rustix::net::netdevice::name_to_index(&socket, zone).map_err(|_| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no network interface {zone} on this host"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_typed_with_and_without_a_port() {
        for (text, host, port) in [
            ("other", "other", 7_000),
            ("other:9", "other", 9),
            ("10.0.0.1", "10.0.0.1", 7_000),
            ("10.0.0.1:9", "10.0.0.1", 9),
            ("::1", "::1", 7_000),
            ("[::1]", "::1", 7_000),
            ("[::1]:9", "::1", 9),
            ("fe80::1%eth0", "fe80::1%eth0", 7_000),
            ("[fe80::1%2]:9", "fe80::1%2", 9),
        ] {
            let address = ServerAddress::Named { host: host.into(), port };
            assert_eq!(ServerAddress::parse(text, 7_000), Ok(address), "{text}");
        }
        for text in [
            "",
            ":9",
            "other:port",
            "other:99999",
            "[::1",
            "[::1]9",
            "[]:9",
            "fe80::1",
            "::1%lo",
            "fe80::1%",
            "other%eth0",
        ] {
            assert!(ServerAddress::parse(text, 7_000).is_err(), "{text}");
        }
    }

    #[test]
    fn whatever_ssh_takes_for_a_host_has_a_name_for_tls() {
        for (host, name) in [
            ("backup.example", "backup.example"),
            ("me@backup.example", "backup.example"),
            ("me@corp@10.0.0.1", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("m\u{fc}nchen", "m-nchen"),
            ("_", "host"),
        ] {
            assert_eq!(tls_name(host), name);
            assert!(rustls::pki_types::ServerName::try_from(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_server_listens_at_an_address_or_at_all() {
        for (text, address) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            (":9", "[::]:9"),
            ("*:9", "[::]:9"),
            (" 9 ", "[::]:9"),
            ("10.0.0.1", "10.0.0.1:4433"),
            ("::1", "[::1]:4433"),
            ("[::1]", "[::1]:4433"),
            ("[fe80::1%1]:9", "[fe80::1%1]:9"),
            ("[fe80::1%lo]:9", "[fe80::1%1]:9"),
            ("fe80::1%lo", "[fe80::1%1]:4433"),
        ] {
            assert_eq!(parse_listen(text, 4433), Ok(address.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            ":",
            "[::1",
            "1.2.3.4:",
            ":70000",
            "127.0.0.1:99999",
            "nowhere",
            "nowhere:1",
            "[fe80::1]:9",
            "[10.0.0.1%lo]:9",
        ] {
            assert!(parse_listen(text, 4433).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interface_is_found_by_name_and_by_number() {
        let number = |text| match read_ip(text, 9) {
            Some(Ok(SocketAddr::V6(address))) => Some(address.scope_id()),
            _ => None,
        };
        assert_eq!(number("fe80::1%lo"), number("fe80::1%1"));
        assert_eq!(number("fe80::1%lo"), Some(1));
        assert_eq!(number("::1"), Some(0));
        let error = read_ip("fe80::1%no-such-one", 9).unwrap().unwrap_err();
        assert!(error.to_string().contains("no network interface no-such-one"), "{error}");
        assert!(read_ip("backup.example", 9).is_none());
        assert_eq!(parse_local("fe80::1%1").unwrap(), "[fe80::1%1]:0".parse().unwrap());
        assert_eq!(parse_local("10.0.0.1").unwrap(), "10.0.0.1:0".parse().unwrap());
        assert!(parse_local("fe80::1").is_err() && parse_local("eth0").is_err());
    }
}
