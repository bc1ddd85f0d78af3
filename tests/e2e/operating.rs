//! What administrators use: completions, manual pages, where values come from, and the service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Host, Serve, names, run};

/// Whether a program is there; if not, says what is skipped.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        eprintln!("skipped: what needs {program}, which is not here");
    }
    found.status.success()
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(host.qbulk().args(["completions", shell]));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("--ignore-times") || ran.stdout.contains("ignore-times"));
        if has(shell) {
            let path = host.src(shell);
            fs::write(&path, &ran.stdout).unwrap();
            let checked = run(Command::new(shell).arg("-n").arg(&path));
            assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{shell}");
        }
    }
    // What is typed so far is completed.
    if has("bash") {
        let script = host.src("bash");
        let typed = "source \"$0\"; COMP_WORDS=(qbulk push --ignore-t); COMP_CWORD=2; \
                     _qbulk qbulk --ignore-t push; printf '%s' \"${COMPREPLY[*]}\"";
        let ran = run(Command::new("bash").args(["-c", typed]).arg(&script));
        assert_eq!(ran.stdout, "--ignore-times", "{ran:?}");
    }
    run(host.qbulk().args(["completions", "cmd.exe"])).assert_failed(2, "possible values");
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let host = Host::new();
    let pages = host.src("share/man1");
    let ran = run(host.qbulk().arg("man").arg(&pages));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let there = names(&pages);
    for page in ["qbulk", "qbulk-push", "qbulk-serve", "qbulk-cert-issue", "qbulk-man"] {
        assert!(there.contains(&format!("{page}.1")), "{there:?}");
    }
    let push = fs::read_to_string(pages.join("qbulk-push.1")).unwrap();
    for words in ["ignore\\-times", "QBULK_IGNORE_TIMES", "Exit codes", "SRC"] {
        assert!(push.contains(words), "{words}: {push}");
    }
    if has("groff") {
        for page in there {
            let page = pages.join(page);
            let ran = run(Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page));
            assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", page.display());
        }
    }
    fs::write(host.src("file"), b"").unwrap();
    let ran = run(host.qbulk().arg("man").arg(host.src("file/man")));
    ran.assert_failed(6, "cannot write pages to");
}

#[test]
fn it_is_shown_where_each_value_is_from() {
    let host = Host::new();
    fs::create_dir_all(host.config()).unwrap();
    let file = host.config().join("config.toml");
    let text = "[push]\nlimit = \"5MB\"\nmtu = 1400\nturn = 64\n[root.media]\npath = \"/srv/\\\"m\\\"\"\n\
                access = \"read\"\n";
    fs::write(&file, text).unwrap();
    let print = |args: &[&str]| {
        let mut command = host.qbulk();
        command.env("QBULK_MTU", "1300").args(args).arg("--print-config");
        let ran = run(&mut command);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        ran.stdout
    };
    let has = |shown: &str, setting: &str, origin: &str| {
        let line = shown.lines().find(|line| line.starts_with(setting));
        let line = line.unwrap_or_else(|| panic!("{setting}: {shown}"));
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    };
    let push = print(&["push", "--turn", "32", "a", "qbulk://b/"]);
    assert!(push.contains(&file.display().to_string()) && push.contains("\n[push]\n"), "{push}");
    has(&push, "turn = \"32\"", "command line");
    has(&push, "mtu = \"1300\"", "environment, QBULK_MTU");
    has(&push, "limit = \"5MB\"", "file");
    has(&push, "retry-for = \"10m\"", "default");
    has(&push, "quiet = \"false\"", "default");
    has(&push, "# connections =", "not set");
    assert!(!push.contains("print-config"), "{push}");
    let serve = print(&["serve"]);
    has(&serve, r#"root = ["media=/srv/\"m\""]"#, "file");
    has(&serve, r#"access = ["media=read"]"#, "file");
    // It can be kept as the file, and says the same then.
    let values = |shown: &str| {
        let settings = shown.lines().filter(|line| !line.starts_with('#'));
        settings.map(|line| line.split("  #").next().unwrap().trim_end().to_owned()).collect()
    };
    let said: Vec<String> = values(&serve);
    fs::write(&file, &serve).unwrap();
    let again: Vec<String> = values(&print(&["serve"]));
    assert_eq!(said, again);
    assert_eq!(names(&host.config()), ["config.toml"], "nothing else is done");
}

#[test]
fn the_service_manager_is_told_when_the_server_is_ready_and_when_it_stops() {
    let host = Host::new();
    let path = host.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    let said = || {
        let mut buffer = [0; 1_024];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let mut command = host.qbulk();
    command.env("NOTIFY_SOCKET", &path);
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    let serve = Serve::spawn(&host, command);
    let ready = said();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(ready.contains(&format!("STATUS=Listening on {}", serve.address)), "{ready}");
    assert_eq!(serve.stop(), Some(0));
    assert!(said().starts_with("STOPPING=1\n"));

    // One that is not there any more is nothing to the server.
    let mut command = host.qbulk();
    command.env("NOTIFY_SOCKET", host.dir.path().join("nowhere"));
    command.args(Serve::arguments(&host)).args(["--listen", "127.0.0.1:0"]);
    assert_eq!(Serve::spawn(&host, command).stop(), Some(0));
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if !has("systemd-analyze") {
        return;
    }
    let host = Host::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating");
    let unit = fs::read_to_string(folder.join("qbulk.service")).unwrap();
    // The program and its manual page are where this build is.
    let unit = unit.replace("/usr/bin/qbulk", env!("CARGO_BIN_EXE_qbulk"));
    let unit = unit.replace("Documentation=man:qbulk-serve(1)\n", "");
    let path = host.src("qbulk.service");
    fs::write(&path, unit).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("qbulk.service:"), "{said}");
}
