//! Content that is at the destination already: compared, and sent as what differs of it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::{Host, Ran, Serve, hash, random, run, unfinished};

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

    fn source(&self, name: &str) -> std::path::PathBuf {
        let name = format!("from/{name}");
        if self.is_pull { self.host.root(name) } else { self.host.src(name) }
    }

    fn there(&self, name: &str) -> std::path::PathBuf {
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
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&kept), inode(&ends.there("touched")));
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
        let blocks = |path: &Path| {
            std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
        };
        assert!(blocks(&ends.there("holes")) < 8 << 20, "{}", blocks(&ends.there("holes")));
    });
}
