//! The command line: what can be typed, and what it means.

pub(crate) mod clean;
mod file;
mod peer;
mod push;
mod question;
mod serve;
pub(crate) mod trust;
mod url;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use qbulk::error::Error;

pub(crate) use self::push::{PushArgs, local as local_push};
pub(crate) use self::serve::ServeArgs;
pub(crate) use self::verify::VerifyArgs;

const AFTER_HELP: &str = "\
On the host that receives:   qbulk serve --root /srv/data
On the host that sends:      qbulk push photos qbulk://HOST/backup
To see both at once on this one:   qbulk demo

The two must trust each other: `qbulk serve --help` says who may write, and `qbulk push` asks before it \
trusts a server that it does not know.

Exit codes: 0 done, 1 some files failed or differ (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the other side refused or failed, 6 a local file or folder cannot be used, \
130 interrupted.

Every option can be set by an environment variable (shown with it) or in the file config.toml in the \
configuration folder ($QBULK_CONFIG_DIR, else ~/.config/qbulk), in a section per command:

    [push]
    connections = 16
    [serve]
    root = \"/srv/data\"

The command line comes before the environment, and that before the file.";

/// Moves bulk data between hosts over primed sets of QUIC connections.
#[derive(Debug, Parser)]
#[command(version, about, after_long_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send files and folders to a host that runs `qbulk serve`.
    Push(Box<PushArgs>),
    /// Compare files and folders with what is on a server, or with a receipt, without moving them.
    Verify(Box<VerifyArgs>),
    /// Take files from others into a folder, until stopped.
    Serve(Box<ServeArgs>),
    /// Remove what unfinished transfers have left in a served folder.
    Clean(clean::CleanArgs),
    /// See it work: a real serve and a real push on this host, of a generated file.
    Demo {
        /// Size of the file.
        #[arg(long, default_value = "1GiB", value_parser = bytes, env = "QBULK_DEMO_SIZE")]
        size: u64,
    },
    /// Show the fingerprint of your identity; makes the identity on first use.
    ///
    /// The other side is given this fingerprint to know you by.
    Id,
    /// Make certificates for a fleet that shares one certificate authority.
    #[command(subcommand)]
    Cert(CertCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a certificate authority: ca.crt, for every host, and ca.key, to be kept offline.
    Ca {
        /// The name that the certificate carries.
        #[arg(long, default_value = "qbulk CA")]
        name: String,
        /// The folder to write to.
        #[arg(long, default_value = "certs", env = "QBULK_CERTS_DIR")]
        dir: PathBuf,
    },
    /// Issue a certificate and key for one host or user: SUBJECT.crt and SUBJECT.key.
    Issue {
        /// The file name of the certificate, and the name in it.
        subject: String,
        /// A DNS name or IP address that clients reach this host by; repeatable. A server needs one.
        #[arg(long = "san", value_name = "NAME|IP")]
        sans: Vec<String>,
        /// The folder that holds ca.crt and ca.key, and that is written to.
        #[arg(long, default_value = "certs", env = "QBULK_CERTS_DIR")]
        dir: PathBuf,
    },
}

/// What is told, and how.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Say nothing but what went wrong.
    #[arg(short, long, env = "QBULK_QUIET", value_parser = BoolishValueParser::new())]
    pub(crate) quiet: bool,
    /// Write every event to standard output as one line of JSON (see docs/json.md).
    #[arg(long, env = "QBULK_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    /// Trace to standard error; twice for the transport as well. RUST_LOG has the last word.
    #[arg(short, long, action = clap::ArgAction::Count, env = "QBULK_VERBOSE")]
    pub(crate) verbose: u8,
}

/// The key to show instead of the user's own.
#[derive(Clone, Debug, Args)]
pub(crate) struct IdentityArgs {
    /// A certificate to show instead of your own identity's, as `qbulk cert issue` makes it.
    #[arg(
        long,
        value_name = "FILE",
        requires = "key",
        env = "QBULK_CERT",
        help_heading = "Identity"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// The key that goes with --cert.
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        env = "QBULK_KEY",
        help_heading = "Identity"
    )]
    pub(crate) key: Option<PathBuf>,
}

impl Cli {
    /// Reads command line, environment and configuration file; ends the process with a message if
    /// what they say cannot be.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut command = match file::add_defaults(Self::command()) {
            Ok(command) => command,
            Err(message) => end(&Self::command().error(ErrorKind::ValueValidation, message)),
        };
        let matches = command.try_get_matches_from_mut(args).unwrap_or_else(|error| end(&error));
        Self::from_arg_matches(&matches).unwrap_or_else(|error| end(&error.format(&mut command)))
    }

    /// What is told, and how, where the command has a say in it.
    pub(crate) fn output(&self) -> Option<OutputArgs> {
        match &self.command {
            Command::Push(args) => Some(args.output),
            Command::Serve(args) => Some(args.output),
            Command::Verify(args) => Some(args.output),
            _ => None,
        }
    }
}

/// Shows help, or what is wrong, and ends the process. Help that cannot be shown is an error as well;
/// who reads only its beginning has it.
fn end(error: &clap::Error) -> ! {
    let shown = error.print().and_then(|()| io::stdout().flush());
    let code = match shown {
        Err(failed) if !error.use_stderr() && failed.kind() != io::ErrorKind::BrokenPipe => {
            Error::Disk(String::new()).exit_code().into()
        }
        _ => error.exit_code(),
    };
    std::process::exit(code)
}

/// A number of bytes, as in `64KiB` or `5MB`.
fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse().map_err(|_| "expected a size such as 64KiB or 5MB")?;
    Ok(size.as_u64())
}

/// A rate in bytes per second that still moves something.
fn rate(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0..1_000 => Err("expected at least 1kB per second".into()),
        rate => Ok(rate),
    }
}

/// How many of something there may be.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("expected a number from 1 to 1000000".into()),
    }
}

/// A stripe's size.
fn stripe_bytes(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    if size.is_power_of_two() && (64 << 10..=16 << 20).contains(&size) {
        Ok(size)
    } else {
        Err("expected a power of two from 64KiB to 16MiB".into())
    }
}

/// A span of time, as in `10s` or `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a time such as 250ms or 10s".into())
}

/// A share between nothing and all.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.05..=0.95).contains(&share) => Ok(share),
        _ => Err("expected a number from 0.05 to 0.95".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whatever_the_configuration_says_there_is_a_result_or_a_message() {
        let values = [
            "\"\"",
            "\"a\"",
            "\"16\"",
            "true",
            "0",
            "-1",
            "99999999",
            "1.5",
            "nan",
            "[]",
            "[\"a\", \"b\"]",
            "[[1]]",
            "{ a = 1 }",
            "1979-05-27",
        ];
        for section in ["push", "serve"] {
            let command = Cli::command();
            let command = command.find_subcommand(section).expect("a command");
            let keys: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
            assert!(keys.len() > 5);
            for (key, value) in keys.iter().flat_map(|key| values.map(|value| (key, value))) {
                let text = format!("[{section}]\n{key} = {value}\n");
                if let Ok(mut command) = file::apply(Cli::command(), &text) {
                    drop(command.try_get_matches_from_mut(["qbulk", section, "a", "qbulk://b/"]));
                }
            }
        }
    }
}
