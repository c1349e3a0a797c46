//! Files that are right, files that are wrong, and texts that are neither.

use proptest::prelude::*;

use super::*;

mod generated;
mod rules;

const SERVER: &str = "[project]\nname = \"study\"\n[[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:0\"\n";

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Code and line of every problem and warning of a text.
fn findings(text: &str) -> Vec<(usize, &'static str)> {
    let problems = match parse(text) {
        Ok(parsed) => parsed.warnings,
        Err(problems) => problems,
    };
    let mut found: Vec<_> = problems
        .iter()
        .map(|problem| (line_of(text, problem.span.start), problem.code.as_str()))
        .collect();
    found.sort_unstable();
    found
}

fn parsed(text: &str) -> Parsed {
    parse(text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn only(text: &str, code: Code) -> Problem {
    let problems = match parse(text) {
        Ok(parsed) => parsed.warnings,
        Err(problems) => problems,
    };
    let [problem] = problems.as_slice() else { panic!("not one problem: {problems:#?}") };
    assert_eq!(problem.code, code, "{problem:#?}");
    problem.clone()
}

#[test]
fn v_01_each_bad_file_has_its_problems_on_their_lines_and_no_others() {
    let corpus = include_str!("tests/bad.cases");
    let mut count = 0;
    let mut covered = BTreeSet::new();
    for case in corpus.split("\n### ").skip(1) {
        let (title, text) = case.split_once('\n').unwrap();
        let mut expected = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if let Some((_, codes)) = line.split_once("#! ") {
                expected.extend(codes.split(' ').map(|code| (index + 1, code.to_owned())));
            }
        }
        expected.sort_unstable();
        assert!(!expected.is_empty(), "{title}: expects nothing");
        let found: Vec<_> =
            findings(text).into_iter().map(|(line, code)| (line, code.to_owned())).collect();
        assert_eq!(found, expected, "{title}: {:#?}", parse(text));
        let errors = parse(text).expect_err("a bad file is refused");
        assert!(errors.iter().any(|problem| problem.severity() == Severity::Error), "{title}");
        covered.extend(errors.iter().map(|problem| problem.code));
        count += 1;
    }
    assert!(count >= 45, "{count} cases");
    let elsewhere = [Code::TooLarge, Code::TooManyCells, Code::TooDeep, Code::More];
    let of_files = [Code::NotFound, Code::Unreadable, Code::NotUtf8, Code::NotAFile];
    for code in Code::ALL.iter().filter(|code| code.severity() == Severity::Error) {
        let of_projects = code.as_str() >= "CBT100";
        let known = covered.contains(code) || elsewhere.contains(code) || of_files.contains(code);
        let known = known || of_projects;
        assert!(known, "no bad file shows {code}");
    }
}

#[test]
fn every_problem_says_what_to_do() {
    for case in include_str!("tests/bad.cases").split("\n### ").skip(1) {
        for problem in parse(case.split_once('\n').unwrap().1).expect_err("a bad file") {
            assert!(!problem.message.is_empty());
            let has_help = problem.help.as_ref().is_some_and(|help| !help.is_empty());
            let says_itself = matches!(problem.code, Code::Syntax | Code::WrongType);
            assert!(has_help || says_itself, "{problem:#?}");
        }
    }
}

#[test]
fn a_slip_is_answered_with_what_was_meant() {
    for (bad, code, help) in [
        (
            "[[cell]]\nname = \"a\"\nkind = \"client\"\nparent = \"sever\"\n",
            Code::UnknownParent,
            "did you mean `server`?",
        ),
        (
            "[[cell]]\nname = \"a\"\nkind = \"cleint\"\nparent = \"server\"\n",
            Code::BadKind,
            "did you mean `client`?",
        ),
        (
            "[limits]\nbeat_intervall_ms = 1000\n",
            Code::UnknownKey,
            "did you mean `beat_interval_ms`?",
        ),
        ("[limits]\ntoken_tll_s = 900\n", Code::UnknownKey, "did you mean `token_ttl_s`?"),
        ("[[alow]]\n", Code::UnknownKey, "did you mean `allow`?"),
        (
            "[[cell]]\nname = \"Site-1\"\nkind = \"client\"\nparent = \"server\"\n",
            Code::BadName,
            "write `site-1`: names are lower case",
        ),
        (
            "[[cell]]\nname = \"server.site\"\nkind = \"client\"\nparent = \"server\"\n",
            Code::BadName,
            "a name is one level: write name = \"site\" and parent = \"server\"",
        ),
        (
            "[[deny]]\nfrom = \"servr\"\nto = \"*\"\nchannel = \"c\"\ntopics = [\"t\"]\n",
            Code::DenyUnknownCell,
            "did you mean `server`?",
        ),
    ] {
        let problem = only(&format!("{SERVER}{bad}"), code);
        assert_eq!(problem.help.as_deref(), Some(help), "{bad}");
    }
}

#[test]
fn a_misspelt_key_is_one_problem_and_not_also_an_absent_one() {
    for (good, bad) in [
        ("listen =", "lisen ="),
        ("kind =", "role ="),
        ("[project]", "[projet]"),
        ("[[cell]]", "[[cells]]"),
        ("name = \"server\"", "nam = \"server\""),
        ("name = \"study\"", "nane = \"study\""),
    ] {
        assert!(SERVER.contains(good));
        only(&SERVER.replace(good, bad), Code::UnknownKey);
    }
}

#[test]
fn a_span_covers_the_value_it_is_about() {
    let text = format!("{SERVER}[[cell]]\nname = \"a\"\nkind = \"client\"\nparent = \"sever\"\n");
    let problem = only(&text, Code::UnknownParent);
    assert_eq!(&text[problem.span], "\"sever\"");
    let text = format!("{SERVER}lisen = 1\n");
    assert_eq!(&text[only(&text, Code::UnknownKey).span], "lisen");
}

#[test]
fn paths_follow_from_parents_in_any_order_of_the_file() {
    let text = r#"
        [project]
        name = "study"
        [[cell]]
        name = "site-2"
        kind = "client"
        parent = "relay-b"
        org = "st-mary"
        [[cell]]
        name = "relay-b"
        kind = "relay"
        parent = "relay-a"
        listen = "127.0.0.1:0"
        [[cell]]
        name = "relay-a"
        kind = "relay"
        parent = "hub"
        listen = "127.0.0.1:0"
        [[cell]]
        name = "hub"
        kind = "server"
        listen = "127.0.0.1:0"
        [[cell]]
        name = "site-3"
        kind = "client"
        parent = "hub"
    "#;
    let Parsed { topology, warnings } = parsed(text);
    assert_eq!(warnings, []);
    let path = |name: &str| topology.cell(name).unwrap().fqcn.as_str().to_owned();
    assert_eq!(path("hub"), "hub");
    assert_eq!(path("site-3"), "site-3");
    assert_eq!(path("relay-a"), "relay-a");
    assert_eq!(path("relay-b"), "relay-a.relay-b");
    assert_eq!(path("site-2"), "relay-a.relay-b.site-2");
    assert_eq!(topology.server().name.as_str(), "hub");
    let below: Vec<_> = topology.children_of("hub").map(|cell| cell.name.as_str()).collect();
    assert_eq!(below, ["relay-a", "site-3"]);
    let orgs = ["site-2", "site-3"].map(|name| topology.cell(name).unwrap().org.as_str());
    assert_eq!(orgs, ["st-mary", "study"]);

    let fqcn = |text: &str| text.parse::<Fqcn>().unwrap();
    assert!(topology.is_child_of(&fqcn("relay-a.relay-b"), "site-2"));
    assert!(topology.is_child_of(&fqcn("hub"), "site-3"));
    for (parent, child) in [
        ("relay-b", "site-2"),
        ("relay-a", "site-2"),
        ("hub", "site-2"),
        ("hub", "hub"),
        ("hub", "site-9"),
        ("site-3", "hub"),
        ("relay-a.relay-b.site-2", "site-2"),
    ] {
        assert!(!topology.is_child_of(&fqcn(parent), child), "{child} below {parent}");
    }
}

#[test]
fn a_file_for_many_machines_is_good_as_it_stands() {
    let text = r#"
        [project]
        name = "hospital-study"
        [[cell]]
        name   = "server"
        kind   = "server"
        listen = "0.0.0.0:8002"
        hosts  = ["server.example.org"]
        [[cell]]
        name   = "relay-eu"
        kind   = "relay"
        parent = "server"
        listen = "0.0.0.0:8002"
        hosts  = ["relay.example.eu", "192.0.2.7"]
        [[cell]]
        name   = "relay-us"
        kind   = "relay"
        parent = "server"
        listen = "[::]:8002"
        dial   = "relay.example.us:443"
        hosts  = ["relay.example.us"]
        [[cell]]
        name   = "site-1"
        kind   = "client"
        parent = "relay-eu"
        [[allow]]
        from    = "site-*"
        to      = "server"
        channel = "task"
        topics  = ["fetch", "submit"]
    "#;
    let Parsed { topology, warnings } = parsed(text);
    assert_eq!(warnings, []);
    let dialled = |name: &str| topology.cell(name).unwrap().dial_target();
    assert_eq!(dialled("server").as_deref(), Some("server.example.org:8002"));
    assert_eq!(dialled("relay-eu").as_deref(), Some("relay.example.eu:8002"));
    assert_eq!(dialled("relay-us").as_deref(), Some("relay.example.us:443"));
    assert_eq!(dialled("site-1"), None);
    assert_eq!(topology.rules[0].to_string(), "allow site-* -> server task/{fetch,submit}");
    assert_eq!(topology.policy(4).revision, 4);
}

#[test]
fn a_bare_kind_is_that_kind_unless_a_cell_bears_the_name() {
    let rule = "[[allow]]\nfrom = \"server\"\nto = \"admin\"\nchannel = \"c\"\ntopics = [\"t\"]\n";
    let named = parsed(&format!("{SERVER}{rule}")).topology;
    assert_eq!(named.rules[0].to_string(), "allow server -> kind:admin c/t");
    let other = SERVER.replace("\"server\"\nkind", "\"hub\"\nkind");
    let other = parsed(&format!("{other}{rule}")).topology;
    assert_eq!(other.rules[0].to_string(), "allow kind:server -> kind:admin c/t");
}

#[test]
fn rules_keep_the_order_of_the_file_across_allow_and_deny() {
    let rule = |effect: &str, topic: &str| {
        format!("[[{effect}]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"c\"\ntopics = [\"{topic}\"]\n")
    };
    let text = [
        SERVER.to_owned(),
        rule("deny", "t1"),
        rule("allow", "t2"),
        rule("deny", "t3"),
        rule("allow", "t4"),
    ]
    .concat();
    let rules = parsed(&text).topology.rules;
    let topics: Vec<_> = rules.iter().map(|rule| rule.topics.to_string()).collect();
    assert_eq!(topics, ["t1", "t2", "t3", "t4"]);
}

#[test]
fn oddities_are_warnings_and_the_file_is_used() {
    let cell = |name: &str, more: &str| {
        format!("[[cell]]\nname = \"{name}\"\nkind = \"client\"\nparent = \"server\"\n{more}")
    };
    let rule = |from: &str, topics: &str| {
        format!("[[allow]]\nfrom = \"{from}\"\nto = \"*\"\nchannel = \"c\"\ntopics = {topics}\n")
    };
    for (code, text) in [
        (Code::LookAlike, format!("{SERVER}{}{}", cell("site-1", ""), cell("site-l", ""))),
        (Code::LookAlike, format!("{SERVER}{}{}", cell("site-a", ""), cell("site_a", ""))),
        (Code::PrivilegedPort, SERVER.replace(":0", ":443")),
        (Code::NotDialable, SERVER.replace("127.0.0.1:0", "0.0.0.0:8002")),
        (Code::NotDialable, SERVER.replace("127.0.0.1:0", "192.0.2.7:0")),
        (Code::AllowUnknownCell, format!("{SERVER}{}", rule("site-1", "[\"t\"]"))),
        (Code::PatternMatchesNothing, format!("{SERVER}{}", rule("site-*", "[\"t\"]"))),
        (Code::PatternMatchesNothing, format!("{SERVER}{}", rule("kind:relay", "[\"t\"]"))),
        (Code::RepeatedTopic, format!("{SERVER}{}", rule("*", "[\"t\", \"t\"]"))),
    ] {
        assert_eq!(only(&text, code).severity(), Severity::Warning);
        assert!(parse(&text).is_ok(), "{text}");
    }
    let quiet = rule("kind:admin", "[\"t\"]");
    assert_eq!(parsed(&format!("{SERVER}{quiet}")).warnings, []);
}

/// A server, and `levels` relays below each other, and a client below those.
fn chain(levels: usize, name: impl Fn(usize) -> String) -> String {
    let mut text = SERVER.to_owned();
    let mut parent = "server".to_owned();
    for level in 0..levels {
        let (name, above) = (name(level), std::mem::replace(&mut parent, name(level)));
        text += &format!(
            "[[cell]]\nname = \"{name}\"\nkind = \"relay\"\nparent = \"{above}\"\nlisten = \"127.0.0.1:0\"\n"
        );
    }
    text + &format!("[[cell]]\nname = \"leaf\"\nkind = \"client\"\nparent = \"{parent}\"\n")
}

#[test]
fn a_path_has_at_most_eight_levels_and_255_bytes() {
    let short = |level: usize| format!("r-{}", char::from(b'a' + u8::try_from(level).unwrap()));
    assert_eq!(parsed(&chain(6, short)).warnings, []);
    only(&chain(7, short), Code::NoRoomForJobs);
    let deep = only(&chain(8, short), Code::TooDeep);
    assert!(deep.message.contains("`leaf`"), "{deep:#?}");
    let deeper = only(&chain(12, short), Code::TooDeep);
    assert!(deeper.message.contains("`r-i`"), "{deeper:#?}");
    let long = |level: usize| format!("{level}{}", "x".repeat(62));
    assert_eq!(parsed(&chain(3, long)).warnings, []);
    only(&chain(4, long), Code::TooDeep);
}

#[test]
fn what_is_too_much_is_refused_before_it_costs_anything() {
    let large = format!("{SERVER}#{}", "x".repeat(TEXT_MAX_BYTES));
    assert_eq!(only(&large, Code::TooLarge).span, 0..0);
    let full = format!("{SERVER}#{}", "x".repeat(TEXT_MAX_BYTES - SERVER.len() - 1));
    assert!(parse(&full).is_ok());

    let many = format!("{SERVER}{}", "[[cell]]\n".repeat(CELLS_MAX));
    let problem = only(&many, Code::TooManyCells);
    assert_eq!(line_of(&many, problem.span.start), 6 + CELLS_MAX);
}

#[test]
fn a_flood_of_mistakes_is_reported_in_part_and_in_bounded_time() {
    let mut text = SERVER.to_owned();
    for index in 0..9_000 {
        text += &format!("[[cell]]\nname=\"c{index}\"\nkind=\"client\"\nparent=\"s{index}\"\n");
    }
    let problems = parse(&text).unwrap_err();
    let last = problems.last().unwrap();
    assert_eq!((last.code, last.message.as_str()), (Code::More, "8900 more errors are not shown"));
    let circle: String = (0..5_000)
        .map(|index| {
            let above = (index + 1) % 5_000;
            format!("[[cell]]\nname=\"c{index}x\"\nkind=\"relay\"\nparent=\"c{above}x\"\nlisten=\"127.0.0.1:0\"\n")
        })
        .collect();
    let problem = only(&format!("{SERVER}{circle}"), Code::Cycle);
    assert!(problem.message.len() < 200, "{problem:#?}");
    assert!(parse(&"= ".repeat(400_000)).is_err());
    assert!(parse(&"[".repeat(400_000)).is_err());
    assert!(parse(&format!("a{} = 1", ".a".repeat(400_000))).is_err());
    assert!(parse(&format!("a = {}", "[".repeat(400_000))).is_err());
    assert!(parse(&format!("{} = 1", "k".repeat(900_000))).is_err());
}

#[test]
fn a_secret_is_in_no_message() {
    let pem = "-----BEGIN PRIVATE KEY-----\\nMIIabc\\n-----END PRIVATE KEY-----";
    for line in [
        format!("name = \"{pem}\""),
        format!("kind = \"{pem}\""),
        format!("hosts = [\"{pem}\"]"),
        format!("anything = \"{pem}\""),
        format!("'{pem}' = 1"),
        "password = \"MIIabc\"".to_owned(),
        "passwd = [\"MIIabc\"]".to_owned(),
    ] {
        let text = format!("[project]\nname = \"study\"\n[[cell]]\n{line}\n");
        let problems = parse(&text).unwrap_err();
        assert!(!format!("{problems:?}").contains("MIIabc"), "{problems:#?}");
        assert!(problems.iter().any(|problem| problem.code == Code::Secret), "{problems:#?}");
    }
}

#[test]
fn a_difference_is_told_once_and_order_is_none() {
    let cell = |name: &str, parent: &str, port: &str| {
        format!(
            "[[cell]]\nname = \"{name}\"\nkind = \"relay\"\nparent = \"{parent}\"\nlisten = \"127.0.0.1:{port}\"\n"
        )
    };
    let rule = |effect: &str, topic: &str| {
        format!("[[{effect}]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"c\"\ntopics = [\"{topic}\"]\n")
    };
    let old = [
        SERVER.to_owned(),
        cell("a", "server", "0"),
        cell("b", "server", "0"),
        cell("gone", "server", "0"),
        rule("allow", "t1"),
        rule("deny", "t2"),
    ]
    .concat();
    let shuffled = [
        SERVER.to_owned(),
        cell("gone", "server", "0"),
        cell("b", "server", "0"),
        cell("a", "server", "0"),
        rule("deny", "t2"),
        rule("allow", "t1"),
    ]
    .concat();
    let new = [
        SERVER.replace("dev", ""),
        cell("a", "server", "9000"),
        cell("b", "a", "0"),
        cell("new", "b", "0"),
        rule("allow", "t1"),
        rule("allow", "t3"),
        "[limits]\nbeat_interval_ms = 500\ncongestion = \"bbr\"\n".to_owned(),
    ]
    .concat();
    let [old, shuffled, new] = [old, shuffled, new].map(|text| parsed(&text).topology);
    assert_eq!(diff(&old, &old), []);
    assert_eq!(diff(&old, &shuffled), []);
    let changes = diff(&old, &new);
    let told: Vec<_> = changes.iter().map(Change::to_string).collect();
    assert_eq!(
        told,
        [
            "a: listen 127.0.0.1:0 -> 127.0.0.1:9000",
            "b: parent server -> a",
            "gone: removed",
            "new: added",
            "rule added: allow * -> * c/t3",
            "rule removed: deny * -> * c/t2",
            "beat_interval_ms: 1000 -> 500",
            "congestion: cubic -> bbr",
        ]
    );
    assert_eq!(changes.iter().filter(|change| change.widens_access()).count(), 3);
}

proptest! {
    #[test]
    fn no_text_panics_and_every_span_lies_in_it(text in "\\PC{0,200}") {
        check_spans(&text);
    }

    #[test]
    fn no_damage_to_a_file_panics(
        at in 0_usize..400,
        cut in 0_usize..12,
        insert in "[\\[\\]\"'=.,#{}\\n\u{0}\u{7f}éа€a-z0-9 ]{0,6}",
    ) {
        let mut text = format!(
            "{SERVER}hosts = [\"a\"]\n[[cell]]\nname = 'site-1'\nkind = \"client\"\nparent = \"server\"\n\
             [[allow]]\nfrom = \"*\"\nto = \"server\"\nchannel = \"c\"\ntopics = [\"t\"]\n[limits]\nhops_max = 0x0f\n"
        );
        let start = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        text.replace_range(start..end, &insert);
        check_spans(&text);
    }
}

fn check_spans(text: &str) {
    match parse(text) {
        Ok(parsed) => {
            assert!(parsed.warnings.iter().all(|problem| problem.severity() == Severity::Warning))
        }
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.severity() == Severity::Error));
            for problem in problems {
                assert!(text.get(problem.span.clone()).is_some(), "{problem:?}");
                if let Some(also) = &problem.also {
                    assert!(text.get(also.span.clone()).is_some(), "{problem:?}");
                }
            }
        }
    }
}

#[test]
fn programs_are_read_and_everything_wrong_with_them_is_said() {
    let text = format!(
        r#"{SERVER}
[[program]]
name = "train"
cells = ["site-*"]
argv = ["python3", "trainer.py", "--rounds", "{{rounds}}"]
parameters = {{ rounds = "integer" }}
environment = ["OMP_NUM_THREADS"]
custom_code = true
memory_mib = 512
"#
    );
    let topology = parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}")).topology;
    let [program] = &topology.programs[..] else { panic!("one program") };
    assert!(program.custom_code && program.environment.contains("OMP_NUM_THREADS"));
    assert_eq!(program.limits.memory_mib, Some(512));

    for (table, code) in [
        ("cells = [\"*\"]\nargv = [\"a\"]", Code::Missing),
        ("name = \"a\"\nargv = [\"a\"]", Code::Missing),
        ("name = \"a\"\ncells = [\"*\"]", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nbuiltin = \"b\"", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nattach = true", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nattach = false", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nattach = true\nmemory_mib = 1", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\ndetach_s = 0", Code::LimitRange),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\ndetach_s = 86401", Code::LimitRange),
        ("name = \"a\"\ncells = [\"*\"]\nargv = []", Code::BadArgument),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"{x}\"]", Code::BadArgument),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\", \"{x}\"]", Code::BadParameter),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"./a\"]", Code::CodeWithoutConsent),
        (
            "name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nparameters = { x = \"int\" }",
            Code::BadParameter,
        ),
        (
            "name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nenvironment = [\"LD_PRELOAD\"]",
            Code::BadVariable,
        ),
        (
            "name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nenvironment = [\"CELLBUS_X\"]",
            Code::BadVariable,
        ),
        (
            "name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nenvironment = [\"A=B\"]",
            Code::BadVariable,
        ),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nlauncher = \"docker\"", Code::BadChoice),
        ("name = \"a\"\ncells = [\"*\"]\nattach = true\ncpus = 1", Code::BadProgram),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\ncpus = 0", Code::LimitRange),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\ncpu_s = 0", Code::LimitRange),
        ("name = \"a\"\ncells = [\"*\"]\nargv = \"a b\"", Code::WrongType),
        ("name = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\nshell = true", Code::UnknownKey),
    ] {
        let text = format!("{SERVER}\n[[program]]\n{table}\n");
        let problems = parse(&text).expect_err(table);
        assert!(problems.iter().any(|problem| problem.code == code), "{table}: {problems:#?}");
    }
    let attached = "[[program]]\nname = \"a\"\ncells = [\"*\"]\nattach = true\ndetach_s = 60\n";
    let topology = parse(&format!("{SERVER}\n{attached}")).expect("an attached program").topology;
    let [program] = &topology.programs[..] else { panic!("one program") };
    assert_eq!((&program.run, program.detach_s), (&crate::job::ProgramRun::Attached, Some(60)));
    let twice = "[[program]]\nname = \"a\"\ncells = [\"*\"]\nargv = [\"a\"]\n".repeat(2);
    let problems = parse(&format!("{SERVER}\n{twice}")).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code == Code::RepeatedProgram), "{problems:#?}");
}
