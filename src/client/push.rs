//! A push, over as many attempts as it takes.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::attempts::{Attempts, Failed};
use super::config::PushConfig;
use super::find;
use super::session::Session;
use super::sweep::{Terms, after, may_sweep, sent_at_least, sweep_push};
use crate::buffers::Buffers;
use crate::clock;
use crate::error::Error;
use crate::event::{PushEvent, PushReporter, Summary};
use crate::net::limit::Limit;
use crate::net::lookup::Addresses;
use crate::send::names::starts;
use crate::send::{Job, Receipt, Search, Sender};
use crate::store::descriptors::raise_limit;
use crate::store::owners::is_root;
use crate::store::scan::LookFor;
use crate::store::source::ReadOptions;
use crate::store::start::Start;
use crate::traffic::SetConfig;
use crate::wire;
use crate::wire::TransferSecret;
use crate::work::Work;

/// What remembering files with several names may take, in bytes.
const LINKED_BYTES_MAX: usize = 256 << 20;

/// Pushes, until everything is durable at the destination or `stop` resolves. What the receiver has of
/// an earlier run of the same push is not sent again; an interruption that may pass is waited out.
///
/// Single files that fail are in the summary; an error means that the transfer as a whole failed.
pub async fn push(
    config: PushConfig,
    report: PushReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    let (began, started) = (clock::now(), SystemTime::now());
    let mut attempts = Attempts::new(config.retry_for, Arc::clone(&report));
    tokio::pin!(stop);
    // Sockets, and files that are read.
    raise_limit();
    if let Some(fault) = wire::path_fault(&config.destination) {
        return Err(Error::Usage(format!("the destination cannot be: {fault}")));
    }
    let mut found_before: Option<Search> = None;
    if config.delete.is_some() {
        let starts = starts(&config.sources)?;
        tokio::select! {
            may = may_sweep(&config, &starts) => may?,
            () = &mut stop => return Err(Error::Interrupted),
        }
    }
    loop {
        let connect_timeout = attempts.reach_time(config.connect_timeout);
        let config = PushConfig { connect_timeout, ..config.clone() };
        let client = config.identity.fingerprint();
        let receipt = config.receipt.clone().map(|path| Receipt::create(path, client, started));
        let receipt = receipt.transpose()?.map(Arc::new);
        receipt.as_ref().map_or(Ok(()), |receipt| receipt.check(&config.sources))?;
        // The server may be somewhere else by now.
        let found = tokio::select! {
            found = find(&config.servers, &config.resolver, &config.bind) => found,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let failed = match found {
            Err(error) => error.into(),
            Ok(addresses) => {
                let search = match found_before.take() {
                    Some(search) => search,
                    None if config.stream.is_some() => {
                        let Some(stream) = &config.stream else { continue };
                        Search::stream(stream)?
                    }
                    None => Search::start(
                        starts(&config.sources)?,
                        Arc::clone(&config.filter),
                        LookFor { extras: config.extras, is_privileged: is_root() },
                        receipt.clone(),
                    ),
                };
                let starts = search.starts().to_vec();
                let mut sender = attempt(&config, addresses, search, &report, receipt, began)?;
                match sender.run_until(&mut stop).await {
                    Ok(summary) => {
                        sender.lines().remember_path();
                        let summary = attempts.done(summary);
                        let ending = async {
                            sender.finish_receipt(&summary).await?;
                            delete(&config, &starts, summary.clone(), &report).await
                        };
                        let summary = tokio::select! {
                            ended = ending => ended?,
                            () = &mut stop => return Err(Error::Interrupted),
                        };
                        report(PushEvent::Summary(summary.clone()));
                        return Ok(summary);
                    }
                    Err(error) => {
                        let alive_at = sender.lines().is_accepted().then(|| sender.alive_at());
                        let summary = sender.summary();
                        found_before = sender.into_search().again();
                        Failed { error, alive_at, summary }
                    }
                }
            }
        };
        if config.stream.is_some() {
            return Err(failed.error);
        }
        let wait = attempts.failed(failed)?;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut stop => return Err(Error::Interrupted),
        }
    }
}

/// Removes what is to be removed after a push.
async fn delete(
    config: &PushConfig,
    starts: &[Start],
    summary: Summary,
    report: &PushReporter,
) -> Result<Summary, Error> {
    let Some(delete) = config.delete else { return Ok(summary) };
    let names: Vec<_> = starts.iter().map(|start| start.name().to_vec()).collect();
    let at_least = sent_at_least(&summary, config.skip, &names);
    let terms = Terms { delete, is_dry_run: false, at_least };
    after(summary, delete, config.retry_for, report, |tell| async move {
        let tell = async |told| {
            tell(told);
            Ok(())
        };
        sweep_push(config, starts, terms, tell).await
    })
    .await
}

/// One attempt at a push, with its own transfer at the server.
fn attempt(
    config: &PushConfig,
    addresses: Addresses,
    search: Search,
    report: &PushReporter,
    receipt: Option<Arc<Receipt>>,
    began: Instant,
) -> Result<Sender<Session>, Error> {
    let transfer = TransferSecret(rand::random());
    // Where there are several, each is to be used.
    let is_plain = addresses.places() <= 1 && config.bind.len() <= 1;
    let session = Session::new(config, addresses, search.starts(), transfer)?;
    let job = Job {
        transfer,
        search,
        destination: config.destination.clone(),
        set: SetConfig {
            stuck_after: config.retry_for,
            up_within: config.connect_timeout,
            bytes_per_connection: if is_plain { config.set.bytes_per_connection } else { 0 },
            ..config.set.clone()
        },
        limit: config.rate_max.map(|rate_max| Arc::new(Limit::new(rate_max))),
        work: Work::alone(),
        read: ReadOptions { extras: config.extras, is_privileged: is_root(), ..config.read },
        buffers: Buffers::default(),
        receipt,
        names_kept: false,
        gives_root: false,
        linked_bytes_max: LINKED_BYTES_MAX,
        skip: config.skip,
        began,
    };
    Ok(Sender::new(job, session, Arc::clone(report)))
}
