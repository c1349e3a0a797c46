//! Messages that differ in nothing but their number and payload, put into one by the cell that sends them.
//!
//! | bundle of | flags beside the messages' own | number of the i-th |
//! |---|---|---|
//! | publishes | [`Flags::BATCH`] | that of the first |
//! | requests | [`Flags::BATCH`], [`Flags::MORE`] | that of the first, plus i |
//! | replies | [`Flags::BATCH`] | answers the request that the first does, plus i |
//!
//! What is decided on a bundle is decided once, and every cell on the way has one message to carry. Its
//! destination takes each message on its own, in order, and answers each request on its own.

use std::{mem, sync::Arc};

use bytes::Bytes;

use crate::{
    batch,
    envelope::{Common, Envelope, Flags, Header, Kind},
};

/// Bytes in the longest payload that is put with others.
pub const ITEM_MAX: usize = 4 << 10;
/// Bytes that the payloads in one bundle take together, lengths included.
pub const BYTES_MAX: usize = 32 << 10;
/// The same where somebody waits: as much as a burst of datagrams carries, so that what came in front is at
/// work while the rest is still on its way.
pub const AWAITED_BYTES_MAX: usize = 16 << 10;

/// Bytes that an item takes beside its own.
const LENGTH: usize = 4;
/// What is no message of a bundle, and no bundle.
const ALONE: [Flags; 3] = [Flags::SEALED, Flags::RETRY, Flags::PROBE];

/// Messages on their way into bundles: each is put to those before it where they go together, and their order
/// stays.
#[derive(Debug, Default)]
pub struct Joiner {
    joined: Vec<Envelope>,
    first: Option<Envelope>,
    /// The payloads that go together with the first one's, that among them; none while it is alone.
    run: Option<batch::Writer>,
}

impl Joiner {
    /// Takes a message.
    ///
    /// A bundle's payload has at most `payload_max` bytes, and at most [`BYTES_MAX`], or [`AWAITED_BYTES_MAX`], and
    /// what says how many there are. `bundled` gives what a bundle has in common with others: that of its messages
    /// with these flags too.
    pub fn push(
        &mut self,
        next: Envelope,
        payload_max: usize,
        bundled: impl FnMut(&Arc<Common>, Flags) -> Arc<Common>,
    ) {
        if let Some(first) = &mut self.first {
            let room = room(&first.header.kind, payload_max);
            let (count, before) = match &self.run {
                Some(run) => (run.count(), run.bytes()),
                None => (1, LENGTH + first.payload.len()),
            };
            let goes_with = count + 1 < batch::ITEMS_MAX
                && before + LENGTH + next.payload.len() <= room
                && goes_together(&first.header, count, &next)
                && (self.run.is_some() || may_join(first));
            if goes_with {
                let run = self.run.get_or_insert_with(|| {
                    let mut run = batch::Writer::new(room);
                    run.put(&mem::take(&mut first.payload));
                    run
                });
                return run.put(&next.payload);
            }
        }
        self.close(bundled);
        self.first = Some(next);
    }

    /// Takes the payload of a publish that has nothing beside it, where it goes together with what came before: then
    /// no header is made for it, and it needs no number. Whether it does.
    #[must_use]
    pub fn put(
        &mut self,
        common: &Arc<Common>,
        budget_ms: u32,
        payload: &[u8],
        payload_max: usize,
    ) -> bool {
        let (Some(first), Some(run)) = (&self.first, &mut self.run) else { return false };
        let goes_with = first.header.kind == Kind::Publish
            && Arc::ptr_eq(&first.header.common, common)
            && first.header.budget_ms == budget_ms
            && payload.len() <= ITEM_MAX
            && run.bytes() + LENGTH + payload.len() <= room(&Kind::Publish, payload_max)
            && run.count() + 1 < batch::ITEMS_MAX;
        if goes_with {
            run.put(payload);
        }
        goes_with
    }

    /// Everything that was taken, and nothing is left.
    #[must_use]
    pub fn finish(
        &mut self,
        bundled: impl FnMut(&Arc<Common>, Flags) -> Arc<Common>,
    ) -> Vec<Envelope> {
        self.close(bundled);
        mem::take(&mut self.joined)
    }

    fn close(&mut self, mut bundled: impl FnMut(&Arc<Common>, Flags) -> Arc<Common>) {
        let Some(mut first) = self.first.take() else { return };
        if let Some(run) = self.run.take() {
            first.header.common = bundled(&first.header.common, flags_of(&first.header.kind));
            first.payload = run.finish();
        }
        self.joined.push(first);
    }
}

/// The messages, with those that follow one another and go together put into bundles: as [`Joiner::push`] does
/// with each.
#[must_use]
pub fn join(
    messages: Vec<Envelope>,
    payload_max: usize,
    mut bundled: impl FnMut(&Arc<Common>, Flags) -> Arc<Common>,
) -> Vec<Envelope> {
    let mut joiner = Joiner::default();
    joiner.joined.reserve(messages.len().min(64));
    messages.into_iter().for_each(|next| joiner.push(next, payload_max, &mut bundled));
    joiner.finish(bundled)
}

/// Whether a message is several.
#[must_use]
pub fn is_bundle(header: &Header) -> bool {
    let flags = header.flags;
    let says_so = match header.kind {
        Kind::Publish => flags.contains(Flags::BATCH) && !flags.contains(Flags::RECEIPT),
        Kind::Request => flags.contains(Flags::BATCH.with(Flags::MORE)),
        Kind::Reply { .. } => flags.contains(Flags::BATCH) && !flags.contains(Flags::MORE),
        Kind::Return { .. } => false,
    };
    says_so && is_free(flags)
}

/// How many messages one says that it is; 1 for what is no bundle. For counting: nothing is sized by it.
#[must_use]
pub fn count(header: &Header, payload: &[u8]) -> u64 {
    match payload.first_chunk::<4>() {
        Some(count) if is_bundle(header) => {
            u64::from(u32::from_be_bytes(*count)).clamp(1, batch::ITEMS_MAX as u64)
        }
        Some(_) | None => 1,
    }
}

/// The lengths of the payloads that a message has: one for each message of a bundle, its own for all else.
#[must_use]
pub fn lengths(header: &Header, payload: &Bytes) -> Vec<usize> {
    let items = is_bundle(header).then(|| batch::decode(payload.clone()).ok()).flatten();
    items.map_or_else(|| vec![payload.len()], |items| items.iter().map(Bytes::len).collect())
}

/// The messages that one is; itself where it is no bundle, or says so and is none.
#[must_use]
pub fn split(whole: Envelope) -> Vec<Envelope> {
    let items =
        is_bundle(&whole.header).then(|| batch::decode(whole.payload.clone()).ok()).flatten();
    let Some(items) = items else { return vec![whole] };
    let flags = whole.header.flags.without(flags_of(&whole.header.kind));
    let common = Arc::new(Common { flags, ..Common::clone(&whole.header.common) });
    let one = |(place, payload)| {
        let mut header = Header { common: Arc::clone(&common), ..whole.header.clone() };
        number(&mut header, place);
        Envelope { header, payload }
    };
    items.into_iter().enumerate().map(one).collect()
}

/// Gives the header of a bundle the number of its message at `place`.
pub fn number(header: &mut Header, place: usize) {
    let place = place as u64;
    match &mut header.kind {
        Kind::Publish | Kind::Return { .. } => {}
        Kind::Request => header.sequence = header.sequence.saturating_add(place),
        Kind::Reply { to } => *to = to.saturating_add(place),
    }
}

/// Whether `next` continues what `first` begins, of which there are `count` messages already.
fn goes_together(first: &Header, count: usize, next: &Envelope) -> bool {
    let count = count as u64;
    let continues = match (&first.kind, &next.header.kind) {
        (Kind::Publish, Kind::Publish) => true,
        (Kind::Request, Kind::Request) => {
            first.sequence.checked_add(count) == Some(next.header.sequence)
        }
        (Kind::Reply { to: first }, Kind::Reply { to: next }) => {
            first.checked_add(count) == Some(*next)
        }
        _ => false,
    };
    continues
        && Arc::ptr_eq(&first.common, &next.header.common)
        && next.header.budget_ms == first.budget_ms
        && next.header.extras.is_none()
        && next.payload.len() <= ITEM_MAX
}

/// Whether others can be put to a message. What was put to it already has passed this.
fn may_join(first: &Envelope) -> bool {
    const OTHERS: [Flags; 3] = [Flags::RECEIPT, Flags::MORE, Flags::BATCH];
    let header = &first.header;
    !matches!(header.kind, Kind::Return { .. })
        && header.extras.is_none()
        && first.payload.len() <= ITEM_MAX
        && header.target.system().is_none()
        && is_free(header.flags)
        && !OTHERS.iter().any(|flag| header.flags.contains(*flag))
}

fn is_free(flags: Flags) -> bool {
    !ALONE.iter().any(|flag| flags.contains(*flag))
}

/// The flags that make a bundle of such messages.
fn flags_of(kind: &Kind) -> Flags {
    match kind {
        Kind::Request => Flags::BATCH.with(Flags::MORE),
        Kind::Publish | Kind::Reply { .. } | Kind::Return { .. } => Flags::BATCH,
    }
}

/// Bytes that the payloads in a bundle of such messages may take together, lengths included.
fn room(kind: &Kind, payload_max: usize) -> usize {
    let most = if *kind == Kind::Publish { BYTES_MAX } else { AWAITED_BYTES_MAX };
    payload_max.saturating_sub(LENGTH).min(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        envelope::{Address, Incarnation, Lane},
        status::Status,
    };

    fn common(name: &str, flags: Flags) -> Arc<Common> {
        let incarnation = Incarnation { counter: 1, nonce: 2 };
        Arc::new(Common {
            origin: Address::exact("site-1".parse().unwrap(), incarnation),
            destination: Address::any(name.parse().unwrap()),
            target: "notes/any".parse().unwrap(),
            token: None,
            lane: Lane::Interactive,
            flags,
        })
    }

    fn publish(common: &Arc<Common>, sequence: u64, payload: &[u8]) -> Envelope {
        let header = Header {
            kind: Kind::Publish,
            sequence,
            common: Arc::clone(common),
            budget_ms: 1000,
            hops_left: 0,
            extras: None,
        };
        Envelope { header, payload: Bytes::copy_from_slice(payload) }
    }

    fn bundled(common: &Arc<Common>, flags: Flags) -> Arc<Common> {
        Arc::new(Common { flags: common.flags.with(flags), ..Common::clone(common) })
    }

    fn request(common: &Arc<Common>, sequence: u64, payload: &[u8]) -> Envelope {
        let mut one = publish(common, sequence, payload);
        one.header.kind = Kind::Request;
        one
    }

    fn reply(common: &Arc<Common>, to: u64, payload: &[u8]) -> Envelope {
        let mut one = publish(common, 900 - to, payload);
        one.header.kind = Kind::Reply { to };
        one
    }

    fn joined(messages: Vec<Envelope>) -> Vec<Envelope> {
        join(messages, usize::MAX, bundled)
    }

    fn items(message: &Envelope) -> Vec<Bytes> {
        if is_bundle(&message.header) {
            batch::decode(message.payload.clone()).unwrap()
        } else {
            vec![message.payload.clone()]
        }
    }

    #[test]
    fn what_differs_in_its_payload_only_goes_together() {
        let (a, b) = (common("a", Flags::default()), common("b", Flags::default()));
        let messages = vec![
            publish(&a, 1, b"one"),
            publish(&a, 2, b""),
            publish(&a, 3, b"three"),
            publish(&b, 4, b"four"),
            publish(&a, 5, b"five"),
        ];
        let joined = super::join(messages, usize::MAX, bundled);
        let found: Vec<_> = joined.iter().map(|one| (one.header.sequence, items(one))).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], (1, vec!["one".into(), Bytes::new(), "three".into()]));
        assert_eq!(found[1], (4, vec!["four".into()]));
        assert_eq!(found[2], (5, vec!["five".into()]));
        let counts: Vec<_> = joined.iter().map(|one| count(&one.header, &one.payload)).collect();
        assert_eq!(counts, [3, 1, 1]);
        let lengths: Vec<_> = joined.iter().map(|one| lengths(&one.header, &one.payload)).collect();
        assert_eq!(lengths, [vec![3, 0, 5], vec![4], vec![4]]);
    }

    #[test]
    fn what_somebody_waits_for_or_is_protected_goes_alone() {
        let alone = |change: fn(&mut Envelope)| {
            let common = common("a", Flags::default());
            let mut messages = vec![publish(&common, 1, b"x"), publish(&common, 2, b"y")];
            messages.iter_mut().for_each(change);
            let before = messages.clone();
            assert_eq!(joined(messages), before);
        };
        alone(|one| {
            one.header.kind = Kind::Return {
                to: one.header.sequence,
                status: Status::Deadline,
                by: "a".parse().unwrap(),
            };
        });
        alone(|one| {
            (one.header.kind, one.header.sequence) = (Kind::Request, 2 * one.header.sequence);
        });
        alone(|one| one.header.kind = Kind::Reply { to: 2 * one.header.sequence });
        alone(|one| one.header.extras = Some(Box::default()));
        alone(|one| one.header.budget_ms = one.header.sequence as u32);
        alone(|one| one.payload = vec![0; ITEM_MAX + 1].into());
        for flag in [Flags::SEALED, Flags::RECEIPT, Flags::RETRY, Flags::BATCH, Flags::PROBE] {
            let common = common("a", flag);
            let messages = vec![publish(&common, 1, b"x"), publish(&common, 2, b"y")];
            assert_eq!(joined(messages.clone()), messages);
        }
    }

    #[test]
    fn requests_and_replies_in_a_row_go_together_and_come_apart_as_they_were() {
        let a = common("a", Flags::default());
        let sent = vec![
            request(&a, 5, b"one"),
            request(&a, 6, b""),
            request(&a, 7, b"three"),
            request(&a, 9, b"not the next"),
            publish(&a, 10, b"no request"),
            reply(&a, 40, b"x"),
            reply(&a, 41, b"y"),
        ];
        let together = joined(sent.clone());
        let found: Vec<(&str, u64)> = together
            .iter()
            .map(|one| (one.header.kind.as_str(), count(&one.header, &one.payload)))
            .collect();
        assert_eq!(found, [("request", 3), ("request", 1), ("publish", 1), ("reply", 2)]);
        assert_eq!(together[0].header.flags, Flags::BATCH.with(Flags::MORE));
        assert_eq!(together[3].header.flags, Flags::BATCH);
        let apart: Vec<Envelope> = together.into_iter().flat_map(split).collect();
        let told = |all: &[Envelope]| -> Vec<(Kind, Flags, Bytes)> {
            all.iter()
                .map(|one| (one.header.kind.clone(), one.header.flags, one.payload.clone()))
                .collect()
        };
        assert_eq!(told(&apart), told(&sent));
        let requests = |all: &[Envelope]| -> Vec<u64> {
            let of = |one: &&Envelope| one.header.kind == Kind::Request;
            all.iter().filter(of).map(|one| one.header.sequence).collect()
        };
        assert_eq!(requests(&apart), requests(&sent));
    }

    #[test]
    fn a_bundle_is_no_longer_than_a_message_may_be() {
        let a = common("a", Flags::default());
        let sent: Vec<_> = (0..20).map(|at| request(&a, at, &[0; 100])).collect();
        for most in [0, 3, 100, 211, 212, 213, 1024, usize::MAX] {
            let joined = join(sent.clone(), most, bundled);
            let longest = joined.iter().map(|one| one.payload.len()).max().unwrap();
            assert!(longest <= most.max(100), "{longest} of {most}");
            assert_eq!(joined.len() < 20, most >= 212, "{most}");
        }
    }

    #[test]
    fn what_only_says_to_be_a_bundle_comes_apart_into_itself() {
        let flags = Flags::BATCH.with(Flags::MORE);
        for payload in [&b""[..], b"\0\0\0", b"\0\0\0\x02\0\0\0\0", b"\xff\xff\xff\xff"] {
            let whole = request(&common("a", flags), u64::MAX, payload);
            assert!(is_bundle(&whole.header) && count(&whole.header, payload) <= 1024);
            assert_eq!(split(whole.clone()), vec![whole]);
        }
        for flag in ALONE {
            assert!(!is_bundle(&request(&common("a", flags.with(flag)), 1, b"").header));
        }
    }

    proptest! {
        #[test]
        fn every_publish_stays_in_its_order(
            sent in prop::collection::vec((0_u8..2, 0_usize..6000), 0..60)
        ) {
            let commons = [common("a", Flags::default()), common("b", Flags::default())];
            let messages: Vec<_> = sent
                .iter()
                .enumerate()
                .map(|(at, (to, len))| {
                    publish(&commons[usize::from(*to)], at as u64, &vec![at as u8; *len])
                })
                .collect();
            let before: Vec<_> = messages
                .iter()
                .map(|one| (Arc::clone(&one.header.destination), one.payload.clone()))
                .collect();
            let joined = super::join(messages, usize::MAX, bundled);
            for one in &joined {
                prop_assert!(!is_bundle(&one.header) || one.payload.len() <= 4 + BYTES_MAX);
            }
            let after: Vec<_> = joined
                .iter()
                .flat_map(|one| items(one).into_iter().map(|item| (Arc::clone(&one.header.destination), item)))
                .collect();
            prop_assert_eq!(after, before);
        }
    }
}
