//! Jobs that people run: what they print, how they end, and what is refused.

use std::fs;

use rustix::process::Signal;

use crate::driver::{SOON, Study, outcome};

#[test]
fn a_job_runs_in_every_place_and_its_outcome_is_the_exit_code() {
    let study = Study::up();
    let dir = study.describe("good", "hold seconds = 1", "code", "[files]\ndirectory = \"src\"\n");
    fs::create_dir_all(dir.join("src/lib")).expect("it takes directories");
    fs::write(dir.join("src/main.sh"), ". lib/said.sh\nsay\n").expect("it takes files");
    fs::write(dir.join("src/lib/said.sh"), "say() { echo \"hello from $CELLBUS_CELL\"; }\n")
        .expect("it takes files");
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}");
    let parts = envelope["data"]["parts"].as_array().expect("parts");
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part["outcome"] == "completed"), "{envelope}");
    let lines: Vec<&String> = exit.out.iter().filter(|line| line.contains("\"job_log\"")).collect();
    for cell in ["relay-a.site-1", "relay-a.site-2"] {
        let said = format!("hello from {cell}.good");
        assert!(lines.iter().any(|line| line.contains(&said)), "{said}: {lines:?}");
    }
    let told = "server.good of good with server.good and relay-a.site-1.good,relay-a.site-2.good";
    assert!(lines.iter().any(|line| line.contains(told)), "{lines:?}");
    study.assert_nothing_left();

    // Afterwards it is known, and can be run again: as another attempt.
    assert_eq!(study.show("good")["attempt"], 1);
    let logs = study.ask(&["logs", "good"]).data();
    assert!(logs["count"].as_u64() >= Some(3), "{logs}");
    let again = study.run(&dir).exit(4 * SOON);
    assert_eq!(outcome(&again).2["data"]["attempt"], 2);
    let listed = study.ask(&["ls"]).data();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}

#[test]
fn a_part_that_fails_ends_the_job_and_says_where_and_how() {
    let study = Study::up();
    let dir = study.describe("bad", "hold seconds = 1000", "exits code = 3", "");
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "failed"), "{envelope}");
    assert_eq!(envelope["error_code"], "JOB_FAILED");
    let detail = envelope["data"]["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("relay-a.site-") && detail.ends_with(": exit code 3"), "{detail}");
    study.assert_nothing_left();
}

#[test]
fn s0_01_what_a_cell_does_not_offer_is_refused_and_leaves_no_trace() {
    let study = Study::up();
    let refuse = |server: &str, site: &str, more: &str| {
        let dir = study.describe("no", server, site, more);
        let exit = study.run(&dir).exit(2 * SOON);
        assert_eq!(exit.code, Some(6), "{exit:?}");
        let envelope = exit.envelope();
        assert_eq!(envelope["error_code"], "COMPONENT_NOT_ALLOWED", "{envelope}");
        envelope["message"].as_str().unwrap_or_default().to_owned()
    };
    let hold = "hold seconds = 1";
    assert!(refuse(hold, "sh", "").contains("`sh` is not offered"));
    assert!(refuse("stubborn", hold, "").starts_with("server: "), "offered at sites only");
    assert!(
        refuse(hold, "learn-trainer", "").contains("not offered"),
        "known to the binary, not offered"
    );
    assert!(refuse(hold, "hold seconds = \"1; reboot\"", "").contains("takes integer"));
    assert!(refuse(hold, "hold seconds = 1, image = \"x\"", "").contains("no parameter"));
    assert!(
        refuse(hold, hold, "[site.environment]\nLD_PRELOAD = \"/tmp/x.so\"\n").contains("variable")
    );
    let files = "[files]\ndirectory = \".\"\n";
    let dir = study.describe("no", hold, hold, "");
    fs::write(dir.join("evil.sh"), "echo evil").expect("it takes files");
    assert!(refuse(hold, hold, files).contains("custom_code"));
    assert_eq!(study.ask(&["ls"]).data().as_array().map(Vec::len), Some(0));
    study.assert_nothing_left();
}

#[test]
fn j_22_a_program_has_three_descriptors_the_variables_it_may_have_and_its_limits() {
    let study = Study::up();
    let more = "[site.environment]\nOMP_NUM_THREADS = \"2\"\n";
    let dir = study.describe("shown", "hold seconds = 2", "shows", more);
    let mut command = study.cells.place.command(&[
        "job",
        "run",
        dir.to_str().expect("text"),
        "--state",
        study.cells.place.state().to_str().expect("text"),
    ]);
    command.env("LD_LIBRARY_PATH", "/nowhere").env("A_SECRET", "of mine");
    let exit = crate::driver::Running::start(command).exit(4 * SOON);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let of_one: Vec<&str> =
        exit.out.iter().filter_map(|line| line.strip_prefix("relay-a.site-1| ")).collect();
    let numbers: Vec<&str> =
        of_one.iter().copied().take_while(|line| line.parse::<u32>().is_ok()).collect();
    // `ls` has the directory open that it lists.
    assert_eq!(numbers, ["0", "1", "2", "3"], "{of_one:?}");
    let variables: Vec<&str> = of_one
        .iter()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name))
        .filter(|name| {
            !["PATH", "HOME", "TZ", "LANG", "LC_ALL", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"]
                .contains(name)
        })
        .collect();
    let mut sorted = variables.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "CELLBUS_ATTEMPT",
            "CELLBUS_BOOTSTRAP_FD",
            "CELLBUS_CELL",
            "CELLBUS_JOB",
            "CELLBUS_RUN",
            "CELLBUS_SERVER_CELL",
            "CELLBUS_SITES",
            "OMP_NUM_THREADS"
        ]
    );
    assert!(of_one.contains(&"77"), "its limit of open files: {of_one:?}");
    assert!(of_one.iter().any(|line| line.ends_with("/jobs/shown/work")), "{of_one:?}");
    assert!(of_one.contains(&"a\\u{1b}[2Jb"), "j_32: nothing drives the terminal: {of_one:?}");
    study.assert_nothing_left();
}

#[test]
fn ctrl_c_ends_a_job_and_so_does_cancel() {
    let study = Study::up();
    let dir = study.describe("long", "hold seconds = 1000", "hold seconds = 1000", "");
    let running = study.run(&dir);
    study.wait_running(&running);
    let refused = study.run(&dir).exit(SOON);
    assert_eq!(refused.envelope()["error_code"], "JOB_RUNNING");
    running.signal(Signal::INT);
    let exit = running.exit(2 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "aborted"), "{envelope}");
    study.assert_nothing_left();

    let running = study.run(&dir);
    study.wait_running(&running);
    let cancelled = study.ask(&["cancel", "long"]).data();
    assert_eq!(cancelled["outcome"], "aborted");
    assert_eq!(outcome(&running.exit(SOON)).1, "aborted");
    assert_eq!(study.ask(&["cancel", "long"]).refusal(), (1, "JOB_OVER"));
    assert_eq!(study.ask(&["cancel", "other"]).refusal(), (1, "JOB_UNKNOWN"));
    study.assert_nothing_left();
}

#[test]
fn a_job_whose_time_is_up_ends_and_so_does_one_that_is_idle() {
    let study = Study::up();
    let late = "[budget]\ntotal_s = 3\n";
    let dir = study.describe("late", "hold seconds = 1000", "hold seconds = 1000", late);
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(3), "failed"), "{envelope}");
    assert_eq!(envelope["error_code"], "JOB_LATE");
    let idle = "[budget]\nidle_s = 2\n";
    let dir = study.describe("idle", "hold seconds = 1000", "hold seconds = 1000", idle);
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, _, envelope) = outcome(&exit);
    assert_eq!(code, Some(1), "{envelope}");
    assert!(
        envelope["message"].as_str().is_some_and(|text| text.contains("idle time")),
        "{envelope}"
    );
    study.assert_nothing_left();
}
