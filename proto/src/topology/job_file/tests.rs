//! What a `job.toml` can say, and everything that can be wrong with one, at once.

use super::*;

const GOOD: &str = r#"
[job]
name = "digits"

[server]
program = "aggregate"
files = false
arguments = { rounds = 5, rate = 0.5 }

[site]
program = "train"
sites = ["site-*"]
memory_mib = 512
detach_s = 300

[site.arguments]
model = "cnn"
fast = true

[site.environment]
OMP_NUM_THREADS = "2"

[budget]
total_s = 600

[files]
directory = "code"
"#;

#[test]
fn a_job_file_says_what_runs_where() {
    let job = parse(GOOD).unwrap();
    assert_eq!(job.name.as_str(), "digits");
    assert_eq!(job.server.arguments["rounds"], Value::Integer(5));
    assert_eq!(job.server.arguments["rate"], Value::Number(0.5));
    assert_eq!((job.server.has_files, job.site.has_files), (false, true));
    assert_eq!(job.site.arguments["fast"], Value::Boolean(true));
    assert_eq!(job.site.environment["OMP_NUM_THREADS"], "2");
    assert_eq!((job.budget.total_s, job.budget.start_s), (600, 60));
    assert_eq!((job.site.detach_s, job.server.detach_s), (300, 0));
    assert_eq!(job.files.as_deref(), Some("code"));
    let least = "[job]\nname='a'\n[server]\nprogram='s'\n[site]\nprogram='t'\n";
    let least = parse(least).unwrap();
    assert_eq!((least.sites, least.files), (vec![Pattern::Any], None));
}

#[test]
fn a_job_may_have_parts_at_relays_and_says_which() {
    let with = |relay: &str| {
        parse(&format!("[job]\nname='a'\n[server]\nprogram='s'\n{relay}\n[site]\nprogram='t'\n"))
    };
    let none = with("").unwrap();
    assert_eq!((none.relay, none.relays), (None, vec![]));
    let every = with("[relay]\nprogram='combine'\narguments = { quorum = 3 }").unwrap();
    let relay = every.relay.unwrap();
    assert_eq!((relay.program.as_str(), every.relays), ("combine", vec![Pattern::Any]));
    assert_eq!((&relay.arguments["quorum"], relay.detach_s), (&Value::Integer(3), 0));
    let some = with("[relay]\nprogram='combine'\nrelays=['relay-eu']").unwrap();
    assert_eq!(some.relays, ["relay-eu".parse::<Pattern>().unwrap()]);
    for (wrong, says) in [
        ("[relay]", "[relay] has no `program`"),
        ("[relay]\nprogram='c'\nrelays=[]", "the job has no relays"),
        ("[relay]\nprogram='c'\nrelays=['re*ay']", "not a pattern for relays"),
        ("[relay]\nprogram='c'\ndetach_s=5", "detach_s"),
    ] {
        let problems = with(wrong).unwrap_err();
        assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
        assert!(problems[0].to_string().contains(says), "{wrong}: {}", problems[0]);
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_where() {
    let text = r#"
[job]
name = "Digits"
retries = 3
[server]
programm = "aggregate"
[site]
program = "train"
sites = ["si*te"]
image = "other"
arguments = { "a b" = 1, x = [1], y = inf }
[budget]
total_s = 99999999
[files]
directory = "../other"
[launcher]
argv = ["sh"]
"#;
    let problems = parse(text).unwrap_err();
    let found: Vec<(Code, usize)> = problems
        .iter()
        .map(|problem| (problem.code, text[..problem.span.start].matches('\n').count() + 1))
        .collect();
    for (code, line) in [
        (Code::BadName, 3),
        (Code::UnknownKey, 4),
        (Code::UnknownKey, 6),
        (Code::BadPattern, 9),
        (Code::UnknownKey, 10),
        (Code::WrongType, 11),
        (Code::LimitRange, 13),
        (Code::BadArgument, 15),
        (Code::UnknownKey, 16),
    ] {
        assert!(found.contains(&(code, line)), "{code} in line {line}: {found:?}");
    }
}

#[test]
fn j_21_a_job_has_no_word_for_how_it_is_started() {
    for (table, key) in [
        ("site", "argv"),
        ("site", "launcher"),
        ("site", "privileged"),
        ("site", "mounts"),
        ("server", "builtin"),
        ("job", "user"),
        ("server", "cells"),
    ] {
        let text = GOOD.replace(&format!("[{table}]\n"), &format!("[{table}]\n{key} = \"x\"\n"));
        let problems = parse(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.code == Code::UnknownKey), "{table}.{key}");
    }
}

#[test]
fn no_text_makes_it_panic() {
    for cut in 0..GOOD.len() {
        if GOOD.is_char_boundary(cut) {
            let _ = parse(&GOOD[..cut]);
        }
    }
    for text in ["", "job = 1", "[[job]]", "[job]\nname = {}", "server = [1]\nsite = 'x'", "\u{0}"]
    {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn how_long_a_site_may_be_away_has_limits_and_the_server_none() {
    let with = |server: &str, site: &str| {
        let text = format!(
            "[job]\nname='a'\n[server]\nprogram='s'\n{server}\n[site]\nprogram='t'\n{site}\n"
        );
        parse(&text).map(|job| job.site.detach_s)
    };
    assert_eq!(with("", "detach_s = 86400"), Ok(86_400));
    for (server, site) in [("", "detach_s = 0"), ("", "detach_s = 86401"), ("detach_s = 1", "")] {
        assert!(with(server, site).is_err(), "{server}{site}");
    }
}

#[test]
fn j_21_what_a_job_asks_of_a_scheduler_is_plain_words_and_numbers() {
    let asks = |table: &str| format!("{GOOD}\n[site.resources]\n{table}\n");
    let job = parse(&asks("partition = \"gpu\"\ncpus = 4\ngres = { gpu = 1 }")).unwrap();
    assert_eq!(job.site.resources.partition.as_deref(), Some("gpu"));
    assert_eq!((job.site.resources.cpus, job.site.resources.gres["gpu"]), (Some(4), 1));
    assert_eq!(job.server.resources, SlurmRequest::default());
    for (table, code) in [
        ("partition = \"x --uid=0\"", Code::BadResource),
        ("cpus = 0", Code::BadResource),
        ("gres = { \"gpu,shard\" = 1 }", Code::BadResource),
        ("cpus = \"4\"", Code::WrongType),
        ("nodes = 4", Code::UnknownKey),
    ] {
        let text = asks(table);
        let problems = parse(&text).expect_err(table);
        let [problem] = &problems[..] else { panic!("{table}: {problems:#?}") };
        assert_eq!(problem.code, code, "{table}: {problem:#?}");
        assert!(problem.span.start > GOOD.len(), "{table}: {problem:#?}");
    }
}
