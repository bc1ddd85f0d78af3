//! Content that is at the destination already: compared, and sent as what differs of it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::common::{Host, Ran, Serve, eventually, hash, random, run, unfinished};

const OLD: u64 = 1_000_000_000;
const BLOCK: usize = 64 << 10;

/// Both ends of a transfer, in whichever direction it goes.
struct Ends {
    host: Host,
    serve: Serve,
    is_pull: bool,
}

impl Ends {
    fn each(check: impl Fn(&Self)) {
        for is_pull in [false, true] {
            let host = Host::new();
            let serve = Serve::start(&host);
            let ends = Self { host, serve, is_pull };
            fs::create_dir_all(ends.source("")).unwrap();
            fs::create_dir_all(ends.there("")).unwrap();
            check(&ends);
            assert!(unfinished(&ends.there("")).is_empty());
            assert_eq!(ends.serve.stop(), Some(0));
        }
    }

    fn source(&self, name: &str) -> PathBuf {
        let name = format!("from/{name}");
        if self.is_pull { self.host.root(name) } else { self.host.src(name) }
    }

    fn there(&self, name: &str) -> PathBuf {
        let name = format!("to/{name}");
        if self.is_pull { self.host.src(name) } else { self.host.root(name) }
    }

    fn send(&self, args: &[&str]) -> Ran {
        let ran = run(self.host.moving(&self.serve, self.is_pull, args).arg("--json"));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    }

    fn assert_same(&self, names: &[&str]) {
        for name in names {
            assert_eq!(hash(&self.source(name)), hash(&self.there(name)), "{name}");
            let [source, there] =
                [self.source(name), self.there(name)].map(|path| fs::metadata(path).unwrap());
            assert_eq!(source.modified().unwrap(), there.modified().unwrap(), "{name}");
            assert_eq!(source.permissions(), there.permissions(), "{name}");
        }
    }
}

fn put(path: &Path, content: &[u8], mtime_s: u64, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let file = File::options().read(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime_s)).unwrap();
}

fn count(ran: &Ran, field: &str) -> u64 {
    ran.summary()[field].as_u64().unwrap()
}

#[test]
fn with_checksum_content_alone_decides() {
    Ends::each(|ends| {
        let (small, large) = (random(1, 5_000), random(2, 9 << 20));
        // The same, at another time and with other permissions.
        put(&ends.source("touched"), &large, OLD + 5, 0o600);
        put(&ends.there("touched"), &large, OLD, 0o644);
        put(&ends.source("small"), &small, OLD, 0o640);
        put(&ends.there("small"), &small, OLD, 0o640);
        put(&ends.source("empty"), b"", OLD + 1, 0o640);
        put(&ends.there("empty"), b"", OLD, 0o640);
        // What looks the same, and is not.
        put(&ends.source("fooled"), &random(3, 5_000), OLD, 0o644);
        put(&ends.there("fooled"), &random(4, 5_000), OLD, 0o644);
        put(&ends.source("longer"), &random(5, 5_001), OLD, 0o644);
        put(&ends.there("longer"), &random(5, 5_000), OLD, 0o644);
        put(&ends.source("new"), &random(6, 70_000), OLD, 0o644);
        let kept = fs::metadata(ends.there("touched")).unwrap();
        let ran = ends.send(&["--checksum"]);
        assert_eq!((count(&ran, "files"), count(&ran, "skipped_files")), (3, 3), "{ran:?}");
        assert_eq!(count(&ran, "sent_bytes"), 5_000 + 5_001 + 70_000);
        ends.assert_same(&["touched", "small", "empty", "fooled", "longer", "new"]);
        assert_eq!(fs::metadata(ends.there("touched")).unwrap().ino(), kept.ino());
        let again = ends.send(&["-c"]);
        assert_eq!((count(&again, "files"), count(&again, "skipped_files")), (0, 6), "{again:?}");
    });
}

#[test]
fn with_checksum_many_small_files_are_compared() {
    Ends::each(|ends| {
        for number in 0..2_000_u64 {
            let (name, content) = (number.to_string(), random(number, number as usize % 900));
            put(&ends.source(&name), &content, OLD + 7, 0o644);
            put(&ends.there(&name), &content, OLD, 0o644);
        }
        put(&ends.there("77"), &random(1, 77), OLD + 7, 0o644);
        let ran = ends.send(&["--checksum"]);
        assert_eq!((count(&ran, "files"), count(&ran, "skipped_files")), (1, 1_999), "{ran:?}");
        ends.assert_same(&["0", "1", "77", "78", "1999"]);
    });
}

#[test]
fn with_delta_only_blocks_that_differ_are_sent() {
    Ends::each(|ends| {
        let content = random(1, 20 << 20);
        let mut changed = content.clone();
        for block in [0, 17, 18, 200] {
            changed[block * BLOCK + 5] ^= 1;
        }
        put(&ends.there("changed"), &content, OLD, 0o600);
        put(&ends.source("changed"), &changed, OLD + 1, 0o640);
        put(&ends.there("longer"), &content, OLD, 0o644);
        put(&ends.source("longer"), &[&content[..], b"and more"].concat(), OLD + 1, 0o644);
        put(&ends.there("shorter"), &content, OLD, 0o644);
        put(&ends.source("shorter"), &content[..(7 << 20) + 11], OLD + 1, 0o644);
        put(&ends.source("new"), &random(2, 2 << 20), OLD, 0o644);
        put(&ends.there("small"), &random(3, 100_000), OLD, 0o644);
        put(&ends.source("small"), &random(3, 100_000), OLD + 1, 0o644);
        let ran = ends.send(&["--delta"]);
        assert_eq!((count(&ran, "files"), count(&ran, "failed")), (5, 0), "{ran:?}");
        let all = ["changed", "longer", "shorter", "new", "small"];
        ends.assert_same(&all);
        // What differs, the last block of those that end elsewhere, and what is new or small.
        let most = (4 * BLOCK + BLOCK + 8 + BLOCK + (2 << 20) + 100_000) as u64;
        let sent = count(&ran, "sent_bytes");
        assert!(sent <= most && sent >= 4 * BLOCK as u64, "{sent} of {most}");
        let again = ends.send(&["--delta"]);
        assert_eq!(count(&again, "skipped_files"), 5);
    });
}

/// With holes at either end, and with what has changed in place and looks the same.
#[test]
fn with_delta_and_checksum_whatever_differs_arrives() {
    Ends::each(|ends| {
        let holes = |path: &Path, bytes: u64, parts: &[(u64, &[u8])]| {
            let file = File::create(path).unwrap();
            file.set_len(bytes).unwrap();
            for (at, part) in parts {
                file.write_all_at(part, *at).unwrap();
            }
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(OLD)).unwrap();
        };
        let part = random(1, 300_000);
        holes(&ends.there("holes"), 64 << 20, &[(0, &part), (5 << 20, &part), (40 << 20, &part)]);
        holes(&ends.source("holes"), 64 << 20, &[(0, &part), (20 << 20, &part), (40 << 20, &part)]);
        holes(&ends.there("same"), 9 << 20, &[(1 << 20, &part)]);
        holes(&ends.source("same"), 9 << 20, &[(1 << 20, &part)]);
        let ran = ends.send(&["--delta", "--checksum"]);
        assert_eq!((count(&ran, "files"), count(&ran, "skipped_files")), (1, 1), "{ran:?}");
        ends.assert_same(&["holes", "same"]);
        let sent = count(&ran, "sent_bytes");
        assert!(sent <= 2 * (300_000 + 2 * BLOCK as u64), "{sent}");
        let taken = fs::metadata(ends.there("holes")).unwrap().blocks() * 512;
        assert!(taken < 8 << 20, "{taken}");
    });
}

/// Text, of which no line is like another.
fn text(lines: usize) -> Vec<u8> {
    let line =
        |at| format!("{at:08} {} the quick brown fox jumps over the lazy dog\n", at * at % 9_973);
    (0..lines).map(line).collect::<String>().into_bytes()
}

#[test]
fn what_shrinks_goes_over_the_wire_compressed() {
    Ends::each(|ends| {
        let (large, noise) = (text(150_000), random(1, 3 << 20));
        put(&ends.source("large"), &large, OLD, 0o644);
        put(&ends.source("noise"), &noise, OLD, 0o644);
        for number in 0..300 {
            put(&ends.source(&number.to_string()), &text(number), OLD, 0o644);
        }
        for how in ["-z", "--compress=zstd", "--compress=none"] {
            let ran = ends.send(&[how, "--ignore-times"]);
            assert_eq!((count(&ran, "files"), count(&ran, "failed")), (302, 0), "{ran:?}");
            ends.assert_same(&["large", "noise", "0", "1", "299"]);
            let [sent, saved] = ["sent_bytes", "saved_bytes"].map(|field| count(&ran, field));
            assert_eq!(sent, count(&ran, "bytes"));
            match how {
                "--compress=none" => assert_eq!(saved, 0),
                // What is read while much is being read may go as it is.
                "-z" => assert!(saved > 0 && saved < sent, "{saved} of {sent}"),
                _ => assert!(saved > large.len() as u64 / 2 && saved < sent - (3 << 20), "{saved}"),
            }
        }
        // Only what differs, and that compressed; also in order to a pipe.
        let mut changed = large.clone();
        changed[1_000_000..1_100_000].fill(b'x');
        put(&ends.source("large"), &changed, OLD + 1, 0o644);
        let ran = ends.send(&["--compress=zstd", "--delta"]);
        assert_eq!(count(&ran, "files"), 1);
        ends.assert_same(&["large"]);
        assert!(count(&ran, "matched_bytes") > 0 && count(&ran, "saved_bytes") > 0, "{ran:?}");
        if ends.is_pull {
            let mut command = ends.host.qbulk();
            command.args(["pull", "-z", &ends.serve.url("from/large"), "-"]);
            let out = command.output().unwrap();
            assert!(out.status.success() && out.stdout == changed);
        }
    });
}

/// What an interrupted run has left counts, and of the rest again only what differs is sent.
#[test]
fn with_delta_a_push_that_was_killed_goes_on() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let content = random(1, 24 << 20);
    let mut changed = content.clone();
    (0..384).step_by(2).for_each(|block| changed[block * BLOCK] ^= 1);
    put(&host.root("file"), &content, OLD, 0o644);
    put(&host.src("file"), &changed, OLD + 1, 0o644);
    let push = |options: &[&str]| {
        let mut command = host.qbulk();
        command.args(["push", "--delta", "--json"]).args(options);
        command.arg(host.src("file")).arg(serve.url("file"));
        command
    };
    let mut first = push(&["--limit", "3MB"]).stdout(Stdio::null()).spawn().unwrap();
    let journal = || {
        let left = unfinished(&host.root("")).into_iter();
        let journals = left.filter(|path| path.ends_with(".journal"));
        journals.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum::<u64>()
    };
    eventually("some is durable", || {
        assert_eq!(first.try_wait().unwrap(), None);
        journal() > 2_000
    });
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(hash(&host.root("file")), *blake3::hash(&content).to_hex());
    let ran = run(&mut push(&[]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));
    let [kept, matched, sent] =
        ["kept_bytes", "matched_bytes", "sent_bytes"].map(|it| count(&ran, it));
    assert_eq!(kept + matched + sent, 24 << 20);
    assert!(kept >= 1 << 20, "{ran:?}");
    // Every other block of the rest.
    assert!(sent * 10 <= (matched + sent) * 6, "{ran:?}");
    assert!(unfinished(&host.root("")).is_empty());
    assert_eq!(serve.stop(), Some(0));
}

/// What a client may ask and base on what is there, it has announced, and may read.
mod hostile {
    use super::*;
    use crate::hostile::{Attacker, piece, stripe};
    use qbulk::hashtree::piece_hash;
    use qbulk::wire::{
        BLOCK_QUESTIONS_MAX, Compares, Extras, Header, HostNumber, Keep, Packing, Piece,
        PushNumber, PushRequest, Record, Request, Run, ToReceiver, ToSender, TransferSecret,
    };

    async fn pushing(host: &Host, serve: &Serve, compares: Compares) -> Attacker {
        packing(host, serve, compares, Packing::None).await
    }

    async fn packing(host: &Host, serve: &Serve, compares: Compares, packing: Packing) -> Attacker {
        let mut attacker = Attacker::connect(host, serve).await;
        attacker
            .say(&Request::Push(PushRequest {
                transfer: TransferSecret(rand::random()),
                conn: 0,
                destination: vec![],
                push: PushNumber(rand::random()),
                host: HostNumber([0; 16]),
                keep: Keep::default(),
                extras: Extras::default(),
                is_stream: false,
                compares,
                packing,
            }))
            .await;
        attacker.expect_welcome().await;
        attacker
    }

    const DELTA: Compares = Compares { checksum: false, delta: true };

    fn blocks(question: u64, path: &str, bytes: u64) -> ToReceiver {
        ToReceiver::Blocks { question, path: path.into(), bytes, block_bytes: BLOCK as u64 }
    }

    /// A file of two blocks of which the second is as it is there.
    fn based(item: u64, path: &str, content: &[u8]) -> Piece {
        let whole = piece(item, path.as_bytes(), 4 * BLOCK as u64, 0, &content[..2 * BLOCK]);
        let runs = vec![Run { offset: 0, len: BLOCK as u64 }];
        let hash = piece_hash(0, &content[..2 * BLOCK], 4 * BLOCK as u64);
        Piece { is_based: true, runs, hash, ..whole }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn nobody_learns_of_content_without_having_said_so_or_outside_the_root() {
        let host = Host::new();
        let serve = Serve::start(&host);
        fs::write(host.root("file"), random(1, 4 * BLOCK)).unwrap();
        fs::write(host.outside("secret"), random(2, 4 * BLOCK)).unwrap();
        std::os::unix::fs::symlink(host.outside("secret"), host.root("link")).unwrap();
        std::os::unix::fs::symlink(host.outside(""), host.root("way")).unwrap();
        let mut plain = pushing(&host, &serve, Compares::default()).await;
        plain.say(&blocks(0, "file", 4 * BLOCK as u64)).await;
        plain.expect_closed("may not know what content is there").await;
        let mut asking = pushing(&host, &serve, DELTA).await;
        for (question, path) in ["link", "way/secret", "none", "file"].into_iter().enumerate() {
            asking.say(&blocks(question as u64, path, 4 * BLOCK as u64)).await;
            let Some(ToSender::Hashes { hashes, is_last, .. }) = asking.next().await else {
                panic!("hashes");
            };
            assert_eq!(
                (hashes.len(), is_last),
                (if path == "file" { 4 } else { 0 }, true),
                "{path}"
            );
        }
        asking.say(&blocks(9, "../outside/secret", 4 * BLOCK as u64)).await;
        asking.expect_closed("is not allowed").await;
        // What takes long is not asked for without an end.
        File::create(host.root("huge")).unwrap().set_len(1 << 36).unwrap();
        let mut greedy = pushing(&host, &serve, DELTA).await;
        for question in 0..2 + BLOCK_QUESTIONS_MAX as u64 {
            greedy.say(&blocks(question, "huge", 1 << 36)).await;
        }
        greedy.expect_closed("asks more than it may").await;
        assert_eq!(serve.stop(), Some(0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_based_on_what_is_there_is_verified_and_bounded() {
        let host = Host::new();
        let serve = Serve::start(&host);
        let content = random(1, 4 * BLOCK);
        let mut other = content.clone();
        other[0] ^= 1;
        for name in ["file", "lied"] {
            fs::write(host.root(name), &other).unwrap();
        }
        let based = |item, path| Record::Piece(based(item, path, &content));
        let plain = pushing(&host, &serve, Compares::default()).await;
        plain.send(&stripe(0, &[based(1, "file")], &content[..BLOCK])).await;
        plain.expect_closed("nobody has asked for pieces that are based").await;
        let greedy = pushing(&host, &serve, DELTA).await;
        let many = u64::from(qbulk::wire::CONTENT_BYTES_MAX) / (2 * BLOCK as u64) + 1;
        let records: Vec<_> = (0..many).map(|item| based(item, "file")).collect();
        greedy.send(&stripe(0, &records, &content[..BLOCK].repeat(many as usize))).await;
        greedy.expect_closed("a stripe holds too much").await;

        let mut lying = pushing(&host, &serve, DELTA).await;
        let mut wrong = content.clone();
        wrong[BLOCK] ^= 1;
        let hash = piece_hash(0, &wrong[..2 * BLOCK], 4 * BLOCK as u64);
        let Record::Piece(lied) = based(2, "lied") else { unreachable!() };
        let records = [based(1, "file"), Record::Piece(Piece { hash, ..lied })];
        lying.send(&stripe(0, &records, &content[..BLOCK].repeat(2))).await;
        let rest = |item, path: &str| {
            Record::Piece(piece(
                item,
                path.as_bytes(),
                4 * BLOCK as u64,
                2 * BLOCK as u64,
                &content[2 * BLOCK..],
            ))
        };
        lying
            .send(&stripe(1, &[rest(1, "file"), rest(2, "lied")], &content[2 * BLOCK..].repeat(2)))
            .await;
        let seal = |item| Record::Seal { item, hash: *blake3::hash(&content).as_bytes() };
        lying.send(&stripe(2, &[seal(1), seal(2)], b"")).await;
        let (failed, files) = lying.finish(3).await;
        assert_eq!((failed, files), (vec!["lied".to_owned()], 1));
        assert_eq!(fs::read(host.root("file")).unwrap(), content);
        assert_eq!(fs::read(host.root("lied")).unwrap(), other, "what was there stays");
        assert_eq!(serve.stop(), Some(0));
    }

    /// A stripe whose content is packed, and is said to unpack to no more than so much.
    fn packed(number: u64, record: &Record, content: &[u8], unpacked_bytes_max: u32) -> Vec<u8> {
        let mut table = Vec::new();
        record.encode(&mut table);
        let header = Header {
            stripe: number,
            table_bytes: table.len() as u32,
            content_bytes: content.len() as u32,
            unpacked_bytes_max,
            table_hash: *blake3::hash(&table).as_bytes(),
        };
        let mut out = Vec::new();
        header.encode(&mut out);
        [&out, &table[..], content].concat()
    }

    /// Nothing is unpacked that was not announced, or to more than was said; what is broken is asked for again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_packed_is_announced_and_unpacks_to_no_more_than_is_said() {
        let host = Host::new();
        let serve = Serve::start(&host);
        let content = vec![b'x'; 1 << 20];
        let small = zstd::bulk::compress(&content, 3).unwrap();
        let whole =
            |item, path: &str| Record::Piece(piece(item, path.as_bytes(), 1 << 20, 0, &content));
        let plain = pushing(&host, &serve, Compares::default()).await;
        plain.send(&packed(0, &whole(1, "a"), &small, 1 << 20)).await;
        plain.expect_closed("nobody has asked for packed content").await;
        let mut attacker = packing(&host, &serve, Compares::default(), Packing::Always).await;
        attacker.send(&packed(0, &whole(1, "a"), &small, 1 << 20)).await;
        assert_eq!(attacker.next().await, Some(ToSender::Confirm(0)));
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        for broken in [&small[..small.len() - 1], &bomb, b"no frame", b""] {
            attacker.send(&packed(1, &whole(2, "b"), broken, 1 << 20)).await;
            assert_eq!(attacker.next().await, Some(ToSender::Damaged(1)));
        }
        attacker.send(&packed(1, &whole(2, "b"), &small, 1 << 21)).await;
        assert_eq!(attacker.next().await, Some(ToSender::Confirm(1)));
        // As long as it says, and not as long as its records.
        attacker.send(&packed(2, &whole(3, "c"), &small[..], 1 << 20)).await;
        assert_eq!(attacker.next().await, Some(ToSender::Confirm(2)));
        let longer = zstd::bulk::compress(&vec![b'x'; (1 << 20) + 1], 3).unwrap();
        attacker.send(&packed(3, &whole(4, "d"), &longer, 1 << 21)).await;
        attacker.expect_closed("broke the protocol").await;
        assert!(!host.root("d").exists());
        assert_eq!(serve.stop(), Some(0));
    }
}
