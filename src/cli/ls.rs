//! `qbulk ls`: its options, and the listing that they describe.

use std::ffi::OsString;

use clap::Args;
use qbulk::client::ListConfig;
use qbulk::error::Error;
use qbulk::event::{ListEvent, ListSummary};

use super::OutputArgs;
use super::peer::{NetworkArgs, TrustArgs, place};

const EXAMPLES: &str = "\
Each line has what it is (- a file, d a folder, l a link, ? something else) with its permissions, the size of a file in \
bytes, the time of modification in UTC, and the name; for a link also what it says. What could steer a \
terminal is escaped, and what is not UTF-8 has U+FFFD; --json has every name byte by byte.
  qbulk ls qbulk://host/                what is in the folder that is served
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
    #[arg(value_name = "qbulk://HOST[:PORT]/PATH")]
    place: OsString,
    /// List what is in the folders that are found as well, and so on.
    #[arg(short = 'R', long, env = "QBULK_RECURSIVE")]
    recursive: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    network: NetworkArgs,
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
        let place = place("what to list", &self.place)?;
        tokio::pin!(stop);
        let asking = self.trust.asking(&place, &self.network, stop.as_mut()).await?;
        let config =
            ListConfig { peer: asking.peer.clone(), path: place.path, recursive: self.recursive };
        let result = qbulk::client::list(config, report, stop).await;
        asking.explain(result).await
    }
}
