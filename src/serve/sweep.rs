//! Removing what is not at a client's source, from the folders that it has pushed.
//!
//! The client is asked about everything that is there, a bounded number of names at a time, and says when all of it is
//! known and may be removed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::access::{Access, Reached};
use super::desk::Desk;
use super::drain::Drain;
use super::greeting::{Asked, ConnError, destination_path};
use super::limits::{Clients, Means};
use super::list::unlisted;
use super::place::{done, place, unanswerable};
use super::refusal::Refusal;
use crate::identity::{Fingerprint, Writes};
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::words;
use crate::store::destination::kind_at;
use crate::store::sweep::{Item, Removed, RemovedKind, Sweep};
use crate::store::{below, join, reason, shown};
use crate::wire::{Answer, AtSource, Named, Question, Right, SweepRequest, SweptKind, fitting};
use crate::work::{Work, Workers};

/// Clients that it is done for at the same time, at most.
const CLIENTS_MAX: usize = 64;
/// The same for one client.
const OWN_CLIENTS_MAX: usize = 32;
/// Questions that the client may have to answer, about.
const ASKS_MAX: usize = 16;
/// Answers that wait to be sent, at most.
const QUEUE: usize = 64;
/// A client that does not answer for so long is left.
const PATIENCE: Duration = Duration::from_secs(300);

/// What clients that have something removed have in common.
pub(super) struct Sweeper {
    access: Arc<Access>,
    clients: Arc<Clients>,
    /// Then nobody's turn comes any more.
    drain: Arc<Drain>,
    workers: Arc<Workers>,
}

/// A client that is there.
struct Caller {
    connection: Connection,
    answers: Sender<Answer>,
    messages: ControlReader,
    work: Work,
    /// What its paths have in front of those below the root.
    root_name: Vec<u8>,
}

impl Sweeper {
    pub(super) fn new(access: Arc<Access>, means: &Means, drain: Arc<Drain>) -> Self {
        Self {
            access,
            clients: means.clients("removals", CLIENTS_MAX, OWN_CLIENTS_MAX),
            drain,
            workers: Arc::clone(&means.workers),
        }
    }

    /// Clients that it is done for.
    pub(super) fn served(&self) -> usize {
        self.clients.transfers()
    }

    /// Removes what a client has not, once it is its turn; nothing that a transfer of `desk` writes to. Returns how
    /// much was removed.
    pub(super) async fn serve(
        &self,
        client: Fingerprint,
        asked: Asked<SweepRequest>,
        desk: &Desk,
    ) -> Result<u64, ConnError> {
        let Asked { connection, answers, messages, request } = asked;
        let SweepRequest { destination, scopes } = request;
        let (sender, queue) = channel(QUEUE);
        let mut sending = JoinSet::new();
        // Before anything is looked at, and anybody is waited for.
        let asked = destination_path(&destination).map_err(Refusal::Final)?;
        self.reach(client, &asked)?;
        for scope in &scopes {
            if below(&asked, scope).is_none() {
                let scope = shown(scope);
                return Err(ConnError::Protocol(format!("{scope:?} is not at its destination")));
            }
            destination_path(scope).map_err(Refusal::Final)?;
        }
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move { drop(send_all(answers, queue).await) });
        let _seat = place(&self.clients, &self.drain, client, &connection, &sender).await?;
        // It may have been taken back meanwhile.
        let Reached { root, name, path, .. } = self.reach(client, &asked)?;
        let scopes = scopes.iter().filter_map(|scope| below(&name, scope).map(<[u8]>::to_vec));
        let scopes: Vec<_> = scopes.collect();
        let work = self.workers.of(*client.as_bytes());
        let opened = work.run(move || {
            let root = root.current().map_err(|error| error.to_string())?;
            let found = kind_at(&root, Path::new(OsStr::from_bytes(&path)));
            let found = found.map_err(|error| reason(&error))?;
            let sweep = Sweep::new(root, scopes).map_err(|error| reason(&error))?;
            Ok::<_, String>((found, sweep))
        });
        let opened = opened.await.map_err(|error| error.to_string());
        let (found, sweep) = opened.and_then(|opened| opened).map_err(Refusal::Final)?;
        let mut caller = Caller {
            connection: connection.clone(),
            answers: sender,
            messages,
            work,
            root_name: name,
        };
        caller.say(Answer::Welcome(found)).await?;
        let sweep = caller.search(sweep).await?;
        caller.say(Answer::Extra { count: sweep.count() }).await?;
        let acts = match caller.hear().await? {
            Some(Question::Sweep { acts }) => acts,
            Some(_) => return Err(ConnError::Protocol("it does not say what to do".into())),
            None => return done(&connection).await.map(|()| 0),
        };
        self.reach(client, &asked)?;
        let removed = caller.remove(sweep, acts, desk).await?;
        caller.say(Answer::ListEnd).await?;
        done(&connection).await.map(|()| removed)
    }

    /// Where a destination leads, if this client may remove what is there.
    fn reach(&self, client: Fingerprint, path: &[u8]) -> Result<Reached, Refusal> {
        self.access.root_for(client, path, Right::Read).map_err(Refusal::Denied)?;
        let reached = self.access.root_for(client, path, Right::Write).map_err(Refusal::Denied)?;
        if reached.rights.writes == Writes::Anything && reached.rights.reads {
            return Ok(reached);
        }
        let why =
            "you may not remove anything there: that needs the right to do both, read and write";
        Err(Refusal::Denied(why.into()))
    }
}

impl Caller {
    async fn say(&self, answer: Answer) -> Result<(), ConnError> {
        match timeout(PATIENCE, self.answers.send(answer)).await {
            Ok(said) => said.map_err(|_| unanswerable()),
            Err(_) => Err(silent()),
        }
    }

    /// What the client says next; `None` if it has heard enough.
    async fn hear(&mut self) -> Result<Option<Question>, ConnError> {
        match timeout(PATIENCE, self.messages.next()).await {
            Ok(Ok(Some(message))) => Ok(Some(message)),
            Ok(Ok(None) | Err(ControlError::Read(_))) => Ok(None),
            Ok(Err(ControlError::Wire(error))) => Err(error.into()),
            Err(_) => Err(silent()),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ConnError> {
        let done = self.work.run(work).await;
        done.map_err(|error| Refusal::Final(error.to_string()).into())
    }

    /// Asks the client about everything that is there.
    async fn search(&mut self, sweep: Sweep) -> Result<Sweep, ConnError> {
        let (mut sweep, mut is_over, mut next) = (sweep, false, 0);
        let mut asked: VecDeque<(u64, Vec<Item>)> = VecDeque::new();
        while !is_over || !asked.is_empty() {
            if !is_over && asked.len() < ASKS_MAX {
                let look = move || (sweep.look(), sweep);
                let (looked, same) = self.run(look).await?;
                sweep = same;
                let Some(looked) = looked else {
                    is_over = true;
                    continue;
                };
                let mut items = looked.items;
                while !items.is_empty() {
                    let names = items.iter().map(|item| item.path.len() + self.root_name.len());
                    let rest = items.split_off(fitting(names).min(items.len()));
                    let all = items.iter().map(|item| self.named(item)).collect();
                    asked.push_back((next, std::mem::replace(&mut items, rest)));
                    self.say(Answer::Ask { question: next, all }).await?;
                    next += 1;
                }
                if !looked.failed.is_empty() {
                    // They come after what was asked for.
                    while let Some(asked) = asked.pop_front() {
                        sweep = self.settle(sweep, asked).await?;
                    }
                    for (path, why) in looked.failed {
                        sweep.keep(&path).map_err(|error| Refusal::Final(reason(&error)))?;
                        self.say(unlisted(join(&self.root_name, &path), why)).await?;
                    }
                }
            } else if let Some(asked) = asked.pop_front() {
                sweep = self.settle(sweep, asked).await?;
            }
        }
        Ok(sweep)
    }

    fn named(&self, item: &Item) -> Named {
        Named { path: join(&self.root_name, &item.path), is_folder: item.is_folder() }
    }

    /// Hears about what was asked for first.
    async fn settle(
        &mut self,
        mut sweep: Sweep,
        (question, items): (u64, Vec<Item>),
    ) -> Result<Sweep, ConnError> {
        let states = match self.hear().await? {
            Some(Question::AtSource { question: answered, states })
                if answered == question && states.len() == items.len() =>
            {
                states
            }
            Some(_) => {
                return Err(ConnError::Protocol("it does not say what it was asked for".into()));
            }
            None => return Err(ConnError::Lost(words::why(&self.connection.closed().await))),
        };
        let settled = self.run(move || {
            for (item, state) in items.iter().zip(states) {
                sweep.settle(item, state == AtSource::Gone)?;
            }
            Ok::<_, std::io::Error>(sweep)
        });
        settled.await?.map_err(|error| Refusal::Final(reason(&error)).into())
    }

    /// Removes what was found, or tells what would be. Returns how much was removed.
    async fn remove(&self, sweep: Sweep, acts: bool, desk: &Desk) -> Result<u64, ConnError> {
        let failed = |error: std::io::Error| ConnError::from(Refusal::Final(reason(&error)));
        let mut removal = self.run(move || sweep.removal(acts)).await?.map_err(failed)?;
        let mut removed = 0;
        loop {
            let (writing, name) = (desk.writing(), self.root_name.clone());
            let step = move || {
                let holds = |path: &[u8]| {
                    let path = join(&name, path);
                    let is_near = |other: &Vec<u8>| {
                        below(other, &path).is_some() || below(&path, other).is_some()
                    };
                    writing.iter().any(is_near)
                };
                (removal.step(holds), removal)
            };
            let (stepped, same) = self.run(step).await?;
            removal = same;
            let Some(stepped) = stepped.map_err(failed)? else { return Ok(removed) };
            for Removed { path, kind } in stepped.removed {
                removed += u64::from(acts);
                let (kind, bytes) = match kind {
                    RemovedKind::File { bytes } => (SweptKind::File, bytes),
                    RemovedKind::Folder => (SweptKind::Folder, 0),
                    RemovedKind::Other => (SweptKind::Other, 0),
                };
                let path = join(&self.root_name, &path);
                self.say(Answer::Swept { path, kind, bytes }).await?;
            }
            for (path, why) in stepped.failed {
                self.say(unlisted(join(&self.root_name, &path), why)).await?;
            }
        }
    }
}

fn silent() -> ConnError {
    let why = format!("its client has said nothing for {} seconds", PATIENCE.as_secs());
    Refusal::Final(why).into()
}
