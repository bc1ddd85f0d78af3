//! What client and far side say through ssh.
//!
//! The far side says a line first, so that it is known where shells and banners end. From there on there are
//! frames: its [`Hello`], the client's [`Request`], and its [`Answer`]; and datagrams, where UDP does not get
//! through.

use std::net::IpAddr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

/// What the far side says first: it is in no banner by chance.
pub(super) const MARKER: &[u8] = b"[qbulk serve --stdio, version 1]\n";

/// The far side, as it is before it knows what for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The key that it has for this session.
    pub(super) fingerprint: String,
    /// Where it takes UDP, if it does.
    pub(super) port: Option<u16>,
    /// What it knows of its own addresses, the likeliest first.
    pub(super) addresses: Vec<IpAddr>,
}

/// What the client wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The key that it has for this session.
    pub(super) fingerprint: String,
    /// To write, and not to read.
    pub(super) writes: bool,
    /// As they were typed.
    pub(super) paths: Vec<PathText>,
    /// The far side is to take UDP at one of these ports, the first and the last included.
    pub(super) ports: Option<(u16, u16)>,
    /// It is to take UDP at all.
    pub(super) udp: bool,
}

/// What becomes of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It is served.
    Ready {
        /// The paths as the client is to say them to the server.
        paths: Vec<PathText>,
        /// Where it takes UDP, if it does.
        port: Option<u16>,
    },
    /// It is not.
    Refused {
        /// Why, for a person.
        reason: String,
    },
}

/// A path byte by byte, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PathText(String);

impl PathText {
    pub(super) fn new(path: &[u8]) -> Self {
        Self(percent_encode(path, NON_ALPHANUMERIC).to_string())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        percent_decode_str(&self.0).collect()
    }
}

/// A message as it is said.
pub(super) fn text(message: &impl Serialize) -> Vec<u8> {
    // Numbers, texts and lists of them can always be written.
    serde_json::to_vec(message).unwrap_or_default()
}

/// A message that was heard.
pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_arrive_byte_by_byte() {
        let all: Vec<u8> = (0..=255).collect();
        let said = text(&PathText::new(&all));
        assert_eq!(read::<PathText>(&said).unwrap().bytes(), all);
    }

    #[test]
    fn what_a_newer_one_says_more_is_left_out() {
        let said = br#"{"fingerprint":"x","port":null,"addresses":["::1"],"colour":"blue"}"#;
        assert_eq!(read::<Hello>(said).unwrap().addresses.len(), 1);
        assert!(read::<Hello>(b"{}").is_err() && read::<Answer>(b"[]").is_err());
    }
}
