//! Tests that a file holds for its own rules, run whenever the file is read.

use toml::Spanned;

use super::{
    Topology,
    parse::Table,
    problem::{Code, Problem, Problems},
    raw::RawPolicyTest,
    rules::bad_address,
    wording::{nearest, quoted},
};
use crate::{
    admission::account,
    directory::Directory,
    name::{Channel, ChannelTopic, Fqcn, Topic},
    policy::Policy,
};

/// What a test of the rules expects, with the place where it says so.
pub(super) struct PolicyTest {
    from: Spanned<String>,
    to: Spanned<String>,
    target: ChannelTopic,
    expects_pass: Spanned<bool>,
}

impl PolicyTest {
    /// Reads one test. `None` where something of it is bad, which has then been reported.
    pub(super) fn read(table: Table<RawPolicyTest>, problems: &mut Problems) -> Option<Self> {
        let raw = &table.raw;
        let present = [
            ("from", raw.from.is_some()),
            ("to", raw.to.is_some()),
            ("channel", raw.channel.is_some()),
            ("topic", raw.topic.is_some()),
            ("expect", raw.expect.is_some()),
        ];
        for (key, is_present) in present {
            if !is_present && !table.is_broken(key) {
                let message = format!("a [[policy_test]] needs `{key}`");
                let label = format!("no `{key}` here");
                let help = "it says from whom, to whom, on which channel and topic, and whether \
                            the rules `allow` or `deny` that";
                problems.add(
                    Problem::new(Code::Missing, table.span.clone(), message, label).help(help),
                );
            }
        }
        let RawPolicyTest { from, to, channel, topic, expect } = table.raw;
        let channel = channel.as_ref().and_then(|written| {
            let parsed = written.get_ref().parse::<Channel>();
            parsed.map_err(|error| problems.add(bad_address("channel", written, &error))).ok()
        });
        let topic = topic.as_ref().and_then(|written| {
            let parsed = written.get_ref().parse::<Topic>();
            parsed.map_err(|error| problems.add(bad_address("topic", written, &error))).ok()
        });
        let expects_pass = expect.as_ref().and_then(|written| expected(written, problems));
        let target = ChannelTopic::new(channel?, topic?);
        Some(Self { from: from?, to: to?, target, expects_pass: expects_pass? })
    }
}

fn expected(written: &Spanned<String>, problems: &mut Problems) -> Option<Spanned<bool>> {
    let passes = match written.get_ref().as_str() {
        "allow" => true,
        "deny" => false,
        other => {
            let message = format!("{} is nothing that rules can say", quoted(other));
            let problem = Problem::new(Code::BadChoice, written.span(), message, "no such word");
            problems.add(problem.help("write `allow` or `deny`"));
            return None;
        }
    };
    Some(Spanned::new(written.span(), passes))
}

/// Runs the tests of a file.
pub(super) fn run(topology: &Topology, tests: &[PolicyTest], problems: &mut Problems) {
    if tests.is_empty() {
        return;
    }
    let (policy, directory) = (topology.policy(1), topology.directory());
    for test in tests {
        let from = cell(topology, &directory, &test.from, problems);
        let to = cell(topology, &directory, &test.to, problems);
        if let (Some(from), Some(to)) = (from, to) {
            check(&policy, &directory, (&from, &to), test, problems);
        }
    }
}

fn check(
    policy: &Policy,
    directory: &Directory,
    (from, to): (&Fqcn, &Fqcn),
    test: &PolicyTest,
    problems: &mut Problems,
) {
    let expects_pass = *test.expects_pass.get_ref();
    let account = account(policy, directory, from, to, &test.target);
    if account.outcome.is_ok() == expects_pass {
        return;
    }
    let said = if expects_pass { "refused" } else { "allowed" };
    let message = format!("{from} -> {to} {} is {said}", test.target);
    let why = match (account.permitting_rule(), account.denying_rule()) {
        (Some(rule), _) | (None, Some(rule)) => match (policy.rules().get(rule), policy.line(rule))
        {
            (Some(text), Some(line)) => format!("rule {} in line {line} decides: {text}", rule + 1),
            (Some(text), None) => format!("rule {} decides: {text}", rule + 1),
            (None, _) => "a fixed rule decides".to_owned(),
        },
        (None, None) => match (account.ruling, account.near.first()) {
            (_, Some(near)) => match policy.line(near.rule) {
                Some(line) => format!("no rule allows it; nearest is line {line}: {}", near.miss),
                None => format!("no rule allows it; rule {}: {}", near.rule + 1, near.miss),
            },
            (Some(ruling), None) => ruling.to_string(),
            (None, None) => "a fixed rule allows it".to_owned(),
        },
    };
    let span = test.expects_pass.span();
    problems.add(Problem::new(Code::TestFails, span, message, "expected otherwise").help(why));
}

/// The path of the cell that a test means by its base name, or by the path of a job cell.
fn cell(
    topology: &Topology,
    directory: &Directory,
    written: &Spanned<String>,
    problems: &mut Problems,
) -> Option<Fqcn> {
    let text = written.get_ref().as_str();
    if let Some(cell) = topology.cell(text) {
        return Some(cell.fqcn.clone());
    }
    let path = text.parse::<Fqcn>().ok().filter(|path| directory.kind_of(path).is_some());
    if path.is_none() {
        let message = format!("{} is not a cell of this file", quoted(text));
        let problem = Problem::new(Code::TestUnknownCell, written.span(), message, "no such cell");
        let names = topology.cells().iter().map(|cell| cell.name.as_str());
        problems.add(problem.help(match nearest(text, names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "write the base name of a cell, or the path of a job cell".to_owned(),
        }));
    }
    path
}
