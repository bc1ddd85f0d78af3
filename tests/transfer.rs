//! Whole transfers over loopback, through the library.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qbulk::client::{PushConfig, push};
use qbulk::error::Error;
use qbulk::event::Summary;
use qbulk::identity::Identity;
use qbulk::net::tls::{ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

struct Pair {
    dir: tempfile::TempDir,
    identity: Arc<Identity>,
    servers: Vec<std::net::SocketAddr>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Pair {
    fn start() -> Self {
        Self::start_with(|server| server)
    }

    fn start_with(adapt: fn(Server) -> Server) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let identity = Arc::new(Identity::load_or_create(dir.path()).expect("an identity"));
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a root");
        fs::create_dir(dir.path().join("src")).expect("a source");
        let config = ServeConfig::new(
            "127.0.0.1:0".parse().expect("an address"),
            root,
            Arc::clone(&identity),
            ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() },
        );
        let server = adapt(Server::bind(config).expect("a server"));
        let servers = vec![server.local_addr()];
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(server.run(Arc::new(|event| eprintln!("{event:?}")), async {
            stopped.await.ok();
        }));
        Self { dir, identity, servers, _stop: stop }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join("src").join(name)
    }

    fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    async fn push(&self, source: &Path, destination: &str) -> Result<Summary, Error> {
        let trust = ClientTrust::Pinned([self.identity.fingerprint()].into());
        let (servers, identity) = (self.servers.clone(), Arc::clone(&self.identity));
        let config = PushConfig {
            destination: destination.into(),
            ..PushConfig::new(vec![source.to_owned()], servers, "localhost", identity, trust)
        };
        push(config, Arc::new(|_| ()), std::future::pending()).await
    }
}

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_arrives() {
    let pair = Pair::start();
    let data = random(1, 50_000_003);
    fs::write(pair.source("big"), &data).unwrap();
    let summary = pair.push(&pair.source("big"), "copy").await.unwrap();
    assert!(fs::read(pair.target("copy")).unwrap() == data);
    assert_eq!((summary.files, summary.bytes, summary.failed), (1, 50_000_003, 0));
    eprintln!("{summary:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarding_server_takes_everything_and_keeps_nothing() {
    let pair = Pair::start_with(Server::discarding);
    fs::create_dir(pair.source("both")).unwrap();
    fs::write(pair.source("both/big"), random(4, 5_000_000)).unwrap();
    fs::write(pair.source("both/small"), b"hello").unwrap();
    let summary = pair.push(&pair.source("both"), "").await.unwrap();
    assert_eq!((summary.files, summary.bytes, summary.failed), (2, 5_000_005, 0));
    for name in ["both/big", "both/small"] {
        assert_eq!(fs::metadata(pair.target(name)).unwrap().len(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_arrives_with_all_that_is_in_it() {
    let pair = Pair::start();
    let tree = pair.source("tree");
    fs::create_dir_all(tree.join("a/b/empty")).unwrap();
    fs::write(tree.join("zero"), b"").unwrap();
    fs::write(tree.join("a/small"), b"hello").unwrap();
    fs::write(tree.join("a/b/medium"), random(2, 300_000)).unwrap();
    fs::write(tree.join("a/b/large"), random(3, 5_000_000)).unwrap();
    symlink("../nowhere", tree.join("a/link")).unwrap();
    fs::set_permissions(tree.join("a/small"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(tree.join("a/b/empty"), fs::Permissions::from_mode(0o500)).unwrap();
    let summary = pair.push(&tree, "").await.unwrap();
    eprintln!("{summary:#?}");
    assert_eq!(summary.failed, 0);
    for path in ["zero", "a/small", "a/b/medium", "a/b/large"] {
        let (from, to) = (tree.join(path), pair.target("tree").join(path));
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{path}");
    }
    for path in ["", "zero", "a", "a/b", "a/small", "a/link", "a/b/empty", "a/b/large"] {
        let from = fs::symlink_metadata(tree.join(path)).unwrap();
        let to = fs::symlink_metadata(pair.target("tree").join(path)).unwrap();
        assert_eq!((from.mtime(), from.mtime_nsec()), (to.mtime(), to.mtime_nsec()), "{path}");
        assert_eq!(from.mode(), to.mode(), "{path}");
    }
    assert_eq!(fs::read_link(pair.target("tree/a/link")).unwrap(), Path::new("../nowhere"));
}
