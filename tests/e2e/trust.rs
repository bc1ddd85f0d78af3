//! Who may write where: keys, known hosts, certificates.

use std::fs::{self, Permissions};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, geteuid, kill_process};

use crate::common::{Host, Ran, Serve, names, pid, run};

fn push(client: &Host, serve: &Serve, args: &[&str]) -> Ran {
    fs::write(client.src("file"), b"content").unwrap();
    let mut command = client.qbulk();
    command.args(["push", "--json"]).args(args).arg(client.src("file")).arg(serve.url(""));
    run(&mut command)
}

/// A list that nobody else may write to, whatever the umask.
pub(crate) fn write_list(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    mode(path, 0o644);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_list_that_others_could_change_lets_nobody_in_and_no_server_start() {
    let (server, client) = (Host::new(), Host::new());
    let own = server.id();
    let keys = server.config().join("authorized_keys");
    write_list(&keys, &client.id());
    let serve = Serve::start(&server);
    let code = || push(&client, &serve, &["--fingerprint", &own]).code;
    let starts = || run(server.qbulk().args(["serve", "--listen", "192.0.2.1:1"]));
    assert_eq!(code(), 0);
    starts().assert_failed(3, "cannot listen");
    let folder = server.config();
    for (path, loose, tight) in
        [(&keys, 0o664, 0o600), (&keys, 0o646, 0o644), (&folder, 0o770, 0o700)]
    {
        mode(path, loose);
        assert_eq!(code(), 4, "{loose:o}");
        let path_shown = path.canonicalize().unwrap();
        starts().assert_failed(4, &format!("chmod go-w {}", path_shown.display()));
        mode(path, tight);
        assert_eq!(code(), 0, "{tight:o}");
    }
    if geteuid().is_root() {
        chown(&keys, Some(1_234), None).unwrap();
        assert_eq!(code(), 4);
        starts().assert_failed(4, "belongs to user 1234; to mend it: chown 0 ");
        chown(&keys, Some(0), None).unwrap();
        assert_eq!(code(), 0);
    }
}

#[test]
fn a_key_of_somebody_else_is_no_key_of_ones_own() {
    if !geteuid().is_root() {
        return; // nobody else can give files away
    }
    let host = Host::unprivileged();
    let config = host.config();
    fs::create_dir(&config).unwrap();
    chown(&config, Some(65_534), Some(65_534)).unwrap();
    let id = host.id();
    let key = config.join("identity.pem");
    chown(&key, Some(1_234), Some(65_534)).unwrap();
    mode(&key, 0o640);
    run(host.qbulk().arg("id")).assert_failed(4, "chmod 600");
    // As secrets are handed to services: root's, for their group to read.
    chown(&key, Some(0), Some(65_534)).unwrap();
    assert_eq!(host.id(), id);
    mode(&key, 0o644);
    run(host.qbulk().arg("id")).assert_failed(4, "is open to other users");
}

#[test]
fn a_revoked_key_is_let_in_no_more_though_it_has_a_certificate() {
    let (server, client) = (Host::new(), Host::new());
    let certs = server.outside("certs");
    let cert = |args: &[&str]| {
        let ran = run(server.qbulk().arg("cert").args(args).arg("--dir").arg(&certs));
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    cert(&["ca"]);
    cert(&["issue", "server", "--san", "127.0.0.1"]);
    cert(&["issue", "alice", "--valid", "20days"]);
    cert(&["issue", "another", "--san", "another.example"]);
    let at = |name: &str| certs.join(name).display().to_string();
    let (ca, revoked) = (at("ca.crt"), server.outside("revoked"));
    write_list(&revoked, "# nobody\n");
    let serve = Serve::with(
        &server,
        &[
            "--ca",
            &ca,
            "--cert",
            &at("server.crt"),
            "--key",
            &at("server.key"),
            "--revoked",
            revoked.to_str().unwrap(),
        ],
    );
    let push = |name: &str| {
        let (cert, key) = (at(&format!("{name}.crt")), at(&format!("{name}.key")));
        push(&client, &serve, &["--ca", &ca, "--cert", &cert, "--key", &key])
    };
    let ran = push("alice");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("alice.crt ends at "), "it is told in time: {ran:?}");
    push("another").assert_failed(4, "or a server's for a client");

    let started = serve.event("started");
    write_list(&revoked, &format!("{} lost\n", started["client"].as_str().unwrap()));
    push("alice").assert_failed(4, "knows the certificate as revoked");
    fs::remove_file(&revoked).unwrap();
    push("alice").assert_failed(4, "revoked");
    let missing = run(server.qbulk().args(["serve", "--revoked", revoked.to_str().unwrap()]));
    missing.assert_failed(4, "cannot read");
}

/// Skipped where the system writes no cores.
#[test]
fn a_process_that_dies_leaves_no_core_with_its_keys() {
    let host = Host::new();
    host.id();
    let dies = ["-c", "ulimit -c unlimited; kill -ABRT $$"];
    let status = Command::new("sh").args(dies).current_dir(host.dir.path()).status().unwrap();
    if !status.core_dumped() {
        println!("skipped: no cores are written here");
        return;
    }
    let mut command = host.qbulk_after("ulimit -c unlimited");
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    let mut serve = Serve::spawn(&host, command);
    kill_process(pid(&serve.child), Signal::ABORT).unwrap();
    let status = serve.child.wait().unwrap();
    assert!(status.signal() == Some(Signal::ABORT.as_raw()) && !status.core_dumped(), "{status:?}");
}

#[test]
fn a_client_that_the_server_does_not_know_writes_nothing() {
    let (server, client) = (Host::new(), Host::new());
    let serve = Serve::start(&server);
    push(&client, &serve, &["--accept-new"]).assert_failed(4, &client.id());
    push(&client, &serve, &["--fingerprint", &server.id()]).assert_failed(4, "--authorize");
    assert!(names(&server.root("")).is_empty());
    serve.event("refused");

    let ran = push(&server, &serve, &[]);
    assert_eq!(ran.code, 0, "one's own key is accepted without more: {ran:?}");
}

#[test]
fn clients_are_let_in_by_option_and_by_file() {
    let (server, client) = (Host::new(), Host::new());
    let own = server.id();
    let serve = Serve::with(&server, &["--authorize", &client.id()]);
    assert_eq!(push(&client, &serve, &["--fingerprint", &own]).code, 0);
    assert_eq!(serve.stop(), Some(0));

    let keys = format!("# who may write\n{} the client\n", client.id());
    write_list(&server.config().join("authorized_keys"), &keys);
    let serve = Serve::start(&server);
    assert_eq!(push(&client, &serve, &["--fingerprint", &own]).code, 0);
    assert_eq!(push(&Host::new(), &serve, &["--fingerprint", &own]).code, 4);
}

#[test]
fn a_key_that_is_taken_out_or_put_in_counts_at_once() {
    let (server, client) = (Host::new(), Host::new());
    let own = server.id();
    let serve = Serve::start(&server);
    let keys = server.config().join("authorized_keys");
    for is_listed in [false, true, false] {
        write_list(&keys, &if is_listed { client.id() } else { Host::new().id() });
        let ran = push(&client, &serve, &["--fingerprint", &own]);
        assert_eq!(ran.code, if is_listed { 0 } else { 4 }, "{ran:?}");
    }
}

#[test]
fn a_server_with_another_key_than_the_one_asked_for_gets_nothing() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let other = Host::new().id();
    push(&host, &serve, &["--fingerprint", &other]).assert_failed(4, &host.id());
    assert!(names(&host.root("")).is_empty());
}

#[test]
fn a_server_is_remembered_at_first_sight_and_held_to_its_key() {
    let (server, client) = (Host::new(), Host::new());
    let authorize = ["--authorize", &client.id()];
    let serve = Serve::with(&server, &authorize);
    let known_hosts = client.config().join("known_hosts");

    push(&client, &serve, &[]).assert_failed(4, "--accept-new");
    assert!(!known_hosts.exists() && names(&server.root("")).is_empty());

    assert_eq!(push(&client, &serve, &["--accept-new"]).code, 0);
    let known = fs::read_to_string(&known_hosts).unwrap();
    assert_eq!(known, format!("{} {}\n", serve.address, server.id()));
    assert_eq!(push(&client, &serve, &[]).code, 0);

    // Another key at the same address is what somebody in between would show.
    let listen = serve.address.to_string();
    assert_eq!(serve.stop(), Some(0));
    let impostor = Host::new();
    let mut command = impostor.qbulk();
    command.args(Serve::arguments(&impostor)).args(["--listen", &listen]).args(authorize);
    let serve = Serve::spawn(&impostor, command);
    for args in [&[] as &[&str], &["--accept-new"]] {
        let ran = push(&client, &serve, args);
        ran.assert_failed(4, "HAS CHANGED");
        ran.assert_failed(4, &impostor.id());
    }
    assert!(names(&impostor.root("")).is_empty());
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), known);
}

#[test]
fn where_a_server_is_known_no_other_key_is_accepted_not_even_ones_own() {
    let (host, other) = (Host::new(), Host::new().id());
    let serve = Serve::start(&host);
    assert_eq!(push(&host, &serve, &[]).code, 0, "one's own key is accepted on this host");
    let known_hosts = host.config().join("known_hosts");
    let known = format!("# mine\n\n{} {other}\n", serve.address);
    fs::write(&known_hosts, &known).unwrap();
    fs::remove_file(host.root("file")).unwrap();
    for args in [&[] as &[&str], &["--accept-new"]] {
        let ran = push(&host, &serve, args);
        ran.assert_failed(4, "HAS CHANGED");
        ran.assert_failed(4, &host.id());
        ran.assert_failed(4, &format!("remove line 3 of {}", known_hosts.display()));
    }
    let source = host.src("file");
    let ran = host.verify(&[source.as_ref(), serve.url("").as_ref()]);
    ran.assert_failed(4, "HAS CHANGED");
    assert!(names(&host.root("")).is_empty());
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), known);
}

/// An address of this host that is not loopback, if it has one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip())
}

#[test]
fn elsewhere_ones_own_key_is_asked_for_like_any_other() {
    let Some(outer) = outer_address() else { return eprintln!("skipped: no network at all") };
    let host = Host::new();
    let mut command = host.qbulk();
    command.args(Serve::arguments(&host)).args(["--listen", &format!("{outer}:0")]);
    let serve = Serve::spawn(&host, command);
    push(&host, &serve, &[]).assert_failed(4, "--accept-new");
    assert!(names(&host.root("")).is_empty() && !host.config().join("known_hosts").exists());
    assert_eq!(push(&host, &serve, &["--accept-new"]).code, 0);
    assert_eq!(push(&host, &serve, &[]).code, 0, "it is remembered");

    // An address of the same server that is elsewhere is enough to be asked.
    let host = Host::new();
    let serve = Serve::start(&host);
    let further = format!("{outer}:{}", serve.address.port());
    push(&host, &serve, &["--server", &further]).assert_failed(4, "--accept-new");
}

/// An authority, a server with a certificate from it for 127.0.0.1, and a client.
struct Fleet {
    host: Host,
    ca: String,
}

impl Fleet {
    fn new() -> Self {
        let host = Host::new();
        let ca = host.dir.path().join("certs/ca.crt").to_str().unwrap().to_owned();
        let fleet = Self { host, ca };
        fleet.cert(fleet.host.qbulk().args(["cert", "ca"]));
        fleet.cert(fleet.host.qbulk().args(["cert", "issue", "server", "--san", "127.0.0.1"]));
        fleet.cert(fleet.host.qbulk().args(["cert", "issue", "client"]));
        fleet
    }

    fn cert(&self, command: &mut Command) {
        let ran = run(command.env("QBULK_CERTS_DIR", self.host.dir.path().join("certs")));
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Trusts this authority, and shows `subject`'s certificate.
    fn args(&self, subject: &str) -> Vec<String> {
        let file = |kind| self.ca.replace("ca.crt", &format!("{subject}.{kind}"));
        ["--ca", &self.ca, "--cert", &file("crt"), "--key", &file("key")].map(Into::into).into()
    }

    fn serve(&self, subject: &str) -> Serve {
        let args = self.args(subject);
        Serve::with(&self.host, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn push(&self, serve: &Serve, args: &[String]) -> Ran {
        push(&self.host, serve, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_fleet_trusts_its_authority_and_no_other() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let serve = fleet.serve("server");
    let root = fleet.host.root("");

    // The right server for a client of another fleet, and for one without a certificate.
    let foreign = [&fleet.args("client")[..2], &other.args("client")[2..]].concat();
    assert_eq!(fleet.push(&serve, &foreign).code, 4);
    let outsider = Host::new();
    push(&outsider, &serve, &["--ca", &fleet.ca]).assert_failed(4, "certificate");
    assert!(names(&root).is_empty());

    let ran = fleet.push(&serve, &fleet.args("client"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(names(&root), ["file"]);

    // A server of another fleet, and one whose certificate is for another name.
    let theirs = other.serve("server");
    assert_eq!(fleet.push(&theirs, &fleet.args("client")).code, 4);
    let nameless = fleet.serve("client");
    assert_eq!(fleet.push(&nameless, &fleet.args("client")).code, 4);
    assert!(names(&other.host.root("")).is_empty());
}
