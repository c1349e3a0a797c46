//! Who may join without a person looking at it: rules that name whom, and nobody else.
//!
//! A rule approves what the project file says of a participant, never what a request says. Whoever is invited and named by no
//! rule waits for a person.

use std::fmt;

use crate::{
    identity::CellKind,
    name::{NameError, Segment},
};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRule {
    name: Named,
    kind: CellKind,
    org: Option<Segment>,
}

/// Whom a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    One(Segment),
    /// Everybody whose name begins so.
    Prefix(String),
}

/// Who is invited, as the project file says it.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// The participant.
    pub name: &'a Segment,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// The organisation.
    pub org: &'a Segment,
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The name is no name, with or without `*` at its end.
    #[error("`{name}` is no name of a participant, with or without a `*` at its end")]
    Name {
        /// What stands there.
        name: String,
        /// Why it is none.
        #[source]
        why: Option<NameError>,
    },
    /// It would approve servers or people by a part of their names.
    #[error("a {kind} is approved by its whole name only")]
    TooWide {
        /// The kind.
        kind: CellKind,
    },
    /// The cells of jobs have no certificate of the project.
    #[error("a job does not join")]
    Job,
}

impl ApprovalRule {
    /// A rule.
    ///
    /// # Arguments
    /// `name`: a base name, or how names begin, with `*` at the end. `org`: of this organisation alone.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(name: &str, kind: CellKind, org: Option<Segment>) -> Result<Self, RuleError> {
        if kind == CellKind::Job {
            return Err(RuleError::Job);
        }
        let bad = |why| RuleError::Name { name: name.escape_default().to_string(), why };
        let named = match name.strip_suffix('*') {
            None => Named::One(name.parse().map_err(|why| bad(Some(why)))?),
            Some(_) if matches!(kind, CellKind::Server | CellKind::Admin) => {
                return Err(RuleError::TooWide { kind });
            }
            Some(prefix) => {
                // What a name can begin with is a name once something follows.
                let whole: Result<Segment, NameError> = format!("{prefix}0").parse();
                whole.map_err(|why| bad(Some(why)))?;
                Named::Prefix(prefix.to_owned())
            }
        };
        Ok(Self { name: named, kind, org })
    }

    fn names(&self, who: &Applicant<'_>) -> bool {
        let is_named = match &self.name {
            Named::One(name) => name == who.name,
            Named::Prefix(prefix) => who.name.as_str().starts_with(prefix.as_str()),
        };
        is_named && self.kind == who.kind && self.org.as_ref().is_none_or(|org| org == who.org)
    }
}

/// As it stands in a file: `name = "site-*", kind = "client"`.
impl fmt::Display for ApprovalRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Named::One(name) => write!(f, "name = \"{name}\"")?,
            Named::Prefix(prefix) => write!(f, "name = \"{prefix}*\"")?,
        }
        write!(f, ", kind = \"{}\"", self.kind)?;
        self.org.as_ref().map_or(Ok(()), |org| write!(f, ", org = \"{org}\""))
    }
}

/// The place of the first rule that approves `who`; `None` where a person has to.
#[must_use]
pub fn approved_by(rules: &[ApprovalRule], who: &Applicant<'_>) -> Option<usize> {
    rules.iter().position(|rule| rule.names(who))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, kind: CellKind, org: Option<&str>) -> Result<ApprovalRule, RuleError> {
        ApprovalRule::new(name, kind, org.map(|org| org.parse().unwrap()))
    }

    fn decide(rules: &[ApprovalRule], name: &str, kind: CellKind, org: &str) -> Option<usize> {
        let (name, org) = (name.parse().unwrap(), org.parse().unwrap());
        approved_by(rules, &Applicant { name: &name, kind, org: &org })
    }

    #[test]
    fn v_22_nobody_is_approved_by_a_policy_that_does_not_name_them() {
        assert_eq!(decide(&[], "site-1", CellKind::Client, "hq"), None);
        let rules = [
            rule("site-*", CellKind::Client, Some("st-mary")).unwrap(),
            rule("relay-a", CellKind::Relay, None).unwrap(),
            rule("server", CellKind::Server, None).unwrap(),
            rule("*", CellKind::Client, Some("hq")).unwrap(),
        ];
        let decide = |name, kind, org| decide(&rules, name, kind, org);
        assert_eq!(decide("site-1", CellKind::Client, "st-mary"), Some(0));
        assert_eq!(decide("anything", CellKind::Client, "hq"), Some(3));
        assert_eq!(decide("relay-a", CellKind::Relay, "hq"), Some(1));
        assert_eq!(decide("server", CellKind::Server, "hq"), Some(2));
        for (name, kind, org) in [
            ("site-1", CellKind::Client, "other"),
            ("site-1", CellKind::Relay, "st-mary"),
            ("xsite-1", CellKind::Client, "st-mary"),
            ("relay-ab", CellKind::Relay, "hq"),
            ("relay-a", CellKind::Client, "other"),
            ("server-2", CellKind::Server, "hq"),
            ("alice", CellKind::Admin, "hq"),
        ] {
            assert_eq!(decide(name, kind, org), None, "{name} {kind} {org}");
        }
    }

    #[test]
    fn v_22_servers_and_people_are_approved_by_their_whole_names_only() {
        for kind in [CellKind::Server, CellKind::Admin] {
            for name in ["*", "a*", "server*"] {
                assert_eq!(rule(name, kind, None), Err(RuleError::TooWide { kind }), "{name}");
            }
            assert!(rule("alice", kind, None).is_ok());
        }
        for bad in ["", "A*", "si*te", "**", "-*", "a.b", "site 1", "*-1", "site-1 "] {
            let refused = rule(bad, CellKind::Client, None);
            assert!(matches!(refused, Err(RuleError::Name { .. })), "{bad}: {refused:?}");
        }
        assert_eq!(rule("site-1", CellKind::Job, None), Err(RuleError::Job));
        let shown = rule("site-*", CellKind::Client, Some("hq")).unwrap().to_string();
        assert_eq!(shown, "name = \"site-*\", kind = \"client\", org = \"hq\"");
    }
}
