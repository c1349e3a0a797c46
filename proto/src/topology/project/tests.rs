use super::*;
use crate::topology::problem::Severity;

const PROJECT: &str = "[project]\nname = \"study\"\n";
const SERVER: &str =
    "[[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:8002\"\n";
const ALICE: &str = "[[admin]]\nname = \"alice\"\nrole = \"project_admin\"\n";

fn relays() -> String {
    let relay = |level: usize| {
        let parent = if level == 1 { "server".to_owned() } else { format!("r{}", level - 1) };
        let port = 8100 + level;
        format!(
            "[[cell]]\nname = \"r{level}\"\nkind = \"relay\"\nparent = \"{parent}\"\nlisten = \"127.0.0.1:{port}\"\n"
        )
    };
    (1..=7).map(relay).collect()
}

fn expanded(case: &str) -> String {
    let expand = |line: &str| match line {
        "@project" => PROJECT.to_owned(),
        "@server" => SERVER.to_owned(),
        "@alice" => ALICE.to_owned(),
        "@relays" => relays(),
        line => format!("{line}\n"),
    };
    case.lines().map(expand).collect()
}

fn cases() -> Vec<(&'static str, String)> {
    let corpus = include_str!("tests/bad.cases");
    let cases = corpus.split("\n### ").skip(1);
    cases
        .map(|case| case.split_once('\n').unwrap_or((case, "")))
        .map(|(title, text)| (title, expanded(text)))
        .collect()
}

fn place(text: &str, at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("{line}:{column}")
}

#[test]
fn v_01_every_bad_project_file_says_all_that_is_wrong_with_it_where_it_stands() {
    let mut said = String::new();
    let cases = cases();
    for (title, text) in &cases {
        let problems = parse(text).expect_err(title);
        assert!(problems.iter().any(|problem| problem.severity() == Severity::Error), "{title}");
        said.push_str(&format!("### {title}\n"));
        for problem in &problems {
            let excerpt = text.get(problem.span.clone()).unwrap_or("").lines().next().unwrap_or("");
            let shown = if problem.code == Code::Secret { "(hidden)" } else { excerpt };
            said.push_str(&format!(
                "{} {} {} {problem}\n    here: {shown}\n",
                place(text, problem.span.start),
                problem.severity(),
                problem.code,
            ));
            if let Some(help) = &problem.help {
                said.push_str(&format!("    help: {help}\n"));
            }
        }
    }
    assert!(cases.len() >= 60, "{} cases", cases.len());
    insta::assert_snapshot!("bad_project_files", said);
}

#[test]
fn v_01_each_code_of_project_files_is_shown_by_one_that_is_bad() {
    let found: std::collections::BTreeSet<Code> = cases()
        .iter()
        .flat_map(|(_, text)| parse(text).expect_err("a bad file"))
        .map(|problem| problem.code)
        .collect();
    let of_other_systems = [Code::NoCounterpart, Code::NotTakenOver];
    for code in Code::ALL.iter().filter(|code| code.as_str() >= "CBT100") {
        assert!(found.contains(code) || of_other_systems.contains(code), "no file shows {code}");
    }
}

const GOOD: &str = r#"
[project]
name = "study"
org = "hq"
description = "lungs; \"$(reboot)\" `x`\nand more"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:8002"
[[cell]]
name = "site-1"
kind = "client"
parent = "server"
org = "st-mary"
[[admin]]
name = "alice"
role = "project_admin"
[[admin]]
name = "bob"
org = "st-mary"
role = "auditor"
[[study]]
name = "lung"
sites = ["site-1"]
admins = ["bob"]
[certificates]
leaf_days = 30
[[allow]]
from = "site-1"
to = "server"
channel = "task"
topics = ["fetch"]
"#;

#[test]
fn a_good_project_is_read_whole() {
    let ParsedProject { project, warnings } = parse(GOOD).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((project.org.as_str(), project.leaf_days), ("hq", 30));
    assert_eq!(project.authority_days, AUTHORITY_DAYS);
    let all: Vec<String> = project
        .participants()
        .map(|one| {
            let role = one.role.map_or("-", Role::as_str);
            format!("{}/{}/{}/{role}", one.kind, one.name, one.org)
        })
        .collect();
    assert_eq!(
        all,
        [
            "server/server/hq/-",
            "client/site-1/st-mary/-",
            "admin/alice/hq/project_admin",
            "admin/bob/st-mary/auditor"
        ]
    );
    assert_eq!(project.studies[0].sites[0].as_str(), "site-1");
    assert_eq!(project.admins[1].role, Role::Custom("auditor".parse().unwrap()));
}

#[test]
fn v_10_an_issuing_authority_counts_longer_than_what_it_issues_and_no_longer_than_its_own() {
    let with = |days: &str| parse(&GOOD.replace("leaf_days = 30\n", days));
    let days = |text: &str| with(text).unwrap().project.issuer_days;
    assert_eq!(days("leaf_days = 30\n"), None);
    assert_eq!(days("leaf_days = 30\nissuer_days = 60\n"), Some(60));
    for (text, code) in [
        ("leaf_days = 30\nissuer_days = 29\n", Code::LimitOrder),
        ("authority_days = 100\nissuer_days = 101\n", Code::LimitOrder),
        ("issuer_days = 0\n", Code::LimitRange),
        ("issuer_days = 721\n", Code::LimitRange),
    ] {
        let problems = with(text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.code == code), "{text}: {problems:?}");
    }
}

#[test]
fn v_17_hostile_texts_survive_as_they_are() {
    let project = parse(GOOD).unwrap().project;
    assert_eq!(project.description, "lungs; \"$(reboot)\" `x`\nand more");
}

#[test]
fn v_25_one_project_gives_one_topology_text_and_it_reads_as_the_same_topology() {
    let project = parse(GOOD).unwrap().project;
    assert_eq!(project.topology_text, parse(GOOD).unwrap().project.topology_text);
    let again = crate::topology::parse(&project.topology_text).unwrap();
    assert_eq!(again.warnings, []);
    assert_eq!(again.topology, project.topology);
    assert_eq!(project.topology.rules.len(), 1);
    for absent in ["alice", "lung", "leaf_days", "reboot"] {
        assert!(!project.topology_text.contains(absent), "{absent}");
    }
    // Spaces and comments are not part of the project.
    let spaced = GOOD.replace("kind = ", "# a remark\nkind   =   ");
    assert_eq!(parse(&spaced).unwrap().project, project);
}

#[test]
fn v_01_a_file_that_is_too_large_is_not_read() {
    let text = format!("{GOOD}#{}", "x".repeat(TEXT_MAX_BYTES));
    let problems = parse(&text).unwrap_err();
    assert_eq!((problems.len(), problems[0].code), (1, Code::TooLarge));
}
