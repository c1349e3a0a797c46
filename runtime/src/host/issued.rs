//! A running cell asks for another certificate when that is due, with a key that it makes itself, and examines what it
//! gets before anything goes by it.
//!
//! ```text
//!  due ──▶ ask the server ──▶ examine ──▶ write ──▶ go on with it ──▶ due
//!   ▲            │               │          │            │
//!   └────────────┴─── wait ──────┴──────────┘            └─ wait, and go on with the same
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cellbus_channels::RequestError;
use cellbus_proto::{
    causes::with_sources,
    codec::body::{self, Blob, IssueCertificate, IssuedCertificate},
    renewal::RenewedBy,
    status::Status,
    transcript::IssueCertificateFacts,
    well_known,
};
use rustls_pki_types::CertificateDer;

use super::{RenewError, Renewal, RunningCell};
use crate::{
    authority::{
        AuthorityError, Issued, OwnCertificate, OwnCertificateError, Reissue, ReissueError,
        renewed::NewPair, self_sign,
    },
    cell::note_issued,
    certificate::{LeafHash, profile::CertProfile},
    clock,
    own::Own,
    secret_file::SecretFileError,
    tls::{ChainError, Direction, Roots, verify_chain},
};

/// Time that the server has to answer.
const BUDGET: Duration = Duration::from_secs(10);

/// Pauses before a certificate that was issued is tried again at once: longer, together, than a certificate of the
/// server's own needs to be heard of.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(20)];

/// Why a cell has no other certificate; it goes on with the one that it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No key can be made.
    #[error("a new key")]
    Key(#[from] AuthorityError),
    /// The server does not answer, or issues none.
    #[error("the server issues no certificate")]
    Server(#[source] RequestError),
    /// This cell is the server, and issues none.
    #[error("no certificate is issued here")]
    Issuer(#[source] ReissueError),
    /// There is no issuing authority.
    #[error("the server has no issuing authority")]
    NoIssuer,
    /// What came is no chain of certificates.
    #[error("the reply holds no certificate")]
    Reply,
    /// It is not for the key that was made: another's, or one of before.
    #[error("the certificate is not for the new key")]
    Pair(#[from] OwnCertificateError),
    /// It says something else of its holder.
    #[error("the certificate is that of another cell, kind or organisation")]
    Holder,
    /// No root vouches for it now, or a list names it.
    #[error("the project's root does not vouch for it")]
    Chain(#[from] ChainError),
    /// It has not the form that cells need.
    #[error("the certificate is not in form: {0}")]
    Profile(String),
    /// It ends no later than the one that is held.
    #[error("the certificate ends no later than the one that the cell has")]
    Dates,
}

/// Why a renewal came to nothing for now.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the new certificate cannot be written")]
    Keep(#[from] SecretFileError),
    #[error(transparent)]
    GoOn(#[from] RenewError),
}

impl RunningCell {
    /// Asks the server for another certificate, for a key that is made for it and never leaves this cell. Nothing goes
    /// by it yet: [`Self::renew`] does that. The server asks itself.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_certificate(&self) -> Result<NewPair, AskError> {
        let own = &self.own;
        let (held, now) = (own.certificate(), own.wall.unix());
        let made = self_sign(&own.identity, now)?;
        let request = made.chain().into_iter().next().ok_or(AskError::Reply)?;
        let signable = IssueCertificateFacts {
            project: own.identity.project.as_str(),
            cell: own.name.as_str(),
            server: own.server.as_str(),
            held: &held.hash(),
            request: &request,
        }
        .signable();
        let proof = made.prove(&signable)?;
        let chain = if own.is_root() {
            issue_to_itself(own, &held, &request, &proof)?
        } else {
            let asked =
                IssueCertificate { request: Blob(request.to_vec()), signature: Blob(proof) };
            let bus = self.bus();
            let request = bus.request(own.server.clone(), well_known::ISSUE_CERTIFICATE.into());
            let request = request.payload(body::encode(&asked)).budget(BUDGET);
            let reply = request.send().await.map_err(|error| {
                let none = error.status() == Status::NoHandler;
                if none { AskError::NoIssuer } else { AskError::Server(error) }
            })?;
            let reply: IssuedCertificate =
                body::decode_exact(&reply.payload).map_err(|_| AskError::Reply)?;
            reply.chain.into_iter().map(|Blob(der)| CertificateDer::from(der)).collect()
        };
        accept(&own.roots, &held, chain, &made, own.wall.unix())
    }
}

fn issue_to_itself(
    own: &Own,
    held: &OwnCertificate,
    request: &[u8],
    proof: &[u8],
) -> Result<Vec<CertificateDer<'static>>, AskError> {
    let issuer = own.issuer().ok_or(AskError::NoIssuer)?;
    let leaf = held.chain().first().ok_or(AskError::Reply)?;
    let asked = Reissue {
        cell: &own.name,
        server: &own.name,
        identity: &own.identity,
        held: leaf,
        dates: held.dates(),
        request,
        proof,
    };
    let chain = issuer.renew(&asked, own.wall.unix()).map_err(AskError::Issuer)?;
    note_issued(own, &own.name, &chain);
    Ok(chain)
}

/// Examines what came for the key that was made, at `now_unix`, in place of the certificate that is held.
fn accept(
    roots: &Roots,
    held: &OwnCertificate,
    chain: Vec<CertificateDer<'static>>,
    made: &Issued,
    now_unix: u64,
) -> Result<NewPair, AskError> {
    let (certificate, kind) = (OwnCertificate::new(chain, &made.key())?, held.identity().kind);
    if certificate.identity() != held.identity() {
        return Err(AskError::Holder);
    }
    let direction = if kind.accepts_cells() { Direction::IsDialled } else { Direction::Dials };
    verify_chain(roots, certificate.chain(), direction, now_unix)?;
    let profile = certificate.chain().first().and_then(|leaf| CertProfile::read(leaf).ok());
    let bad = profile.map_or_else(Vec::new, |profile| profile.deviations(kind));
    if !bad.is_empty() {
        return Err(AskError::Profile(bad.join("; ")));
    }
    if certificate.dates().not_after <= held.dates().not_after {
        return Err(AskError::Dates);
    }
    Ok(NewPair::new(certificate, made))
}

/// Renews the certificate of a running cell, again and again. One for each cell.
#[derive(Debug)]
pub struct Renewing {
    running: RunningCell,
    /// The certificate whose renewal is tried.
    of: LeafHash,
    failures: u32,
    /// No attempt before.
    again: Option<Instant>,
    /// What was written, and the cell has not gone on with yet.
    pending: Option<Arc<NewPair>>,
}

impl Renewing {
    /// Of this cell.
    #[must_use]
    pub fn new(running: &RunningCell) -> Self {
        let (own, held) = (running.own(), running.own().certificate());
        let (life, of) = (held.dates().life(), held.hash());
        let is_overdue = life.due(&of) <= own.wall.unix();
        let again = is_overdue.then(|| clock::now() + life.overdue(&of));
        Self { running: running.clone(), of, failures: 0, again, pending: None }
    }

    /// How long it is until something has to be done, as far as is known now.
    #[must_use]
    pub fn wait(&mut self) -> Duration {
        let own = self.running.own();
        let held = own.certificate();
        if held.hash() != self.of {
            (self.of, self.failures, self.again, self.pending) = (held.hash(), 0, None, None);
        }
        let due = held.dates().life().due(&self.of).saturating_sub(own.wall.unix());
        let again = self.again.map(|at| at.saturating_duration_since(clock::now()));
        Duration::from_secs(due).max(again.unwrap_or_default())
    }

    /// Renews the certificate once. What comes is handed to `keep` before anything goes by it. Gives the
    /// certificate that the cell shows from now on; `None` where nothing came of it, of which the log has why.
    pub async fn attempt<K>(&mut self, keep: K) -> Option<(OwnCertificate, Renewal)>
    where
        K: AsyncFnOnce(Arc<NewPair>) -> Result<(), SecretFileError>,
    {
        match self.try_once(keep).await {
            Ok(done) => {
                self.running.own().set_renewed_by(RenewedBy::Server);
                Some(done)
            }
            Err(error) => {
                if matches!(error, Failed::Ask(AskError::NoIssuer)) {
                    self.running.own().set_renewed_by(RenewedBy::People);
                }
                self.failed(&error);
                None
            }
        }
    }

    async fn try_once<K>(&mut self, keep: K) -> Result<(OwnCertificate, Renewal), Failed>
    where
        K: AsyncFnOnce(Arc<NewPair>) -> Result<(), SecretFileError>,
    {
        let pair = match &self.pending {
            Some(pair) => Arc::clone(pair),
            None => {
                let pair = Arc::new(self.running.ask_certificate().await?);
                keep(Arc::clone(&pair)).await?;
                self.pending = Some(Arc::clone(&pair));
                pair
            }
        };
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.running.renew(pair.certificate().clone()).await {
                Ok(renewal) => return Ok((pair.certificate().clone(), renewal)),
                // The server may have gone on with it, and another certificate of its own may be on its way here.
                Err(error @ (RenewError::Server(_) | RenewError::Token)) => {
                    let Some(pause) = pauses.next() else { return Err(error.into()) };
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn failed(&mut self, error: &Failed) {
        self.failures = self.failures.saturating_add(1);
        let own = self.running.own();
        let (life, now) = (own.certificate().dates().life(), own.wall.unix());
        let wait = life.retry(now, self.failures, &self.of);
        self.again = clock::now().checked_add(wait);
        let (hours_left, again_s) = (life.not_after.saturating_sub(now) / 3600, wait.as_secs());
        let (cell, attempt, error) = (&own.name, self.failures, with_sources(error));
        // Nothing is wrong yet as long as there is time: a server may be down for a night.
        if life.is_late(now) {
            tracing::warn!(%cell, error, attempt, hours_left, again_s, "the certificate is not renewed and ends soon");
        } else {
            tracing::info!(%cell, error, attempt, hours_left, again_s, "the certificate is not renewed yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::identity::Identity;

    use super::*;
    use crate::{authority::Authority, certificate::CertDates};

    const NOW: u64 = 1_800_000_000;
    const LIFE: Duration = Duration::from_secs(1000);

    fn identity(uri: &str) -> Identity {
        Identity::from_uri(uri).unwrap()
    }

    #[test]
    fn g_52_nothing_is_used_that_is_not_ours_in_form_vouched_for_and_later() {
        let authority = Authority::create("study".parse().unwrap(), NOW).unwrap();
        let stranger = Authority::create("study".parse().unwrap(), NOW).unwrap();
        let roots = Roots::new(vec![authority.root().clone()]).unwrap();
        let ours = identity("cell://study/client/site-1?org=hq");
        let dates = |from: u64| CertDates::lasting(from, LIFE);
        let held = authority.issue(&ours, &[], dates(NOW)).unwrap();
        let held = OwnCertificate::try_from(&held).unwrap();
        let later = NOW + 700;
        let made = self_sign(&ours, later).unwrap();
        let request = made.chain().swap_remove(0);
        let by = |authority: &Authority, uri: &str, dates: CertDates| {
            vec![authority.certify(&request, &identity(uri), &[], dates).unwrap().der]
        };
        let accept = |chain: Vec<CertificateDer<'static>>| {
            accept(&roots, &held, chain, &made, later).map(|pair| pair.certificate().dates())
        };
        const OURS: &str = "cell://study/client/site-1?org=hq";
        let good = by(&authority, OURS, dates(later));
        assert_eq!(accept(good).unwrap().not_after, later + 1000);
        let another = by(&authority, "cell://study/client/site-2?org=hq", dates(later));
        assert!(matches!(accept(another), Err(AskError::Holder)), "another's name");
        let relay = by(&authority, "cell://study/relay/site-1?org=hq", dates(later));
        assert!(matches!(accept(relay), Err(AskError::Holder)), "another kind");
        let other = by(&authority, "cell://study/client/site-1?org=else", dates(later));
        assert!(matches!(accept(other), Err(AskError::Holder)), "another organisation");
        // A reply of before was for the key of then.
        let before = authority.issue(&ours, &[], dates(later)).unwrap();
        assert!(matches!(accept(before.chain()), Err(AskError::Pair(_))), "replayed");
        let strange = by(&stranger, OURS, dates(later));
        assert!(matches!(accept(strange), Err(AskError::Chain(_))), "another root");
        let rolled_back = by(&authority, OURS, dates(NOW));
        assert!(matches!(accept(rolled_back), Err(AskError::Dates)), "dates of before");
        let early = by(&authority, OURS, dates(later + 1000));
        assert!(matches!(accept(early), Err(AskError::Chain(_))), "it does not count yet");
        assert!(matches!(accept(Vec::new()), Err(AskError::Pair(_))), "nothing");
    }
}
