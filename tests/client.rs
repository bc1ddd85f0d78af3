//! A client as a program makes one from the library alone: the server's name is looked up, its key is decided
//! on at first sight, and what was learned of the path is there afterwards.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use qbulk::client::first_contact::{Acquaintance, FirstContact, Stranger};
use qbulk::client::path_memory::{PathCache, PathKey};
use qbulk::client::{PushConfig, push};
use qbulk::error::Error;
use qbulk::identity::{Fingerprint, Identity};
use qbulk::net::address::ServerAddress;
use qbulk::net::lookup::{Found, Resolver};
use qbulk::net::tls::{ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};

const NAME: &str = "backup.example";
/// Long enough to learn something of the path.
const CONTENT_BYTES: usize = 16 << 20;

/// Knows one host, and on which port its server really is.
struct OneHost(SocketAddr);

impl Resolver for OneHost {
    fn look_up<'a>(&'a self, host: &'a str, _port: u16) -> Found<'a> {
        assert_eq!(host, NAME);
        Box::pin(async { Ok(vec![self.0]) })
    }
}

fn identity(dir: &Path) -> Arc<Identity> {
    Arc::new(Identity::load_or_create(dir).expect("an identity"))
}

/// A server, which runs until the test ends. Returns its address and its key.
fn serve(dir: &Path, client: Fingerprint) -> (SocketAddr, Fingerprint) {
    let (own, root) = (identity(&dir.join("server")), dir.join("root"));
    fs::create_dir(&root).expect("a root");
    let key = own.fingerprint();
    let listen = "127.0.0.1:0".parse().expect("an address");
    let trust = ServerTrust { allowed: [client].into(), ..ServerTrust::default() };
    let server = Server::bind(ServeConfig::new(listen, root, own, trust)).expect("a server");
    let address = server.local_addr();
    tokio::spawn(server.run(Arc::new(|_| ()), std::future::pending()));
    (address, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_alone_looks_up_trusts_at_first_sight_pushes_and_remembers() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = identity(&dir.path().join("client"));
    let (address, server_key) = serve(dir.path(), own.fingerprint());
    let server = ServerAddress::parse(NAME, 4_433).expect("an address");
    let resolver: Arc<dyn Resolver> = Arc::new(OneHost(address));
    let contact = FirstContact {
        resolver: Arc::clone(&resolver),
        known_hosts: Some(dir.path().join("known_hosts")),
        ..FirstContact::new(vec![server.clone()])
    };

    let refuse = async |_| Err(Error::Auth("not this one".into()));
    let refused = contact.key(&own, refuse).await.expect_err("nobody vouched for it");
    assert_eq!(refused.to_string(), "not this one");
    assert!(!dir.path().join("known_hosts").exists());

    let seen = Cell::new(None);
    let accept = async |stranger| {
        seen.set(Some(stranger));
        Ok(())
    };
    let (key, acquaintance) = contact.key(&own, accept).await.expect("a key");
    assert_eq!(seen.get(), Some(Stranger { key: server_key, is_own: false }));
    assert_eq!(key, server_key);
    assert!(matches!(acquaintance, Acquaintance::Remembered(_)), "{acquaintance:?}");

    let never = async |_| unreachable!("it is known by now");
    let (key, acquaintance) = contact.key(&own, never).await.expect("a key");
    assert!(key == server_key && matches!(acquaintance, Acquaintance::Old), "{acquaintance:?}");

    let source = dir.path().join("content");
    fs::write(&source, vec![7; CONTENT_BYTES]).expect("a source");
    let paths = PathCache::in_dir(&dir.path().join("cache"));
    let config = PushConfig {
        resolver,
        paths: Some(paths.clone()),
        ..PushConfig::new(vec![source], vec![server], NAME, own, ClientTrust::Pinned([key].into()))
    };
    let summary = push(config, Arc::new(|_| ()), std::future::pending()).await.expect("a push");
    assert_eq!((summary.files, summary.bytes), (1, CONTENT_BYTES as u64));
    let arrived = fs::metadata(dir.path().join("root/content")).expect("it arrived");
    assert_eq!(arrived.len(), CONTENT_BYTES as u64);
    let path = PathKey::new(IpAddr::from([127, 0, 0, 1]), None);
    assert!(paths.recall(&path).is_some(), "the path was learned");
}
