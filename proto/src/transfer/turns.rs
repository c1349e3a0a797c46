//! Whose turn it is on a link whose rate is limited: what is more urgent goes first, and among equals each gets the
//! same number of bytes, however many it writes at once.
//!
//! Every stream has a mark that rises with what it writes; of those that wait, the lowest goes next. Who has been
//! away begins at the mark of the one that went last, so nobody saves up. Whoever is called and does not come is passed
//! over, for it may have given up.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Numbers a stream; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId(u64);

/// Whether a stream may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now: at most [`Turns::bytes`]. What it has written is told by [`Turns::handle_written`].
    Now,
    /// Ask again then, or when called.
    Later(Instant),
}

/// The streams of one link.
///
/// About 60 bytes for each stream.
#[derive(Debug)]
pub struct Turns {
    /// Bytes a second.
    rate: u64,
    free_at: Instant,
    /// The mark of the one that went last.
    mark: u64,
    streams: BTreeMap<TurnId, Stream>,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    priority: u8,
    mark: u64,
    waits: bool,
    /// Since when it could go and has not come.
    called: Option<Instant>,
}

impl Turns {
    /// What may go at once after a pause.
    const BURST: Duration = Duration::from_millis(50);
    /// How long whoever is called may take to come.
    const GRACE: Duration = Duration::from_millis(50);

    /// Turns for `rate` bytes a second, at least one.
    #[must_use]
    pub fn new(now: Instant, rate: u64) -> Self {
        let rate = rate.max(1);
        Self { rate, free_at: now, mark: 0, streams: BTreeMap::new(), last: 0 }
    }

    /// Bytes of one turn: what goes in 10 ms, from 4 KiB to 256 KiB.
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::try_from(self.rate / 100).unwrap_or(usize::MAX).clamp(4 << 10, 256 << 10)
    }

    /// A stream is there. Larger priorities go first.
    pub fn join(&mut self, priority: u8) -> TurnId {
        self.last += 1;
        let id = TurnId(self.last);
        let stream = Stream { priority, mark: self.mark, waits: false, called: None };
        self.streams.insert(id, stream);
        id
    }

    /// It is gone.
    pub fn leave(&mut self, id: TurnId) {
        self.streams.remove(&id);
    }

    /// A stream has something to write. It waits from now on, until it is its turn.
    pub fn ask(&mut self, now: Instant, id: TurnId) -> Turn {
        let Some(stream) = self.streams.get_mut(&id) else { return Turn::Now };
        if !stream.waits {
            (stream.waits, stream.called) = (true, None);
            stream.mark = stream.mark.max(self.mark);
        }
        if now < self.free_at {
            return Turn::Later(self.free_at);
        }
        while let Some(first) = self.next() {
            let Some(stream) = self.streams.get_mut(&first) else { break };
            let until = *stream.called.get_or_insert(now) + Self::GRACE;
            if first == id {
                stream.waits = false;
                return Turn::Now;
            }
            if now < until {
                return Turn::Later(until);
            }
            // It asks again, should it still be there.
            stream.waits = false;
        }
        Turn::Now
    }

    /// Whose turn is next of those that wait: it is to be called when the link is free.
    #[must_use]
    pub fn next(&self) -> Option<TurnId> {
        let waiting = self.streams.iter().filter(|(_, stream)| stream.waits);
        let first = waiting.min_by_key(|(id, it)| (Reverse(it.priority), it.mark, **id));
        first.map(|(id, _)| *id)
    }

    /// A stream has written, in its turn.
    pub fn handle_written(&mut self, now: Instant, id: TurnId, bytes: usize) {
        let bytes = bytes as u64;
        if let Some(stream) = self.streams.get_mut(&id) {
            self.mark = self.mark.max(stream.mark);
            stream.mark = stream.mark.max(self.mark).saturating_add(bytes);
        }
        let took = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.free_at = self.free_at.max(now.checked_sub(Self::BURST).unwrap_or(now)) + took;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at;

    /// Lets every stream write whenever it may, so much at once, and says what each has written.
    fn run(turns: &mut Turns, begun: Instant, streams: &[(TurnId, usize)], ms: u64) -> Vec<u64> {
        let mut written = vec![0; streams.len()];
        for at in 0..ms {
            let now = begun + Duration::from_millis(at);
            // Who is asked first in a millisecond gains nothing by it.
            for turn in 0..streams.len() * 8 {
                let place = (turn + at as usize) % streams.len();
                let (id, size) = streams[place];
                // It has always more to write.
                while turns.ask(now, id) == Turn::Now {
                    let bytes = size.min(turns.bytes());
                    turns.handle_written(now, id, bytes);
                    written[place] += bytes as u64;
                }
            }
        }
        written
    }

    proptest! {
        #[test]
        fn among_equals_each_gets_the_same_however_much_it_writes_at_once(
            sizes in prop::collection::vec(1000..300_000_usize, 2..9),
            rate in 1_000_000..20_000_000_u64,
        ) {
            let begun = at(0);
            let mut turns = Turns::new(begun, rate);
            let streams: Vec<_> = sizes.iter().map(|size| (turns.join(3), *size)).collect();
            let written = run(&mut turns, begun, &streams, 2000);
            let (least, most) = (written.iter().min().unwrap(), written.iter().max().unwrap());
            // No further apart than what one turn of each is.
            prop_assert!(most - least <= 2 * turns.bytes() as u64, "{written:?}");
            let all: u64 = written.iter().sum();
            prop_assert!(all <= 2 * rate + rate / 10 + 8 * turns.bytes() as u64, "{all}");
        }

        #[test]
        fn nobody_goes_before_the_more_urgent_and_nothing_is_left_unused(
            priorities in prop::collection::vec(0..4_u8, 2..7),
        ) {
            let begun = at(0);
            let mut turns = Turns::new(begun, 1_000_000);
            let streams: Vec<_> = priorities.iter().map(|p| (turns.join(*p), 50_000)).collect();
            let written = run(&mut turns, begun, &streams, 1000);
            let top = priorities.iter().max().unwrap();
            for (bytes, priority) in written.iter().zip(&priorities) {
                prop_assert!(priority == top || *bytes <= 10_000, "{priorities:?} {written:?}");
            }
            prop_assert!(written.iter().sum::<u64>() >= 990_000, "{written:?}");
        }
    }

    #[test]
    fn who_comes_late_saves_nothing_up() {
        let begun = at(0);
        let mut turns = Turns::new(begun, 1_000_000);
        let first = turns.join(0);
        let second = turns.join(0);
        let alone = run(&mut turns, begun, &[(first, 10_000)], 1000);
        assert!(alone[0] >= 990_000, "{alone:?}");
        let streams = [(first, 10_000), (second, 10_000)];
        let shared = run(&mut turns, begun + Duration::from_secs(1), &streams, 1000);
        assert!(shared[0].abs_diff(shared[1]) <= 20_000, "{shared:?}");
    }

    #[test]
    fn who_is_called_and_does_not_come_is_passed_over() {
        let begun = at(0);
        let mut turns = Turns::new(begun, 1_000_000);
        let (gone, there) = (turns.join(0), turns.join(0));
        turns.handle_written(begun, there, 100_000);
        assert!(matches!(turns.ask(begun, gone), Turn::Later(_)));
        assert!(matches!(turns.ask(begun, there), Turn::Later(_)));
        let free = begun + Duration::from_millis(100);
        assert_eq!(turns.next(), Some(gone));
        let Turn::Later(until) = turns.ask(free, there) else { panic!("it is the other's turn") };
        assert_eq!(turns.ask(until, there), Turn::Now);
        turns.leave(gone);
        assert_eq!(turns.ask(until + Duration::from_secs(1), there), Turn::Now);
    }
}
