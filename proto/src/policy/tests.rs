//! What rules decide, and that the index decides as the rules do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    identity::CellKind,
    name::{Fqcn, Segment},
};

fn topics(list: &[&str]) -> Topics {
    match list {
        ["*"] => Topics::Any,
        list => Topics::These(list.iter().map(|topic| topic.parse().unwrap()).collect()),
    }
}

fn rule(effect: Effect, from: &str, to: &str, channel: &str, list: &[&str]) -> Rule {
    Rule {
        effect,
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        channel: channel.parse().unwrap(),
        topics: topics(list),
        direction: None,
        seal: false,
    }
}

fn target(text: &str) -> ChannelTopic {
    text.parse().unwrap()
}

fn end(base: &str) -> End<'_> {
    End { base, kind: Some(CellKind::Client), org: None }
}

/// A question between two clients that nothing more is known of.
fn between<'a>(from: &'a str, to: &'a str, target: &'a ChannelTopic) -> Question<'a> {
    let to = End { kind: None, ..end(to) };
    Question { from: end(from), to, direction: Direction::Across, target }
}

#[test]
fn what_no_rule_is_about_is_not_allowed() {
    let policy = Policy::new(1, vec![rule(Effect::Allow, "site-*", "server", "task", &["fetch"])]);
    let ask = |from: &str, to: &str, what: &str| policy.decide(&between(from, to, &target(what)));
    assert_eq!(ask("site-1", "server", "task/fetch"), Decision::Allowed { rule: 0 });
    assert_eq!(ask("site-1", "server", "task/submit"), Decision::NoRule);
    assert_eq!(ask("site-1", "server", "tasks/fetch"), Decision::NoRule);
    assert_eq!(ask("site-1", "site-2", "task/fetch"), Decision::NoRule);
    assert_eq!(ask("site", "server", "task/fetch"), Decision::NoRule);
    assert_eq!(ask("a-site-1", "server", "task/fetch"), Decision::NoRule);
    let nothing = Policy::default();
    assert_eq!(nothing.decide(&between("a", "b", &target("task/fetch"))), Decision::NoRule);
}

#[test]
fn a_deny_rule_wins_wherever_it_stands() {
    let allow = rule(Effect::Allow, "*", "*", "task", &["fetch", "submit"]);
    let deny = rule(Effect::Deny, "site-2", "*", "task", &["submit"]);
    for (rules, denied) in
        [(vec![allow.clone(), deny.clone()], 1), (vec![deny.clone(), allow.clone()], 0)]
    {
        let policy = Policy::new(3, rules);
        let ask = |from: &str, what: &str| policy.decide(&between(from, "server", &target(what)));
        assert_eq!(ask("site-2", "task/submit"), Decision::DeniedBy { rule: denied });
        assert_eq!(ask("site-2", "task/fetch"), Decision::Allowed { rule: 1 - denied });
        assert_eq!(ask("site-1", "task/submit"), Decision::Allowed { rule: 1 - denied });
    }
}

#[test]
fn a_deny_rule_for_everything_beats_every_exact_allow_rule_and_the_other_way_round() {
    let exact = rule(Effect::Allow, "*", "*", "task", &["fetch"]);
    for deny in [("*", &["*"]), ("task", &["*"]), ("*", &["fetch"]), ("task", &["fetch"])] {
        let deny = rule(Effect::Deny, "*", "*", deny.0, deny.1);
        let policy = Policy::new(1, vec![exact.clone(), deny]);
        let said = policy.decide(&between("a", "b", &target("task/fetch")));
        assert_eq!(said, Decision::DeniedBy { rule: 1 });
    }
    let wide = rule(Effect::Allow, "*", "*", "*", &["*"]);
    let policy = Policy::new(1, vec![wide, rule(Effect::Deny, "*", "*", "task", &["fetch"])]);
    let ask = |what: &str| policy.decide(&between("a", "b", &target(what)));
    assert_eq!(ask("task/fetch"), Decision::DeniedBy { rule: 1 });
    assert_eq!(ask("task/submit"), Decision::Allowed { rule: 0 });
    assert_eq!(ask("other/fetch"), Decision::Allowed { rule: 0 });
}

#[test]
fn of_several_that_match_the_first_of_the_file_is_named_whatever_wildcards_it_has() {
    let shapes: [(&str, &[&str]); 4] =
        [("*", &["*"]), ("task", &["*"]), ("*", &["fetch"]), ("task", &["fetch"])];
    for start in 0..shapes.len() {
        let rules = (0..shapes.len()).map(|step| {
            let (channel, topics) = shapes[(start + step) % shapes.len()];
            rule(Effect::Allow, "*", "*", channel, topics)
        });
        let policy = Policy::new(1, rules.collect());
        let said = policy.decide(&between("a", "b", &target("task/fetch")));
        assert_eq!(said, Decision::Allowed { rule: 0 });
    }
}

#[test]
fn an_unknown_kind_and_an_unknown_organisation_equal_none() {
    let acme: Segment = "acme".parse().unwrap();
    let other: Segment = "other".parse().unwrap();
    let what = target("task/fetch");
    for (from, to, good) in [
        (
            "kind:server",
            "kind:client",
            (Some(CellKind::Server), Some(CellKind::Client), None, None),
        ),
        ("org:acme", "org:other", (None, None, Some(&acme), Some(&other))),
    ] {
        let policy = Policy::new(1, vec![rule(Effect::Allow, from, to, "task", &["fetch"])]);
        let ask = |from_kind, to_kind, from_org, to_org| {
            let from = End { base: "a", kind: from_kind, org: from_org };
            let to = End { base: "b", kind: to_kind, org: to_org };
            policy.decide(&Question { from, to, direction: Direction::Up, target: &what })
        };
        let (from_kind, to_kind, from_org, to_org) = good;
        let allowed = Decision::Allowed { rule: 0 };
        assert_eq!(ask(from_kind, to_kind, from_org, to_org), allowed);
        assert_eq!(ask(from_kind, None, from_org, None), Decision::NoRule);
        assert_eq!(ask(None, to_kind, None, to_org), Decision::NoRule);
        assert_eq!(ask(None, None, None, None), Decision::NoRule);
        assert_eq!(ask(to_kind, from_kind, to_org, from_org), Decision::NoRule);
    }
}

#[test]
fn a_name_a_kind_and_an_organisation_are_three_things() {
    let acme: Segment = "acme".parse().unwrap();
    let server = End { base: "root", kind: Some(CellKind::Server), org: Some(&acme) };
    let matches = |text: &str, end| text.parse::<Pattern>().unwrap().matches(end);
    assert!(matches("server", End { base: "server", ..end("") }) && !matches("server", server));
    assert!(matches("kind:server", server) && !matches("kind:server", end("server")));
    assert!(matches("org:acme", server) && !matches("org:acme", end("acme")));
    assert!(!matches("acme", server) && !matches("org:root", server));
}

#[test]
fn a_direction_is_that_of_the_tree_and_the_server_is_above_all() {
    let name = |text: &str| text.parse::<Fqcn>().unwrap();
    let root = name("hub");
    for (from, to, way) in [
        ("site-3", "hub", Direction::Up),
        ("relay.site-1", "hub", Direction::Up),
        ("relay.site-1", "relay", Direction::Up),
        ("hub.job-1", "hub", Direction::Up),
        ("hub", "relay.site-1.job-1", Direction::Down),
        ("relay", "relay.site-1", Direction::Down),
        ("relay.site-1", "relay.site-2", Direction::Across),
        ("relay.site-1", "relay-b", Direction::Across),
        ("relay", "relay2.site-1", Direction::Across),
        ("hub.job-1", "site-3", Direction::Across),
        ("hub", "hub", Direction::Across),
    ] {
        let (from, to) = (name(from), name(to));
        assert_eq!(Direction::of(&from, &to, Some(&root)), way, "{from} -> {to}");
    }
    assert_eq!(Direction::of(&name("site-3"), &name("hub"), None), Direction::Across);
}

#[test]
fn a_rule_of_one_direction_matches_no_other() {
    let up = Rule {
        direction: Some(Direction::Up),
        ..rule(Effect::Allow, "*", "*", "task", &["fetch"])
    };
    let policy = Policy::new(1, vec![up]);
    let what = target("task/fetch");
    for (direction, said) in [
        (Direction::Up, Decision::Allowed { rule: 0 }),
        (Direction::Down, Decision::NoRule),
        (Direction::Across, Decision::NoRule),
    ] {
        let question = Question { direction, ..between("a", "b", &what) };
        assert_eq!(policy.decide(&question), said, "{direction}");
    }
}

#[test]
fn what_must_be_sealed_stays_so_whatever_other_rules_say() {
    let sealed = Rule { seal: true, ..rule(Effect::Allow, "a", "b", "task", &["fetch"]) };
    let plain = rule(Effect::Allow, "*", "*", "*", &["*"]);
    let policy = Policy::new(1, vec![plain.clone(), sealed]).sealing(["train".parse().unwrap()]);
    for (what, wanted) in [
        ("task/fetch", true),
        ("task/submit", false),
        ("train/weights", true),
        ("other/fetch", false),
    ] {
        assert_eq!(policy.requires_seal(&target(what)), wanted, "{what}");
    }
    let all = Policy::new(1, vec![Rule { seal: true, ..plain }]);
    assert!(all.requires_seal(&target("any/thing")));
    let topic = Rule { seal: true, ..rule(Effect::Allow, "*", "*", "*", &["fetch"]) };
    let policy = Policy::new(1, vec![topic]);
    assert!(policy.requires_seal(&target("x/fetch")) && !policy.requires_seal(&target("x/y")));
    assert!(!Policy::default().requires_seal(&target("task/fetch")));
}

#[test]
fn what_is_no_pattern_is_refused() {
    for text in [
        "",
        "**",
        "*a",
        "a*b",
        "a**",
        "A*",
        "site 1",
        "kind:",
        "kind:*",
        "kind:Client",
        "kind:robot",
        "org:",
        "org:*",
        "org:acme*",
        "org:Acme",
        "org:a.b",
        "a.b",
        "a.*",
        "-*",
        "ｓite",
    ] {
        assert!(text.parse::<Pattern>().is_err(), "{text:?} passed");
    }
}

#[test]
fn a_rule_reads_as_a_sentence() {
    let two = rule(Effect::Allow, "site-*", "kind:server", "task", &["fetch", "submit"]);
    assert_eq!(two.to_string(), "allow site-* -> kind:server task/{fetch,submit}");
    let one = rule(Effect::Deny, "org:acme", "site-1", "ops", &["deploy"]);
    assert_eq!(one.to_string(), "deny org:acme -> site-1 ops/deploy");
    let wide = Rule {
        direction: Some(Direction::Down),
        seal: true,
        ..rule(Effect::Allow, "*", "*", "*", &["*"])
    };
    assert_eq!(wide.to_string(), "allow * -> * */* down sealed");
}

#[test]
fn a_rule_that_fails_by_one_condition_is_near_and_a_slip_comes_first() {
    let rules = vec![
        rule(Effect::Allow, "site-1", "server", "task", &["fetch"]),
        rule(Effect::Allow, "relay", "server", "task", &["submit"]),
        rule(Effect::Allow, "site-1", "relay", "task", &["submit"]),
        rule(Effect::Allow, "site-1", "server", "tasks", &["submit"]),
        rule(Effect::Allow, "site-1", "server", "task", &["submitt", "other"]),
        rule(Effect::Allow, "site-1", "relay", "tasks", &["submit"]),
        rule(Effect::Deny, "relay", "server", "task", &["submit"]),
        Rule {
            direction: Some(Direction::Down),
            ..rule(Effect::Allow, "site-1", "server", "task", &["submit"])
        },
    ];
    let policy = Policy::new(1, rules);
    let what = target("task/submit");
    let question = between("site-1", "server", &what);
    assert_eq!(policy.decide(&question), Decision::NoRule);
    let told = |near: &[Near]| -> Vec<(usize, &'static str, Option<String>)> {
        let row = |near: &Near| (near.rule, near.miss.key(), near.miss.meant().map(str::to_owned));
        near.iter().map(row).collect()
    };
    let near = policy.near(&question, 10);
    assert_eq!(
        told(&near),
        [
            (3, "channel", Some("tasks".to_owned())),
            (4, "topics", Some("submitt".to_owned())),
            (0, "topics", None),
            (1, "from", None),
            (2, "to", None),
            (7, "direction", None),
        ]
    );
    assert_eq!(near[1].miss.to_string(), "it is about other topics; did you mean `submitt`?");
    assert_eq!(policy.near(&question, 2), near[..2]);
}

#[test]
fn a_ruling_names_revision_and_rule_and_nothing_of_its_content() {
    for (ruling, text) in [
        (Ruling::Denied { revision: 2, rule: 2 }, "denied by rule 3 of revision 2"),
        (Ruling::NoRule { revision: 7 }, "no rule of revision 7 allows it"),
        (Ruling::Unsealed { revision: 1 }, "revision 1 wants it sealed"),
    ] {
        assert_eq!(ruling.to_string(), text);
    }
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let texts = ["*", "a", "b", "a*", "kind:client", "kind:server", "org:x", "org:y"];
    proptest::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn any_direction() -> impl Strategy<Value = Direction> {
    proptest::sample::select(&[Direction::Up, Direction::Down, Direction::Across])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
    let topics = prop_oneof![
        1 => Just(Topics::Any),
        3 => proptest::collection::vec(proptest::sample::select(&["t", "u"]), 0..3)
            .prop_map(|list| topics(&list)),
    ];
    let channel = proptest::sample::select(&["c", "d", "*"]);
    let direction = proptest::option::of(any_direction());
    (effect, any_pattern(), any_pattern(), channel, topics, direction, any::<bool>()).prop_map(
        |(effect, from, to, channel, topics, direction, seal)| Rule {
            effect,
            from,
            to,
            channel: channel.parse().unwrap(),
            topics,
            direction,
            seal,
        },
    )
}

type Side = (&'static str, Option<CellKind>, Option<&'static str>);

fn any_side() -> impl Strategy<Value = Side> {
    (
        proptest::sample::select(&["a", "ab", "b", "c"]),
        proptest::option::of(proptest::sample::select(&CellKind::ALL)),
        proptest::option::of(proptest::sample::select(&["x", "y", "z"])),
    )
}

/// What a person would do with the rules on paper.
fn walk(rules: &[Rule], question: &Question<'_>, effect: Effect) -> Option<usize> {
    let sides = [question.from, question.to];
    rules.iter().position(|rule| {
        let cells =
            [&rule.from, &rule.to].into_iter().zip(sides).all(|(pattern, end)| match pattern {
                Pattern::Any => true,
                Pattern::Name(name) => name.as_str() == end.base,
                Pattern::Prefix(prefix) => end.base.starts_with(prefix),
                Pattern::Kind(kind) => end.kind.is_some_and(|known| known == *kind),
                Pattern::Org(org) => end.org.is_some_and(|known| known == org),
            });
        let channel = match &rule.channel {
            Channels::Any => true,
            Channels::One(channel) => channel == question.target.channel(),
        };
        let topic = match &rule.topics {
            Topics::Any => true,
            Topics::These(topics) => topics.iter().any(|topic| topic == question.target.topic()),
        };
        let way = rule.direction.is_none() || rule.direction == Some(question.direction);
        rule.effect == effect && cells && channel && topic && way
    })
}

proptest! {
    #[test]
    fn the_index_decides_as_a_walk_over_all_rules_would(
        rules in proptest::collection::vec(any_rule(), 0..10),
        from in any_side(),
        to in any_side(),
        direction in any_direction(),
        what in proptest::sample::select(&["c/t", "c/u", "d/t", "e/t", "e/v"]),
        sealed in proptest::option::of(proptest::sample::select(&["c", "e"])),
    ) {
        let target = target(what);
        let orgs: BTreeMap<&str, Segment> =
            ["x", "y", "z"].map(|org| (org, org.parse().unwrap())).into();
        let end = |(base, kind, org): Side| End { base, kind, org: org.map(|org| &orgs[org]) };
        let question = Question { from: end(from), to: end(to), direction, target: &target };
        let expected = match (walk(&rules, &question, Effect::Deny), walk(&rules, &question, Effect::Allow)) {
            (Some(rule), _) => Decision::DeniedBy { rule },
            (None, Some(rule)) => Decision::Allowed { rule },
            (None, None) => Decision::NoRule,
        };
        let sealed: Option<Channel> = sealed.map(|channel| channel.parse().unwrap());
        let policy = Policy::new(1, rules.clone()).sealing(sealed.clone());
        prop_assert_eq!(policy.decide(&question), expected);
        let wants_seal = sealed.as_ref() == Some(target.channel())
            || rules.iter().any(|rule| rule.seal && rule.is_about(&target));
        prop_assert_eq!(policy.requires_seal(&target), wants_seal);
        // What is near fails by one condition: with that one taken out, it is about the message.
        for near in policy.near(&question, 3) {
            let mut freed = rules[near.rule].clone();
            prop_assert!(!(freed.is_about(&target) && freed.is_between(&question)));
            match near.miss {
                Miss::From => freed.from = Pattern::Any,
                Miss::To => freed.to = Pattern::Any,
                Miss::Channel { .. } => freed.channel = Channels::Any,
                Miss::Topic { .. } => freed.topics = Topics::Any,
                Miss::Direction { .. } => freed.direction = None,
            }
            prop_assert!(freed.is_about(&target) && freed.is_between(&question));
        }
    }

    #[test]
    fn a_pattern_survives_its_text(pattern in any_pattern()) {
        prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
    }
}
