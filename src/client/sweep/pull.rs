//! Removing here what a server has not.

use std::collections::VecDeque;

use super::{Refused, Swept, Terms, Told, folder};
use crate::client::config::PullConfig;
use crate::client::place::Place;
use crate::client::query::Peer;
use crate::error::{Error, reason};
use crate::event::{Failure, FailureKind};
use crate::send::names::Names;
use crate::store::sweep::{Item, Removed, Sweep};
use crate::store::{below, join, last_of};
use crate::wire::{
    Answer, AtSource, Destination, Named, Question, Request, SurveyRequest, fitting,
};

/// Questions that may be unanswered.
const ASKS_MAX: usize = 16;

/// What the sources are called below the destination: an empty one is a folder whose contents are pulled. It is this side
/// that says so: no server can widen what is looked through.
pub(in crate::client) fn names_of(sources: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let name = |source: &Vec<u8>| match &source[..] {
        [] | [.., b'/'] => Vec::new(),
        path => last_of(path).to_vec(),
    };
    sources.iter().map(name).collect()
}

/// Removes here what is not at the sources of a pull, on these terms.
pub(in crate::client) async fn sweep_pull<F: Future<Output = Result<(), Error>>>(
    config: &PullConfig,
    terms: Terms,
    mut tell: impl FnMut(Told) -> F,
) -> Result<Swept, Error> {
    let place = {
        let config = config.clone();
        blocking(move || Place::look_untouched(&config)).await??
    };
    let (sources, select) = (config.sources.clone(), config.filter.select());
    let request = Request::Survey(SurveyRequest { sources, select, is_about_names: true });
    let (mut peer, found) = Peer::connect(&config.peer()?, request, async |_| Ok(())).await?;
    let names = Names::of(&place.path, place.found, found == Destination::File)?;
    let mut run = Run { peer: &mut peer, present: 0, terms, swept: Swept::default() };
    let result = match folder(&names, place.found) {
        None => Ok(()),
        Some(destination) => {
            let scopes = names_of(&config.sources);
            let scopes = scopes.iter().map(|name| join(destination, name)).collect();
            run.run(&place, destination, scopes, &mut tell).await
        }
    };
    let swept = run.swept;
    peer.close(result.is_ok()).await;
    result.map(|()| swept)
}

struct Run<'a> {
    peer: &'a mut Peer,
    /// What was asked for and is at the source.
    present: u64,
    terms: Terms,
    swept: Swept,
}

impl Run<'_> {
    async fn run<F: Future<Output = Result<(), Error>>>(
        &mut self,
        place: &Place,
        destination: &[u8],
        scopes: Vec<Vec<u8>>,
        tell: &mut impl FnMut(Told) -> F,
    ) -> Result<(), Error> {
        let root = place.folder();
        let sweep = blocking(move || Sweep::new(root, scopes)).await?.map_err(|e| disk(&e))?;
        let fail = |path: &[u8], why: String| {
            let kind = FailureKind::Destination;
            Told::Failed(Failure { kind, path: place.local.path(path), reason: why })
        };
        let (mut sweep, mut is_over, mut next) = (sweep, false, 0);
        let mut asked: VecDeque<(u64, Vec<Item>)> = VecDeque::new();
        while !is_over || !asked.is_empty() {
            if is_over || asked.len() >= ASKS_MAX {
                if let Some(asked) = asked.pop_front() {
                    sweep = self.settle(sweep, asked).await?;
                }
                continue;
            }
            let look = move || (sweep.look(), sweep);
            let (looked, same) = blocking(look).await?;
            sweep = same;
            let Some(looked) = looked else {
                is_over = true;
                continue;
            };
            let mut items = looked.items;
            while !items.is_empty() {
                let rest = items
                    .split_off(fitting(items.iter().map(|item| item.path.len())).min(items.len()));
                let name = |item: &Item| Named {
                    path: below(destination, &item.path).unwrap_or_default().to_vec(),
                    is_folder: item.is_folder(),
                };
                let all = items.iter().map(name).collect();
                self.peer.say(Question::Ask { question: next, all })?;
                asked.push_back((next, std::mem::replace(&mut items, rest)));
                next += 1;
            }
            if !looked.failed.is_empty() {
                // They come after what was asked for.
                while let Some(asked) = asked.pop_front() {
                    sweep = self.settle(sweep, asked).await?;
                }
                for (path, why) in looked.failed {
                    sweep.keep(&path).map_err(|error| disk(&error))?;
                    self.swept.failed += 1;
                    tell(fail(&path, why)).await?;
                }
            }
            if self.swept.refused.is_some() {
                return Ok(());
            }
        }
        let count = sweep.count();
        self.swept.refused = self.swept.refused.take().or(self.terms.refuse(count, self.present));
        let acts = !self.terms.is_dry_run;
        if self.swept.refused.is_some() && acts {
            return Ok(());
        }
        let mut removal = blocking(move || sweep.removal(acts)).await?.map_err(|e| disk(&e))?;
        loop {
            let step = move || (removal.step(|_| false), removal);
            let (stepped, same) = blocking(step).await?;
            removal = same;
            let Some(stepped) = stepped.map_err(|error| disk(&error))? else { return Ok(()) };
            for Removed { path, kind } in stepped.removed {
                self.swept.removed += 1;
                tell(Told::Removed(place.local.typed(&path), kind.into())).await?;
            }
            for (path, why) in stepped.failed {
                self.swept.failed += 1;
                tell(fail(&path, why)).await?;
            }
        }
    }

    /// Hears about what was asked for first.
    async fn settle(
        &mut self,
        mut sweep: Sweep,
        (question, items): (u64, Vec<Item>),
    ) -> Result<Sweep, Error> {
        let states = match self.peer.next().await? {
            Answer::AtSource { question: answered, states }
                if answered == question && states.len() == items.len() =>
            {
                states
            }
            Answer::Unlisted { message, .. } => {
                self.swept.refused = Some(Refused::Unknown(crate::text::said(&message)));
                vec![AtSource::Unsent; items.len()]
            }
            _ => return Err(self.peer.broke_the_protocol()),
        };
        self.present += states.iter().filter(|state| **state == AtSource::Present).count() as u64;
        let terms = self.terms;
        blocking(move || {
            for (item, state) in items.iter().zip(states) {
                sweep.settle(item, terms.is_gone(state))?;
            }
            Ok::<_, std::io::Error>(sweep)
        })
        .await?
        .map_err(|error| disk(&error))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Disk(error.to_string()))
}

fn disk(error: &std::io::Error) -> Error {
    Error::Disk(format!("cannot remove what is not at the source: {}", reason(error)))
}
