//! The real binary, as a user runs it.

use std::path::Path;

use assert_cmd::Command;

fn qbulk(config: &Path) -> Command {
    let mut command = Command::cargo_bin("qbulk").expect("the binary is built");
    command.env("QBULK_CONFIG_DIR", config);
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("UTF-8")
}

#[test]
fn an_identity_is_made_once_and_kept() {
    let config = tempfile::tempdir().expect("a folder");
    let first = stdout(qbulk(config.path()).arg("id"));
    assert!(first.starts_with("SHA256:"), "{first}");
    assert_eq!(first, stdout(qbulk(config.path()).arg("id")));
}

#[test]
fn certificates_are_issued_and_never_overwritten() {
    let dir = tempfile::tempdir().expect("a folder");
    let certs = dir.path().join("certs");
    stdout(qbulk(dir.path()).args(["cert", "ca", "--dir"]).arg(&certs));
    let issue = |config: &Path| {
        let mut command = qbulk(config);
        command.args(["cert", "issue", "alpha", "--san", "127.0.0.1", "--dir"]).arg(&certs);
        command
    };
    stdout(&mut issue(dir.path()));
    assert!(certs.join("alpha.crt").is_file() && certs.join("alpha.key").is_file());
    issue(dir.path()).assert().failure();
}
