//! What need not be sent because of what is at the destination; the names are rsync's.

use clap::Args;
use qbulk::wire::Skip;

/// What is skipped.
#[derive(Debug, Args)]
pub(super) struct SkipArgs {
    /// Send files also if the same size and modification time are there already. Without, they are skipped: their
    /// content is not compared (`qbulk verify` does that).
    #[arg(short = 'I', long, env = "QBULK_IGNORE_TIMES", help_heading = "What is sent")]
    ignore_times: bool,
    /// Skip files of which one of the same size is there, whatever its time.
    #[arg(
        long,
        env = "QBULK_SIZE_ONLY",
        conflicts_with = "ignore_times",
        help_heading = "What is sent"
    )]
    size_only: bool,
    /// Compare the content of files of the same size, whatever their times: those whose content is the same are
    /// skipped, and get the mode and time of the source. Both ends read them for that.
    #[arg(
        short = 'c',
        long,
        env = "QBULK_CHECKSUM",
        conflicts_with_all = ["ignore_times", "size_only"],
        help_heading = "What is sent"
    )]
    checksum: bool,
    /// Of files from 1 MiB on that are there and differ, send only the blocks that do (64 KiB, at the same place): for
    /// disk images and databases. Both ends read the whole file, and the new one is made beside the old one, which
    /// takes the room of both unless the file system shares blocks.
    #[arg(long, env = "QBULK_DELTA", help_heading = "What is sent")]
    delta: bool,
    /// Skip files of which a newer one is there.
    #[arg(short = 'u', long, env = "QBULK_UPDATE", help_heading = "What is sent")]
    update: bool,
    /// Skip what is there, however it is.
    #[arg(long, env = "QBULK_IGNORE_EXISTING", help_heading = "What is sent")]
    ignore_existing: bool,
    /// Skip what is not there.
    #[arg(
        long,
        visible_alias = "ignore-non-existing",
        env = "QBULK_EXISTING",
        help_heading = "What is sent"
    )]
    existing: bool,
    /// Modification times that differ by no more than so many seconds are the same: for file systems that keep them
    /// coarsely (FAT: 2).
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Skip::default().modify_window_s,
        env = "QBULK_MODIFY_WINDOW",
        help_heading = "What is sent"
    )]
    modify_window: u32,
}

impl SkipArgs {
    pub(super) fn skip(&self) -> Skip {
        Skip {
            ignore_times: self.ignore_times,
            size_only: self.size_only,
            update: self.update,
            ignore_existing: self.ignore_existing,
            existing: self.existing,
            modify_window_s: self.modify_window,
            checksum: self.checksum,
            delta: self.delta,
        }
    }
}
