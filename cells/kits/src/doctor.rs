//! Examines everything that a cell needs, on this machine and on the way to its parent, and changes nothing.
//!
//! A kit is examined by the code that takes it for use, so what is said here is what a start would say.

mod bundle;
mod host;
mod lists;
mod parent;

use std::path::{Path, PathBuf};

use cellbus_proto::{
    identity::{CellKind, Identity},
    renewal::RenewedBy,
    topology::Topology,
};
use cellbus_runtime::{
    authority::{Credentials, CredentialsError, ISSUER_CERTIFICATE},
    carrier::DialTarget,
};

pub use self::{
    bundle::{BUNDLE_MAX_BYTES, Bundle, BundleError, read_bundle, write_bundle},
    host::Host,
};
use crate::{
    check::{Check, Finding, Outcome},
    kit::{self, Kit, StateOf, chain},
    layout::STARTUP,
};

/// What is examined.
#[derive(Debug)]
pub enum Subject<'a> {
    /// A kit.
    Kit {
        /// Its directory.
        dir: &'a Path,
        /// Fingerprint that its authority must have, where it is known from elsewhere.
        root: Option<&'a str>,
    },
    /// A cell of a topology file, with its credentials in a directory.
    Files {
        /// The topology.
        topology: &'a Topology,
        /// Base name of the cell.
        cell: &'a str,
        /// Where its credentials lie.
        credentials: &'a Path,
    },
}

/// How it is examined.
pub struct Examine<'a> {
    /// What.
    pub subject: Subject<'a>,
    /// State directory of the cell, which need not be there; none where it is not known yet.
    pub state: &'a dyn Fn(&Topology, &str) -> Option<PathBuf>,
    /// Whether the parent is dialled.
    pub network: bool,
    /// Now, in seconds since 1970.
    pub now_unix: u64,
}

/// What runs after the subject has been read.
struct Ready {
    topology: Topology,
    name: String,
    credentials: Option<Credentials>,
    /// Where signed lists lie that came with the credentials.
    given: PathBuf,
}

/// Examines, and yields one finding for each check, in their order.
pub async fn examine(how: &Examine<'_>) -> Vec<Finding> {
    let (mut findings, ready) = match &how.subject {
        Subject::Kit { dir, root } => of_kit(dir, *root, how.state, how.now_unix),
        Subject::Files { topology, cell, credentials } => {
            of_files(topology, cell, credentials, how.now_unix)
        }
    };
    match &ready {
        Some(ready) => {
            let state = (how.state)(&ready.topology, &ready.name);
            let host = Host { state: state.as_deref() };
            let spec = ready.topology.cell(&ready.name);
            findings.extend(host.examine(spec));
            let lists = lists::Lists {
                state: state.as_deref(),
                given: &ready.given,
                topology: &ready.topology,
                credentials: ready.credentials.as_ref(),
            };
            if !ready.topology.dev {
                findings.push(lists.examine(how.now_unix));
            }
            findings.extend(on_the_way(how, ready).await);
        }
        None => findings.extend(Host { state: None }.examine(None)),
    }
    for check in Check::ALL {
        if !findings.iter().any(|finding| finding.code == check.code()) {
            if *check == Check::Expected {
                continue;
            }
            let why = "nothing to examine, or something before it failed";
            findings.push(Finding::skipped(*check, why));
        }
    }
    let place =
        |finding: &Finding| Check::ALL.iter().position(|check| check.code() == finding.code);
    findings.sort_by_key(place);
    findings
}

/// Whether nothing failed.
#[must_use]
pub fn is_good(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.outcome != Outcome::Fail)
}

fn of_kit(
    dir: &Path,
    root: Option<&str>,
    state: StateOf<'_>,
    now_unix: u64,
) -> (Vec<Finding>, Option<Ready>) {
    let examined = kit::examine_with(dir, root, state, now_unix);
    let ready = examined.kit.map(|kit: Kit| Ready {
        name: kit.manifest.name.to_string(),
        topology: kit.topology,
        given: kit.dir.join(STARTUP),
        credentials: Some(kit.credentials),
    });
    let mut findings = examined.findings;
    if let Some(ready) = &ready
        && ready.topology.cell(&ready.name).is_none()
    {
        findings.push(Finding::fail(Check::Expected, "the kit of a person, which runs no cell"));
    }
    (findings, ready)
}

fn of_files(
    topology: &Topology,
    cell: &str,
    dir: &Path,
    now_unix: u64,
) -> (Vec<Finding>, Option<Ready>) {
    let mut findings = Vec::new();
    let count = topology.cells().len();
    let Some(spec) = topology.cell(cell) else {
        findings.push(Finding::fail(Check::Topology, format!("the topology has no cell `{cell}`")));
        return (findings, None);
    };
    findings.push(Finding::ok(Check::Topology, format!("{count} cells")));
    let mut ready = Ready {
        topology: topology.clone(),
        name: cell.to_owned(),
        credentials: None,
        given: dir.to_owned(),
    };
    if topology.dev {
        let why = "development certificates, which are minted at start";
        findings.push(Finding::skipped(Check::Credentials, why));
        return (findings, Some(ready));
    }
    match Credentials::load(dir, now_unix) {
        Ok(credentials) => {
            let together = "key, certificate and authority belong together";
            findings.push(Finding::ok(Check::Credentials, together));
            let issues = dir.join(ISSUER_CERTIFICATE).exists();
            let by = if issues { RenewedBy::Server } else { RenewedBy::People };
            let by = (spec.kind == CellKind::Server).then_some(by);
            findings.push(kit::dates(&credentials.certificate(), by, now_unix));
            kit::profile(&credentials, &mut findings);
            let wanted = Identity {
                project: topology.project.clone(),
                kind: spec.kind,
                name: spec.name.clone().into(),
                org: spec.org.clone(),
                role: None,
            };
            let certificate = credentials.certificate();
            let named = certificate.identity();
            findings.push(if *named == wanted {
                Finding::ok(Check::Names, named.to_string())
            } else {
                let found = format!("the certificate names {named}, the topology {wanted}");
                Finding::fail(Check::Names, found)
            });
            ready.credentials = Some(credentials);
        }
        Err(error @ CredentialsError::OutOfDate { .. }) => {
            findings.push(Finding::fail(Check::Dates, chain(&error)));
        }
        Err(error) => findings.push(Finding::fail(Check::Credentials, chain(&error))),
    }
    (findings, Some(ready))
}

async fn on_the_way(how: &Examine<'_>, ready: &Ready) -> Vec<Finding> {
    let skipped = |why: &str| {
        let all = [Check::Resolve, Check::Reach, Check::Handshake, Check::Hello, Check::Mtu];
        all.into_iter().map(|check| Finding::skipped(check, why)).collect()
    };
    let (Some(spec), Some(credentials)) = (ready.topology.cell(&ready.name), &ready.credentials)
    else {
        return skipped("no cell with credentials to reach a parent with");
    };
    let Some(parent) = spec.parent.as_ref().and_then(|parent| ready.topology.cell(parent.as_str()))
    else {
        return skipped("the server dials nobody");
    };
    if !how.network {
        return skipped("left out");
    }
    let ephemeral = parent.dial.is_none() && parent.listen.is_some_and(|at| at.port() == 0);
    let target = match parent.dial_target() {
        Some(host) if !ephemeral => DialTarget::Host(host),
        Some(_) | None => {
            return skipped("the parent listens on a port that is known only while it runs");
        }
    };
    parent::examine(credentials, spec, parent, target, how.now_unix).await
}
