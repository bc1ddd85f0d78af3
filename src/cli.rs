//! The command line: what can be typed, and what it means.

pub(crate) mod clean;
mod file;
mod filter;
mod layers;
mod ls;
mod origins;
pub(crate) mod pages;
mod peer;
mod pull;
mod push;
mod question;
mod remote;
mod roots;
mod serve;
mod skip;
mod ssh;
mod transfer;
pub(crate) mod trust;
mod url;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use qbulk::certs::CertUse;
use qbulk::error::Error;

pub(crate) use self::ls::LsArgs;
pub(crate) use self::pull::PullArgs;
pub(crate) use self::push::PushArgs;
pub(crate) use self::serve::ServeArgs;
use self::values::bytes;
pub(crate) use self::verify::VerifyArgs;
use crate::report::Output;

const AFTER_HELP: &str = "\
Where ssh gets to:   qbulk push photos HOST:backup
                     qbulk pull HOST:backup/photos .
On the one host:     qbulk serve --root /srv/data
On the other one:    qbulk push photos qbulk://HOST/backup
                     qbulk pull qbulk://HOST/backup/photos .
To see both at once on this one:   qbulk demo

The two must trust each other: `qbulk serve --help` says who is let in, and `qbulk push` and `qbulk pull` ask \
before they trust a server that they do not know.

Exit codes: 0 done, 1 some files failed or differ (each is named), 2 wrong usage, 3 cannot connect, \
4 authentication failed, 5 the other side refused or failed, 6 a local file or folder cannot be used, \
24 some files vanished or were changed while they were read (nothing else is wrong), 130 interrupted.

Every option can be set by an environment variable (shown with it; an empty one counts as not set) or in the \
file config.toml in the configuration folder ($QBULK_CONFIG_DIR, else ~/.config/qbulk), in a section per command:

    [push]
    connections = 16
    [serve]
    root = \"/srv/data\"

The command line comes before the environment, and that before the file. What these turn on, the command line \
turns off: --quiet=no.";

/// Where certificates are made.
const CERTS_DIR: &str = "certs";

/// Moves bulk data between hosts over primed sets of QUIC connections.
#[derive(Debug, Parser)]
#[command(version, about, after_long_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What `--print-config` shows, if that is asked for: then nothing else is done.
    #[arg(skip)]
    pub(crate) config: Option<Vec<String>>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send files and folders to a host that runs `qbulk serve`.
    Push(Box<PushArgs>),
    /// Fetch files and folders from a host that runs `qbulk serve`.
    Pull(Box<PullArgs>),
    /// Compare files and folders with what is on a server, or with a receipt, without moving them.
    Verify(Box<VerifyArgs>),
    /// List what is on a server.
    Ls(Box<LsArgs>),
    /// Take files from others into a folder, and give them out of it, until stopped.
    Serve(Box<ServeArgs>),
    /// Remove what unfinished transfers have left in a served folder.
    Clean(clean::CleanArgs),
    /// See it work: a real serve, a real push and a real pull on this host, of a generated file.
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
    /// Make a page for a browser of what a push or a pull has told with --json: how it went, and what held it back.
    Report {
        /// The file of these events; - for standard input.
        events: PathBuf,
        /// The page to write [default: standard output].
        page: Option<PathBuf>,
    },
    /// Write a script to standard output that completes commands and options for a shell.
    Completions {
        /// The shell that reads it.
        shell: clap_complete::Shell,
    },
    /// Write manual pages of all commands.
    Man {
        /// The folder to write to, as ~/.local/share/man/man1.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a certificate authority: ca.crt, for every host, and ca.key, to be kept offline.
    Ca {
        /// The name that the certificate carries.
        #[arg(long, default_value = "qbulk CA", env = "QBULK_CERT_NAME")]
        name: String,
        /// How long the authority lasts.
        #[arg(long, value_name = "TIME", default_value = "3650days", value_parser = values::duration, env = "QBULK_CERT_CA_VALID")]
        valid: Duration,
        /// The folder to write to.
        #[arg(long, default_value = CERTS_DIR, env = "QBULK_CERTS_DIR")]
        dir: PathBuf,
    },
    /// Issue a certificate and key for one host or user: SUBJECT.crt and SUBJECT.key.
    Issue {
        /// The file name of the certificate, and the name in it.
        subject: String,
        /// A DNS name or IP address that clients reach this host by; repeatable. A server needs one.
        #[arg(long = "san", value_name = "NAME|IP", value_delimiter = ',', env = "QBULK_CERT_SAN")]
        sans: Vec<String>,
        /// What it is for: serving, or pushing and pulling [default: server if there is a --san, else client].
        #[arg(long = "for", value_name = "USE", env = "QBULK_CERT_FOR")]
        usage: Option<CertFor>,
        /// How long it lasts; not longer than the authority.
        #[arg(long, value_name = "TIME", default_value = "365days", value_parser = values::duration, env = "QBULK_CERT_VALID")]
        valid: Duration,
        /// The folder that holds ca.crt and ca.key, and that is written to.
        #[arg(long, default_value = CERTS_DIR, env = "QBULK_CERTS_DIR")]
        dir: PathBuf,
    },
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CertFor {
    /// A server's.
    Server,
    /// A client's.
    Client,
    /// Of a host that is both.
    Both,
}

/// What a certificate with these names is for. Clients check a server's by its names.
pub(crate) fn cert_use(usage: Option<CertFor>, sans: &[String]) -> Result<CertUse, Error> {
    match usage {
        Some(CertFor::Server | CertFor::Both) if sans.is_empty() => Err(Error::Usage(
            "a server's certificate needs the name that clients reach it by: give it with --san"
                .into(),
        )),
        Some(CertFor::Both) => Ok(CertUse::Both),
        Some(CertFor::Client) => Ok(CertUse::Client),
        None if sans.is_empty() => Ok(CertUse::Client),
        Some(CertFor::Server) | None => Ok(CertUse::Server),
    }
}

/// What is told, and how.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Say nothing but what went wrong.
    #[arg(short, long, env = "QBULK_QUIET")]
    pub(crate) quiet: bool,
    /// Write every event to standard output as one line of JSON (see docs/json.md).
    #[arg(long, env = "QBULK_JSON")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) verbose: Verbose,
    /// Show the value of every option and where it is from (command line, environment, file, default), as a section
    /// of config.toml, and do nothing else.
    #[arg(long, env = "QBULK_PRINT_CONFIG")]
    print_config: bool,
}

impl OutputArgs {
    /// What is asked of who tells it.
    pub(crate) fn report(self) -> Output {
        Output { quiet: self.quiet, json: self.json, details: self.verbose.0 > 0 }
    }
}

/// How much is traced: each `-v` is one more, and `--verbose=0` nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verbose(pub(crate) u8);

impl Args for Verbose {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .env("QBULK_VERBOSE")
                .action(ArgAction::Append)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("1")
                .value_name("N")
                .value_parser(clap::value_parser!(u8))
                .help("Trace to standard error; twice for the transport as well. RUST_LOG has the last word"),
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Verbose {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = matches.get_many::<u8>("verbose").unwrap_or_default();
        Ok(Self(given.fold(0, |sum, &more| sum.saturating_add(more))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The key to show instead of the user's own.
#[derive(Clone, Debug, Args)]
pub(crate) struct IdentityArgs {
    /// A certificate to show instead of your own identity's, as `qbulk cert issue` makes it.
    #[arg(long, value_name = "FILE", env = "QBULK_CERT", help_heading = "Identity")]
    pub(crate) cert: Option<PathBuf>,
    /// The key that goes with --cert.
    #[arg(long, value_name = "FILE", env = "QBULK_KEY", help_heading = "Identity")]
    pub(crate) key: Option<PathBuf>,
}

impl Cli {
    /// Reads command line, environment and configuration file; ends the process with a message if
    /// what they say cannot be.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Self {
        let (matches, given) =
            layers::read(Self::command(), args).unwrap_or_else(|error| end(&error));
        let cli = Self::from_arg_matches(&matches);
        let cli = cli.unwrap_or_else(|error| end(&error.format(&mut Self::command())));
        let is_asked = cli.output().is_some_and(|output| output.print_config);
        Self { config: given.filter(|_| is_asked).map(|given| given.shown()), ..cli }
    }

    /// What is told, and how, where the command has a say in it.
    pub(crate) fn output(&self) -> Option<OutputArgs> {
        match &self.command {
            Command::Push(args) => Some(args.output),
            Command::Pull(args) => Some(args.output),
            Command::Serve(args) => Some(args.output),
            Command::Verify(args) => Some(args.output),
            Command::Ls(args) => Some(args.output),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// All commands that do something, by their names.
    fn leaves(command: &clap::Command, names: &[String]) -> Vec<(Vec<String>, clap::Command)> {
        let below = command.get_subcommands().flat_map(|command| {
            leaves(command, &[names, &[command.get_name().to_owned()]].concat())
        });
        let below: Vec<_> = below.collect();
        if below.is_empty() { vec![(names.to_vec(), command.clone())] } else { below }
    }

    #[test]
    fn every_option_has_a_variable_and_a_place_in_the_file() {
        let command = layers::with_switches(Cli::command());
        let mut variables: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
        let mut options = 0;
        for (names, leaf) in leaves(&command, &[]) {
            for option in file::options(&leaf) {
                options += 1;
                let long = option.get_long().expect("it has one").to_owned();
                let variable = option.get_env().unwrap_or_else(|| panic!("{names:?} --{long}"));
                let variable = variable.to_str().expect("UTF-8");
                assert!(variable.starts_with("QBULK_"), "{variable}");
                // One variable means the same wherever it counts.
                let kind = option.get_value_names().map(|names| names.join(" "));
                let meaning = (long.clone(), kind);
                let known = variables.entry(variable.into()).or_insert_with(|| meaning.clone());
                assert_eq!(*known, meaning, "{variable}");

                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let text = format!("[{}]\n{long} = \"1\"\n", names[0]);
                let applied = file::apply(command.clone(), &names, &text, |_, _| false);
                let applied = applied.unwrap_or_else(|why| panic!("{text}: {why}"));
                let leaf = file::leaf(&applied, &names).expect("still there");
                let set = file::options(leaf).find(|arg| arg.get_long() == Some(&long));
                assert_eq!(set.expect("still there").get_default_values(), ["1"], "{text}");
            }
        }
        assert!(options > 60, "{options}");
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
            let keys: Vec<_> = file::options(command).filter_map(Arg::get_long).collect();
            assert!(keys.len() > 5);
            for (key, value) in keys.iter().flat_map(|key| values.map(|value| (key, value))) {
                let text = format!("[{section}]\n{key} = {value}\n");
                let applied = file::apply(Cli::command(), &[section], &text, |_, _| false);
                if let Ok(mut command) = applied {
                    drop(command.try_get_matches_from_mut(["qbulk", section, "a", "qbulk://b/"]));
                }
            }
        }
    }
}
