//! Publishes that differ in nothing but their payload, put into one message by the cell that sends them.
//!
//! A bundle is a publish with [`Flags::BATCH`]: what is decided on it is decided once, and every cell on the
//! way has one message to carry. Its destination hands out each publish on its own, in order.

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

/// Bytes that an item takes beside its own.
const LENGTH: usize = 4;

/// The messages, with publishes that follow one another and go together put into bundles. Their order stays.
///
/// `bundled` gives what a bundle has in common with others: that of its messages, with [`Flags::BATCH`].
#[must_use]
pub fn join(
    messages: Vec<Envelope>,
    mut bundled: impl FnMut(&Arc<Common>) -> Arc<Common>,
) -> Vec<Envelope> {
    let mut joined = Vec::with_capacity(messages.len().min(64));
    let mut run: Vec<Bytes> = Vec::new();
    let mut len = 0;
    let mut messages = messages.into_iter();
    let Some(mut first) = messages.next() else { return joined };
    for next in messages {
        let with_it = LENGTH + next.payload.len();
        let goes_with = run.len() + 1 < batch::ITEMS_MAX
            && len + with_it <= BYTES_MAX
            && goes_together(&first.header, &next)
            && may_join(&first);
        if goes_with {
            if run.is_empty() {
                len = LENGTH + first.payload.len();
                run.push(mem::take(&mut first.payload));
            }
            len += with_it;
            run.push(next.payload);
        } else {
            joined.push(close(first, &mut run, &mut bundled));
            (first, len) = (next, 0);
        }
    }
    joined.push(close(first, &mut run, &mut bundled));
    joined
}

/// Whether a message is several publishes.
#[must_use]
pub fn is_bundle(header: &Header) -> bool {
    header.kind == Kind::Publish
        && header.flags.contains(Flags::BATCH)
        && !header.flags.contains(Flags::RECEIPT)
}

/// How many publishes a message says that it is; 1 for what is no bundle. For counting: nothing is sized by it.
#[must_use]
pub fn count(header: &Header, payload: &[u8]) -> u64 {
    match payload.first_chunk::<4>() {
        Some(count) if is_bundle(header) => {
            u64::from(u32::from_be_bytes(*count)).clamp(1, batch::ITEMS_MAX as u64)
        }
        Some(_) | None => 1,
    }
}

/// The lengths of the payloads that a message has: one for each publish of a bundle, its own for all else.
#[must_use]
pub fn lengths(header: &Header, payload: &Bytes) -> Vec<usize> {
    let items = is_bundle(header).then(|| batch::decode(payload.clone()).ok()).flatten();
    items.map_or_else(|| vec![payload.len()], |items| items.iter().map(Bytes::len).collect())
}

fn goes_together(first: &Header, next: &Envelope) -> bool {
    Arc::ptr_eq(&first.common, &next.header.common)
        && next.header.kind == Kind::Publish
        && next.header.budget_ms == first.budget_ms
        && next.header.extras.is_none()
        && next.payload.len() <= ITEM_MAX
}

/// Whether others can be put to a message. What was put to it already has passed this.
fn may_join(first: &Envelope) -> bool {
    const ALONE: [Flags; 6] =
        [Flags::SEALED, Flags::RECEIPT, Flags::RETRY, Flags::MORE, Flags::BATCH, Flags::PROBE];
    let header = &first.header;
    header.kind == Kind::Publish
        && header.extras.is_none()
        && first.payload.len() <= ITEM_MAX
        && header.target.system().is_none()
        && !ALONE.iter().any(|flag| header.flags.contains(*flag))
}

fn close(
    mut first: Envelope,
    run: &mut Vec<Bytes>,
    bundled: &mut impl FnMut(&Arc<Common>) -> Arc<Common>,
) -> Envelope {
    if !run.is_empty() {
        first.header.common = bundled(&first.header.common);
        first.payload = batch::encode_sized(run);
        run.clear();
    }
    first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{Address, Incarnation, Lane};

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

    fn bundled(common: &Arc<Common>) -> Arc<Common> {
        Arc::new(Common { flags: common.flags.with(Flags::BATCH), ..Common::clone(common) })
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
        let joined = join(messages, bundled);
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
            assert_eq!(join(messages, bundled), before);
        };
        alone(|one| one.header.kind = Kind::Request);
        alone(|one| one.header.extras = Some(Box::default()));
        alone(|one| one.header.budget_ms = one.header.sequence as u32);
        alone(|one| one.payload = vec![0; ITEM_MAX + 1].into());
        for flag in [Flags::SEALED, Flags::RECEIPT, Flags::RETRY, Flags::BATCH, Flags::PROBE] {
            let common = common("a", flag);
            let messages = vec![publish(&common, 1, b"x"), publish(&common, 2, b"y")];
            assert_eq!(join(messages.clone(), bundled), messages);
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
            let joined = join(messages, bundled);
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
