//! Systems and file systems that cannot do all that is asked of them.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::geteuid;
use serde_json::Value;

use crate::common::{Host, Serve, hash, names, random, run, tree, unfinished};
use crate::sandbox::Sandbox;

fn number(errno: Errno) -> i32 {
    errno.raw_os_error()
}

/// Files of all kinds of sizes, one with holes.
fn tree_of(host: &Host) -> PathBuf {
    let top = host.src("tree");
    fs::create_dir_all(top.join("folder")).unwrap();
    for file in 0..20 {
        fs::write(top.join(format!("folder/{file}")), random(file, 100 * file as usize)).unwrap();
    }
    fs::write(top.join("large"), random(1, 3 << 20)).unwrap();
    let holed = File::create(top.join("holed")).unwrap();
    holed.set_len(4 << 20).unwrap();
    holed.write_all_at(&random(2, 100_000), 2 << 20).unwrap();
    top
}

fn serve_in(host: &Host, sandbox: &Sandbox) -> Serve {
    let mut command = host.qbulk();
    command.args(Serve::arguments(host)).args(["--listen", "127.0.0.1:0"]);
    Serve::spawn(host, sandbox.around(&command))
}

#[test]
fn calls_that_are_courtesies_may_be_refused() {
    let (lacking, denied, invalid) =
        (number(Errno::NOSYS), number(Errno::PERM), number(Errno::INVAL));
    let rules: [&[(&str, i32)]; 3] = [
        &[("flock", lacking), ("faccessat2", denied), ("fallocate", denied), ("openat2", denied)],
        &[("flock", number(Errno::NOLCK)), ("fallocate", invalid), ("syncfs", lacking)],
        &[("flock", number(Errno::OPNOTSUPP)), ("openat2", lacking), ("fstatfs", lacking)],
    ];
    for rules in rules {
        let sandbox = Sandbox::new(rules);
        if !sandbox.is_there("calls_that_are_courtesies_may_be_refused") {
            return;
        }
        let host = Host::new();
        let top = tree_of(&host);
        let serve = serve_in(&host, &sandbox);
        let ran = host.push(&top, &serve.url(""));
        assert_eq!(ran.code, 0, "{rules:?}: {ran:?}");
        assert_eq!(tree(&top), tree(&host.root("tree")), "{rules:?}");
        assert!(unfinished(&host.root("")).is_empty(), "{rules:?}");
        assert_eq!(serve.stop(), Some(0));
    }
}

/// A file system or folder that keeps neither modes nor times, as FAT and other people's folders.
#[test]
fn content_arrives_where_metadata_cannot_be_kept_and_that_is_told_once() {
    let refused = [("fchmod", number(Errno::PERM)), ("utimensat", number(Errno::OPNOTSUPP))];
    let sandbox = Sandbox::new(&refused);
    if !sandbox.is_there("content_arrives_where_metadata_cannot_be_kept...") {
        return;
    }
    let host = Host::new();
    let top = tree_of(&host);
    symlink("folder", top.join("link")).unwrap();
    let files: Vec<_> = names(&top).into_iter().filter(|name| top.join(name).is_file()).collect();
    let serve = serve_in(&host, &sandbox);
    let cases: [(&[&str], i32, [bool; 2]); 4] = [
        (&[], 1, [true, true]),
        (&["--no-perms"], 1, [false, true]),
        (&["--no-times"], 1, [true, false]),
        (&["--no-perms", "--no-times"], 0, [false, false]),
    ];
    for (options, code, told) in cases {
        let url = serve.url(&format!("{code}{}/", options.join("")));
        let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        args.push(top.as_ref());
        let ran = run(&mut host.pushing(&args, &url));
        assert_eq!(ran.code, code, "{options:?}: {ran:?}");
        let root = host.root(format!("{code}{}/tree", options.join("")));
        for name in &files {
            assert_eq!(hash(&top.join(name)), hash(&root.join(name)), "{options:?}: {name}");
        }
        let summary = ran.summary();
        assert_eq!((&summary["failed"], &summary["files"]), (&0.into(), &files.len().into()));
        let events = ran.events();
        for (what, told) in ["modes", "times"].into_iter().zip(told) {
            let of = |event: &&Value| event["event"] == "not_kept" && event["what"] == what;
            let events: Vec<_> = events.iter().filter(of).collect();
            assert_eq!(events.len(), usize::from(told), "{options:?}: {what}: {events:?}");
            let count = &summary[format!("{what}_not_kept")];
            assert_eq!(count.as_u64() > Some(files.len() as u64), told, "{options:?}: {summary}");
        }
    }
    assert!(unfinished(&host.root("")).is_empty());
    assert_eq!(serve.stop(), Some(0));
}

/// A folder of somebody else's, in which one may write.
#[test]
fn a_folder_of_anothers_takes_what_is_pushed_into_it() {
    let host = Host::unprivileged();
    let shared = host.root("tree");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    if !geteuid().is_root() {
        eprintln!("a_folder_of_anothers...: skipped: only root can give a folder to another");
        return;
    }
    let top = tree_of(&host);
    for (options, code) in [(&[][..], 1), (&["--no-perms", "--omit-dir-times"], 0)] {
        let serve = Serve::start(&host);
        let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        args.push(top.as_ref());
        let ran = run(&mut host.pushing(&args, &serve.url("")));
        assert_eq!(ran.code, code, "{options:?}: {ran:?}");
        assert_eq!(ran.summary()["modes_not_kept"], code);
        assert_eq!(ran.summary()["times_not_kept"], code);
        assert_eq!(hash(&top.join("large")), hash(&shared.join("large")));
        assert_eq!(fs::metadata(&shared).unwrap().permissions().mode() & 0o777, 0o777);
    }
}

#[test]
fn without_permissions_what_is_replaced_keeps_its_own() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: PathBuf, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let top = host.src("tree");
    fs::create_dir_all(top.join("folder")).unwrap();
    fs::create_dir_all(host.root("tree/folder")).unwrap();
    for name in ["new", "old"] {
        fs::write(top.join(name), name).unwrap();
        set(top.join(name), 0o777);
    }
    fs::write(host.root("tree/old"), b"before").unwrap();
    set(host.root("tree/old"), 0o604);
    set(host.root("tree/folder"), 0o705);
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in [top.join("folder"), top.join("new")] {
        File::open(path).unwrap().set_modified(then).unwrap();
    }
    let args = ["--no-perms".as_ref(), "--omit-dir-times".as_ref(), top.as_os_str()];
    let ran = run(&mut host.pushing(&args, &serve.url("")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read(host.root("tree/old")).unwrap(), b"old");
    assert_eq!(mode(host.root("tree/old")), 0o604);
    assert_eq!(mode(host.root("tree/folder")), 0o705);
    let mask = mode(host.root("tree/new"));
    assert!(mask & 0o700 == 0o700 && mask != 0o777 || mask == mode(top.join("new")), "{mask:o}");
    let verify = |options: &[&str]| {
        let url = serve.url("");
        let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        args.extend([top.as_os_str(), url.as_ref()]);
        host.verify(&args)
    };
    assert_eq!(verify(&["--no-times"]).findings()["tree/old"], "mode");
    assert_eq!(verify(&["--no-perms"]).code, 0);
    let modified = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(modified(host.root("tree/new")), then);
    assert_ne!(modified(host.root("tree/folder")), then);
}

#[test]
fn folders_that_are_read_only_are_pushed_to_again_and_again() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    let set = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let top = host.src("cache");
    let folders = ["", "mod", "mod/v1", "mod/v1/in"];
    for folder in folders {
        fs::create_dir_all(top.join(folder)).unwrap();
        for file in 0..5 {
            let path = top.join(folder).join(format!("{file}.go"));
            fs::write(&path, random(file, 1_000)).unwrap();
            set(&path, 0o444);
        }
        symlink("0.go", top.join(folder).join("link")).unwrap();
    }
    fs::write(top.join("mod/v1/large"), random(9, 3 << 20)).unwrap();
    for folder in folders.iter().rev() {
        set(&top.join(folder), 0o555);
    }
    for _ in 0..2 {
        let ran = host.push(&top, &serve.url(""));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(tree(&top), tree(&host.root("cache")));
    }
    // One file into a folder whose own mode is not sent: it is as it was afterwards.
    fs::write(host.src("more"), b"more").unwrap();
    let ran = host.push(host.src("more"), &serve.url("cache/mod/v1/"));
    assert_eq!(ran.code, 0, "{ran:?}");
    let mode = fs::metadata(host.root("cache/mod/v1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
    assert_eq!(fs::read(host.root("cache/mod/v1/more")).unwrap(), b"more");
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn a_source_that_cannot_tell_its_holes_is_sent_as_it_reads() {
    read_in_sandbox("lseek", Errno::INVAL);
}

#[test]
fn a_source_is_read_where_the_system_cannot_open_below_a_folder() {
    read_in_sandbox("openat2", Errno::NOSYS);
    read_in_sandbox("openat2", Errno::PERM);
}

/// Pushes where a call fails so.
#[track_caller]
fn read_in_sandbox(call: &str, errno: Errno) {
    let sandbox = Sandbox::new(&[(call, number(errno))]);
    if !sandbox.is_there("a push in a sandbox") {
        return;
    }
    let host = Host::new();
    let top = tree_of(&host);
    let serve = Serve::start(&host);
    let ran = run(&mut sandbox.around(&host.pushing(&[top.as_ref()], &serve.url(""))));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(tree(&top), tree(&host.root("tree")));
    assert_eq!(names(&host.root("")).len(), tree(&top).len());
}
