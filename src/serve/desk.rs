//! Where connections are brought together to transfers: whom they are of, what they belong to, and what
//! becomes of it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cap_std::fs::Dir;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Incoming, VarInt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::conn::{Conn, ConnError, Greeting, HELLO_TIME, Hello};
use super::lately::{Lately, Over, TransferKey};
use super::limits::{Clients, ConnectionSeat, HandshakeSeat, Means, TransferSeat};
use super::room::{Account, Rooms};
use super::transfer::Transfer;
use super::verify::{Asked, Verifier};
use super::{CLOSE_TIME, ServeReporter};
use crate::event::ServeEvent;
use crate::heap;
use crate::identity::Fingerprint;
use crate::mutex::lock;
use crate::net::endpoint::{self, PathMtu};
use crate::net::tls;
use crate::store::descriptors::{Descriptors, patiently};
use crate::store::destination::inspect;
use crate::store::journal::{Journal, Owner, Patience};
use crate::store::own::{OwnNames, RESERVED, has_reserved};
use crate::store::root::Root;
use crate::store::sink::Sink;
use crate::store::{named, reason, shown};
use crate::wire::{
    CLOSE_BUSY, CLOSE_CROWDED, CLOSE_DONE, CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_STOPPING, Control,
    VERSION, is_path_safe, transfer_name,
};

/// A transfer without a connection is kept for this long: its client may come back.
const DESERTED_TIME: Duration = Duration::from_secs(30);
/// A handshake must be done within this time.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What clients are told that come to a server that is being stopped.
pub(super) const DRAINING: &str =
    "the server is being stopped, and takes no new transfers: try again later";
/// Why a transfer ends whose client has not come back.
const LOST: &str = "its client was lost";
/// How long whoever still writes for a transfer that has ended may take, before it is told of.
const RELEASE_TIME: Duration = Duration::from_secs(10);
/// How long it is waited for an earlier run of the same push to end, so as to go on where it was.
const EARLIER_TIME: Duration = Duration::from_secs(2);
/// A run of the same push on another host lives if something comes from it within this time.
const LIFE_TIME: Duration = Duration::from_secs(2);
/// Where connections are brought together to transfers.
pub(super) struct Desk {
    root: Arc<Root>,
    names: OwnNames,
    verifier: Verifier,
    discards: bool,
    report: ServeReporter,
    tls: Arc<QuicServerConfig>,
    datagram_bytes_max: u16,
    clients: Arc<Clients>,
    rooms: Arc<Rooms>,
    descriptors: Arc<Descriptors>,
    /// What a connection may take in before it is known what for, in bytes.
    window_first: u32,
    /// Nobody was served since memory was given back.
    is_idle: AtomicBool,
    /// No transfer begins any more.
    is_draining: AtomicBool,
    /// Told then.
    draining: Notify,
    transfers: Mutex<HashMap<TransferKey, Arc<Transfer>>>,
    lately: Lately,
    /// Transfers that are being begun: by one of their connections each.
    admissions: Mutex<HashMap<TransferKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl Desk {
    pub(super) fn new(
        root: Arc<Root>,
        names: OwnNames,
        discards: bool,
        report: ServeReporter,
        tls: Arc<QuicServerConfig>,
        datagram_bytes_max: u16,
        means: Means,
    ) -> Self {
        let verifier = Verifier::new(Arc::clone(&root), &means);
        let Means { limits, parts, descriptors } = means;
        let clients = Clients::new("transfers", limits, parts);
        Self {
            verifier,
            root,
            names,
            discards,
            report,
            tls,
            datagram_bytes_max,
            rooms: Rooms::new(Arc::clone(&clients), parts),
            clients,
            descriptors,
            window_first: parts.window_first,
            is_idle: AtomicBool::new(true),
            is_draining: AtomicBool::new(false),
            draining: Notify::new(),
            transfers: Mutex::default(),
            admissions: Mutex::default(),
            lately: Lately::default(),
        }
    }

    /// Whether one more connection can be taken on.
    pub(super) fn has_room(&self) -> bool {
        self.clients.has_room()
    }

    pub(super) async fn serve(self: Arc<Self>, incoming: Incoming, handshake: HandshakeSeat) {
        let remote = incoming.remote_address();
        let mtu = PathMtu::of(remote, self.datagram_bytes_max);
        let config =
            Arc::new(endpoint::server_config(Arc::clone(&self.tls), mtu, self.window_first));
        let refused = |reason: String| self.refuse(remote, reason);
        let connecting = match incoming.accept_with(config) {
            Ok(connecting) => connecting,
            Err(error) => return tracing::debug!(%remote, %error, "no handshake"),
        };
        let connected = tokio::time::timeout(HANDSHAKE_TIME, connecting).await;
        drop(handshake);
        let Ok(connected) = connected else {
            if let Some(why) = endpoint::too_small(remote) {
                return refused(why);
            }
            return tracing::debug!(%remote, "no handshake in time");
        };
        let connection = match connected {
            Ok(connection) => connection,
            // A client that turns away has only looked at the key, or says itself what it minds.
            Err(ConnectionError::TransportError(error))
                if tls::is_auth_failure(&ConnectionError::TransportError(error.clone())) =>
            {
                return refused(tls::refusal(&error));
            }
            Err(error) => match endpoint::too_small(remote) {
                Some(why) => return refused(why),
                None => return tracing::debug!(%remote, %error, "no handshake"),
            },
        };
        let Some(client) = tls::peer_fingerprint(&connection) else {
            return refused("it showed no certificate".into());
        };
        let close =
            |code, reason: &str| connection.close(VarInt::from_u32(code), reason.as_bytes());
        let seat = match self.clients.connect(client) {
            Ok(seat) => seat,
            Err(reason) => {
                close(CLOSE_CROWDED, &reason);
                return refused(reason);
            }
        };
        let greeting = tokio::time::timeout(HELLO_TIME, Conn::greet(connection.clone())).await;
        connection.set_receive_window(VarInt::from_u32(seat.window));
        let (conn, hello) = match greeting {
            Ok(Ok(Greeting::Transfer(conn, hello))) => (conn, hello),
            Ok(Ok(Greeting::Verify(_))) if self.is_draining.load(Relaxed) => {
                close(CLOSE_STOPPING, DRAINING);
                return refused(DRAINING.into());
            }
            Ok(Ok(Greeting::Verify(asked))) => return self.verify(client, asked).await,
            // Its client has no use for it: all is done, or it only wanted to see whether it gets here.
            Ok(Err(ConnError::Lost(error))) => {
                return tracing::debug!(%remote, error, "it left before it said what it wants");
            }
            Ok(Err(error)) => {
                close(CLOSE_PROTOCOL, &error.to_string());
                return refused(error.to_string());
            }
            Err(_) => {
                close(CLOSE_PROTOCOL, "no hello");
                return refused("it did not say what it wants".into());
            }
        };
        let key = (client, hello.transfer);
        let push = hello.push;
        match self.admit(key, &hello, &conn).await {
            Ok(transfer) => {
                if transfer.join(conn.number, &connection) {
                    self.attend(key, conn, seat, transfer).await;
                } else {
                    let ended = transfer.end_reason();
                    close(CLOSE_REFUSED, ended.as_deref().unwrap_or("its number was used before"));
                }
            }
            // A connection that was still being opened when the last file was there.
            Err(_) if self.lately.over(key) == Some(Over::Finished) => close(CLOSE_DONE, ""),
            Err(refusal) => {
                if matches!(refusal, Refusal::ForNow(_)) {
                    self.lately.ask_to_wait((client, push));
                }
                let has_left = connection.close_reason().is_some();
                let reason = refusal.to_string();
                close(refusal.code(), &reason);
                // What has ended was told of.
                if !has_left && self.lately.over(key).is_none() {
                    refused(reason);
                }
                // The client should hear why before this end forgets the connection.
                drop(tokio::time::timeout(CLOSE_TIME, connection.closed()).await);
            }
        }
    }

    /// Lets no new transfers in from now on.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Relaxed);
        self.draining.notify_waiters();
        self.verifier.drain();
        (self.report)(ServeEvent::Draining { transfers: self.served_transfers() });
    }

    /// Whether there are clients that transfer or compare.
    pub(super) fn is_serving(&self) -> bool {
        self.served_transfers() > 0 || self.verifier.served() > 0
    }

    /// Whether nobody was served since memory was given back.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Relaxed)
    }

    /// Gives memory back once nobody is served any more.
    pub(super) fn rest(&self) {
        if !self.is_serving()
            && lock(&self.transfers).is_empty()
            && !self.is_idle.swap(true, Relaxed)
        {
            self.rooms.clear();
            heap::give_back();
        }
    }

    /// Ends all transfers.
    pub(super) fn stop(&self, reason: &str) {
        let running: Vec<_> = lock(&self.transfers).values().cloned().collect();
        for transfer in running {
            transfer.stop(reason);
        }
    }

    /// Transfers whose clients are there.
    fn served_transfers(&self) -> usize {
        lock(&self.transfers).values().filter(|transfer| transfer.is_served()).count()
    }

    /// Serves a client that compares what is there with what it has.
    async fn verify(&self, client: Fingerprint, asked: Asked) {
        let (connection, began) = (asked.connection.clone(), Instant::now());
        let (remote, destination) = (connection.remote_address(), shown(&asked.destination));
        let close =
            |code, reason: &str| connection.close(VarInt::from_u32(code), reason.as_bytes());
        let compared = self.verifier.serve(client, asked).await;
        self.is_idle.store(false, Relaxed);
        match compared {
            Ok(compared) => (self.report)(ServeEvent::Verified {
                client: client.to_string(),
                remote,
                destination,
                compared,
                seconds: began.elapsed().as_secs_f64(),
            }),
            Err(ConnError::Lost(error)) => tracing::debug!(%remote, error, "comparing is over"),
            Err(error) => {
                let code = match error {
                    ConnError::Refused(_) if self.is_draining.load(Relaxed) => CLOSE_STOPPING,
                    ConnError::Refused(_) => CLOSE_REFUSED,
                    _ => CLOSE_PROTOCOL,
                };
                let reason = error.to_string();
                close(code, &reason);
                self.refuse(remote, reason);
                drop(tokio::time::timeout(CLOSE_TIME, connection.closed()).await);
            }
        }
    }

    /// Tells that a client was turned away; once for all connections that it tries with.
    fn refuse(&self, remote: SocketAddr, reason: String) {
        if self.lately.is_refused_anew(remote.ip(), &reason) {
            (self.report)(ServeEvent::Refused { remote, reason });
        } else {
            tracing::debug!(%remote, reason, "turned away");
        }
    }

    /// The transfer that a connection belongs to; the first one begins it.
    async fn admit(
        &self,
        key: TransferKey,
        hello: &Hello,
        conn: &Conn,
    ) -> Result<Arc<Transfer>, Refusal> {
        let turn = Arc::clone(lock(&self.admissions).entry(key).or_default());
        let admitted = tokio::select! {
            turn = turn.lock() => {
                let _turn = turn;
                let known = lock(&self.transfers).get(&key).map(Arc::clone);
                match (known, self.lately.over(key)) {
                    (Some(transfer), _) => Ok(transfer),
                    (None, Some(Over::Finished)) => {
                        Err(Refusal::Final("the transfer is over".into()))
                    }
                    (None, Some(Over::Ended(reason))) => Err(Refusal::Final(reason)),
                    (None, None) => self.begin(key, hello, conn).await,
                }
            }
            error = conn.connection.closed() => Err(error.to_string().into()),
        };
        let mut admissions = lock(&self.admissions);
        // Others may still wait with it: the map's and this one are two.
        if Arc::strong_count(&turn) == 2 {
            admissions.remove(&key);
        }
        admitted
    }

    /// Begins a transfer. An earlier run of the same push is ended, and what it has left is gone on with.
    async fn begin(
        &self,
        key: TransferKey,
        hello: &Hello,
        conn: &Conn,
    ) -> Result<Arc<Transfer>, Refusal> {
        let Hello { version, destination, .. } = hello;
        let path = destination_path(*version, destination)?;
        if self.is_draining.load(Relaxed) {
            return Err(Refusal::Stopping);
        }
        // What has waited may be of an attempt that has gone: it begins nothing, and ends no other.
        let is_there = || match conn.connection.close_reason() {
            Some(error) => Err(Refusal::from(error.to_string())),
            None => Ok(()),
        };
        is_there()?;
        let patience = self.patience(key, hello).await;
        let seat = match self.clients.begin(key.0) {
            Ok(seat) => seat,
            Err(reason) => self.turn(key.0, conn, reason).await?,
        };
        is_there()?;
        let (root, name) = (Arc::clone(&self.root), transfer_name(&hello.transfer));
        let names = self.names.clone();
        let owner = names.owner(key.0.as_bytes(), &hello.push);
        let (discards, keep) = (self.discards, hello.keep);
        let (client, descriptors) = (*key.0.as_bytes(), Arc::clone(&self.descriptors));
        let (found, sink) = tokio::task::spawn_blocking({
            let (path, name) = (path.clone(), name.clone());
            move || {
                let folder = root.current().map_err(|error| error.to_string())?;
                let failed = |error: io::Error| {
                    Refusal::Final(format!("cannot write to {}: {}", named(&path), reason(&error)))
                };
                let there = Path::new(OsStr::from_bytes(&path));
                let share = descriptors.join(client);
                let found = patiently(|| inspect(&folder, &names, there)).map_err(failed)?;
                let journal =
                    if discards { None } else { open_journal(&folder, &names, owner, patience)? };
                let sink = Sink::within(share, Arc::clone(&folder), names, name, journal);
                let sink = sink.map_err(failed)?.served_at(root).keeping(keep);
                Ok::<_, Refusal>((found, if discards { sink.discarding() } else { sink }))
            }
        })
        .await
        .map_err(|error| error.to_string())??;

        let mut transfers = lock(&self.transfers);
        let account = Account::new(Arc::clone(&self.rooms), key.0, seat);
        let transfer = Transfer::new(name.clone(), (hello.push, hello.host), found, sink, account);
        let transfer = Arc::new(transfer);
        transfers.insert(key, Arc::clone(&transfer));
        drop(transfers);
        self.lately.has_begun(&(key.0, hello.push));
        (self.report)(ServeEvent::Started {
            transfer: name,
            client: key.0.to_string(),
            remote: conn.connection.remote_address(),
            destination: shown(destination),
        });
        Ok(transfer)
    }

    /// Has a client wait for its turn, as long as it is there, and tells it why.
    async fn turn(
        &self,
        client: Fingerprint,
        conn: &Conn,
        reason: String,
    ) -> Result<TransferSeat, Refusal> {
        let mut draining = pin!(self.draining.notified());
        draining.as_mut().enable();
        if self.is_draining.load(Relaxed) {
            return Err(Refusal::Stopping);
        }
        tracing::debug!(remote = %conn.connection.remote_address(), reason, "waits for its turn");
        conn.say(Control::Waiting { message: reason.into_bytes() });
        tokio::select! {
            seat = self.clients.turn(client) => Ok(seat?),
            error = conn.connection.closed() => Err(error.to_string().into()),
            () = draining => Err(Refusal::Stopping),
        }
    }

    /// A push that is run again takes over from its earlier run, of which this host may not know yet that
    /// it has ended. One that another host is at goes on, beside this one. Returns what is to become of a
    /// journal that is still written to.
    async fn patience(&self, (client, _): TransferKey, hello: &Hello) -> Patience {
        let earlier: Vec<_> = lock(&self.transfers)
            .iter()
            .filter(|((other, _), transfer)| *other == client && transfer.push == hello.push)
            .map(|(_, transfer)| Arc::clone(transfer))
            .collect();
        let mut is_alone = true;
        for transfer in earlier {
            if transfer.host == hello.host {
                transfer.end("the same push was started again and has taken over");
            } else if transfer.is_served()
                && tokio::time::timeout(LIFE_TIME, transfer.shows_life()).await.is_ok()
            {
                is_alone = false;
            } else {
                // If it does live, it comes back and begins anew.
                transfer.stop(LOST);
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
        conn: Conn,
        seat: ConnectionSeat,
        transfer: Arc<Transfer>,
    ) {
        let (number, connection) = (conn.number, conn.connection.clone());
        let error = conn.serve(&transfer).await;
        drop(seat);
        tracing::debug!(transfer = transfer.name, number, %error, "connection over");
        match &error {
            // The client is gone: its connections that are dead need not be waited for.
            ConnError::Aborted | ConnError::Done => transfer.end(&error.to_string()),
            ConnError::Protocol(_) | ConnError::Sink(_) => {
                connection.close(VarInt::from_u32(CLOSE_PROTOCOL), error.to_string().as_bytes());
                transfer.end_broken(&error.to_string());
            }
            ConnError::Lost(_) | ConnError::Stalled(_) | ConnError::Refused(_) => {}
        }
        if transfer.leave(number) > 0 {
            return;
        }
        if transfer.end_reason().is_none() {
            let has_ended = tokio::time::timeout(DESERTED_TIME, transfer.ended()).await.is_ok();
            if !has_ended {
                if !transfer.is_deserted(DESERTED_TIME) {
                    return;
                }
                transfer.end(LOST);
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
        let reason = transfer.end_reason().unwrap_or_default();
        let is_finished = transfer.outcome().is_some();
        // A client that was lost may come back, and begins anew.
        if is_finished || reason != LOST {
            let over = if is_finished { Over::Finished } else { Over::Ended(reason.clone()) };
            self.lately.end(key, over);
        }
        let Some(removed) = lock(&self.transfers).remove(&key) else { return };
        let event = match removed.outcome() {
            Some(outcome) => ServeEvent::Finished {
                transfer: removed.name.clone(),
                files: outcome.files,
                bytes: outcome.bytes,
                failed: outcome.failed_files + outcome.failed_others,
                seconds: removed.began.elapsed().as_secs_f64(),
                padding_bytes: removed.padding_bytes(),
            },
            None => ServeEvent::Aborted {
                transfer: removed.name.clone(),
                reason,
                bytes: removed.written_bytes.load(Relaxed),
            },
        };
        // When the last who writes is done, what is whole gets its name, and what is not is kept or
        // removed.
        let released = lock(&removed.released).take();
        drop(tokio::task::spawn_blocking(move || drop((removed, transfer))).await);
        if let Some(released) = released {
            drop(tokio::time::timeout(RELEASE_TIME, released).await);
        }
        self.is_idle.store(false, Relaxed);
        (self.report)(event);
    }
}

/// The path that a destination stands for, if this server can serve it.
pub(super) fn destination_path(version: u64, destination: &[u8]) -> Result<Vec<u8>, String> {
    if version != VERSION {
        return Err(format!("the server speaks version {VERSION} of the protocol, not {version}"));
    }
    let slashes = destination.iter().rev().take_while(|&&byte| byte == b'/').count();
    let path = destination[..destination.len() - slashes].to_vec();
    if !path.is_empty() && !is_path_safe(&path) {
        return Err(format!("the destination {:?} is not allowed", shown(&path)));
    }
    if has_reserved(&path) {
        return Err(format!("the destination {:?} is not allowed: {RESERVED}", shown(&path)));
    }
    Ok(path)
}

/// Why a transfer does not begin.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Trying again changes nothing.
    #[error("{0}")]
    Final(String),
    /// It passes.
    #[error("{0}")]
    ForNow(String),
    /// It passes when the server is there again.
    #[error("{DRAINING}")]
    Stopping,
}

impl Refusal {
    fn code(&self) -> u32 {
        match self {
            Self::Final(_) => CLOSE_REFUSED,
            Self::ForNow(_) => CLOSE_BUSY,
            Self::Stopping => CLOSE_STOPPING,
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Final(reason)
    }
}

/// The journal of a push; `None` where the root cannot hold one: that is no reason not to take it.
fn open_journal(
    root: &Arc<Dir>,
    names: &OwnNames,
    owner: Owner,
    patience: Patience,
) -> Result<Option<Journal>, Refusal> {
    match Journal::open(root, names, owner, patience) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let reason = "an earlier run of the same push has not ended yet";
            Err(Refusal::ForNow(reason.into()))
        }
        Err(error) => {
            tracing::warn!(%error, "no journal in the root folder: nothing is kept of a broken transfer");
            Ok(None)
        }
    }
}
