//! How ssh is used where a host is named as scp names it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qbulk::client::PeerConfig;
use qbulk::error::Error;
use qbulk::ssh::{Far, SshConfig, Stop, Told, Via, Wanted, carry};

use super::peer::NetworkArgs;
use super::remote::SshPlace;
use super::values::{Choice, name_of, one_of};
use super::{IdentityArgs, trust};
use crate::report::say;

const VIA: [Choice<Via>; 3] = [
    (Via::Auto, "auto", "Where UDP does not get through"),
    (Via::Never, "never", "By UDP, or not at all"),
    (Via::Always, "always", "Never by UDP"),
];

/// How to start the far side, and where to reach it.
#[derive(Clone, Debug, Args)]
pub(super) struct SshArgs {
    /// The ssh to start the far side with, and its options, as in 'ssh -p 2222 -J gate'.
    #[arg(
        short = 'e',
        long,
        visible_alias = "ssh",
        value_name = "COMMAND",
        default_value = "ssh",
        env = "QBULK_RSH",
        help_heading = "Over ssh"
    )]
    rsh: String,
    /// The qbulk on the other host, if it is not where its shell looks; that shell reads it.
    #[arg(long, value_name = "COMMAND", env = "QBULK_REMOTE_QBULK", help_heading = "Over ssh")]
    remote_qbulk: Option<String>,
    /// Send UDP to this host and not to where ssh goes, as where ssh goes through others; repeatable.
    #[arg(
        long,
        value_name = "HOST",
        value_delimiter = ',',
        env = "QBULK_UDP_HOST",
        help_heading = "Over ssh"
    )]
    udp_host: Vec<String>,
    /// The other host takes UDP at one of these ports, for a firewall that lets them through [default: any].
    #[arg(long, value_name = "FIRST[-LAST]", value_parser = ports, env = "QBULK_UDP_PORTS", help_heading = "Over ssh")]
    udp_ports: Option<(u16, u16)>,
    /// Whether data goes through ssh itself, which is slower.
    #[arg(long, default_value = name_of(&VIA, &Via::default()), value_parser = one_of(&VIA), env = "QBULK_VIA_SSH", help_heading = "Over ssh")]
    via_ssh: Via,
}

impl SshArgs {
    /// How to get to `host`.
    pub(super) fn config(
        &self,
        host: &str,
        network: &NetworkArgs,
        retry_for: Duration,
    ) -> Result<SshConfig, Error> {
        let bind: Vec<SocketAddr> = network.bind.clone();
        Ok(SshConfig {
            command: words(&self.rsh).map_err(|why| Error::Usage(format!("--rsh: {why}")))?,
            host: host.to_owned(),
            remote_qbulk: self.remote_qbulk.clone(),
            udp_hosts: self.udp_host.clone(),
            udp_ports: self.udp_ports,
            via: self.via_ssh,
            bind,
            datagram_bytes_max: network.mtu,
            connect_timeout: network.connect_timeout,
            retry_for,
        })
    }

    /// Asks a far side that ssh starts: `ask` gets whom to ask, the path as it is said to it, and when to stop.
    pub(super) async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        network: &NetworkArgs,
        (place, identity, is_quiet): (SshPlace, &IdentityArgs, bool),
        stop: impl Future<Output = ()>,
        ask: impl Fn(PeerConfig, Vec<u8>, Stop) -> F,
    ) -> Result<T, Error> {
        let config = self.config(&place.host, network, Duration::ZERO)?;
        let identity = trust::identity(identity)?;
        let wanted = Wanted { writes: false, paths: vec![place.path] };
        let tell = teller(place.host, is_quiet);
        carry(&config, &identity, &wanted, &tell, stop, |far: Far, stop| {
            let (identity, trust) = (Arc::clone(&far.identity), far.trust.clone());
            let peer = far.peer(PeerConfig {
                bind: network.bind.clone(),
                datagram_bytes_max: network.mtu,
                connect_timeout: network.connect_timeout,
                ..PeerConfig::new(far.server.clone(), &*far.name, identity, trust)
            });
            ask(peer, far.paths.first().cloned().unwrap_or_default(), stop)
        })
        .await
    }
}

/// Tells what happens on the way to `host`.
pub(super) fn teller(host: String, is_quiet: bool) -> impl Fn(Told) + Sync {
    move |told| match told {
        // What somebody has set up there to be read is shown as ssh would.
        Told::Noise(line) => say(&format!("{host} says: {line}")),
        _ if is_quiet => {}
        Told::Via(why) => say(&format!(
            "UDP does not get through to {host} ({why}): going on through ssh, which is slower (--udp-ports and \
             --udp-host may help)"
        )),
        Told::Again(why) => say(&format!("{why}: starting it again")),
    }
}

/// Splits a command into words as a shell does, with quotes and without anything else.
fn words(command: &str) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take().map(OsString::from)),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in {command:?}"));
    }
    words.extend(word.map(OsString::from));
    if words.is_empty() { Err("it is empty".into()) } else { Ok(words) }
}

fn ports(typed: &str) -> Result<(u16, u16), String> {
    let (first, last) = typed.split_once('-').unwrap_or((typed, typed));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first @ 1..), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("expected a port or two, as in 4433 or 60000-61000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        for (command, split) in [
            ("ssh", &["ssh"][..]),
            (" ssh -p  2222 -J gate ", &["ssh", "-p", "2222", "-J", "gate"]),
            ("ssh -o 'ProxyCommand=nc %h %p' x", &["ssh", "-o", "ProxyCommand=nc %h %p", "x"]),
            ("'/a b/ssh' -i\"my key\" ''", &["/a b/ssh", "-imy key", ""]),
        ] {
            assert_eq!(words(command).unwrap(), split, "{command}");
        }
        assert!(words("").is_err() && words("  ").is_err() && words("ssh 'x").is_err());
    }

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(ports("4433"), Ok((4433, 4433)));
        assert_eq!(ports("60000-61000"), Ok((60_000, 61_000)));
        for typed in ["", "0", "0-5", "5-4", "x", "1-70000", "-"] {
            assert!(ports(typed).is_err(), "{typed}");
        }
    }
}
