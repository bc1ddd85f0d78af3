//! What the server says, and what becomes of the connections that it says it on.

use std::time::Instant;

use super::lines::Lines;
use super::outflow::Outflow;
use super::recall::KeptFiles;
use super::sender::{DAMAGED_MAX, JOB, Sender};
use crate::error::Error;
use crate::event::{PushEvent, Summary};
use crate::net::line::{Line, LineError};
use crate::text::{said, shown};
use crate::traffic::{ConnId, Input, ItemId, StripeId};
use crate::wire::{Destination, There, ToReceiver, ToSender};
use crate::{clock, wire};

impl<L: Lines> Sender<L> {
    pub(super) fn on_up(&mut self, conn: ConnId, line: Line) {
        let now = clock::now();
        if self.set.role(conn).is_none() {
            return line.close(wire::CLOSE_CONDEMNED); // given up while it was opened
        }
        self.lines.up(now);
        let (local, remote) = line.addresses();
        self.connections.up(conn, local, remote, now);
        if let Some(receipt) = &self.receipt {
            let key = line.fingerprint();
            let server = (self.lines.peer(), remote);
            receipt.begin(&self.transfer, key, server, Vec::new(), &self.destination);
        }
        (self.report)(PushEvent::Connected { conn: conn.0, local, remote });
        if self.finishing
            && let Some(plan) = self.plan()
        {
            self.say_last(&line, plan.cut_stripes());
        }
        self.outflows.insert(conn, Outflow::new(line, self.limit.clone()));
        self.note_found(now);
        self.set.handle(Input::Up(conn), now);
    }

    pub(super) fn on_lost(&mut self, conn: ConnId, error: LineError) -> Result<(), Error> {
        tracing::info!(conn = conn.0, %error, "connection lost");
        if self.set.role(conn).is_none() {
            return Ok(()); // given up before
        }
        let now = clock::now();
        self.lines.lost(error, self.set.stats().opened, self.set.is_dark(now), now)?;
        self.set.handle(Input::Lost(conn), now);
        Ok(())
    }

    pub(super) fn on_said(&mut self, conn: ConnId, message: ToSender) -> Result<(), Error> {
        let now = clock::now();
        match message {
            ToSender::Welcome { destination, instance, kept, looks } => {
                self.on_welcome(conn, destination, instance, kept, looks)?;
            }
            ToSender::Waiting { message } => {
                if self.lines.waits() {
                    (self.report)(PushEvent::Waiting { reason: said(&message) });
                }
            }
            ToSender::Confirm(stripe) => self.on_confirmed(conn, StripeId(stripe), now),
            ToSender::Damaged(stripe) => {
                self.damaged += 1;
                tracing::warn!(conn = conn.0, stripe, "a stripe arrived damaged");
                if self.damaged > DAMAGED_MAX {
                    return Err(Error::Peer("too many stripes arrived damaged".into()));
                }
                self.set.handle(Input::Damaged(conn, JOB, StripeId(stripe)), now);
            }
            ToSender::Failed { number, item, path, message } => {
                if let Some(outflow) = self.outflows.get(&conn) {
                    // It is told again, until it is known that it was heard.
                    outflow.line().mention(ToReceiver::Heard(number));
                }
                if self.source.is_stream() {
                    // What comes of it later would be thrown away, and there may be no end of it.
                    let (path, why) = (shown(&path), said(&message));
                    return Err(Error::Peer(format!("destination: {path}: {why}")));
                }
                if self.failures.hear(number, path, said(&message))
                    && let Some(item) = item
                {
                    self.source.cancel(ItemId(item));
                    self.set.handle(Input::Cancelled(JOB, ItemId(item)), now);
                }
            }
            ToSender::Unkept(unkept) => self.failures.hear_unkept(unkept),
            finished @ ToSender::Finished { .. } => self.on_finished(&finished)?,
            ToSender::KeptFiles(files) => self.recall.hear_files(conn, files),
            ToSender::KeptPieces { file, basis, state, pieces } => {
                self.recall.hear_pieces(conn, file, (basis, state), pieces);
            }
            ToSender::KeptEnd => {
                if let Some((destination, kept)) = self.recall.end(conn) {
                    self.begin(destination, kept)?;
                }
            }
            ToSender::Found { question, there } => {
                self.moved_at = now;
                self.on_looked(conn, question, &there, now)?;
            }
            ToSender::Hashes { question, hashes, is_last } => {
                self.moved_at = now;
                let compared = self.source.compares.answer(conn, question, &hashes, is_last);
                let Ok(compared) = compared else { return Err(self.broken()) };
                let items = compared.map(|compared| self.source.take_compared(compared));
                self.offer(items.unwrap_or_default());
            }
            // Of a client that pulls; who brings its lines hears it before.
            ToSender::Heard(_) | ToSender::Unopened(_) => {
                return Err(self.broken());
            }
        }
        Ok(())
    }

    fn broken(&self) -> Error {
        Error::Peer(format!("{} broke the protocol", self.lines.peer()))
    }

    pub(super) fn on_welcome(
        &mut self,
        conn: ConnId,
        destination: Destination,
        instance: u64,
        kept: bool,
        looks: bool,
    ) -> Result<(), Error> {
        match self.instance {
            None => {
                if !self.source.looks.begin(looks) {
                    return Err(Error::Peer(format!(
                        "{} does not let this key see what is there, and what to send depends on that: send \
                         everything, or have the key be given the right to read",
                        self.lines.peer()
                    )));
                }
                self.instance = Some(instance);
                self.lines.accepted();
                if !kept {
                    return self.begin(destination, KeptFiles::new());
                }
                self.recall.begin(destination);
            }
            Some(first) if first == instance => {}
            Some(_) => {
                return Err(Error::Connect(format!(
                    "{} has lost the transfer (was it restarted?)",
                    self.lines.peer()
                )));
            }
        }
        self.ask(conn);
        Ok(())
    }

    /// Asks which files need not be sent.
    pub(super) fn ask_what_is_there(&mut self) {
        let up = self.outflows.keys().copied();
        if let Some((conn, questions)) = self.source.looks.ask(up, clock::now())
            && let Some(outflow) = self.outflows.get(&conn)
        {
            for question in questions {
                outflow.line().say(question);
            }
        }
        let up = self.outflows.keys().copied();
        if let Some((conn, questions)) = self.source.compares.ask(up)
            && let Some(outflow) = self.outflows.get(&conn)
        {
            for question in questions {
                outflow.line().say(question);
            }
        }
    }

    fn on_looked(
        &mut self,
        conn: ConnId,
        question: u64,
        there: &[There],
        now: Instant,
    ) -> Result<(), Error> {
        let Some(files) = self.source.looks.answer(conn, question, there, now) else {
            return Err(self.broken());
        };
        let items = self.source.take_looked(files);
        self.offer(items);
        Ok(())
    }

    /// Asks over `conn` what is kept, if that has to be asked.
    pub(super) fn ask(&mut self, conn: ConnId) {
        if let Some(outflow) = self.outflows.get(&conn)
            && let Some(question) = self.recall.ask(conn)
        {
            outflow.line().say(question);
        }
    }

    /// The connection that was asked is lost; another one that the server has welcomed is asked.
    pub(super) fn ask_again(&mut self) {
        if let Some(&conn) = self.outflows.keys().min() {
            self.ask(conn);
        }
    }

    /// It is known what is at the destination: data may flow.
    pub(super) fn begin(&mut self, destination: Destination, kept: KeptFiles) -> Result<(), Error> {
        self.source.name(&self.destination, destination, kept)?;
        self.moved_at = clock::now();
        self.set.handle(Input::Accepted(JOB), clock::now());
        Ok(())
    }

    pub(super) fn on_confirmed(&mut self, conn: ConnId, stripe: StripeId, now: Instant) {
        if let Some(outflow) = self.outflows.get(&conn) {
            outflow.confirmed(stripe);
        }
        if let Some(flight) = self.flights.remove(&stripe) {
            self.connections.confirmed(conn);
            self.confirmed_bytes += flight.content_bytes;
            self.left_out += flight.left_out;
            self.confirmed_items += flight.items;
            self.confirmed_stripes += 1;
            self.moved_at = now;
        }
        self.set.handle(Input::Confirmed(conn, JOB, stripe), now);
    }

    pub(super) fn on_finished(&mut self, finished: &ToSender) -> Result<(), Error> {
        let &ToSender::Finished {
            files,
            bytes,
            failed_files,
            discarded_files,
            failed_others,
            padding_bytes,
        } = finished
        else {
            return Ok(());
        };
        // Every file that was sent is there, or the server knows why not.
        if !self.finishing || files + failed_files + discarded_files != self.source.files {
            return Err(Error::Peer(format!(
                "{} has made {files} files durable of {} that were sent: push again",
                self.lines.peer(),
                self.source.files
            )));
        }
        self.failures.settle(failed_files + failed_others);
        // The last confirmations may still be on their way over other connections.
        let unconfirmed = std::mem::take(&mut self.flights);
        for flight in unconfirmed.values() {
            self.confirmed_bytes += flight.content_bytes;
            self.left_out += flight.left_out;
        }
        self.confirmed_stripes += unconfirmed.len() as u64;
        let others = self.source.others.saturating_sub(failed_others);
        let told = Summary {
            files: files + self.source.kept_files,
            others,
            bytes: bytes + self.source.kept_whole_bytes,
            padding_received_bytes: padding_bytes,
            ..self.summary()
        };
        let moved_bytes = told.bytes.saturating_sub(told.kept_bytes);
        self.done = Some(Summary { bytes_per_s: moved_bytes as f64 / told.seconds, ..told });
        Ok(())
    }
}
