//! `qbulk push`: its options, and the transfer that they describe.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qbulk::client::path_memory::PathCache;
use qbulk::client::{PushConfig, PushReporter};
use qbulk::congestion::BudgetConfig;
use qbulk::error::Error;
use qbulk::event::Summary;
use qbulk::store::source::ReadOptions;
use qbulk::traffic::{HealthConfig, PrimeConfig, SetConfig};

use super::peer::{NetworkArgs, TrustArgs, ends};
use super::transfer::{MetadataArgs, PaceArgs, SizeArgs, WayArgs};
use super::values::{bytes, bytes_per_s, duration, share, size, stripe_bytes, time};
use super::{OutputArgs, trust};

const EXAMPLES: &str = "\
A folder is sent under its own name, and with a slash behind it only its contents are, as with rsync:
  qbulk push photos  qbulk://host/backup    makes backup/photos on the server
  qbulk push photos/ qbulk://host/backup    puts what is in photos into backup
A single file is given the destination's name, unless that is a folder there or ends in a slash:
  qbulk push a.iso qbulk://host/b.iso       makes b.iso
  qbulk push a.iso qbulk://host/images/     makes images/a.iso
The path is relative to the folder that the server serves. Links are sent as links. A file that is \
there already is replaced as a whole once the new one is complete and verified, never before.
A push that was interrupted goes on where it was when the same command is run again.

What is written to while it is read is tried once more when everything else has been sent.

Exit codes: 0 done, 1 some files failed (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the server refused or failed, 6 a local file cannot be used, \
24 some files vanished or were changed while they were read (everything else is there), 130 interrupted.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PushArgs {
    /// Files and folders to send, and last where to. A slash behind a folder means its contents; PATH is
    /// relative to the folder that the server serves. The port is 4433 unless given.
    // One argument: of two, clap would take a source in front of an option for the destination.
    #[arg(required = true, value_name = "SRC... qbulk://HOST[:PORT]/PATH")]
    paths: Vec<OsString>,

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

    /// Do not start from what the last push to this server has learned about the path, and learn nothing.
    #[arg(long, env = "QBULK_NO_MEMORY", help_heading = "Network")]
    no_memory: bool,

    #[command(flatten)]
    sizes: SizeArgs,
    /// The smallest stripe; a power of two.
    #[arg(long, value_name = "BYTES", default_value = size(SetConfig::default().stripe_bytes_min), value_parser = stripe_bytes, env = "QBULK_STRIPE_MIN", help_heading = "Connection set")]
    stripe_min: u64,
    /// The largest stripe; a power of two.
    #[arg(long, value_name = "BYTES", default_value = size(SetConfig::default().stripe_bytes_max), value_parser = stripe_bytes, env = "QBULK_STRIPE_MAX", help_heading = "Connection set")]
    stripe_max: u64,
    /// Stripes that a connection carries before a reserve takes its turn.
    #[arg(long, value_name = "COUNT", default_value_t = SetConfig::default().turn_stripes, env = "QBULK_TURN", help_heading = "Connection set",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    turn: u64,
    /// A reserve that was idle for longer is primed again.
    #[arg(long, value_name = "TIME", default_value = time(SetConfig::default().reprime_after), value_parser = duration, env = "QBULK_REPRIME_AFTER", help_heading = "Connection set")]
    reprime_after: Duration,

    /// Bytes delivered per round trip at which a connection counts as primed.
    #[arg(long, value_name = "BYTES", default_value = size(PrimeConfig::default().target_bytes), value_parser = bytes, env = "QBULK_PRIME_TARGET", help_heading = "Priming")]
    prime_target: u64,
    /// Padding that one priming may cost; 0 turns priming off.
    #[arg(long, value_name = "BYTES", default_value = size(PrimeConfig::default().budget_bytes), value_parser = bytes, env = "QBULK_PRIME_BUDGET", help_heading = "Priming")]
    prime_budget: u64,
    /// How long one priming may take.
    #[arg(long, value_name = "TIME", default_value = time(PrimeConfig::default().budget_time), value_parser = duration, env = "QBULK_PRIME_TIME", help_heading = "Priming")]
    prime_time: Duration,

    /// The share of its siblings' RTT-weighted goodput, and of its own before, below which a
    /// connection is unsatisfactory: it is replaced, and others take over what it carried.
    #[arg(long, value_name = "SHARE", default_value_t = HealthConfig::default().threshold, value_parser = share, env = "QBULK_THRESHOLD", help_heading = "Health")]
    threshold: f64,
    /// Goodput in bytes per second below which a connection is unsatisfactory in any case; 0 sets none.
    #[arg(long, value_name = "BYTES", default_value = size(HealthConfig::default().floor_bytes_per_s), value_parser = bytes_per_s, env = "QBULK_FLOOR", help_heading = "Health")]
    floor: u64,
    /// Round-trip time above which a connection is unsatisfactory in any case.
    #[arg(long, value_name = "TIME", value_parser = duration, env = "QBULK_RTT_MAX", help_heading = "Health")]
    rtt_max: Option<Duration>,

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
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl PushArgs {
    /// Pushes; tells what happens to `report`.
    pub(crate) async fn run(
        self,
        report: PushReporter,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Summary, Error> {
        let (sources, destination) = ends(&self.paths)?;
        let set = self.set()?;
        let identity = Arc::new(trust::identity(&self.trust.identity)?);
        tokio::pin!(stop);
        let servers = self.way.servers(&destination)?;
        let asked = self.trust.asked(&destination, &servers, &self.network);
        let trust = tokio::select! {
            trust = asked.trust(&identity) => trust?,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let config = PushConfig {
            destination: destination.path,
            bind: self.network.bind,
            datagram_bytes_max: self.network.mtu,
            set,
            congestion: self.pace.congestion,
            budget: BudgetConfig { aggressiveness: self.pace.aggressiveness, memory: None },
            rate_max: self.pace.limit,
            paths: if self.no_memory { None } else { PathCache::of_user() },
            receipt: self.receipt,
            read: ReadOptions { growing_ok: self.growing_ok },
            keep: self.metadata.keep(),
            connect_timeout: self.network.connect_timeout,
            retry_for: self.way.retry_for,
            ..PushConfig::new(
                sources,
                servers,
                destination.host,
                Arc::clone(&identity),
                trust.clone(),
            )
        };
        match qbulk::client::push(config, report, stop).await {
            Err(Error::Auth(message)) => Err(asked.explain(message, &identity, &trust).await),
            result => result,
        }
    }

    fn set(&self) -> Result<SetConfig, Error> {
        let sized = self.sizes.set()?;
        if self.stripe_min > self.stripe_max {
            return Err(Error::Usage("--stripe-min is above --stripe-max".into()));
        }
        Ok(SetConfig {
            stripe_bytes_min: self.stripe_min,
            stripe_bytes_max: self.stripe_max,
            turn_stripes: self.turn,
            reprime_after: self.reprime_after,
            prime: PrimeConfig {
                target_bytes: self.prime_target,
                budget_bytes: self.prime_budget,
                budget_time: self.prime_time,
            },
            health: HealthConfig {
                threshold: self.threshold,
                floor_bytes_per_s: self.floor,
                rtt_max: self.rtt_max,
            },
            ..sized
        })
    }
}
