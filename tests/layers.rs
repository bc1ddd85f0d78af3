//! Who may import from whom: a core that decides and knows nothing of the world, shells around it, and no way
//! back up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Every module of the library and of the program, and what it imports: only what stands above it here.
const MODULES: &[(&str, &[&str])] = &[
    // Leaves.
    ("clock", &[]),
    ("heap", &[]),
    ("mutex", &[]),
    ("rate", &[]),
    ("text", &[]),
    ("folder", &[]),
    ("buffers", &["mutex"]),
    ("work", &["mutex"]),
    ("event", &[]),
    // The core.
    ("hashtree", &[]),
    ("wire", &["hashtree"]),
    ("filter", &["text", "wire"]),
    ("congestion", &["mutex"]),
    ("traffic", &[]),
    // Keys, the disk, the network.
    ("identity", &["folder", "mutex", "text"]),
    ("certs", &["identity"]),
    ("error", &["identity"]),
    (
        "store",
        &["buffers", "error", "event", "filter", "folder", "hashtree", "mutex", "text", "wire"],
    ),
    ("receipt", &["store", "wire"]),
    ("net", &["clock", "congestion", "error", "identity", "mutex", "text", "traffic", "wire"]),
    // The ends of a job, which know neither client nor server.
    (
        "send",
        &[
            "buffers", "clock", "error", "event", "filter", "hashtree", "identity", "mutex", "net",
            "rate", "receipt", "store", "text", "traffic", "wire", "work",
        ],
    ),
    ("receive", &["buffers", "mutex", "net", "store", "wire", "work"]),
    // Client and server.
    (
        "serve",
        &[
            "buffers",
            "congestion",
            "error",
            "event",
            "filter",
            "heap",
            "identity",
            "mutex",
            "net",
            "receive",
            "send",
            "store",
            "text",
            "traffic",
            "wire",
            "work",
        ],
    ),
    (
        "client",
        &[
            "buffers",
            "clock",
            "congestion",
            "error",
            "event",
            "filter",
            "folder",
            "identity",
            "mutex",
            "net",
            "rate",
            "receipt",
            "receive",
            "send",
            "store",
            "text",
            "traffic",
            "wire",
            "work",
        ],
    ),
    (
        "ssh",
        &[
            "client",
            "clock",
            "congestion",
            "error",
            "identity",
            "net",
            "serve",
            "store",
            "text",
            "traffic",
            "wire",
        ],
    ),
    // The program.
    ("signals", &["error"]),
    ("service", &["event"]),
    ("out", &["error", "store", "text"]),
    ("report", &["error", "event", "identity", "out", "store", "text"]),
    ("metrics", &["error", "serve", "store"]),
    ("trace", &["out", "report"]),
    (
        "cli",
        &[
            "certs",
            "client",
            "congestion",
            "error",
            "event",
            "filter",
            "identity",
            "net",
            "out",
            "report",
            "serve",
            "ssh",
            "store",
            "traffic",
            "wire",
        ],
    ),
    ("demo", &["client", "error", "event", "identity", "net", "report", "serve"]),
];

/// Time, randomness, network and disk come into these from outside, so that what they decide can be simulated.
const PURE: [&str; 5] = ["traffic", "wire", "hashtree", "congestion", "filter"];
/// Joins a pure model to quinn, and decides nothing.
const ADAPTERS: [&str; 1] = ["src/congestion/controller.rs"];
/// What a pure module does not reach for.
const WORLD: [&str; 10] = [
    "tokio",
    "quinn",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "rand::rng()",
    "rand::random",
];

/// A source file, without comments and without what follows the start of its tests.
struct Source {
    /// As it is called below the project's folder.
    path: PathBuf,
    /// As it is called in the crate: `store::sink::table`.
    module: Vec<String>,
    code: String,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("readable");
        let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
        let lines = lines.filter(|line| !line.starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        let path = path.strip_prefix(root).expect("below it").to_owned();
        let inner = path.strip_prefix("src").expect("a source").with_extension("");
        let names = inner.iter().map(|name| name.to_str().expect("a name").to_owned());
        let module = names.filter(|name| name != "mod").collect();
        Self { path, module, code }
    }

    fn top(&self) -> &str {
        &self.module[0]
    }

    /// Paths from the root of a crate that it names: `crate::store::scan` is `[store, scan]`.
    fn imports(&self) -> BTreeSet<Vec<String>> {
        let mut found = BTreeSet::new();
        for root in ["crate::", "qbulk::"] {
            for (at, _) in self.code.match_indices(root) {
                paths(&self.code[at + root.len()..], &[], &mut found);
            }
        }
        for (at, _) in self.code.match_indices("super::") {
            let before = &self.code[..at];
            if before.ends_with("super::") {
                continue; // it was followed from its first one
            }
            let mut rest = &self.code[at..];
            let mut base = self.module.as_slice();
            while let Some(inner) = rest.strip_prefix("super::") {
                (rest, base) = (inner, &base[..base.len().saturating_sub(1)]);
            }
            paths(rest, base, &mut found);
        }
        found
    }
}

/// The paths that `text` begins with: one, or those of a group in braces.
fn paths(text: &str, base: &[String], found: &mut BTreeSet<Vec<String>>) {
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    paths(group[start..at].trim(), base, found);
                    start = at + 1;
                }
                _ => {}
            }
            if char == '}' && depth == 0 && start > at {
                return;
            }
        }
        return;
    }
    let end = text.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    if name.starts_with(|char: char| char.is_lowercase()) && name != "self" {
        path.push(name.to_owned());
        if let Some(rest) = rest.strip_prefix("::") {
            return paths(rest, &path, found);
        }
    }
    if !path.is_empty() {
        found.insert(path);
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = WalkDir::new(root.join("src")).sort_by_file_name();
    let files = entries.into_iter().map(|entry| entry.expect("readable").into_path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let files = files.filter(|path| !path.ends_with("tests.rs"));
    files.map(|path| Source::read(root, &path)).collect()
}

#[test]
fn every_module_imports_what_the_table_says_and_nothing_from_above() {
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    let sources = sources();
    let tops: BTreeSet<&str> = sources.iter().map(Source::top).collect();
    for source in &sources {
        let own = imports.entry(source.top().to_owned()).or_default();
        let others = source.imports().into_iter().map(|path| path[0].clone());
        own.extend(others.filter(|top| top != source.top() && tops.contains(top.as_str())));
    }
    for top in ["lib", "main"] {
        imports.remove(top); // they hold the others
    }
    let table: BTreeMap<String, BTreeSet<String>> = MODULES
        .iter()
        .map(|(name, may)| {
            ((*name).to_owned(), may.iter().map(|name| (*name).to_owned()).collect())
        })
        .collect();
    for (name, imports) in &imports {
        assert_eq!(table.get(name), Some(imports), "what {name} imports");
    }
    for (index, (name, may)) in MODULES.iter().enumerate() {
        assert!(imports.contains_key(*name), "there is no {name} any more");
        for other in *may {
            let stands = MODULES.iter().position(|(name, _)| name == other);
            assert!(
                stands.is_some_and(|place| place < index),
                "{name} imports from {other}, above it"
            );
        }
    }
}

#[test]
fn no_files_of_a_module_import_from_one_another_in_a_circle() {
    let sources = sources();
    let names: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    // By file, the files that it imports from; a module and the parts that it is made of are one to others.
    let mut edges = BTreeMap::<&[String], BTreeSet<&[String]>>::new();
    for source in &sources {
        for path in source.imports() {
            let known = (1..=path.len()).rev().find_map(|len| names.get(&path[..len]).copied());
            let Some(other) = known else { continue };
            let is_kin = other.starts_with(&source.module) || source.module.starts_with(other);
            if !is_kin {
                edges.entry(&source.module[..]).or_default().insert(other);
            }
        }
    }
    let mut circles = Vec::new();
    for start in edges.keys().copied() {
        let mut waiting: Vec<Vec<&[String]>> = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = waiting.pop() {
            let last = way[way.len() - 1];
            for next in edges.get(last).into_iter().flatten().copied() {
                let way: Vec<_> = way.iter().copied().chain([next]).collect();
                if next == start {
                    circles.push(way.iter().map(|module| module.join("::")).collect::<Vec<_>>());
                }
                if seen.insert(next) {
                    waiting.push(way);
                }
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn the_pure_modules_reach_for_nothing_outside() {
    let sources = sources();
    for pure in PURE {
        let files: Vec<_> = sources.iter().filter(|source| source.top() == pure).collect();
        assert!(!files.is_empty(), "{pure} has moved");
        for source in files {
            if ADAPTERS.iter().any(|adapter| source.path == Path::new(adapter)) {
                continue;
            }
            assert!(!source.code.is_empty(), "{}", source.path.display());
            for word in WORLD {
                assert!(!source.code.contains(word), "{} uses {word}", source.path.display());
            }
        }
    }
}

/// What is read as text there may be of somebody else: `text` is where it is made fit for a terminal and a log.
/// The pure core quotes it, and the command line has it from its own user.
#[test]
fn text_that_comes_from_elsewhere_takes_one_way() {
    for source in sources() {
        let is_free = ["text", "wire", "event", "cli"].contains(&source.top());
        for word in ["from_utf8_lossy", "to_string_lossy"] {
            let path = source.path.display();
            assert!(is_free || !source.code.contains(word), "{path} has {word}: see src/text.rs");
        }
        // Names in a field of a log: escaped, or quoted.
        let logs = source.code.split("tracing::").skip(1);
        let mut logs = logs.filter_map(|rest| rest.split(';').next());
        assert!(!logs.any(|log| log.contains("display()")), "{}", source.path.display());
    }
}

#[test]
fn what_a_file_imports_is_found_however_it_is_written() {
    let code = "use crate::net::{line::Line, route::{Route, Siblings}, tls};\n\
                use super::{lines, source::Source};\nuse super::super::scan;\n\
                fn f() { crate::wire::put(qbulk::store::shown()) }\nuse crate::{clock, error::Error};";
    let module = ["send", "reading", "part"].map(String::from).to_vec();
    let source = Source { path: PathBuf::new(), module, code: code.into() };
    let found: Vec<_> = source.imports().into_iter().map(|path| path.join("::")).collect();
    let want = [
        "clock",
        "error",
        "net::line",
        "net::route",
        "net::tls",
        "send::reading::lines",
        "send::reading::source",
        "send::scan",
        "store::shown",
        "wire::put",
    ];
    assert_eq!(found, want);
}
