//! `qbulk pull`: its options, and the transfer that they describe.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qbulk::client::{Delete, Outlet, PullConfig, PushReporter};
use qbulk::error::Error;
use qbulk::event::{PlanEvent, PlanSummary, Summary};
use qbulk::filter::Filter;
use qbulk::ssh::{Far, Stop, Wanted, carry};
use qbulk::traffic::SetConfig;

use super::filter::FilterArgs;
use super::peer::{NetworkArgs, TrustArgs, pulled};
use super::remote::{Remote, SshPlace};
use super::skip::SkipArgs;
use super::ssh::{SshArgs, teller};
use super::transfer::{DeleteArgs, DryRunArgs, MetadataArgs, PaceArgs, SetArgs, WayArgs};
use super::url::Destination;
use super::{OutputArgs, trust};

/// What is moved, and over what.
type What = (SetConfig, Arc<Filter>, Option<Delete>);

const EXAMPLES: &str = "\
A folder arrives under its own name, and with a slash behind it only its contents do, as with rsync:
  qbulk pull host:photos  backup    makes backup/photos
  qbulk pull host:photos/ backup    puts what is in photos into backup
A single file is given the destination's name, unless that is a folder or ends in a slash:
  qbulk pull me@host:/srv/a.iso b.iso         makes b.iso
  qbulk pull qbulk://host/a.iso images/       makes images/a.iso
Some of it is left out by patterns, as with rsync, of which the first that matches decides:
  qbulk pull --exclude .cache --exclude '*.tmp' host:photos backup
With HOST: nothing needs to be set up there but ssh and qbulk itself (see docs/ssh.md). Links arrive as links. A file that is \
there already is replaced as a whole once the new one is complete and verified, never before.
What would be done is told, and nothing is done, with -n: a line for each path, with what it is, why, its size and where it goes. \
Why is new, kind (something else is there), size, time, forced (-I), target (of a link), or metadata (only permissions).
With - as DST, one file goes to standard output, in order and as it comes: only what was verified, and in bounded memory. If the \
whole is not right in the end, the exit code says so: what was written by then has to be thrown away.
  qbulk pull host:db.sql - | psql db
A pull that was interrupted goes on where it was when the same command is run again; what it has left \
until then is removed by `qbulk clean`.

Exit codes: 0 done, 1 some files failed (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the server refused or failed, 6 the destination cannot be used, \
24 some files vanished or were changed while they were read (everything else is there), 25 more would have been \
deleted than --max-delete allows, 130 interrupted.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Files and folders of one host, and last where to. A slash behind a folder means its contents. Behind HOST:
    /// PATH is relative to the home folder there, which ssh gets to; in a qbulk:// URL it is relative to the folder
    /// that the server serves, at port 4433 unless given.
    #[arg(required = true, value_name = "[USER@]HOST:PATH|qbulk://HOST[:PORT]/PATH... DST")]
    paths: Vec<OsString>,

    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    skip: SkipArgs,
    #[command(flatten)]
    delete: DeleteArgs,
    #[command(flatten)]
    metadata: MetadataArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    ssh: SshArgs,
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
    /// When it is over, write to this file what it did as a page for a browser: what each connection carried and was for
    /// over time, each takeover, and what held it back (see docs/report.md).
    #[arg(
        long,
        value_name = "FILE.html",
        env = "QBULK_REPORT",
        conflicts_with = "dry_run",
        help_heading = "Output"
    )]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl PullArgs {
    /// Whether nothing is to be done.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.dry_run
    }

    /// Whether standard output is where the data goes.
    pub(crate) fn is_stream(&self) -> bool {
        self.paths.last().is_some_and(|last| last == "-")
    }

    fn check_pipe(&self, destination: &Path) -> Result<(), Error> {
        if destination == Path::new("-") && self.output.json {
            return Err(Error::Usage("--json and data cannot both go to standard output".into()));
        }
        if destination == Path::new("-") && self.is_dry_run() {
            return Err(Error::Usage(
                "what goes to standard output cannot be tried: -n is for files".into(),
            ));
        }
        Ok(())
    }

    /// Whether it is a fault that owners are not kept.
    pub(crate) fn insists_on_owners(&self) -> bool {
        self.metadata.insists_on_owners()
    }

    /// Pulls; tells what happens to `report`.
    pub(crate) async fn run(
        self,
        report: PushReporter,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Summary, Error> {
        let pull = |config, stop| qbulk::client::pull(config, Arc::clone(&report), stop);
        self.with_config(stop, pull).await
    }

    /// Tells what a pull would do.
    pub(crate) async fn plan<F: Future<Output = Result<(), Error>>>(
        self,
        report: impl Fn(PlanEvent) -> F,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<PlanSummary, Error> {
        let plan = |config, stop| qbulk::client::plan_pull(config, &report, stop);
        self.with_config(stop, plan).await
    }

    /// Does something with the pull that is described.
    async fn with_config<T, F: Future<Output = Result<T, Error>>>(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PullConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let (sources, destination) = pulled(&self.paths)?;
        self.check_pipe(&destination)?;
        // Over however many attempts: what was written is not written again.
        let outlet = self.is_stream().then(outlet).transpose()?;
        let act =
            |config: PullConfig, stop| act(PullConfig { outlet: outlet.clone(), ..config }, stop);
        let (mut served, mut there) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                Remote::Server(server) => served.push(server),
                Remote::Ssh(place) => there.push(place),
            }
        }
        match (served.first().cloned(), there.first().cloned()) {
            (Some(server), None) => {
                let paths = served.into_iter().map(|source| source.path).collect();
                let paths = self.filter.paths(paths)?;
                self.at_server(server, paths, destination, stop, act).await
            }
            (None, Some(SshPlace { host, .. })) => {
                let paths = there.into_iter().map(|place| place.path).collect();
                let paths = self.filter.paths(paths)?;
                self.over_ssh(host, paths, destination, stop, act).await
            }
            _ => Err(Error::Usage("all sources must be named in the same way".into())),
        }
    }

    async fn at_server<T, F: Future<Output = Result<T, Error>>>(
        self,
        place: Destination,
        paths: Vec<Vec<u8>>,
        destination: PathBuf,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PullConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let what = (self.set.set()?, Arc::new(self.filter.filter()?), self.delete.delete()?);
        let identity = Arc::new(trust::identity(&self.trust.identity)?);
        let mut stop: Stop = Box::pin(stop);
        let servers = self.way.servers(&place)?;
        let asked = self.trust.asked(&place, &servers, &self.network);
        let trust = tokio::select! {
            trust = asked.trust(&identity) => trust?,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let own = Arc::clone(&identity);
        let config = PullConfig::new(paths, servers, place.host, destination, own, trust.clone());
        let config = self.with_options(config, what);
        match act(config, stop).await {
            Err(Error::Auth(message)) => Err(asked.explain(message, &identity, &trust).await),
            result => result,
        }
    }

    async fn over_ssh<T, F: Future<Output = Result<T, Error>>>(
        self,
        host: String,
        paths: Vec<Vec<u8>>,
        destination: PathBuf,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PullConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let what = (self.set.set()?, Arc::new(self.filter.filter()?), self.delete.delete()?);
        // What was told once is not told again: of a dry run there is one attempt.
        let retry_for = if self.dry_run.dry_run { Duration::ZERO } else { self.way.retry_for };
        let ssh = self.ssh.config(&host, &self.network, retry_for)?;
        self.way.none_further()?;
        let identity = trust::identity(&self.trust.identity)?;
        let wanted = Wanted { writes: false, paths };
        let tell = teller(host, self.output.quiet);
        carry(&ssh, &identity, &wanted, &tell, stop, |far: Far, stop| {
            let (own, trust) = (Arc::clone(&far.identity), far.trust.clone());
            let (servers, paths) = (vec![far.server.clone()], far.paths.clone());
            let config =
                PullConfig::new(paths, servers, &*far.name, destination.clone(), own, trust);
            act(far.pull(self.with_options(config, what.clone())), stop)
        })
        .await
    }

    /// A pull with all that is the same however its server is reached.
    fn with_options(&self, config: PullConfig, (set, filter, delete): What) -> PullConfig {
        PullConfig {
            bind: self.network.bind.clone(),
            datagram_bytes_max: self.network.mtu,
            set,
            filter,
            congestion: self.pace.congestion,
            aggressiveness: self.pace.aggressiveness,
            rate_max: self.pace.rate_max(),
            remembers: !self.way.no_memory,
            receipt: self.receipt.clone(),
            keep: self.metadata.keep(),
            extras: self.metadata.extras(),
            skip: self.skip.skip(),
            packing: self.pace.compress,
            delete,
            connect_timeout: self.network.connect_timeout,
            retry_for: self.way.retry_for,
            ..config
        }
    }
}

/// Standard output, without a buffer that writes line by line.
fn outlet() -> Result<Outlet, Error> {
    let owned = std::io::stdout().as_fd().try_clone_to_owned();
    let cannot = |error| Error::Disk(format!("cannot write to standard output: {error}"));
    Ok(Outlet::new(File::from(owned.map_err(cannot)?)))
}
