//! `qbulk clean`: removing what unfinished transfers have left.

use std::path::PathBuf;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use clap::Args;
use qbulk::error::{EXIT_SOME_FAILED, Error};
use qbulk::serve::own_names;
use qbulk::store::clean::{Left, clean};
use qbulk::store::reason;

use super::values::duration;
use super::{IdentityArgs, trust};
use crate::out;
use crate::report::{count, say};

const EXAMPLES: &str = "\
A push that is interrupted leaves its unfinished files under temporary names (.qbulk-*.part) and a \
journal (.qbulk-*.journal), so that the same push goes on there when it is run again. A server removes \
what nobody has gone on with for --keep-unfinished; this command removes it at once:
  qbulk clean /srv/data
Run it as the user who serves the folder, with the same --cert and --key if the server has them: only what that \
server has made is removed. What belongs to a running transfer stays.";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CleanArgs {
    /// The folder that is served.
    root: PathBuf,
    /// Only what has not been written to for this long.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration, env = "QBULK_CLEAN_OLDER_THAN")]
    older_than: Duration,
    /// Only show what would be removed.
    #[arg(long, env = "QBULK_CLEAN_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    identity: IdentityArgs,
}

impl CleanArgs {
    /// Removes what is left, and names it.
    pub(crate) fn run(&self) -> Result<u8, Error> {
        let root = Dir::open_ambient_dir(&self.root, ambient_authority()).map_err(|error| {
            Error::Disk(format!("cannot open {}: {}", self.root.display(), reason(&error)))
        })?;
        let mut failed = 0_u64;
        let decide = |left: &Left<'_>| {
            let path = self.root.join(left.path);
            out::print(&path.to_string_lossy());
            !self.dry_run
        };
        let identity = trust::identity(&self.identity)?;
        let names = own_names(&identity);
        let cleaned = clean(&root, &names, self.older_than, decide, |left, error| {
            failed += 1;
            let path = self.root.join(left.path);
            say(&format!("{}: {}", path.display(), reason(&error)));
        });
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        say(&format!("{} {verb}", count(cleaned.found, "file")));
        if cleaned.foreign > 0 {
            say(&format!(
                "{} with such a name {}: not made by the server of {}",
                count(cleaned.foreign, "file"),
                if cleaned.foreign == 1 { "stays" } else { "stay" },
                identity.fingerprint()
            ));
        }
        if self.dry_run {
            out::printed()?; // there is nothing else to it
        }
        Ok(if failed > 0 { EXIT_SOME_FAILED } else { 0 })
    }
}
