//! What is at the root's path, and names that the server keeps for itself.

use std::fs;

use crate::common::{Host, Serve, names, run};

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
