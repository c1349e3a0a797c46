//! `job.toml`: what a job is, in the words of whoever runs it.
//!
//! [`parse`] says everything that is wrong at once, in the same form as for topology files. What the cells
//! let a job run is not known here; they are asked when the job is started.

use std::{collections::BTreeMap, fmt, ops::Range};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use toml::{Spanned, de::DeTable};

use super::{
    TEXT_MAX_BYTES,
    clusters::{self, RawResources},
    draft,
    parse::{self, Table},
    problem::{Code, Problem, Problems},
    raw::keys_of,
    wording::quoted,
};
use crate::{
    job::{SlurmRequest, Value, is_word},
    name::Segment,
    policy::Pattern,
};

/// A job, as its file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFile {
    /// Its name.
    pub name: Segment,
    /// What runs at the server.
    pub server: JobPart,
    /// What runs at the relays between, where anything does.
    pub relay: Option<JobPart>,
    /// Those relays: every one that one of these is about, and that has a site of the job below it.
    pub relays: Vec<Pattern>,
    /// What runs at each site.
    pub site: JobPart,
    /// The sites: every one that one of these is about.
    pub sites: Vec<Pattern>,
    /// How long it may take.
    pub budget: JobBudget,
    /// The directory with the files that travel with it, relative to that of the file; `None` for no files.
    pub files: Option<String>,
}

/// What runs in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPart {
    /// The program, as the cells call it.
    pub program: Segment,
    /// Values for its parameters.
    pub arguments: BTreeMap<String, Value>,
    /// Variables for it.
    pub environment: BTreeMap<String, String>,
    /// MiB of memory that it may use at most.
    pub memory_mib: Option<u64>,
    /// Seconds that it goes on while its cell is away; 0 where it ends with its cell, as at the server.
    pub detach_s: u32,
    /// What is asked of the scheduler that runs the program, where one does.
    pub resources: SlurmRequest,
    /// Whether the files of the job go there.
    pub has_files: bool,
}

impl JobPart {
    /// The longest time that a program goes on without its cell, in seconds.
    pub const DETACH_MAX_S: u32 = 86_400;
}

/// How long a job may take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobBudget {
    /// From its beginning to its end; 0 for any time.
    pub total_s: u32,
    /// From its beginning until every part runs.
    pub start_s: u32,
    /// Without a message of a part's program; 0 for any time.
    pub idle_s: u32,
    /// From the end of the server's part to that of the sites'.
    pub finish_s: u32,
}

impl Default for JobBudget {
    fn default() -> Self {
        Self { total_s: 0, start_s: 60, idle_s: 0, finish_s: 30 }
    }
}

/// A job that can be run on the cells of a topology.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobFile", title = "cellbus job")]
#[expect(dead_code, reason = "tables are read one by one; this states their keys and the schema")]
pub(super) struct RawJobFile {
    /// The job as a whole.
    pub job: RawJob,
    /// What runs at the server.
    pub server: RawServerPart,
    /// What runs at relays, between the server and the sites below them.
    #[serde(default)]
    pub relay: Option<RawRelayPart>,
    /// What runs at each site.
    pub site: RawSitePart,
    /// How long it may take.
    #[serde(default)]
    pub budget: Option<RawBudget>,
    /// The files that travel with it.
    #[serde(default)]
    pub files: Option<RawFiles>,
}

/// `[job]`: the job as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Job")]
pub(super) struct RawJob {
    /// Its name; the last level of the names of its cells.
    #[schemars(with = "String", extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub name: Option<Spanned<String>>,
}

/// `[server]`: what runs at the server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServerPart")]
pub(super) struct RawServerPart {
    /// The program, as the topology calls it.
    #[schemars(with = "String")]
    pub program: Option<Spanned<String>>,
    /// Values for its parameters.
    #[schemars(with = "Option<BTreeMap<String, RawValue>>")]
    pub arguments: Option<Spanned<BTreeMap<String, Spanned<RawValue>>>>,
    /// Variables for it.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub environment: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
    /// MiB of memory that it may use at most.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// What is asked of the scheduler that runs the program, where one does.
    #[schemars(with = "Option<RawResources>")]
    pub resources: Option<Spanned<RawResources>>,
    /// Whether the files of the job go there; they do, where there are any.
    #[schemars(with = "Option<bool>")]
    pub files: Option<Spanned<bool>>,
}

/// `[relay]`: what runs at relays, between the server and the sites below them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RelayPart")]
pub(super) struct RawRelayPart {
    /// The program, as the topology calls it.
    #[schemars(with = "String")]
    pub program: Option<Spanned<String>>,
    /// The relays: base names, `relay-*`, `org:acme`; every one with a site of the job below it where left out.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub relays: Option<Spanned<Vec<Spanned<String>>>>,
    /// Values for its parameters.
    #[schemars(with = "Option<BTreeMap<String, RawValue>>")]
    pub arguments: Option<Spanned<BTreeMap<String, Spanned<RawValue>>>>,
    /// Variables for it.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub environment: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
    /// MiB of memory that it may use at most.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// What is asked of the scheduler that runs the program, where one does.
    #[schemars(with = "Option<RawResources>")]
    pub resources: Option<Spanned<RawResources>>,
    /// Whether the files of the job go there; they do, where there are any.
    #[schemars(with = "Option<bool>")]
    pub files: Option<Spanned<bool>>,
}

/// `[site]`: what runs at each site.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SitePart")]
pub(super) struct RawSitePart {
    /// The program, as the topology calls it.
    #[schemars(with = "String")]
    pub program: Option<Spanned<String>>,
    /// The sites: base names, `site-*`, `org:acme`; every site where left out.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub sites: Option<Spanned<Vec<Spanned<String>>>>,
    /// Values for its parameters.
    #[schemars(with = "Option<BTreeMap<String, RawValue>>")]
    pub arguments: Option<Spanned<BTreeMap<String, Spanned<RawValue>>>>,
    /// Variables for it.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub environment: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
    /// MiB of memory that it may use at most.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// Seconds that programs at sites go on while their cell is away; without it, they end with it.
    #[schemars(with = "Option<u32>", range(min = 1, max = 86400))]
    pub detach_s: Option<Spanned<u64>>,
    /// What is asked of the scheduler that runs the program, where one does.
    #[schemars(with = "Option<RawResources>")]
    pub resources: Option<Spanned<RawResources>>,
    /// Whether the files of the job go there; they do, where there are any.
    #[schemars(with = "Option<bool>")]
    pub files: Option<Spanned<bool>>,
}

/// `[budget]`: how long a job may take, in seconds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub(super) struct RawBudget {
    /// From its beginning to its end; 0 for any time.
    #[schemars(with = "Option<u32>", extend("default" = 0))]
    pub total_s: Option<Spanned<u64>>,
    /// From its beginning until every part runs.
    #[schemars(with = "Option<u32>", range(min = 1), extend("default" = 60))]
    pub start_s: Option<Spanned<u64>>,
    /// Without a message of a part's program; 0 for any time.
    #[schemars(with = "Option<u32>", extend("default" = 0))]
    pub idle_s: Option<Spanned<u64>>,
    /// From the end of the server's part to that of the sites'.
    #[schemars(with = "Option<u32>", range(min = 1), extend("default" = 30))]
    pub finish_s: Option<Spanned<u64>>,
}

/// `[files]`: the files that travel with a job.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Files")]
pub(super) struct RawFiles {
    /// The directory that they are in, relative to that of this file; `.` for that one itself, without this file.
    #[schemars(with = "String")]
    pub directory: Option<Spanned<String>>,
}

/// A value for a parameter.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "Value", untagged)]
pub(super) enum RawValue {
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Boolean(bool),
    /// A text.
    Text(String),
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = RawValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text, true or false")
            }

            fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
                Ok(RawValue::Integer(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
                Ok(RawValue::Number(value))
            }

            fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
                Ok(RawValue::Boolean(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
                Ok(RawValue::Text(value.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a job from the text of its file.
///
/// # Errors
/// Every [`Problem`] that the text has, in the order of the text.
pub fn parse(text: &str) -> Result<JobFile, Vec<Problem>> {
    let mut problems = Problems::default();
    if text.len() > TEXT_MAX_BYTES {
        let message = format!("the file has {} bytes, the limit is {TEXT_MAX_BYTES}", text.len());
        problems.add(Problem::new(Code::TooLarge, 0..0, message, ""));
        return Err(problems.into_sorted());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    let tables = Tables::read(document.into_inner(), &mut problems);
    let job = tables.settle(is_toml, &mut problems);
    if !is_toml {
        super::report_syntax(text, errors, &mut problems);
    }
    match job {
        Some(job) if !problems.has_errors() => Ok(job),
        _ => Err(problems.into_sorted()),
    }
}

#[derive(Default)]
struct Tables {
    job: Option<Table<RawJob>>,
    server: Option<Table<RawServerPart>>,
    relay: Option<Table<RawRelayPart>>,
    site: Option<Table<RawSitePart>>,
    budget: Option<Table<RawBudget>>,
    files: Option<Table<RawFiles>>,
    broken: Vec<String>,
}

/// What both kinds of part have.
struct PartOf<'a> {
    section: &'static str,
    span: Range<usize>,
    lacks_program: bool,
    program: Option<&'a Spanned<String>>,
    arguments: Option<&'a Spanned<BTreeMap<String, Spanned<RawValue>>>>,
    environment: Option<&'a Spanned<BTreeMap<String, Spanned<String>>>>,
    memory_mib: Option<&'a Spanned<u64>>,
    resources: Option<&'a Spanned<RawResources>>,
    files: Option<&'a Spanned<bool>>,
}

macro_rules! part_of {
    ($table:expr, $section:literal) => {
        PartOf {
            section: $section,
            span: $table.span.clone(),
            lacks_program: $table.raw.program.is_none() && !$table.is_broken("program"),
            program: $table.raw.program.as_ref(),
            arguments: $table.raw.arguments.as_ref(),
            environment: $table.raw.environment.as_ref(),
            memory_mib: $table.raw.memory_mib.as_ref(),
            resources: $table.raw.resources.as_ref(),
            files: $table.raw.files.as_ref(),
        }
    };
}

impl Tables {
    fn read(document: DeTable<'_>, problems: &mut Problems) -> Self {
        let mut tables = Self::default();
        macro_rules! one {
            ($key:literal, $value:expr, $span:expr, $into:ident) => {
                match parse::one_table($key, $value, problems) {
                    Some(table) => {
                        let place = concat!("[", $key, "]");
                        tables.$into = Some(parse::read(table, $span, place, problems));
                    }
                    None => tables.broken.push($key.to_owned()),
                }
            };
        }
        for (key, value) in document {
            let span = value.span();
            match key.get_ref().as_ref() {
                "job" => one!("job", value, span, job),
                "server" => one!("server", value, span, server),
                "relay" => one!("relay", value, span, relay),
                "site" => one!("site", value, span, site),
                "budget" => one!("budget", value, span, budget),
                "files" => one!("files", value, span, files),
                _ => {
                    let known = keys_of::<RawJobFile>();
                    let meant =
                        parse::unknown_key(&key, &value, "at the top level", known, problems);
                    tables.broken.extend(meant.map(str::to_owned));
                }
            }
        }
        tables
    }

    fn settle(&self, is_toml: bool, problems: &mut Problems) -> Option<JobFile> {
        let sections = [
            ("job", self.job.is_some(), "with name = \"..\""),
            ("server", self.server.is_some(), "with program = \"..\", what runs at the server"),
            ("site", self.site.is_some(), "with program = \"..\", what runs at each site"),
        ];
        for (section, is_there, help) in sections {
            if !is_there && is_toml && !self.broken.iter().any(|broken| broken == section) {
                let message = format!("the file has no [{section}]");
                let problem = Problem::new(Code::Missing, 0..0, message, "");
                problems.add(problem.help(format!("add [{section}] {help}")));
            }
        }
        let has_files = self.files.is_some();
        let job = self.job.as_ref();
        if let Some(table) =
            job.filter(|table| table.raw.name.is_none() && !table.is_broken("name"))
        {
            let problem = Problem::new(
                Code::Missing,
                table.span.clone(),
                "the job has no `name`",
                "no `name` here",
            );
            problems
                .add(problem.help("write name = \"..\", the last level of the names of its cells"));
        }
        let name = job.and_then(|table| table.raw.name.as_ref());
        let name = name.and_then(|name| draft::plain_name("name", name, problems));
        let server = self
            .server
            .as_ref()
            .and_then(|table| part(&part_of!(table, "server"), has_files, problems));
        let relay = self.relay.as_ref().map(|table| {
            let relays = table.raw.relays.as_ref();
            let relays = relays
                .map_or(Some(vec![Pattern::Any]), |relays| patterns("relays", relays, problems));
            (part(&part_of!(table, "relay"), has_files, problems), relays)
        });
        let site = self
            .site
            .as_ref()
            .and_then(|table| part(&part_of!(table, "site"), has_files, problems));
        let detach = self.site.as_ref().and_then(|table| table.raw.detach_s.as_ref());
        let site = site.map(|part| JobPart { detach_s: detach_s(detach, problems), ..part });
        let sites = self.site.as_ref().and_then(|table| table.raw.sites.as_ref());
        let sites =
            sites.map_or(Some(vec![Pattern::Any]), |sites| patterns("sites", sites, problems));
        let budget = budget(self.budget.as_ref(), problems);
        let files = match &self.files {
            None => Some(None),
            Some(table) => directory(table, problems).map(Some),
        };
        let (relay, relays) = match relay {
            Some((relay, relays)) => (Some(relay?), relays?),
            None => (None, Vec::new()),
        };
        let (name, server, site) = (name?, server?, site?);
        Some(JobFile { name, server, relay, relays, site, sites: sites?, budget, files: files? })
    }
}

fn part(part: &PartOf<'_>, has_files: bool, problems: &mut Problems) -> Option<JobPart> {
    if part.lacks_program {
        let message = format!("[{}] has no `program`", part.section);
        let problem = Problem::new(Code::Missing, part.span.clone(), message, "no `program` here");
        problems.add(problem.help("write the name of a [[program]] of the topology"));
    }
    let program = part.program.and_then(|text| draft::plain_name("program", text, problems));
    let mut is_good = true;
    let mut bad = |code, span, message: String, label: &str, help: &str| {
        problems.add(Problem::new(code, span, message, label).help(help));
        is_good = false;
    };
    let mut arguments = BTreeMap::new();
    for (name, value) in part.arguments.map(Spanned::get_ref).into_iter().flatten() {
        let read = match value.get_ref() {
            RawValue::Integer(value) => Value::Integer(*value),
            RawValue::Number(value) => Value::Number(*value),
            RawValue::Boolean(value) => Value::Boolean(*value),
            RawValue::Text(value) => Value::Text(value.clone()),
        };
        let is_value = match &read {
            Value::Number(number) => number.is_finite(),
            Value::Text(text) => {
                text.len() <= Value::TEXT_MAX && !text.chars().any(char::is_control)
            }
            Value::Integer(_) | Value::Boolean(_) => true,
        };
        if !is_word(name) {
            let message = format!("{} cannot be the name of a parameter", quoted(name));
            bad(
                Code::BadParameter,
                value.span(),
                message,
                "of this one",
                "use the program's own names",
            );
        } else if !is_value {
            let message = format!("no program takes this value for {}", quoted(name));
            let help =
                "numbers are finite, texts have at most 1024 bytes and no control characters";
            bad(Code::BadParameter, value.span(), message, "not a value", help);
        }
        arguments.insert(name.clone(), read);
    }
    let mut environment = BTreeMap::new();
    for (name, value) in part.environment.map(Spanned::get_ref).into_iter().flatten() {
        let text = value.get_ref();
        if text.len() > 4096 || text.chars().any(char::is_control) {
            let message = format!("this cannot be the value of {}", quoted(name));
            let help = "values have at most 4096 bytes and no control characters";
            bad(Code::BadParameter, value.span(), message, "not a value", help);
        }
        environment.insert(name.clone(), text.clone());
    }
    if let Some(memory) = part.memory_mib.filter(|memory| *memory.get_ref() == 0) {
        let message = "`memory_mib` is 0, so that nothing could run".to_owned();
        bad(
            Code::LimitRange,
            memory.span(),
            message,
            "must be at least 1",
            "leave it out for no limit",
        );
    }
    is_good.then_some(())?;
    let resources = part.resources.map(|raw| clusters::resources(raw.get_ref(), problems));
    Some(JobPart {
        resources: resources.unwrap_or_else(|| Some(SlurmRequest::default()))?,
        program: program?,
        arguments,
        environment,
        memory_mib: part.memory_mib.map(|memory| *memory.get_ref()),
        detach_s: 0,
        has_files: has_files && part.files.is_none_or(|files| *files.get_ref()),
    })
}

/// Seconds that programs go on without their cell; 0 where they do not, or the number is bad.
fn detach_s(given: Option<&Spanned<u64>>, problems: &mut Problems) -> u32 {
    let Some(given) = given else { return 0 };
    let most = JobPart::DETACH_MAX_S;
    if !(1..=u64::from(most)).contains(given.get_ref()) {
        let message = format!("`detach_s` is {}, it must be 1 to {most}", given.get_ref());
        let problem = Problem::new(Code::LimitRange, given.span(), message, "out of range");
        problems.add(problem.help("leave it out where programs are to end with their cell"));
    }
    u32::try_from(*given.get_ref()).unwrap_or(0)
}

fn patterns(
    key: &str,
    cells: &Spanned<Vec<Spanned<String>>>,
    problems: &mut Problems,
) -> Option<Vec<Pattern>> {
    if cells.get_ref().is_empty() {
        let message = format!("the job has no {key}");
        let problem = Problem::new(Code::Missing, cells.span(), message, "an empty list");
        problems.add(problem.help(format!("name them, or leave `{key}` out for every one")));
        return None;
    }
    let one = key.trim_end_matches('s');
    let mut read = Vec::new();
    for text in cells.get_ref() {
        match text.get_ref().parse::<Pattern>() {
            Ok(pattern) => read.push(pattern),
            Err(error) => {
                let message = format!("{} is not a pattern for {key}", quoted(text.get_ref()));
                let problem =
                    Problem::new(Code::BadPattern, text.span(), message, error.to_string());
                let help = format!("write base names, `{one}-*`, `org:acme` or `*`");
                problems.add(problem.help(help));
            }
        }
    }
    (read.len() == cells.get_ref().len()).then_some(read)
}

fn budget(table: Option<&Table<RawBudget>>, problems: &mut Problems) -> JobBudget {
    const DAY_S: u64 = 86_400;
    let default = JobBudget::default();
    let Some(Table { raw, .. }) = table else { return default };
    let mut seconds = |given: &Option<Spanned<u64>>, key: &str, least: u64, default: u32| {
        let Some(given) = given else { return default };
        let most = 30 * DAY_S;
        if !(least..=most).contains(given.get_ref()) {
            let message = format!("`{key}` is {}, it must be {least} to {most}", given.get_ref());
            let problem = Problem::new(Code::LimitRange, given.span(), message, "out of range");
            problems.add(problem.help("it is in seconds; leave it out for its default"));
        }
        u32::try_from(*given.get_ref()).unwrap_or(default)
    };
    JobBudget {
        total_s: seconds(&raw.total_s, "total_s", 0, default.total_s),
        start_s: seconds(&raw.start_s, "start_s", 1, default.start_s),
        idle_s: seconds(&raw.idle_s, "idle_s", 0, default.idle_s),
        finish_s: seconds(&raw.finish_s, "finish_s", 1, default.finish_s),
    }
}

fn directory(table: &Table<RawFiles>, problems: &mut Problems) -> Option<String> {
    let Some(directory) = &table.raw.directory else {
        if !table.is_broken("directory") {
            let message = "[files] has no `directory`";
            let problem =
                Problem::new(Code::Missing, table.span.clone(), message, "no `directory` here");
            problems.add(problem.help("write directory = \"code\", or leave [files] out"));
        }
        return None;
    };
    let text = directory.get_ref();
    let is_level = |level: &str| !level.is_empty() && level != ".." && level != ".";
    if text == "." || (!text.chars().any(char::is_control) && text.split('/').all(is_level)) {
        return Some(text.clone());
    }
    let message = format!("{} is not below the directory of the job", quoted(text));
    let problem = Problem::new(Code::BadArgument, directory.span(), message, "not below it");
    problems.add(problem.help("write a path such as `code`, without `..`"));
    None
}

#[cfg(test)]
mod tests;
