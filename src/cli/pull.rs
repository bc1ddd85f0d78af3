//! `qbulk pull`: its options, and the transfer that they describe.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use qbulk::client::{PullConfig, PushReporter};
use qbulk::error::Error;
use qbulk::event::Summary;

use super::peer::{NetworkArgs, TrustArgs, pulled};
use super::skip::SkipArgs;
use super::transfer::{MetadataArgs, PaceArgs, SetArgs, WayArgs};
use super::{OutputArgs, trust};

const EXAMPLES: &str = "\
A folder arrives under its own name, and with a slash behind it only its contents do, as with rsync:
  qbulk pull qbulk://host/photos  backup    makes backup/photos
  qbulk pull qbulk://host/photos/ backup    puts what is in photos into backup
A single file is given the destination's name, unless that is a folder or ends in a slash:
  qbulk pull qbulk://host/a.iso b.iso       makes b.iso
  qbulk pull qbulk://host/a.iso images/     makes images/a.iso
Paths are relative to the folder that the server serves. Links arrive as links. A file that is \
there already is replaced as a whole once the new one is complete and verified, never before.
A pull that was interrupted goes on where it was when the same command is run again; what it has left \
until then is removed by `qbulk clean`.

Exit codes: 0 done, 1 some files failed (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the server refused or failed, 6 the destination cannot be used, \
24 some files vanished or were changed while they were read (everything else is there), 130 interrupted.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Files and folders of one server, and last where to. A slash behind a folder means its contents; PATH
    /// is relative to the folder that the server serves. The port is 4433 unless given.
    #[arg(required = true, value_name = "qbulk://HOST[:PORT]/PATH... DST")]
    paths: Vec<OsString>,

    #[command(flatten)]
    skip: SkipArgs,
    #[command(flatten)]
    metadata: MetadataArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    set: SetArgs,

    /// When all is done, write to this file what was delivered: a line of JSON for each file, with its
    /// hash (see docs/json.md). `qbulk verify --receipt FILE DST` checks it. A file is replaced as a whole and
    /// keeps its mode, a link stays, and a device, a pipe or /dev/stdout is written to.
    #[arg(long, value_name = "FILE", env = "QBULK_RECEIPT", help_heading = "Output")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl PullArgs {
    /// Pulls; tells what happens to `report`.
    pub(crate) async fn run(
        self,
        report: PushReporter,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Summary, Error> {
        let (sources, destination) = pulled(&self.paths)?;
        let set = self.set.set()?;
        let identity = Arc::new(trust::identity(&self.trust.identity)?);
        tokio::pin!(stop);
        let place = &sources[0];
        let servers = self.way.servers(place)?;
        let asked = self.trust.asked(place, &servers, &self.network);
        let trust = tokio::select! {
            trust = asked.trust(&identity) => trust?,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let config = PullConfig {
            bind: self.network.bind,
            datagram_bytes_max: self.network.mtu,
            set,
            congestion: self.pace.congestion,
            aggressiveness: self.pace.aggressiveness,
            rate_max: self.pace.limit,
            remembers: !self.way.no_memory,
            receipt: self.receipt,
            keep: self.metadata.keep(),
            skip: self.skip.skip(),
            connect_timeout: self.network.connect_timeout,
            retry_for: self.way.retry_for,
            ..PullConfig::new(
                sources.iter().map(|source| source.path.clone()).collect(),
                servers,
                place.host.clone(),
                destination,
                Arc::clone(&identity),
                trust.clone(),
            )
        };
        match qbulk::client::pull(config, report, stop).await {
            Err(Error::Auth(message)) => Err(asked.explain(message, &identity, &trust).await),
            result => result,
        }
    }
}
