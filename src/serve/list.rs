//! Telling clients what is below the root. A folder is read as far as its client takes what is in it.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, SendStream};
use rustix::io::Errno;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::access::{Access, Reached};
use super::drain::Drain;
use super::greeting::{Asked, ConnError, destination_path};
use super::limits::{Clients, Means};
use super::place::{done, place, unanswerable};
use super::refusal::Refusal;
use crate::identity::Fingerprint;
use crate::net::control::{ControlError, ControlReader, send_all};
use crate::net::words;
use crate::store::list::{Found, Listing, Seen, folder_as, list};
use crate::store::root::Root;
use crate::store::{named, reason};
use crate::wire::{
    Answer, Destination, ListRequest, Listed, ListedKind, Question, Right, TEXT_BYTES_MAX,
};
use crate::work::{Work, Workers};

/// Clients that are told what is there at the same time, at most.
const CLIENTS_MAX: usize = 64;
/// The same for one client.
const OWN_CLIENTS_MAX: usize = 32;
/// What waits to be sent to a client, at most: messages, and bytes that it has not confirmed.
const QUEUE: usize = 64;
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// A client that takes nothing for so long makes room for one that waits.
const STALLED_TIME: Duration = Duration::from_secs(30);

/// What clients that are told have in common.
pub(super) struct Lister {
    pub(super) access: Arc<Access>,
    pub(super) clients: Arc<Clients>,
    /// Then nobody's turn comes any more.
    pub(super) drain: Arc<Drain>,
    pub(super) workers: Arc<Workers>,
}

impl Lister {
    pub(super) fn new(access: Arc<Access>, means: &Means, drain: Arc<Drain>) -> Self {
        Self {
            access,
            clients: means.clients("listings", CLIENTS_MAX, OWN_CLIENTS_MAX),
            drain,
            workers: Arc::clone(&means.workers),
        }
    }

    /// Clients that are being told.
    pub(super) fn served(&self) -> usize {
        self.clients.transfers()
    }

    /// Tells a client what it asked for, once it is its turn. Returns how much there was.
    pub(super) async fn serve(
        &self,
        client: Fingerprint,
        asked: Asked<ListRequest>,
    ) -> Result<u64, ConnError> {
        let Asked { connection, answers, messages, request } = asked;
        answer(&connection, answers, messages, async |sender| {
            self.tell(client, &connection, sender, request).await
        })
        .await
    }

    /// Says what is there, to its end. The client has its place until all is on its way.
    async fn tell(
        &self,
        client: Fingerprint,
        connection: &Connection,
        answers: Sender<Answer>,
        request: ListRequest,
    ) -> Result<u64, ConnError> {
        let ListRequest { path: asked, recursive } = request;
        // Before anything is looked at, and anybody is waited for.
        let path = destination_path(&asked).map_err(Refusal::Final)?;
        let reach = || {
            if path.is_empty() {
                let roots = self.access.readable(client);
                if !roots.is_empty() {
                    return Ok(Place::Roots(roots));
                }
            }
            let reached = self.access.root_for(client, &path, Right::Read);
            reached.map(Place::Below).map_err(Refusal::Denied)
        };
        reach()?;
        let _seat = place(&self.clients, &self.drain, client, connection, &answers).await?;
        let work = self.workers.of(*client.as_bytes());
        // It may have been taken back meanwhile.
        let reached = match reach()? {
            Place::Below(reached) => reached,
            Place::Roots(roots) => {
                self.say(&answers, Answer::Welcome(Destination::Folder)).await?;
                let told = self.tell_roots(&work, &answers, roots, recursive).await?;
                self.say(&answers, Answer::ListEnd).await?;
                return Ok(told);
            }
        };
        let find = move || find(reached, &asked, recursive);
        let found = at_the_disk(&work, find).await.and_then(|found| found);
        let found = found.map_err(Refusal::Final)?;
        let destination = match &found {
            Found::Missing => Destination::Missing,
            Found::Single(_) => Destination::File,
            Found::Folder(_) => Destination::Folder,
        };
        self.say(&answers, Answer::Welcome(destination)).await?;
        let told = match found {
            Found::Missing => return Ok(0),
            Found::Single(listed) => {
                self.say(&answers, Answer::Listed(listed)).await?;
                1
            }
            Found::Folder(listing) => self.tell_folder(&work, &answers, listing).await?,
        };
        self.say(&answers, Answer::ListEnd).await?;
        Ok(told)
    }

    /// Tells the names of the roots, and then what is below each if that is wanted.
    async fn tell_roots(
        &self,
        work: &Work,
        answers: &Sender<Answer>,
        roots: Vec<(Vec<u8>, Arc<Root>)>,
        recursive: bool,
    ) -> Result<u64, ConnError> {
        let mut told = 0;
        let mut entered = Vec::new();
        for (name, root) in roots {
            let called = name.clone();
            let look = move || (look_at_root(&root, &called), root);
            let (looked, root) = at_the_disk(work, look).await.map_err(Refusal::Final)?;
            match looked {
                Ok(entry) => {
                    told += 1;
                    self.say(answers, Answer::Listed(entry)).await?;
                    entered.push((name, root));
                }
                Err(reason) => self.say(answers, unlisted(name, reason)).await?,
            }
        }
        for (name, root) in if recursive { entered } else { Vec::new() } {
            let called = name.clone();
            let look = move || look_into_root(&root, called);
            match at_the_disk(work, look).await.and_then(|looked| looked) {
                Ok(listing) => told += self.tell_folder(work, answers, listing).await?,
                Err(reason) => self.say(answers, unlisted(name, reason)).await?,
            }
        }
        Ok(told)
    }

    async fn tell_folder(
        &self,
        work: &Work,
        answers: &Sender<Answer>,
        mut listing: Listing,
    ) -> Result<u64, ConnError> {
        let mut told = 0;
        loop {
            let look = move || (listing.look(), listing);
            let (seen, same) = at_the_disk(work, look).await.map_err(Refusal::Final)?;
            listing = same;
            let Some(seen) = seen else { return Ok(told) };
            for seen in seen {
                told += u64::from(matches!(seen, Seen::Entry(_)));
                self.say(answers, message(seen)).await?;
            }
        }
    }

    /// Says something, once there is room for it.
    pub(super) async fn say(
        &self,
        answers: &Sender<Answer>,
        message: Answer,
    ) -> Result<(), ConnError> {
        loop {
            match timeout(STALLED_TIME, answers.reserve()).await {
                Ok(Ok(room)) => {
                    room.send(message);
                    return Ok(());
                }
                Ok(Err(_)) => return Err(unanswerable()),
                Err(_) if self.clients.has_waiting() => {
                    return Err(ConnError::Refused(Refusal::Final(format!(
                        "nothing of the listing was taken for {} seconds, and others wait for their turn",
                        STALLED_TIME.as_secs()
                    ))));
                }
                Err(_) => {}
            }
        }
    }
}

/// Has `tell` answer a client that says no more. Returns how much it was told.
pub(super) async fn answer(
    connection: &Connection,
    answers: SendStream,
    mut messages: ControlReader,
    tell: impl AsyncFnOnce(Sender<Answer>) -> Result<u64, ConnError>,
) -> Result<u64, ConnError> {
    connection.set_send_window(SEND_WINDOW_BYTES);
    let (sender, queue) = channel(QUEUE);
    let mut sending = JoinSet::new();
    // If this fails, so does the connection, which is noticed by who sends.
    sending.spawn(async move { drop(send_all(answers, queue).await) });
    let told = tokio::select! {
        biased;
        told = tell(sender) => told?,
        // It has said all that it has to say.
        message = messages.next::<Question>() => match message {
            Ok(Some(other)) => {
                return Err(ConnError::Protocol(format!("unexpected message {other:?}")));
            }
            Ok(None) | Err(ControlError::Read(_)) => {
                return Err(ConnError::Lost(words::why(&connection.closed().await)));
            }
            Err(ControlError::Wire(error)) => return Err(error.into()),
        },
    };
    done(connection).await.map(|()| told)
}

/// Looks at the disk, when it is its turn, behind those whose data moves.
async fn at_the_disk<T: Send + 'static>(
    work: &Work,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    work.run_behind(look).await.map_err(|error| error.to_string())
}

/// What a client may look at.
enum Place {
    /// A path below a root.
    Below(Reached),
    /// What is above the roots: their names.
    Roots(Vec<(Vec<u8>, Arc<Root>)>),
}

/// A root as a folder that is called `name`.
fn look_at_root(root: &Root, name: &[u8]) -> Result<Listed, String> {
    let folder = root.current().map_err(|error| error.to_string())?;
    folder_as(&folder, name).map_err(|error| reason(&error))
}

/// What is below a root that is called `name`.
fn look_into_root(root: &Root, name: Vec<u8>) -> Result<Listing, String> {
    let folder = root.current().map_err(|error| error.to_string())?;
    match list(folder, b"", true) {
        Ok(Found::Folder(listing)) => Ok(listing.called(name)),
        Ok(_) => Err("it is not a folder any more".into()),
        Err(error) => Err(reason(&error)),
    }
}

/// Looks at what a client asks for, at a path that it may look at.
fn find(reached: Reached, asked: &[u8], recursive: bool) -> Result<Found, String> {
    let Reached { root, path, .. } = reached;
    let root = root.current().map_err(|error| error.to_string())?;
    let found = list(root, &path, recursive).map_err(|error| {
        let why = match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => "a link is on the way, and links are not followed".to_owned(),
            _ => reason(&error),
        };
        format!("cannot list {}: {why}", named(&path))
    })?;
    match &found {
        Found::Single(Listed { kind, .. }) if asked.ends_with(b"/") => Err(match kind {
            ListedKind::Symlink { .. } => {
                format!("{} is a link, and links are not followed", named(&path))
            }
            _ => format!("{} is not a folder", named(&path)),
        }),
        _ => Ok(found),
    }
}

fn message(seen: Seen) -> Answer {
    match seen {
        Seen::Folder(path) => Answer::ListFolder(path),
        Seen::Entry(listed) => Answer::Listed(listed),
        Seen::Unreadable { path, reason } => unlisted(path, reason),
    }
}

pub(super) fn unlisted(path: Vec<u8>, reason: String) -> Answer {
    let mut message = reason.into_bytes();
    message.truncate(TEXT_BYTES_MAX);
    Answer::Unlisted { path, message }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::net::tls::ServerTrust;
    use crate::serve::config::Roots;
    use crate::serve::limits::Limits;
    use crate::serve::memory::Parts;
    use crate::store::descriptors::Descriptors;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_has_its_place_as_long_as_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let means = Means {
            limits: Limits::default(),
            parts: Parts::of(u64::MAX),
            descriptors: Descriptors::new(100, 0),
            workers: Arc::default(),
        };
        let root = Roots::from(dir.path().to_owned());
        let access = Access::open(&root, ServerTrust::default()).unwrap();
        let lister = Arc::new(Lister::new(Arc::new(access), &means, Arc::default()));
        let client = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU".parse().unwrap();
        let _seats: Vec<_> =
            (0..OWN_CLIENTS_MAX).map(|_| lister.clients.begin(client).unwrap()).collect();
        let (answers, _queue) = channel(1);
        lister.say(&answers, Answer::ListEnd).await.unwrap();
        let stalled = Arc::clone(&lister);
        let stalled = tokio::spawn(async move { stalled.say(&answers, Answer::ListEnd).await });
        sleep(100 * STALLED_TIME).await;
        assert!(!stalled.is_finished());

        let (clients, began) = (Arc::clone(&lister.clients), Instant::now());
        let _waiting = tokio::spawn(async move { clients.turn(client).await });
        let refused = stalled.await.unwrap().unwrap_err().to_string();
        assert!(refused.contains("others wait"), "{refused}");
        assert!(began.elapsed() <= STALLED_TIME, "{:?}", began.elapsed());
    }
}
