//! scp to an sshd of the benchmark's own, with keys of its own, as the user who runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::inetd::measure_with;
use crate::job::Job;
use crate::process::Process;
use crate::rounds::Sample;

pub(crate) const CIPHER: &str = "aes128-gcm@openssh.com";

pub(crate) fn run(job: &Job) -> Result<Sample> {
    let setup = Setup::make(&job.place.join("ssh"))?;
    let mut sshd = Command::new(sshd().ok_or("there is no sshd")?);
    sshd.args(["-i", "-e", "-f"]).arg(&setup.config);
    measure_with(sshd, |port| {
        let mut scp = Command::new("scp");
        scp.args(["-q", "-B", "-F", "/dev/null", "-c", CIPHER, "-P", &port.to_string()]);
        for option in ["IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes"] {
            scp.args(["-o", option]);
        }
        scp.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "HostKeyAlias=bench", "-o"]);
        scp.arg(format!("UserKnownHostsFile={}", setup.known_hosts.display()));
        scp.arg("-i").arg(&setup.key);
        if job.load.is_tree() {
            scp.arg("-r");
        }
        scp.arg(&job.source).arg(format!("127.0.0.1:{}/", job.target.display()));
        scp
    })
}

/// sshd starts itself again and must be told by its full path.
fn sshd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(usual);
    folders.map(|folder| folder.join("sshd")).find(|sshd| sshd.is_file())
}

struct Setup {
    config: PathBuf,
    known_hosts: PathBuf,
    key: PathBuf,
}

impl Setup {
    /// Keys and configuration, in `folder`; made once.
    fn make(folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let (host_key, key) = (at("host_key"), at("user_key"));
        let setup = Self { config: at("sshd_config"), known_hosts: at("known_hosts"), key };
        if folder.is_dir() {
            return Ok(setup);
        }
        fs::create_dir(folder)?;
        for key in [&host_key, &setup.key] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key);
            Process::start(keygen)?.succeed()?;
        }
        let public = fs::read_to_string(at("host_key.pub"))?;
        fs::write(&setup.known_hosts, format!("bench {public}"))?;
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nUseDNS no\nPidFile none\n\
             AuthenticationMethods publickey\nPermitRootLogin prohibit-password\nCiphers {CIPHER}\n\
             LogLevel INFO\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n",
            host_key.display(),
            at("user_key.pub").display(),
        );
        fs::write(&setup.config, config)?;
        Ok(setup)
    }
}
