//! Another certificate while a cell runs: its neighbours and the server go on with it, and nothing is broken off.
//!
//! ```text
//!  cell                    server                     neighbour
//!   | renew_certificate      |                            |
//!   |----------------------->|  record and next tokens    |
//!   |   token for the new one|  go by the new one         |
//!   |<-----------------------|                            |
//!   | renew_link, signed over the session by the new key  |
//!   |---------------------------------------------------->|  takes tokens of both
//!   | from here on it shows the new one                   |
//! ```

use std::sync::Arc;

use actix::{Addr, AsyncContext, Context, Handler, Message, MessageResult};
use bytes::Bytes;
use cellbus_proto::{
    admission::Admitted,
    codec::body::{self, Blob, IssueCertificate, IssuedCertificate, NewCertificate},
    envelope::Header,
    identity::CellKind,
    name::Fqcn,
    status::Status,
    token::Claims,
    transcript::RenewCertificateFacts,
    trust::Subject,
};
use rustls_pki_types::CertificateDer;

use super::{Cell, RootError};
use crate::{
    authority::Reissue,
    certificate::{LeafHash, leaf_hash},
    link::{Link, NeighbourRenews},
    own::{Own, Shown},
    seal::Leaf,
    seam::post,
    tls::{ChainError, Direction, verify_chain, verify_leaf_signature},
};

/// The neighbours that have to go on with another certificate of this cell. Jobs keep the one that they pinned.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(Fqcn, Addr<Link>)>")]
pub struct LinksToRenew;

/// The server announces its token key by this certificate from now on, and its children register again.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), RootError>")]
pub struct AnnounceBy(pub Shown);

/// This cell has gone on with another certificate.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Renewed;

/// The link of a neighbour has decided on its new certificate.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct LinkRenewed {
    request: Header,
    outcome: Result<(LeafHash, LeafHash), Status>,
}

impl Cell {
    /// A neighbour wants to go on with another certificate.
    pub(super) fn take_link_renewal(&mut self, admitted: &Admitted, ctx: &mut Context<Self>) {
        let request = admitted.header();
        let new = body::decode_exact::<NewCertificate>(&admitted.envelope().payload);
        let origin = &request.origin.name;
        let found = self.links.values().find(|info| info.name == *origin);
        let (new, link) = match (new, found) {
            (Ok(new), Some(info)) => (new, info.link.clone()),
            (Err(error), _) => return self.refuse_renewal(request, error.status),
            (Ok(_), None) => return self.refuse_renewal(request, Status::NotDirect),
        };
        let (request, cell) = (request.clone(), ctx.address());
        actix::spawn(async move {
            let outcome = link.send(NeighbourRenews(new)).await;
            let outcome = outcome.unwrap_or(Err(Status::PeerLost));
            // Fails only when the cell has ended.
            let _ = post(&cell, LinkRenewed { request, outcome });
        });
    }

    fn refuse_renewal(&self, request: &Header, status: Status) {
        self.own.counters.refuse(status);
        tracing::warn!(
            cell = %self.own.name, peer = %request.origin.name, code = status.code(),
            "another certificate was refused"
        );
        self.answer_failed(request, status, Bytes::new());
    }

    /// At the server: the holder of a record goes on with another certificate. The request has been proven with
    /// the old key; the new one signs what is in it.
    pub(super) fn renew_certificate(
        &mut self,
        claims: &Claims,
        new: &NewCertificate,
    ) -> Result<Bytes, Status> {
        let record = self.registry.record(&claims.subject).ok_or(Status::PeerUnknown)?;
        // It asks again where it did not understand the answer: then the record has gone on already.
        let has_gone_on = |leaf: &LeafHash| record.leaf == *leaf;
        let named = new.chain.first().map(|der| leaf_hash(&der.0));
        let is_its_own =
            has_gone_on(&claims.leaf.0) || named.is_some_and(|leaf| has_gone_on(&leaf));
        if !is_its_own || record.kind == CellKind::Job {
            return Err(Status::Forbidden);
        }
        let ders: Vec<CertificateDer<'_>> =
            new.chain.iter().map(|der| CertificateDer::from(&der.0[..])).collect();
        let now = self.own.wall.unix();
        let peer =
            verify_chain(&self.own.roots, &ders, Direction::Dials, now).map_err(|error| {
                if let ChainError::Listed(status) = error { status } else { Status::BadSignature }
            })?;
        let same = peer.identity.project == self.own.identity.project
            && peer.identity.kind == record.kind
            && peer.identity.org == record.org
            && peer.identity.name.as_str() == claims.subject.base();
        if !same {
            return Err(Status::CertName);
        }
        let signable = RenewCertificateFacts {
            project: self.own.identity.project.as_str(),
            cell: claims.subject.as_str(),
            server: self.own.name.as_str(),
            old_leaf: &claims.leaf.0,
            new_leaf: &peer.hash,
        }
        .signable();
        let leaf = new.chain.first().ok_or(Status::BadSignature)?;
        if !verify_leaf_signature(&leaf.0, &signable, &new.signature.0) {
            return Err(Status::BadSignature);
        }
        let leaf = Leaf::verified(&leaf.0, peer.identity, peer.dates).of_root(Some(peer.root));
        self.own.protection.keep(Arc::new(leaf), || {
            let registered = self.registry.iter().map(|(_, record)| record.leaf);
            registered.chain([self.own.certificate().hash(), claims.leaf.0]).collect()
        });
        self.registry.renew_leaf(&claims.subject, &claims.leaf.0, peer.hash);
        let record = self.registry.record(&claims.subject).ok_or(Status::PeerUnknown)?.clone();
        tracing::info!(
            target: "audit", cell = %self.own.name, peer = %claims.subject, until = peer.dates.not_after,
            "a cell goes on with another certificate"
        );
        self.renew_record(&claims.subject, &record).map(|blob| blob.0.into())
    }
}

impl Cell {
    /// At the server: the holder of a record asks for another certificate. What is certified is what the certificate
    /// says that it is registered with; the request has been proven with the key of that one.
    pub(super) fn issue_certificate(
        &self,
        claims: &Claims,
        asked: &IssueCertificate,
    ) -> Result<Bytes, Status> {
        let (own, name) = (&self.own, &claims.subject);
        let issuer = own.issuer().ok_or(Status::NoHandler)?;
        let record = self.registry.record(name).ok_or(Status::PeerUnknown)?;
        if record.leaf != claims.leaf.0 || record.kind == CellKind::Job {
            return Err(Status::Forbidden);
        }
        // Whoever is no longer what its certificate says is not certified as that again.
        let lists = own.lists.view();
        let listed = lists.roster.as_deref().and_then(|roster| roster.directory().of(name)?.1);
        if self.roster.kind_of(name) != Some(record.kind)
            || listed.is_some_and(|org| *org != record.org)
        {
            return Err(Status::CertName);
        }
        let now = own.wall.unix();
        let subject = Subject { kind: record.kind, name, leaf: &record.leaf };
        if let Some(status) = lists.refuses(subject, now) {
            return Err(status);
        }
        let held = own.protection.leaf(&record.leaf).ok_or(Status::BadSignature)?;
        let reissue = Reissue {
            cell: name,
            server: &own.name,
            identity: held.identity(),
            held: held.der(),
            dates: held.dates(),
            request: &asked.request.0,
            proof: &asked.signature.0,
        };
        let chain = issuer.renew(&reissue, now).map_err(|error| {
            tracing::info!(target: "audit", cell = %own.name, peer = %name, %error, "no certificate is issued");
            Status::from(&error)
        })?;
        note_issued(own, name, &chain);
        let chain = chain.iter().map(|der| Blob(der.to_vec())).collect();
        Ok(body::encode(&IssuedCertificate { chain }))
    }
}

/// Counts a certificate that was issued, and says whose: its hash is what would be revoked.
pub(crate) fn note_issued(own: &Own, name: &Fqcn, chain: &[CertificateDer<'_>]) {
    own.counters.issue_certificate();
    let hash = chain.first().map(|leaf| leaf_hash(leaf)).unwrap_or_default();
    let sha256: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    tracing::info!(
        target: "audit", cell = %own.name, peer = %name, certificate = sha256,
        "a certificate is issued again"
    );
}

impl Handler<LinkRenewed> for Cell {
    type Result = ();

    fn handle(&mut self, renewed: LinkRenewed, _: &mut Self::Context) {
        let LinkRenewed { request, outcome } = renewed;
        match outcome {
            Ok((old, new)) => {
                // The server's own record has gone on before; that of a relay goes on here.
                self.registry.renew_leaf(&request.origin.name, &old, new);
                self.answer(&request, Bytes::new(), None);
            }
            Err(status) => self.refuse_renewal(&request, status),
        }
    }
}

impl Handler<LinksToRenew> for Cell {
    type Result = MessageResult<LinksToRenew>;

    fn handle(&mut self, _: LinksToRenew, _: &mut Self::Context) -> Self::Result {
        let links = self.links.values().filter(|info| info.kind != CellKind::Job);
        MessageResult(links.map(|info| (info.name.clone(), info.link.clone())).collect())
    }
}

impl Handler<AnnounceBy> for Cell {
    type Result = Result<(), RootError>;

    fn handle(&mut self, AnnounceBy(shown): AnnounceBy, _: &mut Self::Context) -> Self::Result {
        let Some(root) = &mut self.root else { return Ok(()) };
        root.announce_by(&self.own, &shown)?;
        if let Some(der) = shown.certificate.chain().first() {
            let (identity, dates) = (self.own.identity.clone(), shown.certificate.dates());
            let leaf = Arc::new(Leaf::verified(der, identity, dates));
            let (old, new) = (self.own.certificate().hash(), shown.certificate.hash());
            self.own.protection.keep(leaf, || [old, new].into());
        }
        self.own.advance_epoch();
        Ok(())
    }
}

impl Handler<Renewed> for Cell {
    type Result = ();

    fn handle(&mut self, _: Renewed, _: &mut Self::Context) {
        let shown = self.own.shown();
        if let Some(der) = shown.certificate.chain().first() {
            let (identity, dates) = (self.own.identity.clone(), shown.certificate.dates());
            let leaf = Arc::new(Leaf::verified(der, identity, dates));
            let hash = leaf.hash();
            self.own.protection.keep(leaf, || [hash].into());
        }
        self.renew_own_token();
        self.resign_bans();
    }
}
