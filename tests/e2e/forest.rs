//! Random trees, and others that are like them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rand::rngs::SmallRng;

const NAMES: [&str; 7] = ["a", "b", "c", "d.o", "e f", "*", "g"];
/// When files were modified, in seconds since 1970, about.
const OLD: u64 = 1_000_000_000;

/// What there is at a name.
#[derive(Clone, Copy)]
enum Kind {
    File,
    Folder,
    Link,
}

/// Lets trees grow at both places. What has the same name is of the same kind, unless that is a file or a link.
pub(crate) fn grow(random: &mut SmallRng, from: &Path, to: &Path, depth: usize) {
    for place in [from, to] {
        fs::create_dir_all(place).unwrap();
    }
    for name in NAMES {
        let (ours, theirs) = (from.join(name), to.join(name));
        let kind = match random.random_range(0..7) {
            0 | 1 if depth > 0 => Kind::Folder,
            2 => Kind::Link,
            3..=5 => Kind::File,
            _ => continue,
        };
        match random.random_range(0..4) {
            0 => plant(random, kind, &ours, depth),
            1 => plant(random, kind, &theirs, depth),
            _ => match kind {
                Kind::Folder => grow(random, &ours, &theirs, depth - 1),
                other => {
                    plant(random, other, &ours, depth);
                    let is_other = random.random_range(0..8) == 0;
                    plant(random, if is_other { Kind::Link } else { other }, &theirs, depth);
                }
            },
        }
    }
}

fn plant(random: &mut SmallRng, kind: Kind, path: &Path, depth: usize) {
    match kind {
        Kind::File => {
            let bytes = random.random_range(1..3);
            let (mode, content) =
                if random.random_range(0..4) == 0 { (0o600, b'y') } else { (0o644, b'x') };
            fs::write(path, vec![content; bytes]).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let mtime = OLD + random.random_range(0..2);
            let file = File::options().read(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime)).unwrap();
        }
        Kind::Link => symlink(["a", "none"][random.random_range(0..2)], path).unwrap(),
        Kind::Folder => {
            fs::create_dir(path).unwrap();
            for name in NAMES {
                let kind = match random.random_range(0..6) {
                    0 if depth > 1 => Kind::Folder,
                    1 => Kind::Link,
                    2 => Kind::File,
                    _ => continue,
                };
                plant(random, kind, &path.join(name), depth.saturating_sub(1));
            }
        }
    }
}
