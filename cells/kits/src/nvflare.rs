//! Reads the `project.yml` of NVIDIA FLARE as a project, and says of everything in it what became of it.
//!
//! The file is turned into the text of a project file, which then is read like any other. What is wrong with that is
//! shown at the place of the YAML file that it came from.

use std::{collections::BTreeMap, ops::Range};

use cellbus_proto::{
    name::Segment,
    topology::{
        Code, Problem,
        project::{self, ParsedProject},
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// The version of the format that is understood.
const API_VERSION: u64 = 3;
/// Where a server listens, if the file says nothing.
const SERVER_PORT: u64 = 8002;

/// A project that was taken over.
#[derive(Debug)]
pub struct TakenOver {
    /// The project, and what was left out or is odd, with places in the YAML text.
    pub parsed: ParsedProject,
    /// The same as the text of a project file.
    pub text: String,
}

type Keys = BTreeMap<String, Spanned<Value>>;

#[derive(Debug, Deserialize)]
struct Participants {
    #[serde(default)]
    participants: Vec<Spanned<Keys>>,
}

/// Whether a file is meant to be such a one, by its name.
#[must_use]
pub fn is_meant(file_name: &str) -> bool {
    let lower = file_name.to_ascii_lowercase();
    lower.ends_with(".yml") || lower.ends_with(".yaml")
}

/// Takes a project over.
///
/// # Errors
/// Everything that is wrong with the text, or that cannot be taken over, in the order of the text.
pub fn read(text: &str) -> Result<TakenOver, Vec<Problem>> {
    let syntax = |error: serde_saphyr::Error| {
        let at = error.location().map_or(0, |at| byte_of(text, at.span().offset()));
        let what = error.to_string();
        let first = what.lines().next().unwrap_or("not YAML").to_owned();
        vec![problem(Code::Syntax, at..at, first, "here", None)]
    };
    if text.len() > cellbus_proto::topology::TEXT_MAX_BYTES {
        let message = "the file is larger than 1 MiB";
        return Err(vec![problem(Code::TooLarge, 0..0, message, "", None)]);
    }
    let top: Keys = serde_saphyr::from_str(text).map_err(syntax)?;
    let list: Participants = serde_saphyr::from_str(text).map_err(syntax)?;
    let mut taking = Taking { yaml: text, ..Taking::default() };
    taking.top(&top);
    taking.participants(&list.participants);
    taking.finish()
}

/// What is being written, line by line, with the place that each line comes from.
#[derive(Default)]
struct Taking<'a> {
    yaml: &'a str,
    lines: Vec<(String, Range<usize>)>,
    problems: Vec<Problem>,
    server: Option<String>,
}

impl Taking<'_> {
    fn line(&mut self, text: String, from: &Range<usize>) {
        self.lines.push((text, from.clone()));
    }

    /// `key = value`, by a serialiser.
    fn set(&mut self, key: &str, value: impl Into<toml::Value>, from: &Range<usize>) {
        let mut table = toml::Table::new();
        table.insert(key.to_owned(), value.into());
        let text = toml::to_string(&table).unwrap_or_default();
        // A value of several lines keeps one place for all of them.
        for line in text.lines() {
            self.line(line.to_owned(), from);
        }
    }

    fn span<T>(&self, of: &Spanned<T>) -> Range<usize> {
        let span = of.referenced.span();
        let start = byte_of(self.yaml, span.offset());
        start..byte_of(self.yaml, span.offset() + span.len()).max(start)
    }

    fn left_out(&mut self, key: &str, from: Range<usize>, help: &str) {
        let message = format!("`{}` has no counterpart and is left out", key.escape_default());
        let label = "left out";
        self.problems.push(problem(Code::NoCounterpart, from, message, label, Some(help)));
    }

    fn refuse(&mut self, from: Range<usize>, message: impl Into<String>, help: &str) {
        self.problems.push(problem(Code::NotTakenOver, from, message, "here", Some(help)));
    }

    fn top(&mut self, keys: &Keys) {
        match keys.get("api_version") {
            Some(version) if version.value.as_u64() == Some(API_VERSION) => {}
            Some(version) => {
                let span = self.span(version);
                self.refuse(
                    span,
                    "not a version of the format that is understood",
                    "write api_version: 3",
                );
            }
            None => self.refuse(0..0, "the file has no `api_version`", "write api_version: 3"),
        }
        self.line("[project]".to_owned(), &(0..0));
        for (key, value) in keys {
            let span = self.span(value);
            match (key.as_str(), &value.value) {
                ("api_version" | "participants", _) => {}
                ("name", Value::String(name)) => self.set("name", name.as_str(), &span),
                ("description", Value::String(text)) => {
                    self.set("description", text.as_str(), &span)
                }
                ("builders" | "packager", _) => self.left_out(
                    key,
                    span,
                    "what makes kits is part of this program: no file names code that is run",
                ),
                ("connection_security", _) => {
                    self.left_out(
                        key,
                        span,
                        "every connection is mutual TLS; nothing else can be chosen",
                    );
                }
                ("custom_ca_cert", _) => {
                    self.left_out(
                        key,
                        span,
                        "cells trust the authority of their project and no other",
                    );
                }
                ("studies", _) => {
                    self.left_out(
                        key,
                        span,
                        "write [[study]] with sites and admins in the project file",
                    );
                }
                _ => self.left_out(
                    key,
                    span,
                    "docs/PROVISIONING.md lists what a project file can say",
                ),
            }
        }
    }

    fn participants(&mut self, all: &[Spanned<Keys>]) {
        let is_server = |one: &&Spanned<Keys>| text_of(&one.value, "type") == Some("server");
        let server = all.iter().find(is_server).and_then(|one| text_of(&one.value, "name"));
        self.server = server.map(|name| server_name(name).0);
        for one in all {
            let span = self.span(one);
            let Some(kind) = one.value.get("type") else {
                self.refuse(
                    span,
                    "a participant without `type`",
                    "write type: client, for example",
                );
                continue;
            };
            let kind_span = self.span(kind);
            match kind.value.as_str() {
                Some("server") => self.server(&one.value, &span),
                Some("relay") => self.relay(&one.value, &span),
                Some("client") => self.client(&one.value, &span),
                Some("admin") => self.admin(&one.value, &span),
                Some("overseer") => self.left_out(
                    "overseer",
                    kind_span,
                    "a project has one server, which is started again by whatever supervises its process",
                ),
                Some(_) | None => {
                    let help = "types are server, relay, client and admin";
                    self.refuse(kind_span, "a participant of a type that is not known", help);
                }
            }
        }
    }

    /// What all cells have.
    fn cell(&mut self, keys: &Keys, kind: &str, name: &str, span: &Range<usize>) {
        let place = keys.get("name").map_or_else(|| span.clone(), |name| self.span(name));
        self.line("[[cell]]".to_owned(), span);
        self.set("name", name, &place);
        self.set("kind", kind, span);
        self.org(keys);
    }

    fn org(&mut self, keys: &Keys) {
        if let Some(org) = keys.get("org") {
            let span = self.span(org);
            if let Value::String(name) = &org.value {
                self.set("org", name.as_str(), &span);
            } else {
                self.refuse(span, "`org` is no text", "write a name");
            }
        }
    }

    fn server(&mut self, keys: &Keys, span: &Range<usize>) {
        let written = text_of(keys, "name").unwrap_or_default();
        let (name, is_renamed) = server_name(written);
        if is_renamed {
            let place = keys.get("name").map_or_else(|| span.clone(), |name| self.span(name));
            let message = format!("the server is called `{name}` here");
            let help = "its old name is a host of its certificate";
            self.problems.push(problem(Code::NoCounterpart, place, message, "renamed", Some(help)));
        }
        self.cell(keys, "server", &name, span);
        let port = keys.get("fed_learn_port").and_then(|port| port.value.as_u64());
        let place = keys.get("fed_learn_port").map_or_else(|| span.clone(), |port| self.span(port));
        self.set("listen", format!("0.0.0.0:{}", port.unwrap_or(SERVER_PORT)), &place);
        let mut hosts = hosts_of(keys);
        if hosts.is_empty() && !written.is_empty() {
            hosts.push(written.to_owned());
        }
        self.hosts(hosts, span);
        for (key, value) in keys {
            match key.as_str() {
                "name" | "type" | "org" | "fed_learn_port" | "host_names" | "default_host" => {}
                "admin_port" => {
                    let span = self.span(value);
                    self.left_out(
                        key,
                        span,
                        "people use the same port; their certificates tell them from cells",
                    );
                }
                _ => self.other(key, value),
            }
        }
    }

    fn relay(&mut self, keys: &Keys, span: &Range<usize>) {
        let name = text_of(keys, "name").unwrap_or_default().to_owned();
        self.cell(keys, "relay", &name, span);
        self.parent(keys, span);
        match keys.get("listening_host") {
            Some(listening) => {
                let place = self.span(listening);
                let (hosts, port) = listening_host(&listening.value);
                match port {
                    Some(port) => self.set("listen", format!("0.0.0.0:{port}"), &place),
                    None => self.refuse(
                        place.clone(),
                        format!("the relay `{}` listens on no port", name.escape_default()),
                        "write listening_host: {port: 8102, default_host: ..}",
                    ),
                }
                self.hosts(hosts, &place);
            }
            None => self.refuse(
                span.clone(),
                format!("the relay `{}` has no `listening_host`", name.escape_default()),
                "write listening_host: {port: 8102, default_host: ..}",
            ),
        }
        for (key, value) in keys {
            if !matches!(key.as_str(), "name" | "type" | "org" | "connect_to" | "listening_host") {
                self.other(key, value);
            }
        }
    }

    fn client(&mut self, keys: &Keys, span: &Range<usize>) {
        let name = text_of(keys, "name").unwrap_or_default().to_owned();
        self.cell(keys, "client", &name, span);
        self.parent(keys, span);
        for (key, value) in keys {
            match key.as_str() {
                "name" | "type" | "org" | "connect_to" => {}
                "listening_host" => {
                    let span = self.span(value);
                    self.left_out(
                        key,
                        span,
                        "a site listens to nobody but its own jobs, on this machine",
                    );
                }
                "parent" => {
                    let span = self.span(value);
                    self.left_out(
                        key,
                        span,
                        "sites have no hierarchy besides the one by which they connect",
                    );
                }
                _ => self.other(key, value),
            }
        }
    }

    fn admin(&mut self, keys: &Keys, span: &Range<usize>) {
        let written = text_of(keys, "name").unwrap_or_default();
        let place = keys.get("name").map_or_else(|| span.clone(), |name| self.span(name));
        let name = person(written);
        if name != written {
            let message = format!("`{}` is called `{name}` here", written.escape_default());
            let help = "people have names, and not addresses of mail";
            self.problems.push(problem(
                Code::NoCounterpart,
                place.clone(),
                message,
                "renamed",
                Some(help),
            ));
        }
        self.line("[[admin]]".to_owned(), span);
        self.set("name", name, &place);
        self.org(keys);
        match keys.get("role") {
            Some(role) => {
                let place = self.span(role);
                if let Value::String(role) = &role.value {
                    self.set("role", role.as_str(), &place);
                } else {
                    self.refuse(place, "`role` is no text", "write a role");
                }
            }
            None => self.set("role", "member", span),
        }
        for (key, value) in keys {
            if !matches!(key.as_str(), "name" | "type" | "org" | "role") {
                self.other(key, value);
            }
        }
    }

    fn parent(&mut self, keys: &Keys, span: &Range<usize>) {
        let Some(to) = keys.get("connect_to") else {
            if let Some(server) = self.server.clone() {
                self.set("parent", server, span);
            }
            return;
        };
        let place = self.span(to);
        let (name, rest) = match &to.value {
            Value::String(name) => (Some(name.as_str()), false),
            Value::Object(map) => (map.get("name").and_then(Value::as_str), map.len() > 1),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => (None, false),
        };
        let name = name.map(str::to_owned).or_else(|| self.server.clone());
        match name {
            // The server is meant by its old name.
            Some(name) => {
                self.set("parent", server_or_relay(&name, self.server.as_deref()), &place)
            }
            None => {
                self.refuse(place.clone(), "`connect_to` names nobody", "write the name of a relay")
            }
        }
        if rest {
            let help = "write `dial` for the cell that is dialled: it holds for all who dial it";
            self.left_out("connect_to", place, help);
        }
    }

    fn hosts(&mut self, hosts: Vec<String>, from: &Range<usize>) {
        if !hosts.is_empty() {
            let hosts: Vec<toml::Value> = hosts.into_iter().map(toml::Value::String).collect();
            self.set("hosts", hosts, from);
        }
    }

    fn other(&mut self, key: &str, value: &Spanned<Value>) {
        let span = self.span(value);
        let help = match key {
            "connection_security" => "every connection is mutual TLS; nothing else can be chosen",
            "components" | "running_as_simulator" => "kits hold no code and name none",
            "capacity" | "props" | "gpus" => "what a site offers to jobs is for the site to say",
            _ => "docs/PROVISIONING.md lists what a project file can say",
        };
        self.left_out(key, span, help);
    }

    /// Reads what was written; places of problems become those of the YAML text.
    fn finish(mut self) -> Result<TakenOver, Vec<Problem>> {
        let mut text = String::new();
        for (line, _) in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        let place = |span: &Range<usize>| -> Range<usize> {
            let line = text[..span.start.min(text.len())].matches('\n').count();
            self.lines.get(line).map_or(0..0, |(_, from)| from.clone())
        };
        let moved = |problem: Problem| {
            let span = place(&problem.span);
            let also = problem.also.clone().map(|mut also| {
                also.span = place(&also.span);
                also
            });
            Problem { span, also, ..problem }
        };
        let by_place = |problem: &Problem| (problem.span.start, problem.code);
        match project::parse(&text) {
            Ok(ParsedProject { project, warnings }) => {
                let is_error = |one: &Problem| one.code == Code::NotTakenOver;
                let failed = self.problems.iter().any(is_error);
                let mut all: Vec<Problem> = warnings.into_iter().map(moved).collect();
                all.append(&mut self.problems);
                all.sort_by_key(by_place);
                if failed {
                    return Err(all);
                }
                Ok(TakenOver { parsed: ParsedProject { project, warnings: all }, text })
            }
            Err(problems) => {
                let mut all: Vec<Problem> = problems.into_iter().map(moved).collect();
                all.append(&mut self.problems);
                all.sort_by_key(by_place);
                Err(all)
            }
        }
    }
}

fn text_of<'a>(keys: &'a Keys, key: &str) -> Option<&'a str> {
    keys.get(key)?.value.as_str()
}

/// The name of the server here, and whether it is another one: the format uses names of hosts.
fn server_name(written: &str) -> (String, bool) {
    let is_name = written.parse::<Segment>().is_ok();
    if is_name || !written.contains('.') {
        (written.to_owned(), false)
    } else {
        ("server".to_owned(), true)
    }
}

fn server_or_relay(name: &str, server: Option<&str>) -> String {
    match server {
        Some(server) if server_name(name).0 == server => server.to_owned(),
        Some(_) | None => name.to_owned(),
    }
}

/// The name of a person from an address of mail.
fn person(written: &str) -> String {
    let Some((local, _)) = written.split_once('@') else { return written.to_owned() };
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    local.chars().map(plain).collect::<String>().trim_matches(['-', '_']).to_owned()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            Vec::new()
        }
    }
}

fn hosts_of(keys: &Keys) -> Vec<String> {
    let mut hosts = texts(keys.get("default_host").map(|host| &host.value));
    for host in texts(keys.get("host_names").map(|hosts| &hosts.value)) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn listening_host(value: &Value) -> (Vec<String>, Option<u64>) {
    let empty = Map::new();
    let map = value.as_object().unwrap_or(&empty);
    let mut hosts = texts(map.get("default_host"));
    hosts.extend(texts(map.get("host_names")));
    hosts.dedup();
    (hosts, map.get("port").and_then(Value::as_u64))
}

fn problem(
    code: Code,
    span: Range<usize>,
    message: impl Into<String>,
    label: &str,
    help: Option<&str>,
) -> Problem {
    let (message, label, help) = (message.into(), label.to_owned(), help.map(str::to_owned));
    Problem { code, message, span, label, also: None, help }
}

/// The byte at which a character of the text begins.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use cellbus_proto::topology::Severity;

    use super::*;
    use crate::text::position;

    const GOOD: &str = r#"
api_version: 3
name: example_project
description: NVIDIA FLARE sample project
participants:
  - name: server.example.org
    type: server
    org: nvidia
    fed_learn_port: 8102
    admin_port: 8003
  - name: relay-a
    type: relay
    org: nvidia
    listening_host:
      default_host: relay.example.org
      port: 8103
  - name: site-1
    type: client
    org: nvidia
    connect_to: relay-a
  - name: site-2
    type: client
    org: st_mary
    connect_to:
      name: server.example.org
      port: 443
    listening_host: site-2.example.org
  - name: admin@nvidia.com
    type: admin
    org: nvidia
    role: project_admin
  - name: overseer
    type: overseer
    org: nvidia
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args:
      template_file: master_template.yml
"#;

    fn told(problems: &[Problem]) -> Vec<String> {
        let line = |problem: &Problem| position(GOOD, problem.span.start).0;
        problems.iter().map(|one| format!("{} {} {}", line(one), one.code, one.message)).collect()
    }

    #[test]
    fn a_project_of_flare_is_taken_over_and_what_is_left_out_is_said() {
        let TakenOver { parsed, text } =
            read(GOOD).unwrap_or_else(|all| panic!("{:#?}", told(&all)));
        let project = parsed.project;
        let cells: Vec<String> = project
            .topology
            .cells()
            .iter()
            .map(|cell| format!("{} {} {}", cell.kind, cell.fqcn, cell.org))
            .collect();
        assert_eq!(
            cells,
            [
                "server server nvidia",
                "relay relay-a nvidia",
                "client relay-a.site-1 nvidia",
                "client site-2 st_mary"
            ]
        );
        let server = project.topology.server();
        assert_eq!(server.dial_target().as_deref(), Some("server.example.org:8102"));
        assert_eq!(project.admins[0].name.as_str(), "admin");
        assert_eq!(project::parse(&text).unwrap().project, project);
        let told = told(&parsed.warnings);
        for expected in [
            "6 CBT106 the server is called `server` here",
            "10 CBT106 `admin_port` has no counterpart and is left out",
            "25 CBT106 `connect_to` has no counterpart and is left out",
            "27 CBT106 `listening_host` has no counterpart and is left out",
            "28 CBT106 `admin@nvidia.com` is called `admin` here",
            "33 CBT106 `overseer` has no counterpart and is left out",
            "36 CBT106 `builders` has no counterpart and is left out",
        ] {
            assert!(told.iter().any(|line| line == expected), "{expected} not in {told:#?}");
        }
        assert!(parsed.warnings.iter().all(|one| one.severity() == Severity::Warning));
    }

    #[test]
    fn what_is_wrong_is_shown_where_the_yaml_file_has_it() {
        for (from, to, line, code) in [
            ("api_version: 3", "api_version: 7", 2, Code::NotTakenOver),
            ("name: site-1", "name: Site-1", 17, Code::BadName),
            ("connect_to: relay-a", "connect_to: relay-z", 20, Code::UnknownParent),
            ("role: project_admin", "role: project_admn", 31, Code::BadRole),
            ("type: relay", "type: robot", 12, Code::NotTakenOver),
            ("      port: 8103\n", "", 15, Code::NotTakenOver),
            ("org: st_mary", "org: St Mary; $(x)", 23, Code::BadName),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let problems = read(&text).expect_err(to);
            let found: Vec<_> =
                problems.iter().map(|one| (position(&text, one.span.start).0, one.code)).collect();
            assert!(found.contains(&(line, code)), "{to}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_yaml_or_too_much_of_it_is_refused() {
        assert_eq!(read("a: [").unwrap_err()[0].code, Code::Syntax);
        assert_eq!(read("- a\n- b\n").unwrap_err()[0].code, Code::Syntax);
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(read(bomb).is_err());
    }
}
