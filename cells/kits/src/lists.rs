//! The signed lists that come with kits: what was taken back, and which cells there are.

use cellbus_proto::{
    codec::{Octets, body},
    name::Segment,
    topology::project::Project,
    trust::{Bundle, List, ListKind, Reason, RevocationList, RevokedLeaf, RevokedName, RosterList},
};
use cellbus_runtime::{
    authority::Authority,
    lists::{ListSigner, SignListError, file_name},
};

use crate::records::Records;

/// A list as it lies in a kit.
pub(crate) struct ListFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Names of the files of lists in a kit.
#[must_use]
pub fn file_names() -> [String; 2] {
    [file_name(ListKind::Revocations), file_name(ListKind::Roster)]
}

/// Signs the lists of a project as its records are now. Their version is the time, so that they are newer than any
/// before, whoever signed those.
pub(crate) fn sign(
    records: &mut Records,
    project: &Project,
    authority: &Authority,
    now_unix: u64,
) -> Result<[ListFile; 2], SignListError> {
    let version = now_unix.max(records.lists + 1);
    records.lists = version;
    let signer = ListSigner::from_pem(authority.root_pem(), &authority.key_pem())?;
    let mut leaves: Vec<RevokedLeaf> = records
        .revoked
        .iter()
        .filter_map(|one| {
            let leaf = Octets(bytes_of(&one.certificate_sha256)?);
            Some(RevokedLeaf { leaf, reason: Reason::Superseded, until: Some(one.not_after) })
        })
        .collect();
    leaves.sort_by_key(|entry| entry.leaf.0);
    leaves.dedup_by_key(|entry| entry.leaf.0);
    let (topology, issued) = (&project.topology, now_unix);
    let (name, names) = (topology.project.clone(), Vec::new());
    let mut revocations = RevocationList { project: name, version, issued, names, leaves };
    // Who is gone and could renew its certificate may hold one that nobody here has seen.
    let is_gone = |name: &Segment| !project.participants().any(|one| one.name == name);
    let gone = records.revoked.iter().filter(|_| project.issuer_days.is_some());
    for gone in gone.filter(|one| is_gone(&one.name)) {
        let (name, until) = (gone.name.clone(), Some(gone.not_after));
        revocations.revoke_name(RevokedName { name, reason: Reason::Ceased, until });
    }
    let roster = RosterList::of(topology, version, issued);
    Ok([file(&signer, &revocations)?, file(&signer, &roster)?])
}

fn file<L: List>(signer: &ListSigner, list: &L) -> Result<ListFile, SignListError> {
    let bundle = Bundle::of(L::KIND, signer.sign(list)?);
    Ok(ListFile { name: file_name(L::KIND), content: body::encode(&bundle).to_vec() })
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 2 * bytes.len() || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
