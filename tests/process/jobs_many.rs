//! Many jobs, one after the other and at once: nothing of them is left, and nothing secret is to be seen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::driver::{
    Federation, Over, PROGRAMS, Process, SOON, Study, descendants, entries, outcome, until,
};

/// Launches in an ordinary run; `CELLBUS_LAUNCHES=1000` asks for more.
const LAUNCHES: usize = 200;

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

/// A program that is launched as ever, and leaves the secret that it was born with where the test finds it.
const KEEPS: &str = r#"
[[program]]
name = "keeps"
cells = ["server", "site-*"]
argv = ["sh", "-c", "od -An -v -tx1 | tr -d ' \\n' > \"$TMPDIR/$CELLBUS_CELL.secret\""]
"#;

/// The first bytes of every form in which a secret could be written somewhere.
pub(crate) struct Forms {
    starts: HashMap<[u8; Forms::LEN], String>,
    /// Whether any of them begins with these two bytes.
    begins: Vec<bool>,
}

impl Forms {
    /// Lists of numbers are long: fewer bytes of one stand in many a log by chance.
    const LEN: usize = 32;

    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>) -> Self {
        use base64::Engine;
        let (standard, for_urls) = (
            base64::engine::general_purpose::STANDARD,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
        );
        let mut forms = Self { starts: HashMap::new(), begins: vec![false; 1 << 16] };
        for (whose, secret) in secrets {
            let list = secret.iter().map(u8::to_string).collect::<Vec<_>>();
            let escaped: String =
                secret.iter().map(|byte| byte.escape_ascii().to_string()).collect();
            for form in [
                secret.clone(),
                hex::encode(secret).into_bytes(),
                hex::encode_upper(secret).into_bytes(),
                standard.encode(secret).into_bytes(),
                for_urls.encode(secret).into_bytes(),
                list.join(", ").into_bytes(),
                list.join(",").into_bytes(),
                escaped.into_bytes(),
            ] {
                let start = *form.first_chunk().expect("a secret is longer");
                forms.begins[usize::from(u16::from_be_bytes([start[0], start[1]]))] = true;
                forms.starts.insert(start, whose.clone());
            }
        }
        forms
    }

    /// Whose secret stands in `text`, if any does.
    pub(crate) fn found_in(&self, text: &[u8]) -> Option<&String> {
        text.windows(Self::LEN).find_map(|window| {
            let begin = usize::from(u16::from_be_bytes([window[0], window[1]]));
            if !self.begins[begin] {
                return None;
            }
            self.starts.get(window)
        })
    }
}

/// The launch secret of every program that has run, by its job cell.
fn secrets_left_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = entries(dir).into_iter().map(|entry| entry.path);
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "secret"));
    let secret = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("it is ours");
        let born_with = hex::decode(text.trim()).expect("it is written so");
        // [1, path, bin(32)]: see docs/LOCAL_SOCKET.md, section 1.
        let (head, secret) = born_with.split_at(born_with.len() - 32);
        assert!(head.ends_with(&[0xc4, 32]), "{path:?}: {text}");
        (path.file_stem().expect("it has a name").to_string_lossy().into_owned(), secret.to_vec())
    };
    files.map(secret).collect()
}

#[test]
fn c_02_c_07_no_secret_is_in_arguments_environment_or_logs_of_two_hundred_launches() {
    const AT_ONCE: usize = 7;
    let launches = std::env::var("CELLBUS_LAUNCHES").ok().and_then(|count| count.parse().ok());
    let launches: usize = launches.unwrap_or(LAUNCHES);
    // Each job launches three job cells and three programs.
    let jobs = launches.div_ceil(6);
    let mut cells = Federation::prepare(&format!("{PROGRAMS}{KEEPS}"));
    cells.log = &["--log", "trace"];
    let study = Study { cells: cells.started() };
    let done = AtomicBool::new(false);
    let roots = ["server", "site-1", "site-2"].map(|cell| study.cells.of(cell).process());
    let (seen, said) = thread::scope(|scope| {
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
        let over = Over(&done);
        let mut said = Vec::new();
        let names: Vec<String> = (0..jobs).map(|job| format!("launch-{job}")).collect();
        for names in names.chunks(AT_ONCE) {
            let running =
                names.iter().map(|name| study.run(&study.describe(name, "keeps", "keeps", "")));
            for running in running.collect::<Vec<_>>() {
                let exit = running.exit(8 * SOON);
                assert_eq!(outcome(&exit).1, "completed", "{exit:?}");
                said.extend(exit.out.into_iter().chain(exit.err));
            }
        }
        drop(over);
        (watching.join().expect("it only looks"), said)
    });
    let of_jobs =
        |word: &str| seen.iter().any(|(words, _)| words.last().is_some_and(|last| last == word));
    assert!(of_jobs("job-cell"), "{seen:?}");
    let secrets = secrets_left_in(&study.cells.place.temporary());
    assert_eq!(secrets.len(), 3 * jobs, "one for each program: {:?}", secrets.keys());
    let forms = Forms::of(&secrets);
    let own = secrets.values().next().expect("there are some");
    assert!(forms.found_in(format!("x{}", hex::encode(own)).as_bytes()).is_some(), "it finds one");
    for (words, environment) in &seen {
        assert_eq!(forms.found_in(words.join("\0").as_bytes()), None, "{words:?}");
        let environment = environment.as_deref().unwrap_or_default();
        assert_eq!(forms.found_in(environment), None, "the environment of {words:?}");
    }
    assert_eq!(forms.found_in(said.join("\n").as_bytes()), None, "what `job run` says");
    for cell in Federation::CELLS {
        let running = study.cells.of(cell);
        let log = [running.err.so_far(), running.out.so_far()].concat();
        assert!(log.iter().any(|line| line.contains("TRACE")), "{cell} is at its loudest");
        assert_eq!(forms.found_in(log.join("\n").as_bytes()), None, "the log of {cell}");
    }
    // The keys of job cells are known to nobody. In whatever form, a key is a long word that is no path and no plain text.
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
