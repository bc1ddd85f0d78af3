//! What may be done below which root, and by whom.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Signal, kill_process};

use crate::common::{
    Host, Ran, Serve, eventually, free_address, names, pid, random, run, tree, unfinished,
};
use crate::hostile::{Attacker, file, stripe};
use crate::scene::{MIB, Push};
use crate::trust::write_list;

/// A server with these options and no others.
fn serving(host: &Host, args: &[&str]) -> Command {
    let mut command = host.qbulk();
    command.args(["serve", "--json"]).args(args);
    command
}

fn serve(host: &Host, args: &[&str]) -> Serve {
    Serve::spawn(host, serving(host, &[&["--listen", "127.0.0.1:0"], args].concat()))
}

/// Runs a command of `client`, which takes the server's key as it is.
fn by(client: &Host, command: &str, serve: &Serve, path: &str) -> Ran {
    let mut by = client.qbulk();
    by.args([command, "--json", "--accept-new"]).arg(client.src("file")).arg(serve.url(path));
    run(&mut by)
}

fn pull(client: &Host, server: &Host, serve: &Serve, path: &str) -> Ran {
    let mut pull = client.qbulk();
    pull.args(["pull", "--json", "--fingerprint", &server.id()]).arg(serve.url(path));
    run(pull.arg(format!("{}/", client.src("pulled").display())))
}

/// Another user with a file, and what the server says of that user's key.
fn known(server: &Host, client: &Host, options: &str) {
    fs::create_dir_all(server.config()).unwrap();
    let line = format!("# who may do what\n{options} {} a user\n", client.id());
    write_list(&server.config().join("authorized_keys"), &line);
}

#[test]
fn each_access_lets_do_what_it_says() {
    for (access, push, verify) in
        [("read", 5, 0), ("write", 0, 5), ("both", 0, 0), ("append", 0, 5)]
    {
        let host = Host::new();
        fs::write(host.src("file"), b"content").unwrap();
        fs::copy(host.src("file"), host.root("old")).unwrap();
        let time = fs::metadata(host.src("file")).unwrap().modified().unwrap();
        File::options().write(true).open(host.root("old")).unwrap().set_modified(time).unwrap();
        let serve = Serve::with(&host, &["--access", access]);
        let ran = host.push(host.src("file"), &serve.url("new"));
        assert_eq!(ran.code, push, "{access}: {ran:?}");
        if push == 5 {
            ran.assert_failed(5, "you may not write here: only read");
            assert_eq!(names(&host.root("")), ["old"]);
            assert!(serve.event("refused")["reason"].as_str().unwrap().contains(&host.id()));
        }
        // What is there and what is not are refused alike.
        for (path, there) in [("old", 0), ("missing", 1)] {
            let ran = host.verify(&[host.src("file").as_ref(), serve.url(path).as_ref()]);
            assert_eq!(ran.code, if verify == 5 { 5 } else { there }, "{access}: {ran:?}");
            if verify == 5 {
                ran.assert_failed(5, &format!("you may not read here: only {access}"));
            }
            let ran = pull(&host, &host, &serve, path);
            // It cannot have what there is not.
            assert_eq!(
                ran.code,
                if verify == 5 || there == 1 { 5 } else { 0 },
                "{access}: {ran:?}"
            );
            assert_eq!(host.src("pulled").join(path).exists(), ran.code == 0);
            if verify == 5 {
                ran.assert_failed(5, &format!("you may not read here: only {access}"));
            }
        }
    }
}

#[test]
fn a_host_with_named_roots_lists_those_that_the_key_may_read_and_tells_what_fails_below_them() {
    let (server, client) = (Host::new(), Host::new());
    let roots = ["media", "inbox", "other", "shared"].map(|name| {
        fs::create_dir_all(server.root(name).join("in/deep")).unwrap();
        fs::write(server.root(name).join("in/file"), name).unwrap();
        format!("{name}={}", server.root(name).display())
    });
    mkfifoat(CWD, server.root("media/in/pipe"), Mode::RUSR).unwrap();
    known(&server, &client, "root=media,inbox,shared access=both");
    let mut command = serving(&server, &["--access", "inbox=write", "--listen", "127.0.0.1:0"]);
    command.args(roots.iter().flat_map(|root| ["--root", root]));
    let serve = Serve::spawn(&server, command);
    let ls = |args: &[&str]| {
        let mut ls = client.qbulk();
        ls.args(["ls", "--json", "--fingerprint", &server.id()]).args(args).arg(serve.url(""));
        let ran = run(&mut ls);
        assert_eq!(ran.code, 0, "{ran:?}");
        let entries = ran.events().into_iter().filter(|event| event["event"] == "entry");
        let path = |event: serde_json::Value| {
            let kind = event["kind"].as_str().unwrap().to_owned();
            (event["path"].as_str().unwrap().to_owned(), kind)
        };
        let all = entries.map(path).collect::<Vec<_>>();
        all.iter().map(|(path, kind)| format!("{path} {kind}")).collect::<Vec<_>>()
    };
    assert_eq!(ls(&[]), ["media folder", "shared folder"]);
    let deep = [
        "media folder",
        "shared folder",
        "media/in folder",
        "media/in/deep folder",
        "media/in/file file",
        "media/in/pipe other",
        "shared/in folder",
        "shared/in/deep folder",
        "shared/in/file file",
    ];
    assert_eq!(ls(&["-R"]), deep);

    let ran = pull(&client, &server, &serve, "media/in");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.summary()["failures"][0]["path"], "media/in/pipe", "{ran:?}");
    // What fails here is told by what was typed for it.
    fs::remove_dir_all(client.src("pulled")).unwrap();
    fs::create_dir_all(client.src("pulled/in/file")).unwrap();
    let ran = pull(&client, &server, &serve, "shared/in");
    let failed = client.src("pulled/in/file").display().to_string();
    assert_eq!(ran.summary()["failures"][0]["path"], failed, "{ran:?}");

    // Whoever may read none hears so, as before.
    known(&server, &client, "access=write");
    let mut ls = client.qbulk();
    ls.args(["ls", "--json", "--fingerprint", &server.id()]).arg(serve.url(""));
    run(&mut ls).assert_failed(5, "you may read below none");
}

#[test]
fn roots_have_names_and_rights_of_their_own() {
    let (server, client) = (Host::new(), Host::new());
    let media = server.root("media").display().to_string();
    let scratch = server.outside("x=y").display().to_string();
    for path in [&media, &scratch] {
        fs::create_dir(path).unwrap();
    }
    let roots = [format!("media={media}"), format!("scratch={scratch}"), format!("own={scratch}")];
    known(&server, &client, "root=media,scratch access=both");
    let serving = ["--root", &roots[0], "--root", &roots[1], "--root", &roots[2]];
    let mut command = self::serving(&server, &serving);
    command.args(["--access", "media=read,own=append", "--listen", "127.0.0.1:0"]);
    let serve = Serve::spawn(&server, command);

    fs::write(client.src("file"), b"content").unwrap();
    let ran = by(&client, "push", &serve, "scratch/folder/");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(names(Path::new(&scratch)), ["folder", "folder/file"]);
    assert_eq!(serve.event("started")["destination"], "scratch/folder/");
    assert_eq!(by(&client, "verify", &serve, "scratch/folder").code, 0);
    let ran = by(&client, "verify", &serve, "scratch");
    assert_eq!(ran.findings()["scratch/file"], "missing", "{ran:?}");
    by(&client, "push", &serve, "media/x").assert_failed(5, "you may not write below ");
    by(&client, "push", &serve, "").assert_failed(5, "begin with the name of a root");
    fs::write(server.root("media/film"), b"film").unwrap();
    for path in ["media/film", "scratch/folder"] {
        let ran = pull(&client, &server, &serve, path);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(names(&client.src("pulled")), ["film", "folder", "folder/file"]);
    for path in ["own/folder/file", "own/none", "none"] {
        pull(&client, &server, &serve, path).assert_failed(5, "there is no root ");
    }

    // A name that is not for this key is as one that there is not.
    let said = |command, name: &str| {
        let ran = by(&client, command, &serve, &format!("{name}/x"));
        ran.assert_failed(5, "there is no root ");
        let message = ran.events().pop().unwrap()["message"].as_str().unwrap().to_owned();
        message.replace(name, "NAME")
    };
    for command in ["push", "verify"] {
        assert_eq!(said(command, "own"), said(command, "nosuch"));
    }

    // What fails is told with the path that the client knows.
    fs::create_dir(server.outside("x=y/file")).unwrap();
    let ran = by(&client, "push", &serve, "scratch/");
    assert_eq!(ran.summary()["failures"][0]["path"], "scratch/file", "{ran:?}");
    assert_eq!(serve.stop(), Some(0));
}

/// That a path that is not below the root of its transfer leads nowhere, whatever the client was promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transfer_stays_below_its_root() {
    let host = Host::new();
    for name in ["in", "in2"] {
        fs::create_dir(host.root(name)).unwrap();
    }
    let roots = ["in", "in2"].map(|name| format!("{name}={}", host.root(name).display()));
    let serve = serve(&host, &["--root", &roots[0], "--root", &roots[1]]);
    for path in ["in2/file", "file", "in", "inx"] {
        let mut push = Attacker::connect(&host, &serve).await;
        push.hello(b"in").await;
        push.expect_welcome().await;
        push.send(&stripe(0, &[file(1, path.as_bytes(), b"1")], b"1")).await;
        push.expect_closed("another root").await;
    }
    eventually("nothing is there", || names(&host.root("")) == ["in", "in2"]);
}

#[test]
fn what_a_line_says_of_a_key_counts_at_once() {
    let (server, client) = (Host::new(), Host::new());
    fs::write(client.src("file"), b"content").unwrap();
    let serve = Serve::start(&server);
    for (options, push, verify, words) in [
        ("access=read", 5, 0, "only read"),
        ("", 0, 0, ""),
        ("access=write", 0, 5, "only write"),
        ("access=append", 1, 5, "may be replaced"),
        ("root=media", 5, 5, "you may do nothing here"),
        // A line that is not understood lets nobody in.
        ("acess=read", 4, 4, ""),
        ("access=all", 4, 4, ""),
        ("access=both", 0, 0, ""),
    ] {
        known(&server, &client, options);
        let pushed = by(&client, "push", &serve, "");
        assert_eq!(pushed.code, push, "{options}: {pushed:?}");
        let verified = by(&client, "verify", &serve, "");
        let is_there = if verify == 0 && !server.root("file").exists() { 1 } else { verify };
        assert_eq!(verified.code, is_there, "{options}: {verified:?}");
        let said = format!("{pushed:?}{verified:?}");
        assert!(said.contains(words), "{options}: {said}");
    }
    let log = fs::read_to_string(server.dir.path().join("serve.stderr")).unwrap();
    assert!(log.contains("line 2: unknown option \"acess\""), "{log}");
    assert_eq!(serve.stop(), Some(0));

    // A server does not begin with such a line.
    known(&server, &client, "access=all");
    let ran = run(&mut serving(&server, &["--listen", "127.0.0.1:0"]));
    ran.assert_failed(4, "line 2: ");
}

#[test]
fn the_command_line_lets_a_key_do_all_that_the_roots_allow() {
    let (server, client) = (Host::new(), Host::new());
    fs::write(client.src("file"), b"content").unwrap();
    known(&server, &client, "access=read");
    let serve = Serve::with(&server, &["--authorize", &client.id(), "--access", "write"]);
    assert_eq!(by(&client, "push", &serve, "").code, 0);
    by(&client, "verify", &serve, "").assert_failed(5, "only write");
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn append_replaces_removes_and_changes_nothing() {
    let host = Host::new();
    for (at, text) in [(host.root(""), "old"), (host.src(""), "new")] {
        for name in ["folder", "closed"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        fs::write(at.join("file"), text).unwrap();
        fs::write(at.join("large"), random(text.len() as u64, 3 << 20)).unwrap();
        fs::write(at.join("folder/file"), text).unwrap();
        symlink(text, at.join("link")).unwrap();
    }
    // One kind in the place of another.
    symlink("file", host.root("link for file")).unwrap();
    fs::write(host.src("link for file"), b"new").unwrap();
    fs::create_dir(host.root("folder for file")).unwrap();
    fs::write(host.src("folder for file"), b"new").unwrap();
    fs::write(host.root("file for link"), b"old").unwrap();
    symlink("file", host.src("file for link")).unwrap();
    fs::write(host.root("file for folder"), b"old").unwrap();
    fs::create_dir(host.src("file for folder")).unwrap();
    // And what is new.
    fs::create_dir_all(host.src("fresh/in")).unwrap();
    fs::write(host.src("fresh/in/file"), b"new").unwrap();
    fs::write(host.src("folder/fresh"), b"new").unwrap();
    symlink("nowhere", host.src("folder/fresh link")).unwrap();
    for (path, mode) in [("fresh/in", 0o705), ("fresh", 0o750), ("closed", 0o711)] {
        set_mode(&host.src(path), mode);
        set_time(&host.src(path), 1_000_000_000);
    }
    set_mode(&host.root("closed"), 0o500);
    set_mode(&host.root("folder"), 0o701);
    set_time(&host.root("closed"), 900_000_000);
    let before = tree(&host.root(""));

    let serve = Serve::with(&host, &["--access", "append"]);
    let ran = host.push(host.src(""), &serve.url(""));
    assert_eq!(ran.code, 1, "{ran:?}");
    let mut failed: Vec<_> = ran.summary()["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["path"].as_str().unwrap().to_owned())
        .collect();
    failed.sort();
    let want = [
        "file",
        "file for folder",
        "file for link",
        "folder for file",
        "folder/file",
        "large",
        "link",
        "link for file",
    ];
    assert_eq!(failed, want);
    ran.assert_failed(1, "nothing that is there may be replaced");
    assert_eq!(serve.stop(), Some(0));

    let (mut after, sent) = (tree(&host.root("")), tree(&host.src("")));
    for new in ["fresh", "fresh/in", "fresh/in/file", "folder/fresh", "folder/fresh link"] {
        assert_eq!(after.remove(Path::new(new)).as_ref(), Some(&sent[Path::new(new)]), "{new}");
    }
    // A folder in which something was put has another time by that.
    for (path, node) in &before {
        let is_grown = ["", "folder"].iter().any(|grown| path == Path::new(grown));
        assert!(is_grown || after[path] == *node, "{}", path.display());
    }
    assert_eq!(after.len(), before.len());
    assert_eq!(fs::metadata(host.root("folder")).unwrap().permissions().mode() & 0o777, 0o701);
}

/// A tree of everything that a transfer keeps, of which not all is there at once.
fn a_tree(host: &Host) {
    fs::create_dir_all(host.src("tree/a/b")).unwrap();
    for number in 0..40 {
        fs::write(host.src(format!("tree/a/{number}")), random(number, 10_000)).unwrap();
        symlink(number.to_string(), host.src(format!("tree/a/b/link {number}"))).unwrap();
    }
    fs::write(host.src("tree/large"), random(1, 6 << 20)).unwrap();
    for (path, mode) in [("tree/a/b", 0o750), ("tree/a", 0o705), ("tree", 0o711)] {
        set_mode(&host.src(path), mode);
        set_time(&host.src(path), 1_000_000_000);
    }
}

fn limited(host: &Host, url: &str) -> Push {
    let args = ["--limit", "4MB", "--no-memory"].map(OsStr::new);
    let source = host.src("tree");
    Push::start(&mut host.pushing(&[&args[..], &[source.as_os_str()]].concat(), url))
}

/// What an unfinished push has put there is its own, and not in its way.
#[test]
fn a_push_to_where_nothing_is_replaced_goes_on_where_it_was() {
    for killed in ["client", "server"] {
        let host = Host::new();
        a_tree(&host);
        let root = format!("in={}", host.root("").display());
        let address = free_address().to_string();
        let args = ["--root", &root, "--access", "in=append", "--listen", &address];
        let mut serve = Serve::spawn(&host, serving(&host, &args));
        let mut push = limited(&host, &serve.url("in"));
        push.wait_for(3 * MIB);
        let ran = if killed == "client" {
            kill_process(pid(&push.child), Signal::KILL).unwrap();
            drop(push);
            host.push(host.src("tree"), &serve.url("in"))
        } else {
            serve.child.kill().unwrap();
            serve.child.wait().unwrap();
            serve = Serve::spawn(&host, serving(&host, &args));
            push.finish()
        };
        assert_eq!(ran.code, 0, "{killed}: {ran:?}");
        let summary = ran.summary();
        assert!(summary["kept_bytes"].as_u64().unwrap() > MIB, "{killed}: {summary}");
        let mut there = tree(&host.root("tree"));
        if killed == "server" {
            // Small files that it was writing are begun anew, under other names.
            there.retain(|path, _| !path.to_string_lossy().contains(".qbulk-"));
            let clean = run(host.qbulk().arg("clean").arg(host.root("")));
            assert_eq!(clean.code, 0, "{clean:?}");
        }
        assert_eq!(there, tree(&host.src("tree")), "{killed}");
        assert!(unfinished(&host.root("")).is_empty(), "{killed}");

        // Once it is done, it is there like anything else.
        fs::write(host.src("tree/a/7"), b"changed").unwrap();
        let ran = host.push(host.src("tree"), &serve.url("in"));
        ran.assert_failed(1, "in/tree/a/7");
        assert_eq!(fs::read(host.root("tree/a/7")).unwrap(), random(7, 10_000));
        assert_eq!(serve.stop(), Some(0));
    }
}

#[test]
fn what_is_unfinished_is_cleaned_up_below_each_root() {
    let host = Host::new();
    a_tree(&host);
    fs::create_dir(host.root("in")).unwrap();
    let roots = ["in", "other"].map(|name| {
        fs::create_dir_all(host.root(name)).unwrap();
        format!("{name}={}", host.root(name).display())
    });
    let serve = serve(&host, &["--root", &roots[0], "--root", &roots[1]]);
    let mut push = limited(&host, &serve.url("other"));
    push.wait_for(2 * MIB);
    kill_process(pid(&push.child), Signal::INT).unwrap();
    serve.event("aborted");
    assert_eq!(serve.stop(), Some(0));
    let left = unfinished(&host.root("other"));
    assert!(!left.is_empty() && unfinished(&host.root("in")).is_empty(), "{left:?}");
    // A server looks for what is old below all of its roots.
    let more = ["--keep-unfinished", "0s"];
    let serve =
        self::serve(&host, &[&["--root", &roots[0], "--root", &roots[1]][..], &more].concat());
    eventually("it is removed", || unfinished(&host.root("")).is_empty());
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn what_is_served_is_told_and_what_cannot_be_is_said() {
    let host = Host::new();
    fs::create_dir(host.config()).unwrap();
    let config = host.config().join("config.toml");
    let (root, outside) = (host.root(""), host.outside(""));
    let tables = format!(
        "[root.media]\npath = {root:?}\naccess = \"read\"\n[push]\nlimit = \"1MB\"\n[root.in]\npath = {outside:?}\n"
    );
    fs::write(&config, &tables).unwrap();
    let served = |args: &[&str]| {
        let serve = serve(&host, args);
        let roots = serve.roots.clone();
        assert_eq!(serve.stop(), Some(0));
        roots
    };
    let told = |name: &str, path: &Path, access: &str| {
        let path = path.canonicalize().unwrap();
        serde_json::json!({ "name": name, "path": path, "access": access })
    };
    let (media, other) = (told("media", &root, "read"), told("in", &outside, "both"));
    assert_eq!(served(&[]), serde_json::json!([other, media]));
    // What is typed about one leaves the other as it is.
    let other = told("in", &outside, "append");
    assert_eq!(served(&["--access", "in=append"]), serde_json::json!([other, media]));
    let typed = format!("typed={}", root.display());
    let typed = served(&["--root", &typed, "--access", "typed=write"]);
    assert_eq!(typed, serde_json::json!([told("typed", &root, "write")]));
    let alone = served(&["--root", root.to_str().unwrap(), "--access", "append"]);
    let path = root.canonicalize().unwrap();
    assert_eq!(alone, serde_json::json!([{ "path": path, "access": "append" }]));

    for (text, args, words) in [
        (&tables, &["--root", "/tmp", "--root", "a=/tmp"] as &[&str], "served together"),
        (&tables, &["--access", "nosuch=read"], "no root is called so"),
        (&tables, &["--access", "read"], "--access NAME=MODE"),
        (&tables, &["--access", "media=none"], "expected read, write, both or append"),
        (&tables, &["--root", "my files=/tmp"], "./my files=/tmp"),
        (&"[serve]\nroot = \".\"\n[root.a]\npath = \"/\"\n".to_owned(), &[], "cannot be together"),
        (&"[root.a]\npth = \"/\"\n".to_owned(), &[], "[root.a]: unknown key \"pth\""),
        (&"[root]\na = \"/\"\n".to_owned(), &[], "[root.NAME]"),
    ] {
        fs::write(&config, text).unwrap();
        let ran = run(serving(&host, &["--listen", "127.0.0.1:0"]).args(args));
        ran.assert_failed(2, words);
        // It is no matter of other commands.
        assert_eq!(run(host.qbulk().args(["push", "--help"])).code, 0);
        let ran = run(host.qbulk().args(["push", "missing", "qbulk://127.0.0.1:9/"]));
        assert_eq!(ran.code, 3, "{ran:?}");
    }
    let help = run(host.qbulk().args(["serve", "--help"])).stdout;
    for words in ["--access <[NAME=]MODE>", "--root <[NAME=]DIR>", "QBULK_ACCESS", "append"] {
        assert!(help.contains(words), "{words}");
    }
}
