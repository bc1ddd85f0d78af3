//! What a push would do.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use super::decide::{Outcome, Terms, decide, is_compared};
use super::{PlanEvent, Teller};
use crate::client::config::PushConfig;
use crate::client::query::Peer;
use crate::client::sweep::{may_sweep, sweep_push};
use crate::error::Error;
use crate::event::{Failure, PlanSummary};
use crate::send::names::{Names, Taken, starts};
use crate::send::{Found, Search};
use crate::store::compare::{Hashed, Wanted, hash};
use crate::store::kind::{FileInfo, Kind};
use crate::store::scan::{Entry, LookFor};
use crate::store::source_root::SourcePath;
use crate::store::unreadable::Unreadable;
use crate::wire::{
    Answer, Content, Expected, Extras, LOOKS_MAX, Question, Request, Subject, There, VerifyRequest,
    fitting, path_fault,
};

/// Tells what a push would do, path by path, until that is done or `stop` resolves: nothing is changed for it at either
/// end. `report` is called with each path as it comes, and while it is at work on one, no more are looked for. An error
/// of it ends the dry run.
///
/// What would fail for what is there, and what cannot be opened at the source, is told and counted.
pub async fn plan_push<F: Future<Output = Result<(), Error>>>(
    config: PushConfig,
    mut report: impl FnMut(PlanEvent) -> F,
    stop: impl Future<Output = ()> + Send,
) -> Result<PlanSummary, Error> {
    let mut stop = pin!(stop);
    if let Some(fault) = path_fault(&config.destination) {
        return Err(Error::Usage(format!("the destination cannot be: {fault}")));
    }
    let starts = starts(&config.sources)?;
    if config.delete.is_some() {
        may_sweep(&config, &starts).await?;
    }
    let sources = starts.clone();
    let destination = config.destination.clone();
    let request = Request::Verify(VerifyRequest { destination, writes: true });
    let waits = |reason| report(PlanEvent::PlanWaiting { reason });
    let peer_config = config.peer()?;
    let connected = tokio::select! {
        biased;
        connected = Peer::connect(&peer_config, request, waits) => connected,
        () = &mut stop => Err(Error::Interrupted),
    };
    let (peer, there) = connected?;
    let names = Names::new(&config.destination, there, &starts)?;
    let terms = Terms { skip: config.skip, keep: config.keep, only_new: false };
    let mut teller = Teller::new(report, terms);
    teller.settle_destination(&names, there).await?;
    let look_for = LookFor {
        extras: Extras { xattrs: false, acls: false, ..config.extras },
        ..LookFor::default()
    };
    let mut run = Run {
        peer,
        names,
        taken: Taken::new(&starts),
        search: Search::once(starts, Arc::clone(&config.filter), look_for),
        waiting: Vec::new(),
        asked: BTreeMap::new(),
        answered: BTreeMap::new(),
        next: 0,
        settled: 0,
        teller,
    };
    let result = tokio::select! {
        biased;
        () = &mut stop => Err(Error::Interrupted),
        result = run.run() => result,
    };
    run.peer.close(result.is_ok()).await;
    result?;
    let mut teller = run.teller;
    if let Some(terms) = teller.may_delete(config.delete).await? {
        let report = &mut teller.report;
        let swept = tokio::select! {
            biased;
            () = stop => return Err(Error::Interrupted),
            swept = sweep_push(&config, &sources, terms, |told| report(told.into())) => swept?,
        };
        teller.swept(swept, terms.delete).await?;
    }
    teller.end().await
}

/// Something that was found.
struct Item {
    local: SourcePath,
    expected: Expected,
}

struct Run<R> {
    peer: Peer,
    names: Names,
    taken: Taken,
    search: Search,
    /// What is to be asked for.
    waiting: Vec<Item>,
    /// What was, at most [`LOOKS_MAX`] times, by number.
    asked: BTreeMap<u64, Vec<Item>>,
    /// Answers that came before an earlier one: it is told in the order in which it is found.
    answered: BTreeMap<u64, Vec<There>>,
    next: u64,
    /// Questions with lower numbers are done with.
    settled: u64,
    teller: Teller<R>,
}

impl<F: Future<Output = Result<(), Error>>, R: FnMut(PlanEvent) -> F> Run<R> {
    async fn run(&mut self) -> Result<(), Error> {
        let mut is_over = false;
        while !is_over || !self.asked.is_empty() {
            // A server may answer at once and without an end: whoever stops this is heard.
            tokio::task::coop::consume_budget().await;
            let takes_found = !is_over && self.asked.len() < LOOKS_MAX;
            tokio::select! {
                biased;
                answer = self.peer.next() => self.on_answer(answer?).await?,
                found = self.search.next(), if takes_found => match found {
                    Some(Found::Entries(entries)) => {
                        for entry in entries {
                            match entry {
                                Ok(entry) => self.take(entry).await?,
                                Err(lost) => self.teller.fail(lost.into()).await?,
                            }
                        }
                        // What is found together is asked together.
                        self.ask()?;
                    }
                    // Nothing comes from a pipe where nothing is sent.
                    Some(Found::End | Found::Chunk(_) | Found::Broken(_)) | None => is_over = true,
                },
            }
        }
        Ok(())
    }

    async fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let path = self.names.remote(&entry.remote);
        if let Err(failure) = self.taken.check(&entry, &path) {
            return self.teller.fail(failure).await;
        }
        let Entry { local, kind, .. } = &entry;
        let subject = match kind {
            // It is there, or was told of.
            Kind::Folder(_) if entry.remote.is_empty() => return Ok(()),
            // Of devices, pipes and sockets nothing is compared.
            Kind::Special { .. } => return Ok(()),
            Kind::Folder(_) => Subject::Folder,
            Kind::File(info) => Subject::File { bytes: info.bytes, meta: info.meta },
            Kind::Symlink { target, .. } => {
                Subject::Symlink { target_hash: *blake3::hash(target).as_bytes() }
            }
        };
        let local = local.clone();
        self.waiting.push(Item { local, expected: Expected { path, subject } });
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            let count = fitting(self.waiting.iter().map(|item| item.expected.path.len()));
            let items: Vec<_> = self.waiting.drain(..count.min(self.waiting.len())).collect();
            let all = items.iter().map(|item| item.expected.clone()).collect();
            let (question, likeness) = (self.next, self.teller.terms.skip.likeness());
            self.peer.say(Question::Look { question, likeness, all })?;
            self.asked.insert(question, items);
            self.next += 1;
        }
        Ok(())
    }

    async fn on_answer(&mut self, answer: Answer) -> Result<(), Error> {
        self.note(answer)?;
        while let Some(there) = self.answered.remove(&self.settled) {
            let items = self.asked.remove(&self.settled).unwrap_or_default();
            self.settled += 1;
            self.settle(items, there).await?;
        }
        Ok(())
    }

    /// Keeps an answer until it is its turn.
    fn note(&mut self, answer: Answer) -> Result<(), Error> {
        match answer {
            Answer::OnlyNew if self.settled == 0 => self.teller.terms.only_new = true,
            Answer::Found { question, there } => {
                let asked = self.asked.get(&question).map(Vec::len);
                if asked != Some(there.len()) || self.answered.insert(question, there).is_some() {
                    return Err(self.peer.broke_the_protocol());
                }
            }
            _ => return Err(self.peer.broke_the_protocol()),
        }
        Ok(())
    }

    /// Has the server compare the content of those of `items` of which it decides. Returns of each whether it is the
    /// same, if it was compared.
    async fn compare(
        &mut self,
        items: &[Item],
        there: &[There],
    ) -> Result<Vec<Option<bool>>, Error> {
        let terms = self.teller.terms;
        let is_compared =
            |(item, there): &(&Item, &There)| is_compared(&item.expected.subject, **there, &terms);
        let all: Vec<_> = items.iter().zip(there).map(|both| is_compared(&both)).collect();
        let mut same = vec![None; items.len()];
        let compared = (0..items.len()).filter(|&at| all[at]);
        for at in compared.clone() {
            let Expected { path, subject } = items[at].expected.clone();
            self.peer.say(Question::Compare { item: at as u64, path, subject })?;
        }
        let mut unanswered = 0;
        for at in compared {
            let local = items[at].local.clone();
            let hash = tokio::task::spawn_blocking(move || hash_of(&local));
            let hash = hash.await.map_err(|error| Error::Disk(error.to_string()))?;
            // What cannot be read fails when it is opened.
            self.peer.say(Question::Expect { item: at as u64, hash })?;
            unanswered += 1;
        }
        while unanswered > 0 {
            match self.peer.next().await? {
                Answer::Compared { item, verdict } => {
                    let slot = usize::try_from(item).ok().filter(|&at| all.get(at) == Some(&true));
                    let Some(slot) = slot.and_then(|at| same.get_mut(at)) else {
                        return Err(self.peer.broke_the_protocol());
                    };
                    if slot.replace(verdict.content == Content::Same).is_some() {
                        return Err(self.peer.broke_the_protocol());
                    }
                    unanswered -= 1;
                }
                other => self.note(other)?,
            }
        }
        Ok(same)
    }

    async fn settle(&mut self, items: Vec<Item>, there: Vec<There>) -> Result<(), Error> {
        let terms = self.teller.terms;
        let same = self.compare(&items, &there).await?;
        let opened = tokio::task::spawn_blocking(move || {
            let open = |((item, there), is_same): ((Item, There), Option<bool>)| {
                let why = cannot_open(&item, there, is_same, &terms);
                (item, there, is_same, why)
            };
            items.into_iter().zip(there).zip(same).map(open).collect::<Vec<_>>()
        });
        for (Item { local, expected }, there, is_same, why) in
            opened.await.map_err(|error| Error::Disk(error.to_string()))?
        {
            match why {
                Some(Unreadable { kind, reason }) => {
                    self.teller.fail(Failure { kind, path: local.to_string(), reason }).await?;
                }
                None => self.teller.settle(expected, there, is_same).await?,
            }
        }
        Ok(())
    }
}

/// What a file hashes to, if it can be read and holds still for that.
fn hash_of(local: &SourcePath) -> Option<[u8; 32]> {
    let file = local.open().ok()?;
    let info = FileInfo::of(&rustix::fs::fstat(&file).ok()?);
    match hash(&file, &info, &Wanted::default().watch(), |_| ()) {
        Ok(Hashed::Hash(hash)) => Some(hash),
        _ => None,
    }
}

/// Why a file that would be sent could not be.
fn cannot_open(
    item: &Item,
    there: There,
    is_same: Option<bool>,
    terms: &Terms,
) -> Option<Unreadable> {
    let Item { local, expected } = item;
    let is_sent = matches!(expected.subject, Subject::File { .. })
        && matches!(decide(&expected.subject, there, is_same, terms), Outcome::Sent(_));
    if !is_sent {
        return None;
    }
    local.open().err().map(Unreadable::from)
}
