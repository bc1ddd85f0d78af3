//! What is done to the halves that an interrupted push leaves, and to its source, before it is run
//! again; clocks that jump meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::{Host, Ran, Serve, eventually, free_address, hash, names, random, unfinished};
use crate::scene::{MIB, Scene};

const FILE_MIB: u64 = 8;

type Named<F> = (&'static str, F);
type Rewrite = fn(Vec<u8>) -> Vec<u8>;

/// A push of which a good part is durable, and both ends of which were killed. It can be gone on with
/// many times over.
struct Left {
    host: Host,
    /// What was in the root.
    saved: PathBuf,
    /// What is kept if all goes well, in bytes.
    kept: u64,
}

impl Left {
    fn new() -> Self {
        let mut scene = Scene::slow(FILE_MIB, 3e5);
        fs::write(scene.host.root("file"), b"old").unwrap();
        let mut push = scene.push(&[]);
        push.wait_for(FILE_MIB * MIB / 2);
        // What is durable lags behind what has arrived, and by more on a disk that others keep busy.
        scene.hold();
        std::thread::sleep(Duration::from_secs(1));
        for child in [&mut push.child, &mut scene.serve.child] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let host = scene.host;
        let saved = host.dir.path().join("saved");
        copy(&host.root(""), &saved);
        let mut left = Self { host, saved, kept: 0 };
        left.kept = kept(&left.go_on("nothing", |_| {}));
        assert!(left.kept >= FILE_MIB * MIB / 4, "{}", left.kept);
        left
    }

    /// Puts the root back as it was, lets `harm` do something to it, and pushes again: the file is
    /// there, whole, and nothing else is.
    #[track_caller]
    fn go_on(&self, what: &str, harm: impl FnOnce(&Self)) -> Ran {
        self.reset();
        harm(self);
        let serve = Serve::at(&self.host, free_address());
        let ran = self.host.push(self.host.src("file"), &serve.url(""));
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        assert_eq!(hash(&self.host.src("file")), hash(&self.host.root("file")), "{what}");
        // A link that somebody else has put there is not the server's to remove.
        let mut left = names(&self.host.root(""));
        left.retain(|name| {
            !fs::read_link(self.host.root(name)).is_ok_and(|to| to == self.host.outside("file"))
        });
        assert_eq!(left, ["file"], "{what}");
        assert_eq!(serve.stop(), Some(0));
        ran
    }

    fn reset(&self) {
        let root = self.host.root("");
        for entry in fs::read_dir(&root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        copy(&self.saved, &root);
    }

    fn found(&self, suffix: &str) -> PathBuf {
        let paths = unfinished(&self.host.root(""));
        paths.into_iter().find(|path| path.ends_with(suffix)).expect("it is there").into()
    }

    fn journal(&self) -> PathBuf {
        self.found(".journal")
    }

    /// As if the run had been interrupted a while ago.
    fn age_journal(&self) {
        date(&self.journal(), SystemTime::now() - Duration::from_secs(60));
    }

    fn half(&self) -> PathBuf {
        self.found(".part")
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn kept(ran: &Ran) -> u64 {
    ran.summary()["kept_bytes"].as_u64().unwrap()
}

fn set_len(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

fn date(path: &Path, at: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// From years ago, and from years ahead.
fn other_times() -> [SystemTime; 2] {
    let year = Duration::from_secs(365 * 24 * 3_600);
    [SystemTime::now() - 30 * year, SystemTime::now() + 30 * year]
}

#[test]
fn a_journal_that_is_cut_anywhere_costs_what_is_cut() {
    let left = Left::new();
    let whole = fs::metadata({
        left.reset();
        left.journal()
    })
    .unwrap()
    .len();
    let mut before = 0;
    for part in 0..=8 {
        let what = format!("cut to {part} eighths");
        let ran = left.go_on(&what, |left| set_len(&left.journal(), whole * part / 8));
        let kept = kept(&ran);
        assert!(before <= kept && kept <= left.kept, "{what}: {kept} after {before}");
        before = kept;
    }
    assert_eq!(before, left.kept);
}

#[test]
fn a_journal_that_is_damaged_anywhere_costs_the_pieces_that_are_hit() {
    let left = Left::new();
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..8 {
        let mut at = 0;
        let ran = left.go_on("flipped", |left| {
            let mut bytes = fs::read(left.journal()).unwrap();
            at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            fs::write(left.journal(), bytes).unwrap();
        });
        assert!(kept(&ran) + MIB >= left.kept, "at {at}: {} of {}", kept(&ran), left.kept);
    }
    let damage: [Named<Rewrite>; 4] = [
        ("doubled", |bytes| [bytes.as_slice(), &bytes].concat()),
        ("with rubbish before it", |bytes| [vec![b'Q'; 1_000], bytes].concat()),
        ("with rubbish behind it", |bytes| [bytes, vec![b'Q'; 100_000]].concat()),
        ("the wrong way round", |bytes| {
            let (front, back) = bytes.split_at(bytes.len() / 2);
            [back, front].concat()
        }),
    ];
    for (what, harm) in damage {
        let ran = left.go_on(what, |left| {
            let bytes = fs::read(left.journal()).unwrap();
            fs::write(left.journal(), harm(bytes)).unwrap();
        });
        assert!(kept(&ran) + MIB >= left.kept, "{what}: {} of {}", kept(&ran), left.kept);
    }
    let ran = left.go_on("another's", |left| {
        let bytes = fs::read(left.journal()).unwrap().iter().map(|byte| !byte).collect::<Vec<_>>();
        fs::write(left.journal(), bytes).unwrap();
    });
    assert_eq!(kept(&ran), 0);
}

#[test]
fn a_half_that_is_gone_or_of_another_size_is_not_gone_on_with() {
    let left = Left::new();
    let outside = left.host.outside("file");
    let bytes = random(3, (FILE_MIB * MIB) as usize);
    fs::write(&outside, &bytes).unwrap();
    let harm: [Named<fn(&Left)>; 6] = [
        ("deleted", |left| fs::remove_file(left.half()).unwrap()),
        ("truncated", |left| set_len(&left.half(), 3 * MIB + 1)),
        ("emptied", |left| set_len(&left.half(), 0)),
        ("grown", |left| set_len(&left.half(), FILE_MIB * MIB + 1)),
        ("a link that leads out", |left| {
            let half = left.half();
            fs::remove_file(&half).unwrap();
            symlink(left.host.outside("file"), half).unwrap();
        }),
        ("without what it is for", |left| fs::remove_file(left.host.root("file")).unwrap()),
    ];
    for (what, harm) in harm {
        let ran = left.go_on(what, harm);
        let want = if what.starts_with("without") { left.kept } else { 0 };
        assert_eq!(kept(&ran), want, "{what}");
    }
    assert_eq!(fs::read(outside).unwrap(), bytes);
}

#[test]
fn a_half_that_was_changed_is_sent_again_where_it_was() {
    let left = Left::new();
    for at in [0, FILE_MIB * MIB / 2, FILE_MIB * MIB - 1] {
        let ran = left.go_on(&format!("changed at {at}"), |left| {
            let half = File::options().read(true).write(true).open(left.half()).unwrap();
            let mut byte = [0];
            half.read_exact_at(&mut byte, at).unwrap();
            half.write_all_at(&[byte[0] ^ 1], at).unwrap();
            left.age_journal();
        });
        assert!(kept(&ran) <= left.kept, "at {at}");
    }
    // All of it: cut off, and then as long as before.
    let ran = left.go_on("emptied", |left| {
        set_len(&left.half(), 0);
        set_len(&left.half(), FILE_MIB * MIB);
        left.age_journal();
    });
    assert_eq!(kept(&ran), 0);
}

#[test]
fn a_source_that_was_deleted_or_resized_is_told_or_sent_anew() {
    let left = Left::new();
    let source = left.host.src("file");
    for bytes in [0, 1, 3 * MIB + 1, FILE_MIB * MIB - 1, FILE_MIB * MIB + 1] {
        let ran = left.go_on(&format!("{bytes} bytes"), |_| set_len(&source, bytes));
        assert_eq!(kept(&ran), 0, "{bytes} bytes");
    }
    left.reset();
    fs::remove_file(&source).unwrap();
    let serve = Serve::at(&left.host, free_address());
    left.host.push(&source, &serve.url("")).assert_failed(6, "No such file");
    assert_eq!(fs::read(left.host.root("file")).unwrap(), b"old");
    // A folder in its place is another thing to push.
    fs::create_dir(&source).unwrap();
    fs::write(source.join("in"), b"in").unwrap();
    let ran = left.host.push(&source, &serve.url("new"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read(left.host.root("new/file/in")).unwrap(), b"in");
}

#[test]
fn clocks_that_jump_cost_nothing_that_is_kept() {
    let left = Left::new();
    for time in other_times() {
        // The server's: its halves seem to be very old, or not written yet.
        left.reset();
        let stays = time > SystemTime::now();
        for path in [left.journal(), left.half()] {
            date(&path, time);
        }
        let serve = Serve::at(&left.host, free_address());
        if stays {
            let ran = left.host.push(left.host.src("file"), &serve.url(""));
            assert_eq!((ran.code, kept(&ran)), (0, left.kept), "{ran:?}");
        } else {
            eventually("they are removed", || unfinished(&left.host.root("")).is_empty());
        }
        assert_eq!(serve.stop(), Some(0));
    }
    // The client's: what it has learned of the path is of another age.
    let paths = left.host.dir.path().join("cache/paths.json");
    fs::create_dir_all(paths.parent().unwrap()).unwrap();
    for second in ["0", "99999999999"] {
        let path = format!("\"rtt_min_us\": 1, \"in_flight_bytes\": 1, \"saved_at\": {second}");
        let learned = format!("{{\"127.0.0.1\": {{{path}}}}}");
        let ran = left.go_on(second, |_| fs::write(&paths, &learned).unwrap());
        assert_eq!(kept(&ran), left.kept);
    }
}

#[test]
fn files_from_other_times_arrive_with_them_and_are_known_again() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    let times = [SystemTime::UNIX_EPOCH - Duration::new(86_400, 5), SystemTime::UNIX_EPOCH];
    for (number, time) in times.into_iter().chain(other_times()).enumerate() {
        let path = top.join(number.to_string());
        fs::write(&path, random(number as u64, 300_000)).unwrap();
        date(&path, time);
    }
    for _ in 0..2 {
        let ran = host.push(&top, &serve.url(""));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(crate::common::tree(&top), crate::common::tree(&host.root("tree")));
    }
    // The clock is put back between two runs: what was written since seems older than what was there.
    let file = File::options().write(true).open(top.join("0")).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(host.push(&top, &serve.url("")).code, 0);
    assert_eq!(crate::common::tree(&top), crate::common::tree(&host.root("tree")));
}
