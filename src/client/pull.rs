//! A pull, over as many attempts as it takes.

use std::sync::Arc;
use std::time::SystemTime;

use super::attempts::{Attempts, Failed};
use super::config::PullConfig;
use super::find;
use super::notes::Notes;
use super::place::Place;
use super::puller::Puller;
use super::sweep::{Terms, after, names_of, sent_at_least, sweep_pull};
use crate::clock;
use crate::error::Error;
use crate::event::{PushEvent, PushReporter, Summary};
use crate::net::lookup::Addresses;
use crate::send::Receipt;
use crate::store::descriptors::raise_limit;
use crate::wire::{PULL_SOURCES_BYTES_MAX, PULL_SOURCES_MAX};

/// Pulls, until everything is durable on this host or `stop` resolves. What is here of an earlier run of the
/// same pull is not sent again; an interruption that may pass is waited out.
///
/// Single files that fail are in the summary; an error means that the transfer as a whole failed.
pub async fn pull(
    config: PullConfig,
    report: PushReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    let (began, started) = (clock::now(), SystemTime::now());
    // Sockets, and files that are written.
    raise_limit();
    check(&config)?;
    let mut attempts = Attempts::new(config.retry_for, Arc::clone(&report));
    tokio::pin!(stop);
    loop {
        let connect_timeout = attempts.reach_time(config.connect_timeout);
        let config = PullConfig { connect_timeout, ..config.clone() };
        let found = tokio::select! {
            found = find(&config.servers, &config.resolver, &config.bind) => found,
            () = &mut stop => return Err(Error::Interrupted),
        };
        let begun = match found {
            Err(error) => Err(error),
            Ok(addresses) => begin(config.clone(), addresses, started, &report).await,
        };
        let failed = match begun {
            Err(error) => error.into(),
            Ok(mut puller) => {
                puller.began = began;
                match puller.run_until(&mut stop).await {
                    Ok(summary) => {
                        let summary = attempts.done(summary);
                        let ending = async {
                            puller.finish_receipt(&summary).await?;
                            delete(&config, summary.clone(), &report).await
                        };
                        let summary = tokio::select! {
                            ended = ending => ended?,
                            () = &mut stop => return Err(Error::Interrupted),
                        };
                        report(PushEvent::Summary(summary.clone()));
                        return Ok(summary);
                    }
                    Err(error) => {
                        Failed { error, alive_at: puller.alive_at(), summary: puller.summary() }
                    }
                }
            }
        };
        let wait = attempts.failed(failed)?;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut stop => return Err(Error::Interrupted),
        }
    }
}

/// Removes what is to be removed after a pull.
async fn delete(
    config: &PullConfig,
    summary: Summary,
    report: &PushReporter,
) -> Result<Summary, Error> {
    let Some(delete) = config.delete else { return Ok(summary) };
    let at_least = sent_at_least(&summary, config.skip, &names_of(&config.sources));
    let terms = Terms { delete, is_dry_run: false, at_least };
    after(summary, delete, config.retry_for, report, |tell| async move {
        let tell = async |told| {
            tell(told);
            Ok(())
        };
        sweep_pull(config, terms, tell).await
    })
    .await
}

pub(super) fn check(config: &PullConfig) -> Result<(), Error> {
    let is_one = matches!(config.sources.as_slice(), [source] if !source.ends_with(b"/"));
    if config.outlet.is_some() && (!is_one || config.receipt.is_some() || config.extras.is_any()) {
        return Err(Error::Usage(
            "one file can be pulled to standard output, without metadata and without a receipt"
                .into(),
        ));
    }
    let bytes: usize = config.sources.iter().map(Vec::len).sum();
    if config.sources.len() > PULL_SOURCES_MAX || bytes > PULL_SOURCES_BYTES_MAX {
        return Err(Error::Usage(format!(
            "these are too many sources for one pull: {PULL_SOURCES_MAX} of {PULL_SOURCES_BYTES_MAX} bytes in \
             all are possible"
        )));
    }
    if config.delete.is_some() && config.filter.is_listing() {
        let why =
            "--delete needs folders that are sent as a whole: it does not go with --files-from";
        return Err(Error::Usage(why.into()));
    }
    match config.filter.select().fault() {
        None => Ok(()),
        Some(why) => Err(Error::Usage(why)),
    }
}

async fn begin(
    config: PullConfig,
    addresses: Addresses,
    started: SystemTime,
    report: &PushReporter,
) -> Result<Puller, Error> {
    let transfer = crate::wire::TransferSecret(rand::random());
    let looked = tokio::task::spawn_blocking(move || {
        let place = Place::look(&config)?;
        let mut sink = place.sink(&config, transfer.name())?;
        let client = config.identity.fingerprint();
        let notes = config.receipt.clone().map(|path| Receipt::create(path, client, started));
        let notes = notes.transpose()?.map(|receipt| Notes::new(receipt, &config, &place));
        if let Some(notes) = &notes {
            sink = sink.telling(notes.teller());
        }
        Ok((config, place, sink, notes))
    });
    let (config, place, sink, notes) =
        looked.await.unwrap_or_else(|error| Err(Error::Disk(error.to_string())))?;
    Puller::new(&config, addresses, transfer, &place, (sink, notes), Arc::clone(report))
}
