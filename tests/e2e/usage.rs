//! What cannot be done is said before anything is sent, each kind with its exit code.

use std::fs;
use std::net::UdpSocket;

use crate::common::{Host, Serve, eventually, names, run};

#[test]
fn wrong_usage_is_2_and_says_what_is_allowed() {
    let host = Host::new();
    fs::write(host.src("file"), b"").unwrap();
    let url = "qbulk://127.0.0.1:1/x";
    for (args, words) in [
        (&["host"] as &[&str], "qbulk://HOST"),
        (&["https://host/x"], "qbulk://HOST"),
        (&["qbulk://user@host/x"], "user"),
        (&["qbulk://host/a/../../x"], ".."),
        (&["qbulk://host/%2e%2e/x"], ".."),
        (&["qbulk://host/x?y"], "%3F"),
        (&["qbulk://host:70000/x"], "port"),
        (&["--connections", "4", "--active", "5", url], "--connections"),
        (&["--connections", "0", url], "1..=64"),
        (&["--connections", "65", url], "1..=64"),
        (&["--active", "0", url], "1..=64"),
        (&["--stripe-max", "100KiB", url], "power of two"),
        (&["--stripe-max", "32MiB", url], "16MiB"),
        (&["--stripe-min", "2MiB", "--stripe-max", "1MiB", url], "--stripe-min"),
        (&["--threshold", "1.5", url], "0.95"),
        (&["--connect-timeout", "soon", url], "10s"),
        (&["--mtu", "100", url], "1200"),
        (&["--prime-budget", "lots", url], "5MB"),
        (&["--bind", "here", url], "--bind"),
        (&["--fingerprint", "SHA256:short", url], "SHA256:"),
        (&["--cert", "a.crt", url], "--key"),
        (&["--no-such-option", url], "--no-such-option"),
    ] {
        let ran = run(host.qbulk().arg("push").arg(host.src("file")).args(args));
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{args:?}: {ran:?}");
    }
    assert_eq!(run(host.qbulk().arg("push").arg(host.src("file"))).code, 2);
    assert_eq!(run(&mut host.qbulk()).code, 2);
    assert_eq!(run(host.qbulk().args(["serve", "--listen", "nowhere"])).code, 2);
    assert!(!host.config().exists(), "what is refused leaves nothing behind");
}

#[test]
fn help_teaches() {
    let host = Host::new();
    for (args, words) in [
        (&["--help"] as &[&str], "130 interrupted"),
        (&["push", "--help"], "slash"),
        (&["serve", "--help"], "--authorize"),
    ] {
        let ran = run(host.qbulk().args(args));
        assert_eq!(ran.code, 0);
        // Wherever its lines end.
        let help: Vec<&str> = ran.stdout.split_whitespace().collect();
        assert!(help.join(" ").contains(words), "{args:?}: {ran:?}");
    }
}

#[test]
fn the_command_line_comes_before_the_environment_and_that_before_the_file() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"content").unwrap();
    let opened = |variable: &[(&str, &str)], args: &[&str]| {
        let mut command = host.qbulk();
        command.args(["push", "--json"]).args(args).arg(host.src("file")).arg(serve.url(""));
        let ran = run(command.envs(variable.iter().copied()));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.summary()["connections_opened"].as_u64().unwrap()
    };
    fs::write(host.config().join("config.toml"), "[push]\nconnections = 2\n").unwrap();
    assert_eq!(opened(&[], &[]), 2);
    assert_eq!(opened(&[("QBULK_CONNECTIONS", "3")], &[]), 3);
    assert_eq!(opened(&[("QBULK_CONNECTIONS", "3")], &["--connections", "4"]), 4);

    for (text, words) in
        [("[push]\nspeed = 9\n", "speed"), ("[fetch]\n", "fetch"), ("connections = 2\n", "[push]")]
    {
        fs::write(host.config().join("config.toml"), text).unwrap();
        host.push(host.src("file"), &serve.url("")).assert_failed(2, words);
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_3() {
    let host = Host::new();
    fs::write(host.src("file"), b"").unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let own = host.id();
    for address in [nobody, silent.local_addr().unwrap()] {
        // The key is asked for in the one case, and known in the other.
        for known in [&[] as &[&str], &["--fingerprint", &own]] {
            let url = format!("qbulk://{address}/x");
            let mut command = host.qbulk();
            command.args(["push", "--connect-timeout", "1s"]).args(known);
            let ran = run(command.arg(host.src("file")).arg(url));
            ran.assert_failed(3, &format!("{address} (UDP)"));
        }
    }
    let ran = host.push(host.src("file"), "qbulk://no-such-host.invalid/x");
    ran.assert_failed(3, "no-such-host.invalid");
}

#[test]
fn a_source_that_is_missing_is_6() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("file"), b"").unwrap();
    let (file, missing) = (host.src("file"), host.src("missing"));
    let both = [file.as_ref(), missing.as_ref()];
    run(&mut host.pushing(&both, &serve.url("new"))).assert_failed(6, "missing");
    host.push(host.src("file/"), &serve.url("new")).assert_failed(6, "file/");
    assert!(names(&host.root("")).is_empty());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let root = host.root("missing");
    run(host.qbulk().args(["serve", "--root"]).arg(&root)).assert_failed(6, "missing");
    let taken = serve.address.to_string();
    run(host.qbulk().args(["serve", "--listen", &taken])).assert_failed(3, "in use");
}

#[test]
fn a_destination_that_does_not_fit_changes_nothing() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::create_dir(host.src("tree")).unwrap();
    fs::write(host.src("tree/in"), b"new").unwrap();
    fs::write(host.root("taken"), b"old").unwrap();
    host.push(host.src("tree"), &serve.url("taken")).assert_failed(2, "taken");
    host.push(host.src("tree/in"), &serve.url("taken/")).assert_failed(2, "taken");
    assert_eq!(fs::read(host.root("taken")).unwrap(), b"old");

    // A file where a folder is: that file fails, and the folder stays.
    fs::create_dir_all(host.root("tree/in/deep")).unwrap();
    let ran = host.push(host.src("tree"), &serve.url(""));
    ran.assert_failed(1, "tree/in");
    eventually("nothing else is left", || {
        names(&host.root("")) == ["taken", "tree", "tree/in", "tree/in/deep"]
    });
}
