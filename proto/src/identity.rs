//! What a certificate says about its holder: project, kind, name, organisation, role.
//!
//! The one source is the URI name of the certificate,
//! `cell://<project>/<kind>/<name>?org=<org>[&role=<role>]`. Common name, DNS names and anything a
//! peer says about itself count for nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{Fqcn, NameError, Segment};

/// What a cell is for; decides what it may do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    /// The root of the tree.
    Server,
    /// Forwards for the cells below it.
    Relay,
    /// A site.
    Client,
    /// A person's console.
    Admin,
    /// The cell of one job, at the server or at a site.
    Job,
}

impl CellKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Server, Self::Relay, Self::Client, Self::Admin, Self::Job];

    /// The word for it in certificates, files and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Relay => "relay",
            Self::Client => "client",
            Self::Admin => "admin",
            Self::Job => "job",
        }
    }

    /// Whether its certificate must allow it to be dialled.
    #[must_use]
    pub fn accepts_cells(self) -> bool {
        matches!(self, Self::Server | Self::Relay)
    }
}

impl fmt::Display for CellKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CellKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownKind)
    }
}

/// A text that is none of the kinds of cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of cell; kinds are server, relay, client, admin, job")]
pub struct UnknownKind;

/// What was verified about the holder of a certificate.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The project whose authority issued the certificate.
    pub project: Segment,
    /// The kind of cell.
    pub kind: CellKind,
    /// Base name of a provisioned cell; full name of a job cell.
    pub name: Fqcn,
    /// Organisation; never empty.
    pub org: Segment,
    /// Role of a person; cells have none.
    pub role: Option<Segment>,
}

/// What a certificate contains, as read from it and before anything is concluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertFacts {
    /// Every URI among the subject's alternative names.
    pub uris: Vec<String>,
    /// Extended key usage allows the holder to dial.
    pub client_auth: bool,
    /// Extended key usage allows the holder to be dialled.
    pub server_auth: bool,
    /// The certificate may sign other certificates.
    pub is_authority: bool,
}

/// Why a certificate gives its holder no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not exactly one URI name.
    #[error("certificate has {count} URI names; exactly one is needed")]
    UriCount {
        /// URI names found.
        count: usize,
    },
    /// The URI is not of the form that cells use.
    #[error("URI name is not `cell://project/kind/name?org=..`")]
    UriForm,
    /// The kind is unknown.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A part is not a name.
    #[error("URI name")]
    Name(#[from] NameError),
    /// A query key other than `org` and `role`, or one of them twice.
    #[error("URI name has an unknown or repeated query key `{key}`")]
    Query {
        /// The key.
        key: String,
    },
    /// No organisation.
    #[error("URI name has no `org`")]
    NoOrg,
    /// The extended key usage does not fit the kind.
    #[error("extended key usage does not fit a {kind}")]
    KeyUsage {
        /// The kind that the URI says.
        kind: CellKind,
    },
    /// The certificate could sign others.
    #[error("an authority's certificate is no identity")]
    Authority,
}

impl Identity {
    /// Reads the identity from what a certificate contains.
    ///
    /// # Errors
    /// [`IdentityError`] for the first rule that the certificate breaks. There are no defaults.
    pub fn from_facts(facts: &CertFacts) -> Result<Self, IdentityError> {
        if facts.is_authority {
            return Err(IdentityError::Authority);
        }
        let [uri] = facts.uris.as_slice() else {
            return Err(IdentityError::UriCount { count: facts.uris.len() });
        };
        let identity = Self::from_uri(uri)?;
        // Who is dialled needs serverAuth; everybody dials, so everybody needs clientAuth. A site is
        // dialled by its own job cells only, and these pin its certificate by hash.
        let fits = facts.client_auth && (facts.server_auth || !identity.kind.accepts_cells());
        if !fits {
            return Err(IdentityError::KeyUsage { kind: identity.kind });
        }
        Ok(identity)
    }

    /// Reads the identity from the URI name alone.
    ///
    /// # Errors
    /// [`IdentityError`] for the first part that is not as it must be.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix("cell://").ok_or(IdentityError::UriForm)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parts = path.split('/');
        let (Some(project), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::UriForm);
        };
        let kind: CellKind = kind.parse()?;
        let name: Fqcn = match kind {
            CellKind::Job => name.parse()?,
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                name.parse::<Segment>()?.into()
            }
        };
        let (mut org, mut role) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(IdentityError::UriForm)?;
            let slot = match key {
                "org" => &mut org,
                "role" => &mut role,
                _ => return Err(IdentityError::Query { key: key.to_owned() }),
            };
            if slot.replace(value.parse::<Segment>()?).is_some() {
                return Err(IdentityError::Query { key: key.to_owned() });
            }
        }
        let org = org.ok_or(IdentityError::NoOrg)?;
        let identity = Self { project: project.parse()?, kind, name, org, role };
        // Cells have no role, and an identity has one spelling.
        let fits = identity.role.is_none() || kind == CellKind::Admin;
        if fits && identity.to_uri() == uri { Ok(identity) } else { Err(IdentityError::UriForm) }
    }

    /// The URI name that a certificate for this identity carries.
    #[must_use]
    pub fn to_uri(&self) -> String {
        let Self { project, kind, name, org, role } = self;
        let role = role.as_ref().map(|role| format!("&role={role}")).unwrap_or_default();
        format!("cell://{project}/{kind}/{name}?org={org}{role}")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_uri())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_uri())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uri: &str) -> CertFacts {
        CertFacts {
            uris: vec![uri.into()],
            client_auth: true,
            server_auth: true,
            is_authority: false,
        }
    }

    #[test]
    fn an_identity_survives_its_uri() {
        for uri in [
            "cell://study/server/server?org=hq",
            "cell://study/client/site-1?org=st-mary",
            "cell://study/job/relay-a.site-2.job-7?org=st-mary",
            "cell://study/admin/alice?org=hq&role=lead",
        ] {
            assert_eq!(Identity::from_facts(&facts(uri)).unwrap().to_uri(), uri);
        }
    }

    #[test]
    fn p_03_what_a_certificate_does_not_say_is_not_assumed() {
        let bad = [
            "",
            "cell://",
            "cell://study",
            "cell://study/client",
            "cell://study/client/",
            "cell://study/client/site-1",
            "cell://study/client/site-1?org=",
            "cell://study/client/site-1?org=a&org=b",
            "cell://study/client/site-1?org=a&x=y",
            "cell://study/client/site-1?org",
            "cell://study/robot/site-1?org=a",
            "cell://study/client/a.b?org=a",
            "cell://study/client/site-1/x?org=a",
            "cell://Study/client/site-1?org=a",
            "CELL://study/client/site-1?org=a",
            "cell://study/client/site%2d1?org=a",
            "spiffe://study/client/site-1?org=a",
            "cell://study/client/site-1?org=a#f",
            "cell://study/admin/alice?role=lead&org=hq",
            "cell://study/client/site-1?org=a&",
            "cell://study/client/site-1?&org=a",
            "cell://study/client/site-1?org=a&role=lead",
        ];
        for uri in bad {
            assert!(Identity::from_uri(uri).is_err(), "{uri} passed");
        }
    }

    #[test]
    fn atk_033_a_certificate_without_its_key_usage_is_refused() {
        let client = "cell://study/client/site-1?org=a";
        let relay = "cell://study/relay/r?org=a";
        let none = CertFacts { client_auth: false, server_auth: false, ..facts(client) };
        assert!(Identity::from_facts(&none).is_err());
        let dial_only = CertFacts { server_auth: false, ..facts(client) };
        assert!(Identity::from_facts(&dial_only).is_ok());
        let relay_that_cannot_be_dialled = CertFacts { server_auth: false, ..facts(relay) };
        assert!(Identity::from_facts(&relay_that_cannot_be_dialled).is_err());
        let authority = CertFacts { is_authority: true, ..facts(client) };
        assert_eq!(Identity::from_facts(&authority), Err(IdentityError::Authority));
        let two = CertFacts { uris: vec![client.into(), relay.into()], ..facts(client) };
        assert_eq!(Identity::from_facts(&two), Err(IdentityError::UriCount { count: 2 }));
        let zero = CertFacts { uris: vec![], ..facts(client) };
        assert_eq!(Identity::from_facts(&zero), Err(IdentityError::UriCount { count: 0 }));
    }
}
