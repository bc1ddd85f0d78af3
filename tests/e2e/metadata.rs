//! Owners, devices, hard links, attributes and ACLs: what arrives is what rsync would make of it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev};
use rustix::process::geteuid;
use walkdir::WalkDir;

use crate::common::{Host, Ran, Serve, random, run, unfinished};

const IDS: [u32; 6] = [0, 1, 2, 33, 65_534, 77_777];
const MODES: [u32; 9] = [0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o6711, 0o444];

/// Whether rsync can say what is right, and this can be done here.
fn can_compare(test: &str) -> bool {
    let has_rsync = Command::new("rsync").arg("--version").output().is_ok();
    let dir = tempfile::tempdir().unwrap();
    let keeps =
        |name: &str| rustix::fs::setxattr(dir.path(), name, b"x", XattrFlags::empty()).is_ok();
    let can = has_rsync && geteuid().is_root() && keeps("user.a") && keeps("trusted.a");
    if !can {
        eprintln!("{test}: skipped: it takes root, rsync, and a file system with attributes");
    }
    can
}

/// What rsync would still change at `to`, a line for each; both are written as rsync is told them.
fn differences(from: &str, to: &str) -> String {
    let options = ["-aHAXn", "--delete", "--checksum", "--itemize-changes"];
    let ran = run(Command::new("rsync").args(options).args([from, to]));
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

/// An ACL for one user more, as the system keeps it.
fn acl(mask: u16, others: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (1, 7, u32::MAX),
        (2, 5, 1_000),
        (4, 5, u32::MAX),
        (16, mask, u32::MAX),
        (32, others, u32::MAX),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A tree of all that there can be.
fn plant(top: &Path, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let pick = |rng: &mut SmallRng, from: &[u32]| from[rng.random_range(0..from.len())];
    fs::create_dir_all(top).unwrap();
    let (mut folders, mut files) = (vec![top.to_owned()], Vec::<PathBuf>::new());
    let mut all = Vec::new();
    for number in 0..110 {
        let path = folders[rng.random_range(0..folders.len())].join(format!("{number}"));
        match rng.random_range(0..100) {
            0..12 => {
                fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            12..60 => {
                let sizes = [0, 1, 100, 5_000, 70_000, 300_000, 2_500_000];
                let bytes = pick(&mut rng, &sizes) as usize;
                fs::write(&path, random(number, bytes)).unwrap();
                files.push(path.clone());
            }
            60..70 => symlink(["x", "/etc/passwd", "../1"][number as usize % 3], &path).unwrap(),
            70..78 => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }
            78..82 => drop(UnixListener::bind(&path).unwrap()),
            82..88 => {
                let kind = [FileType::CharacterDevice, FileType::BlockDevice][number as usize % 2];
                let device = makedev(1, number as u32);
                rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, device).unwrap();
            }
            _ if files.is_empty() => continue,
            _ => {
                fs::hard_link(&files[rng.random_range(0..files.len())], &path).unwrap();
                continue;
            }
        }
        all.push(path);
    }
    // What is in a folder comes before it.
    for path in all.iter().rev().chain([&top.to_owned()]) {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        lchown(path, Some(pick(&mut rng, &IDS)), Some(pick(&mut rng, &IDS))).unwrap();
        if !kind.is_symlink() {
            fs::set_permissions(path, Permissions::from_mode(pick(&mut rng, &MODES))).unwrap();
        }
        if kind.is_file() || kind.is_dir() {
            for (name, value, percent) in [
                ("user.empty", vec![], 30),
                ("user.large", random(7, 900), 30),
                ("system.posix_acl_access", acl(pick(&mut rng, &[4, 5, 7]) as u16, 0), 30),
            ] {
                if rng.random_ratio(percent, 100) {
                    set(path, name, &value);
                }
            }
        }
        if kind.is_file() && rng.random_ratio(1, 4) {
            let mut capability = vec![0; 20];
            capability[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
            set(path, "security.capability", &capability);
        }
        if kind.is_dir() && rng.random_ratio(1, 3) {
            set(path, "system.posix_acl_default", &acl(5, 4));
        }
        if rng.random_ratio(1, 4) {
            set(path, "trusted.a", b"trusted");
        }
        set_mtime(path, rng.random_range(0..2_000_000_000), rng.random_range(0..1_000_000_000));
    }
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn push(host: &Host, options: &[&str], source: &str, serve: &Serve) -> Ran {
    let source = host.src(source);
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.push(source.as_ref());
    run(&mut host.pushing(&args, &serve.url("")))
}

#[test]
fn whatever_a_tree_has_arrives_as_rsync_would_have_it() {
    if !can_compare("whatever_a_tree_has") {
        return;
    }
    for seed in [1, 2] {
        let host = Host::new();
        plant(&host.src("tree"), seed);
        let serve = Serve::with(&host, &["--super"]);
        let (from, to) = (host.src("tree/"), host.root("tree/"));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let ran = push(&host, &["-aHAX"], "tree", &serve);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(differences(from, to), "", "seed {seed}");

        // What changes beside the content of what is there is sent without it.
        let found = WalkDir::new(host.src("tree")).into_iter().map(Result::unwrap);
        let files = found.filter(|found| found.file_type().is_file());
        let files: Vec<_> = files.map(walkdir::DirEntry::into_path).collect();
        for (number, path) in files.iter().enumerate().step_by(3) {
            let time = fs::metadata(path).unwrap();
            match number % 4 {
                0 => chown(path, Some(5), Some(6)).unwrap(),
                1 => fs::set_permissions(path, Permissions::from_mode(0o4700)).unwrap(),
                2 => set(path, "user.new", b"new"),
                _ => drop(rustix::fs::removexattr(path, "user.large")),
            }
            set_mtime(path, time.mtime(), time.mtime_nsec() as u32);
        }
        let ran = push(&host, &["-aHAX"], "tree", &serve);
        assert_eq!((ran.code, ran.summary()["files"].as_u64()), (0, Some(0)), "{ran:?}");
        assert_eq!(differences(from, to), "", "seed {seed}, changed");

        fs::create_dir(host.src("back")).unwrap();
        let mut pull = host.qbulk();
        pull.args(["pull", "--json", "-aHAX", &serve.url("tree/")]).arg(host.src("back"));
        let ran = run(&mut pull);
        assert_eq!(ran.code, 0, "{ran:?}");
        let back = host.src("back/");
        assert_eq!(differences(to, back.to_str().unwrap()), "", "seed {seed}, pulled");
    }
}

#[test]
fn without_the_options_or_leave_nothing_is_kept_beyond_modes_and_times() {
    if !can_compare("without_the_options_or_leave") {
        return;
    }
    let host = Host::new();
    let file = host.src("file");
    fs::write(&file, b"data").unwrap();
    let owner = |name: &str| {
        let found = fs::symlink_metadata(host.root(name)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    chown(&file, Some(33), Some(33)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();
    set(&file, "user.a", b"a");
    set(&file, "trusted.a", b"a");
    let get = |name: &str| {
        let mut value = [0; 9];
        rustix::fs::getxattr(host.root("file"), name, &mut value).is_ok()
    };
    let not_kept = |ran: &Ran| {
        let told = ran.events().into_iter().filter(|event| event["event"] == "not_kept");
        let what = told.map(|event| (event["what"].clone(), event["reason"].to_string()));
        what.map(|(what, why)| (what.as_str().unwrap().to_owned(), why)).collect::<Vec<_>>()
    };

    let serve = Serve::start(&host);
    let ran = push(&host, &[], "file", &serve);
    assert_eq!((ran.code, owner("file")), (0, (0, 0, 0o755)), "{ran:?}");
    assert!(!get("user.a") && not_kept(&ran).is_empty());
    // It is root that receives, and its operator has not said that clients may do what root can.
    for (options, code) in [(["-a", "-X"], 1), (["-o", "-g"], 1), (["-a", "-I"], 0)] {
        let ran = push(&host, &options, "file", &serve);
        assert_eq!((ran.code, owner("file")), (code, (0, 0, 0o755)), "{ran:?}");
        let told = not_kept(&ran);
        let owners: Vec<_> = told.iter().filter(|(what, _)| what == "owners").collect();
        assert!(owners.len() == 1 && owners[0].1.contains("--super"), "{told:?}");
        assert_eq!(told.iter().filter(|(what, _)| what == "special_bits").count(), 1);
        assert_eq!(told.iter().any(|(what, _)| what == "xattrs"), options[1] == "-X");
    }
    assert!(!get("trusted.a"));
    drop(serve);

    // Whoever is not root is told what that takes.
    let host = Host::unprivileged();
    fs::write(host.src("mine"), b"data").unwrap();
    fs::write(host.src("roots"), b"data").unwrap();
    chown(host.src("mine"), Some(65_534), Some(65_534)).unwrap();
    let serve = Serve::start(&host);
    let ran = push(&host, &["-aHAX"], "mine", &serve);
    assert_eq!((ran.code, not_kept(&ran)), (0, vec![]), "{ran:?}");
    for (option, code) in [("-a", 0), ("-o", 1)] {
        let ran = push(&host, &[option], "roots", &serve);
        let told = not_kept(&ran);
        assert_eq!((ran.code, told.len()), (code, 1), "{ran:?}");
        assert!(told[0].0 == "owners" && told[0].1.contains("root"), "{told:?}");
    }
    let ran = push(&host, &["-a", "--no-owner", "--no-group", "-I"], "roots", &serve);
    assert_eq!((ran.code, not_kept(&ran)), (0, vec![]), "{ran:?}");
}

#[test]
fn names_of_one_file_are_names_of_one_file_there_however_often_it_is_pushed() {
    let host = Host::new();
    let inode = |name: &str| fs::symlink_metadata(host.root(name)).unwrap().ino();
    fs::create_dir_all(host.src("tree/deep")).unwrap();
    fs::write(host.src("tree/one"), random(1, 3_000_000)).unwrap();
    fs::write(host.src("tree/small"), b"small").unwrap();
    fs::write(host.src("tree/alone"), b"alone").unwrap();
    for (of, name) in [("one", "deep/two"), ("one", "three"), ("small", "deep/tiny")] {
        fs::hard_link(host.src("tree").join(of), host.src("tree").join(name)).unwrap();
    }
    // One of them has another name that is not sent.
    fs::hard_link(host.src("tree/alone"), host.src("elsewhere")).unwrap();
    let serve = Serve::with(&host, &["--access", "both"]);
    for round in 0..3 {
        if round == 2 {
            // What is there under one of the names is replaced.
            fs::remove_file(host.root("tree/three")).unwrap();
            fs::write(host.root("tree/three"), b"other").unwrap();
        }
        let ran = push(&host, &["-H"], "tree", &serve);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(inode("tree/one"), inode("tree/deep/two"));
        assert_eq!(inode("tree/one"), inode("tree/three"), "round {round}");
        assert_eq!(inode("tree/small"), inode("tree/deep/tiny"));
        assert_eq!(fs::read(host.root("tree/three")).unwrap(), random(1, 3_000_000));
        assert_eq!(fs::read(host.root("tree/alone")).unwrap(), b"alone");
    }
    drop(serve);
    // Whoever may not read there has everything sent, and linked to what was sent.
    for access in ["write", "append"] {
        let host = Host::new();
        fs::write(host.src("one"), b"one").unwrap();
        fs::hard_link(host.src("one"), host.src("two")).unwrap();
        let serve = Serve::with(&host, &["--access", access]);
        let ran = push(&host, &["-H"], "", &serve);
        assert_eq!(ran.code, 0, "{ran:?}");
        let inode = |name: &str| fs::symlink_metadata(host.root(name)).unwrap().ino();
        assert_eq!(inode("one"), inode("two"), "{access}");
    }
}

#[test]
fn a_file_of_which_the_first_name_cannot_be_written_fails_with_all_its_names() {
    let host = Host::new();
    fs::create_dir(host.src("tree")).unwrap();
    let mut found = Vec::new();
    for name in ["a", "b"] {
        fs::write(host.src("tree").join(name), name).unwrap();
        fs::hard_link(host.src("tree").join(name), host.src("tree").join(format!("{name}2")))
            .unwrap();
        // Whichever comes first, it is in the way.
        for name in [name.to_owned(), format!("{name}2")] {
            fs::create_dir_all(host.root("tree").join(&name)).unwrap();
            found.push(name);
        }
    }
    let serve = Serve::start(&host);
    let ran = push(&host, &["-H"], "tree", &serve);
    assert_eq!((ran.code, ran.summary()["failed"].as_u64()), (1, Some(4)), "{ran:?}");
    for name in found {
        assert!(host.root("tree").join(name).is_dir());
    }
    assert!(unfinished(&host.root("")).is_empty());
}

#[test]
fn a_folder_that_is_pulled_into_gets_the_time_of_the_one_that_is_pulled() {
    let host = Host::new();
    fs::create_dir_all(host.root("tree/sub")).unwrap();
    fs::write(host.root("tree/file"), b"data").unwrap();
    fs::set_permissions(host.root("tree"), Permissions::from_mode(0o750)).unwrap();
    set_mtime(&host.root("tree"), 1_000_000_000, 7);
    let serve = Serve::start(&host);
    let into = host.src("into");
    fs::create_dir(&into).unwrap();
    for round in 0..2 {
        let mut pull = host.qbulk();
        let ran = run(pull.args(["pull", "--json", &serve.url("tree/")]).arg(&into));
        assert_eq!(ran.code, 0, "{ran:?}");
        let found = fs::metadata(&into).unwrap();
        let told = (found.mtime(), found.mtime_nsec(), found.mode() & 0o777);
        assert_eq!(told, (1_000_000_000, 7, 0o750), "round {round}");
    }
    // What is put into a folder beside other things leaves that folder as it is.
    let before = fs::metadata(host.src("")).unwrap().mode();
    let ran = run(host.qbulk().args(["pull", "--json", &serve.url("tree")]).arg(host.src("")));
    assert_eq!((ran.code, fs::metadata(host.src("")).unwrap().mode()), (0, before), "{ran:?}");
}
