//! Where to push to: `qbulk://HOST[:PORT]/PATH`.

use std::str::FromStr;

use qbulk::net::address::{ServerAddress, check_zone};
use qbulk::wire::path_fault;
use url::{Host, Url};

/// The port that `qbulk serve` listens on unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 4433;

/// A place on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// A name or address, lower-case; without brackets. A link-local address has its zone behind it, as
    /// in `fe80::1%eth0`.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Relative to the server's root; a trailing slash is kept.
    pub(crate) path: Vec<u8>,
}

impl Destination {
    /// What known hosts are listed by: `host:port`, IPv6 addresses in brackets. A zone is part of it as it
    /// was typed: behind another interface, the same address is another host.
    pub(crate) fn server(&self) -> String {
        self.address().to_string()
    }

    /// Where to look for the server.
    pub(crate) fn address(&self) -> ServerAddress {
        ServerAddress::Named { host: self.host.clone(), port: self.port }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected qbulk://HOST[:PORT]/PATH, as in qbulk://backup.example/data/";
        let Some(rest) = text.strip_prefix("qbulk://") else { return Err(FORM.into()) };
        let (server, typed) = rest.split_once('/').unwrap_or((rest, ""));
        if server.contains('@') {
            return Err("a user has no place in it: you are known by your key (`qbulk id`)".into());
        }
        // URL readers skip slashes before the host and line breaks in it, and take a backslash for a
        // slash; what was typed must not be silently something else.
        let is_odd = |c: char| c == '\\' || c.is_whitespace() || c.is_control();
        if server.is_empty() || server.contains(is_odd) {
            return Err(FORM.into());
        }
        // Names and paths follow the rules that every URL reader agrees on for https, but for zones, which
        // they do not know.
        let (server, zone) = split_zone(server)?;
        let rest = format!("{server}/{typed}");
        let url =
            Url::parse(&format!("https://{rest}")).map_err(|error| format!("{error}; {FORM}"))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("write ? as %3F and # as %23 in the path".into());
        }
        // And they resolve `..`.
        let path: Vec<u8> = percent_encoding::percent_decode_str(typed).collect();
        if path.split(|&byte| byte == b'/').any(|name| matches!(name, b"." | b"..")) {
            return Err(
                "the path may not hold . or .. : it is relative to the server's root".into()
            );
        }
        if path.contains(&0) {
            return Err("the path may not hold a zero byte".into());
        }
        let path = squeeze(&path);
        if let Some(fault) = path_fault(&path) {
            return Err(format!("the path cannot be used: {fault}"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(FORM.into()),
        };
        let host = zone.map_or(host.clone(), |zone| format!("{host}%{zone}"));
        check_zone(&host)?;
        // 443 is what https leaves out.
        let port = if has_port(&server) { url.port().unwrap_or(443) } else { DEFAULT_PORT };
        Ok(Self { host, port, path })
    }
}

/// Takes the zone of an IPv6 address out of `HOST:PORT`, written as in RFC 6874 (`[fe80::1%25eth0]`), or as
/// people type it (`[fe80::1%eth0]`).
fn split_zone(server: &str) -> Result<(String, Option<String>), String> {
    let inside = server.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((host, behind)) = inside else { return Ok((server.into(), None)) };
    let Some((ip, zone)) = host.split_once('%') else { return Ok((server.into(), None)) };
    let zone = match zone.strip_prefix("25").filter(|zone| !zone.is_empty()) {
        Some(escaped) => {
            let zone = percent_encoding::percent_decode_str(escaped).decode_utf8();
            zone.map_err(|_| format!("{server}: the name of the interface is not UTF-8"))?.into()
        }
        None => zone.to_owned(),
    };
    if zone.contains(|c: char| c == '%' || c == '/' || c.is_whitespace() || c.is_control()) {
        return Err(format!("{server}: no interface has such a name"));
    }
    Ok((format!("[{ip}]{behind}"), Some(zone)))
}

/// Leading slashes and doubled ones mean nothing.
fn squeeze(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || out.last().is_some_and(|&last| last != b'/') {
            out.push(byte);
        }
    }
    out
}

fn has_port(server: &str) -> bool {
    let after_ip6 = server.rsplit(']').next().unwrap_or_default();
    after_ip6.split_once(':').is_some_and(|(_, port)| !port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String) {
        let destination: Destination =
            text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (destination.server(), String::from_utf8_lossy(&destination.path).into_owned())
    }

    #[test]
    fn hosts_ports_and_paths_are_understood() {
        for (text, server, path) in [
            ("qbulk://Backup.Example/a/b", "backup.example:4433", "a/b"),
            ("qbulk://host:443/dir/", "host:443", "dir/"),
            ("qbulk://host", "host:4433", ""),
            ("qbulk://host/", "host:4433", ""),
            ("qbulk://host:/x", "host:4433", "x"),
            ("qbulk://10.0.0.1:9//x///y", "10.0.0.1:9", "x/y"),
            ("qbulk://[2001:DB8::1]:7000/x", "[2001:db8::1]:7000", "x"),
            ("qbulk://[::1]/x", "[::1]:4433", "x"),
            ("qbulk://[fe80::1%25eth0]:7000/x", "[fe80::1%eth0]:7000", "x"),
            ("qbulk://[fe80::1%eth0]:7000/x", "[fe80::1%eth0]:7000", "x"),
            ("qbulk://[FE80::1%Eth0]/x", "[fe80::1%Eth0]:4433", "x"),
            ("qbulk://[fe80::1%2]/x", "[fe80::1%2]:4433", "x"),
            ("qbulk://[fe80::1%25]/x", "[fe80::1%25]:4433", "x"),
            ("qbulk://[fe80::1%25br%2dlan]/x", "[fe80::1%br-lan]:4433", "x"),
            ("qbulk://h/a%20b%3F", "h:4433", "a b?"),
            ("qbulk://h/\u{fc}", "h:4433", "\u{fc}"),
        ] {
            assert_eq!(parsed(text), (server.into(), path.into()), "{text}");
        }
        let raw: Destination = "qbulk://h/%ff".parse().unwrap();
        assert_eq!(raw.path, [0xff]);
    }

    #[test]
    fn what_no_server_could_take_is_refused() {
        let long = "x".repeat(256);
        for (path, words) in [
            (format!("a/{long}"), "256 bytes long; 255"),
            (long.clone() + "/b", "256 bytes long; 255"),
            ("%ff".repeat(256), "256 bytes long; 255"),
            ("ab/".repeat(2_000), "6000 bytes long; 4096"),
        ] {
            let error = format!("qbulk://h/{path}").parse::<Destination>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(format!("qbulk://h/a/{}", &long[1..]).parse::<Destination>().is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "host:/path",
            "/local/path",
            "https://host/x",
            "qbulk://",
            "qbulk://u@host/x",
            "qbulk://host/a?b",
            "qbulk://host/a#b",
            "qbulk://host/../x",
            "qbulk://host/a/%2e%2e",
            "qbulk://host:99999/x",
            "qbulk://ho st/x",
            "qbulk:///host/x",
            "qbulk://host\\x",
            "qbulk://ho\nst/x",
            "qbulk://host ",
            "qbulk://@host/x",
            "qbulk://:@host/x",
            "qbulk://h/%00",
            "qbulk://[fe80::1]/x",
            "qbulk://[fe80::1%]/x",
            "qbulk://[fe80::1%a b]/x",
            "qbulk://[fe80::1%25%20]/x",
            "qbulk://[2001:db8::1%eth0]/x",
            "qbulk://[::1%lo]/x",
            "qbulk://10.0.0.1%eth0/x",
            "qbulk://host%eth0/x",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}
