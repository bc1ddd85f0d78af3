//! Receipts: what a push says it has delivered, and comparing with that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{Host, Ran, Serve, eventually, hash, names, random, run};
use crate::relay::{self, Relay};

fn push(host: &Host, source: &Path, url: &str) -> (Ran, PathBuf) {
    let receipt = host.outside("receipt");
    let args = ["--receipt".as_ref(), receipt.as_ref(), source.as_ref()];
    (run(&mut host.pushing(&args, url)), receipt)
}

fn lines(receipt: &Path) -> Vec<Value> {
    let text = fs::read_to_string(receipt).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(host: &Host, receipt: &Path, args: &[&OsStr]) -> Ran {
    host.verify(&[&["--receipt".as_ref(), receipt.as_ref()], args].concat())
}

#[test]
fn a_receipt_lists_what_was_delivered_and_finds_what_changes_later() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir_all(top.join("a/b")).unwrap();
    let strange = OsStr::from_bytes(b"\xff");
    for (seed, bytes) in [0, 1, 1_024, 65_536, 65_537, 5_000_001].into_iter().enumerate() {
        fs::write(top.join(format!("a/{bytes}")), random(seed as u64, bytes)).unwrap();
    }
    for number in 0..500 {
        fs::write(top.join(format!("a/b/{number}")), random(number, 300)).unwrap();
    }
    // Holes are hashed like zeros.
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3_000_000).unwrap();
    fs::write(top.join(strange), b"x").unwrap();
    symlink("a/0", top.join("link")).unwrap();
    let (ran, receipt) = push(&host, &top, &serve.url("to"));
    assert_eq!(ran.code, 0, "{ran:?}");

    let told = lines(&receipt);
    let (head, end) = (&told[0], &told[told.len() - 1]);
    assert_eq!(head["transfer"], ran.summary()["transfer"]);
    assert_eq!((&head["client"], &head["server"]), (&host.id().into(), &host.id().into()));
    let address = serve.address.to_string();
    assert_eq!((&head["address"], &head["destination"]), (&address.into(), &"to".into()));
    assert_eq!((&end["files"], &end["others"]), (&508.into(), &4.into()), "{end}");
    assert_eq!((&end["complete"], &end["failed"]), (&true.into(), &0.into()));

    let files: Vec<_> = told.iter().filter(|line| line["type"] == "file").collect();
    assert_eq!(files.len(), 508);
    for file in files {
        let path = match file["path_base64"].as_str() {
            Some(_) => host.root("to/tree").join(strange),
            None => host.root(file["path"].as_str().unwrap()),
        };
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(file["blake3"], hash(&path), "{file}");
        assert_eq!(file["bytes"], metadata.len());
        assert_eq!(file["mode"], format!("{:04o}", metadata.mode() & 0o777));
        assert_eq!(file["mtime_s"], metadata.mtime());
        assert_eq!(file["mtime_ns"], metadata.mtime_nsec());
        assert_eq!(file["delivered"], true);
    }
    assert_eq!(names(&host.outside("")), ["receipt"]);

    let (root, src) = (host.root(""), host.src(""));
    let strip: [&OsStr; 3] = ["--strip".as_ref(), "to/".as_ref(), src.as_ref()];
    for args in [&[root.as_ref()][..], &strip] {
        let ran = check(&host, &receipt, args);
        assert_eq!((ran.code, ran.findings().len()), (0, 0), "{ran:?}");
    }
    let file = File::options().write(true).open(host.root("to/tree/a/5000001")).unwrap();
    file.write_all_at(b"tampered", 4_000_000).unwrap();
    fs::remove_file(host.root("to/tree/link")).unwrap();
    let ran = check(&host, &receipt, &["--content-only".as_ref(), root.as_ref()]);
    let found: Vec<_> = ran.findings().into_iter().collect();
    let want = [("to/tree/a/5000001", "content"), ("to/tree/link", "missing")];
    let want = want.map(|(path, differs)| (path.to_owned(), differs.to_owned()));
    assert_eq!((ran.code, found), (1, want.to_vec()));
}

/// Pulls with a receipt.
fn pull(host: &Host, url: &str, to: &Path) -> (Ran, PathBuf) {
    let receipt = host.outside("receipt");
    let mut command = host.qbulk();
    command.args(["pull", "--json", "-I", "--receipt"]).arg(&receipt).arg(url).arg(to);
    (run(&mut command), receipt)
}

#[test]
fn a_receipt_of_a_pull_lists_what_is_here_and_finds_what_changes_later() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.root("tree");
    fs::create_dir_all(top.join("a/b")).unwrap();
    let strange = OsStr::from_bytes(b"\xff");
    for (seed, bytes) in [0, 1, 65_536, 65_537, 5_000_001].into_iter().enumerate() {
        fs::write(top.join(format!("a/{bytes}")), random(seed as u64, bytes)).unwrap();
    }
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3_000_000).unwrap();
    fs::write(top.join(strange), b"x").unwrap();
    symlink("a/0", top.join("link")).unwrap();
    let copy = host.src("copy");
    // A folder that was not there, what is in a folder that is, and one that it goes into.
    for (url, to, below) in
        [("tree/", "copy", ""), ("tree/", "copy/", ""), ("tree", "copy", "tree")]
    {
        let (ran, receipt) = pull(&host, &serve.url(url), &host.src(to));
        assert_eq!(ran.code, 0, "{ran:?}");
        let told = lines(&receipt);
        let (head, end) = (&told[0], &told[told.len() - 1]);
        assert_eq!(head["transfer"], ran.summary()["transfer"]);
        assert_eq!((&head["client"], &head["server"]), (&host.id().into(), &host.id().into()));
        assert_eq!(head["sources"], serde_json::json!([url]));
        assert_eq!(head["destination"], host.src(to).display().to_string());
        assert_eq!(head["address"], serve.address.to_string());
        assert_eq!((&end["files"], &end["complete"]), (&7.into(), &true.into()), "{end}");
        let files: Vec<_> = told.iter().filter(|line| line["type"] == "file").collect();
        assert_eq!(files.len(), 7);
        for file in files {
            let path = match file["path_base64"].as_str() {
                Some(_) => copy.join(below).join(strange),
                None => copy.join(file["path"].as_str().unwrap()),
            };
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(file["blake3"], hash(&path), "{file}");
            assert_eq!(
                (&file["bytes"], &file["delivered"]),
                (&metadata.len().into(), &true.into())
            );
            assert_eq!(file["mtime_ns"], metadata.mtime_nsec());
        }
        let ran = check(&host, &receipt, &[copy.as_ref()]);
        assert_eq!((ran.code, ran.findings().len()), (0, 0), "{ran:?}");
    }
    let receipt = host.outside("receipt");
    let file = File::options().write(true).open(copy.join("tree/a/5000001")).unwrap();
    file.write_all_at(b"tampered", 4_000_000).unwrap();
    fs::remove_file(copy.join("tree/link")).unwrap();
    let ran = check(&host, &receipt, &["--content-only".as_ref(), copy.as_ref()]);
    let found: Vec<_> = ran.findings().into_iter().collect();
    let want = [("tree/a/5000001", "content"), ("tree/link", "missing")];
    let want = want.map(|(path, differs)| (path.to_owned(), differs.to_owned()));
    assert_eq!((ran.code, found), (1, want.to_vec()));

    // One file that is given a name, and what fails at either end.
    let (ran, receipt) = pull(&host, &serve.url("tree/a/65537"), &host.src("name"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(lines(&receipt)[1]["path"], "name");
    assert_eq!(check(&host, &receipt, &[host.src("").as_ref()]).code, 0);
    let _socket = UnixListener::bind(top.join("socket")).unwrap();
    fs::remove_file(copy.join("tree/a/1")).unwrap();
    fs::create_dir(copy.join("tree/a/1")).unwrap();
    let (ran, receipt) = pull(&host, &serve.url("tree"), &copy);
    assert_eq!(ran.code, 1, "{ran:?}");
    let undelivered = lines(&receipt)
        .into_iter()
        .filter(|line| line["type"] == "failed" || line["delivered"].as_bool() == Some(false));
    let mut paths: Vec<_> =
        undelivered.map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, ["tree/a/1", "tree/socket"]);
}

#[test]
fn a_pull_that_goes_on_lists_what_was_there_already_as_well() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir(host.root("tree")).unwrap();
    for number in 0..60 {
        let file = host.root("tree").join(number.to_string());
        fs::write(file, random(number, 256 << 10)).unwrap();
    }
    let copy = host.src("copy");
    let mut first = host.qbulk();
    first.args(["pull", "--limit", "4MB"]).arg(serve.url("tree/")).arg(&copy);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let arrived = || {
        let names =
            fs::read_dir(&copy).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        names.filter(|name| !name.as_bytes().starts_with(b".")).count()
    };
    eventually("some are there", || arrived() > 20);
    first.kill().unwrap();
    first.wait().unwrap();
    // One of them is not at the source any more: it is none of what is delivered.
    let gone = (0..60).find(|number| copy.join(number.to_string()).exists()).unwrap();
    fs::remove_file(host.root("tree").join(gone.to_string())).unwrap();
    let (ran, receipt) = pull(&host, &serve.url("tree/"), &copy);
    assert_eq!(ran.code, 0, "{ran:?}");
    let told = lines(&receipt);
    let files: Vec<_> = told.iter().filter(|line| line["type"] == "file").collect();
    let kept = files.iter().filter(|file| file["kept"] == true).count() as u64;
    assert_eq!((files.len(), Some(kept)), (59, ran.summary()["kept_files"].as_u64()), "{ran:?}");
    assert!(kept >= 10, "{kept}");
    let gone = gone.to_string();
    assert!(files.iter().all(|file| file["path"] != gone));
    assert_eq!(check(&host, &receipt, &[copy.as_ref()]).code, 0);
}

#[test]
fn a_push_that_goes_on_lists_what_was_there_already_as_well() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let relay =
        Relay::start(serve.address, relay::Path { bytes_per_s: 2e5, ..relay::Path::default() });
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    for number in 0..60 {
        fs::write(top.join(number.to_string()), random(number, 256 << 10)).unwrap();
    }
    let mut first = relay.pushing(&host, &[top.as_ref()]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let arrived = || fs::read_dir(host.root("tree")).map_or(0, Iterator::count);
    eventually("some are there", || arrived() > 20);
    first.kill().unwrap();
    first.wait().unwrap();
    let (ran, receipt) = push(&host, &top, &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    let told = lines(&receipt);
    let files: Vec<_> = told.iter().filter(|line| line["type"] == "file").collect();
    assert_eq!((files.len(), &told[told.len() - 1]["files"]), (60, &60.into()));
    assert!(files.iter().any(|file| file["kept"] == true), "{told:?}");
    for file in files {
        assert_eq!(file["blake3"], hash(&host.root(file["path"].as_str().unwrap())), "{file}");
    }
    let ran = check(&host, &receipt, &[host.root("").as_ref()]);
    assert_eq!((ran.code, ran.findings().len()), (0, 0), "{ran:?}");
}

#[test]
fn what_failed_is_not_delivered() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    for name in ["good", "bad"] {
        fs::write(top.join(name), name).unwrap();
    }
    let _socket = UnixListener::bind(top.join("socket")).unwrap();
    // A folder is there, which no file replaces.
    fs::create_dir_all(host.root("tree/bad/in")).unwrap();
    let (ran, receipt) = push(&host, &top, &serve.url(""));
    assert_eq!(ran.code, 1, "{ran:?}");
    let told = lines(&receipt);
    let of = |path: &str| {
        let line =
            told.iter().find(|line| line["path"].as_str().is_some_and(|p| p.ends_with(path)));
        line.unwrap_or_else(|| panic!("no {path} in {told:?}"))
    };
    assert_eq!(of("tree/good")["delivered"], true);
    let bad = of("tree/bad");
    assert_eq!((&bad["type"], &bad["delivered"]), (&"file".into(), &false.into()), "{bad}");
    assert!(bad["reason"].as_str().is_some_and(|reason| reason.contains("directory")), "{bad}");
    assert_eq!(of("socket")["type"], "failed");
    let end = &told[told.len() - 1];
    assert_eq!((&end["files"], &end["failed"]), (&1.into(), &2.into()));
    assert_eq!(end["complete"], true);

    let ran = check(&host, &receipt, &[host.root("").as_ref()]);
    let found = ran.findings();
    assert_eq!((ran.code, found.len()), (1, 2), "{ran:?}");
    assert_eq!(found["tree/bad"], "kind");
}

#[test]
fn a_push_that_fails_leaves_no_receipt() {
    let host = Host::new();
    fs::write(host.src("file"), b"x").unwrap();
    let own = host.id();
    let receipt = host.outside("receipt");
    let known = ["--fingerprint", &own, "--connect-timeout", "1s", "--receipt"];
    let mut command = host.qbulk();
    command.arg("push").args(known).arg(&receipt).arg(host.src("file"));
    run(command.arg("qbulk://127.0.0.1:9/")).assert_failed(3, "127.0.0.1:9");
    assert!(names(&host.outside("")).is_empty());

    let serve = Serve::start(&host);
    fs::write(host.root("taken"), b"old").unwrap();
    fs::write(&receipt, b"older").unwrap();
    let (ran, _) = push(&host, &host.src(""), &serve.url("taken/"));
    ran.assert_failed(2, "taken");
    assert_eq!(names(&host.outside("")), ["receipt"]);
    assert_eq!(fs::read(&receipt).unwrap(), b"older", "what was there before stays");

    // Where no receipt can be written, nothing is sent.
    let mut command = host.qbulk();
    command.args(["push", "--receipt"]).arg(host.outside("none/receipt"));
    run(command.arg(host.src("file")).arg(serve.url(""))).assert_failed(6, "none/receipt");
    eventually("nothing else is left", || names(&host.root("")) == ["taken"]);
}

#[test]
fn a_receipt_in_the_folder_that_is_pushed_is_not_sent() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let top = host.src("tree");
    fs::create_dir(&top).unwrap();
    for number in 0..50 {
        fs::write(top.join(number.to_string()), random(number, 1_000)).unwrap();
    }
    let receipt = top.join("receipt");
    symlink("tree/receipt", host.src("link")).unwrap();
    // Once new, once there from before, once by a link.
    for name in [receipt.clone(), receipt.clone(), host.src("link")] {
        let args = ["-I".as_ref(), "--receipt".as_ref(), name.as_ref(), top.as_ref()];
        let ran = run(&mut host.pushing(&args, &serve.url("")));
        assert_eq!((ran.code, ran.summary()["files"].as_u64()), (0, Some(50)), "{ran:?}");
        assert_eq!(names(&host.root("tree")).len(), 50);
        assert_eq!(names(&top).len(), 51, "nothing else is left");
        assert_eq!(lines(&receipt).len(), 53);
    }
    assert!(host.src("link").is_symlink());
    // Another file of the same name is no receipt, and neither is another name of the same file.
    fs::create_dir(top.join("sub")).unwrap();
    fs::write(top.join("sub/receipt"), b"x").unwrap();
    fs::hard_link(&receipt, top.join("copy")).unwrap();
    let args = ["-I".as_ref(), "--receipt".as_ref(), receipt.as_ref(), top.as_ref()];
    let ran = run(&mut host.pushing(&args, &serve.url("")));
    assert_eq!((ran.code, ran.summary()["files"].as_u64()), (0, Some(52)), "{ran:?}");
    let args = ["--receipt".as_ref(), receipt.as_ref(), receipt.as_ref()];
    run(&mut host.pushing(&args, &serve.url(""))).assert_failed(2, "receipt");
}

#[test]
fn what_is_no_file_is_written_to_and_stays_what_it_is() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"x").unwrap();
    let push = |receipt: &OsStr| {
        let mut command = host.qbulk();
        command.args(["push", "--quiet", "--receipt"]).arg(receipt);
        run(command.arg(host.src("file")).arg(serve.url("")))
    };
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let ran = push(name.as_ref());
        assert_eq!((ran.code, ran.stdout.lines().count()), (0, 3), "{name}: {ran:?}");
    }
    // A file that is standard output as well is written on.
    let (file, both) = (host.src("file"), host.outside("both"));
    let mut command = host.qbulk();
    command.args(["push", "--json", "--receipt", "/dev/stdout"]).arg(&file).arg(serve.url(""));
    assert!(command.stdout(File::create(&both).unwrap()).status().unwrap().success());
    let kinds: Vec<_> = lines(&both).iter().map(|line| line["type"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| !kind.is_null()).count(), 3, "{kinds:?}");
    assert!(kinds.len() > 4, "{kinds:?}");

    assert_eq!(push("/dev/null".as_ref()).code, 0);
    push("/dev/full".as_ref()).assert_failed(6, "No space left");
    for name in ["/dev/null", "/dev/full"] {
        assert!(fs::metadata(name).unwrap().file_type().is_char_device(), "{name}");
    }
}

#[test]
fn what_is_no_receipt_is_refused() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"x").unwrap();
    let (ran, receipt) = push(&host, &host.src("file"), &serve.url(""));
    assert_eq!(ran.code, 0, "{ran:?}");
    let root = host.root("");
    let text = fs::read_to_string(&receipt).unwrap();
    let end = text.trim_end().rfind('\n').unwrap();
    for (text, words) in [
        (text[..=end].to_owned(), "cut short"),
        (text.replace("\"path\":\"file\"", "\"path\":\"../outside/receipt\""), "is not allowed"),
        (text.replace("\"version\":1", "\"version\":9"), "version 9"),
        (format!("{text}{text}"), "more after"),
        ("photo".into(), "line 1"),
        (String::new(), "cut short"),
    ] {
        fs::write(&receipt, text).unwrap();
        check(&host, &receipt, &[root.as_ref()]).assert_failed(6, words);
    }
    check(&host, &host.outside("none"), &[root.as_ref()]).assert_failed(6, "No such file");
    fs::write(&receipt, text).unwrap();
    check(&host, &receipt, &[host.root("none").as_ref()]).assert_failed(6, "none");
    let strip: [&OsStr; 3] = ["--strip".as_ref(), "other".as_ref(), root.as_ref()];
    check(&host, &receipt, &strip).assert_failed(2, "other");
}
