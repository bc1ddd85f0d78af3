//! What `--print-config` shows: the value of every option, and where it is from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Id};

use super::{file, roots};

/// The option that asks for this.
pub(super) const OPTION: &str = "print_config";
/// Where the origin of a short line stands.
const ORIGIN_COLUMN: usize = 40;

/// What was read, and what of it is from the file.
pub(super) struct Given {
    pub(super) matches: ArgMatches,
    /// The command that is called.
    pub(super) leaf: Command,
    /// Its name, and before that those of what it is in.
    pub(super) names: Vec<String>,
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
    /// The options that are in it.
    pub(super) in_file: BTreeSet<Id>,
}

impl Given {
    /// A section of `config.toml` that says the same, with the origin of each line as a comment.
    pub(super) fn shown(&self) -> Vec<String> {
        let file = match &self.file {
            Some(path) => format!("the file {}", path.display()),
            None => "the file (there is none)".into(),
        };
        let section = self.names.first().map_or("", String::as_str);
        let mut lines = vec![
            format!(
                "# What counts: the command line, before the environment, before {file}, before the default."
            ),
            format!("[{section}]"),
        ];
        let options = file::options(&self.leaf).filter(|arg| arg.get_id() != OPTION);
        lines.extend(options.filter_map(|arg| self.line(arg)));
        lines
    }

    fn line(&self, arg: &Arg) -> Option<String> {
        let long = arg.get_long()?;
        let id = arg.get_id().as_str();
        let mut values = self.values(id);
        let mut origin = match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => "command line".to_owned(),
            Some(ValueSource::EnvVariable) => {
                let name = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                format!("environment, {}", name.unwrap_or_default())
            }
            Some(_) if self.in_file.contains(arg.get_id()) => "file".into(),
            Some(_) => "default".into(),
            None => String::new(),
        };
        // What the tables of roots say is one value for each.
        if id == "root" {
            values = values.into_iter().map(|value| roots::parted(&value).0.to_owned()).collect();
        } else if id == "access" {
            let roots = self.values("root");
            let of_tables = roots.iter().filter_map(|value| roots::parted(value).1);
            let own: Vec<_> = of_tables.filter(|own| !is_given(&values, own)).collect();
            if !own.is_empty() {
                origin = if origin.is_empty() { "file".into() } else { format!("{origin}, file") };
            }
            values.extend(own);
        }
        let setting = match (&values[..], arg.get_action()) {
            ([], _) => return Some(spaced(&format!("# {long} ="), "not set")),
            ([value], action) if !matches!(action, ArgAction::Append) => quoted(value),
            (values, _) => {
                let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                format!("[{}]", values.join(", "))
            }
        };
        Some(spaced(&format!("{long} = {setting}"), &origin))
    }

    fn values(&self, id: &str) -> Vec<String> {
        let raw = self.matches.try_get_raw(id).ok().flatten();
        raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect()
    }
}

/// Whether access to the same root is among `values`.
fn is_given(values: &[String], own: &str) -> bool {
    let name = |text: &str| text.split_once('=').map(|(name, _)| name.to_owned());
    values.iter().any(|value| name(value) == name(own))
}

fn spaced(setting: &str, origin: &str) -> String {
    format!("{setting:<ORIGIN_COLUMN$} # {origin}")
}

/// A text as TOML has it; what JSON escapes is escaped there in the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
