//! Telling clients what a pull would bring them: what is found at its sources, as it would be for the pull.

use std::sync::Arc;

use std::time::Duration;

use quinn::{Connection, SendStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::greeting::{Asked, ConnError};
use super::list::{Lister, answer, unlisted};
use super::place::{done, place};
use super::refusal::Refusal;
use super::sources::{reach, starts};
use crate::filter::Filter;
use crate::identity::Fingerprint;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::send::{Found, Search};
use crate::store::kind::Kind;
use crate::store::probe::Probe;
use crate::store::scan::{Entry, LookFor, Lost};
use crate::store::{folder_of, last_of, named, reason};
use crate::wire::{
    Answer, AtSource, Destination, Listed, ListedKind, Named, Question, SurveyRequest,
};

/// Answers that wait to be sent, at most.
const QUEUE: usize = 64;
/// A client that asks for nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(300);

impl Lister {
    /// Tells a client what it asked for, once it is its turn. Returns how much there was.
    pub(super) async fn survey(
        &self,
        client: Fingerprint,
        asked: Asked<SurveyRequest>,
    ) -> Result<u64, ConnError> {
        let Asked { connection, answers, messages, request } = asked;
        if request.is_about_names {
            return self.answer_names(client, &connection, (answers, messages), request).await;
        }
        answer(&connection, answers, messages, async |sender| {
            self.tell_found(client, &connection, sender, request).await
        })
        .await
    }

    /// Answers a client that asks what of its own is at the sources. Returns how much that was.
    async fn answer_names(
        &self,
        client: Fingerprint,
        connection: &Connection,
        (answers, mut messages): (SendStream, ControlReader),
        request: SurveyRequest,
    ) -> Result<u64, ConnError> {
        let (sender, queue) = channel(QUEUE);
        let mut sending = JoinSet::new();
        reach(&self.access, client, &request.sources)?;
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move { drop(send_all(answers, queue).await) });
        let _seat = place(&self.clients, &self.drain, client, connection, &sender).await?;
        let reached = reach(&self.access, client, &request.sources)?;
        let work = self.workers.of(*client.as_bytes());
        let starts = starts(&work, reached).await?;
        let filter = Filter::of(&request.select).map_err(Refusal::Final)?;
        let is_one = matches!(&starts[..], [start] if start.is_leaf);
        let there = if is_one { Destination::File } else { Destination::Folder };
        self.say(&sender, Answer::Welcome(there)).await?;
        let (mut probe, mut told) = (Probe::new(&starts, Arc::new(filter)), 0);
        loop {
            let message = match timeout(PATIENCE, messages.next()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None) | Err(ControlError::Read(_))) => break,
                Ok(Err(ControlError::Wire(error))) => return Err(error.into()),
                Err(_) => {
                    let why = format!("nothing was asked for {} seconds", PATIENCE.as_secs());
                    return Err(Refusal::Final(why).into());
                }
            };
            let Question::Ask { question, all } = message else {
                return Err(ConnError::Protocol(format!("unexpected message {message:?}")));
            };
            told += all.len() as u64;
            let looked = work.run(move || (look(&mut probe, &all), probe)).await;
            let (looked, same) = looked.map_err(|error| Refusal::Final(error.to_string()))?;
            probe = same;
            let answer = match looked {
                Ok(states) => Answer::AtSource { question, states },
                Err((path, why)) => unlisted(path, why),
            };
            self.say(&sender, answer).await?;
        }
        done(connection).await.map(|()| told)
    }

    async fn tell_found(
        &self,
        client: Fingerprint,
        connection: &Connection,
        answers: Sender<Answer>,
        request: SurveyRequest,
    ) -> Result<u64, ConnError> {
        // Before anything is looked at, and anybody is waited for.
        reach(&self.access, client, &request.sources)?;
        let _seat = place(&self.clients, &self.drain, client, connection, &answers).await?;
        // It may have been taken back meanwhile.
        let reached = reach(&self.access, client, &request.sources)?;
        let starts = starts(&self.workers.of(*client.as_bytes()), reached).await?;
        let is_one = matches!(&starts[..], [start] if start.is_leaf);
        let there = if is_one { Destination::File } else { Destination::Folder };
        self.say(&answers, Answer::Welcome(there)).await?;
        let filter = Filter::of(&request.select).map_err(Refusal::Final)?;
        let mut search = Search::once(starts, Arc::new(filter), LookFor::default());
        let (mut folder, mut told) = (Vec::new(), 0);
        while let Some(Found::Entries(entries)) = search.next().await {
            for entry in entries {
                let entry = match entry {
                    // The folder whose contents are meant.
                    Ok(entry) if entry.remote.is_empty() => continue,
                    Ok(entry) => entry,
                    Err(Lost { local, why, .. }) => {
                        let path = local.to_string().into_bytes();
                        self.say(&answers, unlisted(path, why.reason)).await?;
                        continue;
                    }
                };
                if folder_of(&entry.remote) != folder {
                    folder = folder_of(&entry.remote).to_vec();
                    self.say(&answers, Answer::ListFolder(folder.clone())).await?;
                }
                told += 1;
                self.say(&answers, Answer::Listed(listed(entry))).await?;
            }
        }
        self.say(&answers, Answer::ListEnd).await?;
        Ok(told)
    }
}

/// What is at the source of `all`; of which it cannot be told, and why.
fn look(probe: &mut Probe, all: &[Named]) -> Result<Vec<AtSource>, (Vec<u8>, String)> {
    let mut states = Vec::with_capacity(all.len());
    for Named { path, is_folder } in all {
        states.push(probe.look(path, *is_folder).map_err(|error| {
            let why = format!("cannot look for {} at the source: {}", named(path), reason(&error));
            (path.clone(), why)
        })?);
    }
    Ok(states)
}

fn listed(entry: Entry) -> Listed {
    let name = last_of(&entry.remote).to_vec();
    match entry.kind {
        Kind::File(info) => {
            Listed { name, meta: info.meta, kind: ListedKind::File { bytes: info.bytes } }
        }
        Kind::Folder(meta) => Listed { name, meta, kind: ListedKind::Folder },
        Kind::Special { meta, .. } => Listed { name, meta, kind: ListedKind::Other },
        Kind::Symlink { meta, target } => {
            Listed { name, meta, kind: ListedKind::Symlink { target } }
        }
    }
}
