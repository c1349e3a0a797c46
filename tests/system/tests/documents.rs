//! What the documents name must exist: tests, files, and the pages that they link to.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Pages that name tests and files; reference pages name fields of formats, which look alike.
const PAGES: [&str; 8] = [
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/CHANGELOG.md",
    "docs/GLOSSARY.md",
    "docs/OPERATIONS.md",
    "docs/PERFORMANCE.md",
    "docs/SECURITY.md",
    "docs/TESTING.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels down").to_owned()
}

fn files(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of the repository") {
        let path = entry.expect("an entry of it").path();
        let skip = path.file_name().is_some_and(|name| name == "target" || name == ".git");
        if path.is_dir() && !skip {
            found.extend(files(&path, kind));
        } else if path.extension().is_some_and(|extension| extension == kind) {
            found.push(path);
        }
    }
    found
}

/// Every function of the workspace, by name.
fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for path in files(&root(), "rs") {
        let text = fs::read_to_string(path).expect("source is text");
        let names = text.split("fn ").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric())?;
            Some(rest[..end].to_owned())
        });
        functions.extend(names);
    }
    functions
}

/// What stands between backticks on one line, fenced code left out.
fn quoted(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Whether `word` is the name of a test: a sentence of at least five words.
fn is_test_name(word: &str) -> bool {
    let is_name = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
    word.chars().all(is_name) && word.matches('_').count() >= 4
}

/// Whether `word` is a path within this repository.
fn is_path(word: &str) -> bool {
    let crates = ["proto/", "channels/", "runtime/", "cells/", "tests/", "tools/", "docs/", ".ci/"];
    crates.iter().any(|start| word.starts_with(start)) && !word.contains([' ', '*', '<'])
}

/// The files that `text` links to; addresses elsewhere are left out.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or(target));
    files.filter(|file| !file.is_empty() && !file.contains("://")).collect()
}

#[test]
fn documents_name_only_what_exists() {
    let (root, mut known) = (root(), functions());
    // Keys of the topology file may be as long as the name of a test.
    let topology = fs::read_to_string(root.join("docs/TOPOLOGY.md")).expect("its reference");
    known.extend(quoted(&topology).into_iter().map(str::to_owned));
    let mut pages: Vec<PathBuf> = PAGES.iter().map(|page| root.join(page)).collect();
    pages.extend(files(&root.join("docs/decisions"), "md"));
    let mut missing = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        for word in quoted(&text) {
            let is_gone = is_test_name(word) && !known.contains(word)
                || is_path(word) && !root.join(word).exists();
            if is_gone {
                missing.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let mut pages = files(&root.join("docs"), "md");
    pages.push(root.join("README.md"));
    let mut broken = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).expect("a document is text");
        for link in links(&text) {
            if !page.with_file_name(link).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn names_of_tests_and_paths_are_told_from_other_words() {
    assert_eq!(quoted("a `b` c `d`\n```\n`e`\n```\n`f`"), ["b", "d", "f"]);
    assert!(is_test_name("a_dead_link_leaves_no_route"));
    assert!(!is_test_name("log_warn_or_error") && !is_test_name("Status::TooLarge"));
    assert!(is_path("proto/src/link.rs") && !is_path("relay/site") && !is_path("proto::link"));
    assert_eq!(links("[a](b.md#c), [d](#e), [f](https://example.org)"), ["b.md"]);
}
