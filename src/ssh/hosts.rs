//! Where the far side may be found by UDP.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// Addresses that a host tells of itself, at most.
const OWN_MAX: usize = 8;

/// What this host knows of its own addresses: the one that ssh was reached at, and those of its interfaces.
pub(super) fn own() -> Vec<IpAddr> {
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let reached = connection.split_whitespace().nth(2).and_then(|ip| ip.parse::<IpAddr>().ok());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut all: Vec<IpAddr> = reached.into_iter().map(|ip| ip.to_canonical()).collect();
    let interfaces = ipv6(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6);
    let interfaces =
        interfaces.chain(ipv4(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4));
    for ip in interfaces {
        if !all.contains(&ip) && all.len() < OWN_MAX {
            all.push(ip);
        }
    }
    all
}

/// The global addresses of Linux's table of them.
fn ipv6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        let scope = fields.nth(2)?;
        (scope == "00").then(|| Ipv6Addr::from(bits))
    };
    table.lines().filter_map(address).collect()
}

/// This host's own addresses in Linux's table of routes.
fn ipv4(table: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.take()
            && !Ipv4Addr::is_loopback(&address)
            && !Ipv4Addr::is_link_local(&address)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// What ssh's configuration makes of a host: its name or address, and whether the way there leads through
/// another host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Configured {
    pub(super) name: String,
    pub(super) is_indirect: bool,
}

/// Asks ssh what its configuration makes of `host`; `None` if it is no ssh that could be asked.
pub(super) async fn configured(command: Vec<OsString>, host: String) -> Option<Configured> {
    let (program, args) = command.split_first()?;
    if Path::new(program).file_name()? != "ssh" {
        return None;
    }
    let output = Command::new(program)
        .args(args)
        .args(["-G", "--", &host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    read_configured(&String::from_utf8(output.ok()?.stdout).ok()?)
}

fn read_configured(text: &str) -> Option<Configured> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim)
    };
    let is_set = |key| value(key).is_some_and(|value| value != "none");
    Some(Configured {
        name: value("hostname")?.to_owned(),
        is_indirect: is_set("proxyjump") || is_set("proxycommand"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_own_addresses_are_found_in_the_systems_tables() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                     +-- 127.0.0.0/8 2 0 2\n           |-- 127.0.0.1\n              /32 host LOCAL\n        \
                     |-- 10.9.0.0\n           /24 link UNICAST\n        |-- 10.9.0.7\n           \
                     /32 host LOCAL\nLocal:\n        |-- 10.9.0.7\n           /32 host LOCAL\n";
        assert_eq!(ipv4(table), ["10.9.0.7".parse::<Ipv4Addr>().unwrap()]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe8000000000000002155dfffe000000 02 40 20 80     eth0\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(ipv6(table), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
        assert!(ipv4("").is_empty() && ipv6("x y\n").is_empty());
    }

    #[test]
    fn what_ssh_says_of_a_host_is_read() {
        let direct = read_configured("user me\nhostname 192.0.2.1\nport 22\nproxyjump none\n");
        assert_eq!(direct, Some(Configured { name: "192.0.2.1".into(), is_indirect: false }));
        let jump = read_configured("hostname inner\nproxyjump gate\n");
        assert_eq!(jump, Some(Configured { name: "inner".into(), is_indirect: true }));
        assert_eq!(read_configured("hostnames x\n"), None);
    }
}
