//! How something is served, fetched and sent.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn, Segment},
    transfer::{Audience, ContentKey, Digest, PullSettings, TransferId},
};

use super::random;

/// For whom something is served, and how.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub(super) target: ChannelTopic,
    pub(super) audience: Audience,
    pub(super) content_type: Option<String>,
    pub(super) headers: Bytes,
    pub(super) lifetime: Duration,
    pub(super) id: Option<TransferId>,
    pub(super) generation: u64,
    pub(super) digest: DigestFrom,
    pub(super) expected: Option<BTreeSet<Fqcn>>,
    pub(super) quorum: Option<usize>,
    pub(super) is_signed: bool,
    pub(super) rate: Option<u64>,
    pub(super) patience: Duration,
    pub(super) attendance: Option<Duration>,
    pub(super) sealing: Sealing,
}

#[derive(Clone, Debug)]
pub(super) enum Sealing {
    Not,
    NewKey,
    With(ContentKey),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum DigestFrom {
    Reading,
    OnTheWay,
    Caller(Digest),
}

impl Sealing {
    /// The key to seal with, where it is to be sealed.
    pub(super) fn into_key(self) -> Option<ContentKey> {
        match self {
            Self::Not => None,
            Self::NewKey => {
                let mut key = [0; 32];
                key[..16].copy_from_slice(&random());
                key[16..].copy_from_slice(&random());
                Some(ContentKey::from_bytes(key))
            }
            Self::With(key) => Some(key),
        }
    }
}

impl ServeOptions {
    /// For these cells, at most 512. The rules of the project for `target` decide on every fetch.
    #[must_use]
    pub fn new(target: ChannelTopic, receivers: impl IntoIterator<Item = Fqcn>) -> Self {
        Self::for_audience(target, Audience::Receivers(receivers.into_iter().collect()))
    }

    /// For the cells of one job, whoever they are. Nobody is expected, see [`Self::expect`].
    #[must_use]
    pub fn for_job(target: ChannelTopic, job: Segment) -> Self {
        Self::for_audience(target, Audience::Job(job))
    }

    fn for_audience(target: ChannelTopic, audience: Audience) -> Self {
        Self {
            target,
            audience,
            content_type: None,
            headers: Bytes::new(),
            lifetime: Duration::from_secs(24 * 3600),
            id: None,
            generation: 1,
            digest: DigestFrom::Reading,
            expected: None,
            quorum: None,
            is_signed: true,
            rate: None,
            patience: Duration::from_secs(300),
            attendance: None,
            sealing: Sealing::Not,
        }
    }

    /// Media type of the bytes; at most 128 printable bytes. Default: none.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.to_owned());
        self
    }

    /// The application's own, opaque to every cell; at most 4 KiB. Default: none.
    #[must_use]
    pub fn headers(mut self, headers: impl Into<Bytes>) -> Self {
        self.headers = headers.into();
        self
    }

    /// How long the reference may be used, in whole seconds. Default: a day.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Serves the same transfer again after a restart, so that receivers go on where they are. The source has to
    /// be the same too; one in memory says which one it is by `generation`, at least 1. Default: a new one.
    #[must_use]
    pub fn again(mut self, id: TransferId, generation: u64) -> Self {
        (self.id, self.generation) = (Some(id), generation.max(1));
        self
    }

    /// The digest of the source, where it is known already; sealed, that of what travels, which only somebody
    /// who has served it before knows. Default: the source is read once for it, before
    /// anybody can fetch.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digest = DigestFrom::Caller(digest);
        self
    }

    /// The digest is made while the first receiver gets the bytes, and is not in the reference. What then
    /// vouches for the bytes is the way that they come, not the signature of the holder. Default: it is in
    /// the reference, but for a reader, of which it is not known.
    #[must_use]
    pub fn digest_on_the_way(mut self) -> Self {
        self.digest = DigestFrom::OnTheWay;
        self
    }

    /// Whose receipts make it complete. Default: all that it is for; nobody of a job, which is never complete.
    #[must_use]
    pub fn expect(mut self, receivers: impl IntoIterator<Item = Fqcn>) -> Self {
        self.expected = Some(receivers.into_iter().collect());
        self
    }

    /// How many of the expected receivers are enough for [`Outcome::quorum_met`](super::Outcome::quorum_met).
    /// Default: all.
    #[must_use]
    pub fn quorum(mut self, receivers: usize) -> Self {
        self.quorum = Some(receivers);
        self
    }

    /// Takes receipts that the receiver has not signed. Default: its own key must say that it has the bytes.
    #[must_use]
    pub fn unsigned_receipts(mut self) -> Self {
        self.is_signed = false;
        self
    }

    /// Bytes a second at most, to all receivers together. Default: as fast as they take them.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second.max(1));
        self
    }

    /// No cell on the way can read it: the source is sealed as it is read, with a key that is drawn for it. With
    /// [`Transfers::send`](super::Transfers::send) each receiver is given the key in a sealed message; otherwise it
    /// is [`Served::key`](super::Served::key). Names, sizes and headers can be read. Default: cells on the way can
    /// read it.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.sealing = Sealing::NewKey;
        self
    }

    /// As [`sealed`](Self::sealed), with a key from before: to serve the same transfer [`again`](Self::again).
    #[must_use]
    pub fn sealed_with(mut self, key: ContentKey) -> Self {
        self.sealing = Sealing::With(key);
        self
    }

    /// How long a receiver may take no byte. One that is being sent to is let go of then, and may come back; with
    /// [`Transfers::send`](super::Transfers::send) one that was not heard of for so long has failed. Default:
    /// 5 minutes.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long a receiver that has not taken the offer yet is waited for: it is not there, or nobody receives at
    /// it. Default: as long as [`Self::patience`].
    #[must_use]
    pub fn attendance(mut self, attendance: Duration) -> Self {
        self.attendance = Some(attendance);
        self
    }
}

/// How something is fetched.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    pub(super) key: Option<ContentKey>,
    pub(super) pull: PullSettings,
    pub(super) priority: u8,
    pub(super) rate: Option<u64>,
}

impl FetchOptions {
    /// What opens a sealed transfer. A transfer that is not sealed is refused then. Default: none, and of what is
    /// offered, the key in the offer.
    #[must_use]
    pub fn key(mut self, key: ContentKey) -> Self {
        self.key = Some(key);
        self
    }

    /// After this long without a byte an attempt is given up and made again. Default: 30 s.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.pull.idle = idle;
        self
    }

    /// After this long without progress the fetch fails with `TRANSFER_STALLED`. There is no limit on the whole.
    /// Default: 5 minutes.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.pull.patience = patience;
        self
    }

    /// Larger goes first where fetches wait for one another. Default: 0.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Bytes a second at most. Default: as fast as they come.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second.max(1));
        self
    }
}
