//! The authorities of a project: the first one, the next one, and which of their keys signs what in a run.
//!
//! | step | who issues afterwards | who signs the list of roots |
//! |---|---|---|
//! | the first run | the first | the first |
//! | prepare | the first | the first |
//! | activate | the next | the first, whom every cell believes |
//! | taint | the next | the first, for the last time |
//! | revoke | the next | the next |

use std::{path::Path, time::Duration};

use cellbus_proto::{name::Segment, trust::RootState};
use cellbus_runtime::{
    authority::Authority,
    certificate::{certificates_in_pem, leaf_hash},
    secret_file::{Staging, read_secret_file},
};

use crate::{
    ca::Step,
    layout::{AUTHORITY, FILE_MAX_BYTES, ROOT, SEALED_KEY, kits_dir},
    lists::sign_roots,
    passphrase::{Passphrase, PassphraseError},
    provision::{Order, ProvisionError, Wanted},
    records::{AuthorityRecord, Records},
    seal::{OpenWith, SealWith, seal, unseal},
    text::hex,
};

const DAY: u64 = 24 * 3600;

/// Asks for a passphrase.
pub(crate) type Ask<'a> = dyn FnMut(Wanted) -> Result<Passphrase, PassphraseError> + 'a;

/// The authorities of one run.
pub(crate) struct Authorities {
    /// Who issues.
    pub issuer: Authority,
    /// All that count, who issues first, PEM: what cells trust.
    pub roots_pem: String,
    /// One that was made in this run.
    made: Option<Made>,
}

struct Made {
    /// Below the directory that is being written.
    dir: String,
    root_pem: String,
    sealed: Vec<u8>,
}

impl Authorities {
    /// Makes the first authority of a project.
    pub(crate) fn first(
        order: &Order<'_>,
        records: &mut Records,
        ask: &mut Ask<'_>,
    ) -> Result<Self, ProvisionError> {
        let passphrase = ask(Wanted::New)?;
        let (issuer, made) = make(order, AUTHORITY, passphrase)?;
        records.root_sha256 = hex(&issuer.root_hash());
        records.authorities = vec![record(&issuer, RootState::Active, AUTHORITY.to_owned())];
        let ders = [issuer.root().to_vec()];
        sign_roots(records, &ders, &issuer, order.now_unix)?;
        let roots_pem = issuer.root_pem().to_owned();
        Ok(Self { issuer, roots_pem, made: Some(made) })
    }

    /// Opens those of a project, and takes the step from one to the next.
    pub(crate) fn open(
        order: &Order<'_>,
        records: &mut Records,
        step: Option<Step>,
        number: u32,
        ask: &mut Ask<'_>,
    ) -> Result<Self, ProvisionError> {
        let passphrase = ask(Wanted::Existing)?;
        let (out, project) = (order.out, &records.project.clone());
        let place = |records: &Records, state| {
            let found = records.authority(state);
            found
                .cloned()
                .ok_or_else(|| ProvisionError::OtherAuthority { path: out.join(AUTHORITY) })
        };
        let before = open_one(out, project, &place(records, RootState::Active)?, &passphrase)?;
        let Some(step) = step else {
            let roots_pem = roots_pem(out, records, None)?;
            return Ok(Self { issuer: before, roots_pem, made: None });
        };
        let mut made = None;
        let mut next = None;
        let signer = match step {
            Step::Prepare => {
                let (authority, of_next) = make(order, AUTHORITY, passphrase)?;
                let dir = format!("{}/{AUTHORITY}", kits_dir(number));
                records.authorities.push(record(&authority, RootState::Prepared, dir));
                made = Some(of_next);
                before
            }
            Step::Activate => {
                let of_next = place(records, RootState::Prepared)?;
                next = Some(open_one(out, project, &of_next, &passphrase)?);
                for one in &mut records.authorities {
                    match one.state {
                        RootState::Active => one.state = RootState::Former,
                        RootState::Prepared => one.state = RootState::Active,
                        RootState::Former | RootState::Tainted => {}
                    }
                }
                records.root_sha256 = of_next.sha256;
                before
            }
            Step::Taint => {
                let former = place(records, RootState::Former)?;
                for one in &mut records.authorities {
                    if one.state == RootState::Former {
                        one.state = RootState::Tainted;
                    }
                }
                next = Some(before);
                open_one(out, project, &former, &passphrase)?
            }
            Step::Revoke => {
                records.authorities.retain(|one| one.state != RootState::Tainted);
                before
            }
        };
        let ders = ders(out, records, made.as_ref())?;
        sign_roots(records, &ders, &signer, order.now_unix)?;
        let roots_pem = roots_pem(out, records, made.as_ref())?;
        Ok(Self { issuer: next.unwrap_or(signer), roots_pem, made })
    }

    /// Writes the authority that was made in this run.
    pub(crate) fn write(&self, staging: &Staging) -> Result<(), ProvisionError> {
        let Some(Made { dir, root_pem, sealed }) = &self.made else { return Ok(()) };
        let dir = Path::new(dir);
        staging.create_dir(dir)?;
        staging.write(&dir.join(ROOT), root_pem.as_bytes())?;
        staging.write(&dir.join(SEALED_KEY), sealed)?;
        Ok(())
    }
}

fn make(
    order: &Order<'_>,
    dir: &str,
    passphrase: Passphrase,
) -> Result<(Authority, Made), ProvisionError> {
    let life = Duration::from_secs(u64::from(order.project.authority_days) * DAY);
    let project = order.project.topology.project.clone();
    let authority = match order.project.issuer_days {
        Some(_) => Authority::create_with_issuers(project, order.now_unix, life)?,
        None => Authority::create_for_project(project, order.now_unix, life)?,
    };
    let with = SealWith::Passphrase { passphrase, work_factor: order.work_factor };
    let sealed = seal(authority.key_pem().as_bytes(), &with)?;
    let root_pem = authority.root_pem().to_owned();
    Ok((authority, Made { dir: dir.to_owned(), root_pem, sealed }))
}

fn record(authority: &Authority, state: RootState, dir: String) -> AuthorityRecord {
    let (sha256, not_after) = (hex(&authority.root_hash()), authority.dates().not_after);
    AuthorityRecord { sha256, state, dir, not_after }
}

fn open_one(
    out: &Path,
    project: &Segment,
    record: &AuthorityRecord,
    passphrase: &Passphrase,
) -> Result<Authority, ProvisionError> {
    let dir = out.join(&record.dir);
    let root = read_root(out, record)?;
    let sealed = read_secret_file(&dir.join(SEALED_KEY), FILE_MAX_BYTES)?;
    let with = OpenWith::Passphrase(passphrase.clone());
    let key = unseal(&sealed, &with, FILE_MAX_BYTES)?;
    let key = std::str::from_utf8(&key).unwrap_or_default();
    Ok(Authority::restore(project.clone(), &root, key)?)
}

/// The certificate of an authority, which must be the one that the records name.
fn read_root(out: &Path, record: &AuthorityRecord) -> Result<String, ProvisionError> {
    let path = out.join(&record.dir).join(ROOT);
    let pem = read_secret_file(&path, FILE_MAX_BYTES)?;
    if hex(&leaf_hash(&der_of(&pem))) != record.sha256 {
        return Err(ProvisionError::OtherAuthority { path });
    }
    Ok(String::from_utf8_lossy(&pem).into_owned())
}

fn der_of(pem: &[u8]) -> Vec<u8> {
    certificates_in_pem(pem).into_iter().next().unwrap_or_default()
}

/// The certificates of all that count, in the order of the records.
fn pems(out: &Path, records: &Records, made: Option<&Made>) -> Result<Vec<String>, ProvisionError> {
    let read = |one: &AuthorityRecord| match made {
        Some(made) if hex(&leaf_hash(&der_of(made.root_pem.as_bytes()))) == one.sha256 => {
            Ok(made.root_pem.clone())
        }
        Some(_) | None => read_root(out, one),
    };
    records.authorities.iter().map(read).collect()
}

fn ders(
    out: &Path,
    records: &Records,
    made: Option<&Made>,
) -> Result<Vec<Vec<u8>>, ProvisionError> {
    Ok(pems(out, records, made)?.iter().map(|pem| der_of(pem.as_bytes())).collect())
}

/// All that count, who issues first: it signs the manifests.
fn roots_pem(out: &Path, records: &Records, made: Option<&Made>) -> Result<String, ProvisionError> {
    let mut pems: Vec<(bool, String)> = pems(out, records, made)?
        .into_iter()
        .zip(&records.authorities)
        .map(|(pem, record)| (record.state != RootState::Active, pem))
        .collect();
    pems.sort_by_key(|(is_other, _)| *is_other);
    Ok(pems.into_iter().map(|(_, pem)| pem).collect())
}
