//! Keys and lists of them where the disk is full, the home cannot be written to, or there is none.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::{Host, Serve, names, run};

/// Lets a process write files of so many blocks and no larger, as on a full disk.
fn room_for(blocks: u32) -> String {
    format!("ulimit -f {blocks}")
}

/// How large the blocks are that the shell counts in.
fn block_bytes() -> usize {
    let shell = ["-c", "ulimit -f 1; grep '^Max file size' /proc/self/limits"];
    let ran = run(Command::new("sh").args(shell));
    ran.stdout.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_full_disk_leaves_neither_half_a_key_nor_one_of_two_files() {
    let host = Host::new();
    let certs = host.dir.path().join("certs");
    let mut sans = Vec::new();
    for number in 0..200 {
        sans.extend(["--san".to_owned(), format!("host-{number}.example")]);
    }
    let ca = ["cert", "ca"].map(String::from).to_vec();
    let issue = [["cert", "issue", "alpha"].map(String::from).to_vec(), sans].concat();
    for (args, room, there, then) in [
        (&ca, 0, &[] as &[&str], &["ca.crt", "ca.key"] as &[&str]),
        // The key is short, and the certificate is not.
        (&issue, 1, &["ca.crt", "ca.key"], &["alpha.crt", "alpha.key", "ca.crt", "ca.key"]),
    ] {
        let mut command = host.qbulk_after(&room_for(room));
        let ran = run(command.args(args).arg("--dir").arg(&certs));
        ran.assert_failed(4, "cannot write");
        assert_eq!(names(&certs), there, "{ran:?}");
        let ran = run(host.qbulk().args(args).arg("--dir").arg(&certs));
        assert_eq!(ran.code, 0, "nothing is in the way later on: {ran:?}");
        assert_eq!(names(&certs), then);
    }
}

#[test]
fn a_full_disk_leaves_no_half_identity() {
    let host = Host::new();
    run(host.qbulk_after(&room_for(0)).arg("id")).assert_failed(4, "QBULK_CONFIG_DIR");
    assert!(names(&host.config()).is_empty());
    assert!(host.id().starts_with("SHA256:"));
}

#[test]
fn a_list_of_hosts_that_cannot_grow_stays_as_it_is_and_the_push_goes_on() {
    let (server, client) = (Host::new(), Host::new());
    let serve = Serve::with(&server, &["--authorize", &client.id()]);
    fs::write(client.src("file"), b"").unwrap();
    let known_hosts = client.config().join("known_hosts");
    // Some of a further line still fits.
    let nearly_full = format!("# {}\n", "x".repeat(block_bytes() - 20));
    for (before, room) in [(None, 0), (Some(&nearly_full), 1)] {
        if let Some(before) = before {
            fs::write(&known_hosts, before).unwrap();
        }
        let mut command = client.qbulk_after(&room_for(room));
        command.args(["push", "--json", "--accept-new", "--no-memory"]).arg(client.src("file"));
        let ran = run(command.arg(serve.url("")));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.contains("not remembered"), "{ran:?}");
        let after = fs::read_to_string(&known_hosts).ok();
        assert_eq!(after.as_ref(), before);
    }
}

#[test]
fn a_home_that_cannot_be_written_to_stops_no_push() {
    let (server, client) = (Host::new(), Host::unprivileged());
    let serve = Serve::with(&server, &["--authorize", &client.id()]);
    fs::write(client.src("file"), b"").unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    set(&client.config(), 0o500);
    let push = |config: &Path| {
        let mut command = client.qbulk();
        command.env("QBULK_CONFIG_DIR", config).env("QBULK_CACHE_DIR", config.join("cache"));
        command.args(["push", "--json", "--accept-new"]).arg(client.src("file"));
        run(command.arg(serve.url("")))
    };
    let ran = push(&client.config());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("not remembered"), "{ran:?}");
    assert_eq!(names(&client.config()), ["identity.pem"]);

    // Without an identity there is nothing to send with.
    fs::remove_file(client.config().join("identity.pem")).unwrap();
    push(&client.config()).assert_failed(4, "QBULK_CONFIG_DIR");
    push(Path::new("/dev/null")).assert_failed(4, "QBULK_CONFIG_DIR");
    set(&client.config(), 0o700);
}

#[test]
fn a_home_that_is_no_folder_is_no_matter_of_usage() {
    let host = Host::new();
    for (args, code) in [(&["id"] as &[&str], 4), (&["--version"], 0), (&["--help"], 0)] {
        let mut command = host.qbulk();
        command.env_remove("QBULK_CONFIG_DIR").env_remove("XDG_CONFIG_HOME");
        let ran = run(command.env("HOME", "/dev/null").args(args));
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(code == 0 || ran.stderr.contains("QBULK_CONFIG_DIR"), "{ran:?}");
    }
}

#[test]
fn what_is_made_for_the_user_is_for_nobody_else() {
    let (server, client) = (Host::new(), Host::new());
    let serve = Serve::with(&server, &["--authorize", &client.id()]);
    fs::write(client.src("file"), vec![1; 64 << 20]).unwrap();
    let (config, cache) =
        (client.dir.path().join("home/config"), client.dir.path().join("home/cache"));
    let identity = client.config().join("identity.pem");
    let mut command = client.qbulk_after("umask 000");
    command.env("QBULK_CONFIG_DIR", &config).env("QBULK_CACHE_DIR", &cache);
    command.arg("push").arg("--cert").arg(&identity).arg("--key").arg(&identity);
    command.args(["--accept-new", "--json"]).arg(client.src("file")).arg(serve.url(""));
    let ran = run(&mut command);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut command = client.qbulk_after("umask 000");
    assert_eq!(run(command.env("QBULK_CONFIG_DIR", &config).arg("id")).code, 0);
    let home = client.dir.path().join("home");
    let made = names(&home);
    assert_eq!(
        made,
        ["cache", "cache/paths.json", "config", "config/identity.pem", "config/known_hosts"]
    );
    for name in made {
        let mode = fs::metadata(home.join(&name)).unwrap().mode() & 0o077;
        assert_eq!(mode, 0, "{name}");
    }
}
