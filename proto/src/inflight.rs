//! Requests that were passed on and not yet answered: whoever sent them is told when the link they went
//! by is lost, instead of waiting for nothing.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasherDefault,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::Admitted,
    bundle,
    envelope::{Envelope, Flags, Header, Kind},
    folded::Folded,
    route::{Hop, LinkId},
};

/// The requests that one cell has passed on.
#[derive(Debug)]
pub struct InFlight {
    links: BTreeMap<LinkId, ByRequest>,
    len: usize,
    max: usize,
}

type ByRequest = HashMap<Key, Passed, BuildHasherDefault<Folded>>;

/// The id of a request, by what is random and what is counted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    nonce: u64,
    sequence: u64,
}

#[derive(Clone, Debug)]
struct Passed {
    request: Header,
    arrived: Hop,
    deadline: Instant,
}

/// What is remembered of a request: enough to answer it.
#[derive(Debug)]
pub struct Record {
    key: Key,
    passed: Passed,
}

impl InFlight {
    /// Requests remembered at once unless configured otherwise.
    pub const MAX: usize = 65_536;

    /// Nothing passed on yet; at most `max` requests are remembered at once. One beyond that ends by its
    /// budget alone.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { links: BTreeMap::new(), len: 0, max }
    }

    /// What to remember of `header`, which came by `arrived`; `None` where nobody will want to know.
    #[must_use]
    pub fn record(now: Instant, header: &Header, arrived: Hop) -> Option<Record> {
        if !header.wants_answer() || arrived == Hop::Local {
            return None;
        }
        let key = Key { nonce: header.origin.incarnation?.nonce, sequence: header.sequence };
        let deadline = now + Duration::from_millis(header.budget_ms.into());
        let request = Header { extras: None, ..header.clone() };
        Some(Record { key, passed: Passed { request, arrived, deadline } })
    }

    /// A message that was let in is passed on by `via`.
    pub fn pass(&mut self, now: Instant, admitted: &Admitted, via: LinkId) {
        let header = admitted.header();
        let Some(record) = Self::record(now, header, admitted.arrived()) else { return };
        for target in header.fan() {
            let mut passed = record.passed.clone();
            passed.request.sequence = target.sequence;
            passed.request.destination = Arc::clone(&target.destination);
            let key = Key { sequence: target.sequence, ..record.key };
            self.passed(now, Record { key, passed }, via);
        }
        if header.fan().is_empty() {
            let Record { key, passed } = record;
            for number in 0..bundle::count(header, &admitted.envelope().payload) {
                let mut passed = passed.clone();
                let sequence = key.sequence.saturating_add(number);
                passed.request.sequence = sequence;
                self.passed(now, Record { key: Key { sequence, ..key }, passed }, via);
            }
        }
    }

    /// The request has been passed on by `via`.
    pub fn passed(&mut self, now: Instant, record: Record, via: LinkId) {
        if self.len >= self.max {
            self.sweep(now);
        }
        if self.len < self.max
            && self.links.entry(via).or_default().insert(record.key, record.passed).is_none()
        {
            self.len += 1;
        }
    }

    /// An answer has come by `from`, or several that follow one another: their requests are no longer in
    /// flight.
    pub fn answered(&mut self, answer: &Envelope, from: LinkId) {
        let Envelope { header, payload } = answer;
        let (Kind::Reply { to } | Kind::Return { to, .. }) = header.kind else { return };
        if header.flags.contains(Flags::MORE) {
            return;
        }
        if let Some(incarnation) = header.destination.incarnation {
            for number in 0..bundle::count(header, payload) {
                let sequence = to.saturating_add(number);
                self.forget(from, Key { nonce: incarnation.nonce, sequence });
            }
        }
    }

    /// The request never left by `via` after all; somebody else tells its sender.
    pub fn not_passed(&mut self, header: &Header, via: LinkId) {
        if let Some(incarnation) = header.origin.incarnation {
            self.forget(via, Key { nonce: incarnation.nonce, sequence: header.sequence });
        }
    }

    fn forget(&mut self, link: LinkId, key: Key) {
        let removed = self.links.get_mut(&link).and_then(|requests| requests.remove(&key));
        self.len -= usize::from(removed.is_some());
    }

    /// The link is lost: the requests that went by it and may still be waited for, and where each came
    /// from.
    pub fn lost(&mut self, now: Instant, link: LinkId) -> Vec<(Header, Hop)> {
        let Some(requests) = self.links.remove(&link) else { return Vec::new() };
        self.len -= requests.len();
        let mut lost: Vec<Passed> =
            requests.into_values().filter(|passed| passed.deadline > now).collect();
        // The order of a hash map is nobody's business.
        lost.sort_by_key(|passed| (passed.deadline, passed.request.sequence));
        lost.into_iter().map(|passed| (passed.request, passed.arrived)).collect()
    }

    /// Forgets what nobody waits for any more.
    pub fn sweep(&mut self, now: Instant) {
        for requests in self.links.values_mut() {
            requests.retain(|_, passed| passed.deadline > now);
        }
        self.links.retain(|_, requests| !requests.is_empty());
        self.len = self.links.values().map(HashMap::len).sum();
    }

    /// Requests that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Address, Common, Incarnation, Lane},
        testing::at,
    };

    const VIA: LinkId = LinkId(7);
    const FROM: Hop = Hop::Link(LinkId(3));

    fn incarnation() -> Incarnation {
        Incarnation { counter: 1, nonce: 42 }
    }

    fn header(kind: Kind, sequence: u64) -> Header {
        Header {
            kind,
            sequence,
            common: Arc::new(Common {
                origin: Address::exact("a".parse().unwrap(), incarnation()),
                destination: Address::exact("b".parse().unwrap(), incarnation()),
                target: "x/y".parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 5000,
            hops_left: 4,
            extras: None,
        }
    }

    fn reply(to: u64, flags: Flags, payload: &'static [u8]) -> Envelope {
        let mut header = header(Kind::Reply { to }, 9);
        header.flags = flags;
        Envelope { header, payload: payload.into() }
    }

    #[test]
    fn replies_that_come_together_answer_each_of_their_requests() {
        let mut ledger = InFlight::new(8);
        (1..=4).for_each(|sequence| pass(&mut ledger, sequence));
        ledger.answered(&reply(2, Flags::BATCH, b"\0\0\0\x02\0\0\0\0\0\0\0\0"), VIA);
        let left: Vec<u64> =
            ledger.lost(at(1), VIA).iter().map(|(header, _)| header.sequence).collect();
        assert_eq!(left, [1, 4]);
    }

    fn pass(ledger: &mut InFlight, sequence: u64) {
        let record = InFlight::record(at(0), &header(Kind::Request, sequence), FROM).unwrap();
        ledger.passed(at(0), record, VIA);
    }

    #[test]
    fn a_lost_link_gives_back_what_is_not_answered_and_not_over() {
        let mut ledger = InFlight::new(8);
        (1..=3).for_each(|sequence| pass(&mut ledger, sequence));
        ledger.answered(&reply(2, Flags::default(), b""), VIA);
        ledger.answered(&reply(3, Flags::default(), b""), LinkId(8));
        assert_eq!(ledger.len(), 2, "an answer by another link answers nothing");
        let lost = ledger.lost(at(1), VIA);
        let sequences: Vec<u64> = lost.iter().map(|(header, _)| header.sequence).collect();
        assert_eq!(sequences, [1, 3]);
        assert!(lost.iter().all(|(_, arrived)| *arrived == FROM) && ledger.is_empty());
        pass(&mut ledger, 4);
        assert!(ledger.lost(at(6), VIA).is_empty(), "its sender has given up by itself");
    }

    #[test]
    fn what_never_left_is_not_given_back_twice() {
        let mut ledger = InFlight::new(8);
        pass(&mut ledger, 1);
        ledger.not_passed(&header(Kind::Request, 1), VIA);
        assert!(ledger.lost(at(1), VIA).is_empty());
    }

    #[test]
    fn only_requests_of_others_are_remembered() {
        assert!(InFlight::record(at(0), &header(Kind::Publish, 1), FROM).is_none());
        assert!(InFlight::record(at(0), &header(Kind::Reply { to: 1 }, 1), FROM).is_none());
        assert!(InFlight::record(at(0), &header(Kind::Request, 1), Hop::Local).is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_is_over_makes_room() {
        let mut ledger = InFlight::new(2);
        (1..=5).for_each(|sequence| pass(&mut ledger, sequence));
        assert_eq!(ledger.len(), 2);
        let record = InFlight::record(at(9), &header(Kind::Request, 6), FROM).unwrap();
        ledger.passed(at(9), record, VIA);
        assert_eq!(ledger.len(), 1, "the two others had ended");
    }
}
