//! `qbulk push`: its options, and the transfer that they describe.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qbulk::client::path_memory::PathCache;
use qbulk::client::{Delete, PushConfig, PushReporter, StreamSource};
use qbulk::congestion::BudgetConfig;
use qbulk::error::Error;
use qbulk::event::{PlanEvent, PlanSummary, Summary};
use qbulk::filter::Filter;
use qbulk::ssh::{Far, Stop, Wanted, carry};
use qbulk::store::source::ReadOptions;
use qbulk::traffic::SetConfig;

use super::filter::FilterArgs;
use super::peer::{NetworkArgs, TrustArgs, ends, place};
use super::remote::{Remote, SshPlace};
use super::skip::SkipArgs;
use super::ssh::{SshArgs, teller};
use super::transfer::{DeleteArgs, DryRunArgs, MetadataArgs, PaceArgs, SetArgs, WayArgs};
use super::url::Destination;
use super::{OutputArgs, trust};

/// What is moved, and over what.
type What = (SetConfig, Arc<Filter>, Option<Delete>);

const EXAMPLES: &str = "\
A folder is sent under its own name, and with a slash behind it only its contents are, as with rsync:
  qbulk push photos  host:backup    makes backup/photos in your home folder on the host
  qbulk push photos/ host:backup    puts what is in photos into backup
A single file is given the destination's name, unless that is a folder there or ends in a slash:
  qbulk push a.iso me@host:/srv/b.iso         makes /srv/b.iso
  qbulk push a.iso qbulk://host/images/       makes images/a.iso below what `qbulk serve` serves there
With HOST: nothing needs to be set up there but ssh and qbulk itself (see docs/ssh.md). Links are sent as links. A file that is \
there already is replaced as a whole once the new one is complete and verified, never before.
Some of it is left out by patterns, as with rsync, of which the first that matches decides:
  qbulk push --include '/logs/today.log' --exclude '/logs/*' --exclude .cache srv/ qbulk://host/backup
What would be done is told, and nothing is done, with -n: a line for each path, with what it is, why, its size and where it goes. \
Why is new, kind (something else is there), size, time, forced (-I), target (of a link), or metadata (only permissions):
  qbulk push -n photos host:backup
A push that was interrupted goes on where it was when the same command is run again.

What is written to while it is read is tried once more when everything else has been sent.

What comes from a pipe is sent as - and gets the destination's name, once it has ended and all of it is there and verified:
  pg_dump db | qbulk push - host:db.sql
A pipe only shows its end, and not whether the program that wrote to it has failed: of one that fails half-way, the half \
arrives as if it were all. With --stdin-from-command qbulk starts the program itself, and nothing is there if it fails:
  qbulk push host:db.sql --stdin-from-command pg_dump db
A pipe cannot be read again: what is on its way is kept in memory, so a connection that is lost is replaced, but when the other \
side itself is gone the push has failed, and leaves nothing.

Exit codes: 0 done, 1 some files failed (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the server refused or failed, 6 a local file cannot be used, \
24 some files vanished or were changed while they were read (everything else is there), 25 more would have been \
deleted than --max-delete allows, 130 interrupted.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PushArgs {
    /// Files and folders to send, and last where to. A slash behind a folder means its contents. Behind HOST:
    /// PATH is relative to the home folder there, which ssh gets to; in a qbulk:// URL it is relative to the folder
    /// that the server serves, at port 4433 unless given.
    // One argument: of two, clap would take a source in front of an option for the destination.
    #[arg(required = true, value_name = "SRC... [USER@]HOST:PATH|qbulk://HOST[:PORT]/PATH")]
    paths: Vec<OsString>,

    #[command(flatten)]
    dry_run: DryRunArgs,
    /// Send what this command writes to its standard output, and what follows it are its arguments: so it comes last.
    /// If the command fails, nothing is there under the destination's name.
    #[arg(
        long,
        value_name = "CMD",
        num_args = 1..,
        allow_hyphen_values = true,
        env = "QBULK_STDIN_FROM_COMMAND",
        help_heading = "Source"
    )]
    stdin_from_command: Vec<OsString>,

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

    /// Send a file that has grown since it was found as long as it was then, as with logs. What was sent
    /// of it is read once more at the end, and must still be the same.
    #[arg(long, env = "QBULK_GROWING_OK", help_heading = "Source")]
    growing_ok: bool,

    /// When all is done, write to this file what was delivered: a line of JSON for each file, with its
    /// hash (see docs/json.md). `qbulk verify --receipt` checks it. A file is replaced as a whole and keeps
    /// its mode, a link stays, and a device, a pipe or /dev/stdout is written to. It may be in a folder
    /// that is pushed: neither it nor what it is made from is sent, only other receipts are.
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

impl PushArgs {
    /// Whether nothing is to be done.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.dry_run
    }

    /// Whether what is sent comes from a pipe.
    pub(crate) fn is_stream(&self) -> bool {
        !self.stdin_from_command.is_empty() || self.paths.first().is_some_and(|first| first == "-")
    }

    /// Whether it is a fault that owners are not kept.
    pub(crate) fn insists_on_owners(&self) -> bool {
        self.metadata.insists_on_owners()
    }

    /// Pushes; tells what happens to `report`.
    pub(crate) async fn run(
        self,
        report: PushReporter,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Summary, Error> {
        let push = |config, stop| qbulk::client::push(config, Arc::clone(&report), stop);
        self.with_config(stop, push).await
    }

    /// Tells what a push would do.
    pub(crate) async fn plan<F: Future<Output = Result<(), Error>>>(
        self,
        report: impl Fn(PlanEvent) -> F,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<PlanSummary, Error> {
        let plan = |config, stop| qbulk::client::plan_push(config, &report, stop);
        self.with_config(stop, plan).await
    }

    /// Does something with the push that is described.
    async fn with_config<T, F: Future<Output = Result<T, Error>>>(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PushConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let Some((stream, sources, destination)) = self.stream()? else {
            let (sources, destination) = ends(&self.paths)?;
            let sources = self.filter.sources(sources)?;
            return self.to(None, sources, destination, stop, act).await;
        };
        self.to(Some(stream), sources, destination, stop, act).await
    }

    /// What comes from a pipe, if something is to, and where it goes.
    fn stream(&self) -> Result<Option<(StreamSource, Vec<PathBuf>, Remote)>, Error> {
        let is_command = !self.stdin_from_command.is_empty();
        let typed = match self.paths.as_slice() {
            [destination] if is_command => destination,
            [source, destination] if source == "-" => destination,
            [.., _] if is_command => {
                return Err(Error::Usage(
                    "with --stdin-from-command there is the destination, and no other source"
                        .into(),
                ));
            }
            [sources @ .., _] if sources.iter().any(|source| source == "-") => {
                return Err(Error::Usage(
                    "- is standard input, and nothing else can be sent with it (a file of that name is ./-)".into(),
                ));
            }
            _ => return Ok(None),
        };
        if self.is_dry_run() {
            return Err(Error::Usage(
                "what comes from a pipe cannot be tried without sending it".into(),
            ));
        }
        if self.delete.delete()?.is_some() {
            return Err(Error::Usage(
                "what comes from a pipe is one file, beside which nothing is deleted".into(),
            ));
        }
        if self.skip.skip().is_strict() || self.filter.sources(Vec::new()).is_err() {
            return Err(Error::Usage("of what comes from a pipe, all is sent".into()));
        }
        let stream = if is_command {
            StreamSource::command(self.stdin_from_command.clone())
        } else {
            StreamSource::reader(std::io::stdin())
        };
        Ok(Some((stream, Vec::new(), place("destination", typed)?)))
    }

    async fn to<T, F: Future<Output = Result<T, Error>>>(
        self,
        stream: Option<StreamSource>,
        sources: Vec<PathBuf>,
        destination: Remote,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PushConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let act =
            |config: PushConfig, stop| act(PushConfig { stream: stream.clone(), ..config }, stop);
        let what = (self.set.set()?, Arc::new(self.filter.filter()?), self.delete.delete()?);
        match destination {
            Remote::Server(server) => self.at_server(sources, server, what, stop, act).await,
            Remote::Ssh(place) => self.over_ssh(sources, place, what, stop, act).await,
        }
    }

    async fn at_server<T, F: Future<Output = Result<T, Error>>>(
        self,
        sources: Vec<PathBuf>,
        destination: Destination,
        what: What,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PushConfig, Stop) -> F,
    ) -> Result<T, Error> {
        let identity = Arc::new(trust::identity(&self.trust.identity)?);
        let mut stop: Stop = Box::pin(stop);
        let servers = self.way.servers(&destination)?;
        let asked = self.trust.asked(&destination, &servers, &self.network);
        let trust = tokio::select! {
            trust = asked.trust(&identity) => trust?,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let config = PushConfig::new(
            sources,
            servers,
            destination.host,
            Arc::clone(&identity),
            trust.clone(),
        );
        let config =
            PushConfig { destination: destination.path, ..self.with_options(config, what) };
        match act(config, stop).await {
            Err(Error::Auth(message)) => Err(asked.explain(message, &identity, &trust).await),
            result => result,
        }
    }

    async fn over_ssh<T, F: Future<Output = Result<T, Error>>>(
        self,
        sources: Vec<PathBuf>,
        place: SshPlace,
        what: What,
        stop: impl Future<Output = ()> + Send + 'static,
        act: impl Fn(PushConfig, Stop) -> F,
    ) -> Result<T, Error> {
        // What was told once is not told again: of a dry run there is one attempt.
        let retry_for = if self.dry_run.dry_run { Duration::ZERO } else { self.way.retry_for };
        let ssh = self.ssh.config(&place.host, &self.network, retry_for)?;
        self.way.none_further()?;
        let identity = trust::identity(&self.trust.identity)?;
        let wanted = Wanted { writes: true, paths: vec![place.path] };
        let tell = teller(place.host, self.output.quiet);
        carry(&ssh, &identity, &wanted, &tell, stop, |far: Far, stop| {
            let (own, trust) = (Arc::clone(&far.identity), far.trust.clone());
            let servers = vec![far.server.clone()];
            let config = PushConfig::new(sources.clone(), servers, &*far.name, own, trust);
            act(far.push(self.with_options(config, what.clone())), stop)
        })
        .await
    }

    /// A push with all that is the same however its server is reached.
    fn with_options(&self, config: PushConfig, (set, filter, delete): What) -> PushConfig {
        PushConfig {
            bind: self.network.bind.clone(),
            datagram_bytes_max: self.network.mtu,
            set,
            congestion: self.pace.congestion,
            budget: BudgetConfig { aggressiveness: self.pace.aggressiveness, memory: None },
            rate_max: self.pace.rate_max(),
            paths: if self.way.no_memory { None } else { PathCache::of_user() },
            receipt: self.receipt.clone(),
            filter,
            read: ReadOptions {
                growing_ok: self.growing_ok,
                packing: self.pace.compress,
                ..ReadOptions::default()
            },
            keep: self.metadata.keep(),
            extras: self.metadata.extras(),
            skip: self.skip.skip(),
            delete,
            connect_timeout: self.network.connect_timeout,
            retry_for: self.way.retry_for,
            ..config
        }
    }
}
