//! Transfers: payloads of any size, pulled by their receivers, resumed after any loss, and settled once.
//!
//! A *holder* hands out a signed [`Reference`]. Each *receiver* runs a [`Pull`]: it fetches over an
//! admitted request whose stream stays open, asks again from where it is when that is lost, verifies
//! the digest, makes the bytes durable and only then gives a [`Receipt`]. The holder's [`Ledger`]
//! decides who may fetch, takes one receipt of each receiver and says how it ended. A relay on the way
//! may let several receivers share one copy: [`Share`].
//!
//! `docs/PROTOCOL.md` is normative for what has bytes; vectors lie in `tests/vectors/transfer`.
//!
//! ```text
//!  receiver                              holder
//!     |  request: Fetch {offset, nonce}    |
//!     |----------------------------------->|  Ledger::handle_fetch
//!     |                    reply: Answer   |
//!     |<-----------------------------------|
//!     |  chunks .. 0, trailer {digest}     |
//!     |<-----------------------------------|
//!     |  (digest verified, sink durable)   |
//!     |  receipt                           |
//!     |----------------------------------->|  Ledger::handle_receipt
//!     |                       1: settled   |
//!     |<-----------------------------------|
//! ```

mod body;
mod chunk;
mod digest;
mod ledger;
mod part;
mod progress;
mod pull;
mod reference;
mod seal;
mod share;
mod turns;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use self::{
    body::{Answer, Fetch, Nonce, OfferReply, Receipt, Trailer},
    chunk::{CHUNK_MAX, Piece, PieceReader, ReceiptReader, Settlement, chunk_head, trailer_bytes},
    digest::{Digest, Digester, NotHex, NotKept},
    ledger::{
        Counts, End, FetchRefusal, Ledger, Outcome, ReceiptRefusal, Receipted, Terms, Verdict,
    },
    part::{DamagedPart, FileMark, PartState, Stage},
    progress::{Meter, Progress},
    pull::{Pull, PullEnd, PullSettings, Step, Told, Violation, not_ready},
    reference::{
        Audience, BadReference, Part, Receiver, Reference, SignedReference, TransferId, Unfit,
    },
    seal::{
        ContentKey, KeyError, Layout, NotOpened, Opener, OpenerMark, PieceId, SEALED_CONTENT,
        SEALED_PIECE, SEALED_TAG, Seal, SealedOffer, Sealer, Spot, content_len, sealed_len,
    },
    share::{Followed, Next, Role, Share, ShareKey, ShareSettings, SpoolId, Spooled},
    turns::{Turn, TurnId, Turns},
};

/// Content type of a message whose payload is a [`SignedReference`].
pub const CONTENT_TYPE: &str = "application/vnd.cellbus.transfer";
/// Content type of a message whose payload is a [`SealedOffer`].
pub const SEALED_CONTENT_TYPE: &str = "application/vnd.cellbus.sealed-transfer";
/// Bytes in the largest transfer: what a file offset can say.
pub const SIZE_MAX: u64 = i64::MAX as u64;
