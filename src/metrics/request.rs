//! What somebody asks for by HTTP: one request for each connection.

/// A longer head is refused.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Metrics {
        with_body: bool,
    },
    Health {
        with_body: bool,
    },
    /// Something else, and what is said to that.
    Refused(&'static str),
}

/// What is asked for, once `head` is whole or cannot become it.
pub(super) fn asked(head: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Asked::Refused("431 Request Header Fields Too Large"));
        }
        Err(_) => return Some(Asked::Refused("400 Bad Request")),
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(Asked::Refused("405 Method Not Allowed")),
    };
    let path = request.path.unwrap_or_default();
    Some(match path.split('?').next() {
        Some("/metrics") => Asked::Metrics { with_body },
        Some("/health" | "/healthz") => Asked::Health { with_body },
        _ => Asked::Refused("404 Not Found"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_it_says_once_it_is_whole() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(asked(&whole[..end]), None, "{end}");
        }
        assert_eq!(asked(whole), Some(Asked::Metrics { with_body: true }));
        let health = Some(Asked::Health { with_body: false });
        assert_eq!(asked(b"HEAD /health HTTP/1.0\r\n\r\n"), health);
    }

    #[test]
    fn what_is_no_such_request_is_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        let long = format!("GET /{} ", "a".repeat(HEAD_BYTES_MAX));
        for (head, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\x16\x03\x01\x02\x00", "400"),
            (many.as_bytes(), "431"),
            (&long.as_bytes()[..HEAD_BYTES_MAX], "431"),
        ] {
            let said = asked(head);
            assert!(
                matches!(said, Some(Asked::Refused(said)) if said.starts_with(status)),
                "{said:?}"
            );
        }
    }
}
