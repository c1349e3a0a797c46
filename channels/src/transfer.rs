//! Payloads of any size: served by whoever has them, pulled by whoever may have them, and settled once.
//!
//! A transfer is pulled by each of its receivers over a conduit, see [`crate::conduit`]. What decides, and
//! what is believed, is in `cellbus_proto::transfer`; here is what reads, writes and waits.
//! `docs/TRANSFERS.md` says what is promised.

mod books;
mod carried;
mod engine;
mod error;
mod fetch;
mod gather;
mod mean;
mod options;
mod pace;
mod progress;
mod receive;
mod running;
mod send;
mod serve;
mod shelf;
mod sink;
mod source;
mod stream;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Instant};

use cellbus_proto::codec::body::Blob;
pub use cellbus_proto::transfer::{
    Audience, CONTENT_TYPE, ContentKey, Counts, Digest, End, KeyError, NotOpened, Outcome, Part,
    Progress, Reference, SEALED_CONTENT_TYPE, Seal, SignedReference, Told, TransferId, Unfit,
    Verdict,
};

pub(crate) use self::send::{AGAIN_MAX, AGAIN_MIN, DECIDE, may_pass};
pub use self::{
    error::{FetchError, ServeError, SinkError, SourceError},
    fetch::{Canceller, Fetched, Fetching},
    gather::{Combine, Gathering, Hold, PIECE},
    mean::{MEAN_CONTENT_TYPE, Mean, Numbers},
    options::{FetchOptions, ServeOptions},
    progress::{FetchProgress, ServeProgress},
    receive::{Offer, Receive, Receiving, Taken},
    running::Running,
    send::Delivering,
    serve::Served,
    shelf::Shelf,
    sink::{Sink, parts::FoundPart},
    source::Source,
};
use crate::bus::Bus;

/// The transfers of one cell: what [`Bus::transfers`] gives. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transfers {
    bus: Bus,
}

impl Transfers {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Fetches into files in `directory` that were not finished, from before a restart.
    ///
    /// # Errors
    /// [`SinkError`] when the directory cannot be listed.
    pub async fn parts_in(&self, directory: &Path) -> Result<Vec<FoundPart>, SinkError> {
        let directory = directory.to_owned();
        let found = tokio::task::spawn_blocking(move || sink::parts::find(&directory)).await;
        found.unwrap_or(Err(SinkError::BrokenOff))
    }
}

/// Now, by the clock that only goes forward. Under a paused runtime it stands still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Bytes that nobody can guess.
fn random() -> [u8; 16] {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system gives no random bytes: {error}"),
        }
    }
    bytes
}
