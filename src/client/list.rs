//! Asking a server what is there.

use std::pin::pin;
use std::time::Instant;

use super::query::{Peer, PeerConfig};
use crate::error::Error;
use crate::event::{EntryKind, ListEntry, ListEvent, ListSummary, NotListed};
use crate::store::{join, named, shown};
use crate::text::said;
use crate::wire::{
    Answer, Destination, ListRequest, Listed, ListedKind, Meta, Request, path_fault,
};

/// What to list.
#[derive(Clone)]
pub struct ListConfig {
    /// The server, and how to get there.
    pub peer: PeerConfig,
    /// What to list, relative to the server's root: of a folder, what is in it. With a trailing slash it has
    /// to be one.
    pub path: Vec<u8>,
    /// What is in the folders that are found is listed as well, and so on.
    pub recursive: bool,
}

/// Lists what is at a path of a server, until all was told or `stop` resolves. Each folder comes before what is
/// in it, and the names in a folder come in their order unless there are thousands.
///
/// Nothing is kept: `report` is called with each entry as it comes, and while it is at work on one, no more
/// are taken from the server, and none are looked for there. An error of it ends the listing.
///
/// ```no_run
/// use qbulk::client::{ListConfig, list};
/// use qbulk::event::ListEvent;
///
/// # async fn example(peer: qbulk::client::PeerConfig) -> Result<(), qbulk::error::Error> {
/// let config = ListConfig { peer, path: "archive".into(), recursive: true };
/// let tell = async |event| {
///     if let ListEvent::Entry(entry) = event {
///         println!("{}", String::from_utf8_lossy(&entry.path));
///     }
///     Ok(())
/// };
/// let summary = list(config, tell, std::future::pending()).await?;
/// println!("{} bytes in {} files", summary.bytes, summary.files);
/// # Ok(())
/// # }
/// ```
pub async fn list<F: Future<Output = Result<(), Error>>>(
    config: ListConfig,
    mut report: impl FnMut(ListEvent) -> F,
    stop: impl Future<Output = ()> + Send,
) -> Result<ListSummary, Error> {
    let (began, mut stop) = (Instant::now(), pin!(stop));
    let ListConfig { peer, path, recursive } = config;
    if let Some(fault) = path_fault(&path) {
        return Err(Error::Usage(format!("the path cannot be: {fault}")));
    }
    let request = ListRequest { path: path.clone(), recursive };
    let waits = |reason| report(ListEvent::ListWaiting { reason });
    let connected = tokio::select! {
        biased;
        connected = Peer::connect(&peer, Request::List(request), waits) => connected,
        () = &mut stop => Err(Error::Interrupted),
    };
    let (mut server, there) = connected?;
    let result = match there {
        Destination::Missing => Err(Error::Peer(format!(
            "there is nothing at {} on {}",
            named(path.strip_suffix(b"/").unwrap_or(&path)),
            peer.server_name
        ))),
        Destination::File | Destination::Folder => tokio::select! {
            biased;
            () = stop => Err(Error::Interrupted),
            result = take(&mut server, recursive, &mut report) => result,
        },
    };
    server.close(result.is_ok()).await;
    let summary = ListSummary { seconds: began.elapsed().as_secs_f64(), ..result? };
    report(ListEvent::ListSummary(summary.clone())).await?;
    Ok(summary)
}

/// Takes what there is, to its end.
async fn take<F: Future<Output = Result<(), Error>>>(
    server: &mut Peer,
    recursive: bool,
    report: &mut impl FnMut(ListEvent) -> F,
) -> Result<ListSummary, Error> {
    let (mut summary, mut folder) = (ListSummary::default(), Vec::new());
    loop {
        // A server may send faster than is taken, and without an end: whoever stops this is heard.
        tokio::task::coop::consume_budget().await;
        match server.next().await? {
            Answer::Listed(listed) => {
                count(&mut summary, &listed.kind);
                report(ListEvent::Entry(entry(&folder, listed))).await?;
            }
            Answer::ListFolder(path) if recursive => folder = path,
            Answer::Unlisted { path, message } => {
                summary.not_listed += 1;
                let (path, reason) = (shown(&path), said(&message));
                report(ListEvent::NotListed(NotListed { path, reason })).await?;
            }
            Answer::ListEnd => return Ok(summary),
            _ => return Err(server.broke_the_protocol()),
        }
    }
}

fn count(summary: &mut ListSummary, kind: &ListedKind) {
    match kind {
        ListedKind::File { bytes } => {
            summary.files += 1;
            // Sizes may be anything, and their sum as well.
            summary.bytes = summary.bytes.saturating_add(*bytes);
        }
        ListedKind::Folder => summary.folders += 1,
        ListedKind::Symlink { .. } | ListedKind::Other => summary.others += 1,
    }
}

fn entry(folder: &[u8], listed: Listed) -> ListEntry {
    let Listed { name, meta: Meta { mode, mtime_s, mtime_ns }, kind } = listed;
    let kind = match kind {
        ListedKind::File { bytes } => EntryKind::File { bytes },
        ListedKind::Folder => EntryKind::Folder,
        ListedKind::Symlink { target } => EntryKind::Link { target },
        ListedKind::Other => EntryKind::Other,
    };
    ListEntry { path: join(folder, &name), kind, mode, mtime_s, mtime_ns }
}
