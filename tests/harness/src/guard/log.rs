//! What was logged, what was announced, and what is wrong with it.

use std::collections::{BTreeSet, VecDeque};

use tracing::Level;

use super::secrets::Secret;

#[derive(Debug)]
pub(super) struct Log {
    pub(super) expected: Vec<String>,
    pub(super) tolerated: Vec<String>,
    pub(super) expected_panics: Vec<String>,
    /// Every event of level WARN or ERROR.
    pub(super) alarms: Vec<String>,
    /// The last events to print, oldest first.
    pub(super) kept: VecDeque<String>,
    count: usize,
    level: Level,
    secrets: Vec<Secret>,
    /// Where which secret was seen, said without the secret.
    leaks: BTreeSet<String>,
}

impl Log {
    pub(super) fn new(count: usize, level: Level) -> Self {
        Self {
            expected: Vec::new(),
            tolerated: Vec::new(),
            expected_panics: Vec::new(),
            alarms: Vec::new(),
            kept: VecDeque::new(),
            count,
            level,
            secrets: Vec::new(),
            leaks: BTreeSet::new(),
        }
    }

    /// Whether anything is done with the text of an event of this level.
    pub(super) fn wants(&self, level: Level) -> bool {
        level <= self.level.max(Level::WARN) || !self.secrets.is_empty()
    }

    pub(super) fn forbid(&mut self, secret: Secret) {
        let past: Vec<&String> = self.kept.iter().chain(&self.alarms).collect();
        let leaked = past.into_iter().any(|text| secret.is_in(text));
        if leaked {
            self.leaks.insert(format!("{}, in an earlier event", secret.name()));
        }
        self.secrets.push(secret);
    }

    /// Takes the text of an event, or that of the fields of a span.
    pub(super) fn check(&mut self, place: &str, text: &str) {
        for secret in &self.secrets {
            if secret.is_in(text) {
                self.leaks.insert(format!("{}, in {place}", secret.name()));
            }
        }
    }

    /// Takes an event.
    pub(super) fn add(&mut self, level: Level, place: &str, text: String) {
        self.check(place, &text);
        if level <= Level::WARN {
            self.alarms.push(text.clone());
        }
        if level <= self.level && self.count > 0 {
            if self.kept.len() == self.count {
                self.kept.pop_front();
            }
            self.kept.push_back(text);
        }
    }

    /// What is wrong, each in a sentence.
    pub(super) fn complaints(&self, panics: &[String]) -> Vec<String> {
        let announced = |text: &&String| {
            let mut patterns = self.expected.iter().chain(&self.tolerated);
            patterns.any(|pattern| text.contains(pattern.as_str()))
        };
        let unannounced = self.alarms.iter().filter(|text| !announced(text));
        let panicked = panics.iter().filter(|text| {
            !self.expected_panics.iter().any(|pattern| text.contains(pattern.as_str()))
        });
        let leaks = self.leaks.iter().map(|leak| format!("a secret was logged: {leak}"));
        unannounced
            .map(|text| format!("nobody announced: {text}"))
            .chain(missing(&self.expected, &self.alarms, "event"))
            .chain(panicked.map(|text| format!("nobody announced a panic: {text}")))
            .chain(missing(&self.expected_panics, panics, "panic"))
            .chain(leaks)
            .collect()
    }
}

fn missing<'a>(
    patterns: &'a [String],
    found: &'a [String],
    what: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let came = |pattern: &str| found.iter().any(|text| text.contains(pattern));
    patterns
        .iter()
        .filter(move |pattern| !came(pattern))
        .map(move |pattern| format!("announced, and no such {what} came: {pattern}"))
}
