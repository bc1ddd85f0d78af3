//! Over ssh: the far side is started for one transfer. In place of ssh there is a script that runs the command on
//! this host, as for another user with a home of its own; and the real one, where it is installed.

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

use crate::common::{
    Host, Ran, eventually, free_address, put_executable, random, run, tree, unfinished,
};
use crate::scene::{MIB, Push};

/// A host that is reached by something like ssh.
struct Far {
    host: Host,
}

impl Far {
    fn new() -> Self {
        Self::saying("", "exec sh -c \"$*\"")
    }

    /// `noise` is run first, and then `command`, which has what is to be run in `$*`.
    fn saying(noise: &str, command: &str) -> Self {
        let far = Self { host: Host::new() };
        for name in ["home", "bin"] {
            fs::create_dir(far.path(name)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_qbulk"), far.path("bin/qbulk")).unwrap();
        let dir = far.host.dir.path().display();
        // Where `exec` puts it, the far side is the process that is noted.
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; echo \"$1\" >{dir}/host; shift\n\
             echo $$ >{dir}/pid\nexport HOME={dir}/home QBULK_CONFIG_DIR={dir}/farconfig PATH={dir}/bin:$PATH\n\
             export SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22'\ncd {dir}/home\n{noise}\n{command}\n"
        );
        put_executable(&far.path("ssh-like"), script.as_bytes());
        far
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.dir.path().join(name)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.path("home").join(name)
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut qbulk = self.host.qbulk();
        qbulk.args([command, "-e", self.path("ssh-like").to_str().unwrap()]).args(args);
        qbulk
    }

    fn run(&self, command: &str, args: &[&str]) -> Ran {
        run(&mut self.command(command, args))
    }

    fn done(&self, command: &str, args: &[&str]) -> Ran {
        let ran = self.run(command, args);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    }

    /// The process that was started last.
    fn pid(&self) -> Pid {
        let pid = fs::read_to_string(self.path("pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    fn assert_ended(&self) {
        let pid = self.pid();
        eventually("the far side has ended", || test_kill_process(pid).is_err());
    }

    fn source(&self, mib: u64) {
        fs::create_dir(self.host.src("dir")).unwrap();
        fs::write(self.host.src("dir/file"), random(1, (mib * MIB) as usize)).unwrap();
        fs::write(self.host.src("dir/small"), b"small").unwrap();
        symlink("small", self.host.src("dir/link")).unwrap();
    }
}

#[test]
fn a_host_is_pushed_to_and_pulled_from_with_nothing_set_up() {
    for via in ["never", "always"] {
        let far = Far::new();
        far.source(3);
        let via = ["--via-ssh", via];
        far.done("push", &[via[0], via[1], "src/dir", "me@far.example:new/deep"]);
        assert_eq!(fs::read_to_string(far.path("host")).unwrap(), "me@far.example\n");
        assert_eq!(tree(&far.home("new/deep/dir")), tree(&far.host.src("dir")), "{via:?}");
        far.assert_ended();
        assert!(unfinished(&far.path("home")).is_empty());

        let whole = format!("far:{}/", far.home("new/deep/dir").display());
        fs::write(far.home("other"), b"beside it").unwrap();
        far.done("pull", &[via[0], via[1], &whole, "far:other", "back"]);
        assert_eq!(fs::read(far.path("back/other")).unwrap(), b"beside it");
        assert_eq!(fs::read(far.path("back/file")).unwrap(), random(1, 3 << 20));
        far.done("verify", &[via[0], via[1], "src/dir", "far:new/deep"]);
        fs::write(far.home("new/deep/dir/small"), b"other").unwrap();
        let differs = far.run("verify", &[via[0], via[1], "src/dir", "far:new/deep"]);
        differs.assert_failed(1, "small");
        let listed = far.done("ls", &[via[0], via[1], "far:new/deep/dir"]);
        assert!(listed.stdout.contains("link -> small"), "{listed:?}");
        far.assert_ended();
    }
}

#[test]
fn links_on_the_way_are_followed_as_a_shell_would() {
    let far = Far::new();
    fs::write(far.host.src("file"), b"content").unwrap();
    fs::create_dir(far.path("disk")).unwrap();
    symlink(far.path("disk"), far.home("data")).unwrap();
    far.done("push", &["src/file", "far:data/new/"]);
    far.done("push", &["src/file", "far:data"]);
    for path in ["disk/new/file", "disk/file"] {
        assert_eq!(fs::read(far.path(path)).unwrap(), b"content", "{path}");
    }
    far.done("pull", &["far:data/new/file", "back"]);
    assert_eq!(fs::read(far.path("back")).unwrap(), b"content");
    let message = far.run("push", &["src/file", "far:../x"]);
    message.assert_failed(5, "..");
    far.run("pull", &["far:nothing", "x"]).assert_failed(5, "nothing");
}

#[test]
fn what_shells_say_first_is_shown_and_harms_nothing() {
    let noise = "echo 'Welcome! [qbulk'; printf 'no end of line'; yes x | head -c 60000 >/dev/null";
    let far = Far::saying(noise, "exec sh -c \"$*\"");
    fs::write(far.host.src("file"), b"content").unwrap();
    let ran = far.done("push", &["src/file", "far:file"]);
    assert!(
        ran.stderr.contains("Welcome! [qbulk") && ran.stderr.contains("no end of line"),
        "{ran:?}"
    );
    assert_eq!(fs::read(far.home("file")).unwrap(), b"content");

    let chatty = Far::saying("yes x | head -c 100000", "exec cat");
    let ran = chatty.run("push", &["src", "far:file"]);
    ran.assert_failed(5, "nothing of it is qbulk's");
    assert!(ran.stderr.lines().count() < 50, "{ran:?}");
    let other = Far::saying("echo This account is not available.; exit 1", "");
    let ran = other.run("push", &["src", "far:file"]);
    ran.assert_failed(5, "far says: This account is not available.");
    Far::saying("exit 255", "")
        .run("push", &["src", "far:x"])
        .assert_failed(3, "ssh does not get to far");
    Far::saying("exit 2", "").run("push", &["src", "far:x"]).assert_failed(5, "as new as");
}

#[test]
fn a_qbulk_that_no_shell_finds_is_looked_for_and_what_to_do_is_said() {
    let far = Far::new();
    fs::write(far.host.src("file"), b"content").unwrap();
    fs::rename(far.path("bin/qbulk"), far.path("elsewhere")).unwrap();
    // As those of the system may be found by PATH.
    let script = fs::read_to_string(far.path("ssh-like")).unwrap();
    let script = script.replace(":$PATH", ":/usr/bin:/bin");
    put_executable(&far.path("ssh-like"), script.as_bytes());
    let ran = far.run("push", &["src/file", "far:file"]);
    ran.assert_failed(5, "--remote-qbulk");
    let elsewhere = far.path("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    far.done("push", &["--remote-qbulk", elsewhere, "src/file", "far:file"]);
    far.run("push", &["--remote-qbulk", "/nowhere", "src/file", "far:x"])
        .assert_failed(5, "does not run there");
    fs::create_dir_all(far.home(".local/bin")).unwrap();
    fs::rename(elsewhere, far.home(".local/bin/qbulk")).unwrap();
    far.done("push", &["src/file", "far:again"]);
    assert_eq!(fs::read(far.home("again")).unwrap(), b"content");
}

#[test]
fn a_far_side_that_is_killed_is_started_again_and_nothing_begins_anew() {
    for via in ["never", "always"] {
        let far = Far::new();
        far.source(8);
        let mut push = far.command(
            "push",
            &[
                "--json",
                "--via-ssh",
                via,
                "--limit",
                "3MB",
                "--stripe-max",
                "128KiB",
                "src/dir",
                "far:",
            ],
        );
        let mut push = Push::start(&mut push);
        push.wait_for(3 * MIB);
        kill_process(far.pid(), Signal::KILL).unwrap();
        let ran = push.finish();
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.contains("starting it again"), "{ran:?}");
        assert!(ran.summary()["kept_bytes"].as_u64().unwrap() >= MIB, "{ran:?}");
        assert_eq!(tree(&far.home("dir")), tree(&far.host.src("dir")));
        assert!(unfinished(&far.path("home")).is_empty());
    }
}

#[test]
fn a_client_that_is_gone_ends_the_far_side_and_the_next_run_goes_on() {
    let far = Far::new();
    far.source(8);
    let args = ["--json", "--stripe-max", "128KiB", "src/dir", "far:"];
    for signal in [Signal::KILL, Signal::INT] {
        let limited = [&["--limit", "3MB"], &args[..]].concat();
        let mut push = Push::start(&mut far.command("push", &limited));
        push.wait_for(2 * MIB);
        kill_process(Pid::from_child(&push.child), signal).unwrap();
        push.finish();
        far.assert_ended();
        assert!(!unfinished(&far.path("home")).is_empty(), "nothing is kept");
    }
    let ran = far.done("push", &args);
    assert!(ran.summary()["kept_bytes"].as_u64().unwrap() >= MIB, "{ran:?}");
    assert_eq!(tree(&far.home("dir")), tree(&far.host.src("dir")));

    // And so does a pull.
    let args = ["--json", "far:dir", "back"];
    let limited = [&["--limit", "3MB"], &args[..]].concat();
    let mut pull = Push::start(&mut far.command("pull", &limited));
    pull.wait_for(2 * MIB);
    kill_process(Pid::from_child(&pull.child), Signal::INT).unwrap();
    assert_eq!(pull.finish().code, 130);
    let ran = far.done("pull", &args);
    assert!(ran.summary()["kept_bytes"].as_u64().unwrap() >= MIB, "{ran:?}");
    assert_eq!(tree(&far.path("back/dir")), tree(&far.host.src("dir")));
}

#[test]
fn a_forced_command_cannot_be_widened_by_what_a_client_asks_for() {
    let forced = "exec qbulk serve --stdio --root \"$HOME/given\" --access read";
    let far = Far::saying("", forced);
    fs::create_dir(far.home("given")).unwrap();
    fs::write(far.home("given/file"), b"given").unwrap();
    fs::write(far.home("secret"), b"secret").unwrap();
    symlink("../secret", far.home("given/out")).unwrap();
    fs::write(far.host.src("file"), b"content").unwrap();
    for typed in ["far:file", "far:/file", "far:~/file"] {
        far.done("pull", &[typed, "got"]);
        assert_eq!(fs::read(far.path("got")).unwrap(), b"given", "{typed}");
        fs::remove_file(far.path("got")).unwrap();
    }
    let whole = format!("far:{}", far.home("secret").display());
    for typed in ["far:secret", "far:../secret", "far:out/", &whole] {
        let ran = far.run("pull", &[typed, "got"]);
        assert!(ran.code == 5 && !far.path("got").exists(), "{typed}: {ran:?}");
    }
    far.run("push", &["src/file", "far:new"]).assert_failed(5, "you may not write here");
    assert!(!far.home("given/new").exists() && !far.home("new").exists());

    let far = Far::saying("", "exec qbulk serve --stdio --access append");
    fs::write(far.host.src("file"), b"content").unwrap();
    fs::write(far.home("old"), b"old").unwrap();
    far.done("push", &["src/file", "far:new"]);
    assert_ne!(far.run("push", &["src/file", "far:old"]).code, 0);
    assert_eq!(fs::read(far.home("old")).unwrap(), b"old");
    far.run("pull", &["far:old", "got"]).assert_failed(5, "you may do nothing here");
}

#[test]
fn what_is_served_to_all_is_not_what_a_user_gets_at() {
    let far = Far::new();
    fs::create_dir_all(far.path("farconfig")).unwrap();
    fs::create_dir(far.path("served")).unwrap();
    let served = far.path("served");
    let config = format!("[serve]\nroot = {served:?}\naccess = \"read\"\n");
    fs::write(far.path("farconfig/config.toml"), config).unwrap();
    fs::write(far.host.src("file"), b"content").unwrap();
    far.done("push", &["src/file", "far:file"]);
    assert_eq!(fs::read(far.home("file")).unwrap(), b"content");
}

#[test]
fn where_udp_does_not_get_through_it_goes_on_through_ssh_and_says_so() {
    let far = Far::new();
    far.source(2);
    // The port that the far side is to have is somebody else's.
    let address = free_address();
    let _taken = UdpSocket::bind(address).unwrap();
    let port = address.port().to_string();
    let ports = ["--udp-ports", &port];
    let ran = far.done("push", &[ports[0], ports[1], "src/dir", "far:one"]);
    assert!(ran.stderr.contains("going on through ssh"), "{ran:?}");
    // Nothing can be sent there.
    let ran = far.done("push", &["--udp-host", "255.255.255.255", "src/dir", "far:two"]);
    assert!(ran.stderr.contains("255.255.255.255:"), "{ran:?}");
    for place in ["one", "two"] {
        assert_eq!(tree(&far.home(place).join("dir")), tree(&far.host.src("dir")), "{place}");
    }
    let never = ["--via-ssh", "never", "--connect-timeout", "1s", ports[0], ports[1]];
    let ran = far.run("push", &[&never[..], &["src/dir", "far:three"]].concat());
    ran.assert_failed(3, "UDP does not get through");
    assert!(!far.home("three").exists());

    let free = free_address().port();
    let range = format!("{free}-{}", free + 9);
    let ran = far.done(
        "push",
        &["--json", "--via-ssh", "never", "--udp-ports", &range, "src/dir", "far:four"],
    );
    let connected = ran.events().into_iter().find(|event| event["event"] == "connected").unwrap();
    let to = connected["remote"].as_str().unwrap().rsplit(':').next().unwrap().parse::<u16>();
    assert!((free..=free + 9).contains(&to.unwrap()), "{connected}");
}

#[test]
fn the_far_side_ends_with_its_standard_input_and_says_one_line_first() {
    let host = Host::new();
    let mut far = host.qbulk();
    far.args(["serve", "--stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut far = far.env("HOME", host.dir.path()).spawn().unwrap();
    drop(far.stdin.take());
    let mut said = Vec::new();
    far.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    assert!(said.starts_with(b"[qbulk serve --stdio, version 1]\n"), "{said:?}");
    assert_eq!(far.wait().unwrap().code(), Some(0));
    // What is no protocol ends it as well.
    let mut far = host.qbulk();
    far.args(["serve", "--stdio"]).env("HOME", host.dir.path());
    far.stdin(Stdio::from(fs::File::open("/dev/zero").unwrap())).stdout(Stdio::null());
    assert!(far.spawn().unwrap().wait().is_ok());
}

#[test]
fn what_is_no_place_on_another_host_is_told() {
    let far = Far::new();
    far.run("push", &["src", "-oProxyCommand=touch x:a"]).assert_failed(2, "");
    far.run("push", &["--", "src", "-oProxyCommand=touch x:a"])
        .assert_failed(2, "no host begins with");
    far.run("push", &["other:a", "far:a"]).assert_failed(2, "qbulk pull");
    far.run("pull", &["far:a", "other:a"]).assert_failed(2, "./NAME");
    far.run("pull", &["far:a", "other:b", "x"]).assert_failed(2, "one at a time");
    far.run("push", &["--server", "x", "src", "far:a"]).assert_failed(2, "--udp-host");
    far.run("push", &["src", "./far:a"]).assert_failed(2, "[USER@]HOST:PATH");
    assert!(!far.path("pid").exists(), "something was started");
    fs::write(far.host.src("a:b"), b"content").unwrap();
    far.done("push", &["src/a:b", "far:"]);
    assert_eq!(fs::read(far.home("a:b")).unwrap(), b"content");
}

/// A real sshd, for the user who runs the tests, stopped when it is dropped.
struct Sshd {
    host: Host,
    child: Child,
    ssh: String,
}

impl Sshd {
    /// `None` where there is none that could be started.
    fn start(forced: &str) -> Option<Self> {
        let sshd = Path::new("/usr/sbin/sshd");
        let is_able = !geteuid().is_root() || Path::new("/run/sshd").is_dir();
        if !sshd.exists() || !is_able || which("ssh").is_none() || which("ssh-keygen").is_none() {
            return None;
        }
        let host = Host::new();
        let dir = host.dir.path().to_owned();
        for key in ["hostkey", "userkey"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
            assert_eq!(run(&mut keygen).code, 0);
        }
        let key = fs::read_to_string(dir.join("userkey.pub")).unwrap();
        fs::write(dir.join("authorized"), format!("{forced}{key}")).unwrap();
        let port = loop {
            let port = free_address().port();
            if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
                break port;
            }
        };
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/hostkey\nAuthorizedKeysFile {dir}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n\
             SetEnv QBULK_CONFIG_DIR={dir}/farconfig\n",
            dir = dir.display()
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        command.stderr(fs::File::create(dir.join("sshd.log")).unwrap());
        let child = command.spawn().unwrap();
        eventually("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let dir = dir.display();
        let ssh = format!(
            "ssh -F none -p {port} -i {dir}/userkey -o IdentitiesOnly=yes -o BatchMode=yes -o \
             StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        );
        Some(Self { host, child, ssh })
    }

    fn run(&self, command: &str, args: &[&str]) -> Ran {
        let mut qbulk = self.host.qbulk();
        qbulk.args([command, "-e", &self.ssh, "--remote-qbulk", env!("CARGO_BIN_EXE_qbulk")]);
        run(qbulk.args(args))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}

#[test]
fn a_real_ssh_carries_both_ways_and_forced_commands_hold() {
    let Some(sshd) = Sshd::start("") else {
        return eprintln!(
            "a_real_ssh_carries...: skipped: there is no sshd, or it cannot be started"
        );
    };
    let host = &sshd.host;
    fs::create_dir(host.src("dir")).unwrap();
    fs::write(host.src("dir/file"), random(1, 5 << 20)).unwrap();
    for via in ["never", "always"] {
        let to = format!("127.0.0.1:{}", host.root(via).display());
        let ran = sshd.run("push", &["--via-ssh", via, "src/dir", &to]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(tree(&host.root(via).join("dir")), tree(&host.src("dir")), "{via}");
        let from = format!("{to}/dir/file");
        let back = format!("back-{via}");
        let ran = sshd.run("pull", &["--via-ssh", via, &from, &back]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(fs::read(host.dir.path().join(back)).unwrap(), random(1, 5 << 20));
    }
    let ran = sshd.run("push", &["--remote-qbulk", "/nowhere/qbulk", "src", "127.0.0.1:x"]);
    assert_ne!(ran.code, 0);

    let root = host.root("never").display().to_string();
    let binary = env!("CARGO_BIN_EXE_qbulk");
    let forced =
        format!("command=\"{binary} serve --stdio --root {root} --access read\",restrict ");
    let Some(bound) = Sshd::start(&forced) else { panic!("there was an sshd") };
    let ran = bound.run("pull", &["127.0.0.1:/dir/file", "got"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read(bound.host.dir.path().join("got")).unwrap(), random(1, 5 << 20));
    bound.run("push", &["src", "127.0.0.1:"]).assert_failed(5, "you may not write here");
    bound.run("pull", &["127.0.0.1:/etc/passwd", "got2"]).assert_failed(5, "cannot read");
}
