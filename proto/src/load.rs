//! How much may be taken on at once, by a cell and of one origin.

use std::collections::BTreeMap;

/// Messages, and the bytes that they are counted as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Messages.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
}

/// What is held now, and by whom.
///
/// The first half of the limit goes to whoever comes first. Of the second half nobody gets what would bring
/// him over a quarter of the whole: however much one origin sends, there is room for others.
#[derive(Debug)]
pub struct Load<K> {
    limit: Amount,
    held: Amount,
    by_origin: BTreeMap<K, Amount>,
}

/// There is no room for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for the message")]
pub struct Full;

impl<K: Ord + Clone> Load<K> {
    /// Shortest time that a refused sender is told to wait, in milliseconds.
    pub const RETRY_MIN_MS: u32 = 100;
    /// Longest.
    pub const RETRY_MAX_MS: u32 = 2000;

    /// Nothing is held, and at most `limit` will be.
    #[must_use]
    pub fn new(limit: Amount) -> Self {
        Self { limit, held: Amount::default(), by_origin: BTreeMap::new() }
    }

    /// Whether there is room for one message of `bytes` from `origin`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn check(&self, origin: &K, bytes: usize) -> Result<(), Full> {
        let after = self.held.with(bytes);
        if after.fits(self.limit.part(2)) {
            return Ok(());
        }
        let of_origin = self.by_origin.get(origin).copied().unwrap_or_default().with(bytes);
        let has_room = after.fits(self.limit) && of_origin.fits(self.limit.part(4));
        if has_room { Ok(()) } else { Err(Full) }
    }

    /// Holds one message of `bytes` from `origin`, which has been checked.
    pub fn hold(&mut self, origin: &K, bytes: usize) {
        self.held = self.held.with(bytes);
        match self.by_origin.get_mut(origin) {
            Some(amount) => *amount = amount.with(bytes),
            None => {
                self.by_origin.insert(origin.clone(), Amount::default().with(bytes));
            }
        }
    }

    /// Gives back what was held.
    pub fn release(&mut self, origin: &K, bytes: usize) {
        self.held = self.held.without(bytes);
        if let Some(amount) = self.by_origin.get_mut(origin) {
            *amount = amount.without(bytes);
            if amount.messages == 0 {
                self.by_origin.remove(origin);
            }
        }
    }

    /// All that is held.
    #[must_use]
    pub fn held(&self) -> Amount {
        self.held
    }

    /// Milliseconds after which it makes sense to try again, spread evenly by `random`, so that those
    /// who were refused together do not come back together.
    #[must_use]
    pub fn retry_after_ms(random: u64) -> u32 {
        // Neighbouring numbers make far apart times: the finaliser of splitmix64.
        let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let span = u64::from(Self::RETRY_MAX_MS - Self::RETRY_MIN_MS + 1);
        let within = u32::try_from((mixed ^ (mixed >> 31)) % span).expect("less than the span");
        Self::RETRY_MIN_MS + within
    }
}

impl Amount {
    fn with(self, bytes: usize) -> Self {
        Self { messages: self.messages + 1, bytes: self.bytes.saturating_add(bytes) }
    }

    fn without(self, bytes: usize) -> Self {
        Self { messages: self.messages.saturating_sub(1), bytes: self.bytes.saturating_sub(bytes) }
    }

    fn part(self, of: usize) -> Self {
        Self { messages: self.messages / of, bytes: self.bytes / of }
    }

    fn fits(self, limit: Self) -> bool {
        self.messages <= limit.messages && self.bytes <= limit.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(messages: usize, bytes: usize) -> Load<char> {
        Load::new(Amount { messages, bytes })
    }

    fn fill(load: &mut Load<char>, origin: char, bytes: usize) -> usize {
        let room = std::iter::repeat_with(|| {
            load.check(&origin, bytes)?;
            load.hold(&origin, bytes);
            Ok::<_, Full>(())
        });
        room.take(10_000).take_while(Result::is_ok).count()
    }

    #[test]
    fn one_origin_never_takes_what_others_need() {
        let mut load = load(1000, 1000);
        assert_eq!(fill(&mut load, 'a', 10), 50, "half of the bytes for whoever comes first");
        assert_eq!(fill(&mut load, 'b', 10), 25, "and a quarter for each of the others");
        assert_eq!(fill(&mut load, 'c', 10), 25);
        assert_eq!(fill(&mut load, 'd', 10), 0);
        for _ in 0..30 {
            load.release(&'a', 10);
        }
        assert_eq!(fill(&mut load, 'a', 10), 5, "a quarter, as everybody");
        assert_eq!(fill(&mut load, 'd', 10), 25);
    }

    #[test]
    fn small_messages_are_counted_too() {
        let mut load = load(8, usize::MAX);
        assert_eq!(fill(&mut load, 'a', 0), 4);
        assert_eq!(fill(&mut load, 'b', 0), 2);
        assert_eq!(load.held(), Amount { messages: 6, bytes: 0 });
    }

    #[test]
    fn g_25_the_times_to_wait_are_spread_over_the_range() {
        let times: Vec<u32> = (0..2000).map(Load::<u8>::retry_after_ms).collect();
        assert!(times.iter().all(|ms| (100..=2000).contains(ms)));
        let early = times.iter().filter(|ms| **ms < 1050).count();
        assert!((800..1200).contains(&early), "{early} of 2000");
    }

    proptest! {
        #[test]
        fn g_20_no_more_is_held_than_allowed_and_all_comes_back(
            events in prop::collection::vec((0u8..4, 0usize..40, any::<bool>()), 0..200),
        ) {
            let mut load = Load::new(Amount { messages: 20, bytes: 300 });
            let mut held = Vec::new();
            for (origin, bytes, takes) in events {
                if takes {
                    if load.check(&origin, bytes).is_ok() {
                        load.hold(&origin, bytes);
                        held.push((origin, bytes));
                    }
                } else if let Some((origin, bytes)) = held.pop() {
                    load.release(&origin, bytes);
                }
                prop_assert!(load.held().fits(load.limit));
                prop_assert_eq!(load.held().messages, held.len());
            }
            for (origin, bytes) in held {
                load.release(&origin, bytes);
            }
            prop_assert_eq!(load.held(), Amount::default());
            prop_assert!(load.by_origin.is_empty());
        }
    }
}
