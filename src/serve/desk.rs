//! Where connections are brought together to transfers: what they belong to, and what becomes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::VarInt;
use tokio::time::Instant;

use super::access::{Access, Reached};
use super::config::ServeReporter;
use super::counts::{Counts, Direction};
use super::drain::Drain;
use super::greeting::{Asked, destination_path};
use super::lately::{Lately, Over, PushKey, TransferKey};
use super::limits::{Clients, ConnectionSeat, Means, TransferSeat};
use super::opening::Opening;
use super::refusal::Refusal;
use super::shares::{Rooms, Share};
use super::transfer::Transfer;
use super::turned_away::{TurnedAway, has_heard};
use super::turns::Turns;
use crate::event::ServeEvent;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::net::windows::Window;
use crate::net::words;
use crate::receive::{Inflow, Left, Padding, Receiver};
use crate::store::descriptors::Descriptors;
use crate::store::journal::Patience;
use crate::store::own::OwnNames;
use crate::store::shown;
use crate::store::sink::Sink;
use crate::wire::{
    CLOSE_DONE, CLOSE_PROTOCOL, CLOSE_REFUSED, Destination, PushRequest, Right, ToSender,
};
use crate::work::Workers;

/// A transfer without a connection is kept for this long: its client may come back.
const DESERTED_TIME: Duration = Duration::from_secs(30);
/// Why a transfer ends whose client has not come back.
const LOST: &str = "its client was lost";
/// How long whoever still writes for a transfer that has ended may take, before it is told of.
const RELEASE_TIME: Duration = Duration::from_secs(10);
/// How long it is waited for an earlier run of the same push to end, so as to go on where it was.
const EARLIER_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// A run of the same push on another host lives if something comes from it within this time.
const LIFE_TIME: Duration = Duration::from_secs(2);

/// A connection whose client pushes, and what it has.
pub(super) struct Bringer {
    pub(super) client: Fingerprint,
    pub(super) seat: ConnectionSeat,
    /// What it may take in to begin with, in bytes.
    pub(super) first_window: u32,
    pub(super) padding: Padding,
}

/// Where connections are brought together to transfers.
pub(super) struct Desk {
    access: Arc<Access>,
    names: OwnNames,
    discards: bool,
    allows_super: bool,
    report: ServeReporter,
    clients: Arc<Clients>,
    rooms: Arc<Rooms>,
    descriptors: Arc<Descriptors>,
    workers: Arc<Workers>,
    /// Then no transfer begins any more.
    drain: Arc<Drain>,
    turned_away: Arc<TurnedAway>,
    counts: Arc<Counts>,
    transfers: Mutex<HashMap<TransferKey, Arc<Transfer>>>,
    lately: Lately,
    /// Transfers that are being begun: by one of their connections each.
    admissions: Turns<TransferKey>,
    /// Runs of a push begin one after the other: each may take over from the one before.
    runs: Turns<PushKey>,
}

impl Desk {
    pub(super) fn new(
        access: Arc<Access>,
        names: OwnNames,
        (discards, allows_super): (bool, bool),
        report: ServeReporter,
        means: &Means,
        clients: Arc<Clients>,
        (drain, turned_away, counts): (Arc<Drain>, Arc<TurnedAway>, Arc<Counts>),
    ) -> Self {
        Self {
            access,
            names,
            discards,
            allows_super,
            report,
            rooms: Rooms::new(Arc::clone(&clients), means.parts),
            clients,
            descriptors: Arc::clone(&means.descriptors),
            workers: Arc::clone(&means.workers),
            drain,
            turned_away,
            counts,
            transfers: Mutex::default(),
            admissions: Turns::default(),
            runs: Turns::default(),
            lately: Lately::default(),
        }
    }

    /// Serves a connection of a transfer to its end.
    pub(super) async fn serve(&self, bringer: Bringer, asked: Asked<PushRequest>) {
        let Bringer { client, seat, first_window, padding } = bringer;
        let Asked { connection, answers, messages, request: hello } = asked;
        let (hello, number) = (&hello, hello.conn);
        let inflow = Inflow::new(connection, number, messages, answers, padding);
        let connection = inflow.connection().clone();
        let close =
            |code, reason: &str| connection.close(VarInt::from_u32(code), reason.as_bytes());
        let key = (client, hello.transfer);
        match self.admit(key, hello, &inflow).await {
            Ok(transfer) => {
                if transfer.receiver.join(inflow.number(), &connection) {
                    let window = seat.widen(inflow.connection(), first_window);
                    self.attend(key, inflow, (seat, window), transfer).await;
                } else {
                    let ended = transfer.receiver.end_reason();
                    close(CLOSE_REFUSED, ended.as_deref().unwrap_or("its number was used before"));
                }
            }
            // A connection that was still being opened when the last file was there.
            Err(_) if self.lately.over(key) == Some(Over::Finished) => close(CLOSE_DONE, ""),
            Err(refusal) => {
                if matches!(refusal, Refusal::ForNow(_)) {
                    self.lately.ask_to_wait((client, hello.push));
                }
                let has_left = connection.close_reason().is_some();
                let reason = refusal.to_string();
                close(refusal.code(), &reason);
                // What has ended was told of.
                if !has_left && self.lately.over(key).is_none() {
                    self.turned_away.tell(connection.remote_address(), reason);
                }
                has_heard(&connection).await;
            }
        }
    }

    /// Transfers whose clients are there.
    pub(super) fn served(&self) -> usize {
        lock(&self.transfers).values().filter(|transfer| transfer.receiver.is_served()).count()
    }

    /// Where transfers write that are not done.
    pub(super) fn writing(&self) -> Vec<Vec<u8>> {
        let transfers = lock(&self.transfers);
        let running = transfers.values().filter(|transfer| transfer.receiver.outcome().is_none());
        running.map(|transfer| transfer.destination.clone()).collect()
    }

    /// Whether there is no transfer.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.transfers).is_empty()
    }

    /// Gives up memory that waits to be used again.
    pub(super) fn clear(&self) {
        self.rooms.clear();
    }

    /// Ends all transfers.
    pub(super) fn stop(&self, reason: &str) {
        let running: Vec<_> = lock(&self.transfers).values().cloned().collect();
        for transfer in running {
            transfer.receiver.stop(reason);
        }
    }

    /// The transfer that a connection belongs to; the first one begins it.
    async fn admit(
        &self,
        key: TransferKey,
        hello: &PushRequest,
        inflow: &Inflow,
    ) -> Result<Arc<Transfer>, Refusal> {
        let connection = inflow.connection();
        let gone = async { drop(connection.closed().await) };
        let admitted = self.admissions.take(key, gone, async {
            let known = lock(&self.transfers).get(&key).map(Arc::clone);
            match (known, self.lately.over(key)) {
                (Some(transfer), _) => Ok(transfer),
                (None, Some(Over::Finished)) => Err(Refusal::Final("the transfer is over".into())),
                (None, Some(Over::Ended(reason))) => Err(Refusal::Final(reason)),
                (None, None) => self.begin(key, hello, inflow).await,
            }
        });
        admitted.await.unwrap_or_else(|| Err("its connection is gone".to_owned().into()))
    }

    /// Begins a transfer. An earlier run of the same push is ended, and what it has left is gone on with.
    async fn begin(
        &self,
        key: TransferKey,
        hello: &PushRequest,
        inflow: &Inflow,
    ) -> Result<Arc<Transfer>, Refusal> {
        let destination = &hello.destination;
        let path = destination_path(destination)?;
        if self.drain.is_on() {
            return Err(Refusal::Stopping);
        }
        // Before anything is looked at, so that nothing can be learned from what takes how long.
        let reach = || self.access.root_for(key.0, &path, Right::Write).map_err(Refusal::Denied);
        reach()?;
        // What has waited may be of an attempt that has gone: it begins nothing, and ends no other.
        let is_there = || match inflow.connection().close_reason() {
            Some(error) => Err(Refusal::from(words::why(&error))),
            None => Ok(()),
        };
        is_there()?;
        let (push, connection) = ((key.0, hello.push), inflow.connection());
        let gone = || async { drop(connection.closed().await) };
        let gone_away = || "its connection is gone".to_owned();
        let patience = self.runs.take(push, gone(), self.patience(key, hello)).await;
        let patience = patience.ok_or_else(gone_away)?;
        let seat = match self.clients.begin(key.0) {
            Ok(seat) => seat,
            Err(reason) => self.turn(key.0, inflow, reason).await?,
        };
        is_there()?;
        // It may have been taken back meanwhile.
        let reached = reach()?;
        let opened =
            self.runs.take(push, gone(), self.open(key, hello, &reached, patience, is_there));
        let (found, sink) = opened.await.ok_or_else(gone_away)??;

        let mut transfers = lock(&self.transfers);
        let share = Share::new(Arc::clone(&self.rooms), key.0, seat);
        let work = self.workers.of(*key.0.as_bytes());
        let receiver = Receiver::new(sink, share, work);
        let run = self.counts.begin(&reached.name, Direction::In, receiver.written());
        let transfer = Arc::new(Transfer::new(hello, found, receiver, run));
        transfers.insert(key, Arc::clone(&transfer));
        drop(transfers);
        self.lately.has_begun(&push);
        (self.report)(ServeEvent::Started {
            transfer: hello.transfer.name(),
            client: key.0.to_string(),
            remote: inflow.connection().remote_address(),
            destination: shown(destination),
        });
        Ok(transfer)
    }

    /// Opens what a transfer writes to, once an earlier run of its push has let go of that, as long as its client
    /// `is_there`. Returns what is at the destination as well.
    async fn open(
        &self,
        (client, _): TransferKey,
        hello: &PushRequest,
        reached: &Reached,
        patience: Patience,
        is_there: impl Fn() -> Result<(), Refusal>,
    ) -> Result<(Destination, Sink), Refusal> {
        let until = match patience {
            Patience::Wait(time) => Instant::now() + time,
            Patience::Beside => Instant::now(),
        };
        let place = Opening {
            names: self.names.clone(),
            owner: self.names.owner(client.as_bytes(), &hello.push),
            name: hello.transfer.name(),
            client: *client.as_bytes(),
            descriptors: Arc::clone(&self.descriptors),
            reached: reached.clone(),
            keep: hello.keep,
            extras: hello.extras,
            allows_super: self.allows_super,
            discards: self.discards,
            is_stream: hello.is_stream,
            compares: hello.compares,
            packing: hello.packing,
            // It is waited here, where that takes no thread.
            patience: match patience {
                Patience::Wait(_) => Patience::Wait(Duration::ZERO),
                Patience::Beside => Patience::Beside,
            },
        };
        let (place, work) = (Arc::new(place), self.workers.of(*client.as_bytes()));
        loop {
            let place = Arc::clone(&place);
            let opened = work.run(move || place.open()).await.map_err(|error| error.to_string())?;
            match opened {
                Err(Refusal::ForNow(_)) if Instant::now() < until => is_there()?,
                opened => return opened,
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    }

    /// Has a client wait for its turn, as long as it is there, and tells it why.
    async fn turn(
        &self,
        client: Fingerprint,
        inflow: &Inflow,
        reason: String,
    ) -> Result<TransferSeat, Refusal> {
        if self.drain.is_on() {
            return Err(Refusal::Stopping);
        }
        tracing::debug!(remote = %inflow.connection().remote_address(), reason, "waits for its turn");
        inflow.say(ToSender::Waiting { message: reason.into_bytes() });
        tokio::select! {
            seat = self.clients.turn(client) => Ok(seat?),
            error = inflow.connection().closed() => Err(words::why(&error).into()),
            () = self.drain.begun() => Err(Refusal::Stopping),
        }
    }

    /// A push that is run again takes over from its earlier run, of which this host may not know yet that
    /// it has ended. One that another host is at goes on, beside this one. Returns what is to become of a
    /// journal that is still written to.
    async fn patience(&self, (client, _): TransferKey, hello: &PushRequest) -> Patience {
        let earlier: Vec<_> = lock(&self.transfers)
            .iter()
            .filter(|((other, _), transfer)| *other == client && transfer.push == hello.push)
            .map(|(_, transfer)| Arc::clone(transfer))
            .collect();
        let mut is_alone = true;
        for transfer in earlier {
            if transfer.host == hello.host {
                transfer.receiver.end("the same push was started again and has taken over");
            } else if transfer.receiver.is_served()
                && tokio::time::timeout(LIFE_TIME, transfer.receiver.shows_life()).await.is_ok()
            {
                is_alone = false;
            } else {
                // If it does live, it comes back and begins anew.
                transfer.receiver.stop(LOST);
            }
        }
        if is_alone && !self.lately.has_waited(&(client, hello.push)) {
            return Patience::Wait(EARLIER_TIME);
        }
        Patience::Beside
    }

    /// Serves a connection to its end, and sees the transfer off if it was the last.
    async fn attend(
        &self,
        key: TransferKey,
        inflow: Inflow,
        (seat, window): (ConnectionSeat, Window),
        transfer: Arc<Transfer>,
    ) {
        let (number, connection) = (inflow.number(), inflow.connection().clone());
        inflow.say(transfer.welcome());
        let left = inflow.run(&transfer.receiver, window).await;
        drop(seat);
        tracing::debug!(transfer = transfer.name, number, error = %left, "connection over");
        match &left {
            // The client is gone: its connections that are dead need not be waited for.
            Left::Aborted | Left::Done => transfer.receiver.end(&left.to_string()),
            Left::Protocol(_) => {
                connection.close(VarInt::from_u32(CLOSE_PROTOCOL), left.to_string().as_bytes());
                transfer.receiver.end_broken(&left.to_string());
            }
            Left::Lost(_) => {}
        }
        if transfer.receiver.leave(number) > 0 {
            return;
        }
        if transfer.receiver.end_reason().is_none() {
            let has_ended =
                tokio::time::timeout(DESERTED_TIME, transfer.receiver.ended()).await.is_ok();
            if !has_ended {
                if !transfer.receiver.is_deserted(DESERTED_TIME) {
                    return;
                }
                transfer.receiver.end(LOST);
            }
        }
        self.forget(key, transfer).await;
    }

    /// Sees off the transfers that nobody attends to any more.
    pub(super) async fn forget_all(&self) {
        let left: Vec<_> = lock(&self.transfers).clone().into_iter().collect();
        for (key, transfer) in left {
            self.forget(key, transfer).await;
        }
    }

    async fn forget(&self, key: TransferKey, transfer: Arc<Transfer>) {
        let is_known = |known: &Arc<Transfer>| Arc::ptr_eq(known, &transfer);
        if !lock(&self.transfers).get(&key).is_some_and(is_known) {
            return;
        }
        let reason = transfer.receiver.end_reason().unwrap_or_default();
        let is_finished = transfer.receiver.outcome().is_some();
        // A client that was lost may come back, and begins anew.
        if is_finished || reason != LOST {
            let over = if is_finished { Over::Finished } else { Over::Ended(reason.clone()) };
            self.lately.end(key, over);
        }
        let Some(removed) = lock(&self.transfers).remove(&key) else { return };
        let event = if let Some(outcome) = removed.receiver.outcome() {
            let failed = outcome.failed_files + outcome.failed_others;
            let seconds = removed.began.elapsed().as_secs_f64();
            let padding_bytes = removed.receiver.padding_bytes();
            removed.run.done(outcome.files, failed, padding_bytes, seconds);
            ServeEvent::Finished {
                transfer: removed.name.clone(),
                files: outcome.files,
                bytes: outcome.bytes,
                failed,
                seconds,
                padding_bytes,
            }
        } else {
            removed.run.aborted();
            let (transfer, bytes) = (removed.name.clone(), removed.receiver.written_bytes());
            ServeEvent::Aborted { transfer, reason, bytes }
        };
        // When the last who writes is done, what is whole gets its name, and what is not is kept or
        // removed.
        let released = removed.receiver.released();
        let work = self.workers.of(*key.0.as_bytes());
        drop(work.run(move || drop((removed, transfer))).await);
        if let Some(released) = released {
            drop(tokio::time::timeout(RELEASE_TIME, released).await);
        }
        (self.report)(event);
    }
}
