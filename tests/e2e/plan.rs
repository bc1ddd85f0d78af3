//! Dry runs: they say what would be done, and change nothing.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::common::{Host, Ran, Serve, run, tree, unfinished};
use crate::forest::grow;

/// Trees, each with several options.
const TREES: u64 = 3;

fn dry(host: &Host, serve: &Serve, is_pull: bool, options: &[&str]) -> Ran {
    run(host.moving(serve, is_pull, options).args(["-n", "--json"]))
}

/// What would be done, by path below the destination.
fn planned(ran: &Ran, below: &Path) -> BTreeMap<String, String> {
    let events = ran.events().into_iter().filter(|event| event["event"] == "planned");
    let one = |event: serde_json::Value| {
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let path = text("path");
        let path = Path::new(&path).strip_prefix(below).unwrap().display().to_string();
        (path, format!("{} {}", text("kind"), text("why")))
    };
    events.map(one).collect()
}

/// The same of what rsync says about itself, as far as both tell it.
fn itemized(from: &Path, to: &Path, options: &[&str]) -> BTreeMap<String, String> {
    let mut rsync = Command::new("rsync");
    rsync.args(["-rlptn", "--out-format=%i %n"]).args(options).arg(from.join("")).arg(to.join(""));
    let ran = run(&mut rsync);
    assert_eq!(ran.code, 0, "{ran:?}");
    let one = |line: &str| {
        let (item, path) = line.split_at(12);
        let (update, kind, what) = (&item[..1], &item[1..2], &item[2..11]);
        let done = match (update, kind) {
            (_, "f") if what == "+++++++++" => "file new",
            (">", "f") if what.contains('s') => "file size",
            (">", "f") if what.starts_with('c') => "file content",
            (">", "f") if what.contains('t') => "file time",
            (">", "f") => "file forced",
            (_, "f") if what.contains('p') || what.contains('t') => "file metadata",
            (_, "d") if what == "+++++++++" => "folder new",
            (_, "L") if what == "+++++++++" => "link new",
            ("c", "L") if what.starts_with('c') => "link target",
            _ => return None,
        };
        let path = path.split(" -> ").next().unwrap().trim_end_matches('/');
        Some((path.to_owned(), done.to_owned()))
    };
    ran.stdout.lines().filter_map(one).collect()
}

#[test]
fn what_would_be_done_is_what_rsync_would_do_and_then_is_done() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no rsync here");
    }
    let mut told = 0;
    for seed in 0..TREES {
        for options in [
            &[][..],
            &["--ignore-times"],
            &["--size-only"],
            &["--update"],
            &["--existing"],
            &["-c"],
        ] {
            // What a pull would find different by its content is not known before.
            let is_pull = seed % 2 == 1 && options != ["-c"];
            let host = Host::new();
            let serve = Serve::start(&host);
            let (from, to) = host.ends(is_pull);
            grow(&mut SmallRng::seed_from_u64(seed), &from, &to, 3);
            let before = [tree(&from), tree(&to)];
            let ran = dry(&host, &serve, is_pull, options);
            assert_eq!(ran.code, 0, "{ran:?}");
            assert!([tree(&from), tree(&to)] == before, "it has changed something");
            let below = if is_pull { to.clone() } else { Path::new("to").to_owned() };
            let mut ours = planned(&ran, &below);
            let mut theirs = itemized(&from, &to, options);
            if options.contains(&"--update") {
                // Another kind counts whatever its time, says rsync's manual, and rsync does not do that.
                let is_other = |why: &String| why.ends_with("kind");
                theirs.retain(|path, _| !ours.get(path).is_some_and(is_other));
                ours.retain(|_, why| !is_other(why));
            }
            for (path, why) in &mut ours {
                // To rsync, what replaces something of another kind is new.
                if why.ends_with("kind") {
                    *why = why.replace("kind", "new");
                }
                let theirs = theirs.get(path);
                assert_eq!(Some(&*why), theirs, "{seed}, {options:?}: {path}");
            }
            assert_eq!(ours, theirs, "{seed}, {options:?}");
            told += ours.len();

            let foreseen = ran.events().pop().unwrap();
            let ran = run(host.moving(&serve, is_pull, options).arg("--json"));
            assert_eq!(ran.code, 0, "{ran:?}");
            for field in ["files", "bytes", "skipped_files", "skipped_bytes", "failed"] {
                assert_eq!(ran.summary()[field], foreseen[field], "{seed}, {options:?}: {field}");
            }
            let again = dry(&host, &serve, is_pull, options);
            let is_sent = |why: &String| !why.ends_with("forced");
            assert!(!planned(&again, &below).values().any(is_sent), "{again:?}");
        }
    }
    assert!(told > 150, "{told}");
}

#[test]
fn what_is_in_the_way_fails_before_and_after() {
    for is_pull in [false, true] {
        let host = Host::new();
        let serve = Serve::start(&host);
        let (from, to) = host.ends(is_pull);
        let plant = |path: &Path, kind: &str, text: &str| match kind {
            "file" => fs::write(path, text).unwrap(),
            "folder" => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("in"), text).unwrap();
            }
            "link" => symlink(text, path).unwrap(),
            _ => symlink("real", path).unwrap(),
        };
        fs::create_dir(&from).unwrap();
        fs::create_dir_all(to.join("real")).unwrap();
        for ours in ["file", "folder", "link"] {
            for theirs in ["file", "folder", "link", "way"] {
                plant(&from.join(format!("{ours}-{theirs}")), ours, "ours");
                plant(&to.join(format!("{ours}-{theirs}")), theirs, "another");
            }
        }
        let failed = |ran: &Ran| {
            let events = ran.events().into_iter().filter(|event| event["event"] == "failed");
            let mut paths: Vec<_> =
                events.map(|event| event["path"].as_str().unwrap().to_owned()).collect();
            paths.sort();
            paths
        };
        let foreseen = dry(&host, &serve, is_pull, &[]);
        let done = run(&mut host.moving(&serve, is_pull, &["--json"]));
        assert_eq!((foreseen.code, done.code), (1, 1), "{foreseen:?}, {done:?}");
        assert_eq!(failed(&foreseen), failed(&done), "{foreseen:?}");
        assert_eq!(failed(&done).len(), 6);
        let last = foreseen.events().pop().unwrap();
        assert_eq!(last["files"], done.summary()["files"]);
    }
}

#[test]
fn people_read_a_line_for_each_path_and_the_sum() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir_all(host.src("from/sub")).unwrap();
    fs::write(host.src("from/sub/new"), vec![0; 2_048]).unwrap();
    symlink("x", host.src("from/link\u{1b}")).unwrap();
    let ran = run(&mut host.moving(&serve, false, &["--dry-run"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    let want = [
        "file   new         2.0 KiB  to/sub/new",
        "folder new                  to/",
        "folder new                  to/sub/",
        "link   new                  to/link\\u{1b}",
    ];
    assert_eq!(lines, want);
    assert!(ran.stderr.contains("would send 1 file (2.0 KiB), 2 folders and 1 link"), "{ran:?}");
    let quiet = run(&mut host.moving(&serve, false, &["--dry-run", "--quiet"]));
    assert_eq!((quiet.stdout, quiet.stderr), (ran.stdout, String::new()));
    assert!(!host.root("to").exists() && unfinished(&host.root("")).is_empty());
    // Where it goes to is not there yet, and stays so.
    fs::create_dir(host.root("from")).unwrap();
    fs::write(host.root("from/x"), "x").unwrap();
    let ran = run(&mut host.moving(&serve, true, &["-n"]));
    assert_eq!((ran.code, host.src("to").exists()), (0, false), "{ran:?}");
    let lines = format!(
        "folder new                  {to}/\nfile   new             1 B  {to}/x\n",
        to = host.src("to").display()
    );
    assert_eq!(ran.stdout, lines);
}

#[test]
fn what_would_be_refused_is_and_what_cannot_be_read_is_named() {
    let (server, client) = (Host::new(), Host::unprivileged());
    let key = client.id();
    let serve_with = |line: &str| {
        fs::create_dir_all(server.config()).unwrap();
        fs::write(server.config().join("authorized_keys"), line).unwrap();
        Serve::start(&server)
    };
    fs::write(client.src("open"), "x").unwrap();
    fs::write(client.src("closed"), "x").unwrap();
    fs::set_permissions(client.src("closed"), Permissions::from_mode(0o000)).unwrap();
    let plan = |serve: &Serve| {
        let mut push = client.qbulk();
        push.args(["push", "--json", "-n", "--accept-new"])
            .arg(client.src(""))
            .arg(serve.url("to/"));
        run(&mut push)
    };
    let serve = serve_with(&format!("access=read {key}\n"));
    plan(&serve).assert_failed(5, "you may not write");
    drop(serve);
    let serve = serve_with(&format!("access=write {key}\n"));
    plan(&serve).assert_failed(5, "you may not read");
    drop(serve);
    let serve = serve_with(&format!("access=read {key}\naccess=append {key}\n"));
    let ran = plan(&serve);
    ran.assert_failed(1, "Permission denied");
    assert_eq!(ran.events().pop().unwrap()["files"], 1);
    fs::create_dir(server.root("to")).unwrap();
    fs::write(server.root("to/open"), "there").unwrap();
    let ran = plan(&serve);
    ran.assert_failed(1, "nothing may be replaced");
    assert_eq!(ran.events().pop().unwrap()["files"], 0);
}
