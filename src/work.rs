//! Work that blocks: so much of it at a time, and shared fairly by those for whom it is done.
//!
//! Whoever has least under way is next, and nobody has all. Who waits for a turn takes no thread. What takes processors
//! for long is done behind everything else.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tracing::debug;

use crate::mutex::lock;

/// What is done at the same time for all together, at most.
pub const ALL_MAX: usize = 16;
/// The same for one of them, for each processor, within these bounds: some of it waits for a disk. What takes processors
/// for long leaves others their part of them.
const PER_PROCESSOR: usize = 2;
const OWN_MAX: RangeInclusive<usize> = 4..=12;
/// How much nicer threads are that work behind everything else: where there is a lack of processors, each gets a third of
/// what another gets, and where there is none, all it can use.
const NICER: i32 = 5;

/// Who does the work of all.
#[derive(Debug)]
pub(crate) struct Workers {
    /// What is done at the same time for one of them, at most.
    own_max: usize,
    table: Mutex<Table>,
    behind: OnceLock<(Behind, Arc<Self>)>,
}

impl Default for Workers {
    fn default() -> Self {
        Self::on(available_parallelism().map_or(1, Into::into))
    }
}

#[derive(Debug, Default)]
struct Table {
    busy: usize,
    owners: HashMap<Owner, Own>,
    /// Turns that were given so far.
    turns: u64,
}

/// Whom work is done for.
type Owner = [u8; 32];

#[derive(Debug, Default)]
struct Own {
    busy: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// When it was its turn last, counted in turns.
    last: u64,
}

/// Work for one of those who share the workers.
#[derive(Clone, Debug)]
pub(crate) struct Work(Option<(Arc<Workers>, Owner)>);

impl Workers {
    /// Where there are so many processors.
    fn on(processors: usize) -> Self {
        let own_max = (PER_PROCESSOR * processors).clamp(*OWN_MAX.start(), *OWN_MAX.end());
        Self { own_max, table: Mutex::default(), behind: OnceLock::new() }
    }

    /// Others, for as many.
    fn like(other: &Self) -> Self {
        Self { own_max: other.own_max, table: Mutex::default(), behind: OnceLock::new() }
    }

    /// Does work for `owner`.
    pub(crate) fn of(self: &Arc<Self>, owner: Owner) -> Work {
        Work(Some((Arc::clone(self), owner)))
    }

    /// Gives turns to those who wait, as long as there are some.
    fn give_turns(self: &Arc<Self>, table: &mut Table) {
        while table.busy < ALL_MAX
            && let Some(owner) = table.next(self.own_max)
        {
            table.turns += 1;
            let now = table.turns;
            let Some(own) = table.owners.get_mut(&owner) else { return };
            own.last = now;
            let Some(waiting) = own.waiting.pop_front() else { return };
            let turn = Turn { workers: Some(Arc::clone(self)), owner };
            match waiting.send(turn) {
                Ok(()) => {
                    own.busy += 1;
                    table.busy += 1;
                }
                // Nobody waits any more: it was never taken.
                Err(mut turn) => turn.workers = None,
            }
        }
    }
}

impl Table {
    /// Who is next: of those who wait and may have more, the one who has least, and had nothing for longest.
    fn next(&self, own_max: usize) -> Option<Owner> {
        let may = |own: &Own| own.busy < own_max && !own.waiting.is_empty();
        let waiting = self.owners.iter().filter(|(_, own)| may(own));
        waiting.min_by_key(|(_, own)| (own.busy, own.last)).map(|(owner, _)| *owner)
    }
}

impl Work {
    /// For whoever shares with nobody.
    pub(crate) fn alone() -> Self {
        Self(None)
    }

    /// Does something that blocks, once it is its turn. It is not begun if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.turn().await;
        tokio::task::spawn_blocking(in_turn(turn, work)).await
    }

    /// The same for what takes processors for long: whatever else is to be done goes first, and has turns of its own.
    pub(crate) async fn run_behind<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let Some((workers, owner)) = &self.0 else {
            return tokio::task::spawn_blocking(work).await;
        };
        let new = || (Behind::new(), Arc::new(Workers::like(workers)));
        let (threads, turns) = workers.behind.get_or_init(new);
        let turn = turns.of(*owner).turn().await;
        threads.spawn(in_turn(turn, work)).await
    }

    /// The same for whoever does not wait for it.
    pub(crate) fn start(&self, work: impl FnOnce() + Send + 'static) {
        if self.0.is_none() {
            tokio::task::spawn_blocking(work);
            return;
        }
        let this = self.clone();
        tokio::spawn(async move { drop(this.run(work).await) });
    }

    async fn turn(&self) -> Option<Turn> {
        let (workers, owner) = self.0.as_ref()?;
        let (turn, given) = oneshot::channel();
        {
            let mut table = lock(&workers.table);
            table.owners.entry(*owner).or_default().waiting.push_back(turn);
            workers.give_turns(&mut table);
        }
        let mut waiting = Waiting { workers, owner: *owner, given: Some(given) };
        // Whoever waits is never forgotten.
        let turn = waiting.given.as_mut()?.await.ok();
        waiting.given = None;
        turn
    }
}

/// Work that gives its turn back when it is over, even if nobody waits for it any more.
fn in_turn<T>(turn: Option<Turn>, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let done = work();
        drop(turn);
        done
    }
}

/// Threads that work behind all others: a thread cannot become less nice again, so they are no others' threads.
#[derive(Debug)]
struct Behind(Option<Runtime>);

impl Behind {
    fn new() -> Self {
        let nicer = || {
            if let Err(error) = rustix::process::nice(NICER) {
                debug!(%error, "work behind all others is done beside them");
            }
        };
        // It runs no tasks: only its threads for what blocks are used.
        let mut builder = Builder::new_current_thread();
        let built = builder.max_blocking_threads(ALL_MAX).on_thread_start(nicer).build();
        Self(built.inspect_err(|error| debug!(%error, "nothing is done behind all others")).ok())
    }

    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // Whoever drops it may not block, and nobody waits for what is done.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Somebody who waits for a turn, and may leave.
struct Waiting<'a> {
    workers: &'a Arc<Workers>,
    owner: Owner,
    given: Option<oneshot::Receiver<Turn>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A turn that was given meanwhile goes with it, back to the others.
        let Some(given) = self.given.take() else { return };
        drop(given);
        let mut table = lock(&self.workers.table);
        let Some(own) = table.owners.get_mut(&self.owner) else { return };
        // Those in between go when it is their turn.
        while own.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            own.waiting.pop_front();
        }
        while own.waiting.back().is_some_and(oneshot::Sender::is_closed) {
            own.waiting.pop_back();
        }
        if own.busy == 0 && own.waiting.is_empty() {
            table.owners.remove(&self.owner);
        }
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
struct Turn {
    workers: Option<Arc<Workers>>,
    owner: Owner,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(workers) = self.workers.take() else { return };
        let mut table = lock(&workers.table);
        table.busy -= 1;
        if let Some(own) = table.owners.get_mut(&self.owner) {
            own.busy -= 1;
            own.waiting.retain(|waiting| !waiting.is_closed());
            if own.busy == 0 && own.waiting.is_empty() {
                table.owners.remove(&self.owner);
            }
        }
        workers.give_turns(&mut table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns that are waited for.
    async fn ask(workers: &Arc<Workers>, owner: u8, count: usize) -> Vec<JoinHandle<Option<Turn>>> {
        let work = workers.of([owner; 32]);
        let asked = (0..count)
            .map(|_| {
                let work = work.clone();
                tokio::spawn(async move { work.turn().await })
            })
            .collect();
        tokio::task::yield_now().await;
        asked
    }

    fn given(asked: &[JoinHandle<Option<Turn>>]) -> usize {
        asked.iter().filter(|asked| asked.is_finished()).count()
    }

    #[tokio::test]
    async fn one_never_has_all_and_what_is_free_goes_to_who_has_least() {
        let workers = Arc::new(Workers::on(8));
        let own_max = *OWN_MAX.end();
        let mut greedy = ask(&workers, 1, 100).await;
        assert_eq!(given(&greedy), own_max);
        let modest = ask(&workers, 2, 6).await;
        assert_eq!(given(&modest), ALL_MAX - own_max, "at once");
        for _ in 0..2 {
            // One that the greedy one gives back.
            let at = greedy.iter().position(JoinHandle::is_finished).unwrap();
            drop(greedy.remove(at).await.unwrap());
            tokio::task::yield_now().await;
        }
        assert_eq!((given(&greedy), given(&modest)), (own_max - 2, 6));
        for modest in modest {
            drop(modest.await.unwrap());
        }
        tokio::task::yield_now().await;
        assert_eq!(given(&greedy), own_max);
        // Those who wait no more do not get a turn, and keep none.
        for greedy in greedy {
            greedy.abort();
            drop(greedy.await);
        }
        let table = lock(&workers.table);
        assert_eq!((table.busy, table.owners.len()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_waits_and_leaves_is_forgotten() {
        let workers = Arc::new(Workers::on(8));
        let (first, second) = (ask(&workers, 1, ALL_MAX).await, ask(&workers, 2, ALL_MAX).await);
        let leaving = ask(&workers, 3, 5).await;
        assert_eq!(given(&leaving), 0, "all are busy");
        assert_eq!(lock(&workers.table).owners.len(), 3);
        // In any order.
        for number in [2, 4, 0, 1, 3] {
            leaving[number].abort();
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&workers.table).owners.len(), 2);
        for turn in first.into_iter().chain(second) {
            turn.abort();
            drop(turn.await);
        }
        let table = lock(&workers.table);
        assert_eq!((table.busy, table.owners.len()), (0, 0));
    }

    #[tokio::test]
    async fn work_behind_all_others_is_done_by_nicer_threads_in_turns() {
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, fields) = stat.rsplit_once(')').unwrap();
            fields.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let workers = Arc::<Workers>::default();
        let work = workers.of([1; 32]);
        let before = work.run(niceness).await.unwrap();
        assert_eq!(work.run_behind(niceness).await.unwrap(), (before + NICER).min(19));
        assert_eq!(work.run(niceness).await.unwrap(), before, "no other thread is");
        // In turns, and in others than what goes before it.
        let turns = ask(&workers, 1, workers.own_max).await;
        work.run_behind(|| ()).await.unwrap();
        drop(turns);
        let behind = Arc::clone(&workers.behind.get().unwrap().1);
        let turns = ask(&behind, 1, workers.own_max).await;
        let also = work.clone();
        let waiting = tokio::spawn(async move { also.run_behind(|| ()).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        work.run(|| ()).await.unwrap();
        drop(turns);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_turn_back() {
        let workers = Arc::<Workers>::default();
        let work = workers.of([1; 32]);
        for _ in 0..2 * ALL_MAX {
            assert!(work.run(|| panic!("it does not work")).await.is_err());
        }
        assert_eq!(work.run(|| 1).await.unwrap(), 1);
    }
}
