//! Bytes moved by qbulk: a file in memory to a server that verifies it and keeps nothing.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use qbulk::client::{PushConfig, push};
use qbulk::event::PushEvent;
use qbulk::identity::Identity;
use qbulk::net::sockets::Sockets;
use qbulk::net::tls::{ClientTrust, ServerTrust};
use qbulk::serve::{ServeConfig, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::Result;
use crate::network::hold_time;

const IN_MEMORY: &str = "/dev/shm";

/// Returns the seconds from the start to when all is confirmed, and how many connections were given up.
pub(crate) async fn move_bytes(
    ours: Arc<dyn Sockets>,
    theirs: Arc<dyn Sockets>,
    server: SocketAddr,
    (bytes, seed): (u64, u64),
    tells: bool,
) -> Result<(f64, u64)> {
    let dir = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir())?;
    let identity = Arc::new(Identity::load_or_create(&dir.path().join("identity"))?);
    let (root, file) = (dir.path().join("root"), dir.path().join("file"));
    fs::create_dir(&root)?;
    let mut data = vec![0; bytes as usize];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
    fs::write(&file, data)?;
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ..ServerTrust::default() };
    let config = ServeConfig {
        sockets: theirs,
        ..ServeConfig::new(server, root, Arc::clone(&identity), trust)
    };
    let serving = Server::bind(config)?.discarding();
    let serving = tokio::spawn(serving.run(Arc::new(|_| ()), std::future::pending()));
    let trust = ClientTrust::Pinned([identity.fingerprint()].into());
    let config = PushConfig {
        sockets: ours,
        ..PushConfig::new(vec![file], vec![server], "server", identity, trust)
    };
    let began = Instant::now();
    let tell = move |event| match event {
        PushEvent::Connection(_)
        | PushEvent::Connected { .. }
        | PushEvent::Condemned { .. }
        | PushEvent::Primed { .. }
            if tells =>
        {
            eprintln!("{:.3} {event:?}", began.elapsed().as_secs_f64());
        }
        _ => {}
    };
    hold_time();
    let summary = push(config, Arc::new(tell), std::future::pending()).await?;
    if tells {
        eprintln!("{summary:#?}");
    }
    serving.abort();
    Ok((summary.seconds, summary.connections_condemned))
}
