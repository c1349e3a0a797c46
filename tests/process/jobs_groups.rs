//! Control groups of parts of jobs, where the system lets this test hand some to a cell.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{XattrFlags, setxattr},
    process::Signal,
};
use serde_json::Value;

use crate::driver::{Federation, PROGRAMS, Process, Running, SOON, Study, outcome, until};

const SITE: &str = "site-1";
const FULL: &str = "relay-a.site-1";

/// A control group that was handed to whoever runs in it. Gone, with what is in it, when dropped.
struct Handed(PathBuf);

impl Handed {
    /// # Errors
    /// Why this test can make none.
    fn make() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let mount = mount.and_then(|line| line.split(' ').nth(4)).unwrap_or("/sys/fs/cgroup");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let group = Path::new(mount).join(own).join(name);
        let made = fs::create_dir(&group).and_then(|()| {
            let handed = Self(group.clone());
            setxattr(&group, "user.delegate", b"1", XattrFlags::empty())?;
            fs::metadata(group.join("cgroup.kill"))?;
            fs::create_dir(handed.entrance())?;
            Ok(handed)
        });
        made.map_err(|error| format!("{}: {error}", group.display()))
    }

    /// Where a service manager starts whoever it was handed to: a group with limits below it takes no processes.
    fn entrance(&self) -> PathBuf {
        self.0.join("main")
    }

    /// The groups of parts in it.
    fn parts(&self) -> Vec<String> {
        let below = fs::read_dir(&self.0).expect("it is there").flatten();
        let names = below.filter(|entry| entry.path().is_dir());
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.ends_with(".fold")).collect()
    }

    fn assert_empty(&self) {
        until("no control group of a part", SOON, || self.parts().is_empty().then_some(()));
    }
}

/// One that was handed over; where there can be none the test says what it could not check, and ends.
macro_rules! handed_or_say {
    ($unchecked:literal) => {
        match Handed::make() {
            Ok(handed) => handed,
            Err(why) => {
                eprintln!("skipped: {why}; {} could not be checked", $unchecked);
                return;
            }
        }
    };
}

impl Drop for Handed {
    fn drop(&mut self) {
        // Whatever a failed test has left.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..500 {
            remove(&self.0);
            if !self.0.exists() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// All cells, of which one site runs in `handed`.
fn study(handed: &Handed) -> Study {
    let mut cells = Federation::prepare(PROGRAMS);
    cells.groups.insert(SITE, handed.entrance());
    Study { cells: cells.started() }
}

fn run(study: &Study, site: &str, more: &str) -> Running {
    let dir = study.describe("fold", "hold seconds = 1000", site, more);
    let running = study.run(&dir);
    running.out.wait_json("a running job", 2 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    running
}

/// The control group that a process is in.
fn group_of(process: Process) -> String {
    let text = fs::read_to_string(process.file("cgroup")).expect("it runs");
    text.lines().find_map(|line| line.strip_prefix("0::")).expect("it is in one").to_owned()
}

fn part<'a>(shown: &'a Value, cell: &str) -> &'a Value {
    let parts = shown["parts"].as_array().expect("parts");
    parts.iter().find(|part| part["cell"] == cell).expect("a part")
}

fn cancel(study: &Study, running: Running) {
    assert_eq!(study.ask(&["cancel", "fold"]).data()["outcome"], "aborted");
    let exit = running.exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "aborted"), "{envelope}");
    study.assert_nothing_left();
}

#[test]
fn j_15_a_part_runs_in_a_control_group_of_its_own_and_is_ended_with_it() {
    let handed = handed_or_say!("control groups of parts");
    let study = study(&handed);
    let running = run(&study, "forks", "");
    let program = study.program(SITE);
    let shown = study.show("fold");
    let name = format!("cellbus-{}-{FULL}.fold", shown["run"].as_str().expect("a run"));
    assert_eq!(handed.parts(), std::slice::from_ref(&name));
    assert!(group_of(program).ends_with(&format!("/{name}/program")), "{}", group_of(program));
    let cell = group_of(study.job_cell(SITE));
    assert!(cell.ends_with(&format!("/{name}/cell")), "{cell}");
    let known = || {
        let shown = study.show("fold");
        let grouped = |cell: &str| part(&shown, cell)["is_grouped"].as_bool();
        grouped(FULL).zip(grouped("relay-a.site-2"))
    };
    assert_eq!(until("what both sites say", SOON, known), (true, false));
    // What it has let go of is in the group, whatever session it has begun.
    let members = fs::read_to_string(handed.0.join(&name).join("program/cgroup.procs"));
    let members = members.expect("it is there").lines().count();
    assert!(members >= 2, "the program and what it has let go of, not {members}");
    let doctor = study.cells.place.command_after(
        &format!("echo 0 > {}/cgroup.procs", handed.entrance().display()),
        &["doctor", "--topology", study.cells.file(), "--only", SITE, "--offline", "-o", "json"],
    );
    let found = Running::start(doctor).exit(2 * SOON).envelope();
    let found = found["data"]["findings"].as_array().expect("findings").iter();
    let found: Vec<&Value> = found.filter(|finding| finding["code"] == "DOC_GROUPS").collect();
    assert_eq!(found[0]["outcome"], "ok", "{found:?}");
    cancel(&study, running);
    handed.assert_empty();
    for (site, said) in [
        (SITE, "parts of jobs get control groups of their own"),
        ("site-2", "parts of jobs get no control groups"),
    ] {
        let lines = study.cells.of(site).err.so_far();
        let times = lines.iter().filter(|line| line.contains(said)).count();
        assert_eq!(times, 1, "{site}: {lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("WARN")), "{site}: {lines:#?}");
    }
}

#[test]
fn j_15_the_limits_of_a_program_are_those_of_its_control_group() {
    let handed = handed_or_say!("limits of control groups");
    let study = study(&handed);
    let running = run(&study, "limited", "memory_mib = 400\n");
    let name = handed.parts().pop().expect("a part");
    let program = handed.0.join(name).join("program");
    let offered = fs::read_to_string(handed.0.join("cgroup.controllers")).expect("it is there");
    for (controller, file, want) in [
        ("memory", "memory.max", "419430400"),
        ("pids", "pids.max", "4000"),
        ("cpu", "cpu.max", "200000 100000"),
    ] {
        if offered.split_whitespace().any(|word| word == controller) {
            let found = fs::read_to_string(program.join(file)).expect("the controller is there");
            assert_eq!(found.trim(), want, "{file}");
        } else {
            eprintln!("this system hands nobody `{controller}`; {file} could not be checked");
        }
    }
    cancel(&study, running);
    handed.assert_empty();
}

#[test]
fn g_45_the_control_group_of_a_part_is_found_again_by_a_cell_that_was_killed() {
    let handed = handed_or_say!("control groups that are found again");
    let mut study = study(&handed);
    let more = "sites = [\"site-1\"]\ndetach_s = 300\n";
    let running = run(&study, "stubborn-patient", more);
    study.program(SITE);
    let name = handed.parts();
    assert_eq!(name.len(), 1);
    let below = study.cells.take(SITE).kill();
    study.cells.start(SITE);
    study.cells.wait_ready(SITE);
    assert_eq!(handed.parts(), name, "it goes on");
    until("what the site says", SOON, || {
        part(&study.show("fold"), FULL)["is_grouped"].as_bool().filter(|grouped| *grouped)
    });
    cancel(&study, running);
    handed.assert_empty();
    assert!(below.0.iter().all(|process| !process.lives()), "{below:?}");
}

#[test]
fn g_45_a_control_group_whose_cell_and_job_cell_were_killed_is_ended_and_removed() {
    let handed = handed_or_say!("control groups that nobody is left in");
    let mut study = study(&handed);
    let more = "sites = [\"site-1\"]\ndetach_s = 300\n";
    let running = run(&study, "stubborn-patient", more);
    study.program(SITE);
    let job_cell = study.job_cell(SITE);
    let below = study.cells.take(SITE).kill();
    job_cell.signal(Signal::KILL);
    study.cells.start(SITE);
    study.cells.wait_ready(SITE);
    let exit = running.exit(4 * SOON);
    assert_eq!(outcome(&exit).1, "lost");
    until("the end of all", SOON, || below.0.iter().all(|one| !one.lives()).then_some(()));
    handed.assert_empty();
    study.assert_nothing_left();
}
