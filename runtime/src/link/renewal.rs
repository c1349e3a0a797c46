//! Another certificate on a connection that goes on: who holds it proves it, and the link goes by it.
//!
//! The TLS session stays what it is. What binds the new certificate to it is a signature of the new key over
//! the session's exporter; what binds it to the neighbour is that it says the same of its holder as the old one.

use std::sync::Arc;

use actix::{Handler, Message};
use bytes::Bytes;
use cellbus_proto::{
    codec::body::{self, Blob, NewCertificate},
    identity::CellKind,
    link::{Phase, Side},
    status::Status,
    transcript::RenewLinkFacts,
};
use rustls_pki_types::CertificateDer;

use super::Link;
use crate::{
    certificate::LeafHash,
    conn::PeerFacts,
    own::Shown,
    tls::{ChainError, Direction, verify_chain, verify_leaf_signature},
};

/// What this end would say to the neighbour to go on with another certificate; `None` where it cannot.
#[derive(Debug, Message)]
#[rtype(result = "Option<Bytes>")]
pub struct ProposeRenewal(pub Shown);

/// The neighbour knows this end by another certificate from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShowOnLink(pub Shown);

/// The neighbour wants to go on with another certificate; the answer has the hashes of the old and the new one.
#[derive(Debug, Message)]
#[rtype(result = "Result<(LeafHash, LeafHash), Status>")]
pub struct NeighbourRenews(pub NewCertificate);

impl Link {
    fn check_new_certificate(&self, new: &NewCertificate) -> Result<PeerFacts, Status> {
        let facts = self.connection.peer();
        // Nobody certifies the certificate of a job, and it lives no longer than its launch.
        if facts.identity.kind == CellKind::Job || self.state.phase() != Phase::Active {
            return Err(Status::Forbidden);
        }
        let name = self.peer_name().ok_or(Status::CertName)?;
        let direction = match self.side() {
            Side::Parent => Direction::Dials,
            Side::Child => Direction::IsDialled,
        };
        let ders: Vec<CertificateDer<'_>> =
            new.chain.iter().map(|der| CertificateDer::from(&der.0[..])).collect();
        let peer = verify_chain(&self.own.roots, &ders, direction, self.own.wall.unix()).map_err(
            |error| {
                if let ChainError::Listed(status) = error { status } else { Status::BadSignature }
            },
        )?;
        if peer.identity != facts.identity {
            return Err(Status::CertName);
        }
        let signable = RenewLinkFacts {
            project: self.own.identity.project.as_str(),
            cell: name.as_str(),
            neighbour: self.own.name.as_str(),
            old_leaf: &facts.leaf,
            new_leaf: &peer.hash,
            exporter: &facts.exporter,
        }
        .signable();
        let leaf = new.chain.first().ok_or(Status::BadSignature)?;
        if !verify_leaf_signature(&leaf.0, &signable, &new.signature.0) {
            return Err(Status::BadSignature);
        }
        Ok(PeerFacts {
            identity: peer.identity,
            dates: peer.dates,
            chain: new.chain.iter().map(|der| Bytes::copy_from_slice(&der.0)).collect(),
            leaf: peer.hash,
            exporter: facts.exporter,
        })
    }
}

impl Handler<ProposeRenewal> for Link {
    type Result = Option<Bytes>;

    fn handle(
        &mut self,
        ProposeRenewal(next): ProposeRenewal,
        _: &mut Self::Context,
    ) -> Self::Result {
        let facts = self.connection.peer();
        let signable = RenewLinkFacts {
            project: self.own.identity.project.as_str(),
            cell: self.own.name.as_str(),
            neighbour: self.peer_name()?.as_str(),
            old_leaf: &self.shown.certificate.hash(),
            new_leaf: &next.certificate.hash(),
            exporter: &facts.exporter,
        }
        .signable();
        let signature = Blob(next.signer.sign(&signable).ok()?);
        let chain = next.certificate.chain().iter().map(|der| Blob(der.to_vec())).collect();
        Some(body::encode(&NewCertificate { chain, signature }))
    }
}

impl Handler<ShowOnLink> for Link {
    type Result = ();

    fn handle(&mut self, ShowOnLink(next): ShowOnLink, _: &mut Self::Context) {
        self.shown = next;
    }
}

impl Handler<NeighbourRenews> for Link {
    type Result = Result<(LeafHash, LeafHash), Status>;

    fn handle(
        &mut self,
        NeighbourRenews(new): NeighbourRenews,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        let old = Arc::clone(&self.connection.peer()).leaf;
        let facts = self.check_new_certificate(&new)?;
        let leaf = facts.leaf;
        tracing::info!(
            cell = %self.own.name, peer = %facts.identity, link = self.id.0, until = facts.dates.not_after,
            "a neighbour goes on with another certificate"
        );
        self.connection.set_peer(facts);
        self.publish_peer(ctx);
        Ok((old, leaf))
    }
}
