//! What pushing and pulling have in common: metadata, the way to the server, how hard to press, and how many
//! connections.

use std::time::Duration;

use clap::Args;
use qbulk::client::{Delete, RETRY_FOR};
use qbulk::congestion::{Aggressiveness, Algorithm};
use qbulk::error::Error;
use qbulk::net::address::ServerAddress;
use qbulk::traffic::{HealthConfig, PrimeConfig, SetConfig};
use qbulk::wire::{Extras, Keep, Packing};

use super::url::Destination;
use super::values::{
    Choice, bwlimit, bytes, bytes_per_s, duration, name_of, one_of, rate, share, size,
    stripe_bytes, time,
};

/// N at most.
const CONNECTIONS_MAX: u16 = 64;

const COMPRESS: [Choice<Packing>; 3] = [
    (Packing::None, "none", "Send everything as it is"),
    (
        Packing::Auto,
        "auto",
        "Zstandard, while the network and not the sender holds the transfer up",
    ),
    (Packing::Always, "zstd", "Zstandard, in any case"),
];

const AGGRESSIVENESS: [Choice<Aggressiveness>; 3] = [
    (Aggressiveness::Background, "background", "Take what nobody else wants"),
    (Aggressiveness::Normal, "normal", "Take what one well-tuned connection would"),
    (Aggressiveness::Max, "max", "Take all there is"),
];

const CONGESTION: [Choice<Algorithm>; 2] = [
    (Algorithm::Model, "model", "Measure the path, and share one budget over all connections"),
    (Algorithm::Cubic, "cubic", "CUBIC (RFC 9438)"),
];

/// What of metadata is kept.
#[derive(Debug, Args)]
pub(super) struct MetadataArgs {
    /// Keep all that rsync's -a does: with what is kept in any case (-rlpt), -o, -g and -D.
    #[arg(short = 'a', long, env = "QBULK_ARCHIVE", help_heading = "Metadata")]
    archive: bool,
    /// Keep owners, and with them set-user-id, set-group-id and sticky bits: by the users' names, where they are known
    /// at the receiver. Only where root receives, and from a server with its --super.
    #[arg(short = 'o', long, env = "QBULK_OWNER", help_heading = "Metadata")]
    owner: bool,
    /// Keep groups, by their names. Who is not root can keep those that it is a member of.
    #[arg(short = 'g', long, env = "QBULK_GROUP", help_heading = "Metadata")]
    group: bool,
    /// Do not keep owners, for all that -a says.
    #[arg(long, env = "QBULK_NO_OWNER", conflicts_with = "owner", help_heading = "Metadata")]
    no_owner: bool,
    /// Do not keep groups, for all that -a says.
    #[arg(long, env = "QBULK_NO_GROUP", conflicts_with = "group", help_heading = "Metadata")]
    no_group: bool,
    /// Keep owners and groups by their numbers, whatever they are called.
    #[arg(long, env = "QBULK_NUMERIC_IDS", help_heading = "Metadata")]
    numeric_ids: bool,
    /// Send devices (which only root can make), named pipes and sockets as such. Without, they are named as failed.
    #[arg(short = 'D', long = "devices", env = "QBULK_DEVICES", help_heading = "Metadata")]
    devices: bool,
    /// Keep what is one file under several names as that, among what is sent together.
    #[arg(short = 'H', long, env = "QBULK_HARD_LINKS", help_heading = "Metadata")]
    hard_links: bool,
    /// Keep extended attributes: those of users, and where root sends and receives also those of the system, such as
    /// capabilities. What else there is at the receiver is removed.
    #[arg(short = 'X', long, env = "QBULK_XATTRS", help_heading = "Metadata")]
    xattrs: bool,
    /// Keep POSIX ACLs, with users and groups by their numbers.
    #[arg(
        short = 'A',
        long,
        env = "QBULK_ACLS",
        conflicts_with = "no_perms",
        help_heading = "Metadata"
    )]
    acls: bool,
    /// Do not keep permission bits: what is new gets what the server's umask leaves of them, and what is
    /// replaced keeps its own. For file systems that have none.
    #[arg(long, env = "QBULK_NO_PERMS", help_heading = "Metadata")]
    no_perms: bool,
    /// Do not keep modification times.
    #[arg(long, env = "QBULK_NO_TIMES", help_heading = "Metadata")]
    no_times: bool,
    /// Keep modification times of files and links, not of folders.
    #[arg(long, env = "QBULK_OMIT_DIR_TIMES", help_heading = "Metadata")]
    omit_dir_times: bool,
}

/// Whether anything is done at all.
#[derive(Debug, Args)]
pub(super) struct DryRunArgs {
    /// Change nothing at either end, and write to standard output what would be done: a line for each path, with why.
    /// What only shows when files are read or written is not foreseen.
    #[arg(
        short = 'n',
        long,
        env = "QBULK_DRY_RUN",
        conflicts_with = "receipt",
        help_heading = "What is sent"
    )]
    pub(super) dry_run: bool,
}

/// What is removed at the destination.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// When all is there, delete what is in the folders that were sent and not at the source. Not if anything failed, nor
    /// if something is not at the source any more. What rules leave out stays, and so does what is too large or too small.
    #[arg(
        long,
        visible_alias = "delete-after",
        env = "QBULK_DELETE",
        conflicts_with = "files_from",
        help_heading = "What is sent"
    )]
    delete: bool,
    /// The same, and what rules leave out is deleted as well.
    #[arg(
        long,
        env = "QBULK_DELETE_EXCLUDED",
        conflicts_with = "files_from",
        help_heading = "What is sent"
    )]
    delete_excluded: bool,
    /// Delete nothing if it would be more than this; the exit code is 25 then.
    #[arg(long, value_name = "COUNT", env = "QBULK_MAX_DELETE", help_heading = "What is sent")]
    max_delete: Option<u64>,
}

impl DeleteArgs {
    /// What is removed, if anything.
    pub(super) fn delete(&self) -> Result<Option<Delete>, Error> {
        let is_wanted = self.delete || self.delete_excluded;
        if self.max_delete.is_some() && !is_wanted {
            return Err(Error::Usage(
                "--max-delete goes with --delete, and there is no --delete".into(),
            ));
        }
        Ok(is_wanted.then_some(Delete { max: self.max_delete, excluded: self.delete_excluded }))
    }
}

/// The way to the server, and back to it.
#[derive(Debug, Args)]
pub(super) struct WayArgs {
    /// A further address of the same server; repeatable: connections take turns.
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        env = "QBULK_SERVER",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    pub(super) server: Vec<String>,
    /// How long to try to go on when the server, or the network, is gone under way.
    #[arg(long, value_name = "TIME", default_value = time(RETRY_FOR), value_parser = duration, env = "QBULK_RETRY_FOR", help_heading = "Network")]
    pub(super) retry_for: Duration,
    /// Do not start from what the last transfer with this server has learned about the path, and learn nothing.
    #[arg(long, env = "QBULK_NO_MEMORY", help_heading = "Network")]
    pub(super) no_memory: bool,
}

/// How hard to press.
#[derive(Debug, Args)]
pub(super) struct PaceArgs {
    /// Compress what shrinks: for text and the like, over paths that are slower than a processor compresses.
    #[arg(
        short = 'z',
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_value = name_of(&COMPRESS, &Packing::None),
        default_missing_value = name_of(&COMPRESS, &Packing::Auto),
        value_parser = one_of(&COMPRESS),
        env = "QBULK_COMPRESS",
        help_heading = "Network"
    )]
    pub(super) compress: Packing,
    /// How hard to compete with the traffic of others.
    #[arg(
        long,
        default_value = name_of(&AGGRESSIVENESS, &Aggressiveness::default()),
        value_parser = one_of(&AGGRESSIVENESS),
        env = "QBULK_AGGRESSIVENESS",
        help_heading = "Network"
    )]
    pub(super) aggressiveness: Aggressiveness,
    /// Send no more than this, in bytes per second: 12.5MB is 100Mbit, which can be said as well.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = rate,
        env = "QBULK_LIMIT",
        help_heading = "Network"
    )]
    limit: Option<u64>,
    /// The same as rsync takes it: in KiB per second, or with a unit as in 1.5m or 2MB; 0 is no limit.
    #[arg(
        long,
        value_name = "RATE",
        value_parser = bwlimit,
        conflicts_with = "limit",
        env = "QBULK_BWLIMIT",
        help_heading = "Network"
    )]
    bwlimit: Option<u64>,
    /// Who decides how much is in flight: one model for all connections, or CUBIC for each by itself.
    #[arg(long, default_value = name_of(&CONGESTION, &Algorithm::default()), value_parser = one_of(&CONGESTION), env = "QBULK_CONGESTION", help_heading = "Network")]
    pub(super) congestion: Algorithm,
}

impl PaceArgs {
    /// The most to send, in bytes per second.
    pub(super) fn rate_max(&self) -> Option<u64> {
        self.limit.or(self.bwlimit.filter(|rate| *rate > 0))
    }
}

/// How many connections.
#[derive(Debug, Args)]
struct SizeArgs {
    #[arg(long, value_name = "N", help = connections_help(), env = "QBULK_CONNECTIONS", help_heading = "Connection set",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: Option<u16>,
    #[arg(short = 'm', long, value_name = "M", help = active_help(), env = "QBULK_ACTIVE", help_heading = "Connection set",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(CONNECTIONS_MAX)))]
    active: Option<u16>,
}

/// The connection set.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
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
}

impl SetArgs {
    /// What the options say.
    pub(super) fn set(&self) -> Result<SetConfig, Error> {
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

impl MetadataArgs {
    pub(super) fn keep(&self) -> Keep {
        Keep { modes: !self.no_perms, times: !self.no_times, folder_times: !self.omit_dir_times }
    }

    pub(super) fn extras(&self) -> Extras {
        Extras {
            owner: self.owner || self.archive && !self.no_owner,
            group: self.group || self.archive && !self.no_group,
            numeric_ids: self.numeric_ids,
            devices: self.devices || self.archive,
            specials: self.devices || self.archive,
            hard_links: self.hard_links,
            xattrs: self.xattrs,
            acls: self.acls,
        }
    }

    /// Whether owners are asked for as such, and not only with all else as -a does: then it is a fault that they are
    /// not kept. Otherwise it is told.
    pub(super) fn insists_on_owners(&self) -> bool {
        self.owner || self.group
    }
}

impl WayArgs {
    /// That no further addresses are given, where ssh tells them.
    pub(super) fn none_further(&self) -> Result<(), Error> {
        if self.server.is_empty() {
            return Ok(());
        }
        Err(Error::Usage("--server goes with qbulk://: where ssh goes, say --udp-host".into()))
    }

    /// All addresses of the server at `place`.
    pub(super) fn servers(&self, place: &Destination) -> Result<Vec<ServerAddress>, Error> {
        let mut servers = vec![place.address()];
        for further in &self.server {
            let further = ServerAddress::parse(further, place.port);
            servers.push(further.map_err(|error| Error::Usage(format!("--server: {error}")))?);
        }
        Ok(servers)
    }
}

impl SizeArgs {
    /// A set of this size.
    fn set(&self) -> Result<SetConfig, Error> {
        let defaults = SetConfig::default();
        let connections = match (self.connections, self.active) {
            (Some(connections), _) => connections.into(),
            // With as large a reserve as without options.
            (None, Some(active)) => {
                usize::from(active).saturating_mul(5).div_ceil(4).min(CONNECTIONS_MAX.into())
            }
            (None, None) => defaults.connections,
        };
        let active = self.active.map_or((connections * 4 / 5).max(1), usize::from);
        if active > connections {
            return Err(Error::Usage(format!(
                "--active {active} is more than --connections {connections}: at most all of them can be active"
            )));
        }
        Ok(SetConfig {
            connections,
            bytes_per_connection: match (self.connections, self.active) {
                (None, None) => defaults.bytes_per_connection,
                _ => 0,
            },
            active,
            // What was asked for is what is done.
            active_max: match (self.connections, self.active) {
                (None, None) => defaults.active_max,
                _ => active,
            },
            ..defaults
        })
    }
}

fn connections_help() -> String {
    let SetConfig { connections, .. } = SetConfig::default();
    format!(
        "N: connections of the set, each from a port of its own [default: {connections} at first, and more \
         where that brings more]"
    )
}

fn active_help() -> String {
    let SetConfig { active, connections, .. } = SetConfig::default();
    format!(
        "M: how many of them carry data at a time; the others are the reserve [default: {active} of \
         {connections}]. Without N, there are a quarter more connections"
    )
}
