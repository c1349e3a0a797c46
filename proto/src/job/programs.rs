//! What a job may run: the programs that a cell's own configuration offers, and the one way to ask for one.
//!
//! A job names a program and fills its parameters. [`resolve`] is the only place where such a request
//! becomes something that can be launched; what it does not find, or does not find allowed, is refused, and
//! nothing takes its place.

use std::collections::{BTreeMap, BTreeSet};

use super::{PartSpec, SlurmRefusal, Value};
use crate::{
    name::Segment,
    policy::{End, Pattern},
};

/// A program that cells offer to jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSpec {
    /// What jobs call it.
    pub name: Segment,
    /// The cells that offer it.
    pub cells: Vec<Pattern>,
    /// What it is.
    pub run: ProgramRun,
    /// How it is started.
    pub launcher: LauncherKind,
    /// The values that a job may give it.
    pub parameters: BTreeMap<String, ParameterKind>,
    /// The variables that a job may set for it.
    pub environment: BTreeSet<String>,
    /// Whether a job may bring files, among them code.
    pub custom_code: bool,
    /// What it may use.
    pub limits: ProgramLimits,
    /// Seconds that a job may let it go on while its cell is away; `None` where it ends with its cell.
    pub detach_s: Option<u32>,
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramRun {
    /// A program of this binary, by its name there.
    Builtin(Segment),
    /// Something that is executed, with these arguments.
    Argv(Vec<ArgvPart>),
    /// Whatever somebody else starts and attaches: a notebook, a debugger, a step of a cluster job.
    Attached,
}

/// One argument of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgvPart {
    /// This text.
    Text(String),
    /// What the job gives for this parameter.
    Parameter(String),
}

/// How a program is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LauncherKind {
    /// As a process of the machine that the cell runs on.
    #[default]
    Process,
    /// As a batch job of the Slurm cluster that the cell uses.
    Slurm,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A whole number.
    Integer,
    /// A finite number, whole or not.
    Number,
    /// Yes or no.
    Boolean,
    /// 1 to 63 characters of `a-z`, `A-Z`, `0-9`, `_`, `.` and `-`, of which the first is a letter or digit.
    Word,
    /// At most 1024 bytes without control characters, which do not start with `-`.
    Text,
}

/// What a program may use; `None` is what the cell itself may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Seconds of processor time, for each of its processes.
    pub cpu_s: Option<u64>,
    /// MiB of address space, for each of its processes.
    pub memory_mib: Option<u64>,
    /// Open files, for each of its processes.
    pub open_files: Option<u64>,
    /// Processes and threads of the user that runs it; with a control group, those in it.
    pub processes: Option<u64>,
    /// MiB in the largest file that it writes.
    pub file_mib: Option<u64>,
    /// Processors that all of its processes keep busy together; applied where it has a control group.
    pub cpus: Option<u64>,
}

/// A program with everything that a job has said about it: what is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What is run.
    pub run: ResolvedRun,
    /// How it is started.
    pub launcher: LauncherKind,
    /// The variables that the job sets.
    pub environment: BTreeMap<String, String>,
    /// What it may use.
    pub limits: ProgramLimits,
    /// Seconds that it goes on while its cell is away; 0 where it ends with its cell.
    pub detach_s: u32,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedRun {
    /// A program of this binary.
    Builtin(Segment),
    /// This program with these arguments; at least one.
    Argv(Vec<String>),
    /// Nothing: somebody else starts it and attaches it.
    Attached,
}

/// Why a cell does not run what a job asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No program of this name is offered there.
    #[error("program `{0}` is not offered here")]
    Program(String),
    /// The job gives a value that the program does not take.
    #[error("program `{program}` has no parameter {parameter:?}")]
    Parameter {
        /// The program.
        program: Segment,
        /// What the job calls it.
        parameter: String,
    },
    /// The job gives a value of the wrong kind.
    #[error("parameter `{parameter}` of program `{program}` takes {takes}, not this {given}")]
    Kind {
        /// The program.
        program: Segment,
        /// The parameter.
        parameter: String,
        /// What it takes.
        takes: &'static str,
        /// What it was given.
        given: &'static str,
    },
    /// The program needs a value that the job does not give.
    #[error("program `{program}` needs a value for `{parameter}`")]
    Missing {
        /// The program.
        program: Segment,
        /// The parameter.
        parameter: String,
    },
    /// The job sets a variable that it may not set.
    #[error("program `{program}` lets no job set the variable {variable:?}")]
    Variable {
        /// The program.
        program: Segment,
        /// The variable.
        variable: String,
    },
    /// The value of a variable is no text for one.
    #[error("the value of `{0}` is longer than 4096 bytes or has control characters")]
    VariableValue(String),
    /// The job brings files, and may not.
    #[error("program `{0}` takes no files of a job here (custom_code)")]
    Files(Segment),
    /// The job asks a scheduler for something, and none runs the program.
    #[error("program `{0}` runs without a scheduler here, and takes no `resources`")]
    NoScheduler(String),
    /// The program is for a cluster, and the cell uses none.
    #[error("this cell uses no cluster")]
    NoCluster,
    /// The job asks the scheduler for what the cell does not let it ask for.
    #[error("resources: {0}")]
    Resources(#[from] SlurmRefusal),
    /// The job wants more than the program may use.
    #[error("program `{program}` may use {limit} MiB of memory here, the job wants {wanted}")]
    Memory {
        /// The program.
        program: Segment,
        /// The limit.
        limit: u64,
        /// What the job wants.
        wanted: u64,
    },
    /// The job wants a limit where the cell starts no process.
    #[error(
        "program `{0}` is started by somebody else, so that no memory_mib can be set for it here"
    )]
    Unlimited(Segment),
    /// The job wants it to go on without its cell, for longer than it may.
    #[error(
        "program `{program}` may go on for {limit} s without its cell (detach_s), the job wants {wanted}"
    )]
    Detach {
        /// The program.
        program: Segment,
        /// The limit; 0 where it ends with its cell.
        limit: u32,
        /// What the job wants.
        wanted: u32,
    },
}

impl LauncherKind {
    /// Every launcher.
    pub const ALL: [Self; 2] = [Self::Process, Self::Slurm];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Slurm => "slurm",
        }
    }
}

impl ParameterKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Integer, Self::Number, Self::Boolean, Self::Word, Self::Text];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Word => "word",
            Self::Text => "text",
        }
    }

    /// Whether `value` is of this kind.
    #[must_use]
    pub fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Integer, Value::Integer(_))
            | (Self::Number, Value::Integer(_))
            | (Self::Boolean, Value::Boolean(_)) => true,
            (Self::Number, Value::Number(number)) => number.is_finite(),
            (Self::Word, Value::Text(text)) => is_word(text),
            (Self::Text, Value::Text(text)) => {
                text.len() <= Value::TEXT_MAX
                    && !text.starts_with('-')
                    && !text.chars().any(char::is_control)
            }
            (Self::Integer | Self::Number | Self::Boolean | Self::Word | Self::Text, _) => false,
        }
    }
}

impl ProgramSpec {
    /// Whether the cell at this end offers it.
    #[must_use]
    pub fn is_offered_at(&self, cell: End<'_>) -> bool {
        self.cells.iter().any(|pattern| pattern.matches(cell))
    }
}

/// Whether `text` is a plain word: nothing that a shell, a path or an option could be made of.
#[must_use]
pub fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What a cell launches for a job that asks for `program` in this way. The name is compared as bytes.
///
/// # Errors
/// [`Refusal`]; nothing else may be launched instead.
pub fn resolve(
    programs: &[ProgramSpec],
    cell: End<'_>,
    program: &str,
    spec: &PartSpec,
) -> Result<Resolved, Refusal> {
    let offered = programs.iter().filter(|offered| offered.is_offered_at(cell));
    let found = offered.into_iter().find(|offered| offered.name.as_str() == program);
    let found = found.ok_or_else(|| Refusal::Program(shortened(program)))?;
    let name = || found.name.clone();
    for (parameter, value) in &spec.arguments {
        let kind = found.parameters.get(parameter).ok_or_else(|| Refusal::Parameter {
            program: name(),
            parameter: shortened(parameter),
        })?;
        if !kind.takes(value) {
            let (takes, given) = (kind.as_str(), value.kind());
            let parameter = parameter.clone();
            return Err(Refusal::Kind { program: name(), parameter, takes, given });
        }
    }
    for (variable, value) in &spec.environment {
        if !found.environment.contains(variable) {
            let variable = shortened(variable);
            return Err(Refusal::Variable { program: name(), variable });
        }
        if value.len() > 4096 || value.chars().any(char::is_control) {
            return Err(Refusal::VariableValue(variable.clone()));
        }
    }
    if !found.custom_code && !spec.files.0.is_empty() {
        return Err(Refusal::Files(name()));
    }
    let mut limits = found.limits;
    if let Some(wanted) = spec.memory_mib {
        match limits.memory_mib {
            Some(limit) if wanted > limit => {
                return Err(Refusal::Memory { program: name(), limit, wanted });
            }
            Some(_) | None => limits.memory_mib = Some(wanted),
        }
    }
    if found.run == ProgramRun::Attached && spec.memory_mib.is_some() {
        return Err(Refusal::Unlimited(name()));
    }
    let (limit, wanted) = (found.detach_s.unwrap_or(0), spec.detach_s);
    if wanted > limit {
        return Err(Refusal::Detach { program: name(), limit, wanted });
    }
    let run = match &found.run {
        ProgramRun::Attached => ResolvedRun::Attached,
        ProgramRun::Builtin(builtin) => ResolvedRun::Builtin(builtin.clone()),
        ProgramRun::Argv(parts) => {
            let filled = parts.iter().map(|part| match part {
                ArgvPart::Text(text) => Ok(text.clone()),
                ArgvPart::Parameter(parameter) => {
                    let value = spec.arguments.get(parameter).map(ToString::to_string);
                    value.ok_or_else(|| Refusal::Missing {
                        program: name(),
                        parameter: parameter.clone(),
                    })
                }
            });
            ResolvedRun::Argv(filled.collect::<Result<_, _>>()?)
        }
    };
    let environment = spec.environment.clone();
    Ok(Resolved { run, launcher: found.launcher, environment, limits, detach_s: wanted })
}

/// A text of somebody else, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::{Octets, body::Blob},
        identity::CellKind,
        job::{FileEntry, Manifest, SlurmRequest},
    };

    fn offered() -> Vec<ProgramSpec> {
        let argv = |parts: &[&str]| {
            let part = |part: &&str| match part.strip_prefix('{') {
                Some(name) => ArgvPart::Parameter(name.trim_end_matches('}').to_owned()),
                None => ArgvPart::Text((*part).to_owned()),
            };
            ProgramRun::Argv(parts.iter().map(part).collect())
        };
        let program = |name: &str, cells: &str, run| ProgramSpec {
            name: name.parse().unwrap(),
            cells: vec![cells.parse().unwrap()],
            run,
            launcher: LauncherKind::Process,
            parameters: BTreeMap::new(),
            environment: BTreeSet::new(),
            custom_code: false,
            limits: ProgramLimits::default(),
            detach_s: None,
        };
        let train = ProgramSpec {
            parameters: [
                ("rounds".to_owned(), ParameterKind::Integer),
                ("rate".to_owned(), ParameterKind::Number),
                ("model".to_owned(), ParameterKind::Word),
                ("note".to_owned(), ParameterKind::Text),
            ]
            .into(),
            environment: ["OMP_NUM_THREADS".to_owned()].into(),
            limits: ProgramLimits { memory_mib: Some(512), ..ProgramLimits::default() },
            ..program("train", "site-*", argv(&["trainer", "--rounds", "{rounds}"]))
        };
        vec![train, program("own", "site-2", argv(&["sh"]))]
    }

    fn spec() -> PartSpec {
        PartSpec {
            attempt: 1,
            server: "server.j".parse().unwrap(),
            sites: vec![],
            arguments: [("rounds".to_owned(), Value::Integer(3))].into(),
            environment: BTreeMap::new(),
            memory_mib: None,
            detach_s: 0,
            run: crate::job::RunId::from_random([7; 16]),
            resources: SlurmRequest::default(),
            start_s: 10,
            idle_s: 0,
            files: Manifest::default(),
            payload: Blob(vec![]),
        }
    }

    fn at(base: &str) -> End<'_> {
        End { base, kind: Some(CellKind::Client), org: None }
    }

    #[test]
    fn j_21_a_job_fills_parameters_and_changes_nothing_else() {
        let spec = spec();
        let resolved = resolve(&offered(), at("site-1"), "train", &spec).unwrap();
        let argv = ["trainer", "--rounds", "3"].map(str::to_owned).to_vec();
        assert_eq!(resolved.run, ResolvedRun::Argv(argv));
        assert_eq!(resolved.limits.memory_mib, Some(512));

        let wants = |change: &dyn Fn(&mut PartSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            resolve(&offered(), at("site-1"), "train", &spec)
        };
        assert!(wants(&|spec| spec.memory_mib = Some(100)).is_ok());
        assert!(matches!(wants(&|spec| spec.memory_mib = Some(513)), Err(Refusal::Memory { .. })));
        assert!(matches!(wants(&|spec| spec.arguments.clear()), Err(Refusal::Missing { .. })));
        let argument = |name: &str, value: Value| {
            wants(&|spec| {
                spec.arguments.insert(name.to_owned(), value.clone());
            })
        };
        let text = |text: &str| Value::Text(text.to_owned());
        assert!(argument("rate", Value::Integer(1)).is_ok());
        assert!(argument("model", text("resnet-18.v2")).is_ok());
        for hostile in ["", "-x", "--rounds", "a b", "a;b", "$(x)", "../x", "a/b", "é", "a\n"] {
            assert!(
                matches!(argument("model", text(hostile)), Err(Refusal::Kind { .. })),
                "{hostile:?}"
            );
        }
        assert!(matches!(argument("note", text("--x")), Err(Refusal::Kind { .. })));
        assert!(matches!(argument("note", text("a\0b")), Err(Refusal::Kind { .. })));
        assert!(matches!(argument("rate", Value::Number(f64::NAN)), Err(Refusal::Kind { .. })));
        assert!(matches!(argument("rounds", Value::Number(1.5)), Err(Refusal::Kind { .. })));
        assert!(matches!(argument("rounds", Value::Boolean(true)), Err(Refusal::Kind { .. })));
        for unknown in ["argv", "image", "launcher", "privileged", "Rounds", "rounds "] {
            let refused = argument(unknown, Value::Integer(1));
            assert!(matches!(refused, Err(Refusal::Parameter { .. })), "{unknown}");
        }
    }

    #[test]
    fn j_21_how_long_a_program_goes_on_without_its_cell_is_the_cells_to_say() {
        let wants = |limit: Option<u32>, detach_s: u32| {
            let mut offered = offered();
            offered[0].detach_s = limit;
            let resolved =
                resolve(&offered, at("site-1"), "train", &PartSpec { detach_s, ..spec() });
            resolved.map(|resolved| resolved.detach_s)
        };
        assert_eq!((wants(None, 0), wants(Some(60), 0)), (Ok(0), Ok(0)));
        assert_eq!(wants(Some(60), 60), Ok(60));
        for (limit, wanted) in [(None, 1), (Some(60), 61)] {
            let refused = wants(limit, wanted);
            assert!(matches!(refused, Err(Refusal::Detach { .. })), "{refused:?}");
        }
    }

    #[test]
    fn c_11_what_somebody_else_starts_is_told_no_limit_that_nobody_would_apply() {
        let mut offered = offered();
        offered[0].run = ProgramRun::Attached;
        let resolved = resolve(&offered, at("site-1"), "train", &spec()).unwrap();
        assert_eq!(resolved.run, ResolvedRun::Attached);
        let limited = PartSpec { memory_mib: Some(1), ..spec() };
        let refused = resolve(&offered, at("site-1"), "train", &limited);
        assert!(matches!(refused, Err(Refusal::Unlimited(_))), "{refused:?}");
    }

    #[test]
    fn c_15_a_job_sets_only_the_variables_that_the_cell_names() {
        let with = |name: &str, value: &str| {
            let environment = [(name.to_owned(), value.to_owned())].into();
            resolve(&offered(), at("site-1"), "train", &PartSpec { environment, ..spec() })
        };
        assert!(with("OMP_NUM_THREADS", "2").is_ok());
        assert!(matches!(with("OMP_NUM_THREADS", "2\n"), Err(Refusal::VariableValue(_))));
        for hostile in ["LD_PRELOAD", "PATH", "PYTHONPATH", "omp_num_threads", "", "A=B"] {
            assert!(matches!(with(hostile, "x"), Err(Refusal::Variable { .. })), "{hostile}");
        }
    }

    #[test]
    fn j_21_files_come_only_where_the_cell_takes_code() {
        let entry =
            FileEntry { path: "a".into(), len: 0, is_executable: true, digest: Octets([0; 32]) };
        let spec = PartSpec { files: Manifest(vec![entry]), ..spec() };
        let refused = resolve(&offered(), at("site-1"), "train", &spec);
        assert!(matches!(refused, Err(Refusal::Files(_))), "{refused:?}");
        let mut offered = offered();
        offered[0].custom_code = true;
        assert!(resolve(&offered, at("site-1"), "train", &spec).is_ok());
    }

    #[test]
    fn s0_02_a_hostile_name_is_no_program_whoever_asks() {
        let corpus = [
            "",
            " ",
            "train ",
            " train",
            "Train",
            "TRAIN",
            "trаin",
            "train\0",
            "train\n",
            "tra",
            "trainx",
            "./train",
            "/bin/sh",
            "sh",
            "../train",
            "train.so",
            "lib:train",
            "os.system",
            "eval",
            "builtins.exec",
            "learn-trainer",
            "own",
            "*",
            "site-1",
            "{rounds}",
            "train;sh",
            "train|sh",
        ];
        for name in corpus.into_iter().map(str::to_owned).chain([("x".repeat(10_000))]) {
            let refused = resolve(&offered(), at("site-1"), &name, &spec());
            let Err(error @ Refusal::Program(_)) = refused else { panic!("{name:?}: {refused:?}") };
            let said = error.to_string();
            assert!(said.len() < 1000 && !said.chars().any(char::is_control), "{said:?}");
        }
        // Offered elsewhere is not offered here.
        assert!(
            resolve(&offered(), at("site-2"), "own", &PartSpec { arguments: [].into(), ..spec() })
                .is_ok()
        );
        assert!(resolve(&offered(), at("server"), "train", &spec()).is_err());
    }
}
