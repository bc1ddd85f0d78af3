//! Telling clients what a pull would bring them: what is found at its sources, as it would be for the pull.

use std::sync::Arc;

use quinn::Connection;
use tokio::sync::mpsc::Sender;

use super::greeting::{Asked, ConnError};
use super::list::{Lister, answer, unlisted};
use super::place::place;
use super::sources::{reach, starts};
use crate::identity::Fingerprint;
use crate::send::{Found, Search};
use crate::store::kind::Kind;
use crate::store::scan::{Entry, LookFor, Lost};
use crate::store::{folder_of, last_of};
use crate::wire::{Answer, Destination, Listed, ListedKind, SurveyRequest};

impl Lister {
    /// Tells a client what it asked for, once it is its turn. Returns how much there was.
    pub(super) async fn survey(
        &self,
        client: Fingerprint,
        asked: Asked<SurveyRequest>,
    ) -> Result<u64, ConnError> {
        let Asked { connection, answers, messages, request } = asked;
        answer(&connection, answers, messages, async |sender| {
            self.tell_found(client, &connection, sender, request).await
        })
        .await
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
        let mut search = Search::once(starts, Arc::default(), LookFor::default());
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
