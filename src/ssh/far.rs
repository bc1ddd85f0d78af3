//! The far side: a server for one session, started by ssh.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::AsyncUdpSocket;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::message::{Answer, Hello, MARKER, PathText, Request, read, text};
use super::{hosts, place};
use crate::error::Error;
use crate::identity::{Identity, Rights};
use crate::net::pipe::Pipe;
use crate::net::sockets::{Sockets, SystemSockets};
use crate::net::tls::ServerTrust;
use crate::serve::{Limits, Roots, ServeConfig, ServeReporter, ServedFolder, Server};

/// How long what was said last may take to leave.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// How the far side serves.
pub struct FarConfig {
    /// What clients get at, whatever they ask for; without it, whatever the user may.
    pub roots: Option<Roots>,
    /// The most that may be done there.
    pub rights: Rights,
    /// What only root can do is done for clients, if this is root.
    pub allows_super: bool,
    /// The user's folder, which paths are relative to.
    pub home: PathBuf,
    /// Who the user is here: the key itself is not shown.
    pub identity: Arc<Identity>,
    /// Datagrams are never larger than this, in bytes of UDP payload.
    pub datagram_bytes_max: u16,
    /// The most that is taken on at a time.
    pub limits: Limits,
    /// How much memory to take about, in bytes.
    pub memory: Option<u64>,
}

/// Serves one session over `input` and `output`, and over UDP, until `input` ends or `stop` resolves.
pub async fn serve(
    config: FarConfig,
    input: impl AsyncRead + Send + Unpin + 'static,
    mut output: impl AsyncWrite + Send + Unpin + 'static,
    report: ServeReporter,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let identity = Arc::new(config.identity.for_one_session()?);
    let udp = open_udp(None);
    let hello = Hello {
        fingerprint: identity.fingerprint().to_string(),
        port: port(udp.as_ref()),
        addresses: hosts::own(),
    };
    let said = async {
        output.write_all(MARKER).await?;
        output.flush().await
    };
    said.await.map_err(|error| Error::Connect(format!("nobody takes what it says: {error}")))?;

    let pipe = Arc::new(Pipe::default());
    pipe.say(&text(&hello));
    let (heard, mut messages) = mpsc::channel(1);
    let (over, mut is_over) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let written = Arc::clone(&pipe);
    let writing = tokio::spawn(async move { written.write_to(output).await });
    let incoming = Arc::clone(&pipe);
    tasks.spawn(async move {
        // Only one message is waited for.
        let hear = |message| drop(heard.try_send(message));
        if let Err(error) = incoming.read_from(input, hear).await {
            tracing::debug!(%error, "what comes through ssh");
        }
        over.send_replace(true);
    });
    let stop = async {
        tokio::select! {
            () = stop => {}
            _ = is_over.wait_for(|is_over| *is_over) => {}
        }
    };
    tokio::pin!(stop);
    let asked = tokio::select! {
        Some(message) = messages.recv() => message,
        () = &mut stop => return Ok(()),
    };
    let result = match begin(&config, identity, &asked, &pipe, udp) {
        Ok((server, answer)) => {
            pipe.say(&text(&answer));
            server.run(report, stop).await
        }
        Err(error) => {
            pipe.say(&text(&Answer::Refused { reason: error.to_string() }));
            Err(error)
        }
    };
    pipe.close();
    drop(tokio::time::timeout(LAST_WORDS_TIME, writing).await);
    result
}

/// The server that is asked for, and what to answer.
fn begin(
    config: &FarConfig,
    identity: Arc<Identity>,
    asked: &[u8],
    pipe: &Arc<Pipe>,
    udp: Option<Arc<dyn AsyncUdpSocket>>,
) -> Result<(Server, Answer), Error> {
    let wrong =
        |why: String| Error::Peer(format!("the client asks for what is not understood: {why}"));
    let request: Request = read(asked).map_err(wrong)?;
    let client = request.fingerprint.parse()?;
    let typed: Vec<Vec<u8>> = request.paths.iter().map(PathText::bytes).collect();
    // Whoever pushes looks at what is there already.
    let asked = if request.writes { Rights::BOTH } else { Rights::READ };
    let (roots, paths) = if let Some(roots) = &config.roots {
        let paths = typed.iter().map(|typed| place::below_root(typed)).collect();
        (with_rights(roots, asked), paths)
    } else {
        let found = match typed.as_slice() {
            [one] if request.writes => place::to_write(&config.home, one),
            _ if request.writes => Err("it is written to one place at a time".into()),
            typed => place::to_read(&config.home, typed),
        };
        let place = found.map_err(Error::Peer)?;
        let rights = config.rights.and(asked);
        (Roots::One(ServedFolder { path: place.root, rights }), place.paths)
    };
    let udp = match (request.udp, request.ports) {
        (false, _) => None,
        (true, None) => udp,
        (true, Some(ports)) => open_udp(Some(ports)),
    };
    let port = port(udp.as_ref());
    let trust = ServerTrust { allowed: [client].into(), ..ServerTrust::default() };
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let server = Server::bind(ServeConfig {
        sockets: Arc::new(pipe.with_udp(udp)),
        datagram_bytes_max: config.datagram_bytes_max,
        limits: config.limits,
        memory: config.memory,
        // Nobody waits while a home folder is looked through.
        keep_unfinished: Duration::MAX,
        // Whoever is there has logged in as this user.
        one_user: true,
        allows_super: config.allows_super,
        ..ServeConfig::new(any, roots, identity, trust)
    })?;
    let paths = paths.iter().map(|path| PathText::new(path)).collect();
    Ok((server, Answer::Ready { paths, port }))
}

/// The same folders, below which no more may be done than is asked for.
fn with_rights(roots: &Roots, asked: Rights) -> Roots {
    let less = |folder: &ServedFolder| ServedFolder {
        path: folder.path.clone(),
        rights: folder.rights.and(asked),
    };
    match roots {
        Roots::One(folder) => Roots::One(less(folder)),
        Roots::Named(folders) => Roots::Named(
            folders.iter().map(|(name, folder)| (name.clone(), less(folder))).collect(),
        ),
    }
}

/// A socket at one of these ports, or at any; `None` if there is none to be had.
fn open_udp(ports: Option<(u16, u16)>) -> Option<Arc<dyn AsyncUdpSocket>> {
    let (first, last) = ports.unwrap_or((0, 0));
    let open = |port| {
        let at = |ip: std::net::IpAddr| SystemSockets.open(SocketAddr::new(ip, port));
        match at(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                at(Ipv4Addr::UNSPECIFIED.into())
            }
            opened => opened,
        }
    };
    (first..=last).find_map(|port| {
        open(port).map_err(|error| tracing::debug!(port, %error, "no UDP here")).ok()
    })
}

fn port(udp: Option<&Arc<dyn AsyncUdpSocket>>) -> Option<u16> {
    udp?.local_addr().ok().map(|address| address.port())
}
