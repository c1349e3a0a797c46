//! `[[program]]`: what jobs may run at which cells, and how far they may say how.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    draft,
    job_file::JobPart,
    parse::Table,
    problem::{Code, Problem, Problems},
    rules::{self, Cells},
    wording::{listed, nearest, quoted},
};
use crate::{
    job::{ArgvPart, LauncherKind, ParameterKind, ProgramLimits, ProgramRun, ProgramSpec, is_word},
    policy::Effect,
};

/// `[[program]]`: what jobs may run at some cells.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Program")]
pub struct RawProgram {
    /// What jobs call it.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub name: Option<Spanned<String>>,
    /// The cells that offer it: base names, `site-*`, `kind:client`, `org:acme` or `*`.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub cells: Option<Spanned<Vec<Spanned<String>>>>,
    /// The program and its arguments, where it is a program of the machine. `{rounds}` is what the job gives for
    /// the parameter `rounds`.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub argv: Option<Spanned<Vec<Spanned<String>>>>,
    /// The program of `cellbus` itself, where it is one.
    #[schemars(with = "Option<String>")]
    pub builtin: Option<Spanned<String>>,
    /// Whether it is a process that somebody else starts, and attaches with `cellbus job attach`.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub attach: Option<Spanned<bool>>,
    /// Seconds that a job may let it go on while its cell is away; without it, it ends with its cell.
    #[schemars(with = "Option<u32>", range(min = 1, max = 86400))]
    pub detach_s: Option<Spanned<u64>>,
    /// How it is started.
    #[schemars(with = "Option<String>", extend("enum" = ["process", "slurm"], "default" = "process"))]
    pub launcher: Option<Spanned<String>>,
    /// The values that a job may give it, and of which kind they are.
    #[schemars(with = "Option<BTreeMap<String, FileParameter>>")]
    pub parameters: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
    /// The variables that a job may set for it.
    #[schemars(with = "Option<Vec<String>>")]
    pub environment: Option<Spanned<Vec<Spanned<String>>>>,
    /// Whether a job may bring files, among them code that then runs here.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub custom_code: Option<Spanned<bool>>,
    /// Seconds of processor time, for each process.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub cpu_s: Option<Spanned<u64>>,
    /// MiB of address space, for each process.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// Open files, for each process.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub open_files: Option<Spanned<u64>>,
    /// Processes and threads of the user that runs it.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub processes: Option<Spanned<u64>>,
    /// MiB in the largest file that it writes.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub file_mib: Option<Spanned<u64>>,
    /// Processors that all of its processes keep busy together; applied where the cell has control groups.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub cpus: Option<Spanned<u64>>,
}

/// The kinds of values that a file can state.
#[derive(JsonSchema)]
#[schemars(rename = "Parameter", rename_all = "lowercase")]
#[expect(dead_code, reason = "states the choices in the schema")]
enum FileParameter {
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
    /// A plain word.
    Word,
    /// A text.
    Text,
}

/// Arguments of the longest list.
const ARGV_MAX: usize = 64;
/// Bytes in the longest argument.
const ARGUMENT_MAX: usize = 1024;

/// The programs that could be read; what is bad has been reported.
pub(super) fn read(
    tables: &[Table<RawProgram>],
    cells: &Cells<'_>,
    problems: &mut Problems,
) -> Vec<ProgramSpec> {
    let mut read: Vec<(ProgramSpec, std::ops::Range<usize>)> = Vec::new();
    for table in tables {
        let Some(program) = program(table, cells, problems) else { continue };
        let span = table.raw.name.as_ref().map_or_else(|| table.span.clone(), Spanned::span);
        let same = |(other, _): &&(ProgramSpec, _)| {
            let meets = other.cells.iter().any(|cell| program.cells.contains(cell));
            other.name == program.name && meets
        };
        if let Some((_, first)) = read.iter().find(same) {
            let message = format!("two programs are called `{}` at one cell", program.name);
            problems.add(
                Problem::new(Code::RepeatedProgram, span, message, "again here")
                    .also(first.clone(), "first here")
                    .help("a job names a program by its name alone; give one another name"),
            );
            continue;
        }
        read.push((program, span));
    }
    read.into_iter().map(|(program, _)| program).collect()
}

fn program(
    table: &Table<RawProgram>,
    cells: &Cells<'_>,
    problems: &mut Problems,
) -> Option<ProgramSpec> {
    let raw = &table.raw;
    for (key, is_there) in [("name", raw.name.is_some()), ("cells", raw.cells.is_some())] {
        if !is_there && !table.is_broken(key) {
            let message = format!("a program has no `{key}`");
            let label = format!("no `{key}` here");
            let help = match key {
                "name" => "write what jobs call it",
                _ => "write which cells offer it, such as cells = [\"site-*\"]",
            };
            problems
                .add(Problem::new(Code::Missing, table.span.clone(), message, label).help(help));
        }
    }
    let name = raw.name.as_ref().and_then(|name| draft::plain_name("name", name, problems));
    let patterns = raw.cells.as_ref().map(|list| {
        let texts = list.get_ref().iter();
        texts
            .map(|text| rules::pattern(Effect::Allow, text, cells, problems))
            .collect::<Option<Vec<_>>>()
    });
    if let Some(list) = raw.cells.as_ref().filter(|list| list.get_ref().is_empty()) {
        let message = "no cell offers this program";
        let problem = Problem::new(Code::Missing, list.span(), message, "an empty list");
        problems.add(problem.help("name the cells, or leave the program out"));
    }
    let parameters = parameters(raw, problems);
    let environment = environment(raw, problems);
    let custom_code = raw.custom_code.as_ref().is_some_and(|code| *code.get_ref());
    let launcher = launcher(raw, problems);
    if launcher == Some(LauncherKind::Slurm) {
        not_of_a_cluster(raw, problems);
    }
    let run = run(table, parameters.as_ref(), custom_code, problems);
    let mut positive = |limit: &Option<Spanned<u64>>, key: &str| {
        let limit = limit.as_ref()?;
        if *limit.get_ref() == 0 {
            let message = format!("`{key}` is 0, so that nothing could run");
            problems.add(
                Problem::new(Code::LimitRange, limit.span(), message, "must be at least 1")
                    .help("leave it out where there is to be no limit"),
            );
        }
        Some(*limit.get_ref())
    };
    let limits = ProgramLimits {
        cpu_s: positive(&raw.cpu_s, "cpu_s"),
        memory_mib: positive(&raw.memory_mib, "memory_mib"),
        open_files: positive(&raw.open_files, "open_files"),
        processes: positive(&raw.processes, "processes"),
        file_mib: positive(&raw.file_mib, "file_mib"),
        cpus: positive(&raw.cpus, "cpus"),
    };
    let detach_s = raw.detach_s.as_ref().map(|detach| {
        let most = u64::from(JobPart::DETACH_MAX_S);
        if !(1..=most).contains(detach.get_ref()) {
            let message = format!("`detach_s` is {}, it must be 1 to {most}", detach.get_ref());
            let problem = Problem::new(Code::LimitRange, detach.span(), message, "out of range");
            problems.add(problem.help("leave it out where the program is to end with its cell"));
        }
        u32::try_from(*detach.get_ref()).unwrap_or(JobPart::DETACH_MAX_S)
    });
    Some(ProgramSpec {
        name: name?,
        cells: patterns??,
        run: run?,
        launcher: launcher?,
        parameters: parameters?,
        environment: environment?,
        custom_code,
        limits,
        detach_s,
    })
}

fn parameters(
    raw: &RawProgram,
    problems: &mut Problems,
) -> Option<BTreeMap<String, ParameterKind>> {
    let Some(given) = &raw.parameters else { return Some(BTreeMap::new()) };
    let mut read = BTreeMap::new();
    let mut is_good = true;
    for (name, kind) in given.get_ref() {
        if !is_word(name) {
            let message = format!("{} cannot be the name of a parameter", quoted(name));
            let problem = Problem::new(Code::BadParameter, kind.span(), message, "of this one");
            problems.add(problem.help("write letters, digits, `_`, `-` and `.`"));
            is_good = false;
            continue;
        }
        let text = kind.get_ref();
        match ParameterKind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            Some(kind) => drop(read.insert(name.clone(), kind)),
            None => {
                let words = ParameterKind::ALL.map(ParameterKind::as_str);
                let message = format!("{} is no kind of parameter", quoted(text));
                let problem = Problem::new(Code::BadParameter, kind.span(), message, "not a kind");
                problems.add(problem.help(match nearest(text, words) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("kinds are {}", listed(words)),
                }));
                is_good = false;
            }
        }
    }
    is_good.then_some(read)
}

fn environment(raw: &RawProgram, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let Some(given) = &raw.environment else { return Some(BTreeSet::new()) };
    let mut read = BTreeSet::new();
    let mut is_good = true;
    for variable in given.get_ref() {
        let text = variable.get_ref();
        match forbidden(text) {
            None => drop(read.insert(text.clone())),
            Some((label, help)) => {
                let message = format!("no job can be let set {}", quoted(text));
                let problem = Problem::new(Code::BadVariable, variable.span(), message, label);
                problems.add(problem.help(help));
                is_good = false;
            }
        }
    }
    is_good.then_some(read)
}

/// Why a variable is not one that a job could be let set.
fn forbidden(name: &str) -> Option<(&'static str, &'static str)> {
    let is_name = name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return Some((
            "not a name",
            "variables are letters, digits and `_`, and start with no digit",
        ));
    }
    if name.starts_with("CELLBUS_") {
        return Some(("set by the cell", "jobs are told what they need by these; leave it out"));
    }
    let loads_code = name.starts_with("LD_")
        || name.starts_with("BASH_")
        || name.starts_with("GCONV_")
        || name.starts_with("MALLOC_")
        || matches!(
            name,
            "PATH"
                | "HOME"
                | "IFS"
                | "ENV"
                | "SHELL"
                | "PYTHONSTARTUP"
                | "PYTHONHOME"
                | "PERL5OPT"
                | "NODE_OPTIONS"
                | "RUBYOPT"
        );
    let help = "it decides what code runs; set it in a script that argv names, if it must be";
    loads_code.then_some(("decides what runs", help))
}

fn launcher(raw: &RawProgram, problems: &mut Problems) -> Option<LauncherKind> {
    let Some(launcher) = &raw.launcher else { return Some(LauncherKind::default()) };
    let text = launcher.get_ref();
    let found = LauncherKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    if found.is_none() {
        let message = format!("{} is no launcher", quoted(text));
        let problem = Problem::new(Code::BadChoice, launcher.span(), message, "not a launcher");
        let words = LauncherKind::ALL.map(LauncherKind::as_str);
        problems.add(problem.help(format!("launchers are {}", listed(words))));
    }
    found
}

/// What a program cannot have that a cluster runs.
fn not_of_a_cluster(raw: &RawProgram, problems: &mut Problems) {
    if let Some(attach) = raw.attach.as_ref().filter(|attach| *attach.get_ref()) {
        let message = "a program that somebody else starts is given to a cluster";
        let mut problem =
            Problem::new(Code::BadProgram, attach.span(), message, "somebody else starts it");
        if let Some(launcher) = &raw.launcher {
            problem = problem.also(launcher.span(), "the cluster starts it");
        }
        problems.add(problem.help(
            "leave out `launcher`: its job cell then waits at the cell, where `cellbus job attach` opens it",
        ));
    }
    if let Some(cpus) = &raw.cpus {
        let message = "`cpus` has no effect on a program that a cluster runs";
        let problem = Problem::new(Code::BadProgram, cpus.span(), message, "nobody would apply it");
        problems.add(problem.help("write it under [slurm.request], or let jobs ask for it"));
    }
}

fn run(
    table: &Table<RawProgram>,
    parameters: Option<&BTreeMap<String, ParameterKind>>,
    custom_code: bool,
    problems: &mut Problems,
) -> Option<ProgramRun> {
    let raw = &table.raw;
    let attach = raw.attach.as_ref().filter(|attach| *attach.get_ref());
    match (&raw.argv, &raw.builtin) {
        (None, None) if attach.is_some() => attached(table, problems),
        (argv, builtin) if attach.is_some() && (argv.is_some() || builtin.is_some()) => {
            let message = "a program that somebody else starts has `argv` or `builtin` as well";
            let problem =
                Problem::new(Code::BadProgram, table.span.clone(), message, "who starts it?");
            problems.add(problem.help("leave out `attach`, or what the cell would start"));
            None
        }
        (Some(argv), None) => argv_of(argv, parameters, custom_code, problems),
        (None, Some(builtin)) => {
            draft::plain_name("builtin", builtin, problems).map(ProgramRun::Builtin)
        }
        (None, None)
            if ["argv", "builtin", "attach"].into_iter().any(|key| table.is_broken(key)) =>
        {
            None
        }
        (given, _) => {
            let both = given.is_some();
            let message = if both {
                "a program has both `argv` and `builtin`"
            } else {
                "a program has neither `argv` nor `builtin`"
            };
            let problem =
                Problem::new(Code::BadProgram, table.span.clone(), message, "what does it run?");
            problems.add(problem.help(
                "write argv = [\"python3\", \"trainer.py\"] for a program of the machine, or builtin = \"..\"",
            ));
            None
        }
    }
}

/// What somebody else starts cannot be told what the cell tells its own processes.
fn attached(table: &Table<RawProgram>, problems: &mut Problems) -> Option<ProgramRun> {
    let raw = &table.raw;
    let given = [
        ("environment", raw.environment.as_ref().map(Spanned::span)),
        ("cpu_s", raw.cpu_s.as_ref().map(Spanned::span)),
        ("memory_mib", raw.memory_mib.as_ref().map(Spanned::span)),
        ("open_files", raw.open_files.as_ref().map(Spanned::span)),
        ("processes", raw.processes.as_ref().map(Spanned::span)),
        ("file_mib", raw.file_mib.as_ref().map(Spanned::span)),
        ("cpus", raw.cpus.as_ref().map(Spanned::span)),
    ];
    let mut is_good = true;
    for (key, span) in given {
        let Some(span) = span else { continue };
        let message = format!("`{key}` has no effect on a program that somebody else starts");
        let problem = Problem::new(Code::BadProgram, span, message, "nobody would apply it");
        problems.add(problem.help("leave it out, or `attach`"));
        is_good = false;
    }
    is_good.then_some(ProgramRun::Attached)
}

fn argv_of(
    argv: &Spanned<Vec<Spanned<String>>>,
    parameters: Option<&BTreeMap<String, ParameterKind>>,
    custom_code: bool,
    problems: &mut Problems,
) -> Option<ProgramRun> {
    let list = argv.get_ref();
    if list.is_empty() || list.len() > ARGV_MAX {
        let message = format!("`argv` has {} parts; it must have 1 to {ARGV_MAX}", list.len());
        problems.add(
            Problem::new(Code::BadArgument, argv.span(), message, "here")
                .help("write the program first, then its arguments"),
        );
        return None;
    }
    let mut parts = Vec::new();
    let mut is_good = true;
    for (index, argument) in list.iter().enumerate() {
        let text = argument.get_ref();
        let mut bad = |code, message: String, label: &str, help: String| {
            problems.add(Problem::new(code, argument.span(), message, label).help(help));
            is_good = false;
        };
        let is_text = text.len() <= ARGUMENT_MAX && !text.chars().any(char::is_control);
        if !is_text || (index == 0 && text.is_empty()) {
            let message = format!("{} cannot be an argument", quoted(text));
            let help = "arguments are at most 1024 bytes of text without control characters";
            bad(Code::BadArgument, message, "not an argument", help.to_owned());
            continue;
        }
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match inner {
            Some(name) if index > 0 => {
                if let Some(known) = parameters.filter(|known| !known.contains_key(name)) {
                    let message = format!("{} is no parameter of this program", quoted(name));
                    let help = match nearest(name, known.keys().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{{{meant}}}`?"),
                        None => "list it in `parameters`, with its kind".to_owned(),
                    };
                    bad(Code::BadParameter, message, "no such parameter", help);
                    continue;
                }
                parts.push(ArgvPart::Parameter(name.to_owned()));
            }
            Some(_) => {
                let message = "a job cannot choose the program".to_owned();
                let help = "write the program itself; parameters can stand behind it".to_owned();
                bad(Code::BadArgument, message, "a parameter", help);
            }
            None if index == 0 && is_from_job(text) && !custom_code => {
                let message = format!("{} comes from the files of a job", quoted(text));
                let help = "write an absolute path or a name found in PATH, or custom_code = true if jobs \
                            may bring code here";
                bad(Code::CodeWithoutConsent, message, "a relative path", help.to_owned());
            }
            None => parts.push(ArgvPart::Text(text.clone())),
        }
    }
    is_good.then_some(ProgramRun::Argv(parts))
}

/// Whether a program is looked for in the directory that it starts in.
fn is_from_job(program: &str) -> bool {
    program.contains('/') && !program.starts_with('/')
}
