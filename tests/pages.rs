//! The pages that people read: links between them lead somewhere, and the index has them all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use walkdir::WalkDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages of the project.
fn pages() -> Vec<PathBuf> {
    let is_own = |name: &str| !name.starts_with('.') && name != "target" && name != "fuzz";
    let entries = WalkDir::new(root()).sort_by_file_name().into_iter();
    let entries = entries.filter_entry(|entry| {
        entry.depth() == 0 || is_own(entry.file_name().to_str().expect("UTF-8"))
    });
    let paths = entries.map(|entry| entry.expect("readable").into_path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The links of a page that lead to files: where to, and which heading there.
fn links(text: &str) -> Vec<(String, Option<String>)> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let code = Regex::new(r"(?s)```.*?```").expect("a pattern");
    let text = code.replace_all(text, "");
    let targets = link.captures_iter(&text).map(|found| found[1].to_owned());
    let local = targets.filter(|target| !target.contains("://"));
    local
        .map(|target| match target.split_once('#') {
            Some((path, heading)) => (path.to_owned(), Some(heading.to_owned())),
            None => (target, None),
        })
        .collect()
}

/// Headings as links name them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |title: &str| {
        let title = title.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
    };
    titles.map(anchor).collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    let mut count = 0;
    for page in &pages {
        for (path, heading) in links(&read(page)) {
            let target = match path.as_str() {
                "" => page.clone(),
                path => page.parent().expect("a folder").join(path),
            };
            assert!(target.exists(), "{} has a link to {path}", page.display());
            if let Some(heading) = heading {
                let there = headings(&read(&target));
                assert!(there.contains(&heading), "{}: {path}#{heading}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn the_index_has_every_page_of_its_folder() {
    let index = links(&read(&root().join("docs/README.md")));
    let index: BTreeSet<_> = index.into_iter().map(|(path, _)| path).collect();
    for page in pages() {
        let name = page.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let is_there = page.parent() == Some(&root().join("docs"));
        assert!(
            !is_there || name == "README.md" || index.contains(name),
            "docs/README.md lacks {name}"
        );
    }
}
