//! The disk: what a client has written for it, and what is remembered of paths.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use qbulk::client::path_memory::{PathCache, PathKey};
use qbulk::congestion::{Budget, BudgetConfig, PathMemory};
use qbulk::hashtree::hash_parts;
use qbulk::store::journal::{Entry, Stamp, read_entries};
use qbulk::store::own::{OwnNames, is_reserved};
use qbulk::store::sink::{Applied, Sink};
use qbulk::wire::{
    Header, Piece, PushNumber, Record, SourceBasis, SourceId, SourceState, SourceVersion,
};

/// Larger files are left out: they test the file system.
const FILE_BYTES_MAX: u64 = 1 << 18;
const RECORDS_MAX: usize = 64;

/// Whatever records a client sends, nothing outside of the root changes, and no unfinished file is left.
///
/// The input is a table; what a client would compute (hashes) is computed, so that what is behind the
/// checks is reached.
pub fn sink(data: &[u8]) {
    let mut table = data;
    let records: Vec<Record> =
        std::iter::from_fn(|| Record::decode(&mut table).ok()).take(RECORDS_MAX).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("kept"), b"kept").expect("a file");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a folder");

    let opened = Dir::open_ambient_dir(&root, ambient_authority()).expect("the root");
    let sink =
        Sink::new(Arc::new(opened), OwnNames::new([1; 32]), "tag".into(), None).expect("a sink");
    let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut is_well = true;
    for (stripe, record) in records.into_iter().enumerate() {
        let Some((record, content)) = completed(record, &mut files) else { continue };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let header = Header {
            stripe: stripe as u64,
            table_bytes: bytes.len() as u32,
            content_bytes: content.len() as u32,
            unpacked_bytes_max: 0,
            table_hash: *blake3::hash(&bytes).as_bytes(),
        };
        let Ok(applied) = sink.apply(&header, &bytes, &content) else {
            is_well = false;
            break;
        };
        assert_eq!(applied, Applied::Written);
    }
    let outcome = sink.finish();
    drop(sink);
    if is_well && let Ok(outcome) = outcome {
        assert!(outcome.failed_files + outcome.files <= RECORDS_MAX as u64);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 2);
    assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 1);
    assert_eq!(fs::read(outside.join("kept")).expect("the file"), b"kept");
    assert_no_temporary_files(&root);
}

/// The record as an honest client would send it, with content; `None` for what is too large.
fn completed(record: Record, files: &mut BTreeMap<u64, Vec<u8>>) -> Option<(Record, Vec<u8>)> {
    match record {
        Record::Piece(piece) if piece.file_bytes > FILE_BYTES_MAX => None,
        Record::Piece(piece) => {
            let (piece, content) = completed_piece(piece, files);
            Some((Record::Piece(piece), content))
        }
        Record::Folder { item, path, mut meta } => {
            // The test itself must be able to look into it, and to remove it.
            meta.mode |= 0o700;
            Some((Record::Folder { item, path, meta }, Vec::new()))
        }
        // Nobody has asked for these.
        Record::With { record, .. } => completed(*record, files),
        Record::Special { .. } | Record::Link { .. } | Record::Adopt { .. } => None,
        // Every other hash is the right one.
        Record::Seal { item, hash } if hash[0].is_multiple_of(2) => {
            let file = files.get(&item).map_or(&[][..], Vec::as_slice);
            Some((Record::Seal { item, hash: *blake3::hash(file).as_bytes() }, Vec::new()))
        }
        record => Some((record, Vec::new())),
    }
}

fn completed_piece(mut piece: Piece, files: &mut BTreeMap<u64, Vec<u8>>) -> (Piece, Vec<u8>) {
    let file = files.entry(piece.item).or_default();
    file.resize(file.len().max(piece.file_bytes as usize), 0);
    let mut covered = vec![0; piece.len as usize];
    let mut content = Vec::new();
    for run in &piece.runs {
        let range = run.offset as usize..(run.offset + run.len) as usize;
        for (at, byte) in range.clone().zip(&mut covered[range.clone()]) {
            *byte = (piece.offset as usize + at) as u8 | 1;
        }
        content.extend_from_slice(&covered[range]);
    }
    let start = piece.offset as usize;
    file[start..start + covered.len()].copy_from_slice(&covered);
    if piece.is_name_only() {
        return (piece, content);
    }
    let parts = std::iter::once(covered.as_slice());
    piece.hash = hash_parts(piece.offset, piece.len, parts, piece.file_bytes);
    (piece, content)
}

fn assert_no_temporary_files(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        assert!(!is_reserved(name.as_encoded_bytes()), "{} is left", name.display());
        if entry.file_type().expect("a type").is_dir() {
            assert_no_temporary_files(&entry.path());
        }
    }
}

/// A journal that has anything at all between two entries still has these two and, of what one has where
/// one of its bytes was changed, nothing.
pub fn journal(data: &[u8]) {
    let owner = OwnNames::new([0; 32]).owner(&[1; 32], &PushNumber([2; 16]));
    let path: Vec<u8> = data.iter().map(|byte| byte % 26 + b'a').take(200).collect();
    let path = if path.is_empty() { b"a".to_vec() } else { path };
    let first = Entry::Piece {
        path: path.clone(),
        source: SourceId {
            version: SourceVersion([3; 16]),
            state: SourceState([4; 16]),
            basis: SourceBasis([5; 16]),
        },
        file_bytes: 1 << 40,
        offset: 1 << 20,
        len: 1 << 20,
        hash: [4; 32],
    };
    let stamp = Stamp { inode: 7, ctime: (-1, 999_999_999) };
    let source = SourceId {
        version: SourceVersion([5; 16]),
        state: SourceState([6; 16]),
        basis: SourceBasis([6; 16]),
    };
    let last = Entry::File { path, source, hash: [6; 32], stamp };
    let mut bytes = Vec::new();
    first.encode(&owner, &mut bytes);
    bytes.extend_from_slice(data);
    let mut damaged = Vec::new();
    first.encode(&owner, &mut damaged);
    let at = data.first().map_or(0, |&byte| usize::from(byte)) % damaged.len();
    damaged[at] ^= data.last().copied().unwrap_or(1).max(1);
    bytes.extend(damaged);
    last.encode(&owner, &mut bytes);
    let mut found = Vec::new();
    read_entries(&owner, bytes.as_slice(), |entry| found.push(entry)).expect("read from memory");
    assert_eq!(found, [first, last]);
    // Nobody else's push finds anything in it.
    let other = OwnNames::new([0; 32]).owner(&[1; 32], &PushNumber([3; 16]));
    read_entries(&other, bytes.as_slice(), |entry| panic!("{entry:?}")).expect("read from memory");
}

/// A file with remembered paths is believed or not, but does no harm: what is remembered next is there,
/// the file stays small, and a budget that starts from it stays within what windows can be. `NOW` in the
/// input is the time: what is old is not believed.
pub fn paths(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let text = String::from_utf8_lossy(data).replace("NOW", &now.to_string());
    fs::write(dir.path().join("paths.json"), text).expect("a file");
    let cache = PathCache::in_dir(dir.path());
    let server = IpAddr::from([192, 0, 2, 1]);
    let key = PathKey { server, local: None };
    let other = PathKey { server, local: Some(IpAddr::from([192, 0, 2, 2])) };
    let before = cache.recall(&other);
    if let Some(memory) = cache.recall(&key) {
        drive(memory);
    }
    let memory = PathMemory { rtt_min: Duration::from_millis(50), in_flight_bytes: 1 << 20 };
    cache.remember(&key, memory).expect("remembered");
    assert_eq!(cache.recall(&key), Some(memory));
    let after = cache.recall(&other);
    assert!(after.is_none() || after == before);
    let bytes = fs::metadata(dir.path().join("paths.json")).expect("the file").len();
    assert!(bytes <= 1 << 21, "{bytes} bytes");
}

/// A few round trips of one connection.
fn drive(memory: PathMemory) {
    const PACKET: u64 = 1_400;
    let start = Instant::now();
    let config = BudgetConfig { memory: Some(memory), ..BudgetConfig::default() };
    let mut budget = Budget::new(config, start);
    let (id, window) = budget.join(PACKET as u16, start);
    for round in 0..8 {
        let sent = start + Duration::from_millis(50) * round;
        let packets = (window.load(Relaxed) / PACKET).min(64);
        assert!(packets > 0, "a window that lets nothing out");
        for _ in 0..packets {
            budget.on_sent(id, PACKET, sent);
        }
        let now = sent + Duration::from_millis(50);
        budget.on_ack(id, sent, packets * PACKET, now);
        budget.on_acks_end(id, 0, false, now);
        // No path holds more.
        assert!(window.load(Relaxed) <= 4 << 30, "{} bytes", window.load(Relaxed));
    }
}
