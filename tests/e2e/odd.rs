//! Systems and file systems that cannot do all that is asked of them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::common::{Host, Serve, names, random, run, tree, unfinished};
use crate::sandbox::Sandbox;

fn number(errno: Errno) -> i32 {
    errno.raw_os_error()
}

/// Files of all kinds of sizes, one with holes.
fn tree_of(host: &Host) -> PathBuf {
    let top = host.src("tree");
    fs::create_dir_all(top.join("folder")).unwrap();
    for file in 0..20 {
        fs::write(top.join(format!("folder/{file}")), random(file, 100 * file as usize)).unwrap();
    }
    fs::write(top.join("large"), random(1, 3 << 20)).unwrap();
    let holed = File::create(top.join("holed")).unwrap();
    holed.set_len(4 << 20).unwrap();
    holed.write_all_at(&random(2, 100_000), 2 << 20).unwrap();
    top
}

fn serve_in(host: &Host, sandbox: &Sandbox) -> Serve {
    let mut command = host.qbulk();
    command.args(Serve::arguments(host)).args(["--listen", "127.0.0.1:0"]);
    Serve::spawn(host, sandbox.around(&command))
}

#[test]
fn calls_that_are_courtesies_may_be_refused() {
    let (lacking, denied, invalid) =
        (number(Errno::NOSYS), number(Errno::PERM), number(Errno::INVAL));
    let rules: [&[(&str, i32)]; 3] = [
        &[("flock", lacking), ("faccessat2", denied), ("fallocate", denied), ("openat2", denied)],
        &[("flock", number(Errno::NOLCK)), ("fallocate", invalid), ("syncfs", lacking)],
        &[("flock", number(Errno::OPNOTSUPP)), ("openat2", lacking), ("fstatfs", lacking)],
    ];
    for rules in rules {
        let sandbox = Sandbox::new(rules);
        if !sandbox.is_there("calls_that_are_courtesies_may_be_refused") {
            return;
        }
        let host = Host::new();
        let top = tree_of(&host);
        let serve = serve_in(&host, &sandbox);
        let ran = host.push(&top, &serve.url(""));
        assert_eq!(ran.code, 0, "{rules:?}: {ran:?}");
        assert_eq!(tree(&top), tree(&host.root("tree")), "{rules:?}");
        assert!(unfinished(&host.root("")).is_empty(), "{rules:?}");
        assert_eq!(serve.stop(), Some(0));
    }
}

#[test]
fn a_source_that_cannot_tell_its_holes_is_sent_as_it_reads() {
    let sandbox = Sandbox::new(&[("lseek", number(Errno::INVAL))]);
    if !sandbox.is_there("a_source_that_cannot_tell_its_holes...") {
        return;
    }
    let host = Host::new();
    let top = tree_of(&host);
    let serve = Serve::start(&host);
    let ran = run(&mut sandbox.around(&host.pushing(&[top.as_ref()], &serve.url(""))));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(tree(&top), tree(&host.root("tree")));
    assert_eq!(names(&host.root("")).len(), tree(&top).len());
}
