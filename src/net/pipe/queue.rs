//! What waits at the ends of a pipe, to be written and to be taken.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::header;
use crate::mutex::lock;

/// What waits to be written, above which nobody may send more, in bytes. As much again is being written.
const OUTGOING_BYTES_MAX: usize = 256 << 10;
/// What waits to be taken, above which nothing more is read, in bytes.
const INBOX_BYTES_MAX: usize = 1 << 20;
/// Whoever takes nothing for so long is gone, or may lose something: others share the pipe.
const INBOX_TIME: Duration = Duration::from_secs(5);

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    state: Mutex<OutgoingState>,
    has_more: Notify,
}

#[derive(Debug, Default)]
struct OutgoingState {
    bytes: Vec<u8>,
    is_closed: bool,
    /// Who wants to send more.
    waiting: Vec<Waker>,
}

impl Outgoing {
    /// Adds a frame, however much there is already.
    pub(super) fn push(&self, kind: u8, port: u16, content: &[u8]) {
        let mut state = lock(&self.state);
        if !state.is_closed {
            state.bytes.extend_from_slice(&header(kind, port, content.len()));
            state.bytes.extend_from_slice(content);
            self.has_more.notify_one();
        }
    }

    /// Whether more may be added. What is closed takes all, and it goes nowhere.
    pub(super) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        state.is_closed || state.bytes.len() < OUTGOING_BYTES_MAX
    }

    /// Ready once more may be added.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.is_closed || state.bytes.len() < OUTGOING_BYTES_MAX {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes what there is into `bytes`, which must be empty; waits for something. False once it is closed and
    /// all is taken.
    pub(super) async fn take(&self, bytes: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut state = lock(&self.state);
                if !state.bytes.is_empty() {
                    std::mem::swap(bytes, &mut state.bytes);
                    state.waiting.drain(..).for_each(Waker::wake);
                    return true;
                }
                if state.is_closed {
                    return false;
                }
            }
            self.has_more.notified().await;
        }
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.waiting.drain(..).for_each(Waker::wake);
        self.has_more.notify_one();
    }
}

/// What has come for a socket, and from which port.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    has_room: Notify,
}

#[derive(Debug, Default)]
struct InboxState {
    datagrams: VecDeque<(u16, Vec<u8>)>,
    bytes: usize,
    waiting: Option<Waker>,
}

impl Inbox {
    /// Adds a datagram; waits for room for a while.
    pub(super) async fn push(&self, port: u16, datagram: Vec<u8>) {
        let has_room = async {
            while lock(&self.state).bytes >= INBOX_BYTES_MAX {
                self.has_room.notified().await;
            }
        };
        if tokio::time::timeout(INBOX_TIME, has_room).await.is_err() {
            return;
        }
        let mut state = lock(&self.state);
        state.bytes += datagram.len();
        state.datagrams.push_back((port, datagram));
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    /// The next datagram.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<(u16, Vec<u8>)> {
        let mut state = lock(&self.state);
        let Some((port, datagram)) = state.datagrams.pop_front() else {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= datagram.len();
        self.has_room.notify_one();
        Poll::Ready((port, datagram))
    }
}

/// Which socket gets what.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_port: HashMap<u16, Weak<Inbox>>,
    all: Weak<Inbox>,
}

impl Routes {
    pub(super) fn add(&mut self, port: u16, inbox: &Arc<Inbox>) {
        self.by_port.retain(|_, inbox| inbox.strong_count() > 0);
        self.by_port.insert(port, Arc::downgrade(inbox));
    }

    pub(super) fn take_all(&mut self, inbox: &Arc<Inbox>) {
        self.all = Arc::downgrade(inbox);
    }

    pub(super) fn find(&self, port: u16) -> Option<Arc<Inbox>> {
        self.by_port.get(&port).and_then(Weak::upgrade).or_else(|| self.all.upgrade())
    }
}
