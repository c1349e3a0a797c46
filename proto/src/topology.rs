//! The topology: which cells a project has, how they hang together, and what the file says about
//! them.
//!
//! [`parse`] is the one way from text to a [`Topology`], for starting, for checking and for
//! reloading alike. It reports everything that is wrong at once.

mod addresses;
mod clusters;
mod diff;
mod draft;
mod effective;
pub mod job_file;
mod judged;
mod limits;
mod metrics;
mod parse;
mod problem;
mod programs;
pub mod project;
mod raw;
mod review;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod trust;
mod validate;
pub(crate) mod wording;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
};

use toml::de::{DeTable, Error};

pub use self::{
    diff::{Change, diff},
    effective::{HIDDEN, Setting, Source, Value, effective},
    limits::{Congestion, LimitSpec, Limits},
    problem::{Also, Code, Problem, Severity},
    raw::{job_schema, schema},
};
use self::{
    draft::Draft,
    judged::PolicyTest,
    limits::RawLimits,
    parse::{Table, Tables},
    problem::Problems,
    raw::{RawProject, RawTopology, keys_of},
    rules::Cells,
    validate::Tree,
};
use crate::{
    directory::Directory,
    identity::CellKind,
    job::{ClusterSpec, ProgramSpec},
    name::{Channel, Fqcn, Segment},
    policy::{End, Policy, Rule},
    trust::Versions,
};

/// Bytes in the largest file.
pub const TEXT_MAX_BYTES: usize = 1 << 20;
/// Cells in the largest file.
pub const CELLS_MAX: usize = 10_000;
/// Syntax errors that are looked at; a text with more of them is no topology.
const SYNTAX_ERRORS_READ_MAX: usize = 200;

/// The cells of a project, the rules between them, and the limits that hold. Always valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The name of the project.
    pub project: Segment,
    /// Whether development certificates are minted at start; then every cell listens on loopback.
    pub dev: bool,
    /// The message rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// Channels on which every message must be sealed.
    pub sealed: BTreeSet<Channel>,
    /// How many tests of its own rules the file has; the rules pass them all.
    pub tests: usize,
    /// The limits.
    pub limits: Limits,
    /// Where the figures of a process can be fetched from, on loopback. Port 0 is any free one.
    pub metrics: Option<SocketAddr>,
    /// The lowest versions of the signed lists without which cells do not start; 0 where there is none yet.
    pub lists: Versions,
    /// What jobs may run.
    pub programs: Vec<ProgramSpec>,
    /// The clusters that cells give programs to; each cell to one of them at most.
    pub clusters: Vec<ClusterSpec>,
    /// Lines in which the rules stand, from 1.
    lines: Vec<u32>,
    cells: Vec<CellSpec>,
    by_name: BTreeMap<Segment, usize>,
    server: usize,
}

/// What the file says about one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSpec {
    /// Base name, unique in the project.
    pub name: Segment,
    /// Path from below the root.
    pub fqcn: Fqcn,
    /// Server, relay or client.
    pub kind: CellKind,
    /// Base name of the cell that it dials; `None` for the server alone.
    pub parent: Option<Segment>,
    /// Where it accepts children; `None` for clients. Port 0 is any free one.
    pub listen: Option<SocketAddr>,
    /// `host:port` at which children dial it, where the file says so.
    pub dial: Option<String>,
    /// DNS names and IP addresses for its certificate.
    pub hosts: Vec<String>,
    /// The organisation that runs it.
    pub org: Segment,
}

/// A topology, and what is odd about its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The topology.
    pub topology: Topology,
    /// Findings of severity [`Severity::Warning`], in the order of the text.
    pub warnings: Vec<Problem>,
}

impl Topology {
    /// Every cell, in the order of the file.
    #[must_use]
    pub fn cells(&self) -> &[CellSpec] {
        &self.cells
    }

    /// The cell with this base name.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<&CellSpec> {
        self.by_name.get(name).map(|index| &self.cells[*index])
    }

    /// The root of the tree.
    #[must_use]
    pub fn server(&self) -> &CellSpec {
        &self.cells[self.server]
    }

    /// The cells whose parent has this base name, in the order of the file.
    pub fn children_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a CellSpec> {
        let is_child = move |cell: &&CellSpec| {
            cell.parent.as_ref().is_some_and(|parent| parent.as_str() == name)
        };
        self.cells.iter().filter(is_child)
    }

    /// Whether the file has a cell `child_base` directly below the cell with the path `parent`.
    #[must_use]
    pub fn is_child_of(&self, parent: &Fqcn, child_base: &str) -> bool {
        let above = self.cell(child_base).and_then(|child| child.parent.as_ref());
        above.and_then(|above| self.cell(above.as_str())).is_some_and(|above| above.fqcn == *parent)
    }

    /// What the cell with this base name is to patterns.
    #[must_use]
    pub fn end_of<'a>(&'a self, name: &'a str) -> End<'a> {
        let spec = self.cell(name);
        End { base: name, kind: spec.map(|spec| spec.kind), org: spec.map(|spec| &spec.org) }
    }

    /// The rules as a policy.
    #[must_use]
    pub fn policy(&self, revision: u64) -> Policy {
        let rules = Policy::new(revision, self.rules.clone());
        rules.sealing(self.sealed.iter().cloned()).on_lines(self.lines.clone())
    }

    /// The cells of the file, by path.
    #[must_use]
    pub fn directory(&self) -> Directory {
        let cells = self.cells.iter();
        let directory: Directory =
            cells.map(|cell| (cell.fqcn.clone(), cell.kind, cell.org.clone())).collect();
        let is_offered = |relay: &CellSpec| {
            self.programs
                .iter()
                .any(|program| program.is_offered_at(self.end_of(relay.name.as_str())))
        };
        let mut relays = self.cells.iter().filter(|cell| cell.kind == CellKind::Relay);
        if relays.any(is_offered) { directory.with_jobs_at_relays() } else { directory }
    }

    /// This topology with the rules of `other`, and with everything else as it is.
    #[must_use]
    pub fn with_rules_of(&self, other: &Self) -> Self {
        Self {
            rules: other.rules.clone(),
            sealed: other.sealed.clone(),
            tests: other.tests,
            lines: other.lines.clone(),
            ..self.clone()
        }
    }

    /// Whether both state the same rules, each in the same place of its file.
    #[must_use]
    pub fn has_rules_of(&self, other: &Self) -> bool {
        self.rules == other.rules && self.sealed == other.sealed && self.lines == other.lines
    }
}

impl CellSpec {
    /// `host:port` at which children dial this cell; `None` for clients.
    ///
    /// What the file says under `dial`; without it the listen address, and where that stands for
    /// every address of the machine, the first of its hosts. With port 0 the port is known only
    /// once the cell listens.
    #[must_use]
    pub fn dial_target(&self) -> Option<String> {
        let listen = self.listen?;
        if let Some(dial) = &self.dial {
            return Some(dial.clone());
        }
        let host = self.hosts.first().filter(|_| listen.ip().is_unspecified());
        Some(match host {
            Some(host) if host.contains(':') => format!("[{host}]:{}", listen.port()),
            Some(host) => format!("{host}:{}", listen.port()),
            None => listen.to_string(),
        })
    }
}

/// Reads a topology from the text of its file.
///
/// # Errors
/// Every [`Problem`] that the text has, warnings included, in the order of the text; at least one
/// of them is an error. Where the text is not TOML, only what can be said about single values
/// comes with it, since anything else may be a consequence.
pub fn parse(text: &str) -> Result<Parsed, Vec<Problem>> {
    let mut problems = Problems::default();
    if text.len() > TEXT_MAX_BYTES {
        let message = format!("the file has {} bytes, the limit is {TEXT_MAX_BYTES}", text.len());
        problems.add(Problem::new(Code::TooLarge, 0..0, message, ""));
        return Err(problems.into_sorted());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    let tables = Tables::read(document.into_inner(), keys_of::<RawTopology>(), &mut problems);
    let topology = read(text, tables, is_toml, &mut problems);
    if !is_toml {
        report_syntax(text, errors, &mut problems);
    }
    match topology {
        Some(topology) if !problems.has_errors() => {
            Ok(Parsed { topology, warnings: problems.into_sorted() })
        }
        _ => Err(problems.into_sorted()),
    }
}

/// Adds the syntax errors, and forgets findings that may be consequences of them: those on their
/// lines, and those that are not about a single value.
fn report_syntax(text: &str, errors: Vec<Error>, problems: &mut Problems) {
    let mut lines: BTreeSet<usize> = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors.into_iter().take(SYNTAX_ERRORS_READ_MAX) {
        let span = clamp(text, error.span().unwrap_or(0..0));
        // One slip often yields several errors on its line; the first one says it.
        if lines.insert(line_start(text, span.start)) {
            found.push(Problem::new(Code::Syntax, span, error.message(), "here"));
        }
    }
    // Keys below a broken header belong to a table that is not known.
    let header_is_broken = lines.iter().any(|line| text[*line..].trim_start().starts_with('['));
    problems.retain(|problem| {
        let first = line_start(text, problem.span.start);
        let on_such_a_line = lines.range(first..=problem.span.end.max(first)).next().is_some();
        let is_misplaced = header_is_broken && problem.code == Code::UnknownKey;
        problem.code.is_about_one_value() && !on_such_a_line && !is_misplaced
    });
    for problem in found {
        problems.add(problem);
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
}

/// The span, within the text and on character boundaries.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    start..text.ceil_char_boundary(span.end.clamp(start, text.len()))
}

fn read(text: &str, tables: Tables, is_toml: bool, problems: &mut Problems) -> Option<Topology> {
    let top = tables.project.as_ref().map_or(0..0, |table| table.span.clone());
    let project_is_broken = tables.is_broken("project");
    let cells_are_complete = is_toml && !tables.is_broken("cell");
    let (project, dev) = project(tables.project, project_is_broken || !is_toml, problems);
    let limits = match tables.limits {
        Some(table) => Limits::settle(&table.raw, table.span, problems),
        None => Limits::settle(&RawLimits::default(), 0..0, problems),
    };
    let metrics = metrics::settle(tables.metrics.as_ref(), problems);
    let lists = trust::settle(tables.trust.as_ref());
    if tables.cells.len() > CELLS_MAX {
        let span = tables.cells[CELLS_MAX].span.clone();
        let message =
            format!("the file has {} cells, the limit is {CELLS_MAX}", tables.cells.len());
        problems.add(Problem::new(Code::TooManyCells, span, message, "the first one too many"));
        return None;
    }
    let drafts: Vec<Draft> =
        tables.cells.into_iter().map(|table| Draft::read(table, problems)).collect();
    let known = Cells::of(&drafts, project.as_ref(), cells_are_complete);
    let programs: Vec<ProgramSpec> = programs::read(&tables.programs, &known, problems);
    let clusters = clusters::read(&tables.clusters, &known, dev, problems);
    let rules = Rules {
        rules: tables
            .rules
            .iter()
            .map(|(effect, table)| rules::rule(*effect, table, &known, problems))
            .collect::<Vec<_>>(),
        lines: lines_of(text, tables.rules.iter().map(|(_, table)| table.span.start)),
        sealed: sealed_channels(&tables.channels, problems),
        tests: tables
            .policy_tests
            .into_iter()
            .filter_map(|table| PolicyTest::read(table, problems))
            .collect(),
    };
    let paths = Tree::of(&drafts, cells_are_complete).check(dev, top, problems);
    let cells = drafts.into_iter().zip(paths);
    let (topology, tests) = assemble(project?, dev, cells, rules, limits)?;
    let topology = Topology { metrics, lists, programs, clusters, ..topology };
    // What the rules say is known once all of them, and all cells, are.
    if is_toml && !problems.has_errors() {
        clusters::check(&topology, &tables.clusters, &tables.programs, problems);
        let spans: Vec<Range<usize>> =
            tables.rules.iter().map(|(_, table)| table.span.clone()).collect();
        review::rules(&topology, &spans, problems);
        judged::run(&topology, &tests, problems);
    }
    Some(topology)
}

/// Everything about rules that a file states.
struct Rules {
    rules: Vec<Option<Rule>>,
    lines: Vec<u32>,
    sealed: BTreeSet<Channel>,
    tests: Vec<PolicyTest>,
}

fn sealed_channels(
    tables: &[Table<raw::RawChannel>],
    problems: &mut Problems,
) -> BTreeSet<Channel> {
    let mut found: BTreeMap<Channel, Range<usize>> = BTreeMap::new();
    for table in tables {
        let Some(channel) = rules::sealed_channel(table, problems) else { continue };
        let (span, channel) = (channel.span(), channel.into_inner());
        let Some(first) = found.get(&channel) else {
            found.insert(channel, span);
            continue;
        };
        let message = format!("two tables are about the channel `{channel}`");
        problems.add(
            Problem::new(Code::RepeatedChannel, span, message, "again here")
                .also(first.clone(), "first here")
                .help("remove one of them"),
        );
    }
    found.into_keys().collect()
}

/// The lines of these places, which ascend, from 1.
fn lines_of(text: &str, places: impl Iterator<Item = usize>) -> Vec<u32> {
    let (mut line, mut seen) = (1, 0);
    places
        .map(|at| {
            let at = at.clamp(seen, text.len());
            let ends = text.as_bytes()[seen..at].iter().filter(|byte| **byte == b'\n').count();
            seen = at;
            line += u32::try_from(ends).unwrap_or(u32::MAX);
            line
        })
        .collect()
}

fn project(
    table: Option<Table<RawProject>>,
    is_broken: bool,
    problems: &mut Problems,
) -> (Option<Segment>, bool) {
    let Some(Table { span, raw, .. }) = &table else {
        if !is_broken {
            let problem = Problem::new(Code::Missing, 0..0, "the file has no [project]", "");
            problems.add(problem.help("add [project] with name = \"..\""));
        }
        return (None, false);
    };
    let dev = raw.dev.as_ref().is_some_and(|dev| *dev.get_ref());
    let name = raw.name.as_ref().and_then(|name| draft::plain_name("name", name, problems));
    let is_there =
        raw.name.is_some() || table.as_ref().is_some_and(|table| table.is_broken("name"));
    if !is_there && !is_broken {
        let message = "the project has no `name`";
        let problem = Problem::new(Code::Missing, span.clone(), message, "no `name` here");
        problems.add(problem.help("write name = \"..\"; certificates state it"));
    }
    (name, dev)
}

fn assemble(
    project: Segment,
    dev: bool,
    cells: impl Iterator<Item = (Draft, Option<Fqcn>)>,
    rules: Rules,
    limits: Limits,
) -> Option<(Topology, Vec<PolicyTest>)> {
    let spec = |(cell, fqcn): (Draft, Option<Fqcn>)| {
        let kind = cell.kind?.into_inner();
        let parent = match cell.parent {
            Some(parent) => Some(parent.into_inner().parse().ok()?),
            None => None,
        };
        Some(CellSpec {
            name: cell.name?,
            fqcn: fqcn?,
            kind,
            parent,
            listen: cell.listen.map(toml::Spanned::into_inner),
            dial: cell.dial.map(toml::Spanned::into_inner),
            hosts: cell.hosts,
            org: cell.org.unwrap_or_else(|| project.clone()),
        })
    };
    let cells: Vec<CellSpec> = cells.map(spec).collect::<Option<_>>()?;
    let by_name =
        cells.iter().enumerate().map(|(index, cell)| (cell.name.clone(), index)).collect();
    let server = cells.iter().position(|cell| cell.kind == CellKind::Server)?;
    let Rules { rules, lines, sealed, tests } = rules;
    let rules = rules.into_iter().collect::<Option<_>>()?;
    let topology = Topology {
        project,
        dev,
        rules,
        sealed,
        tests: tests.len(),
        limits,
        metrics: None,
        lists: Versions::default(),
        programs: Vec::new(),
        clusters: Vec::new(),
        lines,
        cells,
        by_name,
        server,
    };
    Some((topology, tests))
}
