//! Rules that are each right and together not what was meant: shadowed, contradictory, superfluous, or
//! about a way that no message takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    Topology,
    problem::{Code, Problem, Problems},
};
use crate::{
    identity::CellKind,
    policy::{Channels, Direction, Effect, End, Pattern, Rule, Topics},
};

/// Steps of work after which a file has too many rules to be compared with each other.
const WORK_MAX: usize = 5_000_000;

/// Reports what is odd about the rules of a topology, which stand at these places of its file.
pub(super) fn rules(topology: &Topology, spans: &[Range<usize>], problems: &mut Problems) {
    let mut review = Review { topology, members: BTreeMap::new(), work: 0 };
    let mut found = Vec::new();
    for (index, rule) in topology.rules.iter().enumerate() {
        if review.work > WORK_MAX {
            return;
        }
        let problem = review
            .way_never_taken(rule, &spans[index])
            .or_else(|| review.shadowed(index, spans))
            .or_else(|| review.superfluous(index, spans));
        found.extend(problem);
    }
    // All or nothing: half of a comparison would look like a whole one.
    if review.work <= WORK_MAX {
        found.into_iter().for_each(|problem| problems.add(problem));
    }
}

struct Review<'a> {
    topology: &'a Topology,
    /// The cells of the file that a pattern matches.
    members: BTreeMap<&'a Pattern, BTreeSet<usize>>,
    work: usize,
}

impl<'a> Review<'a> {
    fn members(&mut self, pattern: &'a Pattern) -> &BTreeSet<usize> {
        let (topology, work) = (self.topology, &mut self.work);
        self.members.entry(pattern).or_insert_with(|| {
            *work += topology.cells().len();
            let matches = |index: &usize| {
                let cell = &topology.cells()[*index];
                let (kind, org) = (Some(cell.kind), Some(&cell.org));
                pattern.matches(End { base: cell.name.as_str(), kind, org })
            };
            (0..topology.cells().len()).filter(matches).collect()
        })
    }

    /// Whether every cell that `inner` is about, `outer` is about too.
    fn covers(&mut self, outer: &'a Pattern, inner: &'a Pattern) -> bool {
        self.work += 1;
        match (outer, inner) {
            (Pattern::Any, _) => return true,
            (outer, inner) if outer == inner => return true,
            (Pattern::Prefix(outer), Pattern::Prefix(inner)) => {
                return inner.starts_with(outer.as_str());
            }
            // Cells that come and go are among these, and are not in the file.
            (
                _,
                Pattern::Any | Pattern::Org(_) | Pattern::Kind(CellKind::Job | CellKind::Admin),
            ) => {
                return false;
            }
            (_, Pattern::Name(_) | Pattern::Prefix(_) | Pattern::Kind(_)) => {}
        }
        let inner = self.members(inner).clone();
        self.work += inner.len();
        !inner.is_empty() && inner.is_subset(self.members(outer))
    }

    /// Whether `outer` is about every message between two cells that `inner` is about, topics aside.
    fn covers_all_but_topics(&mut self, outer: &'a Rule, inner: &'a Rule) -> bool {
        let channel = outer.channel == Channels::Any || outer.channel == inner.channel;
        let direction = outer.direction.is_none() || outer.direction == inner.direction;
        channel
            && direction
            && self.covers(&outer.from, &inner.from)
            && self.covers(&outer.to, &inner.to)
    }

    fn shadowed(&mut self, index: usize, spans: &[Range<usize>]) -> Option<Problem> {
        let rules = &self.topology.rules;
        let allow = rules.get(index).filter(|rule| rule.effect == Effect::Allow)?;
        let mut open: BTreeSet<_> = match &allow.topics {
            Topics::Any => BTreeSet::new(),
            Topics::These(topics) => topics.iter().collect(),
        };
        for (other, deny) in rules.iter().enumerate() {
            if deny.effect != Effect::Deny || !self.covers_all_but_topics(deny, allow) {
                self.work += 1;
                continue;
            }
            let is_whole = match &deny.topics {
                Topics::Any => true,
                Topics::These(topics) => {
                    let before = open.len();
                    open.retain(|topic| !topics.contains(topic));
                    before > 0 && open.is_empty()
                }
            };
            if !is_whole {
                continue;
            }
            let opposite = Rule { effect: Effect::Allow, seal: allow.seal, ..deny.clone() };
            let (code, message) = if opposite == *allow {
                let message = format!("`{allow}` is allowed here and denied elsewhere");
                (Code::Contradiction, message)
            } else {
                (Code::ShadowedRule, format!("`{allow}` allows nothing: it is denied"))
            };
            return Some(
                Problem::new(code, spans[index].clone(), message, "has no effect")
                    .also(spans[other].clone(), "a deny rule wins wherever it stands")
                    .help("remove one of them, or make the deny rule narrower"),
            );
        }
        None
    }

    fn superfluous(&mut self, index: usize, spans: &[Range<usize>]) -> Option<Problem> {
        let rules = &self.topology.rules;
        let rule = &rules[index];
        for (other, wider) in rules.iter().enumerate() {
            self.work += 1;
            let says_as_much = wider.effect == rule.effect && (wider.seal || !rule.seal);
            if other == index || !says_as_much {
                continue;
            }
            let topics = match (&wider.topics, &rule.topics) {
                (Topics::Any, _) => true,
                (Topics::These(_), Topics::Any) => false,
                (Topics::These(wider), Topics::These(these)) => {
                    these.iter().all(|topic| wider.contains(topic))
                }
            };
            let is_covered = topics && self.covers_all_but_topics(wider, rule);
            // Of two that say the same, the later one is the one too many.
            let is_same = is_covered
                && other > index
                && self.covers_all_but_topics(rule, wider)
                && { wider.topics == rule.topics };
            if is_covered && !is_same {
                let message = format!("`{rule}` is a part of what another rule says");
                return Some(
                    Problem::new(
                        Code::SuperfluousRule,
                        spans[index].clone(),
                        message,
                        "changes nothing",
                    )
                    .also(spans[other].clone(), "this says it already")
                    .help("remove it, or the wider one if that was too wide"),
                );
            }
        }
        None
    }

    /// Reports a rule of one direction where no two cells of the file that it is about lie so.
    fn way_never_taken(&mut self, rule: &'a Rule, span: &Range<usize>) -> Option<Problem> {
        const PAIRS_MAX: usize = 250_000;
        let direction = rule.direction?;
        let comes_and_goes =
            |pattern: &Pattern| matches!(pattern, Pattern::Kind(CellKind::Job | CellKind::Admin));
        if comes_and_goes(&rule.from) || comes_and_goes(&rule.to) {
            return None;
        }
        let from = self.members(&rule.from).clone();
        let to = self.members(&rule.to).clone();
        // A side that matches nothing is reported as such.
        if from.is_empty() || to.is_empty() || from.len().saturating_mul(to.len()) > PAIRS_MAX {
            return None;
        }
        let (cells, root) = (self.topology.cells(), &self.topology.server().fqcn);
        for a in &from {
            for b in to.iter().filter(|b| *b != a) {
                self.work += 1;
                let (a, b) = (&cells[*a].fqcn, &cells[*b].fqcn);
                if Direction::of(a, b, Some(root)) == direction {
                    return None;
                }
            }
        }
        let message = format!("`{rule}`: no two of these cells lie in that direction");
        let problem = Problem::new(Code::WayNeverTaken, span.clone(), message, "matches nothing");
        Some(problem.help(match direction {
            Direction::Up => "`up` is from a cell to what stands above it; the server is above all",
            Direction::Down => "`down` is from a cell to what stands below it",
            Direction::Across => {
                "`across` is between cells of which neither stands above the other"
            }
        }))
    }
}
