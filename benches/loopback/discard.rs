//! `qbulk push` of a file to a server that verifies everything and keeps nothing: qbulk without the disk.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use qbulk::identity::{Identity, config_dir};
use qbulk::net::tls::ServerTrust;
use qbulk::serve::{ServeConfig, Server};
use tokio::signal::unix::{SignalKind, signal};

use crate::Result;
use crate::ends::receiver;
use crate::job::Job;
use crate::process::Process;
use crate::push::push;
use crate::rounds::{Row, measure_to};

#[derive(Args)]
pub(crate) struct Receive {
    root: PathBuf,
    mtu: u16,
}

pub(crate) fn row(job: &Job, mtu: u16) -> Row {
    let job = job.clone();
    Row::new(format!("qbulk, nothing is kept, datagrams: {mtu} B"), move || {
        let root = tempfile::tempdir_in(&job.place)?;
        let arguments = [root.path().display().to_string(), mtu.to_string()];
        let (server, address) = receiver(&job.place, "discard", &arguments)?;
        let push = push(&job, &address, &["--mtu".into(), mtu.to_string()]);
        let sample = measure_to(push, server, Process::stop)?;
        // Only a file that arrived as it was sent gets its name.
        match fs::metadata(root.path().join("source"))?.len() {
            0 => Ok(sample),
            bytes => Err(format!("{bytes} bytes were kept").into()),
        }
    })
}

/// Serves until it is told to end.
pub(crate) async fn receive(end: Receive) -> Result<()> {
    let identity = Arc::new(Identity::load_or_create(&config_dir()?)?);
    let trust = ServerTrust { allowed: [identity.fingerprint()].into(), ca: None };
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(ServeConfig {
        datagram_bytes_max: end.mtu,
        ..ServeConfig::new(listen, end.root, identity, trust)
    })?
    .discarding();
    let mut terminate = signal(SignalKind::terminate())?;
    println!("{}", server.local_addr());
    let stop = async move {
        terminate.recv().await;
    };
    Ok(server.run(Arc::new(|_| ()), stop).await?)
}
