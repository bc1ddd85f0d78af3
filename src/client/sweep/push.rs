//! Removing at a server what is not here.

use std::sync::Arc;

use super::{Swept, Terms, Told};
use crate::client::config::PushConfig;
use crate::client::query::Peer;
use crate::error::{Error, reason};
use crate::event::{Failure, FailureKind, PlannedKind};
use crate::store::probe::Probe;
use crate::store::start::{Start, without_slashes};
use crate::store::{below, join, shown};
use crate::text::said;
use crate::wire::{
    Answer, AtSource, Named, Question, Request, SCOPES_MAX, SweepRequest, SweptKind,
};

/// Whether the server lets things be removed where a push goes to: that is known before anything is sent. A server that is
/// not there may be later.
pub(in crate::client) async fn may_sweep(
    config: &PushConfig,
    starts: &[Start],
) -> Result<(), Error> {
    let probe = Probe::new(starts, Arc::clone(&config.filter));
    if config.filter.is_listing() {
        let why =
            "--delete needs folders that are sent as a whole: it does not go with --files-from";
        return Err(Error::Usage(why.into()));
    }
    if probe.scopes().is_empty() {
        let why = "--delete is about what is in a folder, and no source is one";
        return Err(Error::Usage(why.into()));
    }
    let connected =
        Peer::connect(&config.peer()?, request(config, &probe)?, async |_| Ok(())).await;
    match connected {
        Ok((peer, _)) => {
            peer.close(true).await;
            Ok(())
        }
        Err(error) if error.may_pass() => Ok(()),
        Err(error) => Err(error),
    }
}

fn request(config: &PushConfig, probe: &Probe) -> Result<Request, Error> {
    let destination = without_slashes(&config.destination).to_vec();
    let scopes: Vec<_> = probe.scopes().iter().map(|name| join(&destination, name)).collect();
    if scopes.len() > SCOPES_MAX {
        let why = format!("--delete can be about {SCOPES_MAX} folders at a time");
        return Err(Error::Usage(why));
    }
    Ok(Request::Sweep(SweepRequest { destination, scopes }))
}

/// Removes at the server what is not below `starts`, on these terms.
pub(in crate::client) async fn sweep_push<F: Future<Output = Result<(), Error>>>(
    config: &PushConfig,
    starts: &[Start],
    terms: Terms,
    mut tell: impl FnMut(Told) -> F,
) -> Result<Swept, Error> {
    let mut probe = Probe::new(starts, Arc::clone(&config.filter));
    let request = request(config, &probe)?;
    let (mut peer, _) = Peer::connect(&config.peer()?, request, async |_| Ok(())).await?;
    let (mut swept, mut present) = (Swept::default(), 0);
    let is_done = loop {
        // A server may ask without an end: whoever stops this is heard.
        tokio::task::coop::consume_budget().await;
        match peer.next().await? {
            Answer::Ask { question, all } => {
                let destination = without_slashes(&config.destination).to_vec();
                let looked = tokio::task::spawn_blocking(move || {
                    (look(&mut probe, &destination, &all), probe)
                });
                let (looked, same) =
                    looked.await.map_err(|error| Error::Disk(error.to_string()))?;
                probe = same;
                let states = match looked {
                    Ok(Some(states)) => states,
                    Ok(None) => return Err(peer.broke_the_protocol()),
                    Err(why) => {
                        swept.refused = Some(super::Refused::Unknown(why));
                        break false;
                    }
                };
                present +=
                    states.iter().filter(|state| **state == AtSource::Present).count() as u64;
                let decided =
                    |state| if terms.is_gone(state) { AtSource::Gone } else { AtSource::Unsent };
                let states = states.into_iter().map(decided).collect();
                peer.say(Question::AtSource { question, states })?;
            }
            Answer::Extra { count } => {
                swept.refused = terms.refuse(count, present);
                if count == 0 || swept.refused.is_some() && !terms.is_dry_run {
                    break true;
                }
                peer.say(Question::Sweep { acts: !terms.is_dry_run })?;
            }
            Answer::Swept { path, kind, bytes } => {
                swept.removed += 1;
                let kind = match kind {
                    SweptKind::File => PlannedKind::File { bytes },
                    SweptKind::Folder => PlannedKind::Folder,
                    SweptKind::Other => PlannedKind::Link,
                };
                tell(Told::Removed(path, kind)).await?;
            }
            Answer::Unlisted { path, message } => {
                swept.failed += 1;
                let (kind, path) = (FailureKind::Destination, shown(&path));
                tell(Told::Failed(Failure { kind, path, reason: said(&message) })).await?;
            }
            Answer::ListEnd => break true,
            _ => return Err(peer.broke_the_protocol()),
        }
    };
    peer.close(is_done).await;
    Ok(swept)
}

/// What is at the source of `all`; `None` if some of it is not at the destination. An error if that cannot be told.
fn look(
    probe: &mut Probe,
    destination: &[u8],
    all: &[Named],
) -> Result<Option<Vec<AtSource>>, String> {
    let mut states = Vec::with_capacity(all.len());
    for Named { path, is_folder } in all {
        let Some(name) = below(destination, path) else { return Ok(None) };
        let state = probe.look(name, *is_folder).map_err(|error| {
            format!("cannot look whether {} is at the source: {}", shown(name), reason(&error))
        })?;
        states.push(state);
    }
    Ok(Some(states))
}
