//! What is on another host: `qbulk://HOST[:PORT]/PATH` of a server, or `[USER@]HOST:PATH` as scp has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use qbulk::error::Error;

use super::url::Destination;

const SCHEME: &[u8] = b"qbulk://";

/// A place on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    /// On a server that runs.
    Server(Destination),
    /// Where ssh gets to.
    Ssh(SshPlace),
}

/// A place where ssh gets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SshPlace {
    /// `HOST` or `USER@HOST`, without brackets.
    pub(super) host: String,
    /// Relative to the home folder there, unless it begins with a slash.
    pub(super) path: Vec<u8>,
}

impl Remote {
    /// What was typed, if it is on another host: it has a colon before the first slash. `what` it is, for a
    /// person.
    pub(super) fn read(what: &str, typed: &OsStr) -> Result<Option<Self>, Error> {
        let bytes = typed.as_bytes();
        if bytes.starts_with(SCHEME) {
            let text = url_text(typed);
            let parsed = text.parse();
            let parsed = parsed.map_err(|error| Error::Usage(format!("{what} {text:?}: {error}")));
            return parsed.map(|server| Some(Self::Server(server)));
        }
        let read = SshPlace::read(bytes);
        let read = read.map_err(|why| {
            Error::Usage(format!("{what} {:?}: {why}", String::from_utf8_lossy(bytes)))
        });
        Ok(read?.map(Self::Ssh))
    }

    /// The host, as it is told apart from others.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Server(server) => server.server(),
            Self::Ssh(place) => place.host.clone(),
        }
    }
}

impl SshPlace {
    fn read(typed: &[u8]) -> Result<Option<Self>, String> {
        let end = typed.iter().position(|&byte| byte == b'/').unwrap_or(typed.len());
        let begins = typed[..end].iter().position(|&byte| byte == b'[');
        let colon = match begins {
            // An IPv6 address has colons of its own.
            Some(at) if at == 0 || typed[at - 1] == b'@' => {
                let close = typed.windows(2).position(|pair| pair == b"]:");
                close.map(|close| close + 1)
            }
            _ => typed[..end].iter().position(|&byte| byte == b':'),
        };
        let Some(colon) = colon else { return Ok(None) };
        let (host, path) = (&typed[..colon], &typed[colon + 1..]);
        let host = std::str::from_utf8(host).map_err(|_| "the host's name is not UTF-8")?;
        let host = host.replace(['[', ']'], "");
        let name = host.rsplit('@').next().unwrap_or_default();
        if host.is_empty() || name.is_empty() || host.starts_with('@') {
            return Err(
                "there is no host before the colon; a file here is written as ./NAME".into()
            );
        }
        if host.starts_with('-') || name.starts_with('-') {
            return Err("no host begins with a -".into());
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("no host has that in its name; a file here is written as ./NAME".into());
        }
        if path.starts_with(b"//") {
            return Err("expected qbulk://HOST[:PORT]/PATH or [USER@]HOST:PATH".into());
        }
        if path.contains(&0) {
            return Err("the path may not hold a zero byte".into());
        }
        Ok(Some(Self { host, path: path.to_vec() }))
    }
}

/// What was typed as a URL: bytes that are no text, as a path may have them, are written as %XX.
fn url_text(typed: &OsStr) -> String {
    let mut text = String::with_capacity(typed.len());
    for chunk in typed.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(typed: &str) -> Option<(String, String)> {
        match Remote::read("it", OsStr::new(typed)).unwrap() {
            Some(Remote::Ssh(SshPlace { host, path })) => {
                Some((host, String::from_utf8(path).unwrap()))
            }
            _ => None,
        }
    }

    #[test]
    fn a_colon_before_the_first_slash_is_behind_a_host() {
        for (typed, host, path) in [
            ("host:", "host", ""),
            ("host:a", "host", "a"),
            ("me@host:/srv/a:b", "me@host", "/srv/a:b"),
            ("host:a/b:c", "host", "a/b:c"),
            ("[::1]:a", "::1", "a"),
            ("me@[fe80::1%eth0]:/a", "me@fe80::1%eth0", "/a"),
            ("me@corp@host:a", "me@corp@host", "a"),
            ("host:~/a", "host", "~/a"),
        ] {
            assert_eq!(ssh(typed), Some((host.into(), path.into())), "{typed}");
        }
        for typed in ["a", "./a:b", "/a:b", "a/b:c", "", "qbulk://h/a:b", "[a]", "a[b]"] {
            assert_eq!(ssh(typed), None, "{typed}");
        }
    }

    #[test]
    fn what_ssh_would_take_for_something_else_is_refused() {
        for typed in [
            ":a",
            "@host:a",
            "me@:a",
            "-oProxyCommand=x:a",
            "me@-host:a",
            "a b:c",
            "https://host/a",
            "qbulk:/",
            "a\n:b",
            "ftp://x",
            "[]:a",
        ] {
            let read = Remote::read("it", OsStr::new(typed));
            let is_odd = typed == "qbulk:/"; // a host of that name
            assert_eq!(read.is_err(), !is_odd, "{typed:?}: {read:?}");
        }
    }
}
