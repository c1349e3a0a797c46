//! From text to the raw tables, piece by piece: a bad key costs that key and hides nothing else.

use std::{collections::BTreeSet, ops::Range};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue, Error, ValueDeserializer},
};

use super::{
    clusters::RawCluster,
    limits::RawLimits,
    metrics::RawMetrics,
    problem::{Code, Problem, Problems},
    programs::RawProgram,
    raw::{RawCell, RawChannel, RawPolicyTest, RawProject, RawRule, keys_of},
    secret,
    trust::RawTrust,
    wording::{listed, nearest, quoted},
};
use crate::policy::Effect;

/// One table of the file, with whatever of it could be read.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// Where its header or braces stand.
    pub span: Range<usize>,
    /// What could be read.
    pub raw: T,
    /// Keys that are there and could not be read: they are reported, and not absent.
    broken: BTreeSet<String>,
}

/// The tables of a file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub project: Option<Table<RawProject>>,
    pub cells: Vec<Table<RawCell>>,
    /// In the order of the text.
    pub rules: Vec<(Effect, Table<RawRule>)>,
    pub channels: Vec<Table<RawChannel>>,
    pub policy_tests: Vec<Table<RawPolicyTest>>,
    pub programs: Vec<Table<RawProgram>>,
    pub clusters: Vec<Table<RawCluster>>,
    pub limits: Option<Table<RawLimits>>,
    pub metrics: Option<Table<RawMetrics>>,
    pub trust: Option<Table<RawTrust>>,
    /// Whole sections that are there and could not be read.
    broken: BTreeSet<String>,
}

impl<T> Table<T> {
    /// Whether `key` is there and was reported as unreadable.
    pub(super) fn is_broken(&self, key: &str) -> bool {
        self.broken.contains(key)
    }

    /// The same table, read as `raw`.
    pub(super) fn with<U>(&self, raw: U) -> Table<U> {
        Table { span: self.span.clone(), raw, broken: self.broken.clone() }
    }
}

impl Tables {
    /// Whether the section is there and was reported as unreadable.
    pub(super) fn is_broken(&self, section: &str) -> bool {
        self.broken.contains(section)
    }

    /// Reads every table of a parsed document.
    ///
    /// `known` are the keys that the top level has.
    pub(super) fn read(
        document: DeTable<'_>,
        known: &'static [&'static str],
        problems: &mut Problems,
    ) -> Self {
        let mut tables = Self::default();
        for (key, value) in document {
            let span = value.span();
            match key.get_ref().as_ref() {
                "project" => match one_table("project", value, problems) {
                    Some(table) => tables.project = Some(read(table, span, "[project]", problems)),
                    None => tables.note_broken("project"),
                },
                "limits" => match one_table("limits", value, problems) {
                    Some(table) => tables.limits = Some(read(table, span, "[limits]", problems)),
                    None => tables.note_broken("limits"),
                },
                "metrics" => match one_table("metrics", value, problems) {
                    Some(table) => tables.metrics = Some(read(table, span, "[metrics]", problems)),
                    None => tables.note_broken("metrics"),
                },
                "trust" => match one_table("trust", value, problems) {
                    Some(table) => tables.trust = Some(read(table, span, "[trust]", problems)),
                    None => tables.note_broken("trust"),
                },
                "cell" => tables.cells = tables.read_list("cell", "[[cell]]", value, problems),
                "channel" => {
                    tables.channels = tables.read_list("channel", "[[channel]]", value, problems);
                }
                "policy_test" => {
                    let place = "[[policy_test]]";
                    tables.policy_tests = tables.read_list("policy_test", place, value, problems);
                }
                "program" => {
                    tables.programs = tables.read_list("program", "[[program]]", value, problems);
                }
                "slurm" => {
                    tables.clusters = tables.read_list("slurm", "[[slurm]]", value, problems);
                }
                "allow" => tables.read_rules(Effect::Allow, value, problems),
                "deny" => tables.read_rules(Effect::Deny, value, problems),
                _ => {
                    let meant = unknown_key(&key, &value, "at the top level", known, problems);
                    meant.into_iter().for_each(|section| tables.note_broken(section));
                }
            }
        }
        tables.rules.sort_by_key(|(_, rule)| rule.span.start);
        tables
    }

    fn read_rules(&mut self, effect: Effect, value: Spanned<DeValue<'_>>, problems: &mut Problems) {
        let (section, place) = match effect {
            Effect::Allow => ("allow", "[[allow]]"),
            Effect::Deny => ("deny", "[[deny]]"),
        };
        let rules = self.read_list(section, place, value, problems);
        self.rules.extend(rules.into_iter().map(|rule| (effect, rule)));
    }

    fn read_list<T>(
        &mut self,
        section: &str,
        place: &str,
        value: Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Vec<Table<T>>
    where
        T: Default + for<'de> Deserialize<'de>,
    {
        let (list, complete) = list_of_tables(section, value, problems);
        if !complete {
            self.note_broken(section);
        }
        list.into_iter().map(|(span, table)| read(table, span, place, problems)).collect()
    }

    pub(super) fn note_broken(&mut self, section: &str) {
        self.broken.insert(section.to_owned());
    }
}

/// The one table that a section is, or `None` where it is something else, which has then been reported.
pub(super) fn one_table<'i>(
    section: &str,
    value: Spanned<DeValue<'i>>,
    problems: &mut Problems,
) -> Option<DeTable<'i>> {
    let (span, found) = (value.span(), a(value.get_ref().type_str()));
    let DeValue::Table(table) = value.into_inner() else {
        let message = format!("`{section}` must be a table, not {found}");
        let problem = Problem::new(Code::WrongType, span, message, "not a table");
        problems.add(problem.help(format!("write it once, as `[{section}]`")));
        return None;
    };
    Some(table)
}

/// The tables of the list, and whether that is all that the list has.
pub(super) fn list_of_tables<'i>(
    section: &str,
    value: Spanned<DeValue<'i>>,
    problems: &mut Problems,
) -> (Vec<(Range<usize>, DeTable<'i>)>, bool) {
    let span = value.span();
    let DeValue::Array(array) = value.into_inner() else {
        let message = format!("`{section}` must be a list of tables");
        let problem = Problem::new(Code::WrongType, span, message, "not a list");
        problems.add(problem.help(format!("write `[[{section}]]`, once for each")));
        return (Vec::new(), false);
    };
    let mut complete = true;
    let mut tables = Vec::new();
    for item in array {
        let (span, found) = (item.span(), a(item.get_ref().type_str()));
        if let DeValue::Table(table) = item.into_inner() {
            tables.push((span, table));
            continue;
        }
        let message = format!("a `{section}` must be a table, not {found}");
        let problem = Problem::new(Code::WrongType, span, message, "not a table");
        problems.add(problem.help(format!("write `[[{section}]]`, once for each")));
        complete = false;
    }
    (tables, complete)
}

/// Reads one table. Unknown keys, secrets and values of a wrong type are reported and left out.
pub(super) fn read<T>(
    table: DeTable<'_>,
    span: Range<usize>,
    place: &str,
    problems: &mut Problems,
) -> Table<T>
where
    T: Default + for<'de> Deserialize<'de>,
{
    let known = keys_of::<T>();
    let mut broken = BTreeSet::new();
    let mut kept = DeTable::new();
    for (key, value) in table {
        if !known.contains(&key.get_ref().as_ref()) {
            let meant = unknown_key(&key, &value, &format!("in {place}"), known, problems);
            broken.extend(meant.map(str::to_owned));
        } else if secret::report_inside(&value, problems) {
            broken.insert(key.into_inner().into_owned());
        } else {
            kept.insert(key, value);
        }
    }
    loop {
        let input = Spanned::new(span.clone(), DeValue::Table(kept.clone()));
        let error = match T::deserialize(ValueDeserializer::from(input)) {
            Ok(raw) => return Table { span, raw, broken },
            Err(error) => error,
        };
        let at = error.span().unwrap_or_else(|| span.clone());
        let culprit = kept.iter().find(|(_, value)| holds(value, &at));
        let Some((key, value)) = culprit.map(|(key, value)| (key.clone(), value.clone())) else {
            let message = format!("{place} cannot be read: {}", error.message());
            problems.add(Problem::new(Code::WrongType, at, message, "here"));
            return Table { span, raw: T::default(), broken };
        };
        problems.add(match innermost(key.get_ref(), &value, &at) {
            Innermost::Value(key, value) => wrong_type(key, value, &error, at),
            Innermost::Key(key, table) => unknown_inside(key, table, &error, at),
        });
        kept.remove(key.get_ref().as_ref());
        broken.insert(key.into_inner().into_owned());
    }
}

/// Whether a place of the text is one of `value`. That of a table with a header of its own is its header alone.
fn holds(value: &Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    let is_in = |span: Range<usize>| span.start <= at.start && at.end <= span.end;
    is_in(value.span())
        || match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().any(|(key, value)| is_in(key.span()) || holds(value, at))
            }
            DeValue::Array(list) => list.iter().any(|value| holds(value, at)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => false,
        }
}

/// What an error within a value is about.
enum Innermost<'a, 'i> {
    /// A value, under this key.
    Value(&'a str, &'a Spanned<DeValue<'i>>),
    /// A key, of the table under that other one.
    Key(&'a str, &'a str),
}

/// What the place `at` within `value` is about: the value itself, or what stands in its tables.
fn innermost<'a, 'i>(
    key: &'a str,
    value: &'a Spanned<DeValue<'i>>,
    at: &Range<usize>,
) -> Innermost<'a, 'i> {
    let DeValue::Table(table) = value.get_ref() else { return Innermost::Value(key, value) };
    for (inner, below) in table.iter() {
        if holds(below, at) {
            return innermost(inner.get_ref(), below, at);
        }
        if inner.span().start <= at.start && at.end <= inner.span().end {
            return Innermost::Key(inner.get_ref(), key);
        }
    }
    Innermost::Value(key, value)
}

fn unknown_inside(key: &str, table: &str, error: &Error, at: Range<usize>) -> Problem {
    let message = format!("unknown key {} in `{table}`", quoted(key));
    let problem = Problem::new(Code::UnknownKey, at, message, "no such key here");
    let known = error.message().rsplit_once("expected one of ").map(|(_, known)| known);
    problem.help(match known {
        Some(known) => format!("keys in `{table}` are {known}"),
        None => "leave it out".to_owned(),
    })
}

fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, error: &Error, at: Range<usize>) -> Problem {
    let expected = error.message().rsplit_once("expected ").map(|(_, expected)| expected);
    let found = a(value.get_ref().type_str());
    let negative =
        value.get_ref().as_integer().is_some_and(|figure| figure.as_str().starts_with('-'));
    let (message, label) = match expected {
        Some("u64") if negative => {
            (format!("`{key}` must not be negative"), "a negative number".to_owned())
        }
        Some("u64") => {
            (format!("`{key}` must be a whole number, not {found}"), format!("this is {found}"))
        }
        Some("a sequence") => {
            (format!("`{key}` must be a list of strings, not {found}"), format!("this is {found}"))
        }
        Some(expected) if at == value.span() => {
            (format!("`{key}` must be {expected}, not {found}"), format!("this is {found}"))
        }
        Some(expected) => {
            (format!("`{key}` has an element that is not {expected}"), error.message().to_owned())
        }
        None => (format!("`{key}` cannot be read: {}", error.message()), "here".to_owned()),
    };
    Problem::new(Code::WrongType, at, message, label)
}

/// What people who know other systems write, and the key that is meant.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("role", "kind"),
    ("type", "kind"),
    ("address", "listen"),
    ("bind", "listen"),
    ("port", "listen"),
    ("source", "from"),
    ("destination", "to"),
    ("organisation", "org"),
    ("organization", "org"),
    ("uplink", "parent"),
    ("hostname", "hosts"),
];

/// Reports a key that does not exist here. Yields the key that was probably meant, so that it does
/// not count as absent.
pub(super) fn unknown_key(
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    place: &str,
    known: &'static [&'static str],
    problems: &mut Problems,
) -> Option<&'static str> {
    let word = key.get_ref().as_ref();
    if problems.is_full() {
        // What was meant is not worth looking for where it is not told.
        problems.add(Problem::new(Code::UnknownKey, key.span(), "", ""));
        return None;
    }
    let other_word = OTHER_WORDS.iter().find(|(other, _)| *other == word).map(|(_, key)| *key);
    let meant = other_word
        .filter(|meant| known.contains(meant))
        .or_else(|| nearest(word, known.iter().copied()));
    if meant.is_none() && secret::is_secret(word, value) {
        // The secret is the finding; a better key for it is not the way out.
        secret::report_under(key, value, problems);
        return None;
    }
    secret::report_inside(value, problems);
    let message = format!("unknown key {} {place}", quoted(word));
    let problem = Problem::new(Code::UnknownKey, key.span(), message, "no such key here");
    problems.add(problem.help(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("keys {place} are {}", listed(known.iter().copied())),
    }));
    meant
}

/// The word with its article.
fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}
