//! The words of a holder's books: terms, refusals, ends and the outcome.

use std::collections::{BTreeMap, BTreeSet};

use crate::{name::Fqcn, status::Status};

/// On which terms a transfer is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The project, for signatures.
    pub project: String,
    /// Whose receipts make it complete; `None` for all that the audience names. Of a job, whose cells are
    /// not known by name, nobody is expected unless they are named here; with nobody expected it is
    /// never complete.
    pub expected: Option<BTreeSet<Fqcn>>,
    /// How many of them are enough for the quorum; `None` for all.
    pub quorum: Option<usize>,
    /// Whether receipts must be signed by the receiver's leaf key, so that no relay can make one.
    pub signed: bool,
}

/// How it stands with one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its receipt says that the bytes are durable there, and they are the right ones.
    Stored {
        /// Which content.
        generation: u64,
        /// Whether its own key says so, or only the way that the receipt came.
        signed: bool,
    },
    /// It says that it has not got them, or did not want them.
    Failed(Status),
    /// Nothing was heard of it.
    Missing,
}

/// How a transfer has ended as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether enough expected receivers have the last content. Apart from the verdict.
    pub quorum_met: bool,
    /// The last content that was served.
    pub generation: u64,
    /// Expected receivers that have it.
    pub stored: usize,
    /// Expected receivers.
    pub expected: usize,
    /// Of every expected receiver, and of every other one that gave a receipt.
    pub ends: BTreeMap<Fqcn, End>,
}

/// Whether a transfer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every expected receiver has given a good receipt for the last content.
    Completed,
    /// Anything else.
    Failed,
}

/// What a receipt has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipted {
    /// The receiver has the bytes, as of now.
    Settled,
    /// It had said so before; it is told again that it counts, and nothing else happens.
    Again,
    /// It has the bytes; the outcome stands as it was settled before.
    Late,
    /// It says that it has not got them.
    Failed(Status),
}

/// Why a fetch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchRefusal {
    /// Another transfer.
    #[error("no transfer of this id is served here")]
    Unknown,
    /// The receiver is not in the audience.
    #[error("the transfer is for other receivers")]
    NotForThem,
    /// The holder has closed the books.
    #[error("the transfer has been closed")]
    Closed,
    /// The reference has expired.
    #[error("the reference has expired")]
    Expired,
    /// The receiver has bytes of another content.
    #[error("the source has changed")]
    SourceChanged,
    /// There is no such byte, or the receiver says that it has all and has not.
    #[error("the offset lies outside the transfer")]
    BadOffset,
    /// The nonce is empty or that of the fetch before.
    #[error("the nonce is empty or has been used")]
    BadNonce,
    /// No more books can be kept.
    #[error("too many receivers")]
    Full,
}

/// Why a receipt counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptRefusal {
    /// Of another transfer, or by a cell that has not fetched this one.
    #[error("the receipt is of another transfer, or by a cell that has not fetched it")]
    Foreign,
    /// Of a content, or for a fetch, that is no longer current.
    #[error("the receipt is for an earlier fetch or content")]
    Stale,
    /// The signature is not that of the receiver.
    #[error("the receiver has not signed the receipt")]
    BadSignature,
    /// A signature is asked for, and there is none.
    #[error("the receipt is not signed")]
    NotSigned,
    /// Nothing has been served to its end, so nobody can have it.
    #[error("the source has not been read to its end")]
    NotServed,
    /// These are not the bytes that are served.
    #[error("size or digest are not those of the source")]
    WrongDigest,
    /// The receiver has said before that it has the bytes.
    #[error("the receiver has given a receipt of success before")]
    Contradicts,
}

/// What was taken and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Fetches that were answered.
    pub fetches: u64,
    /// Fetches by cells outside the audience.
    pub foreign_fetches: u64,
    /// Fetches that were refused otherwise.
    pub refused_fetches: u64,
    /// Receipts that changed something.
    pub receipts: u64,
    /// Receipts that said again what was known.
    pub repeated: u64,
    /// Receipts of others.
    pub foreign: u64,
    /// Receipts for an earlier fetch or content.
    pub stale: u64,
    /// Receipts whose signature is missing or wrong.
    pub unsigned: u64,
    /// Receipts for other bytes.
    pub wrong_digest: u64,
    /// Receipts that say the opposite of an earlier one.
    pub contradictory: u64,
}

impl FetchRefusal {
    /// What the receiver is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Unknown => Status::TransferUnknown,
            Self::NotForThem => Status::Forbidden,
            Self::Closed | Self::Expired => Status::TransferExpired,
            Self::SourceChanged => Status::SourceChanged,
            Self::BadOffset | Self::BadNonce => Status::BadFrame,
            Self::Full => Status::Overloaded,
        }
    }
}

impl Counts {
    pub(super) fn refuse_fetch(&mut self, refusal: FetchRefusal) {
        match refusal {
            FetchRefusal::NotForThem => self.foreign_fetches += 1,
            FetchRefusal::Unknown
            | FetchRefusal::Closed
            | FetchRefusal::Expired
            | FetchRefusal::SourceChanged
            | FetchRefusal::BadOffset
            | FetchRefusal::BadNonce
            | FetchRefusal::Full => self.refused_fetches += 1,
        }
    }

    pub(super) fn refuse_receipt(&mut self, refusal: ReceiptRefusal) {
        match refusal {
            ReceiptRefusal::Foreign => self.foreign += 1,
            ReceiptRefusal::Stale => self.stale += 1,
            ReceiptRefusal::BadSignature | ReceiptRefusal::NotSigned => self.unsigned += 1,
            ReceiptRefusal::NotServed | ReceiptRefusal::WrongDigest => self.wrong_digest += 1,
            ReceiptRefusal::Contradicts => self.contradictory += 1,
        }
    }
}
