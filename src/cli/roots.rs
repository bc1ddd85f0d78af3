//! What `qbulk serve` serves: one folder, or several by name, and what may be done below each.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};
use qbulk::error::Error;
use qbulk::identity::{Rights, RootName};
use qbulk::serve::{Roots, ServedFolder};
use toml::{Table, Value};

/// The tables of the configuration file that are roots: `[root.NAME]`.
pub(super) const TABLES: &str = "root";
/// Whose they are.
pub(super) const COMMAND: &str = "serve";
/// Parts a table's folder from its access. It can be in no path, and nobody can type it.
const TABLE_GAP: char = '\0';

/// A folder as it is given: `DIR` or `NAME=DIR`.
#[derive(Clone, Debug)]
pub(super) struct RootArg {
    name: Option<RootName>,
    path: PathBuf,
    /// As the folder's table has it.
    rights: Option<Rights>,
}

/// What may be done as it is given: `MODE` or `NAME=MODE`.
#[derive(Clone, Debug)]
pub(super) struct AccessArg {
    name: Option<RootName>,
    rights: Rights,
}

/// Reads folders, which may have any name.
pub(super) fn root() -> impl TypedValueParser<Value = RootArg> {
    OsStringValueParser::new().try_map(|typed| RootArg::new(&typed))
}

impl AccessArg {
    pub(super) fn rights(&self) -> Rights {
        self.rights
    }

    /// Whether it is for the root of some name only.
    pub(super) fn is_named(&self) -> bool {
        self.name.is_some()
    }
}

impl RootArg {
    /// The folder that the process is in.
    pub(super) fn here() -> Self {
        Self { name: None, path: ".".into(), rights: None }
    }

    /// What is in front of the first `=` is a name, unless it has a slash in it.
    fn new(typed: &OsStr) -> Result<Self, String> {
        let mut bytes = typed.as_bytes();
        let mut rights = None;
        if let Some(gap) = bytes.iter().position(|&byte| byte == TABLE_GAP as u8) {
            rights = Some(String::from_utf8_lossy(&bytes[gap + 1..]).parse()?);
            bytes = &bytes[..gap];
        }
        let mut name = None;
        if let Some(at) = bytes.iter().position(|&byte| b"/=".contains(&byte))
            && bytes[at] == b'='
        {
            let text = String::from_utf8_lossy(&bytes[..at]);
            name = Some(text.parse().map_err(|why| {
                let typed = String::from_utf8_lossy(bytes);
                format!("{why}. For a folder of that name, put ./ in front: ./{typed}")
            })?);
            bytes = &bytes[at + 1..];
        }
        if bytes.is_empty() {
            return Err("expected a folder: DIR, or NAME=DIR".into());
        }
        Ok(Self { name, path: OsString::from_vec(bytes.to_vec()).into(), rights })
    }
}

impl FromStr for AccessArg {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let (name, mode) = match typed.split_once('=') {
            Some((name, mode)) => (Some(name.parse()?), mode),
            None => (None, typed),
        };
        Ok(Self { name, rights: mode.parse()? })
    }
}

/// A folder as it is typed, from how it is given here, and its access if its table has one.
pub(super) fn parted(given: &str) -> (&str, Option<String>) {
    let Some((folder, rights)) = given.split_once(TABLE_GAP) else { return (given, None) };
    let name = folder.split_once('=').map_or("", |(name, _)| name);
    (folder, Some(format!("{name}={rights}")))
}

/// What is served, from all that was given.
pub(super) fn roots(folders: &[RootArg], access: &[AccessArg]) -> Result<Roots, Error> {
    let wrong = |why: String| Err(Error::Usage(why));
    let mut rights = BTreeMap::new();
    for AccessArg { name, rights: given } in access {
        if rights.insert(name.as_ref(), *given).is_some() {
            let of = name.as_ref().map_or(String::new(), |name| format!(" for {name}"));
            return wrong(format!("--access is given twice{of}"));
        }
    }
    let mut served = BTreeMap::new();
    for RootArg { name, path, rights: own } in folders {
        let rights = rights.remove(&name.as_ref()).or(*own).unwrap_or(Rights::BOTH);
        let folder = ServedFolder { path: path.clone(), rights };
        if let Some(other) = served.insert(name.as_ref(), folder) {
            let other = other.path.display();
            return wrong(match name {
                Some(name) => {
                    format!("two roots are called {name}: {other} and {}", path.display())
                }
                None => format!(
                    "one folder can be served without a name, and here are {other} and {}: give each a \
                     name, as in --root NAME={other}",
                    path.display()
                ),
            });
        }
    }
    let unused = rights.into_keys().next();
    let unnamed = served.remove(&None);
    match (unnamed, unused) {
        (Some(folder), _) if !served.is_empty() => wrong(format!(
            "roots with and without a name cannot be served together: give {} a name as well, as in --root \
             NAME={}",
            folder.path.display(),
            folder.path.display()
        )),
        (None, Some(None)) => {
            wrong("roots with names have their access by name: --access NAME=MODE".into())
        }
        (_, Some(Some(name))) => {
            wrong(format!("--access is given for {name}, and no root is called so"))
        }
        (Some(folder), _) => Ok(Roots::One(folder)),
        (None, None) => {
            let named =
                served.into_iter().filter_map(|(name, folder)| Some((name?.clone(), folder)));
            Ok(Roots::Named(named.collect()))
        }
    }
}

/// The values of `--root` that tables stand for.
pub(super) fn of_tables(tables: &Value) -> Result<Value, String> {
    const FORM: &str = "roots are written as [root.NAME], with path = \"...\" and, if you like, access = \
                        \"read\", \"write\", \"both\" or \"append\"";
    let Value::Table(tables) = tables else { return Err(FORM.into()) };
    let value = |(name, table): (&String, &Value)| {
        let Value::Table(table) = table else { return Err(FORM.to_owned()) };
        let wrong = |why: &str| format!("[root.{name}]: {why}");
        name.parse::<RootName>().map_err(|why| wrong(&why))?;
        if let Some(key) = table.keys().find(|key| !["path", "access"].contains(&key.as_str())) {
            return Err(wrong(&format!("unknown key {key:?}: it has path and access")));
        }
        let text = |key| text(table, key).map_err(|why| wrong(&why));
        let path = text("path")?.ok_or_else(|| wrong("it has no path"))?;
        let access = text("access")?.unwrap_or("both");
        access.parse::<Rights>().map_err(|why| wrong(&why))?;
        Ok(Value::String(format!("{name}={path}{TABLE_GAP}{access}")))
    };
    tables.iter().map(value).collect::<Result<_, _>>().map(Value::Array)
}

fn text<'a>(table: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && !text.contains(TABLE_GAP) => {
            Ok(Some(text))
        }
        Some(_) => Err(format!("{key} is not a text that can be used")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(folders: &[&str], access: &[&str]) -> Result<Vec<(String, String, String)>, String> {
        let folders = folders.iter().map(|text| RootArg::new(OsStr::new(text)));
        let folders = folders.collect::<Result<Vec<_>, _>>()?;
        let access = access.iter().map(|text| text.parse()).collect::<Result<Vec<_>, String>>()?;
        let roots = roots(&folders, &access).map_err(|error| error.to_string())?;
        let told = roots.folders().map(|(name, folder)| {
            let name = name.map_or(String::new(), ToString::to_string);
            (name, folder.path.display().to_string(), folder.rights.to_string())
        });
        Ok(told.collect())
    }

    #[test]
    fn folders_are_served_with_and_without_names() {
        for (folders, access, want) in [
            (&["."] as &[&str], &[] as &[&str], &[("", ".", "both")] as &[_]),
            (&["/srv"], &["read"], &[("", "/srv", "read")]),
            (&["./a=b"], &[], &[("", "./a=b", "both")]),
            (&["/srv/a=b"], &["append"], &[("", "/srv/a=b", "append")]),
            (&["media=/srv/a=b"], &[], &[("media", "/srv/a=b", "both")]),
            (&["b=/b", "a=rel"], &["a=read"], &[("a", "rel", "read"), ("b", "/b", "both")]),
            (
                &["a=/a\0append", "b=/b\0read"],
                &["a=both"],
                &[("a", "/a", "both"), ("b", "/b", "read")],
            ),
        ] {
            let want: Vec<_> = want
                .iter()
                .map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string()))
                .collect();
            assert_eq!(served(folders, access), Ok(want), "{folders:?}, {access:?}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_told_apart() {
        for (folders, access, words) in [
            (&["/a", "b=/b"] as &[&str], &[] as &[&str], "cannot be served together"),
            (&["/a", "/b"], &[], "give each a name"),
            (&["a=/a", "a=/b"], &[], "two roots are called a"),
            (&["a=/a"], &["read"], "--access NAME=MODE"),
            (&["a=/a"], &["b=read"], "no root is called so"),
            (&["/a"], &["a=read"], "no root is called so"),
            (&["/a"], &["read", "both"], "given twice"),
            (&["a=/a"], &["a=read", "a=read"], "given twice for a"),
            (&["/a"], &["rw"], "expected read, write, both or append"),
            (&["a=/a"], &["a=none"], "\"none\" is no access"),
            (&["my files=/a"], &[], "./my files=/a"),
            (&["=/a"], &[], "cannot be the name"),
            (&["a="], &[], "expected a folder"),
            (&[""], &[], "expected a folder"),
        ] {
            let error = served(folders, access).unwrap_err();
            assert!(error.contains(words), "{folders:?}, {access:?}: {error}");
        }
    }

    #[test]
    fn tables_are_roots() {
        let of = |text: &str| of_tables(&text.parse::<Table>().unwrap()["root"]);
        let text =
            "[root.media]\npath = \"/srv/a=b\"\naccess = \"read\"\n[root.in]\npath = \"x\"\n";
        let Ok(Value::Array(values)) = of(text) else { panic!("roots") };
        let values: Vec<_> = values.iter().map(|value| value.as_str().unwrap()).collect();
        assert_eq!(
            served(&values, &[]).unwrap(),
            [("in", "x", "both"), ("media", "/srv/a=b", "read")].map(|(a, b, c)| (
                a.to_string(),
                b.to_string(),
                c.to_string()
            ))
        );
        for (text, words) in [
            ("root = 1", "[root.NAME]"),
            ("[root]\npath = \"/\"", "[root.NAME]"),
            ("[root.a]\naccess = \"read\"", "[root.a]: it has no path"),
            ("[root.a]\npath = 1", "path is not a text"),
            ("[root.a]\npath = \"\"", "path is not a text"),
            ("[root.a]\npath = \"/\\u0000read\"", "path is not a text"),
            ("[root.a]\npath = \"/\"\nacess = \"read\"", "unknown key \"acess\""),
            ("[root.a]\npath = \"/\"\naccess = \"rw\"", "[root.a]: \"rw\" is no access"),
            ("[root.\"a b\"]\npath = \"/\"", "cannot be the name"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
