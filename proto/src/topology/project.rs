//! The project file: the topology file of a federation, and with it people, studies, and how long
//! certificates last. Provisioning makes everything else from it.
//!
//! What the two files have in common is read by the same code, so that the topology in a kit is one
//! that every other command accepts.

mod people;
mod raw;
#[cfg(test)]
mod tests;
mod words;

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::{
    people::{Names, admin, check_one_project_admin, studies},
    raw::{RawAdmin, RawCertificates, RawProjectFile, RawProjectTable, RawStudy},
    words::check_word,
};
use super::{
    Parsed, TEXT_MAX_BYTES, Topology, draft,
    parse::{Table, Tables, list_of_tables, one_table, read as read_table},
    problem::{Code, Problem, Problems},
    raw::{RawProject, keys_of},
    report_syntax,
};
use crate::{identity::CellKind, name::Segment};

/// Days that the certificate of a cell or person counts, where the file says nothing.
pub const LEAF_DAYS: u32 = 90;
/// Most days that the certificate of a cell or person may count.
pub const LEAF_DAYS_MAX: u32 = 360;
/// Days that the project's authority counts, where the file says nothing.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Most days that the project's authority may count.
pub const AUTHORITY_DAYS_MAX: u32 = 7300;
/// Most days that the server's issuing authority may count.
pub const ISSUER_DAYS_MAX: u32 = 720;
/// Levels that the path of a provisioned cell has at most, so that a job fits below it.
pub const LEVELS_MAX: usize = 7;
/// Bytes in the longest description.
pub const DESCRIPTION_MAX_BYTES: usize = 1000;

/// A project as its file states it. Always valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its cells, rules and limits.
    pub topology: Topology,
    /// The topology as the text of a topology file, the same for the same project file. Every cell states its
    /// organisation.
    pub topology_text: String,
    /// The organisation that runs the project.
    pub org: Segment,
    /// What people say about the project; any text.
    pub description: String,
    /// People with certificates of their own, in the order of the file.
    pub admins: Vec<AdminSpec>,
    /// Studies, in the order of the file.
    pub studies: Vec<StudySpec>,
    /// Days that the certificate of a cell or person counts.
    pub leaf_days: u32,
    /// Days that the authority counts, when one is made.
    pub authority_days: u32,
    /// Days that the issuing authority of the server counts, by which cells renew their certificates while they run;
    /// `None` for none.
    pub issuer_days: Option<u32>,
}

/// A person with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSpec {
    /// Unique among the people and cells of the project.
    pub name: Segment,
    /// The organisation.
    pub org: Segment,
    /// What the person may be.
    pub role: Role,
}

/// A part of the project that some sites and people work in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudySpec {
    /// Unique among studies.
    pub name: Segment,
    /// Base names of sites.
    pub sites: Vec<Segment>,
    /// Names of people.
    pub admins: Vec<Segment>,
}

/// What a person is in a project.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs the project; there is exactly one.
    ProjectAdmin,
    /// Runs the cells of one organisation.
    OrgAdmin,
    /// Leads studies.
    Lead,
    /// Works in studies.
    Member,
    /// Something that only the project's own rules know.
    Custom(Segment),
}

/// A project, and what is odd about its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedProject {
    /// The project.
    pub project: Project,
    /// Findings that are no errors, in the order of the text.
    pub warnings: Vec<Problem>,
}

impl Role {
    /// The roles that the system knows.
    pub const KNOWN: [&'static str; 4] = ["project_admin", "org_admin", "lead", "member"];

    /// The role of this name.
    #[must_use]
    pub fn of(name: &Segment) -> Self {
        match name.as_str() {
            "project_admin" => Self::ProjectAdmin,
            "org_admin" => Self::OrgAdmin,
            "lead" => Self::Lead,
            "member" => Self::Member,
            _ => Self::Custom(name.clone()),
        }
    }

    /// The word for it in files and certificates.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::ProjectAdmin => "project_admin",
            Self::OrgAdmin => "org_admin",
            Self::Lead => "lead",
            Self::Member => "member",
            Self::Custom(name) => name.as_str(),
        }
    }
}

/// What is only in project files.
#[derive(Default)]
struct Own {
    project: Option<Table<RawProjectTable>>,
    admins: Vec<Table<RawAdmin>>,
    studies: Vec<Table<RawStudy>>,
    certificates: Option<Table<RawCertificates>>,
    is_broken: bool,
}

/// Reads a project from the text of its file.
///
/// # Errors
/// Every [`Problem`] that the text has, as [`super::parse`] gives them.
pub fn parse(text: &str) -> Result<ParsedProject, Vec<Problem>> {
    let mut problems = Problems::default();
    if text.len() > TEXT_MAX_BYTES {
        let message = format!("the file has {} bytes, the limit is {TEXT_MAX_BYTES}", text.len());
        problems.add(Problem::new(Code::TooLarge, 0..0, message, ""));
        return Err(problems.into_sorted());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    let (own, mut tables) = split(document.into_inner(), &mut problems);
    let own_org = own.project.as_ref().and_then(|table| {
        table.raw.org.as_ref().and_then(|org| draft::plain_name("org", org, &mut problems))
    });
    tables.project = own.project.as_ref().map(|table| {
        let raw = RawProject { name: table.raw.name.clone(), ..RawProject::default() };
        table.with(raw)
    });
    for cell in &tables.cells {
        if let Some(name) = &cell.raw.name {
            check_word(name, &mut problems);
        }
    }
    let spans: Vec<(Option<String>, Range<usize>)> = tables.cells.iter().map(name_of).collect();
    let topology = super::read(text, tables, is_toml, &mut problems);
    let rest = rest(own, topology.as_ref(), &spans, own_org.as_ref(), is_toml, &mut problems);
    if !is_toml {
        report_syntax(text, errors, &mut problems);
    }
    let (Some(topology), Some(rest)) = (topology, rest) else {
        return Err(problems.into_sorted());
    };
    check_levels(&topology, &spans, &mut problems);
    if problems.has_errors() {
        return Err(problems.into_sorted());
    }
    let org = own_org.unwrap_or_else(|| topology.project.clone());
    match finish(text, &org, rest) {
        Ok(project) => Ok(ParsedProject { project, warnings: problems.into_sorted() }),
        Err(problem) => {
            problems.add(*problem);
            Err(problems.into_sorted())
        }
    }
}

fn name_of(cell: &Table<super::raw::RawCell>) -> (Option<String>, Range<usize>) {
    let name = cell.raw.name.as_ref();
    let span = name.map_or_else(|| cell.span.clone(), Spanned::span);
    (name.map(|name| name.get_ref().clone()), span)
}

/// Takes out what topology files do not have.
fn split(document: DeTable<'_>, problems: &mut Problems) -> (Own, Tables) {
    let mut own = Own::default();
    let mut rest = DeTable::new();
    let mut project_is_broken = false;
    for (key, value) in document {
        let span = value.span();
        match key.get_ref().as_ref() {
            "project" => match one_table("project", value, problems) {
                Some(table) => own.project = Some(read_table(table, span, "[project]", problems)),
                None => project_is_broken = true,
            },
            "certificates" => match one_table("certificates", value, problems) {
                Some(table) => {
                    let table = read_table(table, span, "[certificates]", problems);
                    own.certificates = Some(table);
                }
                None => own.is_broken = true,
            },
            "admin" => own.admins = own.list("admin", "[[admin]]", value, problems),
            name @ ("program" | "slurm") => {
                let message = format!("`{name}` is for each site to say, not for the project");
                let problem = Problem::new(Code::UnknownKey, key.span(), message, "not here");
                problems.add(problem.help("write it into `local/programs.toml` of the site's kit"));
                own.is_broken = true;
            }
            "study" => own.studies = own.list("study", "[[study]]", value, problems),
            _ => drop(rest.insert(key, value)),
        }
    }
    let mut tables = Tables::read(rest, keys_of::<RawProjectFile>(), problems);
    if project_is_broken {
        tables.note_broken("project");
    }
    own.is_broken |= tables.is_broken("admin") || tables.is_broken("study");
    (own, tables)
}

impl Own {
    fn list<T>(
        &mut self,
        section: &str,
        place: &str,
        value: Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Vec<Table<T>>
    where
        T: Default + for<'de> serde::Deserialize<'de>,
    {
        let (list, complete) = list_of_tables(section, value, problems);
        self.is_broken |= !complete;
        list.into_iter().map(|(span, table)| read_table(table, span, place, problems)).collect()
    }
}

/// Everything but the topology, once it is known to be good.
struct Rest {
    description: String,
    admins: Vec<AdminSpec>,
    studies: Vec<StudySpec>,
    lives: Lives,
}

/// For how many days what is issued counts.
struct Lives {
    leaf: u32,
    authority: u32,
    issuer: Option<u32>,
}

fn rest(
    own: Own,
    topology: Option<&Topology>,
    cells: &[(Option<String>, Range<usize>)],
    org: Option<&Segment>,
    is_toml: bool,
    problems: &mut Problems,
) -> Option<Rest> {
    let complete = is_toml && !own.is_broken;
    let top = own.project.as_ref().map_or(0..0, |table| table.span.clone());
    let description = own.project.as_ref().and_then(|table| table.raw.description.clone());
    if let Some(text) = &description
        && text.get_ref().len() > DESCRIPTION_MAX_BYTES
    {
        let message = format!("a description has at most {DESCRIPTION_MAX_BYTES} bytes");
        problems.add(
            Problem::new(Code::LimitRange, text.span(), message, "too long").help("shorten it"),
        );
    }
    let fallback = org.cloned().or_else(|| topology.map(|topology| topology.project.clone()));
    let mut names = Names::of(cells);
    let drafts: Vec<_> =
        own.admins.iter().map(|table| admin(table, &fallback, &mut names, problems)).collect();
    check_one_project_admin(&own.admins, complete, top, problems);
    let studies = studies(&own.studies, topology, &own.admins, complete, problems);
    let lives = lives(own.certificates.as_ref(), problems);
    let admins: Vec<AdminSpec> = drafts.into_iter().collect::<Option<_>>()?;
    let description = description.map(Spanned::into_inner).unwrap_or_default();
    Some(Rest { description, admins, studies: studies?, lives })
}

fn lives(table: Option<&Table<RawCertificates>>, problems: &mut Problems) -> Lives {
    let mut days = |written: Option<&Spanned<u64>>, key: &str, default: u32, max: u32| {
        let Some(written) = written else { return default };
        match u32::try_from(*written.get_ref()) {
            Ok(days) if (1..=max).contains(&days) => days,
            Ok(_) | Err(_) => {
                let message =
                    format!("`{key}` is {}, it must be from 1 to {max}", written.get_ref());
                let help = format!("the default is {default}");
                let problem =
                    Problem::new(Code::LimitRange, written.span(), message, "out of range");
                problems.add(problem.help(help));
                default
            }
        }
    };
    let raw = table.map(|table| &table.raw);
    let leaf = raw.and_then(|raw| raw.leaf_days.as_ref());
    let authority = raw.and_then(|raw| raw.authority_days.as_ref());
    let leaf_days = days(leaf, "leaf_days", LEAF_DAYS, LEAF_DAYS_MAX);
    let authority_days = days(authority, "authority_days", AUTHORITY_DAYS, AUTHORITY_DAYS_MAX);
    let issuer = raw.and_then(|raw| raw.issuer_days.as_ref());
    let fallback = leaf_days.saturating_mul(2).min(authority_days);
    let issuer_days = issuer
        .map(|days_written| days(Some(days_written), "issuer_days", fallback, ISSUER_DAYS_MAX));
    if let (Some(days), Some(written)) = (issuer_days, issuer)
        && !(leaf_days..=authority_days).contains(&days)
    {
        let message = "an issuing authority counts no shorter than what it issues, and no longer than its own authority";
        let label = "not between `leaf_days` and `authority_days`";
        problems.add(
            Problem::new(Code::LimitOrder, written.span(), message, label)
                .help("twice `leaf_days` leaves time to make the next one"),
        );
    }
    if leaf_days > authority_days {
        let span = leaf.or(authority).map_or(0..0, Spanned::span);
        let message = "a certificate cannot outlive the authority that issues it";
        problems.add(
            Problem::new(Code::LimitOrder, span, message, "longer than `authority_days`")
                .help("make `authority_days` larger, or `leaf_days` smaller"),
        );
    }
    Lives { leaf: leaf_days, authority: authority_days, issuer: issuer_days }
}

/// A job cell needs a level below the cell that runs it.
fn check_levels(
    topology: &Topology,
    spans: &[(Option<String>, Range<usize>)],
    problems: &mut Problems,
) {
    for (cell, (_, span)) in topology.cells().iter().zip(spans) {
        let levels = cell.fqcn.depth();
        if levels > LEVELS_MAX {
            let message = format!("the path to `{}` has {levels} levels", cell.name);
            let label = format!("at most {LEVELS_MAX} in a project");
            problems.add(
                Problem::new(Code::TooDeep, span.clone(), message, label)
                    .help("use fewer relays above it, so that its jobs have a level of their own"),
            );
        }
    }
}

/// Writes the topology as a file of its own, and reads it again: what kits hold is what was checked.
fn finish(text: &str, org: &Segment, rest: Rest) -> Result<Project, Box<Problem>> {
    let failed = |message: String| {
        let problem = Problem::new(Code::NotTakenOver, 0..0, message, "");
        Box::new(problem.help("please report this"))
    };
    let mut table: toml::Table = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
    for key in ["admin", "study", "certificates"] {
        table.remove(key);
    }
    if let Some(project) = table.get_mut("project").and_then(toml::Value::as_table_mut) {
        project.remove("org");
        project.remove("description");
    }
    let cells = table.get_mut("cell").and_then(toml::Value::as_array_mut);
    for cell in cells.into_iter().flatten().filter_map(toml::Value::as_table_mut) {
        cell.entry("org").or_insert_with(|| toml::Value::String(org.to_string()));
    }
    let topology_text = toml::to_string(&table).map_err(|error| failed(error.to_string()))?;
    let Parsed { topology, .. } = super::parse(&topology_text).map_err(|problems| {
        let first = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
        failed(format!("the topology of the project is no topology file: {first}"))
    })?;
    let Rest { description, admins, studies, lives } = rest;
    Ok(Project {
        topology,
        topology_text,
        org: org.clone(),
        description,
        admins,
        studies,
        leaf_days: lives.leaf,
        authority_days: lives.authority,
        issuer_days: lives.issuer,
    })
}

impl Project {
    /// Everybody who gets a kit: cells in the order of the file, then people.
    pub fn participants(&self) -> impl Iterator<Item = Participant<'_>> {
        let cells = self.topology.cells().iter().map(|cell| Participant {
            name: &cell.name,
            kind: cell.kind,
            org: &cell.org,
            role: None,
            hosts: &cell.hosts,
        });
        let admins = self.admins.iter().map(|admin| Participant {
            name: &admin.name,
            kind: CellKind::Admin,
            org: &admin.org,
            role: Some(&admin.role),
            hosts: &[],
        });
        cells.chain(admins)
    }

    /// How many cells of each kind there are, people included.
    #[must_use]
    pub fn count_by_kind(&self) -> BTreeMap<CellKind, usize> {
        let mut counts = BTreeMap::new();
        for participant in self.participants() {
            *counts.entry(participant.kind).or_insert(0) += 1;
        }
        counts
    }
}

/// One who gets a kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participant<'a> {
    /// Unique in the project.
    pub name: &'a Segment,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// The organisation.
    pub org: &'a Segment,
    /// The role of a person.
    pub role: Option<&'a Role>,
    /// Names and addresses of a listener.
    pub hosts: &'a [String],
}
