//! What differs between two kits, without any secret.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use cellbus_runtime::{
    certificate::{certificates_in_pem, leaf_hash},
    secret_file::{EntryKind, SecretFileError, list_private_tree, read_bounded_file},
};
use serde::{Deserialize, Serialize};

use crate::{
    layout::{ENTRIES_MAX, FILE_MAX_BYTES, LOCAL, STARTUP},
    text::hex,
};

/// Lines of one file that are shown.
const LINES_MAX: usize = 200;

/// One file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Path, from the kit down.
    pub path: String,
    /// How: `only in the first`, `only in the second`, `differs`.
    pub how: String,
    /// Lines of a text, `-` of the first and `+` of the second; fingerprints of certificates; nothing of keys.
    pub lines: Vec<String>,
}

/// Compares two kits.
///
/// # Errors
/// [`SecretFileError`] when one cannot be read.
pub fn compare(first: &Path, second: &Path) -> Result<Vec<Difference>, SecretFileError> {
    let (a, b) = (files(first)?, files(second)?);
    let mut found = Vec::new();
    for path in a.union(&b) {
        let name = path.display().to_string();
        let only =
            |how: &str| Difference { path: name.clone(), how: how.to_owned(), lines: Vec::new() };
        if !b.contains(path) {
            found.push(only("only in the first"));
            continue;
        }
        if !a.contains(path) {
            found.push(only("only in the second"));
            continue;
        }
        let before = read_bounded_file(&first.join(path), FILE_MAX_BYTES)?;
        let after = read_bounded_file(&second.join(path), FILE_MAX_BYTES)?;
        if before != after {
            found.push(Difference {
                path: name,
                how: "differs".to_owned(),
                lines: told(path, &before, &after),
            });
        }
    }
    Ok(found)
}

fn files(kit: &Path) -> Result<BTreeSet<PathBuf>, SecretFileError> {
    let mut found = BTreeSet::new();
    for part in [STARTUP, LOCAL] {
        for entry in list_private_tree(&kit.join(part), ENTRIES_MAX)? {
            if entry.kind == EntryKind::File {
                found.insert(Path::new(part).join(entry.inside));
            }
        }
    }
    Ok(found)
}

/// What is said about two contents. Only kinds of files that are known to hold no secret are shown.
fn told(path: &Path, before: &[u8], after: &[u8]) -> Vec<String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("crt") => {
            let prints = |pem: &[u8]| -> Vec<String> {
                certificates_in_pem(pem).iter().map(|der| hex(&leaf_hash(der))).collect()
            };
            marked(&prints(before), &prints(after))
        }
        Some("toml" | "json") => {
            let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
            if before.contains("PRIVATE KEY") || after.contains("PRIVATE KEY") {
                return Vec::new();
            }
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            marked(&lines(&before), &lines(&after))
        }
        _ => Vec::new(),
    }
}

/// The lines between what both begin and end with.
fn marked(before: &[String], after: &[String]) -> Vec<String> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let rest = before.len().min(after.len()) - head;
    let tail =
        before.iter().rev().zip(after.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let lines = |mark: char, all: &[String]| {
        let shown = &all[head..all.len() - tail];
        shown.iter().map(|line| format!("{mark} {line}")).collect::<Vec<_>>()
    };
    let mut found = lines('-', before);
    found.extend(lines('+', after));
    found.truncate(LINES_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_09_a_changed_line_is_shown_and_a_key_is_not() {
        let told = |name: &str, a: &str, b: &str| told(Path::new(name), a.as_bytes(), b.as_bytes());
        assert_eq!(told("x.toml", "a\nb\nc\n", "a\nB\nc\n"), ["- b", "+ B"]);
        assert_eq!(told("x.toml", "a\n", "a\na\n"), ["+ a"]);
        assert!(told("cell.key", "one", "two").is_empty());
        let key = "-----BEGIN PRIVATE KEY-----\n";
        assert!(told("x.toml", key, "a").is_empty());
    }
}
