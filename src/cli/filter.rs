//! What of the sources is sent: rules, lists and sizes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, FromArgMatches};
use qbulk::error::Error;
use qbulk::filter::{Bounds, Filter, Verdict};
use qbulk::store::reason;

use super::values::bytes;

#[derive(Clone, Debug, Args)]
struct Parsed {
    /// Do not send what this pattern matches; repeatable. Rules count in their order, the first that matches decides,
    /// and an excluded folder is not entered. A slash in front anchors a pattern at the root of what is sent, one behind
    /// it means folders; * stops at a slash, and ** does not.
    #[arg(long, value_name = "PATTERN", env = "QBULK_EXCLUDE", help_heading = "Source")]
    exclude: Vec<OsString>,
    /// Send what this pattern matches, whatever rules behind this one say; repeatable.
    #[arg(long, value_name = "PATTERN", env = "QBULK_INCLUDE", help_heading = "Source")]
    include: Vec<OsString>,
    /// Rules to exclude, one on each line of a file; - reads standard input. Lines that begin with # or ; are comments.
    #[arg(long, value_name = "FILE", env = "QBULK_EXCLUDE_FROM", help_heading = "Source")]
    exclude_from: Vec<PathBuf>,
    /// The same of rules to include.
    #[arg(long, value_name = "FILE", env = "QBULK_INCLUDE_FROM", help_heading = "Source")]
    include_from: Vec<PathBuf>,
    /// Send only what is named in a file, relative to the one folder that is SRC; - reads standard input. A folder that
    /// is named is sent with all that is in it.
    #[arg(long, value_name = "FILE", env = "QBULK_FILES_FROM", help_heading = "Source")]
    files_from: Option<PathBuf>,
    /// What these files have is ended by zero bytes, not by the ends of lines.
    #[arg(long, env = "QBULK_FROM0", help_heading = "Source")]
    from0: bool,
    /// Send folders of other file systems than the one that SRC is on empty.
    #[arg(long, short = 'x', env = "QBULK_ONE_FILE_SYSTEM", help_heading = "Source")]
    one_file_system: bool,
    /// Send no file that is larger.
    #[arg(long, value_name = "SIZE", env = "QBULK_MAX_SIZE", help_heading = "Source", value_parser = bytes)]
    max_size: Option<u64>,
    /// Send no file that is smaller.
    #[arg(long, value_name = "SIZE", env = "QBULK_MIN_SIZE", help_heading = "Source", value_parser = bytes)]
    min_size: Option<u64>,
}

/// What of the sources is sent.
#[derive(Clone, Debug)]
pub(super) struct FilterArgs {
    parsed: Parsed,
    /// The rules, in the order in which they were typed.
    rules: Vec<(Verdict, Rules)>,
}

#[derive(Clone, Debug)]
enum Rules {
    Pattern(OsString),
    File(PathBuf),
}

impl FilterArgs {
    /// Reads what is in files, and whether it can be.
    pub(super) fn filter(&self) -> Result<Filter, Error> {
        let Parsed { files_from, from0, one_file_system, max_size, min_size, .. } = &self.parsed;
        let mut filter = Filter::within(Bounds {
            one_file_system: *one_file_system,
            bytes_min: *min_size,
            bytes_max: *max_size,
        });
        for (verdict, rules) in &self.rules {
            match rules {
                Rules::Pattern(pattern) => filter
                    .add(*verdict, pattern.as_bytes())
                    .map_err(|why| Error::Usage(format!("{}: {why}", pattern.display())))?,
                Rules::File(file) => filter
                    .add_all(*verdict, &read(file)?, *from0)
                    .map_err(|why| Error::Usage(format!("{}, {why}", file.display())))?,
            }
        }
        if let Some(file) = files_from {
            filter
                .list(&read(file)?, *from0)
                .map_err(|why| Error::Usage(format!("{}, {why}", file.display())))?;
        }
        Ok(filter)
    }

    /// Whether nothing is left out.
    pub(super) fn takes_all(&self) -> bool {
        let Parsed { files_from, one_file_system, max_size, min_size, .. } = &self.parsed;
        let is_bounded = *one_file_system || max_size.is_some() || min_size.is_some();
        self.rules.is_empty() && files_from.is_none() && !is_bounded
    }

    /// What was typed as sources: where names are listed, what is in the one folder that they are relative to.
    pub(super) fn sources(&self, mut typed: Vec<PathBuf>) -> Result<Vec<PathBuf>, Error> {
        if let Some(folder) = self.listed_in(&mut typed)? {
            folder.push("");
        }
        Ok(typed)
    }

    /// The same of paths on another host.
    pub(super) fn paths(&self, mut typed: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        if let Some(folder) = self.listed_in(&mut typed)?
            && !matches!(folder[..], [] | [.., b'/'])
        {
            folder.push(b'/');
        }
        Ok(typed)
    }

    /// The folder that names are relative to, if there are any.
    fn listed_in<'a, T>(&self, typed: &'a mut [T]) -> Result<Option<&'a mut T>, Error> {
        match typed {
            _ if self.parsed.files_from.is_none() => Ok(None),
            [folder] => Ok(Some(folder)),
            _ => Err(Error::Usage(
                "--files-from needs one SRC: the folder that its names are relative to".into(),
            )),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let read = if file.as_os_str() == OsStr::new("-") {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).map(|_| text)
    } else {
        fs::read(file)
    };
    read.map_err(|error| Error::Disk(format!("cannot read {}: {}", file.display(), reason(&error))))
}

impl Args for FilterArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Parsed::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Parsed::augment_args_for_update(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let parsed = Parsed::from_arg_matches(matches)?;
        let mut rules = Vec::new();
        let mut add = |id, verdict, those: Vec<Rules>| {
            let places = matches.indices_of(id).into_iter().flatten();
            rules.extend(places.zip(those).map(|(place, rule)| (place, verdict, rule)));
        };
        let patterns =
            |patterns: &[OsString]| patterns.iter().cloned().map(Rules::Pattern).collect();
        let files = |files: &[PathBuf]| files.iter().cloned().map(Rules::File).collect();
        add("exclude", Verdict::Exclude, patterns(&parsed.exclude));
        add("include", Verdict::Include, patterns(&parsed.include));
        add("exclude_from", Verdict::Exclude, files(&parsed.exclude_from));
        add("include_from", Verdict::Include, files(&parsed.include_from));
        rules.sort_by_key(|(place, ..)| *place);
        let rules = rules.into_iter().map(|(_, verdict, rule)| (verdict, rule)).collect();
        Ok(Self { parsed, rules })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
