//! Starting the far side, and hearing what it says first.

use std::ffi::OsString;
use std::io::Cursor;
use std::net::{IpAddr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::hosts::{self, Configured};
use super::message::{Answer, Hello, MARKER, PathText, Request, read, text};
use super::way::Via;
use crate::clock;
use crate::error::{Error, reason};
use crate::identity::{Fingerprint, Identity};
use crate::net::pipe::Pipe;
use crate::text::{logged, said};

/// What may come before the far side's first line, in bytes.
const NOISE_BYTES_MAX: usize = 64 << 10;
/// So much of it is shown.
const NOISE_LINES_MAX: usize = 40;
const NOISE_LINE_BYTES_MAX: usize = 200;
/// How long ssh may take to end once the far side has.
const END_TIME: Duration = Duration::from_secs(2);
/// How long it is waited for what ssh knows of a host.
const CONFIGURED_TIME: Duration = Duration::from_secs(2);
/// What a shell ends with that does not find a command (csh does with 1, as everything that fails).
const NOT_FOUND: [i32; 2] = [127, 1];
const NOT_EXECUTABLE: i32 = 126;
/// What a `qbulk` ends with that does not know the option.
const USAGE: i32 = 2;

/// A constant command each: there is nothing to quote.
const COMMAND: &str = "exec qbulk serve --stdio";
/// Where it may be that no shell looks which nobody has logged in to. All shells read this alike.
const COMMAND_ELSEWHERE: &str = "exec sh -c 'PATH=$PATH:$HOME/.cargo/bin:$HOME/.local/bin:$HOME/bin:/usr/local/bin:/opt/qbulk/bin:/opt/homebrew/bin; exec qbulk serve --stdio'";

/// Whom to start the far side on, and how.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// The command and its first arguments: `ssh`, and what it needs.
    pub command: Vec<OsString>,
    /// `HOST` or `USER@HOST`, as ssh takes it.
    pub host: String,
    /// What runs qbulk there, for the shell there; without it, it is looked for in the usual places.
    pub remote_qbulk: Option<String>,
    /// Where UDP is sent to instead of where ssh goes.
    pub udp_hosts: Vec<String>,
    /// The far side takes UDP at one of these ports, the first and the last included.
    pub udp_ports: Option<(u16, u16)>,
    /// Whether datagrams go through ssh.
    pub via: Via,
    /// Local addresses for UDP, with port 0.
    pub bind: Vec<SocketAddr>,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// How long UDP may take to get through if there is no other way.
    pub connect_timeout: Duration,
    /// How long to try to go on when the far side is gone under way.
    pub retry_for: Duration,
}

/// What a user may want to know on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What came before the far side's first line.
    Noise(String),
    /// UDP does not get through, and it goes on through ssh: why.
    Via(String),
    /// The far side is gone under way, and is started again: why.
    Again(String),
}

/// A far side that serves.
pub(super) struct Session {
    pub(super) identity: Arc<Identity>,
    pub(super) far: Fingerprint,
    pub(super) pipe: Arc<Pipe>,
    /// Where UDP may get to it, the likeliest first.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) hello_port: Option<u16>,
    /// Why it has ended, once it has.
    pub(super) ended: watch::Receiver<Option<String>>,
    /// How long a message takes there and back.
    pub(super) round_trip: Duration,
    messages: mpsc::Receiver<Vec<u8>>,
    asked_at: Instant,
    _tasks: JoinSet<()>,
}

/// What was agreed on.
pub(super) struct Agreed {
    pub(super) paths: Vec<Vec<u8>>,
    pub(super) port: Option<u16>,
}

impl Session {
    /// Starts the far side, and tells it what is wanted.
    pub(super) async fn start(
        config: &SshConfig,
        lasting: &Identity,
        (writes, paths): (bool, &[Vec<u8>]),
        tell: &(dyn Fn(Told) + Sync),
    ) -> Result<Self, Error> {
        let identity = Arc::new(lasting.for_one_session()?);
        let configured =
            tokio::spawn(hosts::configured(config.command.clone(), config.host.clone()));
        let (child, stdout, rest) = match &config.remote_qbulk {
            Some(qbulk) => attempt(config, &format!("exec {qbulk} serve --stdio"), tell).await?,
            None => match attempt(config, COMMAND, tell).await {
                Err(Failed { status: Some(status), is_silent: true, .. })
                    if status.code().is_some_and(|code| NOT_FOUND.contains(&code)) =>
                {
                    attempt(config, COMMAND_ELSEWHERE, tell).await?
                }
                started => started?,
            },
        };
        let (mut child, mut tasks) = (child, JoinSet::new());
        let pipe = Arc::new(Pipe::default());
        let stdin = child.stdin.take();
        let written = Arc::clone(&pipe);
        tasks.spawn(async move {
            if let Some(stdin) = stdin {
                drop(written.write_to(stdin).await);
            }
        });
        let (heard, mut messages) = mpsc::channel(4);
        let (end, ended) = watch::channel(None);
        let incoming = Arc::clone(&pipe);
        tasks.spawn(async move {
            let reader = BufReader::with_capacity(1 << 17, Cursor::new(rest).chain(stdout));
            let read = incoming.read_from(reader, |message| drop(heard.try_send(message))).await;
            drop(heard);
            let status = tokio::time::timeout(END_TIME, child.wait()).await;
            let why = match (read, status) {
                (Err(error), _) if error.kind() == std::io::ErrorKind::InvalidData => {
                    error.to_string()
                }
                (_, Ok(Ok(status))) if !status.success() => format!("ssh has ended ({status})"),
                _ => "the far side has ended".into(),
            };
            end.send_replace(Some(why));
        });
        let hello: Hello = next(&mut messages, &ended, config).await?;
        let far = hello.fingerprint.parse()?;
        pipe.say(&text(&Request {
            fingerprint: identity.fingerprint().to_string(),
            writes,
            paths: paths.iter().map(|path| PathText::new(path)).collect(),
            ports: config.udp_ports,
            udp: config.via != Via::Always,
        }));
        let asked_at = clock::now();
        let addresses = if config.via == Via::Always {
            configured.abort();
            Vec::new()
        } else {
            addresses(config, configured, hello.addresses).await
        };
        Ok(Self {
            identity,
            far,
            pipe,
            addresses,
            // Another one if it was asked for.
            hello_port: hello.port.filter(|_| config.udp_ports.is_none()),
            ended,
            round_trip: Duration::ZERO,
            messages,
            asked_at,
            _tasks: tasks,
        })
    }

    /// Waits for the far side to say whether it serves what was asked for.
    pub(super) async fn agreed(&mut self, config: &SshConfig) -> Result<Agreed, Error> {
        let answer = next(&mut self.messages, &self.ended, config).await?;
        self.round_trip = clock::now() - self.asked_at;
        match answer {
            Answer::Ready { paths, port } => {
                Ok(Agreed { paths: paths.iter().map(PathText::bytes).collect(), port })
            }
            Answer::Refused { reason } => {
                Err(Error::Peer(format!("{}: {}", config.host, said(reason.as_bytes()))))
            }
        }
    }

    /// Lets the far side end, and ssh with it.
    pub(super) async fn finish(mut self) {
        self.pipe.close();
        let ended = self.ended.wait_for(Option::is_some);
        drop(tokio::time::timeout(END_TIME, ended).await);
    }
}

/// The next message, which must be one of these.
async fn next<T: serde::de::DeserializeOwned>(
    messages: &mut mpsc::Receiver<Vec<u8>>,
    ended: &watch::Receiver<Option<String>>,
    config: &SshConfig,
) -> Result<T, Error> {
    let Some(message) = messages.recv().await else {
        let mut ended = ended.clone();
        let ended = ended.wait_for(Option::is_some).await;
        let why = ended.ok().and_then(|why| why.clone()).unwrap_or_default();
        return Err(Error::Connect(format!("{}: {why}", config.host)));
    };
    read(&message).map_err(|why| Error::Peer(format!("{} is not understood: {why}", config.host)))
}

/// Where UDP may get to.
async fn addresses(
    config: &SshConfig,
    configured: JoinHandle<Option<Configured>>,
    own: Vec<IpAddr>,
) -> Vec<IpAddr> {
    let look_up = async |name: &str| {
        let found = tokio::net::lookup_host((name, 0)).await;
        found.map(|found| found.map(|to| to.ip()).collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut all = Vec::new();
    if config.udp_hosts.is_empty() {
        let found = async {
            let configured = configured.await.ok().flatten();
            let typed = config.host.rsplit('@').next().unwrap_or_default().to_owned();
            let configured = configured.unwrap_or(Configured { name: typed, is_indirect: false });
            (look_up(&configured.name).await, configured.is_indirect)
        };
        let found = tokio::time::timeout(CONFIGURED_TIME, found).await;
        let (named, is_indirect) = found.unwrap_or_default();
        // Behind another host, it may have another address than where ssh goes.
        all = if is_indirect { [own, named] } else { [named, own] }.concat();
    } else {
        configured.abort();
        for host in &config.udp_hosts {
            all.extend(look_up(host).await);
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|ip| seen.insert(*ip));
    all
}

/// Why the far side was not started.
struct Failed {
    error: Error,
    status: Option<ExitStatus>,
    /// Nothing came.
    is_silent: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Starts a command on the host and waits for the far side's first line, as long as that takes: somebody may be
/// asked for a password. Returns what has come behind it as well.
async fn attempt(
    config: &SshConfig,
    command: &str,
    tell: &(dyn Fn(Told) + Sync),
) -> Result<(Child, ChildStdout, Vec<u8>), Failed> {
    let failed = |error| Failed { error, status: None, is_silent: false };
    let Some((program, args)) = config.command.split_first() else {
        return Err(failed(Error::Usage("the command to start the far side with is empty".into())));
    };
    let cannot = |what: &str, why: &str| {
        let program = logged(program);
        failed(Error::Connect(format!("cannot {what} {program}: {why}")))
    };
    let mut child = Command::new(program)
        .args(args)
        .args(["-T", "--", &config.host, command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot("start", &reason(&error)))?;
    let Some(mut stdout) = child.stdout.take() else { return Err(cannot("hear", "no pipe")) };
    let mut heard = Vec::new();
    loop {
        let mut more = [0; 4_096];
        let count = stdout.read(&mut more).await.unwrap_or(0);
        let searched = heard.len().saturating_sub(MARKER.len());
        heard.extend_from_slice(&more[..count]);
        let found = heard[searched..].windows(MARKER.len()).position(|bytes| bytes == MARKER);
        if let Some(at) = found {
            let rest = heard.split_off(searched + at + MARKER.len());
            heard.truncate(searched + at);
            tell_noise(&heard, tell);
            return Ok((child, stdout, rest));
        }
        if count == 0 {
            break;
        }
        if heard.len() > NOISE_BYTES_MAX {
            tell_noise(&heard, tell);
            return Err(failed(Error::Peer(format!(
                "{} says much, and nothing of it is qbulk's; do the shell's start-up files there print \
                 something, or is another command set for this key?",
                config.host
            ))));
        }
    }
    tell_noise(&heard, tell);
    let status = child.wait().await.ok();
    let error = refused(config, status);
    Err(Failed { error, status, is_silent: heard.is_empty() })
}

/// Why there is no far side, by what ssh has ended with.
fn refused(config: &SshConfig, status: Option<ExitStatus>) -> Error {
    let host = &config.host;
    match status.and_then(|status| status.code()) {
        Some(code) if NOT_FOUND.contains(&code) => Error::Peer(match &config.remote_qbulk {
            Some(qbulk) => format!("{host}: {qbulk:?} does not run there (--remote-qbulk)"),
            None => format!(
                "there is no qbulk on {host} where its shell looks, or in ~/.cargo/bin, ~/.local/bin, ~/bin, \
                 /usr/local/bin, /opt/qbulk/bin: install it there, or say where it is by --remote-qbulk"
            ),
        }),
        Some(NOT_EXECUTABLE) => Error::Peer(format!("{host}: qbulk cannot be run there")),
        Some(USAGE) => Error::Peer(format!(
            "the qbulk on {host} does not know `serve --stdio`, or something else than it runs there: is it \
             as new as the one here?"
        )),
        Some(255) => Error::Connect(format!("ssh does not get to {host}")),
        _ => Error::Peer(match status {
            Some(status) => format!("{host}: nothing that speaks as qbulk runs there ({status})"),
            None => format!("{host}: nothing that speaks as qbulk runs there"),
        }),
    }
}

fn tell_noise(noise: &[u8], tell: &(dyn Fn(Told) + Sync)) {
    let lines = noise.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.filter(|line| !line.is_empty());
    for line in lines.by_ref().take(NOISE_LINES_MAX) {
        tell(Told::Noise(said(&line[..line.len().min(NOISE_LINE_BYTES_MAX)])));
    }
    let more = lines.count();
    if more > 0 {
        tell(Told::Noise(format!("... and {more} lines more")));
    }
}
