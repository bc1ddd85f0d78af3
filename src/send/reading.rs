//! What is found, read and confirmed at the source.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

use tokio::sync::watch;

use super::lines::Lines;
use super::search::Found;
use super::sender::{CHECKS_MAX, Event, Flight, JOB, Sender};
use crate::clock;
use crate::error::Error;
use crate::store::scan::Lost;
use crate::store::source::{
    Held, Holding, LeftOut, Outcome, Prepared, ReadOptions, Sealed, SourceItem, confirm, prepare,
    reread,
};
use crate::store::unreadable::Unreadable;
use crate::traffic::{Input, Item, Stripe, StripeId};
use crate::wire::Packing;

/// So much of a file is checked before it is another's turn, in bytes.
const STEP_BYTES: u64 = 64 << 20;

impl<L: Lines> Sender<L> {
    /// Looks at files of which the server has something.
    pub(super) fn check(&mut self) {
        while self.checking < CHECKS_MAX
            && let Some(check) = self.source.next_check()
        {
            self.checking += 1;
            let (events, wanted) = (self.events.clone(), self.wanted.watch());
            let work = self.work.clone();
            tokio::spawn(async move {
                let (local, info, pieces) = check.expected();
                let begin = move || Holding::new(&local, &info, pieces?);
                let mut holding = work.run_behind(begin).await.unwrap_or_default();
                let mut same = None;
                while let Some(mut under_way) = holding.take() {
                    let wanted = wanted.clone();
                    let step = move || (under_way.step(STEP_BYTES, &wanted), under_way);
                    // What cannot be looked at is not the same.
                    match work.run_behind(step).await {
                        Ok((Held::SoFar, under_way)) => holding = Some(under_way),
                        Ok((Held::All(info), _)) => same = Some(info),
                        Ok((Held::Not, _)) | Err(_) => {}
                    }
                }
                drop(events.send(Event::Checked(Box::new(check), same)));
            });
        }
    }

    /// Starts to read a stripe for the first time.
    pub(super) fn read(&mut self, stripe: &Stripe) -> Flight {
        let parts = self.source.parts(stripe);
        let content_bytes = parts.iter().map(|part| part.len).sum();
        let items = parts.iter().filter(|part| part.ends_item()).count() as u64;
        self.reading += 1;
        let (ready_in, ready) = watch::channel(None::<Prepared>);
        let (id, events, buffers) = (stripe.id.0, self.events.clone(), self.buffers.clone());
        let receipt = self.receipt.clone();
        let options = ReadOptions { packing: self.packing(), ..self.read };
        self.work.start(move || {
            let outcome = prepare(id, &parts, &buffers, options);
            if let Some(receipt) = receipt {
                receipt.add(&parts, &outcome);
            }
            let Outcome { prepared, sealed, failures, covered_bytes, left_out, .. } = outcome;
            let stripe = StripeId(id);
            // A seal must be known before its last piece can be confirmed.
            let bytes = (covered_bytes, left_out);
            drop(events.send(Event::Prepared { stripe, bytes, sealed, failures }));
            ready_in.send_replace(Some(prepared));
        });
        Flight { ready, content_bytes, left_out: LeftOut::default(), items }
    }

    /// Whether the next stripe is packed.
    fn packing(&self) -> Packing {
        match self.read.packing {
            // Where many are being read, connections wait for them and not the other way round.
            Packing::Auto if self.reading <= self.packed_at_once => Packing::Always,
            Packing::Auto => Packing::None,
            said => said,
        }
    }

    /// All of a file was sent, and something about it has changed under way: it is read once more.
    pub(super) fn confirm(&mut self, sealed: Sealed) {
        self.confirming += 1;
        let (events, options, wanted) = (self.events.clone(), self.read, self.wanted.watch());
        self.work.start(move || {
            let confirmed =
                confirm(&sealed, options, &wanted).and_then(|()| reread(sealed.clone(), options));
            let (sealed, result) = match confirmed {
                Ok(sealed) => (sealed, Ok(())),
                Err(why) => (sealed, Err(why)),
            };
            drop(events.send(Event::Confirmed(sealed, result)));
        });
    }

    pub(super) fn on_confirmation(&mut self, sealed: &Sealed, result: Result<(), Unreadable>) {
        self.confirming -= 1;
        let item = match result {
            Ok(()) => {
                if let Some(receipt) = &self.receipt {
                    receipt.seal(sealed);
                }
                self.source.seal(sealed)
            }
            Err(why) => {
                self.lose(&sealed.item, why);
                self.source.take_back(&sealed.item)
            }
        };
        self.offer(vec![item]);
    }

    /// Something cannot be read as it was found. It may be another time.
    pub(super) fn lose(&mut self, item: &SourceItem, why: Unreadable) {
        let is_tried_again = why.kind.is_live()
            && !item.is_last_try
            && self.again.add(item.local.clone(), item.path.clone());
        if !is_tried_again {
            self.failures.add(item.failure(why));
        }
    }

    pub(super) fn offer(&mut self, items: Vec<Item>) {
        if !items.is_empty() {
            self.set.handle(Input::Offered(JOB, items), clock::now());
        }
    }

    pub(super) fn on_found(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Entries(entries) => {
                let mut items = Vec::with_capacity(entries.len());
                for entry in entries {
                    match entry.map(|entry| self.source.take(entry)) {
                        Ok(Ok(found)) => items.extend(found),
                        Ok(Err(failure)) => self.failures.add(failure),
                        Err(lost) => self.on_lost_entry(lost),
                    }
                }
                if let Some(failure) = self.source.unlinked() {
                    self.failures.add(failure);
                }
                self.offer(items);
            }
            Found::Chunk(chunk) => {
                let items = self.source.take_chunk(chunk)?;
                self.offer(items);
            }
            Found::Broken(why) => return Err(Error::Disk(why)),
            Found::End => {
                self.source_done = true;
                self.set.handle(Input::SourceDone(JOB), clock::now());
            }
        }
        Ok(())
    }

    /// Something could not be looked at. It may be back at the end.
    pub(super) fn on_lost_entry(&mut self, lost: Lost) {
        let is_tried_again = lost.why.kind.is_live()
            && self
                .source
                .path(&lost.remote)
                .is_some_and(|path| self.again.add(lost.local.clone(), path));
        if !is_tried_again {
            self.failures.add(lost.into());
        }
    }

    /// Tells how much there is to send, as far as that is known.
    pub(super) fn note_found(&mut self, now: Instant) {
        let scanned = self.source.scanned();
        self.found_all = scanned.done.load(Acquire);
        let bytes = scanned.bytes.load(Relaxed);
        self.set.handle(Input::Found(JOB, bytes), now);
    }
}
