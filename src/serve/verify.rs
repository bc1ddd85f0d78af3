//! Comparing what a client has with what is below the root. The client says what it expects and learns
//! whether that is there, never what is there instead.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use cap_std::fs::Dir;
use tokio::sync::mpsc::channel;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::access::{Access, Reached};
use super::drain::Drain;
use super::greeting::{Asked, ConnError, destination_path};
use super::limits::{Clients, Means};
use super::place::{done, place, unanswerable};
use super::refusal::Refusal;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::net::control::{ControlError, send_all};
use crate::store::compare::{Found, Hashed, StillWanted, Wanted, look, verdict};
use crate::store::destination::{inspect_untouched, kind_at};
use crate::store::foresee::foresee;
use crate::store::{below, named, reason};
use crate::wire::{
    Answer, COMPARES_MAX, Content, Destination, LOOKS_MAX, Question, Right, Subject, There,
    Verdict, VerifyRequest, WireError,
};
use crate::work::{Work, Workers};

/// Clients that compare at the same time, at most.
const CLIENTS_MAX: usize = 64;
/// The same for one client.
const OWN_CLIENTS_MAX: usize = 32;
/// Files that are being hashed, and open for that, for one client and for all together.
const CLIENT_HASHES_MAX: usize = 4;
const HASHES_MAX: usize = 64;
/// So much of a file is hashed before it is another client's turn, in bytes.
const STEP_BYTES: u64 = 64 << 20;
/// A client that asks for nothing for so long, or for twice as long at most, makes room for one that waits.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Answers that wait to be sent, at most: a client that does not read them is not read from either.
const QUEUE: usize = 256;

/// What clients that compare have in common.
pub(super) struct Verifier {
    access: Arc<Access>,
    clients: Arc<Clients>,
    /// Then nobody's turn comes any more.
    drain: Arc<Drain>,
    hashes: Arc<Semaphore>,
    /// What of that is a client's, as long as it has any.
    own_hashes: Mutex<HashMap<Fingerprint, Weak<Semaphore>>>,
    workers: Arc<Workers>,
}

impl Verifier {
    pub(super) fn new(access: Arc<Access>, means: &Means, drain: Arc<Drain>) -> Self {
        Self {
            access,
            clients: means.clients("verifications", CLIENTS_MAX, OWN_CLIENTS_MAX),
            drain,
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
            own_hashes: Mutex::default(),
            workers: Arc::clone(&means.workers),
        }
    }

    /// Clients that it compares for.
    pub(super) fn served(&self) -> usize {
        self.clients.transfers()
    }

    /// Where `client` may hash: all its verifications share that.
    fn hashers(&self, client: Fingerprint) -> Hashers {
        let mut all = lock(&self.own_hashes);
        let known = all.get(&client).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| Arc::new(Semaphore::new(CLIENT_HASHES_MAX)));
        all.retain(|_, own| own.strong_count() > 0);
        all.insert(client, Arc::downgrade(&own));
        let work = self.workers.of(*client.as_bytes());
        Hashers { own, all: Arc::clone(&self.hashes), work }
    }

    /// Compares for a client until it has heard enough, once it is its turn. Returns how much was compared.
    pub(super) async fn serve(
        &self,
        client: Fingerprint,
        asked: Asked<VerifyRequest>,
    ) -> Result<u64, ConnError> {
        let protocol = |reason: String| ConnError::Protocol(reason);
        let (sender, queue) = channel(QUEUE);
        let Asked { connection, answers, mut messages, request } = asked;
        let VerifyRequest { destination, writes } = request;
        let mut sending = JoinSet::new();
        // Before anything is looked at, and anybody is waited for.
        let path = destination_path(&destination).map_err(Refusal::Final)?;
        let reach = || {
            if writes {
                self.access.root_for(client, &path, Right::Write).map_err(Refusal::Denied)?;
            }
            let reached = self.access.root_for(client, &path, Right::Read);
            reached.map_err(Refusal::Denied)
        };
        reach()?;
        // If this fails, so does the connection, which is noticed by who reads from it.
        sending.spawn(async move { drop(send_all(answers, queue).await) });
        let lost = |_| unanswerable();
        let _seat = place(&self.clients, &self.drain, client, &connection, &sender).await?;
        // It may have been taken back meanwhile.
        let reached = reach()?;
        let (name, is_append_only) = (reached.name.clone(), reached.is_append_only());
        let hashers = self.hashers(client);
        let looked = welcome(&hashers.work, reached, writes).await;
        let (root, destination) = looked.map_err(Refusal::Final)?;
        sender.send(Answer::Welcome(destination)).await.map_err(lost)?;
        if writes && is_append_only {
            sender.send(Answer::OnlyNew).await.map_err(lost)?;
        }

        let mut session = Session::new(root, name, hashers);
        let mut look = tokio::time::interval(IDLE_TIME);
        let mut is_idle = false;
        let mut compared = 0;
        loop {
            // What is answered is forgotten before the client can hear of it and ask for more.
            tokio::select! {
                biased;
                Some(done) = session.tasks.join_next() => {
                    let answer = done.map_err(|error| protocol(error.to_string()))?;
                    compared += session.answered(&answer);
                    sender.send(answer).await.map_err(lost)?;
                }
                _ = look.tick() => {
                    if is_idle && self.clients.has_waiting() {
                        return Err(Refusal::Final(format!(
                            "nothing was to be compared for {} seconds, and others wait for their turn",
                            IDLE_TIME.as_secs()
                        ))
                        .into());
                    }
                    is_idle = session.tasks.is_empty();
                }
                message = messages.next() => match message {
                    Ok(Some(message)) => {
                        is_idle = false;
                        session.on_message(message)?;
                    }
                    Ok(None) | Err(ControlError::Read(_)) => break,
                    Err(ControlError::Wire(error)) => return Err(error.into()),
                }
            }
        }
        done(&connection).await.map(|()| compared)
    }
}

/// The root as it is now, and what is at the destination, if it may be looked at; and written to, if it `writes`.
async fn welcome(
    work: &Work,
    reached: Reached,
    writes: bool,
) -> Result<(Arc<Dir>, Destination), String> {
    let look = move || {
        let Reached { root, path, .. } = reached;
        let root = root.current().map_err(|error| error.to_string())?;
        let there = Path::new(OsStr::from_bytes(&path));
        let (found, verb) = if writes {
            (inspect_untouched(&root, there), "write to")
        } else {
            (kind_at(&root, there), "look at")
        };
        let failed = |error| format!("cannot {verb} {}: {}", named(&path), reason(&error));
        Ok((root, found.map_err(failed)?))
    };
    work.run(look).await.map_err(|error| error.to_string())?
}

/// Room to hash: a client's and the server's, and who does it.
#[derive(Clone)]
struct Hashers {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    work: Work,
}

/// What one client has asked for.
struct Session {
    root: Arc<Dir>,
    /// What paths begin with.
    root_name: Vec<u8>,
    hashers: Hashers,
    pending: HashMap<u64, Pending>,
    /// Looks without content that are not answered.
    looks: usize,
    /// One for each that is pending, and each look. Returns the answer.
    tasks: JoinSet<Answer>,
}

/// A comparison that is not answered. Nothing is read for it any more when it is dropped.
struct Pending {
    expected: Option<oneshot::Sender<Option<[u8; 32]>>>,
    wanted: Wanted,
}

impl Session {
    fn new(root: Arc<Dir>, root_name: Vec<u8>, hashers: Hashers) -> Self {
        let (pending, tasks) = (HashMap::new(), JoinSet::new());
        Self { root, root_name, hashers, pending, looks: 0, tasks }
    }

    /// Something is answered. Returns how much that was about.
    fn answered(&mut self, answer: &Answer) -> u64 {
        match answer {
            Answer::Compared { item, .. } => {
                self.pending.remove(item);
                1
            }
            Answer::Found { there, .. } => {
                self.looks -= 1;
                there.len() as u64
            }
            _ => 0,
        }
    }

    /// A path that a client has said, below the root.
    fn below_root(&self, path: &[u8]) -> Result<Vec<u8>, ConnError> {
        let found = below(&self.root_name, path).map(<[u8]>::to_vec);
        found.ok_or_else(|| ConnError::Protocol("a path leads to another root".into()))
    }

    fn on_message(&mut self, message: Question) -> Result<(), ConnError> {
        match message {
            Question::Compare { item, path, subject } => {
                let what = "number of comparisons";
                if self.pending.len() >= COMPARES_MAX {
                    let (value, limit) = (COMPARES_MAX as u64 + 1, COMPARES_MAX as u64);
                    return Err(WireError::Limit { what, value, limit }.into());
                }
                let path = self.below_root(&path)?;
                let (expected, expecting) = oneshot::channel();
                let pending = Pending { expected: Some(expected), wanted: Wanted::default() };
                let comparison = Comparison {
                    root: Arc::clone(&self.root),
                    path,
                    subject,
                    wanted: pending.wanted.watch(),
                };
                if self.pending.insert(item, pending).is_some() {
                    return Err(ConnError::Protocol(format!("item {item} is compared twice")));
                }
                let hashers = self.hashers.clone();
                self.tasks.spawn(async move {
                    let verdict = comparison.run(hashers, expecting).await;
                    Answer::Compared { item, verdict }
                });
            }
            Question::Look { question, likeness, mut all } => {
                if self.looks >= LOOKS_MAX {
                    let (value, limit) = (LOOKS_MAX as u64 + 1, LOOKS_MAX as u64);
                    return Err(WireError::Limit { what: "number of looks", value, limit }.into());
                }
                for expected in &mut all {
                    expected.path = self.below_root(&expected.path)?;
                }
                self.looks += 1;
                let (root, hashers) = (Arc::clone(&self.root), self.hashers.clone());
                self.tasks.spawn(async move {
                    let _room = hashers.own.acquire_owned().await;
                    let count = all.len();
                    let there = hashers.work.run(move || foresee(&root, &all, likeness)).await;
                    let there = there.unwrap_or_else(|error| {
                        tracing::error!(%error, "a look failed");
                        vec![There::BLOCKED; count]
                    });
                    Answer::Found { question, there }
                });
            }
            Question::AtSource { .. } | Question::Sweep { .. } | Question::Ask { .. } => {
                return Err(ConnError::Protocol(format!("unexpected message {message:?}")));
            }
            Question::Expect { item, hash } => {
                // It may have been answered meanwhile.
                let Some(pending) = self.pending.get_mut(&item) else { return Ok(()) };
                if hash.is_none() {
                    pending.wanted.stop();
                }
                if let Some(expected) = pending.expected.take()
                    && expected.send(hash).is_err()
                {
                    tracing::debug!(item, "needs no hash");
                }
            }
        }
        Ok(())
    }
}

struct Comparison {
    root: Arc<Dir>,
    path: Vec<u8>,
    subject: Subject,
    wanted: StillWanted,
}

impl Comparison {
    async fn run(
        self,
        hashers: Hashers,
        expecting: oneshot::Receiver<Option<[u8; 32]>>,
    ) -> Verdict {
        // Not open any more while the client is waited for.
        match self.hash(hashers).await {
            Ok(Hash::None(verdict)) => verdict,
            Ok(Hash::Of(same, hashed @ Ok(_))) => {
                verdict(same, &hashed, expecting.await.ok().flatten())
            }
            Ok(Hash::Of(same, hashed)) => verdict(same, &hashed, None),
            Err(error) => failed(&error),
        }
    }

    /// Looks at what is there, and hashes it, step by step.
    async fn hash(self, hashers: Hashers) -> Result<Hash, JoinError> {
        let Hashers { own, all, work } = hashers;
        // First the client's own room, so that it waits in few places of the server's queue.
        let own = own.acquire_owned().await;
        let _room = (own, all.acquire_owned().await);
        let Self { root, path, subject, wanted } = self;
        let looked = work.run(move || look(&root, &path, &subject)).await?;
        let file = match looked {
            Found::Settled(verdict) => return Ok(Hash::None(verdict)),
            Found::File(file) => file,
        };
        let same = file.same();
        let mut hashing = match file.begin() {
            Ok(hashing) => hashing,
            Err(error) => return Ok(Hash::Of(same, Err(error))),
        };
        loop {
            let wanted = wanted.clone();
            let step = move || (hashing.step(STEP_BYTES, &wanted, |_| ()), hashing);
            let (hashed, same_file) = work.run_behind(step).await?;
            hashing = same_file;
            if let Some(hashed) = hashed.transpose() {
                return Ok(Hash::Of(same, hashed));
            }
        }
    }
}

/// What came of looking at something.
enum Hash {
    /// That needs none.
    None(Verdict),
    /// What is said of a file if it is the expected one, and what it is.
    Of(Verdict, io::Result<Hashed>),
}

fn failed(error: &JoinError) -> Verdict {
    tracing::error!(%error, "a comparison failed");
    Verdict::of(Content::Unreadable)
}
