//! An sshd of the benchmark's own, with keys of its own, for the user who runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{Process, find_program};

pub(crate) const CIPHER: &str = "aes128-gcm@openssh.com";

/// Keys and configuration.
pub(crate) struct Ssh {
    config: PathBuf,
    known_hosts: PathBuf,
    key: PathBuf,
}

impl Ssh {
    /// For one client, on its standard input and output.
    pub(crate) fn server(&self) -> Result<Command> {
        // It starts itself again and must be told by its full path.
        let mut sshd = Command::new(find_program("sshd").ok_or("there is no sshd")?);
        sshd.args(["-i", "-e", "-f"]).arg(&self.config);
        Ok(sshd)
    }

    /// What a client is to be told.
    pub(crate) fn client_options(&self) -> Vec<String> {
        let mut options = ["-F", "/dev/null", "-c", CIPHER].map(String::from).to_vec();
        options.extend(["-i".into(), self.key.display().to_string()]);
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts.display());
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlias=bench",
            &known_hosts,
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        options
    }

    /// In the folder `ssh` of `place`; made once.
    pub(crate) fn of(place: &Path) -> Result<Self> {
        let folder = place.join("ssh");
        let at = |name: &str| folder.join(name);
        let (host_key, key) = (at("host_key"), at("user_key"));
        let ssh = Self { config: at("sshd_config"), known_hosts: at("known_hosts"), key };
        if folder.is_dir() {
            return Ok(ssh);
        }
        fs::create_dir(&folder)?;
        for key in [&host_key, &ssh.key] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key);
            Process::start(keygen)?.succeed()?;
        }
        let public = fs::read_to_string(at("host_key.pub"))?;
        fs::write(&ssh.known_hosts, format!("bench {public}"))?;
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nUseDNS no\nPidFile none\n\
             AuthenticationMethods publickey\nPermitRootLogin prohibit-password\nCiphers {CIPHER}\n\
             LogLevel INFO\nSubsystem sftp internal-sftp\n",
            host_key.display(),
            at("user_key.pub").display(),
        );
        fs::write(&ssh.config, config)?;
        Ok(ssh)
    }
}
