//! Waiting for a reader for as long as it takes.

use std::sync::Arc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::lane::Lane;

/// Waits until all is written, its reader has gone, or the command is told to stop. While a transfer ran,
/// signals were taken, and would now be lost on a process that only waits.
pub(super) fn until_read_or_stopped(lane: Arc<Lane>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
            return;
        };
        let (done, is_done) = oneshot::channel::<()>();
        thread::spawn(move || {
            lane.wait(None);
            // Told by being dropped.
            drop(done);
        });
        tokio::select! {
            _ = is_done => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    });
}
