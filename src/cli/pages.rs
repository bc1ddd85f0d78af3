//! What is made from the definitions of the command line: completions for shells, and manual pages.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use qbulk::error::Error;
use qbulk::store::reason;

use super::Cli;

/// The program, as it is typed.
const NAME: &str = "qbulk";

/// What `shell` reads to complete commands, options and their values.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command to `dir`: `qbulk.1`, `qbulk-push.1`, ..
pub(crate) fn man(dir: &Path) -> Result<(), Error> {
    let written =
        fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| {
        Error::Disk(format!("cannot write pages to {}: {}", dir.display(), reason(&error)))
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use qbulk::text::printable;

    use super::*;

    #[test]
    fn scripts_have_every_command_and_get_to_the_shell_as_they_are() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            assert!(script.contains("ignore-times"), "{shell}");
            // Each line goes through what keeps terminals safe.
            for line in script.lines() {
                assert_eq!(printable(line), line, "{shell}");
            }
        }
    }
}
