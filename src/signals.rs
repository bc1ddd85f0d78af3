//! Signals that end a command, and one that does not.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use qbulk::error::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Resolves on Ctrl-C or SIGTERM, or when the terminal goes, unless that is not to matter (`nohup`).
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()> + Send, Error> {
    let mut signals = Signals::listen()?;
    let hangup = SignalKind::hangup();
    signals.hangup = if is_ignored(hangup) { None } else { Some(listen(hangup)?) };
    Ok(async move { signals.next().await })
}

/// The first resolves on Ctrl-C or SIGTERM, the second on another one or `time` later. That the terminal
/// goes from which it was started is nothing to a server.
pub(crate) fn stop_signals(
    time: Duration,
) -> Result<(impl Future<Output = ()> + Send, impl Future<Output = ()> + Send), Error> {
    let mut signals = Signals::listen()?;
    let hangup = SignalKind::hangup();
    if !is_ignored(hangup) {
        // From now on it is taken, and nobody waits for it.
        drop(listen(hangup)?);
    }
    let first = Arc::new(Notify::new());
    let drain = Arc::clone(&first);
    let stop = async move {
        signals.next().await;
        first.notify_one();
        drop(tokio::time::timeout(time, signals.next()).await);
    };
    Ok((async move { drain.notified().await }, stop))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let interrupt = listen(SignalKind::interrupt())?;
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate, hangup: None })
    }

    async fn next(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::Disk(format!("cannot listen for signals: {error}")))
}

/// Whether this process was started with a signal ignored. A system that does not say so is left as it is.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status");
    status.map_or(true, |status| ignores(&status, kind.as_raw_value()))
}

/// proc_pid_status(5): a mask of signals, in hexadecimal.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 << (signal - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_seen_in_the_mask() {
        let hangup = SignalKind::hangup().as_raw_value();
        let status = "Name:\tqbulk\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, hangup));
        assert!(!ignores(&status.replace("1001", "1000"), hangup));
        assert!(ignores("Name:\tqbulk\n", hangup), "nobody says: left as it is");
    }
}
