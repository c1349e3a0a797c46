//! The message rules of a file: patterns, channels and topics, held against the cells there are.

use std::collections::BTreeSet;

use toml::Spanned;

use super::{
    draft::Draft,
    parse::Table,
    problem::{Code, Problem, Problems},
    raw::{RawChannel, RawRule},
    wording::{listed, nearest, quoted},
};
use crate::{
    identity::CellKind,
    name::{Channel, ChannelTopic, NameError, Segment, Topic},
    policy::{Channels, Direction, Effect, Pattern, Rule, Topics},
    well_known,
};

const PATTERN_HELP: &str =
    "write a base name, `site-*`, `kind:client`, `org:acme`, or `*` for every cell";

/// What rules are held against.
pub(super) struct Cells<'a> {
    names: BTreeSet<&'a str>,
    kinds: BTreeSet<CellKind>,
    orgs: BTreeSet<&'a str>,
    /// Whether every cell could be read, so that what is not here is nowhere.
    complete: bool,
}

impl<'a> Cells<'a> {
    /// The cells of these drafts, run by the project itself where they do not say by whom.
    pub(super) fn of(drafts: &'a [Draft], project: Option<&'a Segment>, complete: bool) -> Self {
        let orgs = drafts.iter().filter_map(|cell| cell.org.as_ref().or(project));
        let orgs = orgs.map(Segment::as_str).collect();
        let written = drafts.iter().filter_map(|cell| cell.written.as_ref());
        let complete = complete && drafts.iter().all(|cell| !cell.lacks("name"));
        let kinds = drafts.iter().filter_map(|cell| Some(*cell.kind.as_ref()?.get_ref()));
        let names = written.map(|name| name.get_ref().as_str()).collect();
        Self { names, kinds: kinds.collect(), orgs, complete }
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
    if let Some(Pattern::Kind(CellKind::Job)) = &from
        && let Some(written) = &raw.from
    {
        let message = "job cells speak to their own job and their parent, and to nobody else";
        let label = "no rule changes that";
        problems.add(
            Problem::new(Code::JobsDoNotAsk, written.span(), message, label)
                .help("remove the rule"),
        );
    }
    let channel = raw.channel.as_ref().and_then(|text| channels(text, problems));
    let topics = raw.topics.as_ref().map(|list| topics(channel.as_ref(), list, problems));
    let direction = match &raw.direction {
        None => Some(None),
        Some(written) => direction(written, problems),
    };
    let seal = match &raw.seal {
        None => Some(false),
        Some(written) => seal(written, problems).then_some(true),
    };
    if let (Effect::Deny, Some(written)) = (effect, &raw.seal) {
        let message = "a deny rule cannot demand sealing";
        let problem =
            Problem::new(Code::SealOnDeny, written.span(), message, "nothing passes by this rule");
        problems.add(problem.help("remove it, or say it in [[channel]] or in an allow rule"));
    }
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
                "from" | "to" => PATTERN_HELP,
                "channel" => "write the channel that the rule is about",
                _ => "list the topics that the rule is about",
            };
            problems
                .add(Problem::new(Code::Missing, table.span.clone(), message, label).help(help));
        }
    }
    let broken = ["direction", "seal"].iter().any(|key| table.is_broken(key));
    let (from, to, channel, topics) = (from?, to?, channel?, topics?);
    let rule = Rule { effect, from, to, channel, topics, direction: direction?, seal: seal? };
    (!broken).then_some(rule)
}

/// Reads a channel on which every message must be sealed. `None` where something of it is bad, which has
/// then been reported.
pub(super) fn sealed_channel(
    table: &Table<RawChannel>,
    problems: &mut Problems,
) -> Option<Spanned<Channel>> {
    let raw = &table.raw;
    for (key, is_present) in [("name", raw.name.is_some()), ("seal", raw.seal.is_some())] {
        if !is_present && !table.is_broken(key) {
            let message = format!("a [[channel]] needs `{key}`");
            let label = format!("no `{key}` here");
            let help = match key {
                "name" => "write the channel that it is about",
                _ => "write seal = \"required\"",
            };
            problems
                .add(Problem::new(Code::Missing, table.span.clone(), message, label).help(help));
        }
    }
    let is_good = raw.seal.as_ref().is_some_and(|written| seal(written, problems));
    let written = raw.name.as_ref()?;
    let channel = channel(written, problems)?;
    is_good.then(|| Spanned::new(written.span(), channel))
}

fn direction(written: &Spanned<String>, problems: &mut Problems) -> Option<Option<Direction>> {
    const ANY: &str = "any";
    let all = [Direction::Up, Direction::Down, Direction::Across];
    let text = written.get_ref();
    if text == ANY {
        return Some(None);
    }
    if let Some(direction) = all.into_iter().find(|direction| direction.as_str() == text) {
        return Some(Some(direction));
    }
    let words = || all.map(Direction::as_str).into_iter().chain([ANY]);
    let message = format!("{} is not a direction", quoted(text));
    let problem = Problem::new(Code::BadChoice, written.span(), message, "no such direction");
    problems.add(problem.help(match nearest(text, words()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("directions are {}", listed(words())),
    }));
    None
}

fn seal(written: &Spanned<String>, problems: &mut Problems) -> bool {
    let is_good = written.get_ref() == "required";
    if !is_good {
        let message =
            format!("{} is nothing that can be said about sealing", quoted(written.get_ref()));
        let problem = Problem::new(Code::BadChoice, written.span(), message, "no such word");
        problems.add(problem.help("write `required`, or leave the key out"));
    }
    is_good
}

pub(super) fn pattern(
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
        Pattern::Any
        | Pattern::Name(_)
        | Pattern::Prefix(_)
        | Pattern::Kind(_)
        | Pattern::Org(_) => None,
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
    if let Some(org) = text.strip_prefix("org:") {
        return match nearest(org, cells.orgs.iter().copied()) {
            Some(org) => format!("did you mean `org:{org}`?"),
            None => "write the whole name of an organisation; there are no wildcards".to_owned(),
        };
    }
    let kind = text.strip_prefix("kind:");
    let kinds = || CellKind::ALL.map(CellKind::as_str);
    match kind.map(|kind| nearest(kind, kinds())) {
        Some(Some(kind)) => format!("did you mean `kind:{kind}`?"),
        Some(None) => "kinds are server, relay, client, admin and job".to_owned(),
        None => match nearest(text, cells.names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => PATTERN_HELP.to_owned(),
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
        Pattern::Org(org) => cells.orgs.contains(org.as_str()),
    };
    if matches_something {
        return;
    }
    let text = quoted(written.get_ref());
    if let Pattern::Org(org) = pattern {
        let (code, what_happens) = match effect {
            Effect::Deny => (Code::DenyUnknownOrg, "it would deny nothing"),
            Effect::Allow => (Code::PatternMatchesNothing, "it allows nothing"),
        };
        let message = format!("no cell of this file is run by `{}`", org.as_str());
        let problem = Problem::new(code, written.span(), message, what_happens);
        let orgs = || cells.orgs.iter().copied();
        problems.add(problem.help(match nearest(org.as_str(), orgs()) {
            Some(meant) => format!("did you mean `org:{meant}`?"),
            None => format!("cells of this file are run by {}", listed(orgs().take(10))),
        }));
        return;
    }
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

fn channels(written: &Spanned<String>, problems: &mut Problems) -> Option<Channels> {
    if written.get_ref() == "*" {
        return Some(Channels::Any);
    }
    channel(written, problems).map(Channels::One)
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
    channel: Option<&Channels>,
    list: &Spanned<Vec<Spanned<String>>>,
    problems: &mut Problems,
) -> Topics {
    if let [only] = list.get_ref().as_slice()
        && only.get_ref() == "*"
    {
        return Topics::Any;
    }
    if list.get_ref().is_empty() {
        let problem =
            Problem::new(Code::NoTopics, list.span(), "a rule without topics", "nothing is listed");
        problems.add(problem.help("list each topic, or `*` for all, or leave the rule out"));
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
        if let Some(Channels::One(channel)) = channel {
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
    Topics::These(topics)
}

pub(super) fn bad_address(what: &str, written: &Spanned<String>, error: &NameError) -> Problem {
    let text = written.get_ref();
    let message = format!("{} is not a {what}", quoted(text));
    let help = if text == "*" {
        "`*` stands alone and means all of them: remove it, or everything else".to_owned()
    } else if text.contains('*') {
        format!("a {what} is written in full; `*` alone means all of them")
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
