//! A running cell goes on with another certificate, and everybody whom it concerns goes on with it.

use std::time::Duration;

use cellbus_channels::RequestError;
use cellbus_proto::{
    codec::body::{self, Blob, NewCertificate},
    name::Fqcn,
    status::Status,
    token::Token,
    transcript::RenewCertificateFacts,
    well_known,
};

use super::RunningCell;
use crate::{
    authority::OwnCertificate,
    cell::{AnnounceBy, LinksToRenew, Renewed, RootError},
    certificate::LeafHash,
    conn::CloseCode,
    filter::VerifyToken,
    link::{ProposeRenewal, Say, ShowOnLink},
    own::Shown,
    seam::post,
    tls::{ChainError, Direction, SignError, verify_chain},
};

/// Time that others have to answer.
const BUDGET: Duration = Duration::from_secs(5);
/// How long the cells of a project have to hear of another certificate of the server before it signs with it:
/// each level of the tree registers again with a beat.
const HEARD: Duration = Duration::from_secs(15);

/// What became of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The certificate before; it can be revoked now.
    pub old: LeafHash,
    /// The certificate now.
    pub new: LeafHash,
    /// Neighbours that did not go on with it; their links are made again.
    pub again: Vec<Fqcn>,
}

/// Why a cell does not go on with another certificate; it goes on with the one that it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// It shows this very certificate.
    #[error("it is the certificate that the cell shows")]
    Same,
    /// It is another cell's.
    #[error("it is the certificate of another cell, kind or organisation")]
    Holder,
    /// The roots do not vouch for it.
    #[error("the project's root does not vouch for it")]
    Chain(#[from] ChainError),
    /// The cell is not registered now.
    #[error("the cell is not running")]
    NotRunning,
    /// The server did not go on with it.
    #[error("the server does not go on with it")]
    Server(#[source] RequestError),
    /// The server's answer is no token for it.
    #[error("the server's answer is no token for it")]
    Token,
    /// The new key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The server cannot announce its key by it.
    #[error(transparent)]
    Root(#[from] RootError),
}

impl RunningCell {
    /// Goes on with another certificate of the same identity, with another key or the same. Links, streams and
    /// requests go on; when this returns, the old certificate is good for nothing that the cell does.
    ///
    /// The server takes 15 s for it, in which its cells hear of the new one.
    ///
    /// # Errors
    /// [`RenewError`]; the cell shows the certificate that it had.
    pub async fn renew(&self, next: OwnCertificate) -> Result<Renewal, RenewError> {
        let own = &self.own;
        let (old, new) = (own.certificate().hash(), next.hash());
        if old == new {
            return Err(RenewError::Same);
        }
        if *next.identity() != own.identity {
            return Err(RenewError::Holder);
        }
        let direction =
            if own.kind().accepts_cells() { Direction::IsDialled } else { Direction::Dials };
        verify_chain(&own.roots, next.chain(), direction, own.wall.unix())?;
        let next = Shown::new(next);
        own.set_next(Some(new));
        let renewed = self.go_on(&next, old).await;
        own.set_next(None);
        let again = renewed?;
        tracing::info!(
            target: "audit", cell = %own.name, until = next.certificate.dates().not_after, ?again,
            "another certificate is shown"
        );
        Ok(Renewal { old, new, again })
    }

    async fn go_on(&self, next: &Shown, old: LeafHash) -> Result<Vec<Fqcn>, RenewError> {
        let group = self.group().ok_or(RenewError::NotRunning)?;
        let ended = |_| RenewError::NotRunning;
        let token = if self.own.is_root() {
            group.cell.send(AnnounceBy(next.clone())).await.map_err(ended)??;
            tokio::time::sleep(HEARD).await;
            None
        } else {
            Some(self.tell_server(next, &old).await?)
        };
        let mut again = Vec::new();
        let mut links = group.cell.send(LinksToRenew).await.map_err(ended)?;
        // The way to the server first: until it goes by the new one, this cell cannot register again.
        links.sort_by_key(|(name, _)| Some(name) != self.own.parent.as_ref());
        for (name, link) in links {
            let proposed = link.send(ProposeRenewal(next.clone())).await.ok().flatten();
            let goes_on = match proposed {
                None => false,
                Some(body) => {
                    let bus = self.bus();
                    let asked = bus.request(name.clone(), well_known::RENEW_LINK.into());
                    asked.payload(body).budget(BUDGET).send().await.is_ok()
                }
            };
            if goes_on {
                // Fails only when the link has ended, as the next one does too.
                let _ = link.send(ShowOnLink(next.clone())).await;
            } else {
                again.push((name, link));
            }
        }
        self.own.show(next.clone());
        if token.is_some() {
            self.own.set_token(token);
        }
        group.cell.send(Renewed).await.map_err(ended)?;
        self.own.advance_generation();
        for (_, link) in &again {
            // Fails only when the link has ended already.
            let _ = post(link, Say::Close(CloseCode::Later, "this cell has another certificate"));
        }
        Ok(again.into_iter().map(|(name, _)| name).collect())
    }

    /// Has the server go on with the new certificate; gives the token for it.
    async fn tell_server(&self, next: &Shown, old: &LeafHash) -> Result<Token, RenewError> {
        let own = &self.own;
        let signable = RenewCertificateFacts {
            project: own.identity.project.as_str(),
            cell: own.name.as_str(),
            server: own.server.as_str(),
            old_leaf: old,
            new_leaf: &next.certificate.hash(),
        }
        .signable();
        let signature = Blob(next.signer.sign(&signable)?);
        let chain = next.certificate.chain().iter().map(|der| Blob(der.to_vec())).collect();
        let body = body::encode(&NewCertificate { chain, signature });
        let bus = self.bus();
        let asked = bus.request(own.server.clone(), well_known::RENEW_CERTIFICATE.into());
        let reply = asked.payload(body).budget(BUDGET).send().await.map_err(RenewError::Server)?;
        let token = Token::from_bytes(reply.payload).ok_or(RenewError::Token)?;
        let group = self.group().ok_or(RenewError::NotRunning)?;
        let verified = group.filter.send(VerifyToken(token.clone())).await;
        let claims =
            verified.map_err(|_| RenewError::NotRunning)?.map_err(|_| RenewError::Token)?;
        let ours = claims.subject == own.name && claims.leaf.0 == next.certificate.hash();
        if ours { Ok(token) } else { Err(RenewError::Token) }
    }
}

impl RenewError {
    /// The code to log and count it under.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Same => Status::Duplicate,
            Self::Holder => Status::CertName,
            Self::Chain(_) | Self::Token | Self::Sign(_) | Self::Root(_) => Status::BadSignature,
            Self::NotRunning => Status::NoRoute,
            Self::Server(error) => error.status(),
        }
    }
}
