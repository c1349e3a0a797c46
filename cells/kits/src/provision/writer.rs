//! Writes kits and updates into the directory that is being made.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Fqcn,
    topology::project::Participant,
};
use cellbus_runtime::{
    authority::{Authority, ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS, issuer_terms},
    certificate::{CertDates, certificates_in_pem, leaf_hash, profile::CertProfile},
    secret_file::Staging,
};
use zeroize::Zeroizing;

use super::{
    Action, Order, ProvisionError, Row,
    plan::{Step, kept, role_of},
};
use crate::{
    layout::{
        CERTIFICATE, KEY, LIMITS, LOCAL, MANIFEST, POLICY, PROGRAMS, ROOT, ROSTER, SIGNATURE,
        STARTUP, TOPOLOGY, UPDATES,
    },
    lists::ListFile,
    local::{NEW_LIMITS, NEW_POLICY, NEW_PROGRAMS},
    manifest::{self, FileEntry, Manifest},
    records::{Issued, IssuerRecord, Records},
    text::hex,
};

const DAY: u64 = 24 * 3600;

/// Writes kits and updates into the directory that is being made.
pub(super) struct Writer<'a> {
    pub(super) order: &'a Order<'a>,
    pub(super) authority: &'a Authority,
    pub(super) roots_pem: &'a str,
    pub(super) staging: &'a Staging,
    pub(super) inside: PathBuf,
    pub(super) kits: &'a str,
    pub(super) number: u32,
    pub(super) lists: &'a [ListFile],
    pub(super) has_updates: bool,
}

/// An issuing authority as it goes into a kit; without its key where the server has that already.
struct Issuing {
    certificate: String,
    key: Option<Zeroizing<String>>,
    record: IssuerRecord,
}

impl Writer<'_> {
    pub(super) fn carry_out(
        &mut self,
        step: &Step<'_>,
        records: &mut Records,
    ) -> Result<Row, ProvisionError> {
        let name = step.who.name;
        match step.action {
            Action::Kept | Action::Removed => return Ok(kept(step)),
            Action::Updated => {}
            Action::New | Action::Renewed | Action::Replaced => {
                records.serial += 1;
                let issued = self.kit(step, records.serial)?;
                let row = Row {
                    path: Some(format!("{}/{name}", self.kits)),
                    serial: issued.serial,
                    not_after: issued.not_after,
                    ..kept(step)
                };
                records.participants.insert(name.clone(), issued);
                return Ok(row);
            }
        }
        let Some(old) = &step.old else { return Ok(kept(step)) };
        records.serial += 1;
        let issued = self.update(step, old, records.serial)?;
        let row = Row {
            path: Some(format!("{}/{UPDATES}/{name}", self.kits)),
            serial: issued.serial,
            ..kept(step)
        };
        records.participants.insert(name.clone(), issued);
        Ok(row)
    }

    fn kit(&self, step: &Step<'_>, serial: u64) -> Result<Issued, ProvisionError> {
        let Participant { name, kind, org, hosts, .. } = step.who;
        let role = role_of(&step.who);
        let identity = self.identity(step);
        let dates = CertDates::lasting(self.order.now_unix, self.leaf_life());
        let (leaf, chain, key) = match self.order.key {
            Some(own) => {
                let made = self.authority.certify(&own.certificate, &identity, hosts, dates)?;
                (made.der, made.pem, None)
            }
            None => {
                let issued = self.authority.issue(&identity, hosts, dates)?;
                (issued.chain().swap_remove(0), issued.chain_pem(), Some(issued.key_pem()))
            }
        };
        let hash = hex(&leaf_hash(&leaf));
        let dates = CertProfile::read(&leaf).map_or(dates, |profile| profile.dates);

        let dir = self.inside.join(name.as_str());
        let startup = dir.join(STARTUP);
        self.staging.create_dir(&dir)?;
        self.staging.create_dir(&startup)?;
        let mut files = Vec::new();
        let mut write = |file: &str, content: &[u8]| {
            files.push(FileEntry::of(file, content));
            self.staging.write(&startup.join(file), content)
        };
        write(CERTIFICATE, chain.as_bytes())?;
        write(ROOT, self.roots_pem.as_bytes())?;
        write(ROSTER, &step.roster)?;
        write(TOPOLOGY, step.topology)?;
        for list in self.lists {
            write(&list.name, &list.content)?;
        }
        if let Some(key) = key {
            write(KEY, key.as_bytes())?;
        }
        let issuer = self.issuing(kind)?;
        if let Some(Issuing { certificate, key, .. }) = &issuer {
            write(ISSUER_CERTIFICATE, certificate.as_bytes())?;
            if let Some(key) = key {
                write(ISSUER_KEY, key.as_bytes())?;
            }
            write(ISSUER_TERMS, &issuer_terms(self.leaf_life()))?;
            files.extend(self.order.key.and_then(|own| Some(own.issuing.as_ref()?.file.clone())));
        }
        files.extend(self.order.key.map(|own| own.file.clone()));
        files.sort();
        self.sign(&startup, step, serial, &hash, files.clone())?;
        let local = dir.join(LOCAL);
        self.staging.create_dir(&local)?;
        self.staging.write(&local.join(POLICY), NEW_POLICY.as_bytes())?;
        self.staging.write(&local.join(LIMITS), NEW_LIMITS.as_bytes())?;
        self.staging.write(&local.join(PROGRAMS), NEW_PROGRAMS.as_bytes())?;
        Ok(Issued {
            kind,
            org: org.clone(),
            role,
            hosts: hosts.to_vec(),
            kits: self.number,
            serial,
            not_before: dates.not_before,
            not_after: dates.not_after,
            certificate_sha256: hash,
            root_sha256: hex(&self.authority.root_hash()),
            certificate: chain,
            files,
            issuer: issuer.map(|issuing| issuing.record),
            renewed_by: Some(step.renewed_by),
            own_key: self.order.key.is_some(),
        })
    }

    /// The issuing authority that goes with the kit of a server, where the project asks for one. A server that has made its
    /// own key is certified another one of its own, and none where it brings none.
    fn issuing(&self, kind: CellKind) -> Result<Option<Issuing>, ProvisionError> {
        let days = self.order.project.issuer_days.filter(|_| kind == CellKind::Server);
        let Some(days) = days else { return Ok(None) };
        let (now, life) = (self.order.now_unix, Duration::from_secs(u64::from(days) * DAY));
        let (der, certificate, key) = match self.order.key.map(|own| &own.issuing) {
            None => {
                let made = self.authority.create_issuer(now, life)?;
                (made.chain().swap_remove(0), made.chain_pem(), Some(made.key_pem()))
            }
            Some(Some(own)) => {
                let made = self.authority.certify_issuer(&own.certificate, now, life)?;
                (made.der, made.pem, None)
            }
            Some(None) => return Ok(None),
        };
        let dates = CertProfile::read(&der).map(|profile| profile.dates);
        let dates = dates.unwrap_or_else(|_| CertDates::lasting(now, life));
        let record = IssuerRecord {
            not_before: dates.not_before,
            not_after: dates.not_after,
            certificate_sha256: hex(&leaf_hash(&der)),
        };
        Ok(Some(Issuing { certificate, key, record }))
    }

    /// Everything of a kit that can change while its key stays.
    fn update(
        &mut self,
        step: &Step<'_>,
        old: &Issued,
        serial: u64,
    ) -> Result<Issued, ProvisionError> {
        let updates = self.inside.join(UPDATES);
        if !self.has_updates {
            self.staging.create_dir(&updates)?;
            self.has_updates = true;
        }
        let dir = updates.join(step.who.name.as_str());
        self.staging.create_dir(&dir)?;
        let mut files = old.files.clone();
        let lists = self.lists.iter().map(|list| (list.name.as_str(), list.content.as_slice()));
        let next = self.next_certificate(step, old)?;
        let own = [
            (ROOT, self.roots_pem.as_bytes()),
            (ROSTER, step.roster.as_slice()),
            (TOPOLOGY, step.topology),
        ];
        let certificate = next.as_ref().map(|next| (CERTIFICATE, next.certificate.as_bytes()));
        for (file, content) in own.into_iter().chain(lists).chain(certificate) {
            self.staging.write(&dir.join(file), content)?;
            files.retain(|entry| entry.path != file);
            files.push(FileEntry::of(file, content));
        }
        files.sort();
        let renewed_by = Some(step.renewed_by);
        let issued = Issued { serial, files, renewed_by, ..next.unwrap_or_else(|| old.clone()) };
        self.sign(&dir, step, serial, &issued.certificate_sha256, issued.files.clone())?;
        Ok(issued)
    }

    /// A certificate of the authority that issues now, for the key that a participant has, where its own is of a
    /// former one that issues no more.
    fn next_certificate(
        &self,
        step: &Step<'_>,
        old: &Issued,
    ) -> Result<Option<Issued>, ProvisionError> {
        if !step.goes_over {
            return Ok(None);
        }
        let key = certificates_in_pem(old.certificate.as_bytes()).into_iter().next();
        let key = key.unwrap_or_default();
        let dates = CertDates::lasting(self.order.now_unix, self.leaf_life());
        let identity = self.identity(step);
        let made = self.authority.certify(&key, &identity, step.who.hosts, dates)?;
        let dates = CertProfile::read(&made.der).map_or(dates, |profile| profile.dates);
        Ok(Some(Issued {
            not_before: dates.not_before,
            not_after: dates.not_after,
            certificate_sha256: hex(&leaf_hash(&made.der)),
            root_sha256: hex(&self.authority.root_hash()),
            certificate: made.pem,
            ..old.clone()
        }))
    }

    fn leaf_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.order.project.leaf_days) * DAY)
    }

    fn identity(&self, step: &Step<'_>) -> Identity {
        let Participant { name, kind, org, .. } = step.who;
        Identity {
            project: self.order.project.topology.project.clone(),
            kind,
            name: name.clone().into(),
            org: org.clone(),
            role: role_of(&step.who),
        }
    }

    fn sign(
        &self,
        dir: &Path,
        step: &Step<'_>,
        serial: u64,
        certificate_sha256: &str,
        files: Vec<FileEntry>,
    ) -> Result<(), ProvisionError> {
        let topology = &self.order.project.topology;
        let Participant { name, kind, org, .. } = step.who;
        let cell = topology.cell(name.as_str());
        let manifest = Manifest {
            format: manifest::FORMAT.to_owned(),
            project: topology.project.clone(),
            name: name.clone(),
            cell: cell.map_or_else(|| Fqcn::from(name.clone()), |cell| cell.fqcn.clone()),
            kind,
            org: org.clone(),
            role: role_of(&step.who),
            parent: cell.and_then(|cell| cell.parent.clone()),
            serial,
            issued_unix: self.order.now_unix,
            root_sha256: hex(&self.authority.root_hash()),
            certificate_sha256: certificate_sha256.to_owned(),
            renewed_by: Some(step.renewed_by),
            files,
        };
        self.staging.write(&dir.join(MANIFEST), &manifest.to_json())?;
        self.staging.write(&dir.join(SIGNATURE), &manifest.sign(self.authority)?)?;
        Ok(())
    }
}
