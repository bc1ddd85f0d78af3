//! Command line, environment and configuration file: what counts, and what is said of what cannot be.

use std::fs;

use crate::common::{Host, Ran, Serve, run};

/// A host with a `config.toml`, and an empty file to push.
fn host(config: &str) -> Host {
    let host = Host::new();
    fs::write(host.src("file"), b"").unwrap();
    fs::create_dir_all(host.config()).unwrap();
    fs::write(host.config().join("config.toml"), config).unwrap();
    host
}

/// A push to nobody: what is wrong with its options is said before.
fn push(host: &Host, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = host.qbulk();
    command.envs(variables.iter().copied()).arg("push").args(args).arg(host.src("file"));
    run(command.args(["qbulk://127.0.0.1:9/x", "--connect-timeout", "1ms"]))
}

#[test]
fn a_bad_value_says_where_it_is_from() {
    let host = host("[push]\nlimit = \"fast\"\n");
    let file = host.config().join("config.toml").display().to_string();
    push(&host, &[], &[])
        .assert_failed(2, &format!("{file}, limit in [push]: invalid value 'fast'"));
    let ran = push(&host, &[("QBULK_LIMIT", "slow")], &[]);
    ran.assert_failed(2, "QBULK_LIMIT (environment): invalid value 'slow'");
    let ran = push(&host, &[("QBULK_LIMIT", "slow")], &["--limit", "none"]);
    ran.assert_failed(2, "error: invalid value 'none' for '--limit");
    // What does not count is not looked at.
    fs::write(host.config().join("config.toml"), "[push]\nlimit = 1\ncongestion = \"none\"\n")
        .unwrap();
    let given = ["--limit", "1MB", "--congestion", "cubic"];
    assert_eq!(push(&host, &[("QBULK_LIMIT", "slow")], &given).code, 3);
    let ran = push(&host, &[], &given[..2]);
    ran.assert_failed(2, &format!("{file}, congestion in [push]"));
    ran.assert_failed(2, "possible values: model, cubic");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let host = host("");
    let names =
        ["LIMIT", "CONNECTIONS", "ACTIVE", "QUIET", "RETRY_FOR", "BIND", "CA", "CERT", "RECEIPT"];
    let names = names.map(|name| format!("QBULK_{name}"));
    let variables: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let ran = push(&host, &variables, &[]);
    assert_eq!(ran.code, 3, "{ran:?}");
}

#[test]
fn a_mistake_in_one_section_is_no_matter_of_others() {
    for broken in [
        "[serve]\nroot = /srv\n",
        "[serve]\nrot = \"/srv\"\n",
        "[serve]\nroot = [",
        "[serve]\nlisten = \"\"\"\n",
        "[ serve ]\nx\n[verify]\ny\n",
    ] {
        let host = host(&format!("{broken}\n[push]\nlimit = \"fast\"\n"));
        push(&host, &[], &[]).assert_failed(2, "limit in [push]");
        for args in [&["id"] as &[&str], &["--help"], &["--version"], &["push", "--help"]] {
            assert_eq!(run(host.qbulk().args(args)).code, 0, "{args:?} with {broken}");
        }
        let ran = run(host.qbulk().args(["serve", "--listen", "nowhere"]));
        assert_eq!(ran.code, 2, "{ran:?}");
        let ran = run(host.qbulk().args(["serve", "--root", "missing"]));
        ran.assert_failed(2, "config.toml");
    }
    // Nobody knows which command these were meant for.
    for (unknown, words) in [
        ("[psh]\nlimit = 1\n", "[psh]"),
        ("limit = 1\n", "limit"),
        ("[push\nlimit = 1\n", "line 1"),
    ] {
        let host = host(unknown);
        push(&host, &[], &[]).assert_failed(2, words);
        assert_eq!(run(host.qbulk().arg("id")).code, 0);
    }
}

#[test]
fn what_is_turned_on_can_be_turned_off() {
    let host =
        host("[push]\nquiet = true\njson = true\naccept_new = true\n[clean]\ndry-run = true\n");
    let serve = Serve::start(&host);
    let push = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = host.qbulk();
        command.envs(variables.iter().copied()).args(["push", "-I"]).args(args);
        let ran = run(command.arg(host.src("file")).arg(serve.url("")));
        assert_eq!(ran.code, 0, "{ran:?}");
        (ran.stdout.is_empty(), ran.stderr.contains("verified and durable"))
    };
    assert_eq!(push(&[], &[]), (false, false));
    assert_eq!(push(&[], &["--json=no"]), (true, false));
    assert_eq!(push(&[], &["--json=false", "--quiet=false"]), (true, true));
    assert_eq!(push(&[("QBULK_QUIET", "no"), ("QBULK_JSON", "0")], &[]), (true, true));
    assert_eq!(push(&[("QBULK_QUIET", "no"), ("QBULK_JSON", "0")], &["-q"]), (true, false));
    assert_eq!(push(&[("QBULK_VERBOSE", "2")], &["--json=0", "-q=n", "--verbose=0"]), (true, true));

    let kept = host.root("kept.qbulk");
    fs::write(&kept, b"").unwrap();
    let ran = run(host.qbulk().args(["clean", "--dry-run=no"]).arg(host.root("")));
    assert!(ran.code == 0 && !ran.stderr.contains("would be"), "{ran:?}");
    let ran = run(host.qbulk().arg("clean").arg(host.root("")));
    assert!(ran.code == 0 && ran.stderr.contains("would be"), "{ran:?}");
}

#[test]
fn who_one_is_and_whom_one_trusts_is_never_half_of_what_was_said() {
    let identity = |host: &Host| host.config().join("identity.pem").display().to_string();
    let mut files = Vec::new();
    for key in ["cert", "key"] {
        let host = host(&format!("[push]\n{key} = \"a\"\n[serve]\n{key} = \"a\"\n"));
        push(&host, &[], &[]).assert_failed(2, &format!("--{key} goes with"));
        run(host.qbulk().arg("serve")).assert_failed(2, &format!("--{key} goes with"));
        assert!(!host.config().join("identity.pem").exists(), "no other key is used");
        // Each from another place will do.
        host.id();
        let path = identity(&host);
        fs::write(host.config().join("config.toml"), format!("[push]\n{key} = {path:?}\n"))
            .unwrap();
        let other = if key == "cert" { "--key" } else { "--cert" };
        assert_eq!(push(&host, &[], &[other, &path]).code, 3);
        files.push(host);
    }

    let own = files[0].id();
    let host = host(&format!("[push]\nca = \"missing.crt\"\nfingerprint = \"{own}\"\n"));
    push(&host, &[], &[]).assert_failed(2, "--fingerprint");
    fs::write(host.config().join("config.toml"), "[push]\nca = \"missing.crt\"\n").unwrap();
    push(&host, &[], &[]).assert_failed(4, "missing.crt");
    // Nobody else is trusted because the file says so.
    assert_eq!(push(&host, &[], &["--fingerprint", &own]).code, 3);
    assert_eq!(push(&host, &[("QBULK_FINGERPRINT", &own)], &[]).code, 3);
    push(&host, &[("QBULK_FINGERPRINT", &own)], &["--ca", "other.crt"])
        .assert_failed(4, "other.crt");
}

#[test]
fn a_number_alone_is_seconds_and_m_alone_is_enough() {
    let host = host("[push]\nretry_for = 0.5\n[serve]\nlisten = \":0\"\nkeep-unfinished = 10\n");
    let ran = push(&host, &[], &["-m", "12", "--limit", "100Mbit", "--rtt-max", "1"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    push(&host, &[], &["-m", "12", "--connections", "4"]).assert_failed(2, "--active 12");
    let mut command = host.qbulk();
    command.args(Serve::arguments(&host));
    let serve = Serve::spawn(&host, command);
    assert!(serve.address.ip().is_unspecified() && serve.address.port() != 0);
}
