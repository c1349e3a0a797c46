//! Asking the holder of a name whether it lives, before somebody else is given the name.

use std::{collections::BTreeSet, time::Duration};

use actix::Context;
use cellbus_channels::{Reply, RequestError};
use cellbus_proto::{
    envelope::{Address, Incarnation, Lane},
    name::Fqcn,
    registry::{Claim, NotRegistered, ReturnedBy, Sign},
    status::Status,
};
use tokio::sync::oneshot;

use crate::{cell::Cell, clock};

/// Time that a holder has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The names whose holders are being asked, each by one candidate.
#[derive(Debug, Default)]
pub(super) struct Probing(BTreeSet<Fqcn>);

impl Probing {
    /// Holders that are asked at once.
    const MAX: usize = 256;

    /// Whether the holder of `name` may be asked now; then it counts until [`Self::end`].
    fn begin(&mut self, name: &Fqcn) -> bool {
        self.0.len() < Self::MAX && self.0.insert(name.clone())
    }

    pub(super) fn end(&mut self, name: &Fqcn) {
        self.0.remove(name);
    }
}

impl Cell {
    /// Whether a process can have `name`, or somebody has to be asked first.
    pub(super) fn claim(
        &mut self,
        name: &Fqcn,
        incarnation: Incarnation,
        leaf: &[u8; 32],
    ) -> Result<Claim, Status> {
        let claim = self.registry.claim(clock::now(), name, incarnation, leaf);
        claim.map_err(|not| self.not_registered(name, not))
    }

    /// The code for a refusal; the first of those that only a person can end is said aloud.
    pub(super) fn not_registered(&self, name: &Fqcn, not: NotRegistered) -> Status {
        if not == (NotRegistered::TakesTurns { alert: true }) {
            tracing::warn!(
                cell = %self.own.name, peer = %name, code = Status::DuplicateName.code(),
                "two living processes take turns with a name; a former holder of it is refused"
            );
        }
        not.into()
    }

    /// Asks `holder`, a start of `name`, whether it lives, and gives it back if it does not. The caller
    /// ends the probing when the answer is there.
    pub(super) fn ask_holder(
        &mut self,
        name: &Fqcn,
        holder: Incarnation,
        ctx: &mut Context<Self>,
    ) -> Result<impl Future<Output = Result<Incarnation, Status>> + 'static, Status> {
        if !self.registrar.probing.begin(name) {
            return Err(Status::Overloaded);
        }
        let asked = self.ping(Address::exact(name.clone(), holder), Lane::Control, PATIENCE, ctx);
        let (own, name) = (self.own.name.clone(), name.clone());
        Ok(async move {
            let sign = sign(&own, &name, asked.await);
            tracing::info!(cell = %own, peer = %name, ?sign, "the holder of a name was asked");
            match sign {
                Sign::Silent => Ok(holder),
                Sign::Lives => Err(Status::DuplicateName),
                Sign::Unclear => Err(Status::Overloaded),
            }
        })
    }
}

fn sign(
    own: &Fqcn,
    holder: &Fqcn,
    answer: Result<Result<Reply, RequestError>, oneshot::error::RecvError>,
) -> Sign {
    match answer {
        Ok(Ok(_)) => Sign::Lives,
        Ok(Err(RequestError::Returned { by, status, .. })) => {
            let by = if by == *holder {
                ReturnedBy::Holder
            } else if by == *own {
                ReturnedBy::Asker
            } else {
                ReturnedBy::Between
            };
            Sign::of_return(by, status)
        }
        Ok(Err(RequestError::TimedOut { .. })) => Sign::Silent,
        Ok(Err(_)) | Err(_) => Sign::Unclear,
    }
}
