//! Message rules in files: what they may say, and what is odd about them together.

use super::*;
use crate::policy::Direction;

/// A server and two sites, of which the second has a relay above it and is run by somebody else.
const CELLS: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "site-1"
kind = "client"
parent = "server"
[[cell]]
name = "relay"
kind = "relay"
parent = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "site-2"
kind = "client"
parent = "relay"
org = "acme"
"#;

fn rule(effect: &str, from: &str, to: &str, what: &str, more: &str) -> String {
    let (channel, topics) = what.split_once('/').unwrap();
    let topics = topics.split(',').collect::<Vec<_>>().join("\", \"");
    format!(
        "[[{effect}]]\nfrom = \"{from}\"\nto = \"{to}\"\nchannel = \"{channel}\"\ntopics = [\"{topics}\"]\n{more}"
    )
}

fn with(rules: &[String]) -> String {
    format!("{CELLS}{}", rules.concat())
}

#[test]
fn every_kind_of_rule_is_read_and_keeps_its_line() {
    let text = with(&[
        rule("allow", "org:acme", "kind:server", "task/fetch,submit", "direction = \"up\"\n"),
        rule("deny", "site-*", "*", "*/wipe", ""),
        rule("allow", "site-1", "relay", "train/*", "seal = \"required\"\ndirection = \"any\"\n"),
        "[[channel]]\nname = \"notes\"\nseal = \"required\"\n".to_owned(),
    ]);
    let Parsed { topology, warnings } = parsed(&text);
    assert_eq!(warnings, []);
    let said: Vec<String> = topology.rules.iter().map(Rule::to_string).collect();
    assert_eq!(
        said,
        [
            "allow org:acme -> kind:server task/{fetch,submit} up",
            "deny site-* -> * */wipe",
            "allow site-1 -> relay train/* sealed",
        ]
    );
    assert_eq!(topology.rules[0].direction, Some(Direction::Up));
    let policy = topology.policy(9);
    for index in 0..3 {
        let line = usize::try_from(policy.line(index).unwrap()).unwrap();
        let header = text.lines().nth(line - 1).unwrap();
        assert_eq!(header, if index == 1 { "[[deny]]" } else { "[[allow]]" });
    }
    assert_eq!(policy.line(3), None);
    for (target, sealed) in
        [("train/x", true), ("notes/x", true), ("task/fetch", false), ("cell/ping", false)]
    {
        assert_eq!(policy.requires_seal(&target.parse().unwrap()), sealed, "{target}");
    }
}

#[test]
fn the_directory_knows_who_runs_what() {
    let topology = parsed(CELLS).topology;
    let directory = topology.directory();
    let org = |name: &str| directory.org_of(&name.parse().unwrap()).map(|org| org.to_string());
    assert_eq!(org("relay.site-2").as_deref(), Some("acme"));
    assert_eq!(org("relay.site-2.job-1").as_deref(), Some("acme"));
    assert_eq!(org("site-1").as_deref(), Some("study"), "the project runs what nobody claims");
    assert_eq!(org("site-2"), None, "there is no such path");
    assert_eq!(directory.root().map(Fqcn::as_str), Some("server"));
}

#[test]
fn rules_that_are_odd_together_are_warned_about_once() {
    let wide = rule("allow", "*", "*", "task/*", "");
    let never = Code::WayNeverTaken;
    for (code, rules) in [
        // Denied as a whole: by one rule, by name under a kind, and by several rules together.
        (
            Code::ShadowedRule,
            vec![
                rule("allow", "site-1", "server", "task/fetch", ""),
                rule("deny", "site-*", "*", "task/*", ""),
            ],
        ),
        (
            Code::ShadowedRule,
            vec![
                rule("deny", "kind:client", "kind:server", "*/*", ""),
                rule("allow", "site-1", "server", "task/fetch,submit", "direction = \"up\"\n"),
            ],
        ),
        (
            Code::ShadowedRule,
            vec![
                rule("deny", "site-*", "*", "task/fetch", ""),
                rule("allow", "site-1", "server", "task/fetch,submit", ""),
                rule("deny", "org:study", "server", "task/submit", ""),
            ],
        ),
        (
            Code::Contradiction,
            vec![
                rule("allow", "site-1", "server", "task/fetch", ""),
                rule("deny", "site-1", "server", "task/fetch", ""),
            ],
        ),
        (
            Code::SuperfluousRule,
            vec![
                rule("allow", "site-1", "server", "task/fetch", ""),
                rule("allow", "site-*", "server", "task/fetch,submit", ""),
            ],
        ),
        (Code::SuperfluousRule, vec![wide.clone(), wide.clone()]),
        (
            Code::SuperfluousRule,
            vec![
                rule("deny", "relay", "*", "*/*", ""),
                rule("deny", "relay", "server", "task/fetch", "direction = \"up\"\n"),
            ],
        ),
        (never, vec![rule("allow", "server", "*", "task/fetch", "direction = \"up\"\n")]),
        (never, vec![rule("allow", "site-*", "server", "task/x", "direction = \"across\"\n")]),
        (never, vec![rule("deny", "site-1", "site-2", "task/x", "direction = \"down\"\n")]),
        (Code::JobsDoNotAsk, vec![rule("allow", "kind:job", "server", "task/fetch", "")]),
        (Code::PatternMatchesNothing, vec![rule("allow", "org:acne", "server", "task/x", "")]),
    ] {
        let text = with(&rules);
        let problem = only(&text, code);
        assert_eq!(problem.severity(), Severity::Warning);
        assert!(problem.help.is_some() && text.get(problem.span.clone()).is_some());
    }
}

#[test]
fn rules_that_only_overlap_are_not_odd() {
    let rules = [
        // Narrower denials of something wider.
        rule("allow", "*", "*", "task/*", ""),
        rule("deny", "site-1", "server", "task/fetch", ""),
        rule("deny", "org:acme", "*", "task/fetch", ""),
        // Denied in one direction, for one topic, on one of its channels.
        rule("allow", "relay", "*", "notes/a,b", ""),
        rule("deny", "relay", "*", "notes/a", ""),
        rule("deny", "relay", "*", "notes/b", "direction = \"up\"\n"),
        // Jobs of an organisation are no clients.
        rule("allow", "server", "org:acme", "run/now", ""),
        rule("deny", "server", "kind:client", "run/now", ""),
        // It says that it must be sealed, which the wider one does not.
        rule("allow", "site-1", "server", "task/secret", "seal = \"required\"\n"),
        rule("allow", "*", "kind:job", "x/y", "direction = \"up\"\n"),
    ];
    assert_eq!(parsed(&with(&rules)).warnings, []);
}

#[test]
fn a_flood_of_rules_is_compared_in_bounded_time() {
    let mut text = CELLS.to_owned();
    for index in 0..9_000 {
        text += &rule("allow", "site-*", "server", &format!("c/t{index}"), "");
    }
    assert_eq!(parsed(&text).topology.rules.len(), 9_000);
}

#[test]
fn a_test_of_the_rules_says_which_rule_decides_and_which_is_nearest() {
    let test = |topic: &str, expect: &str| {
        format!(
            "[[policy_test]]\nfrom = \"site-1\"\nto = \"server\"\nchannel = \"task\"\ntopic = \"{topic}\"\nexpect = \"{expect}\"\n"
        )
    };
    let rules = with(&[
        rule("allow", "site-*", "server", "task/fetch,submit", ""),
        rule("deny", "site-1", "*", "task/submit", ""),
    ]);
    let good = format!("{rules}{}{}", test("fetch", "allow"), test("submit", "deny"));
    assert_eq!(parsed(&good).topology.tests, 2);
    for (topic, expect, help) in [
        ("fetch", "deny", "rule 1 in line 22 decides: allow site-* -> server task/{fetch,submit}"),
        ("submit", "allow", "rule 2 in line 27 decides: deny site-1 -> * task/submit"),
        (
            "fetsh",
            "allow",
            "no rule allows it; nearest is line 22: it is about other topics; did you mean `fetch`?",
        ),
    ] {
        let text = format!("{rules}{}", test(topic, expect));
        let problem = only(&text, Code::TestFails);
        assert_eq!(problem.help.as_deref(), Some(help));
        assert_eq!(&text[problem.span], format!("\"{expect}\""));
    }
}

#[test]
fn only_changes_of_rules_are_live_and_a_moved_rule_is_no_change() {
    let base = with(&[rule("allow", "site-1", "server", "task/fetch", "")]);
    let moved = base.replace("[[allow]]", "\n\n[[allow]]");
    let other = format!("{base}[[channel]]\nname = \"task\"\nseal = \"required\"\n")
        .replace("\"fetch\"", "\"submit\"")
        .replace("org = \"acme\"", "org = \"other\"");
    let [base, moved, other] = [base, moved, other].map(|text| parsed(&text).topology);
    assert_eq!(diff(&base, &moved), []);
    assert!(!base.has_rules_of(&moved) && base.has_rules_of(&base));
    let changes = diff(&base, &other);
    let told = |live: bool| -> Vec<String> {
        let these = changes.iter().filter(|change| change.is_live() == live);
        these.map(Change::to_string).collect()
    };
    assert_eq!(told(false), ["site-2: org acme -> other"]);
    assert_eq!(
        told(true),
        [
            "rule removed: allow site-1 -> server task/fetch",
            "rule added: allow site-1 -> server task/submit",
            "channel task: sealed",
        ]
    );
    let mixed = base.with_rules_of(&other);
    assert!(mixed.has_rules_of(&other));
    assert_eq!(diff(&base, &mixed).len(), 3);
    assert_eq!(mixed.cell("site-2").unwrap().org.as_str(), "acme");
}
