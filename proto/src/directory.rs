//! Which cells exist, by the topology: what a cell knows about names beyond its own links.

use std::collections::BTreeMap;

use crate::{
    identity::CellKind,
    name::{Fqcn, Segment},
};

/// The provisioned cells of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    cells: BTreeMap<Fqcn, Known>,
    root: Option<Fqcn>,
    /// Whether there can be job cells below relays.
    has_jobs_at_relays: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    kind: CellKind,
    org: Option<Segment>,
}

impl Directory {
    /// The kind of `name`, or `None` where the topology does not know it.
    ///
    /// A cell directly below the server's or a site's own name is one of its job cells; one below a relay's only
    /// [where relays have them](Self::with_jobs_at_relays).
    #[must_use]
    pub fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        self.of(name).map(|(kind, _)| kind)
    }

    /// The organisation that runs `name`, or `None` where the topology does not know. A job cell is run by
    /// the organisation of its site.
    #[must_use]
    pub fn org_of(&self, name: &Fqcn) -> Option<&Segment> {
        self.of(name)?.1
    }

    /// The same, of a project whose relays run parts of jobs.
    #[must_use]
    pub fn with_jobs_at_relays(mut self) -> Self {
        self.has_jobs_at_relays = true;
        self
    }

    /// The server, where one is known.
    #[must_use]
    pub fn root(&self) -> Option<&Fqcn> {
        self.root.as_ref()
    }

    /// Kind and organisation of `name`, as [`Self::kind_of`] and [`Self::org_of`] say.
    #[must_use]
    pub fn of(&self, name: &Fqcn) -> Option<(CellKind, Option<&Segment>)> {
        if let Some(known) = self.cells.get(name) {
            return Some((known.kind, known.org.as_ref()));
        }
        let above = self.cells.get(&name.parent()?)?;
        match above.kind {
            CellKind::Server | CellKind::Client => Some((CellKind::Job, above.org.as_ref())),
            CellKind::Relay if self.has_jobs_at_relays => Some((CellKind::Job, above.org.as_ref())),
            CellKind::Relay | CellKind::Admin | CellKind::Job => None,
        }
    }

    /// The cells that a message from one cell to another passes, both ends included: up to the cell that
    /// is above both, and down again.
    #[must_use]
    pub fn way(&self, from: &Fqcn, to: &Fqcn) -> Vec<Fqcn> {
        let above = |name: &Fqcn| {
            let root = self.root.clone().filter(|root| root != name);
            name.parent().or(root)
        };
        let line = |name: &Fqcn| -> Vec<Fqcn> {
            std::iter::successors(Some(name.clone()), above).collect()
        };
        let (mut up, mut down) = (line(from), line(to));
        // What both pass on their way to the root, but the lowest of it, is passed by neither.
        while up.len() > 1 && down.len() > 1 && up[up.len() - 2..] == down[down.len() - 2..] {
            up.pop();
            down.pop();
        }
        if let ([.., top], [.., other]) = (up.as_slice(), down.as_slice())
            && top == other
        {
            down.pop();
        }
        // Where one end stands above the other, the rest of its own line is on no way.
        match (down.iter().position(|name| name == from), up.iter().position(|name| name == to)) {
            (Some(at), _) => down[..=at].iter().rev().cloned().collect(),
            (None, Some(at)) => up[..=at].to_vec(),
            (None, None) => up.into_iter().chain(down.into_iter().rev()).collect(),
        }
    }

    /// Every provisioned cell.
    pub fn iter(&self) -> impl Iterator<Item = (&Fqcn, CellKind)> {
        self.cells.iter().map(|(name, known)| (name, known.kind))
    }

    fn add(&mut self, name: Fqcn, kind: CellKind, org: Option<Segment>) {
        if kind == CellKind::Server {
            self.root = Some(name.clone());
        }
        self.cells.insert(name, Known { kind, org });
    }
}

impl FromIterator<(Fqcn, CellKind)> for Directory {
    /// Cells of which nobody says who runs them.
    fn from_iter<I: IntoIterator<Item = (Fqcn, CellKind)>>(cells: I) -> Self {
        let mut directory = Self::default();
        cells.into_iter().for_each(|(name, kind)| directory.add(name, kind, None));
        directory
    }
}

impl FromIterator<(Fqcn, CellKind, Segment)> for Directory {
    fn from_iter<I: IntoIterator<Item = (Fqcn, CellKind, Segment)>>(cells: I) -> Self {
        let mut directory = Self::default();
        cells.into_iter().for_each(|(name, kind, org)| directory.add(name, kind, Some(org)));
        directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_below_a_site_is_a_job_and_below_a_relay_nothing_unless_relays_run_jobs() {
        let name = |text: &str| text.parse::<Fqcn>().unwrap();
        let directory = Directory::from_iter([
            (name("server"), CellKind::Server),
            (name("relay-a"), CellKind::Relay),
            (name("relay-a.site-1"), CellKind::Client),
        ]);
        assert_eq!(directory.kind_of(&name("relay-a.site-1")), Some(CellKind::Client));
        assert_eq!(directory.kind_of(&name("relay-a.site-1.job-1")), Some(CellKind::Job));
        assert_eq!(directory.kind_of(&name("server.job-1")), Some(CellKind::Job));
        assert_eq!(directory.kind_of(&name("relay-a.site-9")), None);
        let with_jobs = directory.clone().with_jobs_at_relays();
        assert_eq!(with_jobs.kind_of(&name("relay-a.job-1")), Some(CellKind::Job));
        assert_eq!(with_jobs.kind_of(&name("relay-a.site-1")), Some(CellKind::Client));
        assert_eq!(directory.kind_of(&name("site-9")), None);
        assert_eq!(directory.kind_of(&name("relay-a.site-1.job-1.x")), None);
    }

    #[test]
    fn a_job_is_run_by_who_runs_its_site_and_what_is_not_known_by_nobody() {
        let name = |text: &str| text.parse::<Fqcn>().unwrap();
        let org = |text: &str| text.parse::<Segment>().unwrap();
        let directory = Directory::from_iter([
            (name("hub"), CellKind::Server, org("hq")),
            (name("relay-a"), CellKind::Relay, org("hq")),
            (name("relay-a.site-1"), CellKind::Client, org("acme")),
        ]);
        assert_eq!(directory.root(), Some(&name("hub")));
        let of = |text: &str| directory.org_of(&name(text)).map(Segment::as_str);
        assert_eq!(of("relay-a.site-1"), Some("acme"));
        assert_eq!(of("relay-a.site-1.job-1"), Some("acme"));
        assert_eq!(of("hub.job-1"), Some("hq"));
        assert_eq!(
            (of("relay-a.site-9"), of("site-9"), of("relay-a.site-1.job.x")),
            (None, None, None)
        );
        let kinds = Directory::from_iter([(name("hub"), CellKind::Server)]);
        assert_eq!((kinds.org_of(&name("hub")), kinds.root()), (None, Some(&name("hub"))));
    }

    #[test]
    fn a_way_goes_up_to_the_cell_above_both_ends_and_down_again() {
        let name = |text: &str| text.parse::<Fqcn>().unwrap();
        let directory = Directory::from_iter([(name("hub"), CellKind::Server)]);
        for (from, to, way) in [
            ("hub", "hub", "hub"),
            ("site-3", "hub", "site-3 hub"),
            ("hub", "relay.site-1", "hub relay relay.site-1"),
            ("relay.site-1", "hub", "relay.site-1 relay hub"),
            ("relay.site-1", "relay.site-2", "relay.site-1 relay relay.site-2"),
            ("relay.site-1", "site-3", "relay.site-1 relay hub site-3"),
            ("relay.a.site-1", "relay", "relay.a.site-1 relay.a relay"),
            ("relay", "relay.a.site-1", "relay relay.a relay.a.site-1"),
            (
                "hub.job-1",
                "relay.site-1.job-1",
                "hub.job-1 hub relay relay.site-1 relay.site-1.job-1",
            ),
            ("site-3", "site-3", "site-3"),
        ] {
            let passed: Vec<String> =
                directory.way(&name(from), &name(to)).iter().map(Fqcn::to_string).collect();
            assert_eq!(passed.join(" "), way, "{from} -> {to}");
        }
    }
}
