//! From what is found at the source to what the plan is offered, and to the parts of a stripe.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::check::{Check, There, missing, tree};
use super::compares::{Compared, Compares, Had, Pieces};
use super::linked::{Linked, Name};
use super::looks::{Looks, Unsure, Verdict};
use super::recall::{Kept, KeptFiles};
use super::receipt::Receipt;
use super::search::{Found, Scanned, Search};
use super::stream::StreamChunk;
use crate::error::{Error, reason};
use crate::event::{Failure, FailureKind};
use crate::hashtree::{FILE_BYTES_MAX, HashTree};
use crate::send::names::{Names, Taken};
use crate::store::fresh::meta_of_new;
use crate::store::kind::{Beside, FileInfo, Kind};
use crate::store::owners::claim;
use crate::store::scan::Entry;
use crate::store::source::{Base, Chunk, Part, ReadOptions, Sealed, SourceItem, SourceKind};
use crate::store::source_root::SourcePath;
use crate::traffic::{Item, ItemId, Stripe};
use crate::wire::{
    Claim, Destination, Extras, FileKey, Meta, Skip, XATTRS_BYTES_MAX, is_path_safe,
};

/// Items up to this size are never cut.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// A file that is tried again and whose size is not known before it is read is planned as this large, in
/// bytes: few of them share a stripe.
const UNKNOWN_BYTES: u64 = 4 << 20;
/// What a record takes beside its path, in bytes, at most and roughly.
const RECORD_BYTES: u64 = 80;
/// What an owner takes in one, in bytes, at most and roughly.
const OWNER_BYTES: u64 = 48;

/// What the search has found, and the items that came of it.
pub(super) struct Source {
    search: Search,
    /// What comes from a pipe, once something has.
    stream: Option<Streaming>,
    names: Option<Names>,
    /// What the receiver has of earlier runs.
    kept: KeptFiles,
    /// Files of which the receiver has something, if they have not changed.
    checks: VecDeque<Check>,
    /// What may be at the destination already.
    pub(super) looks: Looks,
    /// What its content is compared with.
    pub(super) compares: Compares,
    /// Where files are noted that the receiver has already.
    receipt: Option<Arc<Receipt>>,
    /// They are named to the receiver as well.
    names_kept: bool,
    /// What the receiver writes below gets mode and time as well.
    gives_root: bool,
    /// What is sent beyond permissions and times.
    extras: Extras,
    linked: Linked,
    /// Somebody was told that not all files with several names are remembered.
    is_full_told: bool,
    /// Items that are not cut up yet, and how many of their bytes are not.
    items: HashMap<ItemId, (Arc<SourceItem>, u64)>,
    taken: Taken,
    next_item: u64,
    /// Files that were offered, and folders and links.
    pub(super) files: u64,
    pub(super) others: u64,
    /// Files that the receiver had already, and their bytes.
    pub(super) kept_files: u64,
    pub(super) kept_whole_bytes: u64,
    /// Bytes that need not be sent again: of these files, and of others.
    pub(super) kept_bytes: u64,
    /// Files that are not sent because of what is there, and their bytes.
    pub(super) skipped_files: u64,
    pub(super) skipped_bytes: u64,
    /// Folders and links that are not.
    pub(super) skipped_others: u64,
}

/// What comes from a pipe.
struct Streaming {
    id: ItemId,
    path: Vec<u8>,
    local: SourcePath,
    tree: Arc<Mutex<HashTree>>,
    meta: Meta,
}

impl Source {
    /// What `search` finds, for one attempt at sending it.
    pub(super) fn new(
        search: Search,
        skip: Skip,
        receipt: Option<Arc<Receipt>>,
        names_kept: bool,
        gives_root: bool,
        (read, linked_bytes_max): (ReadOptions, usize),
    ) -> Self {
        let taken = Taken::new(search.starts());
        Self {
            search,
            stream: None,
            names: None,
            kept: KeptFiles::new(),
            checks: VecDeque::new(),
            looks: Looks::new(skip),
            compares: Compares::new(skip),
            receipt,
            names_kept,
            gives_root,
            extras: read.extras,
            linked: Linked::new(linked_bytes_max),
            is_full_told: false,
            items: HashMap::new(),
            taken,
            next_item: 0,
            files: 0,
            others: 0,
            kept_files: 0,
            kept_whole_bytes: 0,
            kept_bytes: 0,
            skipped_files: 0,
            skipped_bytes: 0,
            skipped_others: 0,
        }
    }

    /// The search, for another attempt.
    pub(super) fn into_search(self) -> Search {
        self.search
    }

    /// Paths are known once the server has said what is at the destination.
    pub(super) fn name(
        &mut self,
        typed: &[u8],
        there: Destination,
        kept: KeptFiles,
    ) -> Result<(), Error> {
        self.names = Some(if self.search.is_stream() {
            Names::of_stream(typed, there)?
        } else {
            Names::new(typed, there, self.search.starts())?
        });
        self.kept = kept;
        Ok(())
    }

    pub(super) fn is_named(&self) -> bool {
        self.names.is_some()
    }

    pub(super) fn scanned(&self) -> &Scanned {
        self.search.scanned()
    }

    /// What was found next. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Found> {
        self.search.next().await
    }

    /// What was found is given its path. Returns what is to be sent of it.
    pub(super) fn take(&mut self, entry: Entry) -> Result<Vec<Item>, Failure> {
        let Some(names) = &self.names else { return Ok(Vec::new()) };
        let path = names.remote(&entry.remote);
        self.taken.check(&entry, &path)?;
        let Entry { local, kind, beside, .. } = entry;
        let xattr_bytes_max = self.xattr_bytes_max(beside);
        match kind {
            // Elsewhere the root is the server's own.
            Kind::Folder(_) if path.is_empty() && !self.gives_root => Ok(Vec::new()),
            Kind::File(info) => Ok(self.take_file(local, path, info, beside, false)),
            // The root is there, and has no path by which it could be asked for.
            kind if !path.is_empty() && self.looks.is_asked(&kind) => {
                let claim = self.extras.goes_with_all().then(Claim::default);
                let is_compared = false;
                self.looks.add(Unsure { local, path, kind, claim, xattr_bytes_max, is_compared });
                Ok(Vec::new())
            }
            kind => Ok(vec![self.offer_other((local, path), kind, xattr_bytes_max)]),
        }
    }

    /// Whether it is what comes from a pipe.
    pub(super) fn is_stream(&self) -> bool {
        self.search.is_stream()
    }

    /// A part of what comes from a pipe is to be sent.
    pub(super) fn take_chunk(&mut self, chunk: StreamChunk) -> Result<Vec<Item>, Error> {
        if self.stream.is_none() {
            let Some(names) = &self.names else { return Ok(Vec::new()) };
            let path = names.remote(b"");
            let cannot = |error| Error::Disk(reason(&error));
            let local = SourcePath::of_pipe().map_err(cannot)?;
            let tree = Arc::new(Mutex::new(HashTree::new(FILE_BYTES_MAX)));
            self.files += 1;
            let id = self.next_id();
            self.stream = Some(Streaming { id, path, local, tree, meta: meta_of_new() });
        }
        let id = self.next_id();
        let Some(Streaming { id: of, path, local, tree, meta }) = &self.stream else {
            return Ok(Vec::new());
        };
        let StreamChunk { offset, data, total } = chunk;
        let (len, overhead_bytes) = (data.len() as u64, path.len() as u64 + RECORD_BYTES);
        let chunk = Chunk { tree: Arc::clone(tree), offset, data, total, meta: *meta };
        let item = SourceItem::new(of.0, local.clone(), path.clone(), SourceKind::Chunk(chunk));
        self.keep(id, len, item);
        Ok(vec![if total == Some(len) {
            Item::whole(id, len, overhead_bytes)
        } else {
            Item::range(id, offset, len, total.is_none())
        }])
    }

    /// What is called `remote` below its source has this path.
    pub(super) fn path(&self, remote: &[u8]) -> Option<Vec<u8>> {
        let path = self.names.as_ref()?.remote(remote);
        is_path_safe(&path).then_some(path)
    }

    /// A file was found that had vanished or changed, and has its path already.
    pub(super) fn take_again(&mut self, entry: Entry) -> Vec<Item> {
        match entry.kind {
            Kind::File(info) => self.take_file(entry.local, entry.remote, info, entry.beside, true),
            Kind::Folder(_) | Kind::Symlink { .. } | Kind::Special { .. } => Vec::new(),
        }
    }

    fn take_file(
        &mut self,
        local: SourcePath,
        path: Vec<u8>,
        info: FileInfo,
        beside: Beside,
        is_last_try: bool,
    ) -> Vec<Item> {
        if self.extras.hard_links
            && info.links > 1
            && !is_last_try
            && let Name::Of(of) = self.linked.find(info.id(), info.links, &path)
        {
            return vec![self.link((local, path), info, of)];
        }
        let xattr_bytes_max = self.xattr_bytes_max(beside);
        let kept = if self.kept.is_empty() {
            None
        } else {
            self.kept.remove(&FileKey::new(&path, &info.version()))
        };
        match kept {
            None if self.looks.is_on() && !is_last_try => {
                let (claim, kind) = (claim(&info, beside, self.extras), Kind::File(info));
                let is_compared = false;
                self.looks.add(Unsure { local, path, kind, claim, xattr_bytes_max, is_compared });
                Vec::new()
            }
            None => self.offer((local, path), info, xattr_bytes_max, is_last_try, Had::default()),
            Some(kept) if *kept.state() == info.state() => {
                self.go_on(local, path, info, xattr_bytes_max, kept)
            }
            // It may be the same: that is looked at before anything of it is sent.
            Some(kept) => {
                let (there, claim) = (There::Kept(kept), None);
                self.checks.push_back(Check { local, path, info, claim, xattr_bytes_max, there });
                Vec::new()
            }
        }
    }

    /// The receiver has something of a file, and it is that of the file as it was found.
    fn go_on(
        &mut self,
        local: SourcePath,
        path: Vec<u8>,
        info: FileInfo,
        xattr_bytes_max: usize,
        kept: Kept,
    ) -> Vec<Item> {
        match kept {
            Kept::Whole { hash, .. } => {
                if let Some(receipt) = &self.receipt {
                    receipt.add_kept(&path, &info, hash);
                }
                self.kept_files += 1;
                self.kept_whole_bytes += info.bytes;
                self.kept_bytes += info.bytes;
                if self.names_kept {
                    let id = self.next_id();
                    let overhead_bytes = path.len() as u64 + RECORD_BYTES;
                    let kind = SourceKind::Kept { info, hash };
                    self.keep(id, 0, SourceItem::new(id.0, local, path, kind));
                    return vec![Item::whole(id, 0, overhead_bytes)];
                }
                Vec::new()
            }
            Kept::Pieces { basis, pieces, .. } => {
                let kept = Some((tree(info.bytes, &pieces), basis));
                if self.looks.is_on() && self.compares.is_delta(info.bytes) {
                    let (kind, claim, is_compared) = (Kind::File(info), None, true);
                    let unsure = Unsure { local, path, kind, claim, xattr_bytes_max, is_compared };
                    self.compares.add(unsure, kept);
                    return Vec::new();
                }
                let had = Had { kept, ..Had::default() };
                self.offer((local, path), info, xattr_bytes_max, false, had)
            }
        }
    }

    /// The next file of which the receiver has something, and of which it is to be seen whether it has not
    /// changed.
    pub(super) fn next_check(&mut self) -> Option<Check> {
        self.checks.pop_front()
    }

    /// How many wait for that.
    pub(super) fn waiting_checks(&self) -> usize {
        self.checks.len()
    }

    /// A file was looked at; if it has what the receiver has, it was so then.
    pub(super) fn take_checked(&mut self, check: Check, same: Option<FileInfo>) -> Vec<Item> {
        let Check { local, path, info, claim, xattr_bytes_max, there } = check;
        let kept = match there {
            There::Kept(kept) => kept,
            There::Other(_) if same.is_some() => {
                let (kind, is_compared) = (Kind::File(info), true);
                self.looks.add(Unsure { local, path, kind, claim, xattr_bytes_max, is_compared });
                return Vec::new();
            }
            There::Other(base) => {
                let had = self.had(info.bytes, None, base);
                return self.offer((local, path), info, xattr_bytes_max, false, had);
            }
        };
        match same {
            Some(now) => {
                // What has changed of it is something else than its content.
                let is_adopted = self.extras.goes_with_all() && matches!(kept, Kept::Whole { .. });
                let adopted = is_adopted.then(|| (local.clone(), path.clone()));
                let mut items = self.go_on(local, path, now, xattr_bytes_max, kept);
                items.extend(adopted.map(|at| self.adopt(at, now, xattr_bytes_max)));
                items
            }
            None if self.looks.is_on() && self.compares.is_delta(info.bytes) => {
                let (kind, is_compared) = (Kind::File(info), true);
                let unsure = Unsure { local, path, kind, claim, xattr_bytes_max, is_compared };
                self.compares.add(unsure, None);
                Vec::new()
            }
            None => self.offer((local, path), info, xattr_bytes_max, false, Had::default()),
        }
    }

    /// What is there of a file that is sent.
    fn had(&self, bytes: u64, kept: Option<Pieces>, base: Arc<Base>) -> Had {
        let is_of_use = self.compares.is_delta(bytes) && !base.is_empty();
        Had { kept, base: is_of_use.then_some(base) }
    }

    /// It is known what the file hashes to that is there.
    pub(super) fn take_compared(&mut self, (unsure, kept, base): Compared) -> Vec<Item> {
        let Unsure { local, path, kind: Kind::File(info), claim, xattr_bytes_max, is_compared } =
            unsure
        else {
            return Vec::new();
        };
        if self.compares.decides() && !is_compared {
            let there = There::Other(base);
            self.checks.push_back(Check { local, path, info, claim, xattr_bytes_max, there });
            return Vec::new();
        }
        let had = self.had(info.bytes, kept, base);
        self.offer((local, path), info, xattr_bytes_max, false, had)
    }

    /// It is known what is there of these, and which are skipped for that.
    pub(super) fn take_looked(&mut self, files: Vec<(Unsure, Verdict)>) -> Vec<Item> {
        let mut items = Vec::new();
        for (unsure, verdict) in files {
            let is_over = verdict == Verdict::SentOver && self.compares.is_delta(unsure.bytes());
            if verdict == Verdict::Compared || is_over {
                self.compares.add(unsure, None);
                continue;
            }
            let Unsure { local, path, kind, xattr_bytes_max, .. } = unsure;
            let is_sent = matches!(verdict, Verdict::Sent | Verdict::SentOver);
            match kind {
                Kind::File(info) if is_sent => {
                    let had = Had::default();
                    items.extend(self.offer((local, path), info, xattr_bytes_max, false, had));
                }
                Kind::File(info) => {
                    if let Some(receipt) = &self.receipt {
                        receipt.add_skipped(&path, &info);
                    }
                    self.skipped_files += 1;
                    self.skipped_bytes += info.bytes;
                    if verdict == Verdict::Adopted {
                        items.push(self.adopt((local, path), info, xattr_bytes_max));
                    }
                }
                other if is_sent => {
                    items.push(self.offer_other((local, path), other, xattr_bytes_max));
                }
                _ => self.skipped_others += 1,
            }
        }
        items
    }

    /// A folder, a link or a special file is to be sent.
    fn offer_other(
        &mut self,
        (local, path): (SourcePath, Vec<u8>),
        kind: Kind,
        xattr_bytes_max: usize,
    ) -> Item {
        self.others += 1;
        let id = self.next_id();
        let target_bytes = match &kind {
            Kind::Symlink { target, .. } => target.len() as u64,
            _ => 0,
        };
        let overhead_bytes = self.overhead_bytes(&path, xattr_bytes_max) + target_bytes;
        let item = SourceItem::new(id.0, local, path, SourceKind::Found(kind));
        self.keep(id, 0, item.beside(xattr_bytes_max, false));
        Item::whole(id, 0, overhead_bytes)
    }

    /// A file that is there already is to have other metadata.
    fn adopt(
        &mut self,
        (local, path): (SourcePath, Vec<u8>),
        info: FileInfo,
        xattr_bytes_max: usize,
    ) -> Item {
        let (id, overhead_bytes) = (self.next_id(), self.overhead_bytes(&path, xattr_bytes_max));
        let item = SourceItem::new(id.0, local, path, SourceKind::Adopt(info));
        self.keep(id, 0, item.beside(xattr_bytes_max, false));
        Item::whole(id, 0, overhead_bytes)
    }

    /// A file is another name of one that is sent, or is there.
    fn link(&mut self, (local, path): (SourcePath, Vec<u8>), info: FileInfo, of: Vec<u8>) -> Item {
        self.others += 1;
        let id = self.next_id();
        let overhead_bytes = (path.len() + of.len()) as u64 + RECORD_BYTES;
        let kind = SourceKind::Link { info, of };
        self.keep(id, 0, SourceItem::new(id.0, local, path, kind));
        Item::whole(id, 0, overhead_bytes)
    }

    /// What is to be told once where there are more files with several names than are remembered.
    pub(super) fn unlinked(&mut self) -> Option<Failure> {
        let is_new = self.linked.is_full && !std::mem::replace(&mut self.is_full_told, true);
        is_new.then(|| Failure {
            kind: FailureKind::Source,
            path: String::new(),
            reason: "there are more files with several names than can be remembered: some are sent as files of \
                     their own; send parts of the tree by themselves"
                .into(),
        })
    }

    /// What the attributes of something take, at most, in bytes.
    fn xattr_bytes_max(&self, beside: Beside) -> usize {
        match beside.xattrs {
            _ if !self.extras.has_xattrs() => 0,
            Some((_, bytes)) => bytes as usize,
            None => XATTRS_BYTES_MAX,
        }
    }

    /// What a record takes beside content.
    fn overhead_bytes(&self, path: &[u8], xattr_bytes_max: usize) -> u64 {
        let owner_bytes = if self.extras.has_owners() { OWNER_BYTES } else { 0 };
        path.len() as u64 + RECORD_BYTES + owner_bytes + xattr_bytes_max as u64
    }

    /// A file is to be sent, but for what the receiver has of it.
    fn offer(
        &mut self,
        (local, path): (SourcePath, Vec<u8>),
        info: FileInfo,
        xattr_bytes_max: usize,
        is_last_try: bool,
        had: Had,
    ) -> Vec<Item> {
        let bytes = info.bytes;
        self.files += 1;
        let id = self.next_id();
        let is_unknown = is_last_try && info.is_hollow && bytes <= WHOLE_BYTES_MAX;
        let unknown_bytes = if is_unknown { UNKNOWN_BYTES } else { 0 };
        let overhead_bytes = self.overhead_bytes(&path, xattr_bytes_max) + unknown_bytes;
        let item = SourceItem::new(id.0, local, path, SourceKind::Found(Kind::File(info)));
        let item = item.beside(xattr_bytes_max, self.extras.hard_links && info.links > 1);
        let item = if is_last_try { item.for_last_try() } else { item };
        let item = if let Some(base) = had.base { item.based_on(base) } else { item };
        let Some((tree, basis)) = had.kept else {
            self.keep(id, bytes, item);
            return vec![if bytes > WHOLE_BYTES_MAX {
                Item::split(id, bytes)
            } else {
                Item::whole(id, bytes, overhead_bytes)
            }];
        };
        let ranges = missing(&tree, bytes);
        let missing_bytes: u64 = ranges.iter().map(|(_, len)| len).sum();
        self.kept_bytes += bytes - missing_bytes;
        self.keep(id, missing_bytes, item.with_tree(tree, basis));
        if ranges.is_empty() {
            // Only its hash is missing: it is named, and the hash follows.
            return vec![Item::whole(id, 0, overhead_bytes)];
        }
        let item = |(offset, len)| Item::range(id, offset, len, offset + len < bytes);
        ranges.into_iter().map(item).collect()
    }

    /// All pieces of a file have been read: its hash follows them.
    pub(super) fn seal(&mut self, sealed: &Sealed) -> Item {
        let (id, file) = (self.next_id(), &sealed.item);
        let extra = sealed.extra.clone();
        let extra_bytes = extra.as_ref().map_or(0, |extra| extra.bytes() as u64);
        let item = Item { urgent: true, ..Item::whole(id, 0, RECORD_BYTES + extra_bytes) };
        let kind = SourceKind::Seal { of: file.id, hash: sealed.hash, extra };
        self.keep(id, 0, SourceItem::new(id.0, file.local.clone(), file.path.clone(), kind));
        item
    }

    /// All of a file was sent, and it has changed meanwhile.
    pub(super) fn take_back(&mut self, file: &SourceItem) -> Item {
        let id = self.next_id();
        let kind = SourceKind::TakeBack { of: file.id };
        self.keep(id, 0, SourceItem::new(id.0, file.local.clone(), file.path.clone(), kind));
        Item { urgent: true, ..Item::whole(id, 0, RECORD_BYTES) }
    }

    /// What a stripe is made of. Each part is asked for once.
    pub(super) fn parts(&mut self, stripe: &Stripe) -> Vec<Part> {
        let mut parts = Vec::with_capacity(stripe.extents.len());
        for extent in &stripe.extents {
            let Some((item, left)) = self.items.get_mut(&extent.item) else { continue };
            *left = left.saturating_sub(extent.len);
            let (item, is_last) = (Arc::clone(item), *left == 0);
            if is_last {
                self.items.remove(&extent.item);
            }
            parts.push(Part { item, offset: extent.offset, len: extent.len });
        }
        parts
    }

    /// The receiver takes no more of an item: nothing more is read of it.
    pub(super) fn cancel(&mut self, id: ItemId) {
        if let Some((item, _)) = self.items.remove(&id) {
            item.cancel();
        }
    }

    fn keep(&mut self, id: ItemId, bytes: u64, source: SourceItem) {
        self.items.insert(id, (Arc::new(source), bytes));
    }

    fn next_id(&mut self) -> ItemId {
        self.next_item += 1;
        ItemId(self.next_item)
    }
}
