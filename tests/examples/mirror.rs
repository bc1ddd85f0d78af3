//! Keeps a copy of a folder of a server, with the library alone: lists what there is, pulls it, and pushes back a
//! note of when that was done.
//!
//! ```text
//! cargo run --example mirror -- HOST[:PORT] SHA256:... FOLDER COPY
//! ```
//!
//! `SHA256:...` is what `qbulk id` prints at the server. Ctrl-C cancels whatever is under way; what is durable by
//! then is not sent again the next time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qbulk::client::{ListConfig, PeerConfig, PullConfig, PushConfig, list, pull, push};
use qbulk::error::Error;
use qbulk::event::{ListEvent, PushEvent, Summary};
use qbulk::identity::{Fingerprint, Identity, config_dir};
use qbulk::net::address::ServerAddress;
use qbulk::net::tls::ClientTrust;
use tokio::sync::watch;

/// Who has the folder.
#[derive(Clone)]
pub(crate) struct Host {
    /// Where it is.
    pub(crate) server: ServerAddress,
    /// What it is called.
    pub(crate) name: String,
    /// The key that it must show.
    pub(crate) key: Fingerprint,
    /// Who we are.
    pub(crate) identity: Arc<Identity>,
    /// The most to send, in bytes per second.
    pub(crate) rate_max: Option<u64>,
}

/// Brings `copy` in step with `folder`, and tells `tell` how that goes, until `stop` is true.
pub(crate) async fn mirror(
    host: &Host,
    folder: &str,
    copy: &Path,
    tell: Arc<dyn Fn(&PushEvent) + Send + Sync>,
    stop: watch::Receiver<bool>,
) -> Result<Summary, Error> {
    let trust = ClientTrust::Pinned([host.key].into());
    let (server, identity) = (host.server.clone(), Arc::clone(&host.identity));

    let peer = PeerConfig::new(server.clone(), &*host.name, Arc::clone(&identity), trust.clone());
    let config = ListConfig { peer, path: folder.into(), recursive: true };
    let entry = async |event| {
        if let ListEvent::Entry(entry) = event {
            println!("there is {}", String::from_utf8_lossy(&entry.path));
        }
        Ok(())
    };
    let listed = list(config, entry, stopped(stop.clone())).await?;
    println!("{} files, {} bytes", listed.files, listed.bytes);

    // With a slash: what is in it, and not the folder itself.
    let sources = vec![format!("{folder}/").into_bytes()];
    let config = PullConfig {
        rate_max: host.rate_max,
        ..PullConfig::new(
            sources,
            vec![server.clone()],
            &*host.name,
            copy,
            Arc::clone(&identity),
            trust.clone(),
        )
    };
    let report = Arc::new(move |event| {
        match &event {
            PushEvent::Connected { conn, remote, .. } => println!("{conn} to {remote}"),
            PushEvent::Failed(failed) => println!("{}: {}", failed.path, failed.reason),
            PushEvent::Interrupted { reason, .. } => println!("{reason}: trying again"),
            _ => {}
        }
        tell(&event);
    });
    let pulled = pull(config, report, stopped(stop.clone())).await?;

    let note = copy.with_extension("mirrored");
    let text =
        format!("{} files, {} bytes, {} failed\n", pulled.files, pulled.bytes, pulled.failed);
    std::fs::write(&note, text).map_err(|error| Error::Disk(error.to_string()))?;
    let config = PushConfig {
        destination: format!("{folder}.mirrored").into(),
        ..PushConfig::new(vec![note], vec![server], &*host.name, identity, trust)
    };
    push(config, Arc::new(|_| ()), stopped(stop)).await?;
    Ok(pulled)
}

/// Resolves when it is to be stopped.
async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|is_stopped| *is_stopped).await.is_err() {
        // Nobody can stop it any more.
        std::future::pending::<()>().await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, key, folder, copy] = args.as_slice() else {
        return Err("expected HOST[:PORT] SHA256:... FOLDER COPY".into());
    };
    let server = ServerAddress::parse(host, 4_433)?;
    let identity = Arc::new(Identity::load_or_create(&config_dir()?)?);
    let name = host.clone();
    let host = Host { server, name, key: key.parse()?, identity, rate_max: None };
    let (stop, is_stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.send_replace(true);
        }
    });
    let tell = Arc::new(|event: &PushEvent| {
        if let PushEvent::Progress(progress) = event {
            println!("{} of {} bytes", progress.confirmed_bytes, progress.found_bytes);
        }
    });
    let summary = mirror(&host, folder, &PathBuf::from(copy), tell, is_stopped).await?;
    println!("{} files are there and durable", summary.files);
    Ok(())
}
