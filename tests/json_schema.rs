//! docs/json.md names every event and field of `--json`, and of receipts, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use qbulk::event::{
    ConnectionState, Difference, EntryKind, Failure, FailureKind, ListEntry, ListEvent,
    ListSummary, NotListed, PlanEvent, PlanSummary, Planned, PlannedKind, Progress, PushEvent,
    ServeEvent, Summary, VerifyEvent, VerifyProgress, VerifySummary, Why,
};
use qbulk::receipt::{Delivery, End, FileEntry, FolderEntry, Head, Line, LinkEntry, SkippedEntry};
use qbulk::wire::Meta;
use serde_json::Value;

/// The fields of every event, by its name.
type Schema = BTreeMap<String, BTreeSet<String>>;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("it can be stopped");
        self.0.wait().expect("it stops");
    }
}

/// The events, and the lines of a receipt.
fn documents() -> (&'static str, &'static str) {
    let text = include_str!("../docs/json.md");
    text.split_once("# What `--receipt` writes").expect("there are two parts")
}

fn documented() -> Schema {
    schema(documents().0, "event")
}

/// Reads the headings and the first columns of the tables.
fn schema(text: &str, tag: &str) -> Schema {
    let mut schema = Schema::new();
    let mut event = String::new();
    for line in text.lines() {
        let name = |line: &str| line.split('`').nth(1).expect("a name in backquotes").to_owned();
        if line.starts_with("### ") {
            event = name(line);
            schema.insert(event.clone(), BTreeSet::from([tag.into()]));
        } else if line.starts_with("| `") {
            schema.get_mut(&event).expect("tables follow headings").insert(name(line));
        }
    }
    schema
}

fn fields(event: &Value) -> (String, BTreeSet<String>) {
    tagged(event, "event")
}

fn tagged(event: &Value, tag: &str) -> (String, BTreeSet<String>) {
    let object = event.as_object().expect("an event is an object");
    let name = object[tag].as_str().expect("an event has a name").to_owned();
    (name, object.keys().cloned().collect())
}

#[test]
fn every_event_is_documented_as_it_is() {
    let text = || "x".to_owned();
    let address = || "127.0.0.1:1".parse().expect("an address");
    let failure = Failure { kind: FailureKind::Source, path: text(), reason: text() };
    let push = [
        PushEvent::Begun { transfer: text() },
        PushEvent::Interrupted { reason: text(), retry_in_s: 0.0 },
        PushEvent::Waiting { reason: text() },
        PushEvent::Connected { conn: 0, local: address(), remote: address() },
        PushEvent::Primed { conn: 0, end: "target", window_bytes: 0, padding_bytes: 0 },
        PushEvent::Condemned { conn: 0, verdict: "slow", stripes: 0 },
        PushEvent::Connection(ConnectionState::default()),
        PushEvent::Progress(Progress::default()),
        PushEvent::Failed(failure.clone()),
        PushEvent::NotKept { what: "modes", count: 1, path: text(), reason: text() },
        PushEvent::Deleted { path: text(), kind: "file" },
        PushEvent::NotDeleted { why: "max_delete", reason: text() },
        PushEvent::Summary(Summary::default()),
    ];
    let serve = [
        ServeEvent::Listening { address: address(), roots: Vec::new() },
        ServeEvent::Started {
            transfer: text(),
            client: text(),
            remote: address(),
            destination: text(),
        },
        ServeEvent::Finished {
            transfer: text(),
            files: 0,
            bytes: 0,
            failed: 0,
            seconds: 0.0,
            padding_bytes: 0,
        },
        ServeEvent::Aborted { transfer: text(), reason: text(), bytes: 0 },
        ServeEvent::Sending {
            transfer: text(),
            client: text(),
            remote: address(),
            sources: vec![text()],
        },
        ServeEvent::Sent {
            transfer: text(),
            files: 0,
            bytes: 0,
            failed: 0,
            seconds: 0.0,
            padding_bytes: 0,
        },
        ServeEvent::Draining { transfers: 0 },
        ServeEvent::Verified {
            client: text(),
            remote: address(),
            destination: text(),
            compared: 0,
            seconds: 0.0,
        },
        ServeEvent::Listed {
            client: text(),
            remote: address(),
            path: text(),
            entries: 0,
            seconds: 0.0,
        },
        ServeEvent::Swept {
            client: text(),
            remote: address(),
            destination: text(),
            removed: 0,
            seconds: 0.0,
        },
        ServeEvent::Refused { remote: address(), reason: text() },
        ServeEvent::RefusedMore { count: 0, seconds: 0.0 },
    ];
    let verify = [
        VerifyEvent::VerifyWaiting { reason: text() },
        VerifyEvent::Difference(Difference { path: text(), differs: vec![] }),
        VerifyEvent::NotCompared(failure.clone()),
        VerifyEvent::VerifyProgress(VerifyProgress::default()),
        VerifyEvent::VerifySummary(VerifySummary::default()),
    ];
    let entry = |kind| {
        let path = b"\xff".to_vec();
        ListEvent::Entry(ListEntry { path, kind, mode: 0, mtime_s: 0, mtime_ns: 0 })
    };
    let planned = |path: &[u8], kind| {
        PlanEvent::Planned(Planned { path: path.to_vec(), kind, why: Why::New })
    };
    let plan = [
        PlanEvent::PlanWaiting { reason: text() },
        planned(b"\xff", PlannedKind::File { bytes: 0 }),
        planned(b"x", PlannedKind::Folder),
        planned(b"x", PlannedKind::Link),
        PlanEvent::Failed(failure.clone()),
        PlanEvent::NotDeleted { why: "max_delete", reason: text() },
        PlanEvent::PlanSummary(PlanSummary::default()),
    ];
    let list = [
        ListEvent::ListWaiting { reason: text() },
        entry(EntryKind::File { bytes: 0 }),
        entry(EntryKind::Link { target: b"\xff".to_vec() }),
        entry(EntryKind::Folder),
        entry(EntryKind::Other),
        ListEvent::NotListed(NotListed { path: text(), reason: text() }),
        ListEvent::ListSummary(ListSummary::default()),
    ];
    let error = serde_json::json!({ "event": "error", "code": 0, "message": "" });
    let lost = serde_json::json!({ "event": "lost", "lines": 0 });
    let mut emitted = Schema::new();
    let events = push
        .iter()
        .map(|event| serde_json::to_value(event).expect("JSON"))
        .chain(serve.iter().map(|event| serde_json::to_value(event).expect("JSON")))
        .chain(verify.iter().map(|event| serde_json::to_value(event).expect("JSON")))
        .chain(plan.iter().map(|event| serde_json::to_value(event).expect("JSON")))
        .chain(list.iter().map(|event| serde_json::to_value(event).expect("JSON")))
        .chain([error, lost]);
    for (event, fields) in events.map(|event| fields(&event)) {
        // What some entries of a listing have, others lack.
        emitted.entry(event).or_default().extend(fields);
    }
    assert_eq!(emitted, documented());
}

#[test]
fn every_line_of_a_receipt_is_documented_as_it_is() {
    let text = || "x".to_owned();
    let delivery = Delivery { delivered: false, reason: Some(text()) };
    let (path, meta) = (b"\xff", Meta { mode: 0, mtime_s: 0, mtime_ns: 0 });
    let lines = [
        Line::Head(Head {
            version: 1,
            transfer: text(),
            started: text(),
            client: text(),
            server: text(),
            server_name: text(),
            address: text(),
            sources: vec![text()],
            destination: text(),
        }),
        Line::File(FileEntry {
            kept: true,
            delivery: delivery.clone(),
            ..FileEntry::new(path, 0, [0; 32], meta)
        }),
        Line::Folder(FolderEntry { delivery: delivery.clone(), ..FolderEntry::new(path, meta) }),
        Line::Skipped(SkippedEntry::new(path, 0, meta)),
        Line::Link(LinkEntry { delivery, ..LinkEntry::new(path, b"x") }),
        Line::Failed { path: text(), reason: text() },
        Line::End(End {
            ended: text(),
            files: 0,
            bytes: 0,
            others: 0,
            failed: 0,
            failed_unnamed: 0,
            complete: true,
        }),
    ];
    let emitted: Schema = lines
        .iter()
        .map(|line| tagged(&serde_json::to_value(line).expect("JSON"), "type"))
        .collect();
    assert_eq!(emitted, schema(documents().1, "type"));
}

#[test]
fn a_real_transfer_tells_nothing_that_is_not_documented() {
    let dir = tempfile::tempdir().expect("a folder");
    let (root, source) = (dir.path().join("root"), dir.path().join("source"));
    fs::create_dir(&root).expect("a root");
    fs::create_dir(&source).expect("a source");
    fs::write(source.join("file"), vec![1; 3_000_000]).expect("a file");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).expect("a socket");
    let qbulk = || {
        let mut command = Command::new(cargo_bin("qbulk"));
        command.env("QBULK_CONFIG_DIR", dir.path().join("config")).stdin(Stdio::null());
        command
    };
    let mut serve = qbulk();
    serve.args(["serve", "--json", "--listen", "127.0.0.1:0", "--root"]).arg(&root);
    let mut server = Server(serve.stdout(Stdio::piped()).spawn().expect("a server"));
    let mut told = BufReader::new(server.0.stdout.take().expect("piped")).lines();
    let listening: Value =
        serde_json::from_str(&told.next().expect("a line").expect("UTF-8")).expect("JSON");
    let url = format!("qbulk://{}/", listening["address"].as_str().expect("an address"));

    let push = |source: &std::path::Path| {
        let output = qbulk().args(["push", "--json"]).arg(source).arg(&url).output().expect("runs");
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        let events = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        (output.status.code(), events.collect::<Vec<Value>>())
    };
    let (code, mut events) = push(&source);
    assert_eq!(code, Some(1), "a socket cannot be moved: {events:?}");
    let summary = events.last().expect("events").clone();
    assert_eq!((&summary["event"], &summary["files"]), (&"summary".into(), &1.into()));
    assert_eq!(
        summary["failures"][0].as_object().expect("an object").keys().collect::<Vec<_>>(),
        ["kind", "path", "reason"]
    );
    let (code, failed) = push(&dir.path().join("missing"));
    let error = failed.last().expect("an event");
    assert_eq!((&error["event"], error["code"].as_i64()), (&"error".into(), code.map(i64::from)));

    let served = told.map(|line| serde_json::from_str(&line.expect("UTF-8")).expect("JSON"));
    let finished = served
        .inspect(|event| events.push(Value::clone(event)))
        .any(|event| event["event"] == "finished");
    assert!(finished, "the server says when it is done");
    let transfer = &events[0]["transfer"];
    assert_eq!(transfer.as_str().map(str::len), Some(12), "the first event names the transfer");
    let connections = summary["connections"].as_array().expect("an array");
    assert!(connections.iter().any(|total| total["stripes"].as_u64() > Some(0)));
    let mut of_transfer = events.iter().filter(|event| event["event"] != "refused");
    assert!(of_transfer.all(|event| event["transfer"] == *transfer), "{events:?}");

    let documented = documented();
    for event in events.iter().chain(&failed).chain([&listening]) {
        let (name, mut fields) = fields(event);
        assert!(fields.remove("time") && fields.remove("at_s"), "{event}");
        if !documented.get(&name).is_some_and(|fields| fields.contains("transfer")) {
            fields.remove("transfer");
        }
        assert_eq!(documented.get(&name), Some(&fields), "{event}");
    }
}
