//! Where values come from: the command line, before the environment, before the configuration file.
//!
//! Each layer is added to those before it and all of it is read again, so that what is wrong is known to be
//! from the layer that was added last. A value that would not count is not looked at.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::builder::{BoolishValueParser, OsStr, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error};

use super::file;
use super::origins::Given;

/// What all of them say together, and of a command that has options, where from.
pub(super) fn read(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<(ArgMatches, Option<Given>), Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let parse = |command: &Command| command.clone().try_get_matches_from(&args);
    let command = with_switches(command);
    let typed = match parse(&without_env(command.clone())) {
        // Help has the variables' names.
        Err(error) if !error.use_stderr() => return parse(&command).map(|help| (help, None)),
        typed => typed?,
    };
    let names = names(&typed);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    if file::leaf(&command, &names).is_none_or(|leaf| file::options(leaf).next().is_none()) {
        return Ok((typed, None));
    }
    let given = |command: &Command, matches: ArgMatches, file, in_file| {
        let leaf = file::leaf(command, &names).cloned().unwrap_or_default();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let given = Given { matches: called(&matches), leaf, names, file, in_file };
        (matches, Some(given))
    };

    let command = file::change(command, &names, |leaf| with_env(leaf, &called(&typed)));
    let with_env = parse(&command).map_err(|error| {
        let arg = blamed(&command, &names, &error);
        let name = arg.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
        with_origin(&command, error, name.map(|name| format!("{name} (environment)")))
    })?;

    let wrong = |why: String| {
        Error::raw(ErrorKind::ValueValidation, format!("{}\n", why.trim_end())).with_cmd(&command)
    };
    let Some((file, text)) = file::load().map_err(wrong)? else {
        return Ok(given(&command, with_env, None, BTreeSet::new()));
    };
    let path = file.display();
    let called = called(&with_env);
    let in_file = RefCell::new(BTreeSet::new());
    // What is served to everybody is not what a user gets at who has logged in.
    let is_stdio = matches!(called.try_get_one::<bool>("stdio"), Ok(Some(true)));
    let skips = |leaf: &Command, arg: &Arg| {
        let is_served = matches!(arg.get_id().as_str(), "root" | "access");
        let skips = is_stdio && is_served || is_ruled_out(leaf, arg, &called);
        if !skips {
            in_file.borrow_mut().insert(arg.get_id().clone());
        }
        skips
    };
    let with_file = file::apply(command.clone(), &names, &text, skips)
        .map_err(|why| wrong(format!("{path}: {why}")))?;
    let read = parse(&with_file).map_err(|error| {
        let key = blamed(&with_file, &names, &error).and_then(Arg::get_long);
        let origin = key.map(|key| format!("{path}, {key} in [{}]", names[0]));
        with_origin(&command, error, origin)
    })?;
    Ok(given(&command, read, Some(file.clone()), in_file.take()))
}

/// Lets every switch be turned off as well: by `--quiet=no`, where the file has turned it on.
pub(super) fn with_switches(command: Command) -> Command {
    let switch = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(BoolishValueParser::new())
            .value_name("yes|no")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => arg,
    };
    command.mut_args(switch).mut_subcommands(with_switches)
}

fn without_env(command: Command) -> Command {
    command.mut_args(forget_env).mut_subcommands(without_env)
}

/// Without the variables that do not count: empty ones, and those that what was typed rules out.
fn with_env(leaf: Command, typed: &ArgMatches) -> Command {
    let counts = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| !value.is_empty()) && !is_ruled_out(&leaf, arg, typed)
    };
    let count: Vec<_> =
        leaf.get_arguments().filter(|arg| counts(arg)).map(|arg| arg.get_id().clone()).collect();
    leaf.mut_args(|arg| if count.contains(arg.get_id()) { arg } else { forget_env(arg) })
}

fn forget_env(arg: Arg) -> Arg {
    arg.env(Resettable::<OsStr>::Reset)
}

/// Whether an option that goes against `arg` is given where it has more weight.
fn is_ruled_out(leaf: &Command, arg: &Arg, given: &ArgMatches) -> bool {
    let is_given = |other: &Arg| {
        let source = given.value_source(other.get_id().as_str());
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    leaf.get_arg_conflicts_with(arg).into_iter().any(is_given)
}

/// The subcommand that is called, and its own, if it has some.
fn names(matches: &ArgMatches) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = matches;
    while let Some((name, below)) = at.subcommand() {
        names.push(name.to_owned());
        at = below;
    }
    names
}

/// What was read of the subcommand that is called.
fn called(matches: &ArgMatches) -> ArgMatches {
    match matches.subcommand() {
        Some((_, below)) => called(below),
        None => matches.clone(),
    }
}

/// The option that an error is about.
fn blamed<'a>(command: &'a Command, names: &[&str], error: &Error) -> Option<&'a Arg> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    file::options(file::leaf(command, names)?).find(|arg| arg.get_long() == Some(long))
}

fn with_origin(command: &Command, error: Error, origin: Option<String>) -> Error {
    let Some(origin) = origin else { return error };
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Error::raw(error.kind(), format!("{origin}: {text}")).with_cmd(command)
}
