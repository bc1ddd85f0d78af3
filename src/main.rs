//! The `qbulk` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use qbulk::certs::{self, CertPaths};
use qbulk::identity::{Identity, IdentityError, config_dir};

use cli::{CertCommand, Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qbulk: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), IdentityError> {
    match cli.command {
        Command::Id => println!("{}", Identity::load_or_create(&config_dir()?)?.fingerprint()),
        Command::Cert(CertCommand::Ca { name, dir }) => {
            show(&certs::create_ca(&dir, &name)?);
        }
        Command::Cert(CertCommand::Issue { subject, sans, dir }) => {
            show(&certs::issue(&dir, &subject, &sans)?);
        }
    }
    Ok(())
}

fn show(paths: &CertPaths) {
    println!("{}", paths.cert.display());
    println!("{}", paths.key.display());
}
