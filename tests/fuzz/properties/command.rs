//! What a user types or writes into the configuration file.

// The command is no library: its modules are taken as they are, and not all of what is in them.
#[path = "../../../src/cli/file.rs"]
#[allow(dead_code, reason = "the command uses the rest")]
mod file;
#[path = "../../../src/cli/roots.rs"]
#[allow(dead_code, reason = "the command uses the rest")]
mod roots;
#[path = "../../../src/cli/url.rs"]
#[allow(dead_code, reason = "the command uses the rest")]
mod url;

use std::str::from_utf8;

use clap::{Arg, ArgAction, Command};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use self::url::Destination;

/// A configuration that is understood becomes the defaults, and says what was written; whatever it says,
/// reading the command line gives a result or a message.
pub fn config_file(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    for section in ["push", "serve"] {
        let Ok(mut command) = file::apply(command(), &[section], text, |_, _| false) else {
            continue;
        };
        // What is no TOML in other sections does not matter.
        let Ok(table) = text.parse::<toml::Table>() else { continue };
        let Ok(matches) = command.try_get_matches_from_mut(["qbulk", section]) else { continue };
        let matches = matches.subcommand_matches(section).expect("what was asked for");
        let value = table.get(section).and_then(|section| section.get("text"));
        if let Some(toml::Value::String(value)) = value {
            assert_eq!(matches.get_one::<String>("text"), Some(value));
        }
    }
}

/// One argument of each kind that the real command has.
fn command() -> Command {
    let arguments = [
        Arg::new("text").long("text"),
        Arg::new("number").long("number").value_parser(clap::value_parser!(u16).range(1..=64)),
        Arg::new("flag").long("flag").action(ArgAction::SetTrue),
        Arg::new("count").long("count").action(ArgAction::Count),
        Arg::new("list").long("list").action(ArgAction::Append).value_delimiter(','),
        Arg::new("root").long("root").action(ArgAction::Append),
        Arg::new("other").long("other").conflicts_with("text"),
    ];
    ["push", "serve"].into_iter().fold(Command::new("qbulk"), |command, name| {
        command.subcommand(Command::new(name).args(arguments.clone()))
    })
}

/// A destination that is understood names a host and a path below the root, means what was typed, and
/// is the same again when it is written out.
pub fn destination_url(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let Ok(destination) = text.parse::<Destination>() else { return };
    let Destination { host, port, path } = &destination;
    assert!(!host.is_empty() && !host.contains(['/', '\\', '@', ' ', '%', '?', '#']), "{host:?}");
    assert!(!path.contains(&0) && path.first() != Some(&b'/'));
    assert!(path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"." | b"..")));
    assert!(!path.windows(2).any(|two| two == b"//"));

    let typed = text.strip_prefix("qbulk://").expect("no other scheme is understood");
    let (server, _) = typed.split_once('/').unwrap_or((typed, ""));
    assert!(!server.is_empty(), "the host comes before the path");
    let (name, typed_port) = match server.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (server, ""),
    };
    let typed_port: u16 = typed_port.parse().unwrap_or(url::DEFAULT_PORT);
    assert_eq!(*port, typed_port, "{text:?}");
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        && !name.starts_with("xn--")
    {
        assert_eq!(host, name);
    }

    let path = percent_encode(path, NON_ALPHANUMERIC);
    let again = format!("qbulk://{}/{path}", destination.server()).parse();
    assert_eq!(again, Ok(destination));
}
