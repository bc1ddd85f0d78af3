//! `qbulk verify`: its options, and the comparison that they describe.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use qbulk::client::{ReceiptConfig, VerifyConfig, VerifyReporter};
use qbulk::error::Error;
use qbulk::event::VerifySummary;
use qbulk::wire::Keep;

use super::OutputArgs;
use super::filter::FilterArgs;
use super::peer::{NetworkArgs, TrustArgs, ends};
use super::remote::Remote;
use super::ssh::SshArgs;

const USAGE: &str = "qbulk verify [OPTIONS] SRC... [USER@]HOST:PATH|qbulk://HOST[:PORT]/PATH
       qbulk verify [OPTIONS] --receipt FILE [DIR]";

const EXAMPLES: &str = "\
Give the sources and the destination as they were given to `qbulk push`: names follow the same rules.
  qbulk push   photos host:backup
  qbulk verify photos host:backup
Both ends read and hash (BLAKE3) their files; no data is moved. Compared are the content of files, their \
permission bits and modification times, what links say, and that folders exist. What is at the \
destination and not in the sources is not looked at. The server answers only whether something is the \
same, so that nobody learns by it what they do not have.

What was left out of the push by patterns, lists or sizes is left out by the same options.

With a receipt of `qbulk push --receipt` or `qbulk pull --receipt`, files on this host are compared with it, without any \
network:
  qbulk verify --receipt r.jsonl backup             where it was pulled to
  qbulk verify --receipt r.jsonl /srv/data          on the server, with the folder that it serves
  qbulk verify --receipt r.jsonl --strip backup .   on the client, in the folder that was pushed from
A receipt is not signed: keep it where nobody else can write.

Exit codes: 0 all is the same, 1 something differs or could not be compared (each is named), 2 wrong \
usage, 3 cannot connect, 4 authentication failed, 5 the server refused or failed, 6 a local file cannot be \
used, 24 some files vanished or were changed while they were read (all others are the same), 130 \
interrupted.";

#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_long_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Files and folders to compare, and last with what; or, with --receipt, the folder that stands for
    /// the server's root [default: .]
    #[arg(value_name = "SRC... [USER@]HOST:PATH|qbulk://HOST[:PORT]/PATH")]
    paths: Vec<OsString>,

    /// Compare files on this host with a receipt of `qbulk push --receipt` or `qbulk pull --receipt`.
    #[arg(long, value_name = "FILE", env = "QBULK_VERIFY_RECEIPT")]
    receipt: Option<PathBuf>,
    /// Compare only what the receipt lists below this path, and take the folder that is given for it.
    #[arg(long, value_name = "PATH", env = "QBULK_VERIFY_STRIP")]
    strip: Option<OsString>,
    /// Compare neither permission bits nor modification times.
    #[arg(long, env = "QBULK_CONTENT_ONLY")]
    content_only: bool,
    /// Do not compare permission bits.
    #[arg(long, env = "QBULK_NO_PERMS")]
    no_perms: bool,
    /// Do not compare modification times.
    #[arg(long, env = "QBULK_NO_TIMES")]
    no_times: bool,

    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    ssh: SshArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl VerifyArgs {
    /// Compares; tells what differs to `report`.
    pub(crate) async fn run(
        self,
        report: VerifyReporter,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<VerifySummary, Error> {
        match &self.receipt {
            Some(_) if !self.filter.takes_all() => Err(Error::Usage(
                "what a receipt lists is compared: rules, lists and sizes have no meaning with it (--strip has)".into(),
            )),
            Some(receipt) => {
                let config = self.with_receipt(receipt.clone())?;
                qbulk::client::verify_receipt(config, report, stop).await
            }
            None if self.strip.is_some() => {
                Err(Error::Usage("--strip goes with --receipt, and there is no --receipt".into()))
            }
            None => self.with_server(report, stop).await,
        }
    }

    /// What of metadata is compared.
    fn compared(&self) -> Keep {
        Keep {
            modes: !self.content_only && !self.no_perms,
            times: !self.content_only && !self.no_times,
            ..Keep::default()
        }
    }

    fn with_receipt(&self, receipt: PathBuf) -> Result<ReceiptConfig, Error> {
        let dir = match self.paths.as_slice() {
            [] => PathBuf::from("."),
            [dir] => dir.into(),
            _ => return Err(Error::Usage("with --receipt, expected one folder at most".into())),
        };
        let mut below = self.strip.clone().unwrap_or_default().into_vec();
        while below.last() == Some(&b'/') {
            below.pop();
        }
        Ok(ReceiptConfig { receipt, dir, below, compared: self.compared() })
    }

    async fn with_server(
        self,
        report: VerifyReporter,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<VerifySummary, Error> {
        let (sources, destination) = ends(&self.paths)?;
        let sources = self.filter.sources(sources)?;
        let filter = Arc::new(self.filter.filter()?);
        let compared = self.compared();
        let destination = match destination {
            Remote::Server(server) => server,
            Remote::Ssh(place) => {
                let asked = (place, &self.trust.identity, self.output.quiet);
                let verify = |peer, destination, stop| {
                    let sources = sources.clone();
                    let filter = Arc::clone(&filter);
                    let config = VerifyConfig { sources, peer, destination, filter, compared };
                    qbulk::client::verify(config, Arc::clone(&report), stop)
                };
                return self.ssh.ask(&self.network, asked, stop, verify).await;
            }
        };
        tokio::pin!(stop);
        let asking = self.trust.asking(&destination, &self.network, stop.as_mut()).await?;
        let config = VerifyConfig {
            filter,
            sources,
            peer: asking.peer.clone(),
            destination: destination.path,
            compared,
        };
        let result = qbulk::client::verify(config, report, stop).await;
        asking.explain(result).await
    }
}
