//! Many jobs, one after the other and at once: nothing of them is left, and nothing secret is to be seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::driver::{Process, SOON, Study, descendants, entries, outcome, until};

/// Launches in an ordinary run; `CELLBUS_LAUNCHES=200` asks for more.
const LAUNCHES: usize = 12;

/// How many descriptors of which kind a process has.
fn descriptors(process: Process) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, to) in process.descriptors() {
        let name = to.to_string_lossy().into_owned();
        let kind = name.split(':').next().unwrap_or(&name).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn fifty_jobs_leave_no_descriptor_no_process_and_no_file() {
    const AT_ONCE: usize = 5;
    let study = Study::up();
    let run = |names: &[String]| {
        let running = names.iter().map(|name| {
            let site = "exits code = 0";
            let only = "sites = [\"site-1\"]\n";
            study.run(&study.describe(name, "exits code = 0", site, only))
        });
        for running in running.collect::<Vec<_>>() {
            let exit = running.exit(8 * SOON);
            let (code, ended, envelope) = outcome(&exit);
            assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}");
        }
    };
    let names = |round: usize| -> Vec<String> {
        (0..AT_ONCE).map(|index| format!("many-{round}-{index}")).collect()
    };
    // What is made once and kept, such as the port for job cells, is there after the first jobs.
    run(&names(0));
    study.assert_nothing_left();
    let cells = ["server", "site-1"].map(|cell| study.cells.of(cell).process());
    let before = cells.map(descriptors);
    let files = || -> BTreeSet<PathBuf> {
        let all = entries(&study.cells.place.state()).into_iter().map(|entry| entry.path);
        all.filter(|path| !path.to_string_lossy().contains("job-records")).collect()
    };
    let files_before = files();
    for round in 1..=50 / AT_ONCE {
        run(&names(round));
    }
    study.assert_nothing_left();
    until("as many descriptors as before", SOON, || {
        (cells.map(descriptors) == before).then_some(())
    });
    // The record of a part goes when the site has heard that its end is known.
    until("no file more than before", SOON, || (files() == files_before).then_some(()));
    let temporary = entries(&study.cells.place.temporary());
    assert_eq!(temporary.len(), 1, "{temporary:?}");
}

#[test]
fn c_02_no_secret_is_in_arguments_or_environment_of_what_is_launched() {
    let launches = std::env::var("CELLBUS_LAUNCHES").ok().and_then(|count| count.parse().ok());
    let launches: usize = launches.unwrap_or(LAUNCHES);
    let study = Study::up();
    let done = AtomicBool::new(false);
    let roots = ["server", "site-1", "site-2"].map(|cell| study.cells.of(cell).process());
    let seen = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen: BTreeSet<(Vec<String>, Option<Vec<u8>>)> = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for process in roots.into_iter().flat_map(descendants) {
                    if let Some(words) = process.arguments() {
                        seen.insert((words, process.environment()));
                    }
                }
            }
            seen
        });
        // Each job launches three job cells and three programs.
        for round in 0..launches.div_ceil(6) {
            let name = format!("launch-{round}");
            let dir = study.describe(&name, "hold seconds = 1", "exits code = 0", "");
            let exit = study.run(&dir).exit(4 * SOON);
            assert_eq!(outcome(&exit).1, "completed", "{exit:?}");
        }
        done.store(true, Ordering::Relaxed);
        watching.join().expect("it only looks")
    });
    assert!(seen.iter().any(|(words, _)| words.last().is_some_and(|word| word == "job-cell")));
    // A launch secret is 32 random bytes and a key is longer: in whatever form, it is a long word that is no path and
    // no plain text.
    let is_secret = |word: &str| {
        let run = word.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=_".contains(c));
        run.filter(|part| !part.contains('/')).any(|part| part.len() >= 32)
    };
    for (words, environment) in &seen {
        for word in words.iter().filter(|word| !word.contains(' ')) {
            assert!(!is_secret(word), "{words:?}");
        }
        let environment = environment.as_deref().unwrap_or_default();
        for entry in environment.split(|byte| *byte == 0) {
            assert!(entry.is_ascii(), "bytes in the environment of {words:?}");
            let entry = String::from_utf8_lossy(entry);
            let value = entry.split_once('=').map_or("", |(_, value)| value);
            let is_of_job = entry.starts_with("CELLBUS_");
            assert!(!is_of_job || !is_secret(value), "{entry}");
        }
    }
}
