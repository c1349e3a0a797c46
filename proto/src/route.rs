//! Where a message goes next, and where one can have come from.

use std::collections::BTreeMap;

use crate::{name::Fqcn, status::Status};

/// One link of this process. Never reused, so that what a dead link still says concerns no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Where a message came from, or goes: this cell itself, or one of its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// This cell.
    Local,
    /// A direct neighbour.
    Link(LinkId),
}

/// The living links of one cell. A value: who changes it publishes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    me: Fqcn,
    is_root: bool,
    uplink: Option<LinkId>,
    children: BTreeMap<Fqcn, LinkId>,
}

impl Routes {
    /// Routes of a cell without links.
    #[must_use]
    pub fn new(me: Fqcn, is_root: bool) -> Self {
        Self { me, is_root, uplink: None, children: BTreeMap::new() }
    }

    /// This cell's name.
    #[must_use]
    pub fn me(&self) -> &Fqcn {
        &self.me
    }

    /// The link to the parent, while it lives.
    #[must_use]
    pub fn uplink(&self) -> Option<LinkId> {
        self.uplink
    }

    /// The children that are linked, by name.
    pub fn children(&self) -> impl Iterator<Item = (&Fqcn, LinkId)> {
        self.children.iter().map(|(name, link)| (name, *link))
    }

    /// Sets or clears the link to the parent.
    pub fn set_uplink(&mut self, link: Option<LinkId>) {
        self.uplink = link;
    }

    /// Adds the link to a child; a link to the same child is replaced and returned.
    pub fn insert_child(&mut self, child: Fqcn, link: LinkId) -> Option<LinkId> {
        self.children.insert(child, link)
    }

    /// Withdraws a link; `false` where it was not, or no longer, in use.
    pub fn remove(&mut self, link: LinkId) -> bool {
        let before = self.children.len();
        self.children.retain(|_, living| *living != link);
        let was_uplink = self.uplink.take_if(|living| *living == link).is_some();
        was_uplink || self.children.len() != before
    }

    /// Whether `name` lies strictly below this cell.
    #[must_use]
    pub fn is_below(&self, name: &Fqcn) -> bool {
        if self.is_root { *name != self.me } else { self.me.is_ancestor_of(name) }
    }

    /// The direct child that is, or stands above, `name`, which must lie below this cell.
    #[must_use]
    pub fn child_towards<'n>(&self, name: &'n Fqcn) -> &'n str {
        let levels =
            if !self.is_root || self.me.is_ancestor_of(name) { self.me.depth() + 1 } else { 1 };
        name.prefix(levels)
    }

    /// Where a message for `destination` that came by `arrived` goes next. Never back.
    ///
    /// # Errors
    /// [`Status::NoRoute`] where no link leads there now, [`Status::Loop`] where only the link of
    /// arrival does.
    pub fn next_hop(&self, destination: &Fqcn, arrived: Hop) -> Result<Hop, Status> {
        if *destination == self.me {
            return Ok(Hop::Local);
        }
        let link = if self.is_below(destination) {
            self.children.get(self.child_towards(destination)).copied()
        } else {
            self.uplink
        };
        match link {
            None => Err(Status::NoRoute),
            Some(link) if arrived == Hop::Link(link) => Err(Status::Loop),
            Some(link) => Ok(Hop::Link(link)),
        }
    }

    /// Whether a message from `origin` can have come by `arrived`, given who is at the other end.
    ///
    /// A child speaks for itself and for what lies below it; the parent for everything that does not
    /// lie at or below this cell; this cell for itself.
    ///
    /// # Source
    /// Strict reverse-path forwarding, RFC 3704 section 2.2; exact here because cells form a tree.
    #[must_use]
    pub fn is_reverse_path(&self, origin: &Fqcn, arrived: Neighbour<'_>) -> bool {
        match arrived {
            Neighbour::This => *origin == self.me,
            Neighbour::Child(child) => child.covers(origin),
            Neighbour::Parent => !self.is_root && !self.me.covers(origin),
        }
    }
}

/// Who is at the other end of the link of arrival, as bound to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour<'a> {
    /// This cell itself.
    This,
    /// A child with this name.
    Child(&'a Fqcn),
    /// The parent.
    Parent,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Fqcn {
        text.parse().unwrap()
    }

    fn root() -> Routes {
        let mut routes = Routes::new(name("server"), true);
        routes.insert_child(name("relay-a"), LinkId(1));
        routes.insert_child(name("site-3"), LinkId(2));
        routes.insert_child(name("server.job-1"), LinkId(3));
        routes
    }

    fn relay() -> Routes {
        let mut routes = Routes::new(name("relay-a"), false);
        routes.set_uplink(Some(LinkId(0)));
        routes.insert_child(name("relay-a.site-1"), LinkId(1));
        routes
    }

    #[test]
    fn the_path_is_the_route() {
        let to = |destination: &str| root().next_hop(&name(destination), Hop::Local);
        assert_eq!(to("server"), Ok(Hop::Local));
        assert_eq!(to("relay-a.site-1.job-1"), Ok(Hop::Link(LinkId(1))));
        assert_eq!(to("server.job-1"), Ok(Hop::Link(LinkId(3))));
        assert_eq!(to("server.job-2"), Err(Status::NoRoute));
        assert_eq!(to("site-9"), Err(Status::NoRoute));
        let up = |destination: &str| relay().next_hop(&name(destination), Hop::Link(LinkId(1)));
        assert_eq!(up("server"), Ok(Hop::Link(LinkId(0))));
        assert_eq!(up("site-3"), Ok(Hop::Link(LinkId(0))));
        assert_eq!(up("relay-a"), Ok(Hop::Local));
        assert_eq!(up("relay-a.site-2"), Err(Status::NoRoute), "never sought elsewhere");
    }

    #[test]
    fn atk_070_a_message_is_never_sent_back_where_it_came_from() {
        let from_child = relay().next_hop(&name("relay-a.site-1.job-1"), Hop::Link(LinkId(1)));
        assert_eq!(from_child, Err(Status::Loop));
        assert_eq!(relay().next_hop(&name("site-3"), Hop::Link(LinkId(0))), Err(Status::Loop));
    }

    #[test]
    fn atk_054_nobody_speaks_for_a_cell_that_is_not_below_it() {
        let routes = root();
        let x = name("x");
        let child = |origin: &str| routes.is_reverse_path(&name(origin), Neighbour::Child(&x));
        assert!(child("x") && child("x.job"));
        for origin in ["x2", "x2.job", "server", "relay-a", "server.job-1", "a.x"] {
            assert!(!child(origin), "{origin}");
        }
        assert!(!routes.is_reverse_path(&name("anything"), Neighbour::Parent), "a root has none");
        let relay = relay();
        let up = |origin: &str| relay.is_reverse_path(&name(origin), Neighbour::Parent);
        assert!(up("server") && up("site-3") && up("relay-ab"));
        assert!(!up("relay-a") && !up("relay-a.site-1"));
    }

    #[test]
    fn a_dead_link_leaves_no_route() {
        let mut routes = relay();
        assert!(routes.remove(LinkId(0)) && !routes.remove(LinkId(0)));
        assert_eq!(routes.next_hop(&name("server"), Hop::Local), Err(Status::NoRoute));
        assert!(routes.remove(LinkId(1)));
        assert_eq!(routes.children().count(), 0);
    }

    proptest! {
        #[test]
        fn every_origin_has_at_most_one_way_in(origin in "(server|relay-a|site-1|site-3)(\\.(site-1|job-1)){0,2}") {
            let Ok(origin) = origin.parse::<Fqcn>() else { return Ok(()) };
            for routes in [root(), relay()] {
                let children: Vec<Fqcn> = routes.children().map(|(name, _)| name.clone()).collect();
                let mut ways = usize::from(routes.is_reverse_path(&origin, Neighbour::This));
                ways += usize::from(routes.is_reverse_path(&origin, Neighbour::Parent));
                ways += children.iter().filter(|c| routes.is_reverse_path(&origin, Neighbour::Child(c))).count();
                prop_assert!(ways <= 1, "{origin}: {ways}");
            }
        }
    }
}
