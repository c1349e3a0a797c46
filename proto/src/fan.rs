//! One message for many cells: a copy per link, not per cell.
//!
//! A cell takes such a message apart, decides on each destination as on a message of its own, and puts
//! together again what leaves by the same link. So nothing passes that would not pass alone.

use std::sync::Arc;

use crate::{
    admission::Admitted,
    bundle,
    envelope::{Envelope, Extras, FanTarget, Kind},
};

/// The messages for single cells that `envelope` stands for; itself where it is for one.
///
/// The payload is shared. Applied to each of them, the gate decides as if it had come alone.
#[must_use]
pub fn split(mut envelope: Envelope) -> Vec<Envelope> {
    let targets = match &mut envelope.header.extras {
        Some(extras) if !extras.fan.is_empty() => std::mem::take(&mut extras.fan),
        Some(_) | None => return vec![envelope],
    };
    if envelope.header.extras.as_deref() == Some(&Extras::default()) {
        envelope.header.extras = None;
    }
    targets
        .into_iter()
        .map(|FanTarget { sequence, destination }| {
            let mut one = envelope.clone();
            one.header.sequence = sequence;
            one.header.destination = destination;
            one
        })
        .collect()
}

impl Admitted {
    /// One message for all that `parts` are for. They must have been split from one message: whoever
    /// holds them takes them from one call of [`split`] and lets each through the gate.
    ///
    /// # Panics
    /// Never for parts of one message. `None` for no parts.
    #[must_use]
    pub fn join(parts: Vec<Self>) -> Option<Self> {
        let targets: Vec<FanTarget> = parts
            .iter()
            .map(|part| FanTarget {
                sequence: part.header().sequence,
                destination: Arc::clone(&part.header().destination),
            })
            .collect();
        let mut first = parts.into_iter().next()?;
        if targets.len() > 1 {
            first.set_fan(targets);
        }
        Some(first)
    }

    /// How many messages for single cells this one stands for, those of a bundle included.
    #[must_use]
    pub fn count(&self) -> usize {
        let bundled = bundle::count(self.header(), &self.envelope().payload);
        self.header().fan().len().max(1) * usize::try_from(bundled).unwrap_or(1)
    }

    /// The messages for single cells that this one stands for, every request and every reply on its own.
    #[must_use]
    pub fn split(self) -> Vec<Self> {
        let is_numbered = self.header().kind != Kind::Publish && bundle::is_bundle(self.header());
        match (self.header().fan().is_empty(), is_numbered) {
            (true, false) => vec![self],
            (true, true) => self.apart(bundle::split),
            (false, false) => self.apart(split),
            (false, true) => {
                self.apart(|whole| split(whole).into_iter().flat_map(bundle::split).collect())
            }
        }
    }
}

/// Groups of destinations of which each fits into one message, in the order given.
///
/// A group has at most [`Extras::FAN_MAX`] cells whose names together take at most
/// [`Extras::FAN_BYTES_MAX`] bytes.
#[must_use]
pub fn groups(targets: Vec<FanTarget>) -> Vec<Vec<FanTarget>> {
    /// What a name costs beside its own bytes, where it is introduced.
    const NAME_COST: usize = 32;
    let mut groups: Vec<Vec<FanTarget>> = Vec::new();
    let mut bytes = 0;
    for target in targets {
        let cost = target.destination.name.as_str().len() + NAME_COST;
        bytes += cost;
        match groups.last_mut() {
            Some(group) if bytes <= Extras::FAN_BYTES_MAX && group.len() < Extras::FAN_MAX => {
                group.push(target);
            }
            Some(_) | None => {
                bytes = cost;
                groups.push(vec![target]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        envelope::{Address, Common, Flags, Header, Incarnation, Lane},
        name::Fqcn,
    };

    fn target(sequence: u64, name: &str) -> FanTarget {
        FanTarget { sequence, destination: Address::any(name.parse().unwrap()) }
    }

    fn message(fan: Vec<FanTarget>) -> Envelope {
        let first = fan[0].clone();
        let header = Header {
            kind: Kind::Request,
            sequence: first.sequence,
            common: Arc::new(Common {
                origin: Address::exact("a".parse().unwrap(), Incarnation { counter: 1, nonce: 1 }),
                destination: first.destination,
                target: "x/y".parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 4,
            extras: Extras { fan, ..Extras::default() }.boxed(),
        };
        Envelope { header, payload: Bytes::from_static(b"shared") }
    }

    #[test]
    fn a_message_to_many_is_one_message_for_each_and_shares_its_payload() {
        let whole = message(vec![target(5, "b"), target(6, "c"), target(9, "d.e")]);
        let payload = whole.payload.as_ptr();
        let parts = split(whole);
        let told: Vec<(u64, String)> = parts
            .iter()
            .map(|part| (part.header.sequence, part.header.destination.name.to_string()))
            .collect();
        assert_eq!(told, [(5, "b".into()), (6, "c".into()), (9, "d.e".into())]);
        assert!(parts.iter().all(|part| part.header.extras.is_none()), "each is for one cell");
        assert!(parts.iter().all(|part| part.payload.as_ptr() == payload));
    }

    #[test]
    fn groups_are_small_enough_for_a_header_and_lose_nobody() {
        let long = |n: usize| {
            let segment = format!("{}{n}", "x".repeat(58));
            target(n as u64 + 1, &format!("{segment}.b{n}.c.d"))
        };
        let targets: Vec<FanTarget> = (0..2000).map(long).collect();
        let groups = groups(targets.clone());
        for group in &groups {
            let bytes: usize = group.iter().map(|t| t.destination.name.as_str().len()).sum();
            assert!(group.len() <= Extras::FAN_MAX && bytes <= Extras::FAN_BYTES_MAX);
        }
        assert_eq!(groups.concat(), targets);
        let short: Vec<FanTarget> = (0..1024).map(|n| target(n + 1, &format!("s{n}"))).collect();
        assert!(super::groups(short).iter().all(|group| group.len() <= Extras::FAN_MAX));
        let none: Vec<Vec<FanTarget>> = super::groups(Vec::new());
        assert!(none.is_empty());
    }

    #[test]
    fn the_longest_group_fits_into_a_header() {
        let name = |n: usize| -> Fqcn {
            let four: Vec<String> =
                (0..4).map(|k| format!("{}{k}{n:03}", "x".repeat(58))).collect();
            four.join(".").parse().unwrap()
        };
        for names in [4, 250] {
            let targets: Vec<FanTarget> = (0..600)
                .map(|n| {
                    let name =
                        if names == 250 { name(n) } else { format!("s{n}").parse().unwrap() };
                    FanTarget {
                        sequence: u64::MAX - 1000 + n as u64,
                        destination: Address::any(name),
                    }
                })
                .collect();
            for group in groups(targets).into_iter().filter(|group| group.len() > 1) {
                let mut out = bytes::BytesMut::new();
                let mut encoder = crate::codec::Encoder::new();
                let payload = encoder.encode_message(&message(group), 1, &mut out);
                assert!(payload.is_none() && out.len() < 14 << 10, "{}", out.len());
            }
        }
    }
}
