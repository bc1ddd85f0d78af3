//! `qbulk demo`: a real serve, a real push and a real pull on one host.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use qbulk::client::{PullConfig, PushConfig, PushReporter, pull, push};
use qbulk::error::Error;
use qbulk::event::{PushEvent, Summary};
use qbulk::identity::Identity;
use qbulk::net::tls::{ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::report::{PushReport, say};

/// What the file is called.
const NAME: &str = "generated.bin";
const HOST: &str = "localhost";

/// Pushes a generated file of `bytes` bytes to a server in the same process, pulls it back, and compares what
/// arrived.
pub(crate) async fn run(
    bytes: u64,
    report: Arc<PushReport>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    let disk = |error: io::Error| Error::Disk(format!("cannot write a temporary file: {error}"));
    let mut temp = tempfile::Builder::new();
    // There will be a key in it.
    temp.prefix("qbulk-demo-").permissions(Permissions::from_mode(0o700));
    let dir = temp.tempdir().map_err(disk)?;
    let (source, root) = (dir.path().join(NAME), dir.path().join("root"));
    fs::create_dir(&root).map_err(disk)?;
    say(&format!("generating {} in {}", source.display(), dir.path().display()));
    generate(&source, bytes).map_err(disk)?;

    let identity = Arc::new(Identity::load_or_create(&dir.path().join("identity"))?);
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server =
        Server::bind(ServeConfig::new(listen, root.clone(), Arc::clone(&identity), trust))?;
    let address = server.local_addr();
    say(&format!("serve listens on {address}; push sends to it over ten connections"));
    let (stop_server, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(Arc::new(|_| ()), async move { drop(stopped.await) }));
    let trust = ClientTrust::Pinned([identity.fingerprint()].into());
    let moved = there_and_back(dir.path(), address, identity, trust, report, stop).await;
    drop(stop_server);
    drop(serving.await);
    let summary = moved?;
    let sent = hash(&source).map_err(disk)?;
    for arrived in [root.join(NAME), dir.path().join("back").join(NAME)] {
        if hash(&arrived).map_err(disk)? != sent {
            return Err(Error::Peer("what arrived is not what was sent".into()));
        }
    }
    say("all three files have the same BLAKE3 hash; removing them");
    Ok(summary)
}

/// Pushes what is in `dir`, and pulls it back.
async fn there_and_back(
    dir: &Path,
    address: SocketAddr,
    identity: Arc<Identity>,
    trust: ClientTrust,
    report: Arc<PushReport>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Summary, Error> {
    tokio::pin!(stop);
    let tell: PushReporter = Arc::new(move |event: PushEvent| report.tell(&event));
    let own = Arc::clone(&identity);
    let there = PushConfig::new(vec![dir.join(NAME)], vec![address], HOST, own, trust.clone());
    push(there, Arc::clone(&tell), &mut stop).await?;
    say("and back: pull asks for it, and the server sends");
    let back = dir.join("back/");
    let back = PullConfig::new(vec![NAME.into()], vec![address], HOST, back, identity, trust);
    pull(back, tell, stop).await
}

fn generate(path: &Path, bytes: u64) -> io::Result<()> {
    const BLOCK: u64 = 1 << 20;
    let mut file = BufWriter::new(File::create(path)?);
    let mut random = SmallRng::seed_from_u64(7);
    let mut block = vec![0; BLOCK as usize];
    let mut left = bytes;
    while left > 0 {
        random.fill_bytes(&mut block);
        let len = left.min(BLOCK);
        file.write_all(&block[..len as usize])?;
        left -= len;
    }
    file.flush()
}

fn hash(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}
