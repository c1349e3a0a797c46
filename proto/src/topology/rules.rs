//! The message rules of a file: patterns, channels and topics, held against the cells there are.

use std::collections::BTreeSet;

use toml::Spanned;

use super::{
    draft::Draft,
    parse::Table,
    problem::{Code, Problem, Problems},
    raw::RawRule,
    wording::{nearest, quoted},
};
use crate::{
    identity::CellKind,
    name::{Channel, ChannelTopic, NameError, Topic},
    policy::{Effect, Pattern, Rule},
    well_known,
};

/// What rules are held against.
pub(super) struct Cells<'a> {
    names: BTreeSet<&'a str>,
    kinds: BTreeSet<CellKind>,
    /// Whether every cell could be read, so that what is not here is nowhere.
    complete: bool,
}

impl<'a> Cells<'a> {
    pub(super) fn of(drafts: &'a [Draft], complete: bool) -> Self {
        let written = drafts.iter().filter_map(|cell| cell.written.as_ref());
        let complete = complete && drafts.iter().all(|cell| !cell.lacks("name"));
        let kinds = drafts.iter().filter_map(|cell| Some(*cell.kind.as_ref()?.get_ref()));
        let names = written.map(|name| name.get_ref().as_str()).collect();
        Self { names, kinds: kinds.collect(), complete }
    }
}

/// Reads one rule. `None` where something of it is bad, which has then been reported.
pub(super) fn rule(
    effect: Effect,
    table: &Table<RawRule>,
    cells: &Cells<'_>,
    problems: &mut Problems,
) -> Option<Rule> {
    let raw = &table.raw;
    let from = raw.from.as_ref().and_then(|text| pattern(effect, text, cells, problems));
    let to = raw.to.as_ref().and_then(|text| pattern(effect, text, cells, problems));
    let channel = raw.channel.as_ref().and_then(|text| channel(text, problems));
    let topics = raw.topics.as_ref().map(|list| topics(channel.as_ref(), list, problems));
    let present = [
        ("from", raw.from.is_some()),
        ("to", raw.to.is_some()),
        ("channel", raw.channel.is_some()),
        ("topics", raw.topics.is_some()),
    ];
    for (key, is_present) in present {
        if !is_present && !table.is_broken(key) {
            let message = format!("a rule needs `{key}`");
            let label = format!("no `{key}` here");
            let help = match key {
                "from" | "to" => {
                    "write a base name, `site-*`, `kind:client`, or `*` for every cell"
                }
                "channel" => "write the channel that the rule is about",
                _ => "list the topics that the rule is about",
            };
            problems
                .add(Problem::new(Code::Missing, table.span.clone(), message, label).help(help));
        }
    }
    Some(Rule { effect, from: from?, to: to?, channel: channel?, topics: topics? })
}

fn pattern(
    effect: Effect,
    written: &Spanned<String>,
    cells: &Cells<'_>,
    problems: &mut Problems,
) -> Option<Pattern> {
    let text = written.get_ref();
    let pattern = match text.parse::<Pattern>() {
        Ok(pattern) => pattern,
        Err(error) => {
            let message = format!("{} is not a pattern for cells", quoted(text));
            let problem =
                Problem::new(Code::BadPattern, written.span(), message, error.to_string());
            problems.add(problem.help(pattern_help(text, cells)));
            return None;
        }
    };
    // A bare kind is that kind, unless a cell bears it as its name.
    let bare_kind = match &pattern {
        Pattern::Name(name) if !cells.names.contains(name.as_str()) => name.as_str().parse().ok(),
        Pattern::Any | Pattern::Name(_) | Pattern::Prefix(_) | Pattern::Kind(_) => None,
    };
    let pattern = bare_kind.map_or(pattern, Pattern::Kind);
    if cells.complete {
        check_known(effect, &pattern, written, cells, problems);
    }
    Some(pattern)
}

fn pattern_help(text: &str, cells: &Cells<'_>) -> String {
    let base = text.rsplit('.').next().unwrap_or(text);
    if base != text && cells.names.contains(base) {
        return format!("rules name the last level alone: write `{base}`");
    }
    let kind = text.strip_prefix("kind:");
    let kinds = || CellKind::ALL.map(CellKind::as_str);
    match kind.map(|kind| nearest(kind, kinds())) {
        Some(Some(kind)) => format!("did you mean `kind:{kind}`?"),
        Some(None) => "kinds are server, relay, client, admin and job".to_owned(),
        None => match nearest(text, cells.names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "write a base name, `site-*`, `kind:client`, or `*` for every cell".to_owned(),
        },
    }
}

fn check_known(
    effect: Effect,
    pattern: &Pattern,
    written: &Spanned<String>,
    cells: &Cells<'_>,
    problems: &mut Problems,
) {
    let matches_something = match pattern {
        Pattern::Any | Pattern::Kind(CellKind::Admin | CellKind::Job) => true,
        Pattern::Kind(kind) => cells.kinds.contains(kind),
        Pattern::Prefix(prefix) => {
            let first = cells.names.range(prefix.as_str()..).next();
            first.is_some_and(|name| name.starts_with(prefix.as_str()))
        }
        Pattern::Name(name) => cells.names.contains(name.as_str()),
    };
    if matches_something {
        return;
    }
    let text = quoted(written.get_ref());
    let Pattern::Name(name) = pattern else {
        let message = format!("no cell of this file matches {text}");
        let label = "matches nothing here";
        problems.add(
            Problem::new(Code::PatternMatchesNothing, written.span(), message, label)
                .help("jobs and consoles are matched by `kind:job` and `kind:admin`"),
        );
        return;
    };
    let (code, what_happens) = match effect {
        Effect::Deny => (Code::DenyUnknownCell, "it would deny nothing"),
        Effect::Allow => (Code::AllowUnknownCell, "it allows nothing"),
    };
    let message = format!("the rule names {text}, which is not a cell of this file");
    let problem = Problem::new(code, written.span(), message, what_happens);
    problems.add(problem.help(match nearest(name.as_str(), cells.names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "write the base name of a cell of this file, or `kind:..`, or `*`".to_owned(),
    }));
}

fn channel(written: &Spanned<String>, problems: &mut Problems) -> Option<Channel> {
    let text = written.get_ref();
    let channel = match text.parse::<Channel>() {
        Ok(channel) => channel,
        Err(error) => {
            problems.add(bad_address("channel", written, &error));
            return None;
        }
    };
    if well_known::is_reserved(&channel) {
        let message = format!("the channel `{channel}` belongs to the system");
        problems.add(reserved(written, message));
        return None;
    }
    Some(channel)
}

fn topics(
    channel: Option<&Channel>,
    list: &Spanned<Vec<Spanned<String>>>,
    problems: &mut Problems,
) -> Vec<Topic> {
    if list.get_ref().is_empty() {
        let problem =
            Problem::new(Code::NoTopics, list.span(), "a rule without topics", "nothing is listed");
        problems.add(problem.help("list each topic, or leave the rule out"));
    }
    let mut topics: Vec<Topic> = Vec::new();
    let mut seen = BTreeSet::new();
    for written in list.get_ref() {
        let topic = match written.get_ref().parse::<Topic>() {
            Ok(topic) => topic,
            Err(error) => {
                problems.add(bad_address("topic", written, &error));
                continue;
            }
        };
        if let Some(channel) = channel {
            let target = ChannelTopic::new(channel.clone(), topic.clone());
            if well_known::lookup(&target).is_some() {
                problems.add(reserved(written, format!("`{target}` belongs to the system")));
                continue;
            }
        }
        if seen.insert(topic.clone()) {
            topics.push(topic);
        } else {
            let message = format!("the topic `{topic}` stands twice in one rule");
            problems.add(
                Problem::new(Code::RepeatedTopic, written.span(), message, "once more")
                    .help("remove it"),
            );
        }
    }
    topics
}

fn bad_address(what: &str, written: &Spanned<String>, error: &NameError) -> Problem {
    let text = written.get_ref();
    let message = format!("{} is not a {what}", quoted(text));
    let help = if text.contains('*') {
        format!("there are no wildcards for channels and topics: list each {what}")
    } else if text.contains('/') {
        "channel and topic are separate keys: channel = \"task\", topics = [\"fetch\"]".to_owned()
    } else {
        format!("a {what} is 1 to 64 characters of a-z, 0-9, `_`, `.` and `-`")
    };
    Problem::new(Code::BadAddress, written.span(), message, error.to_string()).help(help)
}

fn reserved(written: &Spanned<String>, message: String) -> Problem {
    Problem::new(Code::ReservedChannel, written.span(), message, "has fixed rules of its own")
        .help("remove it: what the system says to itself is neither allowed nor denied by a file")
}
