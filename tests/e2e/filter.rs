//! What of the sources is sent.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::common::{Host, Ran, Serve, finish, names, run};

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
