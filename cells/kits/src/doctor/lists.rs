//! How old the revocation list is that a cell would start with, and whether it names the cell itself.

use std::path::Path;

use cellbus_proto::{
    codec::body,
    identity::CellKind,
    name::Fqcn,
    topology::Topology,
    trust::{Bundle, LIST_MAX_BYTES, ListKind, RevocationList},
};
use cellbus_runtime::{
    authority::Credentials,
    lists::file_name,
    secret_file::{SecretFileError, read_bounded_file},
};

use crate::{
    check::{Check, Finding},
    kit::chain,
};

/// Days after which a list is warned about: what was revoked since may be let in.
const WARN_DAYS: u64 = 90;
const DAY: u64 = 24 * 3600;
/// Where a cell keeps its lists, below its state.
const LISTS: &str = "lists";

/// What there is of the list.
pub(super) struct Lists<'a> {
    /// State directory of the cell.
    pub state: Option<&'a Path>,
    /// Where lists lie that came with the credentials.
    pub given: &'a Path,
    /// The topology, which may demand a version.
    pub topology: &'a Topology,
    /// The credentials, if they can be read.
    pub credentials: Option<&'a Credentials>,
}

impl Lists<'_> {
    /// Examines the newest list that lies there. Who signed it, a start examines.
    pub(super) fn examine(&self, now_unix: u64) -> Finding {
        let name = file_name(ListKind::Revocations);
        let kept = self.state.map(|state| state.join(LISTS).join(&name));
        let mut newest: Option<RevocationList> = None;
        for path in kept.into_iter().chain([self.given.join(&name)]) {
            let bytes = match read_bounded_file(&path, LIST_MAX_BYTES + 64) {
                Ok(bytes) => bytes,
                Err(SecretFileError::Missing { .. }) => continue,
                Err(error) => return Finding::fail(Check::Revocations, chain(&error)),
            };
            let list = body::decode_exact::<Bundle>(&bytes)
                .ok()
                .and_then(|bundle| bundle.revocations)
                .and_then(|signed| body::decode_exact::<RevocationList>(&signed.content.0).ok());
            let Some(list) = list else {
                let found = format!("{} holds no revocation list", path.display());
                return Finding::fail(Check::Revocations, found);
            };
            if newest.as_ref().is_none_or(|held| held.version < list.version) {
                newest = Some(list);
            }
        }
        let needed = self.topology.lists.revocations;
        match newest {
            None if needed > 0 => Finding::fail(
                Check::Revocations,
                format!("there is no list, and the topology demands version {needed}"),
            ),
            None => Finding::warn(Check::Revocations, "there is no list yet"),
            Some(list) => self.judge(&list, needed, now_unix),
        }
    }

    fn judge(&self, list: &RevocationList, needed: u64, now_unix: u64) -> Finding {
        let (version, count) = (list.version, list.names.len() + list.leaves.len());
        if version < needed {
            let found = format!("version {version}, and the topology demands version {needed}");
            return Finding::fail(Check::Revocations, found);
        }
        if self.credentials.is_some_and(|own| names(list, own, now_unix)) {
            return Finding::fail(
                Check::Revocations,
                "the list names this cell or its certificate",
            );
        }
        let days = now_unix.saturating_sub(list.issued) / DAY;
        let found = format!("version {version}, {count} entries, signed {days} days ago");
        if days > WARN_DAYS {
            Finding::warn(Check::Revocations, found)
        } else {
            Finding::ok(Check::Revocations, found)
        }
    }
}

fn names(list: &RevocationList, own: &Credentials, now_unix: u64) -> bool {
    let certificate = own.certificate();
    let name: &Fqcn = &certificate.identity().name;
    let is_cell = certificate.identity().kind != CellKind::Job;
    list.certificate(&certificate.hash(), now_unix)
        || (is_cell && list.names(name.base(), now_unix))
}
