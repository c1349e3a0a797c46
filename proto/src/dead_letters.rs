//! What became of messages that nobody could be told about: the last of them, and how many there were.
//!
//! Headers and sizes only, never a payload or a token. Remembering sends nothing, so it cannot fail in turn.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    envelope::Header,
    name::ChannelTopic,
    route::Hop,
    status::Status,
    well_known::{self, is_reserved},
};

/// Whose channel a message was for: one of few, so that counters stay few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelClass {
    /// The system's own.
    System,
    /// An application's.
    Application,
}

/// One message that has ended without reaching anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// When, in seconds since 1970.
    pub unix: u64,
    /// Why.
    pub code: &'static str,
    /// What it was: publish, request, reply or return.
    pub kind: &'static str,
    /// Who sent it; a claim, where it was not let in.
    pub origin: String,
    /// Its sequence number there.
    pub sequence: u64,
    /// Who it was for.
    pub destination: String,
    /// Where inside that cell.
    pub target: String,
    /// The link that it came by; none for a message of this cell itself.
    pub link: Option<u64>,
    /// Bytes of its payload.
    pub payload_len: usize,
    /// Milliseconds that were left of its budget.
    pub budget_ms: u32,
}

/// The last dead letters of a cell, and the number of all.
#[derive(Debug)]
pub struct DeadLetters {
    ring: VecDeque<(DeadLetter, usize)>,
    bytes: usize,
    letters_max: usize,
    bytes_max: usize,
    counts: BTreeMap<(Status, ChannelClass), u64>,
    logged: BTreeMap<Status, (Instant, u64)>,
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self::new(Self::LETTERS_MAX, Self::BYTES_MAX)
    }
}

impl DeadLetters {
    /// Letters that are kept.
    pub const LETTERS_MAX: usize = 10_000;
    /// Bytes that they may take together.
    pub const BYTES_MAX: usize = 8 << 20;
    /// Time between two lines in the log for one reason.
    const LOG_EVERY: Duration = Duration::from_secs(1);

    /// Keeps the last `letters_max`, or as many as fit into `bytes_max`.
    #[must_use]
    pub fn new(letters_max: usize, bytes_max: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            bytes: 0,
            letters_max,
            bytes_max,
            counts: BTreeMap::new(),
            logged: BTreeMap::new(),
        }
    }

    /// Remembers a message that has ended with `status`.
    ///
    /// `Some` when this is to be logged: the number of lines left out since the last one for this reason.
    pub fn bury(
        &mut self,
        now: Instant,
        unix: u64,
        header: &Header,
        payload_len: usize,
        status: Status,
        from: Hop,
    ) -> Option<u64> {
        *self.counts.entry((status, class(&header.target))).or_default() += 1;
        let letter = DeadLetter {
            unix,
            code: status.code(),
            kind: header.kind.as_str(),
            origin: header.origin.name.to_string(),
            sequence: header.sequence,
            destination: header.destination.name.to_string(),
            target: header.target.to_string(),
            link: match from {
                Hop::Local => None,
                Hop::Link(link) => Some(link.0),
            },
            payload_len,
            budget_ms: header.budget_ms,
        };
        let size = letter.size();
        self.bytes += size;
        self.ring.push_back((letter, size));
        while self.ring.len() > self.letters_max || self.bytes > self.bytes_max {
            self.bytes -= self.ring.pop_front().map_or(0, |(_, size)| size);
        }
        self.log(now, status)
    }

    fn log(&mut self, now: Instant, status: Status) -> Option<u64> {
        match self.logged.get_mut(&status) {
            Some((at, left_out)) if now.saturating_duration_since(*at) < Self::LOG_EVERY => {
                *left_out += 1;
                None
            }
            Some((at, left_out)) => {
                *at = now;
                Some(std::mem::take(left_out))
            }
            None => {
                self.logged.insert(status, (now, 0));
                Some(0)
            }
        }
    }

    /// The last `limit` letters that `wanted` says yes to, the latest first.
    #[must_use]
    pub fn latest(&self, limit: usize, wanted: impl Fn(&DeadLetter) -> bool) -> Vec<DeadLetter> {
        let letters = self.ring.iter().rev().map(|(letter, _)| letter);
        letters.filter(|letter| wanted(letter)).take(limit).cloned().collect()
    }

    /// How many there have been, by reason and class of channel.
    #[must_use]
    pub fn counts(&self) -> Vec<(Status, ChannelClass, u64)> {
        self.counts.iter().map(|((status, class), count)| (*status, *class, *count)).collect()
    }

    /// Letters that are kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl DeadLetter {
    fn size(&self) -> usize {
        size_of::<(Self, usize)>() + self.origin.len() + self.destination.len() + self.target.len()
    }
}

fn class(target: &ChannelTopic) -> ChannelClass {
    if is_reserved(target.channel()) || well_known::lookup(target).is_some() {
        ChannelClass::System
    } else {
        ChannelClass::Application
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        envelope::{Address, Common, Flags, Incarnation, Kind, Lane},
        route::LinkId,
        testing::{at, at_ms},
    };

    fn header(sequence: u64, target: &str) -> Header {
        let inc = Incarnation { counter: 1, nonce: 1 };
        Header {
            kind: Kind::Publish,
            sequence,
            common: Arc::new(Common {
                origin: Address::exact("site-1".parse().unwrap(), inc),
                destination: Address::any("server".parse().unwrap()),
                target: target.parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 1,
            extras: None,
        }
    }

    fn bury(letters: &mut DeadLetters, sequence: u64) -> Option<u64> {
        let from = Hop::Link(LinkId(7));
        letters.bury(at(0), 5, &header(sequence, "a/b"), 9, Status::NoHandler, from)
    }

    #[test]
    fn the_ring_keeps_the_last_and_counts_all() {
        let mut letters = DeadLetters::new(3, usize::MAX);
        for sequence in 1..=5 {
            bury(&mut letters, sequence);
        }
        let system = header(6, "cell/ping");
        letters.bury(at(0), 5, &system, 0, Status::NoHandler, Hop::Local);
        let kept: Vec<u64> = letters.latest(9, |_| true).iter().map(|one| one.sequence).collect();
        assert_eq!(kept, [6, 5, 4]);
        let one = &letters.latest(1, |letter| letter.link == Some(7))[0];
        assert_eq!((one.sequence, one.payload_len, one.code), (5, 9, "NO_HANDLER"));
        let wanted = [
            (Status::NoHandler, ChannelClass::System, 1),
            (Status::NoHandler, ChannelClass::Application, 5),
        ];
        assert_eq!(letters.counts(), wanted);
    }

    #[test]
    fn the_ring_is_bounded_in_bytes() {
        let mut letters = DeadLetters::new(usize::MAX, 1000);
        for sequence in 0..100 {
            bury(&mut letters, sequence);
            assert!(letters.bytes() <= 1000);
        }
        assert!(!letters.is_empty() && letters.len() < 100);
        let mut none = DeadLetters::new(0, 0);
        bury(&mut none, 1);
        assert_eq!((none.len(), none.bytes()), (0, 0));
    }

    #[test]
    fn f_43_a_flood_of_dead_letters_is_one_line_a_second_for_each_reason() {
        let mut letters = DeadLetters::default();
        let header = header(1, "a/b");
        let mut lines = Vec::new();
        for n in 0..100_000u64 {
            let now = at_ms(n * 30 / 1000);
            lines.extend(letters.bury(now, 0, &header, 0, Status::NoHandler, Hop::Local));
        }
        assert_eq!(lines.len(), 3);
        assert!(letters.bury(at(3), 0, &header, 0, Status::Overloaded, Hop::Local).is_some());
        assert!(letters.len() <= DeadLetters::LETTERS_MAX);
        assert!(letters.bytes() <= DeadLetters::BYTES_MAX);
    }
}
