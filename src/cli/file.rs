//! The configuration file: its values become the defaults of the command line.

use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::Path;

use clap::{ArgAction, Command};
use qbulk::identity::config_dir;
use toml::{Table, Value};

/// Gives `command` the defaults from the user's `config.toml`, if there is one.
pub(super) fn add_defaults(command: Command) -> Result<Command, String> {
    let Ok(dir) = config_dir() else { return Ok(command) };
    let path = dir.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(text) => apply(command, &text).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(command),
        Err(error) => Err(told(&path, &error)),
    }
}

fn told(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {}", path.display(), qbulk::store::reason(error))
}

pub(super) fn apply(mut command: Command, text: &str) -> Result<Command, String> {
    let sections: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    for (section, values) in sections {
        let Value::Table(values) = values else {
            return Err(format!("{section:?} must be in a section such as [push] or [serve]"));
        };
        if !matches!(section.as_str(), "push" | "serve" | "verify") {
            return Err(format!(
                "unknown section [{section}]: expected [push], [serve] or [verify]"
            ));
        }
        for (key, value) in values {
            command = set(command, &section, &key, &value)?;
        }
    }
    Ok(command)
}

fn set(command: Command, section: &str, key: &str, value: &Value) -> Result<Command, String> {
    let known = command
        .find_subcommand(section)
        .and_then(|command| command.get_arguments().find(|arg| arg.get_long() == Some(key)));
    let Some(arg) = known else {
        return Err(format!(
            "unknown key {key:?} in [{section}]: `qbulk {section} --help` has them"
        ));
    };
    let id = arg.get_id().clone();
    let many = matches!(arg.get_action(), ArgAction::Append);
    let texts = match value {
        Value::Array(values) if many => values.iter().map(text).collect::<Option<Vec<_>>>(),
        value => text(value).map(|text| vec![text]),
    };
    let texts =
        texts.ok_or_else(|| format!("{key:?} in [{section}] has a value of the wrong kind"))?;
    Ok(command
        .mut_subcommand(section, |command| command.mut_arg(id, |arg| arg.default_values(texts))))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
