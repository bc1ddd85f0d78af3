//! The page that tells what a transfer did.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::common::{Host, Serve, finish, names, random, run};

#[test]
fn a_push_and_a_pull_leave_a_page_that_says_what_they_did() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), random(1, 3_000_000)).unwrap();
    let page = host.dir.path().join("page.html");
    let file = host.src("file");
    let mut push = host.pushing(&[file.as_ref()], &serve.url("file"));
    let pushed = run(push.arg("--report").arg(&page));
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let transfer = pushed.summary()["transfer"].as_str().unwrap().to_owned();
    let told = fs::read_to_string(&page).unwrap();
    for words in
        [&*transfer, "2.9 MiB", "1 file", "Everything is there, verified and durable.", "</html>"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(told.contains("class=\"area "), "there is a picture of what arrived");

    // Of the lines of the same transfer there is the same page.
    let events = host.dir.path().join("events.jsonl");
    fs::write(&events, &pushed.stdout).unwrap();
    let other = host.dir.path().join("other.html");
    let ran = run(host.qbulk().arg("report").arg(&events).arg(&other));
    assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (0, "", ""));
    let again = fs::read_to_string(&other).unwrap();
    let sums = |page: &str| {
        let from = page.find("<dl").unwrap();
        page[from..from + page[from..].find("</dl>").unwrap()].to_owned()
    };
    assert_eq!(sums(&told), sums(&again));
    // Or by way of standard input and output.
    let mut command = host.qbulk();
    command.args(["report", "-"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(pushed.stdout.as_bytes()).unwrap();
    let ran = finish(child);
    assert_eq!((ran.code, ran.stdout), (0, again));

    let mut pull = host.qbulk();
    pull.args(["pull", "-q"]).arg(serve.url("file")).arg(host.src("back"));
    let ran = run(pull.arg("--report").arg(&page));
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    let pulled = fs::read_to_string(&page).unwrap();
    assert!(pulled.contains("2.9 MiB") && !pulled.contains(&*transfer), "it is replaced");
    assert!(!names(host.dir.path()).iter().any(|name| name.contains(".tmp")));
}

#[test]
fn a_transfer_that_fails_leaves_one_as_well() {
    let host = Host::new();
    fs::write(host.src("file"), b"x").unwrap();
    let page = host.dir.path().join("page.html");
    let mut push = host.qbulk();
    push.arg("push").arg(host.src("file")).args([
        "qbulk://127.0.0.1:9/x",
        "--connect-timeout",
        "100ms",
    ]);
    let ran = run(push.args(["--retry-for", "0s", "--report"]).arg(&page));
    assert_eq!(ran.code, 3, "{ran:?}");
    let told = fs::read_to_string(&page).unwrap();
    assert!(told.contains("It failed: "), "{told}");
}

#[test]
fn where_no_page_can_be_written_nothing_is_moved() {
    let host = Host::unprivileged();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"x").unwrap();
    for page in [host.outside("page.html"), host.dir.path().join("none/page.html"), host.src("")] {
        let mut push = host.pushing(&[host.src("file").as_ref()], &serve.url("new"));
        run(push.arg("--report").arg(&page)).assert_failed(6, "cannot write");
    }
    assert!(names(&host.root("")).is_empty());
    let mut push = host.pushing(&[host.src("file").as_ref()], &serve.url("new"));
    run(push.args(["-n", "--report", "page.html"])).assert_failed(2, "--report");
}

#[test]
fn what_has_no_events_makes_no_page() {
    let host = Host::new();
    fs::write(host.src("text"), b"qbulk: something\n{\"event\": \"listening\", \"at_s\": 1}\n")
        .unwrap();
    let ran = run(host.qbulk().arg("report").arg(host.src("text")));
    ran.assert_failed(2, "no events of a push or a pull");
    run(host.qbulk().arg("report").arg(host.src("none"))).assert_failed(6, "cannot read");
}
