//! The example, run as it is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use qbulk::error::Error;
use qbulk::event::PushEvent;
use qbulk::identity::{Fingerprint, Identity};
use qbulk::net::tls::ServerTrust;
use qbulk::serve::{ServeConfig, Server};
use tokio::sync::watch;

use self::example::{Host, mirror};

#[path = "examples/mirror.rs"]
#[expect(dead_code, reason = "it is a program, and here it is called")]
mod example;

fn identity(dir: &Path) -> Arc<Identity> {
    Arc::new(Identity::load_or_create(dir).expect("an identity"))
}

/// A server of what is in `root` below `dir`, which runs until the test ends.
fn serve(dir: &Path, client: Fingerprint) -> (std::net::SocketAddr, Fingerprint) {
    let own = identity(&dir.join("server"));
    let key = own.fingerprint();
    let listen = "127.0.0.1:0".parse().expect("an address");
    let trust = ServerTrust { allowed: [client].into(), ..ServerTrust::default() };
    let config = ServeConfig::new(listen, dir.join("root"), own, trust);
    let server = Server::bind(config).expect("a server");
    let address = server.local_addr();
    tokio::spawn(server.run(Arc::new(|_| ()), std::future::pending()));
    (address, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_mirrors_a_folder_can_be_cancelled_and_goes_on_then() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |path: &str| dir.path().join(path);
    let content: Vec<u8> = (0..8_u32 << 20).map(|index| (index % 251) as u8).collect();
    fs::create_dir_all(at("root/photos/in")).expect("a tree");
    fs::write(at("root/photos/in/large"), &content).expect("a file");
    fs::write(at("root/photos/small"), b"small").expect("a file");
    let own = identity(&at("client"));
    let (address, key) = serve(dir.path(), own.fingerprint());
    let (name, rate_max) = ("localhost".to_owned(), Some(2_000_000));
    let host = Host { server: address.into(), name, key, identity: own, rate_max };

    let (stop, is_stopped) = watch::channel(false);
    let tell = Arc::new(move |event: &PushEvent| {
        if let PushEvent::Progress(progress) = event {
            // Enough of it to be kept.
            stop.send_replace(progress.confirmed_bytes >= 3 << 20);
        }
    });
    let cancelled = mirror(&host, "photos", &at("copy"), tell, is_stopped).await;
    assert!(matches!(cancelled, Err(Error::Interrupted)), "{cancelled:?}");
    assert!(!at("root/photos.mirrored").exists());

    let host = Host { rate_max: None, ..host };
    let (_stop, is_stopped) = watch::channel(false);
    let summary = mirror(&host, "photos", &at("copy"), Arc::new(|_| ()), is_stopped).await;
    let summary = summary.expect("nothing is in its way");
    assert_eq!((summary.files, summary.failed), (2, 0));
    assert!(summary.kept_bytes > 0, "{summary:?}");
    assert!(fs::read(at("copy/in/large")).expect("it is there") == content);
    let note = fs::read_to_string(at("root/photos.mirrored")).expect("a note");
    assert_eq!(note, format!("2 files, {} bytes, 0 failed\n", content.len() + 5));
}
