//! What a push does when the server, the network or its own host does not do what it should.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use assert_cmd::Command;
use qbulk::client::{PushConfig, push};
use qbulk::error::Error;
use qbulk::event::{PushEvent, Summary};
use qbulk::identity::Identity;
use qbulk::net::control::ControlReader;
use qbulk::net::endpoint;
use qbulk::net::sockets::SystemSockets;
use qbulk::net::tls::{self, ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use qbulk::wire::{Destination, Message, Request, ToSender};
use quinn::{Connection, SendStream};

struct Host {
    dir: tempfile::TempDir,
    identity: Arc<Identity>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let identity = Arc::new(Identity::load_or_create(dir.path()).expect("an identity"));
        fs::create_dir(dir.path().join("src")).expect("a source");
        Self { dir, identity }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join("src").join(name)
    }

    fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    fn config(&self, source: &str, server: SocketAddr) -> PushConfig {
        let trust = ClientTrust::Pinned([self.identity.fingerprint()].into());
        let identity = Arc::clone(&self.identity);
        PushConfig {
            retry_for: Duration::ZERO,
            ..PushConfig::new(vec![self.source(source)], vec![server], "localhost", identity, trust)
        }
    }

    async fn push(&self, config: PushConfig) -> Result<Summary, Error> {
        let pushed = push(config, Arc::new(|_| ()), std::future::pending());
        tokio::time::timeout(Duration::from_secs(60), pushed).await.expect("it ends by itself")
    }

    /// A real server, which runs until the test ends.
    fn server(&self) -> SocketAddr {
        fs::create_dir(self.target("")).expect("a root");
        let server = Server::bind(ServeConfig::new(
            "127.0.0.1:0".parse().expect("an address"),
            self.target(""),
            Arc::clone(&self.identity),
            ServerTrust { allowed: [self.identity.fingerprint()].into(), ..ServerTrust::default() },
        ))
        .expect("a server");
        let address = server.local_addr();
        tokio::spawn(server.run(Arc::new(|_| ()), std::future::pending()));
        address
    }

    /// A server that says hello, and then does with its first, second... connection as `behave` says.
    fn serve<F, R>(&self, behave: F) -> SocketAddr
    where
        F: Fn(u32, Peer) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let trust =
            ServerTrust { allowed: [self.identity.fingerprint()].into(), ..ServerTrust::default() };
        let tls = Arc::new(tls::server_config(&self.identity, trust).expect("TLS"));
        let listen = "127.0.0.1:0".parse().expect("an address");
        let endpoint = endpoint::server(&SystemSockets, listen, tls, &[0; 32]).expect("a socket");
        let address = endpoint.local_addr().expect("an address");
        let (behave, count) = (Arc::new(behave), Arc::new(AtomicU32::new(0)));
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (behave, count) = (Arc::clone(&behave), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let Ok((control, messages)) = connection.accept_bi().await else { return };
                    let mut messages = ControlReader::new(messages);
                    if let Ok(Some(Request::Push(_))) = messages.next().await {
                        let number = count.fetch_add(1, Relaxed);
                        behave(number, Peer { connection, control, messages }).await;
                    }
                });
            }
        });
        address
    }
}

/// A connection at the server.
struct Peer {
    connection: Connection,
    control: SendStream,
    messages: ControlReader,
}

impl Peer {
    async fn say(&mut self, message: ToSender) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.control.write_all(&bytes).await.expect("the client listens");
    }

    async fn welcome(&mut self, instance: u64) {
        let destination = Destination::Folder;
        self.say(ToSender::Welcome { destination, instance, kept: false, looks: false }).await;
    }

    async fn stay(self) {
        self.connection.closed().await;
        drop(self.messages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_lost_the_transfer_ends_the_push() {
    let host = Host::new();
    fs::write(host.source("file"), b"content").unwrap();
    let server = host.serve(|number, mut peer| async move {
        peer.welcome(u64::from(number)).await;
        peer.stay().await;
    });
    let error = host.push(host.config("file", server)).await.expect_err("it must not go on");
    assert!(
        matches!(&error, Error::Connect(why) if why.contains("has lost the transfer")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_failures_than_the_summary_holds_are_named_all_the_same() {
    let host = Host::new();
    let server = host.server();
    fs::create_dir(host.source("tree")).unwrap();
    for number in 0..1_200 {
        fs::write(host.source("tree").join(number.to_string()), b"content").unwrap();
    }
    fs::write(host.target("tree"), b"a file where a folder is needed").unwrap();
    let summary = host.push(host.config("tree", server)).await.expect("the transfer is complete");
    assert_eq!((summary.files, summary.others, summary.bytes), (0, 0, 0));
    assert_eq!(summary.failed, 1_201);
    assert_eq!((summary.failures.len(), summary.failed_unnamed), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_address_that_this_host_does_not_have_is_its_own_mistake() {
    let host = Host::new();
    fs::write(host.source("file"), b"content").unwrap();
    // TEST-NET-3 (RFC 5737) is nobody's.
    let nowhere = "203.0.113.7:0".parse().expect("an address");
    let mut config = host.config("file", host.server());
    config.bind = vec![nowhere];
    let error = host.push(config.clone()).await.expect_err("there is no such address here");
    assert_eq!(error.exit_code(), 6, "{error}");

    config.bind = vec![nowhere, "127.0.0.1:0".parse().expect("an address")];
    let summary = host.push(config).await.expect("one of the two is there");
    assert_eq!((summary.files, summary.failed), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_accepts_the_transfer_is_given_up() {
    let host = Host::new();
    fs::write(host.source("file"), b"content").unwrap();
    let server = host.serve(|_, peer| peer.stay());
    let mut config = host.config("file", server);
    config.connect_timeout = Duration::from_secs(1);
    let error = host.push(config).await.expect_err("it must not wait for ever");
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sources_that_want_one_path_the_second_fails_by_name() {
    let host = Host::new();
    let server = host.server();
    for source in ["a", "b"] {
        fs::create_dir_all(host.source(source).join("sub")).unwrap();
        fs::write(host.source(source).join("sub/same"), source).unwrap();
        fs::write(host.source(source).join(source), source).unwrap();
    }
    let mut config = host.config("a/", server);
    config.sources.push(host.source("b/"));
    let summary = host.push(config).await.expect("the others are moved");
    assert_eq!((summary.files, summary.failed), (3, 1));
    let failed = Path::new(&summary.failures[0].path);
    assert_eq!(failed.canonicalize().unwrap(), host.source("b/sub/same").canonicalize().unwrap());
    assert_eq!(fs::read(host.target("sub/same")).unwrap(), b"a");
}

#[test]
fn switches_are_set_by_the_environment_as_people_write_them() {
    let host = Host::new();
    for value in ["1", "yes", "true"] {
        let mut command = Command::cargo_bin("qbulk").expect("the binary is built");
        command.env("QBULK_CONFIG_DIR", host.dir.path());
        command.envs(["JSON", "QUIET", "ACCEPT_NEW"].map(|name| (format!("QBULK_{name}"), value)));
        command.env("QBULK_FINGERPRINT", host.identity.fingerprint().to_string());
        command.args(["push", "/nowhere", "qbulk://127.0.0.1/"]);
        // The command line is understood, and the file is looked for.
        command.assert().code(6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_under_way_arrives_as_it_is_in_the_end() {
    let host = Host::new();
    let server = host.server();
    fs::create_dir(host.source("tree")).unwrap();
    fs::write(host.source("tree/quiet"), b"content").unwrap();
    fs::write(host.source("tree/busy"), vec![1; 64 << 20]).unwrap();
    let mut config = host.config("tree", server);
    config.rate_max = Some(20_000_000);
    let busy = host.source("tree/busy");
    let change = move |event| {
        if let PushEvent::Progress(progress) = event
            && progress.scan_done
        {
            fs::write(&busy, b"other").expect("it can be changed");
        }
    };
    let pushed = push(config, Arc::new(change), std::future::pending());
    let summary = tokio::time::timeout(Duration::from_secs(60), pushed).await.unwrap().unwrap();
    assert_eq!((summary.files, summary.failed, summary.bytes), (2, 0, 12), "{summary:?}");
    assert_eq!(fs::read(host.target("tree/busy")).unwrap(), b"other");
    assert!(summary.sent_bytes < 60 << 20, "what was not read was not sent: {summary:?}");
}
