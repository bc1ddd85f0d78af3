//! What `qbulk serve --metrics` says to Prometheus.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::common::{Host, PATIENCE, Serve, eventually, finish, pid, random, run};

/// A server with metrics, and where they are.
fn serve(host: &Host, args: &[&str]) -> (Serve, SocketAddr) {
    let serve = Serve::with(host, &[&["--metrics", "0"], args].concat());
    (serve, told_address(host))
}

/// Where the server of a host says that its metrics are.
fn told_address(host: &Host) -> SocketAddr {
    let stderr = host.dir.path().join("serve.stderr");
    let mut address = None;
    eventually("it says where its metrics are", || {
        let said = fs::read_to_string(&stderr).unwrap();
        let url = said.split("http://").nth(1).and_then(|url| url.split_once("/metrics"));
        address = url.map(|(address, _)| address.parse().unwrap());
        address.is_some()
    });
    address.unwrap()
}

/// The answer to a request: its head and its body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: qbulk\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.into(), body.into())
}

/// Every sample, by its name and labels.
fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = ask(address, "GET /metrics");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(parse).collect()
}

fn of(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    *samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:#?}"))
}

/// The same where it is a whole number.
fn whole(samples: &BTreeMap<String, f64>, name: &str) -> u64 {
    of(samples, name) as u64
}

#[test]
fn what_is_moved_is_counted_by_root_and_direction() {
    let host = Host::new();
    fs::create_dir(host.root("media")).unwrap();
    let roots = format!("media={}", host.root("media").display());
    let mut command = host.qbulk();
    let metrics = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    command.args(["serve", "--json", "--root", &roots]).args(metrics);
    let serving = Serve::spawn(&host, command);
    let address = told_address(&host);
    let before = samples(address);
    assert!(
        of(&before, "qbulk_transfers_total{root=\"media\",direction=\"out\",result=\"done\"}")
            == 0.0
    );

    fs::write(host.src("file"), random(1, 300_000)).unwrap();
    let pushed = host.push(host.src("file"), &serving.url("media/file"));
    assert_eq!(pushed.code, 0, "{pushed:?}");
    serving.event("finished");
    let mut pull = host.qbulk();
    pull.args(["pull", "--json"]).arg(serving.url("media/file")).arg(host.src("back"));
    assert_eq!(run(&mut pull).code, 0);
    serving.event("sent");
    assert_eq!(run(host.qbulk().arg("ls").arg(serving.url("media"))).code, 0);
    serving.event("listed");
    let ran =
        run(host.qbulk().args(["pull", "--json"]).arg(serving.url("other/a")).arg(host.src("b")));
    assert_eq!(ran.code, 5, "{ran:?}");

    let after = samples(address);
    for direction in ["in", "out"] {
        let by = |name: &str| format!("{name}{{root=\"media\",direction=\"{direction}\"}}");
        let done = format!(
            "qbulk_transfers_total{{root=\"media\",direction=\"{direction}\",result=\"done\"}}"
        );
        assert_eq!(whole(&after, &done), 1);
        assert_eq!(whole(&after, &by("qbulk_transfer_bytes_total")), 300_000, "{direction}");
        assert_eq!(whole(&after, &by("qbulk_transfer_files_total")), 1);
        assert_eq!(whole(&after, &by("qbulk_transfers_running")), 0);
        assert!(of(&after, &by("qbulk_transfer_duration_seconds_sum")) > 0.0);
    }
    assert_eq!(whole(&after, "qbulk_listings_total"), 1);
    assert!(of(&after, "qbulk_turned_away_total") >= 1.0);
    assert!(of(&after, "process_resident_memory_bytes") > 1e6);
    for (name, before) in before {
        let is_total = name.split('{').next().unwrap().ends_with("_total");
        assert!(!is_total || of(&after, &name) >= before, "{name} has become less");
    }
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn content_counts_while_it_arrives() {
    let host = Host::new();
    let (serve, address) = serve(&host, &[]);
    fs::write(host.src("file"), random(2, 3_000_000)).unwrap();
    let file = host.src("file");
    let mut command = host.pushing(&[file.as_ref()], &serve.url("file"));
    command.args(["--limit", "500kB"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    serve.event("started");
    let mut last = 0.0;
    eventually("some of it has arrived", || {
        let samples = samples(address);
        let bytes = of(&samples, "qbulk_transfer_bytes_total{root=\"/\",direction=\"in\"}");
        assert!(bytes >= last, "{bytes} after {last}");
        last = bytes;
        let running = whole(&samples, "qbulk_transfers_running{root=\"/\",direction=\"in\"}");
        bytes > 0.0 && running == 1 && of(&samples, "qbulk_connections") > 0.0
    });
    assert!(last < 3e6, "{last}: it is over");
    kill_process(pid(&child), Signal::KILL).unwrap();
    finish(child);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn health_says_whether_it_takes_transfers() {
    let host = Host::new();
    let (serve, address) = serve(&host, &[]);
    let (head, body) = ask(address, "GET /health");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ok\n", "{head} {body}");
    let (head, body) = ask(address, "HEAD /metrics");
    assert!(head.contains("Content-Length: ") && body.is_empty(), "{head} {body}");
    assert!(ask(address, "GET /").0.starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics").0.starts_with("HTTP/1.1 405"));

    // While a transfer runs, it drains.
    fs::write(host.src("file"), random(3, 3_000_000)).unwrap();
    let file = host.src("file");
    let mut command = host.pushing(&[file.as_ref()], &serve.url("file"));
    command.args(["--limit", "200kB"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    serve.event("started");
    kill_process(pid(&serve.child), Signal::TERM).unwrap();
    serve.event("draining");
    let (head, body) = ask(address, "GET /health");
    assert!(head.starts_with("HTTP/1.1 503") && body == "stopping\n", "{head} {body}");
    assert_eq!(whole(&samples(address), "qbulk_draining"), 1);
    kill_process(pid(&child), Signal::KILL).unwrap();
    finish(child);
}

#[test]
fn whoever_asks_slowly_or_nothing_holds_nothing_up() {
    let host = Host::new();
    let (serve, address) = serve(&host, &[]);
    let open = serve.open_files();
    // As many as are answered at a time, and more.
    let mut idle: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut idle[..20] {
        stream.write_all(b"GET /metr").unwrap();
    }
    assert!(serve.open_files() < open + 20, "no more are taken in than are answered");
    // A transfer does not notice.
    fs::write(host.src("file"), random(4, 100_000)).unwrap();
    assert_eq!(host.push(host.src("file"), &serve.url("file")).code, 0);
    // Those are left after some seconds, and who is behind them is answered.
    let began = Instant::now();
    let asked = thread::spawn(move || samples(address));
    assert_eq!(whole(&asked.join().unwrap(), "qbulk_draining"), 0);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    drop(idle);
    eventually("all of them are gone", || serve.open_files() <= open + 1);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn it_is_told_to_nobody_else_unless_that_is_said() {
    let host = Host::new();
    let (serve, address) = serve(&host, &[]);
    assert!(address.ip().is_loopback());
    let taken = address.to_string();
    run(host.qbulk().args(["serve", "--listen", "127.0.0.1:0", "--metrics", &taken]))
        .assert_failed(3, &format!("cannot listen on {taken} (TCP)"));
    for wrong in [":9433", "localhost:9433", "99999", "*"] {
        run(host.qbulk().args(["serve", "--metrics", wrong])).assert_failed(2, "--metrics");
    }
    drop(serve);
}

#[test]
fn prometheus_reads_what_is_told_and_the_rules_and_the_dashboard_ask_for_what_there_is() {
    let host = Host::new();
    let (_serve, address) = serve(&host, &[]);
    let (_, body) = ask(address, "GET /metrics");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating");
    let rules = folder.join("alerts.yml");
    let dashboard = fs::read_to_string(folder.join("dashboard.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 8);
    let page = fs::read_to_string(folder.join("../operating.md")).unwrap();
    // What they name is there, and what is there is documented.
    let metric = regex::Regex::new(r"(?-u:\b)(?:qbulk|process)_[a-z_]+").unwrap();
    let there: Vec<_> = metric.find_iter(&body).map(|found| found.as_str()).collect();
    for text in [&dashboard, &fs::read_to_string(&rules).unwrap(), &page] {
        for name in metric.find_iter(text) {
            assert!(there.contains(&name.as_str()), "there is no {}", name.as_str());
        }
    }
    for name in there {
        let family = name.trim_end_matches("_sum").trim_end_matches("_count");
        assert!(page.contains(family), "docs/operating.md lacks {family}");
    }
    let is_there = Command::new("promtool").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("skipped: promtool, which is not here");
        return;
    }
    let mut checking = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checking.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let checked = finish(checking);
    assert_eq!((checked.code, &*checked.stdout, &*checked.stderr), (0, "", ""));
    let checked = run(Command::new("promtool").args(["check", "rules"]).arg(&rules));
    assert_eq!(checked.code, 0, "{checked:?}");
}
