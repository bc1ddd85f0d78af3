//! Targets that cannot take what is sent.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Host, Serve, eventually, finish, hash, names, random, run, tree, unfinished};
use crate::relay::{Lanes, Path as Lane, Relay};

#[test]
fn a_target_that_is_read_only_is_refused_at_once() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    fs::create_dir(host.root("locked")).unwrap();
    let lock =
        |path: PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    lock(host.root("locked"), 0o555);
    lock(host.root(""), 0o555);
    for path in ["", "new/"] {
        let ran = host.push(host.src("file"), &serve.url(path));
        ran.assert_failed(5, "Permission denied");
    }
    assert_eq!(names(&host.root("")), ["locked"]);
    // Below the root, a folder of the server's own is opened up meanwhile.
    let owner = fs::metadata(host.root("")).unwrap().uid();
    chown(host.root("locked"), Some(owner), Some(owner)).unwrap();
    let ran = host.push(host.src("file"), &serve.url("locked/"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(names(&host.root("")), ["locked", "locked/file"]);
    assert_eq!(fs::metadata(host.root("locked")).unwrap().permissions().mode() & 0o777, 0o555);
    lock(host.root("locked"), 0o755);
    lock(host.root(""), 0o755);
}

#[test]
fn a_file_above_the_servers_limit_fails_and_the_others_arrive() {
    let host = Host::new();
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("large"), random(1, 8 << 20)).unwrap();
    fs::write(top.join("small"), random(2, 1_000)).unwrap();
    // At most 2 or 4 MiB a file, as the shell counts.
    let mut command = host.qbulk_after("ulimit -f 4096");
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    let serve = Serve::spawn(&host, command);
    let ran = host.push(&top, &serve.url(""));
    ran.assert_failed(1, "File too large");
    let summary = ran.summary();
    assert_eq!((&summary["failed"], &summary["files"]), (&1.into(), &1.into()), "{summary}");
    assert!(summary["failures"][0]["path"].as_str().unwrap().ends_with("tree/large"), "{summary}");
    assert_eq!(names(&host.root("")), ["tree", "tree/small"]);
    assert_eq!(hash(&top.join("small")), hash(&host.root("tree/small")));
}

/// Every folder and file that is being written is open at the server, and there are more of them than it may
/// have open: that is waited out, whoever else pushes.
#[test]
fn a_server_with_few_descriptors_takes_many_folders_from_many_clients() {
    const FOLDERS: usize = 150;
    let host = Host::new();
    let top = host.src("tree");
    for folder in 0..FOLDERS {
        fs::create_dir_all(top.join(folder.to_string())).unwrap();
        fs::write(top.join(folder.to_string()).join("file"), folder.to_string()).unwrap();
    }
    let large = host.src("large");
    fs::create_dir(&large).unwrap();
    // Cut in two: unfinished for a while.
    for number in 0..30 {
        fs::write(large.join(number.to_string()), random(number, 96 << 10)).unwrap();
    }
    let clients = [Host::new(), Host::new(), Host::new()];
    let mut command = host.qbulk_after("ulimit -n 128");
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    for client in &clients {
        command.args(["--authorize", &client.id()]);
    }
    let serve = Serve::spawn(&host, command);
    let at_rest = serve.open_files();
    let pushes: Vec<_> = (0..)
        .zip(&clients)
        .map(|(push, client)| {
            let args = [top.as_ref(), large.as_ref(), "--stripe-max".as_ref(), "64KiB".as_ref()];
            let mut command = client.pushing(&args, &serve.url(&format!("{push}/")));
            command.args(["--fingerprint", &host.id()]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for push in pushes {
        let ran = finish(push);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    for push in 0..3 {
        assert_eq!(tree(&top), tree(&host.root(format!("{push}/tree"))));
        assert_eq!(tree(&large), tree(&host.root(format!("{push}/large"))));
    }
    eventually("the server lets go of everything", || serve.open_files() <= at_rest);
}

/// A file system of 8 MiB, for as long as it lives.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(at: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "qbulk-test"]).arg(at);
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then(|| Self(at))
    }

    fn resize(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.arg("-o").arg(format!("remount,size={size}")).arg(self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

#[test]
fn a_full_disk_ends_the_transfer_which_goes_on_once_there_is_room() {
    let host = Host::new();
    let root = host.root("");
    let Some(_mount) = Mount::new(&root) else {
        eprintln!("a_full_disk_ends_the_transfer...: skipped: no file system can be mounted here");
        return;
    };
    fs::write(host.root("large"), b"old").unwrap();
    let serve = Serve::start(&host);
    fs::write(host.src("large"), random(1, 32 << 20)).unwrap();
    let ran = host.push(host.src("large"), &serve.url(""));
    ran.assert_failed(1, "No space left on device");
    serve.event("finished");
    assert_eq!(fs::read(host.root("large")).unwrap(), b"old");
    assert_eq!(names(&root), ["large"]);

    // Many small ones fill it as well; those that are there are whole.
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    for number in 0..24 {
        fs::write(top.join(number.to_string()), random(number, 256 << 10)).unwrap();
    }
    fs::write(host.root("ballast"), random(1, 5 << 20)).unwrap();
    host.push(&top, &serve.url("")).assert_failed(5, "No space left on device");
    serve.event("aborted");
    let is_whole = |name: &String| hash(&top.join(name)) == hash(&host.root("tree").join(name));
    let there = || names(&host.root("tree")).into_iter().filter(|name| !name.starts_with('.'));
    let whole = there().count();
    assert!((4..24).contains(&whole) && there().all(|name| is_whole(&name)), "{whole}");

    fs::remove_file(host.root("ballast")).unwrap();
    let ran = host.push(&top, &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.summary()["kept_files"].as_u64() >= Some(4), "{ran:?}");
    assert_eq!(tree(&top), tree(&host.root("tree")));
    assert!(unfinished(&root).is_empty());
    fs::remove_dir_all(host.root("tree")).unwrap();

    // Of a sparse file it is known only in the end how much of it there is.
    for (data, code) in [(1 << 20, 0), (16 << 20, 5)] {
        let sparse = File::create(host.src("sparse")).unwrap();
        sparse.write_all_at(&random(1, data), 1 << 30).unwrap();
        let ran = host.push(host.src("sparse"), &serve.url(""));
        assert_eq!(ran.code, code, "{ran:?}");
    }
    drop(serve);
}

/// No room is reserved for a file with holes: the disk is full in the middle of it.
#[test]
fn a_disk_that_is_full_in_the_middle_of_a_file_keeps_what_is_there() {
    let host = Host::new();
    let root = host.root("");
    let Some(mount) = Mount::new(&root) else {
        eprintln!(
            "a_disk_that_is_full_in_the_middle...: skipped: no file system can be mounted here"
        );
        return;
    };
    let source = File::create(host.src("holed")).unwrap();
    source.set_len(64 << 20).unwrap();
    source.write_all_at(&random(1, 12 << 20), 32 << 20).unwrap();
    let serve = Serve::start(&host);
    // Slowly, so that what is there is noted before there is no room for that either.
    let relay = Relay::start(serve.address, Lane { bytes_per_s: 1e6, ..Lane::default() });
    let ran = run(&mut relay.pushing(&host, &[host.src("holed").as_ref()]));
    ran.assert_failed(5, "No space left on device");
    serve.event("aborted");
    assert_eq!(names(&root).len(), unfinished(&root).len(), "nothing but what is kept");
    mount.resize("64m");
    let ran = host.push(host.src("holed"), &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.summary()["kept_bytes"].as_u64() >= Some(1 << 20), "{ran:?}");
    assert_eq!(hash(&host.src("holed")), hash(&host.root("holed")));
    assert_eq!(names(&root), ["holed"]);
    drop(serve);
}

/// One folder's mount is full or read-only: the rest arrives, and only that is to be sent again.
#[test]
fn what_lies_on_a_full_or_read_only_mount_fails_and_the_rest_arrives() {
    let host = Host::new();
    for folder in ["tree/full", "tree/fixed"] {
        fs::create_dir_all(host.root(folder)).unwrap();
    }
    let (full, fixed) = (host.root("tree/full"), host.root("tree/fixed"));
    let (Some(full), Some(fixed)) = (Mount::new(&full), Mount::new(&fixed)) else {
        eprintln!("what_lies_on_a_full...: skipped: no file system can be mounted here");
        return;
    };
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{how}")]).arg(fixed.0).status();
        assert!(status.unwrap().success());
    };
    fs::write(host.root("tree/full/ballast"), random(1, 7 << 20)).unwrap();
    remount("ro");
    let top = host.src("tree");
    for folder in ["full", "fixed", "well"] {
        fs::create_dir_all(top.join(folder)).unwrap();
        fs::write(top.join(folder).join("large"), random(2, 5 << 20)).unwrap();
        for number in 0..20 {
            fs::write(top.join(folder).join(number.to_string()), random(number, 3_000)).unwrap();
        }
    }
    let serve = Serve::start(&host);
    let ran = host.push(&top, &serve.url(""));
    ran.assert_failed(1, "No space left on device");
    ran.assert_failed(1, "Read-only file system");
    assert_eq!(tree(&top.join("well")), tree(&host.root("tree/well")));
    assert_eq!(ran.summary()["failed"], 1 + 21, "{ran:?}");
    assert_eq!(ran.summary()["times_not_kept"], 1, "the folder's: {ran:?}");

    fs::remove_file(host.root("tree/full/ballast")).unwrap();
    remount("rw");
    let ran = host.push(&top, &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in names(&top).iter().filter(|name| top.join(name).is_file()) {
        assert_eq!(hash(&top.join(name)), hash(&host.root("tree").join(name)), "{name}");
    }
    assert!(unfinished(&host.root("")).is_empty());
    drop((serve, full, fixed));
}

#[test]
fn what_has_failed_for_good_leaves_nothing() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("large"), random(1, 8 << 20)).unwrap();
    fs::create_dir_all(host.root("taken/large")).unwrap();
    let ran = host.push(host.src("large"), &serve.url("taken/"));
    ran.assert_failed(1, "Is a directory");
    assert_eq!(names(&host.root("")), ["taken", "taken/large"]);

    // Taken only after the file has been looked for.
    let relay = Relay::start(serve.address, Lane { bytes_per_s: 3e5, ..Lane::default() });
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("it is under way", || !unfinished(&host.root("late")).is_empty());
            fs::create_dir(host.root("late/large")).unwrap();
            relay.pace(Lanes::All, 1e9);
        });
        let url = relay.url("late/");
        host.push(host.src("large"), &url)
    });
    ran.assert_failed(1, "Is a directory");
    assert_eq!(names(&host.root("late")), ["large"]);
    drop(serve);
}

#[test]
fn a_file_pushed_onto_a_link_that_leads_out_replaces_the_link() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    fs::write(host.outside("file"), b"theirs").unwrap();
    for (name, target) in [
        ("out", host.outside("file")),
        ("folder", host.outside("")),
        ("above", "../outside/file".into()),
        ("loop", "loop".into()),
        ("nowhere", "missing".into()),
    ] {
        symlink(target, host.root(name)).unwrap();
        let ran = host.push(host.src("file"), &serve.url(name));
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        assert!(fs::symlink_metadata(host.root(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read(host.root(name)).unwrap(), b"content", "{name}");
    }
    // A link on the way is still not followed.
    symlink(host.outside(""), host.root("way")).unwrap();
    assert_ne!(host.push(host.src("file"), &serve.url("way/new")).code, 0);
    assert_eq!(names(&host.outside("")), ["file"]);
    assert_eq!(fs::read(host.outside("file")).unwrap(), b"theirs");
}

#[test]
fn a_file_that_has_failed_is_not_sent_to_its_end() {
    const BYTES: u64 = 60 << 20;
    let host = Host::new();
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("large"), random(1, BYTES as usize)).unwrap();
    File::create(top.join("holes")).unwrap().set_len(1 << 40).unwrap();
    fs::write(top.join("small"), random(2, 1_000_000)).unwrap();
    let mut command = host.qbulk_after("ulimit -f 4096");
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    let serve = Serve::spawn(&host, command);
    let relay = Relay::start(serve.address, Lane { bytes_per_s: 2e6, ..Lane::default() });
    let ran = run(&mut relay.pushing(&host, &[top.as_ref()]));
    ran.assert_failed(1, "File too large");
    let summary = ran.summary();
    assert_eq!((&summary["failed"], &summary["files"]), (&2.into(), &1.into()), "{summary}");
    assert_eq!(summary["failed_unnamed"], 0, "{summary}");
    let sent = summary["sent_bytes"].as_u64().unwrap();
    assert!(sent < BYTES / 2, "{sent} bytes were sent");
    assert_eq!(hash(&top.join("small")), hash(&host.root("tree/small")));
    assert!(unfinished(&host.root("")).is_empty());
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn every_failure_is_named_however_many_there_are() {
    const FILES: usize = 1_500;
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    for number in 0..FILES {
        fs::write(top.join(number.to_string()), b"content").unwrap();
        fs::create_dir_all(host.root("tree").join(number.to_string())).unwrap();
    }
    let ran = host.push(&top, &serve.url(""));
    ran.assert_failed(1, "Is a directory");
    let summary = ran.summary();
    assert_eq!((&summary["failed"], &summary["failed_unnamed"]), (&FILES.into(), &0.into()));
    let named: BTreeSet<String> = ran
        .events()
        .into_iter()
        .filter(|event| event["event"] == "failed")
        .map(|event| event["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(named.len(), FILES);
}
