//! What is at the root's path, and names that the server keeps for itself.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::{Host, Serve, eventually, names, run};
use crate::hostile::{Attacker, file, stripe};

#[test]
fn the_root_is_what_is_at_its_path() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    let push = || host.push(host.src("file"), &serve.url(""));
    let verify = || host.verify(&[host.src("file").as_ref(), serve.url("").as_ref()]);
    assert_eq!(push().code, 0);

    let moved = host.outside("moved");
    fs::rename(host.root(""), &moved).unwrap();
    push().assert_failed(5, "root folder");
    verify().assert_failed(5, "root folder");

    fs::create_dir(host.root("")).unwrap();
    assert_eq!(verify().findings()["file"], "missing");
    assert_eq!(push().code, 0);
    assert_eq!(names(&host.root("")), ["file"]);
    assert_eq!(verify().code, 0);
    fs::remove_file(moved.join("file")).unwrap();
    assert_eq!(verify().code, 0, "it does not look at what was there before");
    assert_eq!(names(&moved), Vec::<String>::new());
}

#[test]
fn names_that_the_server_needs_are_refused_one_by_one() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir(host.src(".qbulk-folder.part")).unwrap();
    for name in [".qbulk-0-1.part", ".qbulk-.journal", ".qbulk-folder.part/file", "part", ".qbulk"]
    {
        fs::write(host.src(name), name).unwrap();
    }
    let ran = host.push(host.src(""), &serve.url(""));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.summary()["failed"], 4, "{ran:?}");
    for name in
        [".qbulk-0-1.part", ".qbulk-.journal", ".qbulk-folder.part", ".qbulk-folder.part/file"]
    {
        let path = host.src(name).to_string_lossy().into_owned();
        let told = ran.events().into_iter().find(|event| event["path"] == *path);
        assert!(told.unwrap()["reason"].as_str().unwrap().contains(".qbulk-*.part"), "{name}");
    }
    assert_eq!(names(&host.root("")), [".qbulk", "part"]);
    host.push(host.src("part"), &serve.url(".qbulk-x.part")).assert_failed(5, "not allowed");

    // Those that are there already stay, whatever removes what is unfinished.
    fs::write(host.root(".qbulk-0-1.part"), b"data").unwrap();
    let ran = run(host.qbulk().arg("clean").arg(host.root("")));
    assert!(ran.code == 0 && ran.stderr.contains("1 file with such a name stays"), "{ran:?}");
    assert_eq!(fs::read(host.root(".qbulk-0-1.part")).unwrap(), b"data");
}

/// Folders that the server takes for one are not mixed, whichever comes first.
#[test]
fn what_has_the_same_name_there_is_not_replaced() {
    let host = Host::new();
    let serve = Serve::start(&host);
    for name in ["Dir", "dir"] {
        fs::create_dir(host.src(name)).unwrap();
        fs::write(host.src(name).join("file"), name).unwrap();
    }
    fs::create_dir(host.root("Dir")).unwrap();
    symlink("Dir", host.root("dir")).unwrap();
    let ran = host.push(host.src(""), &serve.url(""));
    ran.assert_failed(1, "has the same name there as");
    assert_eq!(ran.summary()["files"], 1, "{ran:?}");
    let failed: Vec<_> = ran
        .events()
        .into_iter()
        .filter_map(|event| Some(event["path"].as_str()?.to_owned()))
        .filter(|path| path.ends_with("/file"))
        .collect();
    let there = fs::read_to_string(host.root("Dir/file")).unwrap();
    assert_eq!(failed.len(), 1, "{ran:?}");
    assert!(!failed[0].ends_with(&format!("{there}/file")), "{there}: {failed:?}");
}

/// What was put into a folder is not told as delivered if its path leads to another one at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_that_is_moved_under_way_takes_what_it_holds_with_it() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let mut push = Attacker::connect(&host, &serve).await;
    push.hello(b"").await;
    push.expect_welcome().await;
    let records = [file(1, b"a/b/one", b"1"), file(2, b"a/two", b"2"), file(3, b"three", b"3")];
    push.send(&stripe(0, &records, b"123")).await;
    eventually("all have their names", || {
        ["a/b/one", "a/two", "three"].iter().all(|name| host.root(name).exists())
    });
    fs::rename(host.root("a"), host.root("away")).unwrap();
    fs::create_dir(host.root("a")).unwrap();
    let (mut failed, files) = push.finish(1).await;
    failed.retain(|path| path.contains("one") || path.contains("two"));
    failed.sort();
    assert_eq!((failed, files), (vec!["a/b/one".to_owned(), "a/two".to_owned()], 1));
    assert_eq!(names(&host.root("a")), Vec::<String>::new());
}
