//! What differs between two topologies, for people and for a reload.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use super::{CellSpec, Topology};
use crate::{
    identity::CellKind,
    job::ProgramSpec,
    name::{Channel, Segment},
    policy::{Effect, Rule},
};

/// One difference from an old topology to a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The project has another name: nothing that was issued for the old one is valid.
    Project {
        /// Old name.
        from: Segment,
        /// New name.
        to: Segment,
    },
    /// Development certificates are minted, or no longer.
    Dev {
        /// Whether they are, now.
        now: bool,
    },
    /// A cell that was not there.
    CellAdded {
        /// Its base name.
        cell: Segment,
    },
    /// A cell that is no longer there.
    CellRemoved {
        /// Its base name.
        cell: Segment,
    },
    /// A cell has another parent; every path below it changes.
    CellMoved {
        /// Its base name.
        cell: Segment,
        /// Old parent; `None` for a server.
        from: Option<Segment>,
        /// New parent; `None` for a server.
        to: Option<Segment>,
    },
    /// A cell is of another kind, so that its certificate does not fit.
    KindChanged {
        /// Its base name.
        cell: Segment,
        /// Old kind.
        from: CellKind,
        /// New kind.
        to: CellKind,
    },
    /// A cell listens elsewhere.
    ListenChanged {
        /// Its base name.
        cell: Segment,
        /// Old address.
        from: Option<SocketAddr>,
        /// New address.
        to: Option<SocketAddr>,
    },
    /// Children dial a cell at another address.
    DialChanged {
        /// Its base name.
        cell: Segment,
        /// Old address.
        from: Option<String>,
        /// New address.
        to: Option<String>,
    },
    /// The certificate of a cell must state other hosts.
    HostsChanged {
        /// Its base name.
        cell: Segment,
    },
    /// A cell belongs to another organisation, so that its certificate does not fit.
    OrgChanged {
        /// Its base name.
        cell: Segment,
        /// Old organisation.
        from: Segment,
        /// New organisation.
        to: Segment,
    },
    /// A rule that was not there.
    RuleAdded(Rule),
    /// A rule that is no longer there.
    RuleRemoved(Rule),
    /// Every message on a channel must be sealed, or no longer for the channel's sake.
    SealChanged {
        /// The channel.
        channel: Channel,
        /// Whether it must, now.
        now: bool,
    },
    /// Figures are given at another address.
    MetricsChanged {
        /// Old address.
        from: Option<SocketAddr>,
        /// New address.
        to: Option<SocketAddr>,
    },
    /// What jobs may run has changed.
    ProgramChanged {
        /// The program.
        program: Segment,
        /// Whether it was added, removed or is another one.
        how: &'static str,
    },
    /// The clusters that cells give programs to are others, or are used otherwise.
    ClustersChanged,
    /// A limit has another value.
    LimitChanged {
        /// The key; figures are in its unit.
        key: &'static str,
        /// Old value.
        from: String,
        /// New value.
        to: String,
    },
}

/// Every difference from `old` to `new`: project, cells in the order of their names, rules, limits.
///
/// The order of cells and of rules in a file means nothing, so it is no difference.
#[must_use]
pub fn diff(old: &Topology, new: &Topology) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.project != new.project {
        changes.push(Change::Project { from: old.project.clone(), to: new.project.clone() });
    }
    if old.dev != new.dev {
        changes.push(Change::Dev { now: new.dev });
    }
    diff_cells(old, new, &mut changes);
    diff_rules(&old.rules, &new.rules, &mut changes);
    for (now, these, others) in
        [(false, &old.sealed, &new.sealed), (true, &new.sealed, &old.sealed)]
    {
        let changed = these.difference(others).cloned();
        changes.extend(changed.map(|channel| Change::SealChanged { channel, now }));
    }
    for ((key, from), (_, to)) in old.limits.figures().zip(new.limits.figures()) {
        if from != to {
            let (from, to) = (from.to_string(), to.to_string());
            changes.push(Change::LimitChanged { key, from, to });
        }
    }
    if old.limits.congestion != new.limits.congestion {
        let (from, to) = (old.limits.congestion.to_string(), new.limits.congestion.to_string());
        changes.push(Change::LimitChanged { key: "congestion", from, to });
    }
    if old.limits.tap_payload != new.limits.tap_payload {
        let (from, to) = (old.limits.tap_payload.to_string(), new.limits.tap_payload.to_string());
        changes.push(Change::LimitChanged { key: "tap_payload", from, to });
    }
    diff_programs(old, new, &mut changes);
    if old.clusters != new.clusters {
        changes.push(Change::ClustersChanged);
    }
    if old.metrics != new.metrics {
        changes.push(Change::MetricsChanged { from: old.metrics, to: new.metrics });
    }
    changes
}

fn diff_programs(old: &Topology, new: &Topology, changes: &mut Vec<Change>) {
    let names: BTreeSet<&Segment> =
        old.programs.iter().chain(&new.programs).map(|program| &program.name).collect();
    for name in names {
        let of = |topology: &Topology| -> Vec<ProgramSpec> {
            topology.programs.iter().filter(|program| program.name == *name).cloned().collect()
        };
        let (was, is) = (of(old), of(new));
        let how = match (was.is_empty(), is.is_empty()) {
            _ if was == is => continue,
            (true, _) => "added",
            (_, true) => "removed",
            (false, false) => "changed",
        };
        changes.push(Change::ProgramChanged { program: name.clone(), how });
    }
}

fn diff_cells(old: &Topology, new: &Topology, changes: &mut Vec<Change>) {
    let mut both: BTreeMap<&Segment, [Option<&CellSpec>; 2]> = BTreeMap::new();
    for (side, topology) in [old, new].into_iter().enumerate() {
        for cell in topology.cells() {
            both.entry(&cell.name).or_default()[side] = Some(cell);
        }
    }
    for (name, sides) in both {
        let cell = name.clone();
        match sides {
            [Some(was), Some(is)] => diff_cell(was, is, changes),
            [None, _] => changes.push(Change::CellAdded { cell }),
            [Some(_), None] => changes.push(Change::CellRemoved { cell }),
        }
    }
}

fn diff_cell(was: &CellSpec, is: &CellSpec, changes: &mut Vec<Change>) {
    let cell = || is.name.clone();
    if was.kind != is.kind {
        changes.push(Change::KindChanged { cell: cell(), from: was.kind, to: is.kind });
    }
    if was.parent != is.parent {
        let (from, to) = (was.parent.clone(), is.parent.clone());
        changes.push(Change::CellMoved { cell: cell(), from, to });
    }
    if was.listen != is.listen {
        let (from, to) = (was.listen, is.listen);
        changes.push(Change::ListenChanged { cell: cell(), from, to });
    }
    if was.dial != is.dial {
        let (from, to) = (was.dial.clone(), is.dial.clone());
        changes.push(Change::DialChanged { cell: cell(), from, to });
    }
    if was.hosts != is.hosts {
        changes.push(Change::HostsChanged { cell: cell() });
    }
    if was.org != is.org {
        let (from, to) = (was.org.clone(), is.org.clone());
        changes.push(Change::OrgChanged { cell: cell(), from, to });
    }
}

fn diff_rules(old: &[Rule], new: &[Rule], changes: &mut Vec<Change>) {
    let mut counts: BTreeMap<&Rule, (usize, usize)> = BTreeMap::new();
    for rule in old {
        counts.entry(rule).or_default().0 += 1;
    }
    for rule in new {
        counts.entry(rule).or_default().1 += 1;
    }
    for (rule, (before, after)) in counts {
        let removed = std::iter::repeat_n(rule, before.saturating_sub(after)).cloned();
        changes.extend(removed.map(Change::RuleRemoved));
        let added = std::iter::repeat_n(rule, after.saturating_sub(before)).cloned();
        changes.extend(added.map(Change::RuleAdded));
    }
}

impl Change {
    /// The base name of the cell that changes, where it is a cell.
    #[must_use]
    pub fn cell(&self) -> Option<&Segment> {
        match self {
            Self::CellAdded { cell }
            | Self::CellRemoved { cell }
            | Self::CellMoved { cell, .. }
            | Self::KindChanged { cell, .. }
            | Self::ListenChanged { cell, .. }
            | Self::DialChanged { cell, .. }
            | Self::HostsChanged { cell }
            | Self::OrgChanged { cell, .. } => Some(cell),
            Self::Project { .. }
            | Self::Dev { .. }
            | Self::RuleAdded(_)
            | Self::RuleRemoved(_)
            | Self::SealChanged { .. }
            | Self::MetricsChanged { .. }
            | Self::ProgramChanged { .. }
            | Self::ClustersChanged
            | Self::LimitChanged { .. } => None,
        }
    }

    /// Whether a running cell can take this change; every other one needs a restart.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::RuleAdded(_) | Self::RuleRemoved(_) | Self::SealChanged { .. })
    }

    /// Whether more messages may pass after this change than before it.
    #[must_use]
    pub fn widens_access(&self) -> bool {
        match self {
            Self::RuleAdded(rule) => rule.effect == Effect::Allow,
            Self::RuleRemoved(rule) => rule.effect == Effect::Deny,
            Self::SealChanged { now, .. } => !now,
            Self::CellAdded { .. } | Self::KindChanged { .. } => true,
            Self::Project { .. }
            | Self::Dev { .. }
            | Self::CellRemoved { .. }
            | Self::CellMoved { .. }
            | Self::ListenChanged { .. }
            | Self::DialChanged { .. }
            | Self::HostsChanged { .. }
            | Self::OrgChanged { .. }
            | Self::MetricsChanged { .. }
            | Self::ProgramChanged { .. }
            | Self::ClustersChanged
            | Self::LimitChanged { .. } => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn or_none<T: ToString>(value: Option<&T>) -> String {
            value.map_or_else(|| "nothing".to_owned(), T::to_string)
        }
        match self {
            Self::Project { from, to } => write!(f, "project: {from} -> {to}"),
            Self::Dev { now } => write!(f, "dev: {} -> {now}", !now),
            Self::CellAdded { cell } => write!(f, "{cell}: added"),
            Self::CellRemoved { cell } => write!(f, "{cell}: removed"),
            Self::CellMoved { cell, from, to } => {
                let (from, to) = (or_none(from.as_ref()), or_none(to.as_ref()));
                write!(f, "{cell}: parent {from} -> {to}")
            }
            Self::KindChanged { cell, from, to } => write!(f, "{cell}: kind {from} -> {to}"),
            Self::ListenChanged { cell, from, to } => {
                let (from, to) = (or_none(from.as_ref()), or_none(to.as_ref()));
                write!(f, "{cell}: listen {from} -> {to}")
            }
            Self::DialChanged { cell, from, to } => {
                let (from, to) = (or_none(from.as_ref()), or_none(to.as_ref()));
                write!(f, "{cell}: dial {from} -> {to}")
            }
            Self::HostsChanged { cell } => write!(f, "{cell}: hosts"),
            Self::OrgChanged { cell, from, to } => write!(f, "{cell}: org {from} -> {to}"),
            Self::RuleAdded(rule) => write!(f, "rule added: {rule}"),
            Self::RuleRemoved(rule) => write!(f, "rule removed: {rule}"),
            Self::SealChanged { channel, now: true } => write!(f, "channel {channel}: sealed"),
            Self::SealChanged { channel, now: false } => {
                write!(f, "channel {channel}: not sealed for its own sake")
            }
            Self::MetricsChanged { from, to } => {
                let (from, to) = (or_none(from.as_ref()), or_none(to.as_ref()));
                write!(f, "metrics: listen {from} -> {to}")
            }
            Self::ProgramChanged { program, how } => write!(f, "program {program}: {how}"),
            Self::ClustersChanged => f.write_str("slurm: changed"),
            Self::LimitChanged { key, from, to } => write!(f, "{key}: {from} -> {to}"),
        }
    }
}
