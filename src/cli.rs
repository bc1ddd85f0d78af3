//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Moves bulk data over primed sets of QUIC connections.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
