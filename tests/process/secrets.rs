//! Where secrets must not be found: arguments, environment, logs, descriptors, the memory of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    process::Signal,
    thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities},
};

use crate::driver::{Over, Place, Process, Running, SOON, descendants, entries};

/// Variables that a job's processes may have; none of them carries a secret.
const VARIABLES: [&str; 13] = [
    "PATH",
    "HOME",
    "TZ",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "CELLBUS_BOOTSTRAP_FD",
    "CELLBUS_JOB",
    "CELLBUS_RUN",
    "CELLBUS_ATTEMPT",
    "CELLBUS_CELL",
    "CELLBUS_SERVER_CELL",
    "CELLBUS_SITES",
];

/// Starts a demo whose job takes a while, after these words of a shell, and waits until all of it runs.
fn long_demo(place: &Place, words: &str) -> Running {
    let arguments = ["demo", "-o", "jsonl", "--rounds", "1000"];
    let running = Running::start(place.command_after(words, &arguments));
    running.out.wait_json("round", 2 * SOON, |event| (event["event"] == "round").then_some(()));
    running
}

/// The processes of a job that do `verb`.
fn doing(running: &Running, verb: &str) -> Vec<Process> {
    let does = |process: &Process| {
        process.arguments().and_then(|words| words.last().cloned()).as_deref() == Some(verb)
    };
    running.descendants().into_iter().filter(does).collect()
}

/// What a process was started with.
type Seen = (Vec<String>, Option<Vec<u8>>);

/// Looks at every process below `root`, again and again, until `done`.
fn watch(root: Process, done: &AtomicBool) -> BTreeSet<Seen> {
    let mut seen = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        for process in descendants(root) {
            if let Some(arguments) = process.arguments() {
                seen.insert((arguments, process.environment()));
            }
        }
    }
    seen
}

/// Every form in which the private keys below `state` could be written somewhere.
pub(crate) fn forms_of_keys(state: &Path) -> Vec<Vec<u8>> {
    let found = entries(state).into_iter();
    let keys = found.filter(|entry| entry.path.extension().is_some_and(|end| end == "key"));
    let mut forms = vec![b"PRIVATE KEY".to_vec()];
    for entry in keys {
        let pem = fs::read_to_string(&entry.path).expect("it is ours");
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        let body: Vec<&str> = lines.collect();
        assert!(!body.is_empty(), "{} is a PEM file", entry.path.display());
        // Both ends of the first line are the same in every key of a kind; its last characters are not.
        forms.extend(body.iter().map(|line| line.as_bytes()[line.len() / 2..].to_vec()));
        let der = decode(&body.concat());
        let start = der.windows(2).position(|two| two == [0x04, 0x20]).expect("a key of 32 bytes");
        let secret = &der[start + 2..start + 34];
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = secret.iter().map(u8::to_string).collect();
        let escaped: String = secret.iter().map(|byte| byte.escape_ascii().to_string()).collect();
        forms.push(secret[..16].to_vec());
        forms.push(hex.as_bytes()[..24].to_vec());
        forms.push(hex[..24].to_uppercase().into_bytes());
        forms.push(list[..8].join(", ").into_bytes());
        forms.push(list[..8].join(",").into_bytes());
        forms.push(escaped.as_bytes()[..24].to_vec());
    }
    assert!(forms.len() > 1, "there are keys");
    forms
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(base64).expect("PEM is base64")
}

pub(crate) fn contains(text: &[u8], form: &[u8]) -> bool {
    text.windows(form.len()).any(|window| window == form)
}

#[test]
fn s2_11_no_secret_is_in_arguments_environment_or_logs() {
    let place = Place::new();
    let running = place.start(&["demo", "--keep", "--rounds", "25", "--log", "trace"]);
    let done = AtomicBool::new(false);
    let (state, seen) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(running.process(), &done));
        let over = Over(&done);
        let state = running.err.wait("where the cells are", 4 * SOON, |line| {
            let (_, rest) = line.split_once("`cellbus cells --state ")?;
            Some(rest.split_once('`')?.0.to_owned())
        });
        drop(over);
        (state, watching.join().expect("it only looks"))
    });
    let forms = forms_of_keys(Path::new(&state));
    running.signal(Signal::INT);
    let exit = running.exit(SOON);
    assert_eq!(exit.code, Some(0), "{:?}", exit.out);

    for verb in ["job-cell", "trainer"] {
        assert!(seen.iter().any(|(words, _)| *words == ["-o", "json", verb]), "{verb}: {seen:?}");
    }
    for (words, environment) in &seen {
        // Before it becomes another program, a process still looks like its parent.
        let fresh = words.first().is_some_and(|word| word == "demo");
        let of_job = ["job-cell", "trainer"].iter().any(|verb| *words == ["-o", "json", verb]);
        let shim = words.first().is_some_and(|word| word == "launch-shim");
        assert!(fresh || shim || of_job, "{words:?}");
        let environment = environment.as_deref().unwrap_or_default();
        let names = environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        for name in names.filter(|_| of_job).filter_map(|entry| entry.split(|b| *b == b'=').next())
        {
            let name = String::from_utf8_lossy(name);
            assert!(VARIABLES.contains(&&*name), "{words:?} has {name}");
        }
        for form in &forms {
            assert!(!contains(words.join("\0").as_bytes(), form), "{words:?}");
            assert!(!contains(environment, form), "{words:?} has a secret in its environment");
        }
    }
    assert!(exit.err.iter().any(|line| line.contains("TRACE")), "the log is at its loudest");
    let log = exit.err.join("\n");
    for form in &forms {
        assert!(!contains(log.as_bytes(), form), "{} is logged", String::from_utf8_lossy(form));
    }
}

/// What makes the system show the memory of any process of this user.
const OVERSEER: [CapabilitySet; 3] =
    [CapabilitySet::SYS_PTRACE, CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN];

/// Does `work` as somebody who is this user and oversees nobody, and so does what it starts.
fn as_an_equal<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let equal = || {
        for capability in OVERSEER {
            // Refused to a user who has none of them to give away.
            let _ = remove_capability_from_bounding_set(capability);
        }
        let mut sets = capabilities(None).expect("everybody may ask");
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            OVERSEER.into_iter().for_each(|capability| set.remove(capability));
        }
        set_capabilities(None, sets).expect("everybody may have less");
        work()
    };
    // These are of one thread, and end with it.
    thread::scope(|scope| scope.spawn(equal).join().expect("the work does not panic"))
}

#[test]
fn the_memory_of_a_job_cell_is_for_nobody_else() {
    let place = Place::new();
    let running = as_an_equal(|| long_demo(&place, "true"));
    let read = |process: Process| as_an_equal(|| fs::read(process.file("environ")));
    let own = read(running.process()).expect("an ordinary process shows what it has");
    assert!(!own.is_empty());
    let cells = doing(&running, "job-cell");
    assert_eq!(cells.len(), 4, "one at each site and one at the server");
    for cell in cells {
        let refused = read(cell).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::PermissionDenied));
    }
}

#[test]
fn a_job_inherits_nothing_but_its_three_streams() {
    let place = Place::new();
    let left_open = place.write("left-open", "by whoever starts the binary");
    let words = format!("exec 8<'{}' 9</dev/zero", left_open.display());
    let running = long_demo(&place, &words);
    let numbers = |process: Process| process.descriptors().into_iter().collect::<BTreeMap<_, _>>();
    let others = numbers(running.process());
    assert_eq!(others[&9], Path::new("/dev/zero"), "the binary has what it was started with");
    let (cells, trainers) = (doing(&running, "job-cell"), doing(&running, "trainer"));
    assert_eq!((cells.len(), trainers.len()), (4, 3));
    let mut owners: BTreeMap<PathBuf, Process> = BTreeMap::new();
    for process in cells.into_iter().chain(trainers) {
        let descriptors = numbers(process);
        assert!(descriptors[&0].to_string_lossy().starts_with("/memfd:"), "{descriptors:?}");
        let left = fs::metadata(process.file("fd/0")).expect("it runs").len();
        assert_eq!(left, 0, "what it was born with can be read once");
        for (number, to) in descriptors.into_iter().filter(|(number, _)| *number > 2) {
            let name = to.to_string_lossy();
            assert!(!name.starts_with('/'), "{number} is a file: {name}");
            // Sockets and pipes have numbers, by which two ends of one are known; other things have none.
            if name.starts_with("socket:") || name.starts_with("pipe:") {
                let launchers = others.values().any(|other| *other == to);
                assert!(!launchers, "{number} is one of the launcher's: {name}");
                let owner = *owners.entry(to.clone()).or_insert(process);
                assert_eq!(owner, process, "two processes of jobs share {name}");
            }
        }
    }
}
