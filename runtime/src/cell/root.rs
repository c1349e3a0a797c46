//! What only the server has: the key that signs session tokens, and the challenges of cells behind
//! relays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::{AsyncContext, Context};
use cellbus_proto::{
    challenge::ChallengeBook,
    codec::{
        Octets,
        body::{Blob, SignedServerKey},
    },
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    status::Status,
    token::{Claims, ServerKey, Token, TokenSigner},
    transcript::{Purpose, Transcript, sha256},
};
use zeroize::Zeroizing;

use super::Cell;
use crate::{
    filter::{SetServerKey, Sweep},
    own::{Own, Shown},
    tls::SignError,
};

/// The server's own state.
#[derive(Debug)]
pub struct Root {
    signer: TokenSigner,
    announcement: SignedServerKey,
    pub(super) challenges: ChallengeBook<(Fqcn, Fqcn)>,
    jobs: JobTable,
    /// Cells that have quit within this second, and the latest time of issue that was revoked with them.
    quits: BTreeMap<Fqcn, u64>,
}

/// The job cells that may register: the parent, and the job. Outlives a restart of the server's actors, as
/// the jobs do.
#[derive(Clone, Debug, Default)]
pub struct JobTable(Arc<Mutex<BTreeSet<(Fqcn, Segment)>>>);

impl JobTable {
    /// Lets the cell of `job` register below `at` or, when the job has ended, no longer.
    pub fn allow(&self, at: Fqcn, job: Segment, allow: bool) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if allow {
            jobs.insert((at, job));
        } else {
            jobs.remove(&(at, job));
        }
    }

    /// Forgets the jobs at `at`: their cells register no more.
    pub(crate) fn forget_at(&self, at: &Fqcn) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|(site, _)| site != at);
    }

    fn contains(&self, at: &Fqcn, job: &Segment) -> bool {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.contains(&(at.clone(), job.clone()))
    }
}

/// Why the server cannot start issuing tokens.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[from] getrandom::Error),
    /// The leaf key did not sign.
    #[error("signing the token key")]
    Sign(#[from] SignError),
}

/// What is signed to announce a token key.
pub(crate) fn announcement_signable(
    project: &str,
    announcement: &SignedServerKey,
    leaf: &[u8; 32],
) -> Vec<u8> {
    Transcript::new(Purpose::TokenKey)
        .field(project.as_bytes())
        .field(announcement.server.as_str().as_bytes())
        .field(&announcement.incarnation.0.to_be_bytes())
        .field(&announcement.incarnation.1.to_be_bytes())
        .field(&announcement.key.0)
        .field(leaf)
        .finish()
}

fn announce(own: &Own, shown: &Shown, key: [u8; 32]) -> Result<SignedServerKey, RootError> {
    let chain = shown.certificate.chain();
    let mut announcement = SignedServerKey {
        server: own.name.clone(),
        incarnation: own.incarnation.into(),
        key: Octets(key),
        chain: chain.iter().map(|der| Blob(der.to_vec())).collect(),
        signature: Blob(Vec::new()),
    };
    let signable = announcement_signable(
        own.identity.project.as_str(),
        &announcement,
        &sha256(chain.first().map_or(&[][..], |leaf| leaf)),
    );
    announcement.signature = Blob(shown.signer.sign(&signable)?);
    Ok(announcement)
}

impl Root {
    /// Makes the token key of this incarnation; it lives in memory only.
    ///
    /// # Errors
    /// [`RootError`] when there is no randomness or the leaf key does not sign.
    pub fn new(own: &Own, challenge_life: Duration, jobs: JobTable) -> Result<Self, RootError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice())?;
        let signer = TokenSigner::new(&secret);
        let announcement = announce(own, &own.shown(), signer.public_key())?;
        let challenges = ChallengeBook::new(challenge_life, ChallengeBook::<(Fqcn, Fqcn)>::MAX);
        Ok(Self { signer, announcement, challenges, jobs, quits: BTreeMap::new() })
    }

    /// Announces the token key from now on by another certificate of the server.
    pub(super) fn announce_by(&mut self, own: &Own, shown: &Shown) -> Result<(), RootError> {
        self.announcement = announce(own, shown, self.signer.public_key())?;
        Ok(())
    }

    pub(super) fn announcement(&self) -> SignedServerKey {
        self.announcement.clone()
    }

    /// Notes that `name` has quit, and gives the time up to which what was issued to it is revoked.
    pub(super) fn note_quit(&mut self, name: &Fqcn, now: u64) -> u64 {
        let until = self.time_of_issue(name, now);
        self.quits.retain(|_, at| *at >= now);
        self.quits.insert(name.clone(), until);
        until
    }

    /// What a token says that is issued now. Who quits and comes back within a second must not be given
    /// one that is revoked already.
    fn time_of_issue(&self, name: &Fqcn, now: u64) -> u64 {
        self.quits.get(name).map_or(now, |revoked| now.max(revoked + 1))
    }

    /// Forgets the jobs at `at`.
    pub(super) fn forget_jobs_at(&self, at: &Fqcn) {
        self.jobs.forget_at(at);
    }

    /// Whether `job` runs at `at`, so that its cell may register there.
    pub(super) fn runs(&self, at: &Fqcn, job: &Segment) -> bool {
        self.jobs.contains(at, job)
    }

    /// Issues a token.
    ///
    /// # Errors
    /// [`Status::Overloaded`] when the operating system gives no random number for it.
    pub(super) fn issue(
        &self,
        own: &Own,
        subject: &Subject<'_>,
        life_s: u64,
    ) -> Result<Token, Status> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Status::Overloaded)?;
        let issued = self.time_of_issue(subject.name, own.wall.unix());
        Ok(self.signer.sign(&Claims {
            version: Claims::VERSION,
            issuer: own.name.clone(),
            project: own.identity.project.clone(),
            subject: subject.name.clone(),
            kind: subject.identity.kind,
            org: subject.identity.org.clone(),
            via: subject.via.clone(),
            server_counter: own.incarnation.counter,
            server_nonce: own.incarnation.nonce,
            issued,
            expires: issued + life_s,
            id: Octets(id),
            leaf: Octets(*subject.leaf),
            job: (subject.identity.kind == CellKind::Job)
                .then(|| super::base_segment(subject.name)),
        }))
    }
}

/// Whom a token is for.
pub(super) struct Subject<'a> {
    pub(super) name: &'a Fqcn,
    pub(super) identity: &'a Identity,
    pub(super) via: &'a Fqcn,
    pub(super) leaf: &'a [u8; 32],
}

impl Cell {
    /// The server registers itself, and keeps itself registered.
    pub(super) fn start_root(&mut self, ctx: &mut Context<Self>) {
        let Some(root) = &self.root else { return };
        self.to_filter(SetServerKey(ServerKey {
            server: self.own.name.clone(),
            incarnation: self.own.incarnation,
            key: root.signer.public_key(),
        }));
        self.renew_own_token();
        let every = Duration::from_secs((self.settings.token_life_s / 3).max(1));
        ctx.run_interval(every, |cell, _| {
            cell.renew_own_token();
            let longest_life_s = cell.settings.token_life_s;
            cell.to_filter(Sweep { longest_life_s });
        });
    }

    pub(super) fn renew_own_token(&mut self) {
        let Some(root) = &self.root else { return };
        let leaf = self.own.certificate().hash();
        let subject = Subject {
            name: &self.own.name,
            identity: &self.own.identity,
            via: &self.own.name,
            leaf: &leaf,
        };
        match root.issue(&self.own, &subject, self.settings.token_life_s) {
            Ok(token) => self.own.set_token(Some(token)),
            Err(status) => tracing::error!(code = status.code(), "no token for the server itself"),
        }
    }
}
