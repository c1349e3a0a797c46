//! Requests that wait for their one end.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::Instant,
};

use crate::{
    envelope::{Address, Flags, Header, Kind},
    route::Hop,
    status::Status,
};

mod copies;
mod deadlines;

pub use self::copies::{Copies, RetryPolicy, Verdict, retry_after, retry_after_detail};
use self::deadlines::Deadlines;

/// The outstanding requests of one cell; `T` is whoever waits.
#[derive(Debug)]
pub struct Exchange<T> {
    slots: Slots<T>,
    deadlines: Deadlines,
    max: usize,
    /// One above the highest sequence number that was waited for.
    next: u64,
}

type Slots<T> = HashMap<u64, Slot<T>, BuildHasherDefault<Spread>>;

fn is_due_at<T>(slots: &Slots<T>, at: Instant, sequence: u64) -> bool {
    slots.get(&sequence).is_some_and(|slot| slot.deadline == at)
}

#[derive(Debug)]
struct Slot<T> {
    to: Arc<Address>,
    via: Hop,
    deadline: Instant,
    waiter: T,
}

/// Spreads numbers that count.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(29) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// An answer has found its request.
#[derive(Debug, PartialEq, Eq)]
pub enum Completed<'a, T> {
    /// More answers to the same request follow; whoever waits stays.
    More(&'a mut T),
    /// The request has ended.
    Last(T),
}

/// An answer that nobody here waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// The request has ended already.
    Late,
    /// No such request was made, or not there.
    Unsolicited,
}

impl<T> Exchange<T> {
    /// Outstanding requests that a cell may have unless configured otherwise.
    pub const MAX: usize = 65_536;

    /// An exchange for at most `max` requests at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { slots: HashMap::default(), deadlines: Deadlines::default(), max, next: 1 }
    }

    /// Waits for the answer to the request `sequence`, which leaves by `via`.
    ///
    /// # Errors
    /// Gives the waiter back when too many requests are outstanding.
    pub fn begin(
        &mut self,
        sequence: u64,
        to: Arc<Address>,
        via: Hop,
        deadline: Instant,
        waiter: T,
    ) -> Result<(), T> {
        if self.slots.len() >= self.max {
            return Err(waiter);
        }
        self.next = self.next.max(sequence + 1);
        self.deadlines.insert(deadline, sequence);
        self.slots.insert(sequence, Slot { to, via, deadline, waiter });
        Ok(())
    }

    /// Gives the waiter of the request that `header` answers, and ends the request unless the answer is a
    /// reply that says that more follow.
    ///
    /// A reply must come from the cell that was asked, and where an incarnation was asked, from that
    /// one. Any answer must come the way the request went.
    ///
    /// # Errors
    /// [`Stray`]; nothing has changed then.
    pub fn complete(&mut self, header: &Header, arrived: Hop) -> Result<Completed<'_, T>, Stray> {
        let (to, from_anyone) = match &header.kind {
            Kind::Reply { to } => (*to, false),
            Kind::Return { to, .. } => (*to, true),
            Kind::Publish | Kind::Request => return Err(Stray::Unsolicited),
        };
        let Some(slot) = self.slots.get(&to) else {
            return Err(if to < self.next && to > 0 { Stray::Late } else { Stray::Unsolicited });
        };
        let named = slot.to.name == header.origin.name
            && (slot.to.incarnation.is_none() || slot.to.incarnation == header.origin.incarnation);
        // This cell itself returns what it cannot send.
        let by_its_way = slot.via == arrived || (from_anyone && arrived == Hop::Local);
        if !by_its_way || !(from_anyone || named) {
            return Err(Stray::Unsolicited);
        }
        if !from_anyone && header.flags.contains(Flags::MORE) {
            // Looked up again: a borrow that is given away cannot be let go of on the other ways out.
            return self.waiter(to).map(Completed::More).ok_or(Stray::Late);
        }
        self.remove(to).map(Completed::Last).ok_or(Stray::Late)
    }

    /// Whoever waits for the request `sequence`.
    pub fn waiter(&mut self, sequence: u64) -> Option<&mut T> {
        self.slots.get_mut(&sequence).map(|slot| &mut slot.waiter)
    }

    /// Another copy of the request `sequence` leaves, for `to` by `via`: answers are taken from there from
    /// now on. `false` where the request has ended.
    pub fn redirect(&mut self, sequence: u64, to: Arc<Address>, via: Hop) -> bool {
        let Some(slot) = self.slots.get_mut(&sequence) else { return false };
        (slot.to, slot.via) = (to, via);
        true
    }

    /// Forgets a request whose waiter has given up.
    pub fn give_up(&mut self, sequence: u64) -> Option<T> {
        self.remove(sequence)
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// Ends every request whose deadline has come.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((at, sequence)) = self.deadlines.pop_due(now) {
            let is_due = is_due_at(&self.slots, at, sequence);
            let slot = if is_due { self.slots.remove(&sequence) } else { None };
            expired.extend(slot.map(|slot| slot.waiter));
        }
        let slots = &self.slots;
        self.deadlines.tidy(|at, sequence| is_due_at(slots, at, sequence));
        expired
    }

    /// Ends every request that went by `via`, which is no more, and gives their sequence numbers and
    /// waiters; the caller tells them the status, [`Status::PeerLost`].
    pub fn fail_hop(&mut self, via: Hop) -> Vec<(u64, T, Status)> {
        let mut lost: Vec<u64> =
            self.slots.iter().filter(|(_, slot)| slot.via == via).map(|(seq, _)| *seq).collect();
        lost.sort_unstable();
        lost.into_iter()
            .filter_map(|sequence| Some((sequence, self.remove(sequence)?, Status::PeerLost)))
            .collect()
    }

    /// Ends everything.
    pub fn drain(&mut self) -> Vec<T> {
        self.deadlines.clear();
        let mut slots: Vec<(u64, Slot<T>)> = std::mem::take(&mut self.slots).into_iter().collect();
        slots.sort_unstable_by_key(|(sequence, _)| *sequence);
        slots.into_iter().map(|(_, slot)| slot.waiter).collect()
    }

    /// Requests that are outstanding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn remove(&mut self, sequence: u64) -> Option<T> {
        let slot = self.slots.remove(&sequence)?;
        let slots = &self.slots;
        let is_live = |at, sequence| is_due_at(slots, at, sequence);
        self.deadlines.forget(slot.deadline, sequence, is_live);
        Some(slot.waiter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        envelope::{Common, Incarnation, Lane},
        route::LinkId,
        testing::at,
    };

    const WAY: Hop = Hop::Link(LinkId(1));

    fn answer(kind: Kind, from: &str) -> Header {
        let inc = Incarnation { counter: 1, nonce: 1 };
        Header {
            kind,
            sequence: 1,
            common: Arc::new(Common {
                origin: Address::exact(from.parse().unwrap(), inc),
                destination: Address::exact("me".parse().unwrap(), inc),
                target: "a/b".parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 1,
            extras: None,
        }
    }

    fn asked() -> (Exchange<u32>, u64) {
        let mut exchange = Exchange::new(2);
        exchange.begin(1, Address::any("b".parse().unwrap()), WAY, at(5), 7).unwrap();
        (exchange, 1)
    }

    #[test]
    fn p_19_a_reply_is_taken_once_from_whom_was_asked_by_the_way_it_went() {
        let (mut exchange, to) = asked();
        let reply = |from| answer(Kind::Reply { to }, from);
        assert_eq!(exchange.complete(&reply("c"), WAY), Err(Stray::Unsolicited));
        assert_eq!(exchange.complete(&reply("b"), Hop::Link(LinkId(2))), Err(Stray::Unsolicited));
        assert_eq!(
            exchange.complete(&answer(Kind::Reply { to: 99 }, "b"), WAY),
            Err(Stray::Unsolicited)
        );
        assert_eq!(exchange.complete(&answer(Kind::Request, "b"), WAY), Err(Stray::Unsolicited));
        assert_eq!(exchange.complete(&reply("b"), WAY), Ok(Completed::Last(7)));
        assert_eq!(exchange.complete(&reply("b"), WAY), Err(Stray::Late));
    }

    fn with_more(mut header: Header) -> Header {
        header.flags = Flags::MORE;
        header
    }

    #[test]
    fn replies_that_more_follow_leave_the_request_open_and_the_last_ends_it() {
        let (mut exchange, to) = asked();
        let more = with_more(answer(Kind::Reply { to }, "b"));
        assert_eq!(exchange.complete(&more, Hop::Local), Err(Stray::Unsolicited));
        for _ in 0..3 {
            assert_eq!(exchange.complete(&more, WAY), Ok(Completed::More(&mut 7)));
        }
        let by = "b".parse().unwrap();
        let failed = Kind::Return { to, status: Status::HandlerFailed, by };
        let last = with_more(answer(failed, "b"));
        assert_eq!(exchange.complete(&last, WAY), Ok(Completed::Last(7)), "a return is the end");
        assert_eq!(exchange.complete(&more, WAY), Err(Stray::Late));
        assert_eq!(exchange.poll_timeout(), None);
    }

    #[test]
    fn an_answer_is_taken_from_where_the_latest_copy_went() {
        let (mut exchange, to) = asked();
        let inc = Incarnation { counter: 1, nonce: 1 };
        let (exact, other) = (Address::exact("b".parse().unwrap(), inc), Hop::Link(LinkId(2)));
        assert!(
            exchange.redirect(to, exact, other)
                && !exchange.redirect(9, Address::any("b".parse().unwrap()), other)
        );
        let reply = answer(Kind::Reply { to }, "b");
        assert_eq!(exchange.complete(&reply, WAY), Err(Stray::Unsolicited));
        assert!(exchange.fail_hop(WAY).is_empty(), "it has left by another link");
        assert_eq!(exchange.poll_timeout(), Some(at(5)), "its time runs on");
        assert_eq!(exchange.complete(&reply, other), Ok(Completed::Last(7)));
    }

    #[test]
    fn a_return_may_come_from_any_cell_on_the_way() {
        let (mut exchange, to) = asked();
        let by = "relay".parse().unwrap();
        let header = answer(Kind::Return { to, status: Status::NoRoute, by }, "relay");
        assert_eq!(exchange.complete(&header, Hop::Link(LinkId(2))), Err(Stray::Unsolicited));
        assert_eq!(exchange.complete(&header, WAY), Ok(Completed::Last(7)));
        assert!(exchange.is_empty());
    }

    #[test]
    fn g_04_a_request_ends_at_its_deadline_and_with_its_link() {
        let (mut exchange, _) = asked();
        assert_eq!(exchange.poll_timeout(), Some(at(5)));
        assert!(exchange.expire(at(4)).is_empty());
        assert_eq!(exchange.expire(at(5)), [7]);
        let (mut exchange, _) = asked();
        assert_eq!(exchange.fail_hop(WAY), [(1, 7, Status::PeerLost)]);
        assert_eq!(exchange.poll_timeout(), None);
    }

    #[test]
    fn the_exchange_is_bounded() {
        let (mut exchange, _) = asked();
        let to = Address::any("b".parse().unwrap());
        assert_eq!(exchange.begin(2, Arc::clone(&to), WAY, at(5), 8), Ok(()));
        assert_eq!(exchange.begin(3, to, WAY, at(5), 8), Err(8));
        assert_eq!(exchange.len(), 2);
    }

    proptest! {
        /// Every request ends exactly once, whatever happens in whatever order; what comes before its end
        /// comes to the same waiter.
        #[test]
        fn g_03_every_request_ends_exactly_once(events in prop::collection::vec((0u8..8, 1u64..12), 0..80)) {
            let mut exchange = Exchange::new(8);
            let mut begun = 0u32;
            let mut ended = Vec::new();
            for (event, n) in events {
                let via = Hop::Link(LinkId(n % 2));
                match event {
                    0 | 1 => {
                        let sequence = u64::from(begun) + 1;
                        match exchange.begin(sequence, Address::any("b".parse().unwrap()), via, at(n), begun) {
                            Ok(()) => {}
                            Err(refused) => ended.push(refused),
                        }
                        begun += 1;
                    }
                    2 => match exchange.complete(&answer(Kind::Reply { to: n }, "b"), via) {
                        Ok(Completed::Last(waiter)) => ended.push(waiter),
                        Ok(Completed::More(_)) => prop_assert!(false, "it was the last"),
                        Err(_) => {}
                    },
                    3 => ended.extend(exchange.expire(at(n))),
                    4 => ended.extend(exchange.fail_hop(via).into_iter().map(|(_, w, _)| w)),
                    5 => {
                        let before = exchange.len();
                        let more = with_more(answer(Kind::Reply { to: n }, "b"));
                        if let Ok(completed) = exchange.complete(&more, via) {
                            prop_assert_eq!(completed, Completed::More(&mut (n as u32 - 1)));
                        }
                        prop_assert_eq!(exchange.len(), before);
                    }
                    6 => {
                        let before = exchange.len();
                        let known = exchange.waiter(n).is_some();
                        prop_assert_eq!(exchange.redirect(n, Address::any("b".parse().unwrap()), via), known);
                        prop_assert_eq!(exchange.len(), before);
                    }
                    _ => ended.extend(exchange.give_up(n)),
                }
                prop_assert!(exchange.len() <= 8);
                prop_assert_eq!(exchange.poll_timeout().is_some(), !exchange.is_empty());
            }
            ended.extend(exchange.drain());
            ended.sort_unstable();
            prop_assert_eq!(ended, (0..begun).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_has_ended_leaves_no_deadline_behind() {
        let mut exchange = Exchange::new(100_000);
        let to = Address::any("b".parse().unwrap());
        let asked = |exchange: &mut Exchange<u64>, sequence: u64, seconds| {
            exchange.begin(sequence, Arc::clone(&to), WAY, at(seconds), sequence).unwrap();
        };
        asked(&mut exchange, 1, 40);
        for sequence in 2..50_000 {
            // Now and then one that is in more of a hurry.
            asked(&mut exchange, sequence, if sequence % 7 == 0 { 20 } else { 50 });
            if sequence > 100 {
                assert_eq!(exchange.give_up(sequence - 90), Some(sequence - 90));
            }
        }
        assert!(exchange.deadlines.len() < 600, "{}", exchange.deadlines.len());
        let mut hurried: Vec<u64> = exchange.expire(at(30));
        assert!(hurried.iter().all(|sequence| sequence % 7 == 0) && hurried.len() > 10);
        assert_eq!(exchange.poll_timeout(), Some(at(40)));
        hurried.extend(exchange.expire(at(60)));
        assert!(exchange.is_empty() && exchange.poll_timeout().is_none());
    }

    #[test]
    fn a_number_that_is_used_again_has_its_new_deadline() {
        let mut exchange = Exchange::new(8);
        let to = Address::any("b".parse().unwrap());
        exchange.begin(1, Arc::clone(&to), WAY, at(9), 1).unwrap();
        exchange.begin(2, Arc::clone(&to), WAY, at(10), 2).unwrap();
        exchange.give_up(2).unwrap();
        exchange.begin(2, Arc::clone(&to), WAY, at(30), 3).unwrap();
        assert_eq!(exchange.expire(at(20)), [1]);
        assert_eq!(exchange.expire(at(30)), [3]);
    }
}
