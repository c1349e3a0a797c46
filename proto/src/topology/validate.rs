//! What must hold between cells: one server, one tree, names and addresses used once.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use toml::Spanned;

use super::{
    addresses,
    draft::{Draft, reads_like},
    problem::{Code, Problem, Problems},
    wording::{folded, listed, nearest, quoted, skeleton},
};
use crate::{
    identity::CellKind,
    name::{Fqcn, NameError, Segment},
};

/// Cells of a file and what is known about all of them together.
pub(super) struct Tree<'a> {
    drafts: &'a [Draft],
    /// First cell of each good name.
    by_name: BTreeMap<&'a str, usize>,
    /// The parent of each cell, where there is such a cell.
    parents: Vec<Option<usize>>,
    /// Whether every cell of the file is among the drafts.
    complete: bool,
}

impl<'a> Tree<'a> {
    pub(super) fn of(drafts: &'a [Draft], complete: bool) -> Self {
        let mut by_name = BTreeMap::new();
        for (index, cell) in drafts.iter().enumerate() {
            if let Some(name) = &cell.name {
                by_name.entry(name.as_str()).or_insert(index);
            }
        }
        let parent = |cell: &Draft| by_name.get(cell.parent.as_ref()?.get_ref().as_str()).copied();
        let parents = drafts.iter().map(parent).collect();
        Self { drafts, by_name, parents, complete }
    }

    /// Checks everything, and returns the path of each cell that has one.
    pub(super) fn check(
        &self,
        dev: bool,
        top: Range<usize>,
        problems: &mut Problems,
    ) -> Vec<Option<Fqcn>> {
        self.check_names(problems);
        self.check_servers(top, problems);
        for index in 0..self.drafts.len() {
            self.check_parent(index, problems);
        }
        self.check_cycles(problems);
        addresses::check(self.drafts, dev, problems);
        self.paths(problems)
    }

    fn kind(&self, index: usize) -> Option<CellKind> {
        self.drafts[index].kind.as_ref().map(|kind| *kind.get_ref())
    }

    fn check_names(&self, problems: &mut Problems) {
        let mut looks: BTreeMap<String, usize> = BTreeMap::new();
        for (index, cell) in self.drafts.iter().enumerate() {
            for key in ["name", "kind"] {
                if cell.lacks(key) {
                    let message = format!("{} has no `{key}`", cell.called());
                    let label = format!("no `{key}` here");
                    let help = match key {
                        "name" => "write name = \"..\", unique in the project",
                        _ => "write kind = \"server\", \"relay\" or \"client\"",
                    };
                    problems.add(
                        Problem::new(Code::Missing, cell.name_span(), message, label).help(help),
                    );
                }
            }
            let Some(name) = &cell.name else {
                self.check_variant(cell, problems);
                continue;
            };
            let first = self.by_name[name.as_str()];
            if first != index {
                let message = format!("two cells are called `{name}`");
                problems.add(
                    Problem::new(Code::DuplicateName, cell.name_span(), message, "again here")
                        .also(self.drafts[first].name_span(), "first here")
                        .help("base names are unique in a project, wherever the cells stand"),
                );
                continue;
            }
            if let Some(other) = looks.insert(skeleton(name), index) {
                let other = &self.drafts[other];
                let message = format!("`{name}` looks like {}", other.called());
                problems.add(
                    Problem::new(Code::LookAlike, cell.name_span(), message, "easily confused")
                        .also(other.name_span(), "with this")
                        .help("choose names that people can tell apart"),
                );
            }
            self.check_reserved(cell, name, problems);
        }
    }

    /// Says so where a bad name reads like a good one of another cell.
    fn check_variant(&self, cell: &Draft, problems: &mut Problems) {
        let Some(written) = &cell.written else {
            return;
        };
        let reading = folded(written.get_ref());
        let Some(&first) = self.by_name.get(reading.as_str()) else {
            return;
        };
        let other = &self.drafts[first];
        if other.name.as_ref().is_some_and(|name| reads_like(written.get_ref(), name)) {
            let text = quoted(written.get_ref());
            let message = format!("{text} reads like {}, which is another cell", other.called());
            problems.add(
                Problem::new(Code::CaseVariant, written.span(), message, "not another name")
                    .also(other.name_span(), "this one")
                    .help("give one of them a name that differs in its letters"),
            );
        }
    }

    fn check_reserved(&self, cell: &Draft, name: &Segment, problems: &mut Problems) {
        let Ok(word) = name.as_str().parse::<CellKind>() else {
            return;
        };
        let Some(kind) = cell.kind.as_ref().map(|kind| *kind.get_ref()) else {
            return;
        };
        if word != kind {
            let message = format!("a {kind} cannot be called `{name}`");
            let label = format!("`{word}` is another kind of cell");
            problems.add(
                Problem::new(Code::ReservedName, cell.name_span(), message, label)
                    .help("rules can name kinds, so a name must not say another one"),
            );
        }
    }

    fn check_servers(&self, top: Range<usize>, problems: &mut Problems) {
        let is_server = |index: &usize| self.kind(*index) == Some(CellKind::Server);
        let mut servers = (0..self.drafts.len()).filter(is_server);
        let Some(first) = servers.next() else {
            if self.complete && self.drafts.iter().all(|cell| cell.kind.is_some()) {
                let problem = Problem::new(Code::NoServer, top, "no cell is the server", "");
                problems.add(
                    problem.help("add a [[cell]] with kind = \"server\": the root of the tree"),
                );
            }
            return;
        };
        let span = |index: usize| {
            let cell = &self.drafts[index];
            cell.kind.as_ref().map_or_else(|| cell.span.clone(), Spanned::span)
        };
        for other in servers {
            let (one, two) = (self.drafts[first].called(), self.drafts[other].called());
            let message = format!("{one} and {two} are both servers");
            problems.add(
                Problem::new(Code::TwoServers, span(other), message, "a second server")
                    .also(span(first), "the first one")
                    .help("a project has one server; what forwards for other cells is a relay"),
            );
        }
    }

    fn check_parent(&self, index: usize, problems: &mut Problems) {
        let cell = &self.drafts[index];
        let (Some(kind), called) = (self.kind(index), cell.called()) else {
            return;
        };
        let Some(parent) = &cell.parent else {
            if kind != CellKind::Server && cell.lacks("parent") {
                let message = format!("the {kind} {called} has no `parent`");
                let problem =
                    Problem::new(Code::NoParent, cell.name_span(), message, "whose child?");
                problems.add(problem.help(match self.server() {
                    Some(server) => {
                        format!("add parent = \"{server}\", or the relay that it dials")
                    }
                    None => "add the name of the cell that it dials".to_owned(),
                }));
            }
            return;
        };
        if kind == CellKind::Server {
            let message = format!("the server {called} has a parent");
            problems.add(
                Problem::new(Code::ServerWithParent, parent.span(), message, "not for a server")
                    .help("remove `parent`: the server is the root of the tree"),
            );
            return;
        }
        match self.parents[index] {
            Some(above) if self.kind(above) == Some(CellKind::Client) && above != index => {
                let other = &self.drafts[above];
                let message = format!("{called} has the client {} as its parent", other.called());
                let kind_span = other.kind.as_ref().map_or(other.span.clone(), |kind| kind.span());
                problems.add(
                    Problem::new(Code::ParentIsClient, parent.span(), message, "a client")
                        .also(kind_span, "which is said here")
                        .help("only the server and relays have children; name one of them"),
                );
            }
            Some(_) => {}
            None => self.report_unknown_parent(cell, problems),
        }
    }

    fn report_unknown_parent(&self, cell: &Draft, problems: &mut Problems) {
        let Some(parent) = &cell.parent else {
            return;
        };
        let text = parent.get_ref().as_str();
        let names_a_bad_cell = |cell: &Draft| {
            cell.name.is_none() && cell.written.as_ref().is_none_or(|name| name.get_ref() == text)
        };
        if !self.complete || self.drafts.iter().any(names_a_bad_cell) {
            return;
        }
        let message = format!(
            "{} has the parent {}, which is not a cell of this file",
            cell.called(),
            quoted(text)
        );
        let problem = Problem::new(Code::UnknownParent, parent.span(), message, "no such cell");
        if problems.is_full() {
            problems.add(problem);
            return;
        }
        let accepts =
            |(_, index): &(&&str, &usize)| self.kind(**index).is_none_or(CellKind::accepts_cells);
        let candidates = || self.by_name.iter().filter(accepts).map(|(name, _)| *name);
        let path = text.rsplit_once('.').map(|(_, base)| base);
        let path = path.filter(|base| self.by_name.contains_key(base));
        problems.add(problem.help(match (path, nearest(text, candidates())) {
            (Some(base), _) => format!("a parent is named by its last level: write `{base}`"),
            (None, Some(meant)) => format!("did you mean `{meant}`?"),
            (None, None) => {
                format!("cells that can have children: {}", listed(candidates().take(10)))
            }
        }));
    }

    fn server(&self) -> Option<&Segment> {
        let mut cells = self.drafts.iter();
        cells
            .find(|cell| {
                cell.kind.as_ref().is_some_and(|kind| *kind.get_ref() == CellKind::Server)
            })?
            .name
            .as_ref()
    }

    /// Reports each cycle once, at the first of its cells in the file.
    fn check_cycles(&self, problems: &mut Problems) {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Never,
            OnThisPath,
            Before,
        }
        let mut seen = vec![Seen::Never; self.drafts.len()];
        for start in 0..self.drafts.len() {
            let (mut path, mut next) = (Vec::new(), Some(start));
            while let Some(at) = next.filter(|at| seen[*at] == Seen::Never) {
                seen[at] = Seen::OnThisPath;
                path.push(at);
                next = self.parents[at];
            }
            if let Some(again) = next.filter(|at| seen[*at] == Seen::OnThisPath) {
                let from = path.iter().position(|at| *at == again).expect("it is on this path");
                self.report_cycle(&path[from..], problems);
            }
            for at in path {
                seen[at] = Seen::Before;
            }
        }
    }

    fn report_cycle(&self, cycle: &[usize], problems: &mut Problems) {
        let first = cycle.iter().copied().min().expect("a cycle has cells");
        let turn = cycle.iter().position(|at| *at == first).unwrap_or(0);
        let round: Vec<usize> = cycle[turn..].iter().chain(&cycle[..turn]).copied().collect();
        let cell = &self.drafts[first];
        // A server with a parent is reported as such.
        if round.iter().any(|at| self.kind(*at) == Some(CellKind::Server)) {
            return;
        }
        let span = cell.parent.as_ref().map_or(cell.span.clone(), |parent| parent.span());
        if round.len() == 1 {
            let message = format!("{} is its own parent", cell.called());
            let problem = Problem::new(Code::Cycle, span, message, "itself");
            problems.add(problem.help("name the cell that it dials"));
            return;
        }
        let shown = round.iter().take(8).chain(round.first()).map(|at| self.drafts[*at].called());
        let arrows = shown.collect::<Vec<_>>().join(" -> ");
        let message = format!("{} cells are each other's parents: {arrows}", round.len());
        let problem = Problem::new(Code::Cycle, span, message, "leads back to this cell");
        problems.add(problem.help("one of them must have a parent outside the circle"));
    }

    /// The path of each cell, from the server down.
    fn paths(&self, problems: &mut Problems) -> Vec<Option<Fqcn>> {
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.drafts.len()];
        for (index, parent) in self.parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(index);
            }
        }
        let mut paths: Vec<Option<Fqcn>> = vec![None; self.drafts.len()];
        let servers = (0..self.drafts.len()).filter(|at| self.kind(*at) == Some(CellKind::Server));
        let mut next: VecDeque<(usize, Option<Fqcn>)> = servers.map(|at| (at, None)).collect();
        while let Some((index, above)) = next.pop_front() {
            let cell = &self.drafts[index];
            let Some(name) = cell.name.as_ref().filter(|_| paths[index].is_none()) else {
                continue;
            };
            let path = match &above {
                None => Ok(Fqcn::from(name.clone())),
                Some(above) => above.child(name),
            };
            let path = match path {
                Ok(path) => path,
                Err(error) => {
                    report_deep(cell, &error, problems);
                    continue;
                }
            };
            if self.kind(index) == Some(CellKind::Client) && path.depth() == Fqcn::MAX_SEGMENTS {
                let message = format!("no job can run at {}", cell.called());
                let label = "the last level that a path can have";
                problems.add(
                    Problem::new(Code::NoRoomForJobs, cell.name_span(), message, label)
                        .help("a job is one level below its site; use fewer relays above it"),
                );
            }
            let is_server = self.kind(index) == Some(CellKind::Server);
            let prefix = (!is_server).then(|| path.clone());
            next.extend(children[index].iter().map(|child| (*child, prefix.clone())));
            paths[index] = Some(path);
        }
        paths
    }
}

fn report_deep(cell: &Draft, error: &NameError, problems: &mut Problems) {
    let label = match error {
        NameError::TooDeep { .. } | NameError::TooLong { .. } => error.to_string(),
        // Two cells of one name, which is reported where the second one stands.
        NameError::Repeated { .. } => return,
        NameError::Empty | NameError::BadCharacter { .. } | NameError::BadStart { .. } => {
            error.to_string()
        }
    };
    let message = format!("the path to {} is too long", cell.called());
    problems.add(
        Problem::new(Code::TooDeep, cell.name_span(), message, label)
            .help("a path has at most 8 levels and 255 bytes; use fewer relays or shorter names"),
    );
}
