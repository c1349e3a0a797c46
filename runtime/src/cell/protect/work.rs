//! The work itself: one task per cell, which does a few messages at a time, in order.
//!
//! Where something is to be sealed or opened it is done on a thread that may block. Verifying one signature
//! takes less than handing it over.

use std::sync::Arc;

use actix::Addr;
use cellbus_proto::{
    admission::Admitted,
    envelope::{Envelope, Flags, Kind, cost},
    status::Status,
};
use tokio::sync::mpsc;

use super::{Worked, claims};
use crate::{
    cell::Cell,
    own::Own,
    seal::{Leaf, Unsealed, message},
    seam::post,
};

/// Something to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Open a sealed message.
    Open(Box<Admitted>),
    /// Verify the proof of a control message.
    Verify(Box<Admitted>),
    /// Seal an answer.
    Seal { answer: Box<Envelope>, leaf: Arc<Leaf> },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Found {
    /// What was in the message, or why it is refused.
    Opened(Box<Admitted>, Result<Unsealed, Status>),
    /// When the message was signed, or why it is refused.
    Verified(Box<Admitted>, Result<u64, Status>),
    /// What is to be sent.
    Sealed(Box<Envelope>),
}

/// Messages that are worked on at a time.
const BATCH: usize = 64;

impl Work {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Open(admitted) | Self::Verify(admitted) => cost(admitted.envelope()),
            // Counted where it was made.
            Self::Seal { .. } => 0,
        }
    }

    /// Whether the cell counts it as held.
    fn held(&self) -> usize {
        usize::from(!matches!(self, Self::Seal { .. }))
    }

    fn is_light(&self) -> bool {
        matches!(self, Self::Verify(_))
    }

    fn done(self, own: &Own) -> Found {
        match self {
            Self::Open(admitted) => {
                let opened = claims(&admitted)
                    .and_then(|claims| message::open(own, admitted.envelope(), claims));
                Found::Opened(admitted, opened)
            }
            Self::Verify(admitted) => {
                let verified = claims(&admitted)
                    .and_then(|claims| message::verify(own, admitted.envelope(), claims));
                Found::Verified(admitted, verified)
            }
            Self::Seal { mut answer, leaf } => {
                match message::seal(own, &answer.header, &answer.payload, &leaf) {
                    Ok(payload) => answer.payload = payload,
                    Err(status) => not_sealed(own, &mut answer, status),
                }
                Found::Sealed(answer)
            }
        }
    }
}

/// The answer cannot be given. Its requester learns that, and nothing of what it was.
fn not_sealed(own: &Own, answer: &mut Envelope, status: Status) {
    tracing::warn!(cell = %own.name, code = status.code(), "an answer cannot be sealed");
    let (Kind::Reply { to } | Kind::Return { to, .. }) = answer.header.kind else { return };
    let by = own.name.clone();
    answer.header.kind = Kind::Return { to, status: Status::HandlerGone, by };
    answer.header.flags = Flags::default();
    answer.payload.clear();
}

/// Works until the cell has ended.
pub(super) async fn run(
    own: Arc<Own>,
    cell: Addr<Cell>,
    mut waiting: mpsc::UnboundedReceiver<Work>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let work = std::mem::take(&mut batch);
        let held = work.iter().fold((0, 0), |sum, work| (sum.0 + work.held(), sum.1 + work.size()));
        let is_light = work.iter().all(Work::is_light);
        let shared = Arc::clone(&own);
        let all = move || work.into_iter().map(|work| work.done(&shared)).collect();
        let found = if is_light {
            all()
        } else {
            // Fails only when the work panics, or the runtime ends.
            tokio::task::spawn_blocking(all).await.unwrap_or_else(|error| {
                tracing::error!(cell = %own.name, %error, "protected messages were lost");
                Vec::new()
            })
        };
        if post(&cell, Worked { found, held }).is_err() {
            return;
        }
    }
}
