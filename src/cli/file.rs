//! The configuration file: its values become the defaults of the command line.

use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};
use qbulk::identity::config_dir;
use toml::{Table, Value};

use super::roots;

/// The user's `config.toml` with its contents, if there is one.
pub(super) fn load() -> Result<Option<(PathBuf, String)>, String> {
    let Ok(dir) = config_dir() else { return Ok(None) };
    let path = dir.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => {
            let reason = qbulk::store::reason(&error);
            Err(format!("cannot read {}: {reason}", path.display()))
        }
    }
}

/// Gives the subcommand `names` of `command` the defaults that `text` has for it, but for those that
/// `skips`. What it has for other subcommands is not looked at.
pub(super) fn apply(
    mut command: Command,
    names: &[&str],
    text: &str,
    skips: impl Fn(&Command, &Arg) -> bool,
) -> Result<Command, String> {
    let Some(&own) = names.first() else { return Ok(command) };
    let sections = sections(&command);
    let mut all = parse(text, own, &sections)?;
    let tables = all.remove(roots::TABLES).filter(|_| own == roots::COMMAND);
    if let Some(tables) = &tables
        && all.get(own).is_some_and(|values| values.get(roots::TABLES).is_some())
    {
        let named =
            roots::of_tables(tables).map(|_| "root in [serve] and [root.NAME] cannot be together");
        return Err(named?.into());
    }
    for (section, values) in all {
        if section == own {
            let Value::Table(values) = values else {
                return Err(format!("{section:?} must be a section: [{section}]"));
            };
            for (key, value) in values {
                command = set(command, names, &key, &value, &skips)?;
            }
        } else if !sections.contains(&section) {
            let known = sections.iter().map(|section| format!("[{section}]"));
            let known: Vec<_> = known.chain([format!("[{}.NAME]", roots::TABLES)]).collect();
            let known = known.join(", ");
            return Err(match values {
                Value::Table(_) => format!("unknown section [{section}]: expected one of {known}"),
                _ => format!("{section:?} must be in a section: one of {known}"),
            });
        }
    }
    match tables {
        Some(tables) => set(command, names, roots::TABLES, &roots::of_tables(&tables)?, &skips),
        None => Ok(command),
    }
}

/// What has options: subcommands, and those that have such.
fn sections(command: &Command) -> Vec<String> {
    let has_options =
        |command: &&Command| command.get_subcommands().count() > 0 || options(command).count() > 0;
    command.get_subcommands().filter(has_options).map(|command| command.get_name().into()).collect()
}

/// The options that a file may set.
pub(super) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_about_it = |arg: &&Arg| matches!(arg.get_long(), Some("help" | "version"));
    command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some())
        .filter(move |arg| !is_about_it(arg))
}

/// What a file says; if it cannot be understood as a whole, what it says without the sections of others.
fn parse(text: &str, own: &str, sections: &[String]) -> Result<Table, String> {
    let parse = |text: &str| text.parse().map_err(|error: toml::de::Error| error.to_string());
    parse(text).or_else(|_| parse(&without_others(text, own, sections)))
}

/// The lines of other sections are made empty, so that the numbers of all lines stay.
fn without_others(text: &str, own: &str, sections: &[String]) -> String {
    let mut is_others = false;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let name = header.trim_start_matches('[').split([']', '.']).next().unwrap_or_default();
            let name = name.trim().trim_matches(['"', '\'']);
            let (is_own, is_known) = if name == roots::TABLES {
                (own == roots::COMMAND, true)
            } else {
                (name == own, sections.iter().any(|section| section == name))
            };
            is_others = is_known && !is_own;
        }
        if !is_others {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn set(
    command: Command,
    names: &[&str],
    key: &str,
    value: &Value,
    skips: &impl Fn(&Command, &Arg) -> bool,
) -> Result<Command, String> {
    let section = names[0];
    let long = key.replace('_', "-");
    let find =
        |command: &Command| options(command).find(|arg| arg.get_long() == Some(&long)).cloned();
    let arg = match (leaf(&command, names).and_then(&find), command.find_subcommand(section)) {
        (Some(arg), _) => arg,
        // One of the section's other commands has it.
        (None, Some(group)) if group.get_subcommands().any(|command| find(command).is_some()) => {
            return Ok(command);
        }
        (None, _) => {
            return Err(format!(
                "unknown key {key:?} in [{section}]: `qbulk {section} --help` has them"
            ));
        }
    };
    let many = matches!(arg.get_action(), ArgAction::Append);
    let texts = match value {
        Value::Array(values) if many => values.iter().map(text).collect::<Option<Vec<_>>>(),
        value => text(value).map(|text| vec![text]),
    };
    let texts =
        texts.ok_or_else(|| format!("{key:?} in [{section}] has a value of the wrong kind"))?;
    if leaf(&command, names).is_some_and(|leaf| skips(leaf, &arg)) {
        return Ok(command);
    }
    let id = arg.get_id().clone();
    Ok(change(command, names, |command| command.mut_arg(id, |arg| arg.default_values(texts))))
}

/// The subcommand that is called.
pub(super) fn leaf<'a>(command: &'a Command, names: &[&str]) -> Option<&'a Command> {
    names.iter().try_fold(command, |command, name| command.find_subcommand(name))
}

/// Changes the subcommand that is called.
pub(super) fn change(
    command: Command,
    names: &[&str],
    how: impl FnOnce(Command) -> Command,
) -> Command {
    match names {
        [] => how(command),
        [name, rest @ ..] => command.mut_subcommand(name, |command| change(command, rest, how)),
    }
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
