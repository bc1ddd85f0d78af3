//! `qbulk ls`: its options, and the listing that they describe.

use std::cell::Cell;
use std::ffi::OsString;

use clap::Args;
use qbulk::client::ListConfig;
use qbulk::error::Error;
use qbulk::event::{ListEvent, ListSummary};

use super::OutputArgs;
use super::peer::{NetworkArgs, TrustArgs, place};
use super::remote::{Remote, SshPlace};
use super::ssh::SshArgs;

const EXAMPLES: &str = "\
Each line has what it is (- a file, d a folder, l a link, ? something else) with its permissions, the size of a file in \
bytes, the time of modification in UTC, and the name; for a link also what it says. What could steer a \
terminal is escaped, and what is not UTF-8 has U+FFFD; --json has every name byte by byte.
  qbulk ls qbulk://host/                what is in the folder that is served
  qbulk ls host:                        what is in your home folder there, by ssh
  qbulk ls -R qbulk://host/archive      all that is below archive
  qbulk ls --json -R qbulk://host/ | jq -r 'select(.event == \"entry\" and .bytes > 1e9) | .path'
Names come in their order, unless a folder has thousands: then as the server's file system has them, so that \
neither end has to hold them all. Links are shown and not followed. What a server has not finished is not shown.

Exit codes: 0 all is listed, 1 something could not be looked at (each is named), 2 wrong usage, 3 cannot \
connect, 4 authentication failed, 5 the server refused or failed, or there is nothing at that path, 6 nobody \
takes what is listed, 130 interrupted.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct LsArgs {
    /// What to list: of a folder, what is in it.
    #[arg(value_name = "[USER@]HOST:PATH|qbulk://HOST[:PORT]/PATH")]
    place: OsString,
    /// List what is in the folders that are found as well, and so on.
    #[arg(short = 'R', long, env = "QBULK_RECURSIVE")]
    recursive: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    ssh: SshArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl LsArgs {
    /// Lists; gives each entry to `report`, and waits for it.
    pub(crate) async fn run<F: Future<Output = Result<(), Error>>>(
        self,
        report: impl FnMut(ListEvent) -> F,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<ListSummary, Error> {
        let place = match place("what to list", &self.place)? {
            Remote::Server(server) => server,
            Remote::Ssh(place) => return self.over_ssh(place, report, stop).await,
        };
        tokio::pin!(stop);
        let asking = self.trust.asking(&place, &self.network, stop.as_mut()).await?;
        let config =
            ListConfig { peer: asking.peer.clone(), path: place.path, recursive: self.recursive };
        let result = qbulk::client::list(config, report, stop).await;
        asking.explain(result).await
    }

    async fn over_ssh<F: Future<Output = Result<(), Error>>>(
        self,
        place: SshPlace,
        report: impl FnMut(ListEvent) -> F,
        stop: impl Future<Output = ()>,
    ) -> Result<ListSummary, Error> {
        // What was told once is not told again: there is one attempt.
        let report = Cell::new(Some(report));
        let asked = (place, &self.trust.identity, self.output.quiet);
        let list = |peer, path, stop| {
            let (report, recursive) = (report.take(), self.recursive);
            async move {
                let Some(report) = report else { return Err(Error::Interrupted) };
                qbulk::client::list(ListConfig { peer, path, recursive }, report, stop).await
            }
        };
        self.ssh.ask(&self.network, asked, stop, list).await
    }
}
