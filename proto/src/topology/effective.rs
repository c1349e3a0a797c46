//! What holds, value by value, and where each comes from: the line of the file, or a default.
//!
//! What a value shows is decided by its type. Texts that whoever runs a program gave it as arguments can be anything,
//! so they are not shown; no other value of a topology can be a secret, since [`parse`](super::parse) refuses those.

use toml::de::DeTable;

use super::{CellSpec, Limits, Topology};
use crate::job::{ArgvPart, ProgramRun, ProgramSpec};

/// What stands in the place of a text that is not shown.
pub const HIDDEN: &str = "***";

/// One value that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, with that of its table before it; cells, channels and programs by their names, rules by their number.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Unit of a figure: `ms`, `s`, `bytes`, or empty.
    pub unit: &'static str,
    /// Where it comes from.
    pub source: Source,
}

/// A value, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Texts. One that is not shown is [`HIDDEN`].
    List(Vec<String>),
    /// A figure, in the unit of its key.
    Figure(u64),
    /// Yes or no.
    Flag(bool),
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file says so.
    File {
        /// The line, from 1.
        line: u32,
    },
    /// The file says nothing.
    Default,
}

/// Every value that holds where `topology` does, which was read from `text`: in the order of the reference, cells,
/// rules and programs in that of the file.
#[must_use]
pub fn effective(topology: &Topology, text: &str) -> Vec<Setting> {
    let (document, _) = DeTable::parse_recoverable(text);
    let places = Places { document: document.get_ref(), ends: line_ends(text) };
    let mut settings = Vec::new();
    let project = places.table("project");
    let mut put = |key: String, value: Value, source: Source| {
        settings.push(Setting { key, value, unit: "", source });
    };
    let name = topology.project.to_string();
    put("project.name".to_owned(), Value::Text(name), places.of(project, "name"));
    put("project.dev".to_owned(), Value::Flag(topology.dev), places.of(project, "dev"));
    for (cell, table) in topology.cells().iter().zip(places.tables("cell")) {
        for (key, value) in of_cell(cell) {
            put(format!("cell.{}.{key}", cell.name), value, places.of(Some(table), key));
        }
    }
    for ((number, rule), line) in (1..).zip(&topology.rules).zip(&topology.lines) {
        let number: usize = number;
        let source = Source::File { line: *line };
        put(format!("rule.{number}"), Value::Text(rule.to_string()), source);
    }
    for channel in &topology.sealed {
        let is_it = |table: &&DeTable<'_>| text_of(table, "name") == Some(channel.as_str());
        let table = places.tables("channel").find(is_it);
        let required = Value::Text("required".to_owned());
        put(format!("channel.{channel}.seal"), required, places.of(table, "seal"));
    }
    for (program, table) in topology.programs.iter().zip(places.tables("program")) {
        for (key, value) in of_program(program) {
            put(format!("program.{}.{key}", program.name), value, places.of(Some(table), key));
        }
    }
    if let Some(listen) = topology.metrics {
        let source = places.of(places.table("metrics"), "listen");
        put("metrics.listen".to_owned(), Value::Text(listen.to_string()), source);
    }
    let trust = places.table("trust");
    for (key, version) in
        [("revocations", topology.lists.revocations), ("roster", topology.lists.roster)]
    {
        put(format!("trust.{key}"), Value::Figure(version), places.of(trust, key));
    }
    of_limits(&topology.limits, &places, &mut settings);
    settings
}

fn of_cell(cell: &CellSpec) -> Vec<(&'static str, Value)> {
    let mut values = vec![("kind", Value::Text(cell.kind.to_string()))];
    let mut put = |key, text: Option<String>| values.extend(text.map(|t| (key, Value::Text(t))));
    put("parent", cell.parent.as_ref().map(ToString::to_string));
    put("listen", cell.listen.map(|listen| listen.to_string()));
    put("dial", cell.dial_target());
    put("org", Some(cell.org.to_string()));
    values.push(("hosts", Value::List(cell.hosts.clone())));
    values
}

fn of_program(program: &ProgramSpec) -> Vec<(&'static str, Value)> {
    let list = |texts: &mut dyn Iterator<Item = String>| Value::List(texts.collect());
    let mut values = vec![("cells", list(&mut program.cells.iter().map(ToString::to_string)))];
    values.push(match &program.run {
        ProgramRun::Builtin(name) => ("builtin", Value::Text(name.to_string())),
        ProgramRun::Argv(parts) => ("argv", list(&mut parts.iter().enumerate().map(argument))),
        ProgramRun::Attached => ("attach", Value::Flag(true)),
    });
    values.push(("parameters", list(&mut program.parameters.keys().cloned())));
    values.push(("environment", list(&mut program.environment.iter().cloned())));
    values.push(("custom_code", Value::Flag(program.custom_code)));
    values.extend(program.detach_s.map(|s| ("detach_s", Value::Figure(s.into()))));
    values
}

/// The program itself and what jobs give it; not what is the same for all of them.
fn argument((at, part): (usize, &ArgvPart)) -> String {
    match part {
        ArgvPart::Text(program) if at == 0 => program.clone(),
        ArgvPart::Text(_) => HIDDEN.to_owned(),
        ArgvPart::Parameter(name) => format!("{{{name}}}"),
    }
}

fn of_limits(limits: &Limits, places: &Places<'_>, settings: &mut Vec<Setting>) {
    let table = places.table("limits");
    for ((key, figure), spec) in limits.figures().zip(Limits::SPECS) {
        settings.push(Setting {
            key: format!("limits.{key}"),
            value: Value::Figure(figure),
            unit: spec.unit,
            source: places.of(table, key),
        });
    }
    let congestion = Value::Text(limits.congestion.to_string());
    for (key, value) in
        [("congestion", congestion), ("tap_payload", Value::Flag(limits.tap_payload))]
    {
        let source = places.of(table, key);
        settings.push(Setting { key: format!("limits.{key}"), value, unit: "", source });
    }
}

/// Where the keys of a document stand.
struct Places<'a> {
    document: &'a DeTable<'a>,
    ends: Vec<usize>,
}

impl<'a> Places<'a> {
    fn table(&self, name: &str) -> Option<&'a DeTable<'a>> {
        self.document.get(name)?.get_ref().as_table()
    }

    fn tables(&self, name: &str) -> impl Iterator<Item = &'a DeTable<'a>> + use<'a> {
        let list = self.document.get(name).and_then(|list| list.get_ref().as_array());
        let items = list.into_iter().flat_map(|list| list.iter());
        items.filter_map(|item| item.get_ref().as_table())
    }

    fn of(&self, table: Option<&DeTable<'_>>, key: &str) -> Source {
        let found = table.and_then(|table| table.get_key_value(key));
        found.map_or(Source::Default, |(key, _)| {
            let line = self.ends.partition_point(|end| *end < key.span().start) + 1;
            Source::File { line: u32::try_from(line).unwrap_or(u32::MAX) }
        })
    }
}

fn text_of<'a>(table: &'a DeTable<'_>, key: &str) -> Option<&'a str> {
    table.get(key)?.get_ref().as_str()
}

fn line_ends(text: &str) -> Vec<usize> {
    text.bytes().enumerate().filter_map(|(at, byte)| (byte == b'\n').then_some(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::parse;

    const FILE: &str = "\
[project]
name = \"study\"
[[cell]]
name = \"server\"
kind = \"server\"
listen = \"0.0.0.0:8002\"
hosts = [\"server.example.org\"]
[[cell]]
name = \"site-1\"
kind = \"client\"
parent = \"server\"
[[allow]]
from = \"site-*\"
to = \"server\"
channel = \"task\"
topics = [\"fetch\"]
[[channel]]
name = \"task\"
seal = \"required\"
[[program]]
name = \"train\"
cells = [\"site-1\"]
argv = [\"/opt/train\", \"--licence=k3y\", \"{rounds}\"]
parameters = { rounds = \"integer\" }
[limits]
handlers_max = 7
";

    fn found(key: &str) -> (Value, Source) {
        let topology = parse(FILE).expect("it is valid").topology;
        let settings = effective(&topology, FILE);
        let of_key: Vec<&Setting> = settings.iter().filter(|one| one.key == key).collect();
        let [one] = of_key.as_slice() else { panic!("{key}: {of_key:?}") };
        (one.value.clone(), one.source)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn what_the_file_says_has_its_line_and_everything_else_a_default() {
        let at = |line| Source::File { line };
        assert_eq!(found("project.name"), (text("study"), at(2)));
        assert_eq!(found("project.dev"), (Value::Flag(false), Source::Default));
        assert_eq!(found("cell.server.listen"), (text("0.0.0.0:8002"), at(6)));
        assert_eq!(found("cell.site-1.parent"), (text("server"), at(11)));
        assert_eq!(found("cell.site-1.org"), (text("study"), Source::Default));
        assert_eq!(found("rule.1"), (text("allow site-* -> server task/fetch"), at(12)));
        assert_eq!(found("channel.task.seal"), (text("required"), at(19)));
        assert_eq!(found("limits.handlers_max"), (Value::Figure(7), at(26)));
        assert_eq!(found("limits.hops_max"), (Value::Figure(16), Source::Default));
        assert_eq!(found("limits.congestion"), (text("cubic"), Source::Default));
    }

    #[test]
    fn what_follows_from_other_values_is_a_default() {
        let dial = (text("server.example.org:8002"), Source::Default);
        assert_eq!(found("cell.server.dial"), dial);
    }

    #[test]
    fn arguments_of_a_program_are_hidden_and_what_jobs_give_it_is_not() {
        let argv = ["/opt/train", HIDDEN, "{rounds}"].map(str::to_owned);
        assert_eq!(found("program.train.argv").0, Value::List(argv.into()));
        let topology = parse(FILE).expect("it is valid").topology;
        assert!(!format!("{:?}", effective(&topology, FILE)).contains("k3y"));
    }

    #[test]
    fn every_limit_is_there_with_its_unit() {
        let topology = parse(FILE).expect("it is valid").topology;
        let settings = effective(&topology, FILE);
        for spec in Limits::SPECS {
            let key = format!("limits.{}", spec.key);
            let one = settings.iter().find(|one| one.key == key).expect(spec.key);
            assert_eq!(one.unit, spec.unit);
        }
    }
}
