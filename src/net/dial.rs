//! Getting through to a server that may have several addresses, not all of which need to work.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::line::LineError;
use super::sockets::Sockets;

/// An address has so much time before the next one is tried beside it (RFC 8305, 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Tries `addresses` one after the other and those that `more` brings, until `attempt` succeeds at one: the
/// next one when the last has failed, or has not got through soon.
pub async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    more: impl Future<Output = Vec<SocketAddr>>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T), LineError>
where
    F: Future<Output = Result<T, LineError>> + Send + 'static,
    T: Send + 'static,
{
    let mut known = addresses.clone();
    let mut waiting = VecDeque::from(addresses);
    let mut attempts = JoinSet::<(SocketAddr, Result<T, LineError>)>::new();
    let mut more = pin!(more);
    let mut has_more = true;
    let mut next_at = Instant::now();
    let mut failed: Option<LineError> = None;
    loop {
        tokio::select! {
            biased;
            Some(ended) = attempts.join_next() => match ended {
                Ok((address, Ok(got))) => return Ok((address, got)),
                Ok((_, Err(error))) => {
                    next_at = Instant::now();
                    if failed.as_ref().is_none_or(|other| other.weight() < error.weight()) {
                        failed = Some(error);
                    }
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = sleep_until(next_at), if !waiting.is_empty() => {
                next_at = Instant::now() + NEXT_AFTER;
                if let Some(address) = waiting.pop_front() {
                    let attempt = attempt(address);
                    attempts.spawn(async move { (address, attempt.await) });
                }
            }
            found = &mut more, if has_more => {
                has_more = false;
                let new = found.into_iter().filter(|address| !known.contains(address));
                waiting.extend(new.clone());
                known.extend(waiting.iter());
            }
            else => return Err(failed.unwrap_or(LineError::NoAddress)),
        }
    }
}

/// What `attempt` comes to, unless the system knows that nothing gets from `local` to `remote`.
pub async fn unless_barred<T>(
    sockets: &dyn Sockets,
    local: SocketAddr,
    remote: SocketAddr,
    attempt: impl Future<Output = Result<T, LineError>>,
) -> Result<T, LineError> {
    tokio::select! {
        biased;
        barrier = sockets.knock(local, remote) => Err(LineError::Barred(barrier)),
        done = attempt => done,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::super::knock::Barrier;
    use super::*;
    use crate::mutex::lock;

    const SILENT: u16 = 1;
    const CLOSED: u16 = 2;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Races over ports, of which others than the two above answer after so many milliseconds. Returns who
    /// won, and which were tried.
    async fn run(ports: &[u16], more: &[u16]) -> (Option<u16>, Vec<u16>) {
        let tried = Arc::new(Mutex::new(Vec::new()));
        let more: Vec<_> = more.iter().copied().map(at).collect();
        let more = async {
            sleep(Duration::from_millis(100)).await;
            more
        };
        let addresses = ports.iter().copied().map(at).collect();
        let won = race(addresses, more, |address| {
            lock(&tried).push(address.port());
            async move {
                match address.port() {
                    SILENT => std::future::pending().await,
                    CLOSED => Err(LineError::Barred(Barrier::Refused)),
                    answers_after => {
                        sleep(Duration::from_millis(answers_after.into())).await;
                        Ok(())
                    }
                }
            }
        });
        let won = won.await.ok().map(|(address, ())| address.port());
        let tried = lock(&tried).clone();
        (won, tried)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_is_not_waited_for() {
        assert_eq!(run(&[20, 10], &[]).await, (Some(20), vec![20]), "one is enough");
        let since = Instant::now();
        assert_eq!(run(&[SILENT, 20], &[]).await, (Some(20), vec![SILENT, 20]));
        assert!(since.elapsed() < Duration::from_millis(300));
        let since = Instant::now();
        assert_eq!(run(&[CLOSED, 20], &[]).await, (Some(20), vec![CLOSED, 20]));
        assert!(since.elapsed() < Duration::from_millis(50));
        assert_eq!(run(&[SILENT, 1_000], &[]).await.0, Some(1_000), "a long way");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_meanwhile_is_tried_once_and_if_all_fail_it_is_told() {
        assert_eq!(run(&[SILENT], &[SILENT, 20]).await, (Some(20), vec![SILENT, 20]));
        assert_eq!(run(&[CLOSED], &[CLOSED, 20]).await, (Some(20), vec![CLOSED, 20]));
        assert_eq!(run(&[CLOSED, CLOSED], &[]).await.0, None);
        assert_eq!(run(&[], &[]).await.0, None);
    }
}
