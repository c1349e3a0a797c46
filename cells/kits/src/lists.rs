//! The signed lists that come with kits: what was taken back, which cells there are, and which authorities count.

use base64::{Engine, engine::general_purpose::STANDARD};
use cellbus_proto::{
    codec::{
        Octets,
        body::{self, Blob},
    },
    name::Segment,
    topology::project::Project,
    trust::{
        Bundle, ListKind, ListedRoot, Reason, RevocationList, RevokedLeaf, RevokedName, RootsList,
        RosterList, Signed,
    },
};
use cellbus_runtime::{
    authority::Authority,
    lists::{ListSigner, SignListError, file_name},
};

use crate::records::{AuthorityRecord, Records};

/// A list as it lies in a kit.
pub(crate) struct ListFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// The lists of a project, signed.
pub(crate) struct Lists {
    /// Each in a file of its own.
    pub files: Vec<ListFile>,
    /// All in one.
    pub bundle: Vec<u8>,
}

/// Names of the files of lists in a kit.
#[must_use]
pub fn file_names() -> [String; 3] {
    [ListKind::Revocations, ListKind::Roster, ListKind::Roots].map(file_name)
}

/// Signs the lists of a project as its records are now. Their version is the time, so that they are newer than any
/// before, whoever signed those.
pub(crate) fn sign(
    records: &mut Records,
    project: &Project,
    authority: &Authority,
    now_unix: u64,
) -> Result<Lists, SignListError> {
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
    let lists = [signer.sign(&revocations)?, signer.sign(&roster)?, roots(records)?];
    let kinds = [ListKind::Revocations, ListKind::Roster, ListKind::Roots];
    let mut bundle = Bundle::default();
    for (kind, signed) in kinds.into_iter().zip(&lists) {
        *bundle.place(kind) = Some(signed.clone());
    }
    let file = |(kind, signed)| ListFile {
        name: file_name(kind),
        content: body::encode(&Bundle::of(kind, signed)).to_vec(),
    };
    let files = kinds.into_iter().zip(lists).map(file).collect();
    Ok(Lists { files, bundle: body::encode(&bundle).to_vec() })
}

/// Signs which authorities count, as the records have it now. Only a change of authorities does.
///
/// # Arguments
/// `ders`: the certificates of the authorities of the records, in their order.
pub(crate) fn sign_roots(
    records: &mut Records,
    ders: &[Vec<u8>],
    by: &Authority,
    now_unix: u64,
) -> Result<(), SignListError> {
    let root = |(der, record): (&Vec<u8>, &AuthorityRecord)| ListedRoot {
        der: Blob(der.clone()),
        state: record.state,
    };
    let before = roots(records).ok().and_then(|signed| {
        body::decode_exact::<RootsList>(&signed.content.0).ok().map(|list| list.version)
    });
    let list = RootsList {
        project: records.project.clone(),
        version: now_unix.max(before.unwrap_or(0) + 1),
        issued: now_unix,
        roots: ders.iter().zip(&records.authorities).map(root).collect(),
    };
    let signer = ListSigner::from_pem(by.root_pem(), &by.key_pem())?;
    let bundle = Bundle::of(ListKind::Roots, signer.sign(&list)?);
    records.roots_list = STANDARD.encode(body::encode(&bundle));
    Ok(())
}

/// The list of roots that was signed last.
fn roots(records: &Records) -> Result<Signed, SignListError> {
    let bytes = STANDARD.decode(&records.roots_list).map_err(|_| SignListError::Certificate)?;
    let bundle: Bundle = body::decode_exact(&bytes).map_err(|_| SignListError::Certificate)?;
    bundle.roots.ok_or(SignListError::Certificate)
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
