//! `qbulk serve`: its options, and the server that they describe.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use qbulk::certs;
use qbulk::error::Error;
use qbulk::event::ServeEvent;
use qbulk::identity::{
    AuthorizedKeysFile, Fingerprint, IdentityError, RevokedKeysFile, Rights, config_dir,
};
use qbulk::net::path::DATAGRAM_BYTES_MAX;
use qbulk::net::tls::ServerTrust;
use qbulk::serve::{KEEP_UNFINISHED, Limits, Roots, ServeConfig, Server};
use qbulk::ssh::FarConfig;

use super::roots::{AccessArg, RootArg, root, roots};
use super::url::DEFAULT_PORT;
use super::values::{bytes, count, datagram_bytes, duration, listen, own_address, time};
use super::{IdentityArgs, OutputArgs, trust};

const EXAMPLES: &str = "\
Who is let in: you yourself, whoever's fingerprint (`qbulk id`) is in the file authorized_keys in the \
configuration folder or given with --authorize, and with --ca everyone with a certificate from there. \
Nobody else gets as far as naming a file. authorized_keys is read again when it has changed: a key that is \
taken out lets nobody in from then on, and so does one in the file of --revoked, whoever vouches for it. While others \
than you and root could change these files, or folders above them, nobody is let in by them.
  qbulk serve --root /srv/data --authorize SHA256:...
What they may do below the root is what --access says: both (the default), only read, only write, or append: \
then nothing that is there is replaced, removed or changed. Several folders are served by names, which paths then \
begin with, as in qbulk://HOST/media/film.mkv, each with an access of its own:
  qbulk serve --root media=/srv/media --access media=read --root in=/srv/in --access in=append
or in config.toml, where [root.media] has path = \"/srv/media\" and access = \"read\". A key in authorized_keys \
that is to do less has that in front of it, and counts at once:
  access=read root=media SHA256:... alice
Stop it with Ctrl-C or SIGTERM: transfers that run may still end within --drain-time, and new ones are turned \
away; a second signal ends it at once. Finished files stay, and unfinished transfers go on when it runs again.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Serve one session over standard input and output, as ssh starts it for `qbulk push SRC HOST:PATH`, below the
    /// home folder or wherever its user may; with --root, below that only, and with --access no more than that.
    #[arg(long, env = "QBULK_STDIO")]
    pub(crate) stdio: bool,
    /// The UDP address to listen on; without an IP all of them, and without a port 4433.
    #[arg(long, value_name = "IP:PORT", default_value = format!("[::]:{DEFAULT_PORT}"), value_parser = listen, env = "QBULK_LISTEN")]
    listen: SocketAddr,
    /// The folder that is served; or, repeatable, several with names that paths begin with. A folder with a =
    /// before any / in its path is written as ./DIR [default: .].
    #[arg(long, value_name = "[NAME=]DIR", value_parser = root(), env = "QBULK_ROOT")]
    root: Vec<RootArg>,
    /// What may be done below the root, or below the one of that name: read, write, both or append; repeatable
    /// [default: both].
    #[arg(long, value_name = "[NAME=]MODE", value_delimiter = ',', env = "QBULK_ACCESS")]
    access: Vec<AccessArg>,
    /// Do for clients what only root can do, where this runs as root and they ask for it (-a, -o, -g, -D, -X): give files
    /// to other users, set-user-id bits, devices, and attributes of the system. Whoever may write here can then
    /// become root on this host.
    #[arg(id = "super", long = "super", env = "QBULK_SUPER")]
    allows_super: bool,
    /// A client's fingerprint that is let in, and may do all that the roots allow; repeatable.
    #[arg(
        long,
        value_name = "SHA256:...",
        env = "QBULK_AUTHORIZE",
        value_delimiter = ',',
        help_heading = "Identity"
    )]
    authorize: Vec<Fingerprint>,
    /// Accept clients with a certificate from this authority.
    #[arg(long, value_name = "FILE", env = "QBULK_CA", help_heading = "Identity")]
    ca: Option<PathBuf>,
    /// Keys that are let in no more, whoever vouches for them: a file of fingerprints, read again when it has
    /// changed.
    #[arg(long, value_name = "FILE", env = "QBULK_REVOKED", help_heading = "Identity")]
    revoked: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// The largest datagram, in bytes of UDP payload; a path's own limit is found anyway.
    #[arg(long, value_name = "BYTES", default_value_t = DATAGRAM_BYTES_MAX, value_parser = datagram_bytes(), env = "QBULK_MTU", help_heading = "Network")]
    mtu: u16,
    /// How long the unfinished files of a transfer are kept, for the same push to go on with them.
    #[arg(long, value_name = "TIME", default_value = time(KEEP_UNFINISHED), value_parser = duration, env = "QBULK_KEEP_UNFINISHED")]
    keep_unfinished: Duration,
    /// About how much memory to take, such as 256MiB; transfers for which there is none wait for their turn
    /// [default: what the host and its control groups allow].
    #[arg(long, value_name = "SIZE", env = "QBULK_MEMORY", help_heading = "Limits", value_parser = bytes)]
    memory: Option<u64>,
    /// Transfers at a time; a client that comes when there are so many waits for its turn.
    #[arg(long, value_name = "N", default_value_t = Limits::default().transfers, env = "QBULK_MAX_TRANSFERS", help_heading = "Limits", value_parser = count)]
    max_transfers: usize,
    /// Transfers at a time of one client, which is one key.
    #[arg(long, value_name = "N", default_value_t = Limits::default().transfers_per_client, env = "QBULK_MAX_TRANSFERS_PER_CLIENT", help_heading = "Limits", value_parser = count)]
    max_transfers_per_client: usize,
    /// Connections at a time; a transfer has 10 to 64.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, env = "QBULK_MAX_CONNECTIONS", help_heading = "Limits", value_parser = count)]
    max_connections: usize,
    /// Connections at a time of one client.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_client, env = "QBULK_MAX_CONNECTIONS_PER_CLIENT", help_heading = "Limits", value_parser = count)]
    max_connections_per_client: usize,
    /// How long transfers that run may go on after the first Ctrl-C or SIGTERM; 0s ends them at once.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "QBULK_DRAIN_TIME", help_heading = "Limits")]
    pub(crate) drain_time: Duration,
    /// Answer Prometheus at this TCP port of this host, or at IP:PORT for others as well: http://..../metrics, and /health
    /// (see docs/operating.md). Whoever gets there may ask: names of roots and sums are told, no paths and no keys.
    #[arg(long, value_name = "[IP:]PORT", value_parser = own_address, env = "QBULK_METRICS", help_heading = "Output", conflicts_with = "stdio")]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl ServeArgs {
    /// Opens the socket and the roots. Returns the server and its own fingerprint.
    pub(crate) fn bind(&self) -> Result<(Server, Fingerprint), Error> {
        let roots = self.roots()?.unwrap_or_else(|| Roots::from(PathBuf::from(".")));
        let identity = Arc::new(trust::identity(&self.identity)?);
        let own = identity.fingerprint();
        let listed = match config_dir() {
            Ok(dir) => Some(AuthorizedKeysFile::load(&dir.join("authorized_keys"))?),
            // With a certificate, none is needed.
            Err(IdentityError::NoConfigDir) => None,
            Err(error) => return Err(error.into()),
        };
        let allowed = self.authorize.iter().copied().chain([own]).collect();
        let ca = self.ca.as_deref().map(certs::load_ca).transpose()?;
        let revoked = self.revoked.as_deref().map(RevokedKeysFile::load).transpose()?;
        let trust = ServerTrust {
            allowed,
            listed: listed.map(Arc::new),
            revoked: revoked.map(Arc::new),
            ca,
            ..ServerTrust::default()
        };
        let server = Server::bind(ServeConfig {
            datagram_bytes_max: self.mtu,
            limits: self.limits(),
            memory: self.memory,
            keep_unfinished: self.keep_unfinished,
            allows_super: self.allows_super,
            ..ServeConfig::new(self.listen, roots, identity, trust)
        })?;
        Ok((server, own))
    }

    /// Serves one session over standard input and output.
    pub(crate) async fn over_stdio(
        &self,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let given = self.roots()?;
        let given_none = given.is_none();
        let rights = self.access.first().map_or(Rights::BOTH, AccessArg::rights);
        let home = etcetera::home_dir().map_err(|_| {
            Error::Disk("cannot tell where the home folder is: HOME is not set".into())
        })?;
        let config = FarConfig {
            roots: given,
            rights,
            // Whoever has logged in as root, and is not held to some folder, could do it all the same.
            allows_super: self.allows_super || given_none && rights == Rights::BOTH,
            home,
            identity: Arc::new(trust::identity(&self.identity)?),
            datagram_bytes_max: self.mtu,
            limits: self.limits(),
            memory: self.memory,
        };
        // Standard output is its client's.
        let tell = Arc::new(|event: ServeEvent| tracing::debug!(?event));
        qbulk::ssh::serve(config, tokio::io::stdin(), tokio::io::stdout(), tell, stop).await
    }

    /// What is served, if that was said.
    fn roots(&self) -> Result<Option<Roots>, Error> {
        if self.root.is_empty() {
            let is_plain = self.access.iter().all(|access| !access.is_named());
            if self.stdio && is_plain && self.access.len() <= 1 {
                return Ok(None);
            }
            return roots(&[RootArg::here()], &self.access).map(Some);
        }
        roots(&self.root, &self.access).map(Some)
    }

    fn limits(&self) -> Limits {
        Limits {
            transfers: self.max_transfers,
            transfers_per_client: self.max_transfers_per_client,
            connections: self.max_connections,
            connections_per_client: self.max_connections_per_client,
        }
    }
}
