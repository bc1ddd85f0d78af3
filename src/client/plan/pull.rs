//! What a pull would do.

use std::pin::pin;
use std::sync::Arc;

use super::decide::Terms;
use super::{PlanEvent, Teller};
use crate::client::config::PullConfig;
use crate::client::place::Place;
use crate::client::query::Peer;
use crate::client::sweep::sweep_pull;
use crate::error::Error;
use crate::event::{Failure, FailureKind, PlanSummary};
use crate::send::names::Names;
use crate::store::{join, shown};
use crate::text::said;
use crate::wire::{
    Answer, Destination, Expected, LOOK_FILES_MAX, Likeness, Listed, ListedKind, Request, Subject,
    SurveyRequest, is_path_safe,
};

/// Tells what a pull would do, path by path, until that is done or `stop` resolves: nothing is changed for it at either
/// end. `report` is called with each path as it comes, and while it is at work on one, no more are taken from the
/// server. An error of it ends the dry run.
///
/// What would fail for what is there, and what the server cannot look at, is told and counted.
pub async fn plan_pull<F: Future<Output = Result<(), Error>>>(
    config: PullConfig,
    mut report: impl FnMut(PlanEvent) -> F,
    stop: impl Future<Output = ()> + Send,
) -> Result<PlanSummary, Error> {
    let mut stop = pin!(stop);
    super::super::pull::check(&config)?;
    if config.skip.checksum {
        let why = "a dry run of a pull does not compare content: it cannot tell what --checksum would send";
        return Err(Error::Usage(why.into()));
    }
    let looked = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Place::look_untouched(&config))
    };
    let place = looked.await.unwrap_or_else(|error| Err(Error::Disk(error.to_string())))?;
    let (sources, select) = (config.sources.clone(), config.filter.select());
    let request = Request::Survey(SurveyRequest { sources, select, is_about_names: false });
    let waits = |reason| report(PlanEvent::PlanWaiting { reason });
    let peer_config = config.peer()?;
    let connected = tokio::select! {
        biased;
        connected = Peer::connect(&peer_config, request, waits) => connected,
        () = &mut stop => Err(Error::Interrupted),
    };
    let (mut peer, found) = connected?;
    let names = Names::of(&place.path, place.found, found == Destination::File)?;
    let terms = Terms { skip: config.skip, keep: config.keep, only_new: false };
    let mut run = Run {
        place: Arc::new(place),
        names,
        waiting: Vec::new(),
        teller: Teller::new(report, terms),
    };
    run.settle_destination().await?;
    let result = tokio::select! {
        biased;
        () = &mut stop => Err(Error::Interrupted),
        result = run.take(&mut peer) => result,
    };
    peer.close(result.is_ok()).await;
    result?;
    let mut teller = run.teller;
    if let Some(terms) = teller.may_delete(config.delete).await? {
        let report = &mut teller.report;
        let swept = tokio::select! {
            biased;
            () = stop => return Err(Error::Interrupted),
            swept = sweep_pull(&config, terms, |told| report(told.into())) => swept?,
        };
        teller.swept(swept, terms.delete).await?;
    }
    teller.end().await
}

struct Run<R> {
    place: Arc<Place>,
    names: Names,
    /// What was not looked for yet.
    waiting: Vec<Expected>,
    teller: Teller<R>,
}

impl<F: Future<Output = Result<(), Error>>, R: FnMut(PlanEvent) -> F> Run<R> {
    /// Tells of the folder that everything would go into, if that is not there.
    async fn settle_destination(&mut self) -> Result<(), Error> {
        let names = match &self.names {
            Names::Into(path) => Names::Into(self.place.local.typed(path)),
            Names::As(path) => Names::As(path.clone()),
        };
        self.teller.settle_destination(&names, self.place.found).await
    }

    /// Takes what the server has found, to its end.
    async fn take(&mut self, peer: &mut Peer) -> Result<(), Error> {
        let mut folder = Vec::new();
        loop {
            // A server may send faster than is taken, and without an end: whoever stops this is heard.
            tokio::task::coop::consume_budget().await;
            match peer.next().await? {
                Answer::Listed(listed) => {
                    if let Some(expected) = self.expected(&folder, listed) {
                        self.waiting.push(expected);
                    }
                    if self.waiting.len() >= LOOK_FILES_MAX {
                        self.look().await?;
                    }
                }
                Answer::ListFolder(path) => folder = path,
                Answer::Unlisted { path, message } => {
                    let (path, reason) = (shown(&path), said(&message));
                    self.teller.fail(Failure { kind: FailureKind::Source, path, reason }).await?;
                }
                Answer::ListEnd => return self.look().await,
                _ => return Err(peer.broke_the_protocol()),
            }
        }
    }

    /// What the server has found, and where it goes; `None` if nobody could send it there.
    fn expected(&self, folder: &[u8], listed: Listed) -> Option<Expected> {
        let path = self.names.remote(&join(folder, &listed.name));
        let subject = match listed.kind {
            ListedKind::File { bytes } => Subject::File { bytes, meta: listed.meta },
            ListedKind::Folder => Subject::Folder,
            ListedKind::Symlink { target } => {
                Subject::Symlink { target_hash: *blake3::hash(&target).as_bytes() }
            }
            ListedKind::Other => return None,
        };
        is_path_safe(&path).then_some(Expected { path, subject })
    }

    async fn look(&mut self) -> Result<(), Error> {
        let all = std::mem::take(&mut self.waiting);
        let likeness: Likeness = self.teller.terms.skip.likeness();
        let place = Arc::clone(&self.place);
        let looked = tokio::task::spawn_blocking(move || (place.foresee(&all, likeness), all));
        let (there, all) = looked.await.map_err(|error| Error::Disk(error.to_string()))?;
        for (mut expected, there) in all.into_iter().zip(there) {
            expected.path = self.place.local.typed(&expected.path);
            self.teller.settle(expected, there, None).await?;
        }
        Ok(())
    }
}
