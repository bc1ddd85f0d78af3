//! What of the sources is sent.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::common::{Host, Ran, Serve, finish, names, run};
use crate::forest::grow;

/// A server, and a tree to send some of.
fn scene() -> (Host, Serve) {
    let host = Host::new();
    let serve = Serve::start(&host);
    for path in ["tree/a.o", "tree/keep.o", "tree/sub/b.o", "tree/sub/c", "tree/cache/deep/d"] {
        let path = host.src(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.as_os_str().len().to_string()).unwrap();
    }
    fs::write(host.src("tree/large"), vec![7; 3_000]).unwrap();
    (host, serve)
}

fn push(host: &Host, serve: &Serve, options: &[&str], source: &str) -> Ran {
    let mut command = host.qbulk();
    command.args(["push", "--json"]).args(options).arg(host.src(source)).arg(serve.url("to/"));
    run(&mut command)
}

#[test]
fn rules_count_in_the_order_in_which_they_are_typed_whatever_their_kind() {
    let (host, serve) = scene();
    let file = host.outside("rules");
    fs::write(&file, "# objects\n*.o\n").unwrap();
    let from = format!("--exclude-from={}", file.display());
    let include = "--include=keep.o";
    let ran =
        push(&host, &serve, &[include, &from, "--exclude", "/cache/", "--max-size=2kB"], "tree/");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(names(&host.root("to")), ["keep.o", "sub", "sub/c"]);
    assert_eq!(ran.summary()["files"], 2);
    fs::remove_dir_all(host.root("to")).unwrap();

    let ran = push(
        &host,
        &serve,
        &[&from, include, "--exclude", "/tree/cache", "--min-size=2kB"],
        "tree",
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        names(&host.root("to")),
        ["tree", "tree/large", "tree/sub"],
        "not what the first excludes"
    );

    push(&host, &serve, &["--exclude", ""], "tree").assert_failed(2, "");
    push(&host, &serve, &["--exclude-from", "/nowhere"], "tree")
        .assert_failed(6, "cannot read /nowhere");
}

#[test]
fn only_what_is_listed_is_sent_and_what_is_missing_is_named() {
    let (host, serve) = scene();
    let list = |options: &[&str], text: &[u8]| {
        let mut command = host.qbulk();
        command.args(["push", "--json", "--files-from", "-"]).args(options).arg(host.src("tree"));
        command.arg(serve.url("to")).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        finish(child)
    };
    let ran = list(&[], b"# some\n/sub/c\ncache\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    let want = ["cache", "cache/deep", "cache/deep/d", "sub", "sub/c"];
    assert_eq!(names(&host.root("to")), want);
    let ran = list(&["--from0"], b"a.o\0sub/missing\0");
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.assert_failed(1, "sub/missing");
    assert!(host.root("to/a.o").exists());
    list(&[], b"../outside/x\n").assert_failed(2, "leads out");
}

const PATTERNS: [&str; 12] =
    ["a", "b/", "*.o", "/c", "/a/**", "c/***", "[a-c]", "?", "e f", "\\*", "**/g", "a/*/b"];

#[test]
fn a_pull_and_its_dry_run_leave_out_what_rsync_does_and_verify_looks_at_no_more() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no rsync here");
    }
    let mut left_out = 0;
    for seed in 0..8 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let host = Host::new();
        let serve = Serve::start(&host);
        grow(random, &host.root("from"), &host.outside("unused"), 3);
        let mut options = Vec::new();
        for _ in 0..random.random_range(1..5) {
            let kind = *["include", "exclude", "exclude"].choose(random).unwrap();
            options.push(format!("--{kind}={}", PATTERNS.choose(random).unwrap()));
        }
        if seed % 2 == 0 {
            options.push("--max-size=1".into());
        }
        let mut rsync = Command::new("rsync");
        rsync.arg("-rlpt").args(&options).arg(host.root("from/")).arg(host.outside("to/"));
        assert!(rsync.status().unwrap().success());
        let want = names(&host.outside("to"));
        left_out += names(&host.root("from")).len() - want.len();
        let pull = |more: &[&str]| {
            let mut command = host.qbulk();
            command.args(["pull", "--json"]).args(more).args(&options);
            let ran = run(command.arg(serve.url("from/")).arg(host.src("to")));
            assert_eq!(ran.code, 0, "{ran:?}");
            ran
        };
        let planned = pull(&["-n"]).events();
        let planned = planned.iter().filter(|event| event["event"] == "planned");
        let to = host.src("to");
        let mut planned: Vec<_> = planned
            .map(|event| event["path"].as_str().unwrap().trim_start_matches(to.to_str().unwrap()))
            .map(|path| path.trim_start_matches('/').to_owned())
            .filter(|path| !path.is_empty())
            .collect();
        planned.sort_by(|a, b| std::path::Path::new(a).cmp(std::path::Path::new(b)));
        assert_eq!(planned, want, "{options:?}");
        pull(&[]);
        assert_eq!(names(&to), want, "{options:?}");

        // The other way round, a folder that has less is the same with these options, and not without.
        let verify = |options: &[String]| {
            let mut command = host.qbulk();
            command.args(["verify", "--json"]).args(options).arg(host.root("from/"));
            run(command.arg(serve.url("to")))
        };
        fs::rename(&to, host.root("to")).unwrap();
        assert_eq!(verify(&options).code, 0, "{options:?}");
        if want.len() < names(&host.root("from")).len() {
            assert_eq!(verify(&[]).code, 1, "{options:?}");
        }
    }
    assert!(left_out > 100, "{left_out}");
}

#[test]
fn a_pull_fetches_what_is_listed_names_what_is_missing_and_asks_for_no_more_than_a_server_takes() {
    let (host, _) = scene();
    fs::rename(host.src("tree"), host.root("tree")).unwrap();
    let serve = Serve::start(&host);
    let pull = |options: &[&str], paths: &[&str], text: &[u8]| {
        let mut command = host.qbulk();
        command.args(["pull", "--json"]).args(options);
        command.args(paths.iter().map(|path| serve.url(path))).arg(host.src("to"));
        let mut child = command.stdin(Stdio::piped());
        child = child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).ok();
        finish(child)
    };
    let list = ["--files-from", "-"];
    let ran = pull(&list, &["tree"], b"# some\n/sub/c\ncache\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    let want = ["cache", "cache/deep", "cache/deep/d", "sub", "sub/c"];
    assert_eq!(names(&host.src("to")), want);
    pull(&list, &["tree/"], b"a.o\nsub/missing\n").assert_failed(1, "sub/missing");
    assert!(host.src("to/a.o").exists());
    pull(&list, &["tree", "other"], b"a.o\n").assert_failed(2, "needs one SRC");
    // Each has to be another: the same counts once.
    let numbers: Vec<_> = (0..4_000).map(|number| number.to_string()).collect();
    let many = numbers.join("-name\n");
    pull(&list, &["tree"], many.as_bytes()).assert_failed(2, "too many names");
    pull(&["--exclude-from", "-"], &["tree"], many.as_bytes()).assert_failed(2, "too many rules");
}
