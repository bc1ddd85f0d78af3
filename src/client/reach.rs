//! Whether the server can be reached, and what the loss of a connection means for the push.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::ConnectionError;

use crate::error::Error;
use crate::net::knock::Barrier;
use crate::net::line::LineError;
use crate::net::{tls, words};
use crate::text::said;
use crate::wire;

/// Connections may be lost this often because one side did not keep to the protocol: more means that a
/// new one does not help.
const BROKEN_MAX: u32 = 20;
/// Codes of a server that serves this client no more, whatever it tries.
const REFUSED: [u32; 4] =
    [wire::CLOSE_REFUSED, wire::CLOSE_DENIED, wire::CLOSE_VERSION, wire::CLOSE_UNKNOWN];
/// Nobody is heard of, and the server's host says that nobody listens: for so long that may be a firewall
/// that is loaded anew.
const REFUSED_TIME: Duration = Duration::from_secs(3);

/// What is known of the way to the server.
#[derive(Debug)]
pub(crate) struct Reach {
    server: String,
    addresses: Vec<SocketAddr>,
    /// What was given as the server's address: so many connections know of each what bars the way.
    places: usize,
    timeout: Duration,
    began: Instant,
    up_at: Option<Instant>,
    accepted: bool,
    /// The server has said that this is not its turn yet.
    waits: bool,
    last_error: Option<LineError>,
    /// Connections for which this host had no socket.
    without_socket: u64,
    /// Connections for which the system knew that nothing gets there.
    barred: usize,
    broken: u32,
    /// Since when nobody was heard of, and it was said that nobody listens.
    refused_since: Option<Instant>,
}

impl Reach {
    pub(crate) fn new(
        server: String,
        addresses: Vec<SocketAddr>,
        places: usize,
        timeout: Duration,
        began: Instant,
    ) -> Self {
        Self {
            server,
            addresses,
            places,
            timeout,
            began,
            up_at: None,
            accepted: false,
            waits: false,
            last_error: None,
            without_socket: 0,
            barred: 0,
            broken: 0,
            refused_since: None,
        }
    }

    /// A connection is up.
    pub(crate) fn up(&mut self, now: Instant) {
        self.up_at.get_or_insert(now);
    }

    /// The server has accepted the transfer.
    pub(crate) fn accepted(&mut self) {
        self.accepted = true;
    }

    /// The server will accept the transfer when it is its turn. True if that is new.
    pub(crate) fn waits(&mut self) -> bool {
        !std::mem::replace(&mut self.waits, true)
    }

    /// Whether it ever has.
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// A connection, of `opened` so far, is lost. An error if others cannot make up for it.
    pub(crate) fn lost(&mut self, error: LineError, opened: u64) -> Result<(), Error> {
        match &error {
            LineError::Connection(cause) if tls::is_auth_failure(cause) => {
                return Err(Error::Auth(format!(
                    "{} and this host do not trust each other: {}",
                    self.server,
                    words::why(cause)
                )));
            }
            LineError::Connection(ConnectionError::ApplicationClosed(close)) => {
                let code = close.error_code.into_inner();
                let is_crowded = code == u64::from(wire::CLOSE_CROWDED);
                if code == u64::from(wire::CLOSE_STOPPING) {
                    let why = said(&close.reason);
                    return Err(Error::Connect(format!("{}: {why}", self.server)));
                }
                if code == u64::from(wire::CLOSE_BUSY) {
                    let why = said(&close.reason);
                    return Err(Error::Busy(format!("{}: {why}", self.server)));
                }
                let is_refused = REFUSED.map(u64::from).contains(&code);
                if !self.accepted && !is_crowded || is_refused {
                    return Err(self.closed(&close.reason));
                }
                self.broken += u32::from(code == u64::from(wire::CLOSE_PROTOCOL));
                if self.broken > BROKEN_MAX {
                    return Err(self.closed(&close.reason));
                }
            }
            LineError::Protocol(_) => {
                self.broken += 1;
                if !self.accepted || self.broken > BROKEN_MAX {
                    return Err(Error::Peer(error.to_string()));
                }
            }
            LineError::Socket(_) => self.without_socket += 1,
            LineError::Barred(_) => self.barred += 1,
            LineError::Connection(_)
            | LineError::Connect(_)
            | LineError::NoAddress
            | LineError::NotOpened => {}
        }
        self.last_error = Some(error);
        // A mistake on this host needs no patience; with several local addresses, one may be right.
        if self.up_at.is_none() && self.without_socket == opened {
            return Err(self.unreachable("no connection could be opened"));
        }
        // Nor does a way that is known to lead nowhere.
        if self.up_at.is_none() && self.barred >= self.places {
            return Err(self.unreachable("nothing gets there"));
        }
        Ok(())
    }

    /// Somebody is there.
    pub(crate) fn heard(&mut self) {
        self.refused_since = None;
    }

    /// A connection could not be opened while none is heard of any more. An error if for some time now
    /// nobody listens there: who had the transfer is gone.
    pub(crate) fn refused(&mut self, error: &LineError, now: Instant) -> Result<(), Error> {
        if matches!(error, LineError::Barred(Barrier::Refused)) {
            let since = *self.refused_since.get_or_insert(now);
            if now - since >= REFUSED_TIME {
                return Err(self.unreachable("nobody listens any more"));
            }
        }
        Ok(())
    }

    /// An error if the server has been waited for long enough.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Error> {
        if self.due_at().is_none_or(|at| now < at) {
            return Ok(());
        }
        Err(if self.up_at.is_none() { self.unreachable("no answer") } else { self.unanswered() })
    }

    /// When the server will have been waited for long enough.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let answered = self.up_at.is_some() && (self.accepted || self.waits);
        let since = self.up_at.unwrap_or(self.began);
        (!answered).then(|| since.checked_add(self.timeout)).flatten()
    }

    /// Why the server has not accepted the transfer.
    fn unanswered(&self) -> Error {
        if let Some(LineError::Connection(ConnectionError::ApplicationClosed(close))) =
            &self.last_error
        {
            return self.closed(&close.reason);
        }
        Error::Connect(format!(
            "{} does not answer: it was reached, and then said nothing",
            self.server
        ))
    }

    /// Why the server is not reached.
    pub(crate) fn unreachable(&self, what: &str) -> Error {
        if let (None, Some(error @ LineError::Socket(_))) = (self.up_at, &self.last_error) {
            return Error::Disk(error.to_string());
        }
        no_way(&self.server, &self.addresses, what, self.last_error.as_ref())
    }

    fn closed(&self, reason: &[u8]) -> Error {
        let why = said(reason);
        let why = if why.is_empty() { "it closed the connection".into() } else { why };
        Error::Peer(format!("{}: {why}", self.server))
    }
}

/// That none of its `addresses` leads to `server`, as `error` says, and what may be done about it.
pub(crate) fn no_way(
    server: &str,
    addresses: &[SocketAddr],
    what: &str,
    error: Option<&LineError>,
) -> Error {
    let at: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let at = at.join(" and ");
    let port = addresses.first().map_or(0, SocketAddr::port);
    let is_address = addresses.iter().all(|to| at == server || to.ip().to_string() == server);
    let server = if is_address { at } else { format!("{server} at {at}") };
    let cannot = format!("cannot reach {server} (UDP)");
    Error::Connect(match error {
        Some(LineError::Barred(barrier @ Barrier::Refused)) => {
            format!("{cannot}: {barrier}; is `qbulk serve` running there, on port {port}?")
        }
        // Nothing at the other end is to blame.
        Some(error @ (LineError::Barred(_) | LineError::Socket(_))) => format!("{cannot}: {error}"),
        // It has answered.
        Some(error @ LineError::Connection(ConnectionError::ConnectionClosed(_))) => {
            format!("{cannot}: {error}")
        }
        error => {
            let why = error.map_or_else(|| what.into(), |error| format!("{what} ({error})"));
            format!(
                "{cannot}: {why}; is `qbulk serve` running there, and does a firewall let UDP port \
                 {port} through?"
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use quinn::{ApplicationClose, VarInt};

    use super::*;

    fn reach() -> Reach {
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 4433))];
        Reach::new("host".into(), addresses, 1, Duration::from_secs(10), Instant::now())
    }

    fn accepted() -> Reach {
        let mut reach = reach();
        reach.up(Instant::now());
        reach.accepted();
        reach
    }

    fn socket() -> LineError {
        LineError::Socket(io::ErrorKind::AddrNotAvailable.into())
    }

    fn close(code: u32) -> LineError {
        let error_code = VarInt::from_u32(code);
        let close = ApplicationClose { error_code, reason: "why".into() };
        LineError::Connection(ConnectionError::ApplicationClosed(close))
    }

    #[test]
    fn a_local_address_that_is_none_ends_the_push_only_if_all_are() {
        let mut reach = reach();
        for _ in 0..3 {
            reach.lost(socket(), 4).expect("the fourth is still being opened");
        }
        let error = reach.lost(socket(), 4).expect_err("none is left");
        assert_eq!(error.exit_code(), 6);

        let mut reach = accepted();
        for _ in 0..100 {
            reach.lost(socket(), 100).expect("there are others");
        }
        assert_eq!(reach.unreachable("").exit_code(), 3);
    }

    #[test]
    fn a_way_that_leads_nowhere_ends_only_a_push_that_never_was_under_way() {
        let barred = || LineError::Barred(Barrier::Refused);
        let error = reach().lost(barred(), 10).expect_err("nobody is there");
        assert_eq!(error.exit_code(), 3);
        let words = "cannot reach host at 192.0.2.1:4433 (UDP): nobody listens there (connection \
                     refused); is `qbulk serve` running there, on port 4433?";
        assert_eq!(error.to_string(), words);
        let blameless = no_way("host", &[], "", Some(&socket())).to_string();
        assert!(!blameless.contains("firewall"), "{blameless}");
        let by_address = Reach { server: "192.0.2.1".into(), ..reach() }.unreachable("no answer");
        let words = "cannot reach 192.0.2.1:4433 (UDP): no answer; ";
        assert!(by_address.to_string().starts_with(words), "{by_address}");
        let mut two = Reach { places: 2, ..reach() };
        two.lost(barred(), 10).expect("the other may be open");
        assert!(two.lost(barred(), 10).is_err());
        let mut reach = accepted();
        for _ in 0..100 {
            reach.lost(barred(), 10).expect("it may come back");
        }
    }

    #[test]
    fn only_a_refusal_ends_a_push_that_was_accepted() {
        let mut reach = accepted();
        for code in
            [wire::CLOSE_PROTOCOL, wire::CLOSE_CONDEMNED, wire::CLOSE_DONE, wire::CLOSE_CROWDED]
        {
            reach.lost(close(code), 10).expect("others make up for it");
        }
        reach.lost(LineError::Protocol("x".into()), 10).expect("others make up for it");
        for (code, exit_code) in REFUSED
            .map(|code| (code, 5))
            .into_iter()
            .chain([(wire::CLOSE_STOPPING, 3), (wire::CLOSE_BUSY, 5)])
        {
            let error = reach.lost(close(code), 10).expect_err("the server's will");
            assert_eq!((error.exit_code(), error.to_string().as_str()), (exit_code, "host: why"));
        }
    }

    #[test]
    fn a_server_that_is_crowded_is_tried_for_a_while_and_then_says_why() {
        let (mut reach, now) = (reach(), Instant::now());
        reach.up(now);
        reach.lost(close(wire::CLOSE_CROWDED), 10).expect("another may have gone");
        assert!(reach.check(now + Duration::from_secs(9)).is_ok());
        let error = reach.check(now + Duration::from_secs(11)).expect_err("it stays crowded");
        assert_eq!((error.exit_code(), error.to_string().as_str()), (5, "host: why"));
    }

    #[test]
    fn a_server_that_never_keeps_to_the_protocol_ends_the_push() {
        assert!(reach().lost(close(wire::CLOSE_PROTOCOL), 10).is_err());
        let mut reach = accepted();
        let mut lose = || reach.lost(LineError::Protocol("x".into()), 10);
        assert!((0..100).any(|_| lose().is_err()));
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up() {
        let (mut reach, now) = (reach(), Instant::now());
        assert!(reach.check(now + Duration::from_secs(9)).is_ok());
        assert_eq!(reach.check(now + Duration::from_secs(11)).unwrap_err().exit_code(), 3);
        reach.up(now + Duration::from_secs(9));
        assert!(reach.check(now + Duration::from_secs(18)).is_ok());
        assert_eq!(reach.check(now + Duration::from_secs(20)).unwrap_err().exit_code(), 3);
    }
}
