//! People and studies of a project file.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::Spanned;

use super::{
    AdminSpec, Role, StudySpec,
    raw::{RawAdmin, RawStudy},
    words::check_word,
};
use crate::{
    identity::CellKind,
    name::Segment,
    topology::{
        Topology,
        draft::plain_name,
        parse::Table,
        problem::{Code, Problem, Problems},
        wording::{folded, nearest, quoted},
    },
};

/// Every name that is taken, with the place where it was.
pub(super) struct Names(BTreeMap<String, Range<usize>>);

impl Names {
    /// The names of cells.
    pub(super) fn of(cells: &[(Option<String>, Range<usize>)]) -> Self {
        let named = cells.iter().filter_map(|(name, span)| Some((name.clone()?, span.clone())));
        Self(named.collect())
    }

    /// Takes a name, or reports that somebody has it.
    fn take(&mut self, name: &Segment, span: Range<usize>, problems: &mut Problems) -> bool {
        let Some(first) = self.0.get(name.as_str()) else {
            self.0.insert(name.to_string(), span);
            return true;
        };
        let message = format!("two participants are called `{name}`");
        problems.add(
            Problem::new(Code::DuplicateName, span, message, "again here")
                .also(first.clone(), "first here")
                .help("names are unique in a project, among cells and people alike"),
        );
        false
    }
}

/// Reads one person. `None` where something is bad, which has then been reported.
pub(super) fn admin(
    table: &Table<RawAdmin>,
    fallback: &Option<Segment>,
    names: &mut Names,
    problems: &mut Problems,
) -> Option<AdminSpec> {
    let raw = &table.raw;
    for (key, is_there, help) in [
        ("name", raw.name.is_some(), "write name = \"..\", unique among cells and people"),
        (
            "role",
            raw.role.is_some(),
            "write role = \"project_admin\", \"org_admin\", \"lead\", \"member\" or one of your own",
        ),
    ] {
        if !is_there && !table.is_broken(key) {
            let message = format!("an [[admin]] needs `{key}`");
            let label = format!("no `{key}` here");
            problems
                .add(Problem::new(Code::Missing, table.span.clone(), message, label).help(help));
        }
    }
    let name = raw.name.as_ref().and_then(|written| {
        check_word(written, problems);
        let name = person(written, problems)?;
        names.take(&name, written.span(), problems).then_some(name)
    });
    let org = match &raw.org {
        Some(written) => plain_name("org", written, problems),
        None => fallback.clone(),
    };
    let role = raw.role.as_ref().and_then(|written| role(written, problems));
    Some(AdminSpec { name: name?, org: org?, role: role? })
}

/// An address of mail is what other systems call people by; say what to write instead.
fn person(written: &Spanned<String>, problems: &mut Problems) -> Option<Segment> {
    let text = written.get_ref();
    let Some((local, _)) = text.split_once('@') else {
        return plain_name("name", written, problems);
    };
    let local: String = local
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    let message = format!("{} cannot be the name of a person", quoted(text));
    let problem = Problem::new(Code::BadName, written.span(), message, "an address of mail");
    problems.add(match local.trim_matches(['-', '_']).parse::<Segment>() {
        Ok(name) => problem.help(format!("write `{name}`: names are not addresses")),
        Err(_) => problem.help("names are made of a-z, 0-9, `-` and `_`"),
    });
    None
}

fn role(written: &Spanned<String>, problems: &mut Problems) -> Option<Role> {
    let name = plain_name("role", written, problems)?;
    let role = Role::of(&name);
    let Role::Custom(name) = &role else { return Some(role) };
    let plain = |word: &str| folded(word).replace(['-', '_'], "");
    let alike = Role::KNOWN.into_iter().find(|known| plain(known) == plain(name.as_str()));
    let Some(meant) = alike.or_else(|| nearest(name.as_str(), Role::KNOWN)) else {
        return Some(role);
    };
    let message = format!("the role `{name}` reads like `{meant}` and is not");
    problems.add(
        Problem::new(Code::BadRole, written.span(), message, "easily confused")
            .help(format!("did you mean `{meant}`? A role of your own needs another name")),
    );
    None
}

/// Reports no or a second project admin.
pub(super) fn check_one_project_admin(
    admins: &[Table<RawAdmin>],
    complete: bool,
    top: Range<usize>,
    problems: &mut Problems,
) {
    let roles = || admins.iter().filter_map(|table| table.raw.role.as_ref());
    let is_one = |role: &&Spanned<String>| role.get_ref() == "project_admin";
    let mut found = roles().filter(is_one);
    let Some(first) = found.next() else {
        let all_are_known = admins.iter().all(|table| {
            table.raw.role.as_ref().is_some_and(|role| {
                role.get_ref().parse::<Segment>().is_ok()
                    && nearest(role.get_ref(), ["project_admin"]).is_none()
            })
        });
        if complete && all_are_known {
            let message = "no admin is the project admin";
            let problem = Problem::new(Code::NoProjectAdmin, top, message, "");
            problems.add(problem.help("add an [[admin]] with role = \"project_admin\""));
        }
        return;
    };
    for other in found {
        let message = "a project has one project admin";
        problems.add(
            Problem::new(Code::TwoProjectAdmins, other.span(), message, "another one")
                .also(first.span(), "the first one")
                .help("give one of them another role, such as `org_admin`"),
        );
    }
}

/// Reads the studies. `None` where something is bad, which has then been reported.
pub(super) fn studies(
    tables: &[Table<RawStudy>],
    topology: Option<&Topology>,
    admins: &[Table<RawAdmin>],
    complete: bool,
    problems: &mut Problems,
) -> Option<Vec<StudySpec>> {
    let people: BTreeSet<&str> = admins
        .iter()
        .filter_map(|table| Some(table.raw.name.as_ref()?.get_ref().as_str()))
        .collect();
    let sites: Option<BTreeSet<&str>> = topology.map(|topology| {
        let clients = topology.cells().iter().filter(|cell| cell.kind == CellKind::Client);
        clients.map(|cell| cell.name.as_str()).collect()
    });
    let mut taken: BTreeMap<Segment, Range<usize>> = BTreeMap::new();
    let mut read = Vec::new();
    let mut good = true;
    for table in tables {
        let raw = &table.raw;
        if raw.name.is_none() && !table.is_broken("name") {
            let message = "a [[study]] needs `name`";
            problems.add(
                Problem::new(Code::Missing, table.span.clone(), message, "no `name` here")
                    .help("write name = \"..\", unique among studies"),
            );
        }
        let name = raw.name.as_ref().and_then(|name| plain_name("name", name, problems));
        let members = members(raw.sites.as_ref(), "site", sites.as_ref(), problems);
        let known = complete.then_some(&people);
        let admins = self::members(raw.admins.as_ref(), "admin", known, problems);
        let (Some(name), Some(sites), Some(admins)) = (name, members, admins) else {
            good = false;
            continue;
        };
        let span = raw.name.as_ref().map_or_else(|| table.span.clone(), Spanned::span);
        if let Some(first) = taken.get(&name) {
            let message = format!("two studies are called `{name}`");
            problems.add(
                Problem::new(Code::RepeatedStudy, span, message, "again here")
                    .also(first.clone(), "first here")
                    .help("put the sites of both into one, or rename one"),
            );
            good = false;
            continue;
        }
        taken.insert(name.clone(), span);
        read.push(StudySpec { name, sites, admins });
    }
    good.then_some(read)
}

fn members(
    written: Option<&Spanned<Vec<Spanned<String>>>>,
    noun: &str,
    known: Option<&BTreeSet<&str>>,
    problems: &mut Problems,
) -> Option<Vec<Segment>> {
    let mut read = Vec::new();
    let mut good = true;
    for member in written.map(|list| list.get_ref().as_slice()).unwrap_or_default() {
        let text = member.get_ref().as_str();
        let is_known = known.is_none_or(|known| known.contains(text));
        if let (true, Ok(name)) = (is_known, text.parse::<Segment>()) {
            read.push(name);
            continue;
        }
        good = false;
        let message = format!("{} is no {noun} of this file", quoted(text));
        let label = format!("no such {noun}");
        let problem = Problem::new(Code::StudyUnknownMember, member.span(), message, label);
        let meant = known.and_then(|known| nearest(text, known.iter().copied()));
        problems.add(problem.help(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if noun == "site" => "name cells of kind `client`".to_owned(),
            None => "name people that have an [[admin]]".to_owned(),
        }));
    }
    good.then_some(read)
}
