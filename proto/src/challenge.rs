//! Challenges that wait for their answer: one each, used once, for a short time, never many.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::status::Status;

/// A challenge that was made for `K`, which the receiver knows by itself (a connection, never a name
/// from the wire).
#[derive(Debug)]
pub struct ChallengeBook<K> {
    pending: BTreeMap<K, Pending>,
    life: Duration,
    max: usize,
    last_id: u64,
}

/// One challenge.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Number of the challenge, for the transcript.
    pub id: u64,
    /// What is to be signed.
    pub nonce: [u8; 32],
}

#[derive(Clone, Debug)]
struct Pending {
    challenge: Challenge,
    made: Instant,
}

/// Why there is no challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Nothing is pending for this key.
    #[error("no challenge is pending")]
    None,
    /// What was pending is too old.
    #[error("the challenge has expired")]
    Expired,
    /// The book is full.
    #[error("too many challenges are pending")]
    Full,
}

impl From<ChallengeError> for Status {
    fn from(error: ChallengeError) -> Self {
        match error {
            ChallengeError::None => Self::NoChallenge,
            ChallengeError::Expired => Self::ChallengeExpired,
            ChallengeError::Full => Self::ChallengeLimit,
        }
    }
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Challenge({}, ***)", self.id)
    }
}

impl<K: Ord + Clone> ChallengeBook<K> {
    /// Life of a challenge unless configured otherwise.
    pub const LIFE: Duration = Duration::from_secs(30);
    /// No configuration may let a challenge live longer.
    pub const LIFE_CEILING: Duration = Duration::from_secs(60);
    /// Challenges pending at once unless configured otherwise.
    pub const MAX: usize = 1024;

    /// An empty book. `life` is cut to [`Self::LIFE_CEILING`].
    #[must_use]
    pub fn new(life: Duration, max: usize) -> Self {
        let life = life.min(Self::LIFE_CEILING);
        Self { pending: BTreeMap::new(), life, max, last_id: 0 }
    }

    /// Makes a challenge for `key` from a nonce that the caller drew from the operating system. A
    /// challenge that was pending for the same key is replaced.
    ///
    /// # Errors
    /// [`ChallengeError::Full`] when the book is full of living challenges of others.
    pub fn issue(
        &mut self,
        now: Instant,
        key: K,
        nonce: [u8; 32],
    ) -> Result<Challenge, ChallengeError> {
        if !self.pending.contains_key(&key) && self.pending.len() >= self.max {
            self.sweep(now);
            if self.pending.len() >= self.max {
                return Err(ChallengeError::Full);
            }
        }
        self.last_id += 1;
        let challenge = Challenge { id: self.last_id, nonce };
        self.pending.insert(key, Pending { challenge: challenge.clone(), made: now });
        Ok(challenge)
    }

    /// Takes the challenge of `key` out of the book, whatever becomes of the attempt.
    ///
    /// # Errors
    /// [`ChallengeError::None`] or [`ChallengeError::Expired`]; either way nothing is pending afterwards.
    pub fn take(&mut self, now: Instant, key: &K) -> Result<Challenge, ChallengeError> {
        let pending = self.pending.remove(key).ok_or(ChallengeError::None)?;
        if now.saturating_duration_since(pending.made) > self.life {
            return Err(ChallengeError::Expired);
        }
        Ok(pending.challenge)
    }

    /// Forgets the challenge of `key`: its connection has ended.
    pub fn forget(&mut self, key: &K) {
        self.pending.remove(key);
    }

    /// Forgets every challenge that no longer can be answered.
    pub fn sweep(&mut self, now: Instant) {
        let life = self.life;
        self.pending.retain(|_, pending| now.saturating_duration_since(pending.made) <= life);
    }

    /// Forgets every challenge whose key does not satisfy `keep`.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.pending.retain(|key, _| keep(key));
    }

    /// Challenges that are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn book() -> ChallengeBook<u64> {
        ChallengeBook::new(ChallengeBook::<u64>::LIFE, 4)
    }

    #[test]
    fn s0_07_the_first_attempt_uses_the_challenge_up() {
        let mut book = book();
        let made = book.issue(at(0), 1, [1; 32]).unwrap();
        assert_eq!(book.take(at(1), &1), Ok(made));
        assert_eq!(book.take(at(1), &1), Err(ChallengeError::None));
    }

    #[test]
    fn s0_08_a_challenge_ends_after_its_life_and_never_lives_longer_than_the_ceiling() {
        let mut book = book();
        book.issue(at(0), 1, [1; 32]).unwrap();
        assert!(book.take(at(30), &1).is_ok());
        book.issue(at(0), 1, [1; 32]).unwrap();
        assert_eq!(book.take(at(31), &1), Err(ChallengeError::Expired));
        assert_eq!(book.take(at(0), &1), Err(ChallengeError::None));
        let mut long = ChallengeBook::new(Duration::from_secs(3600), 4);
        long.issue(at(0), 1, [1; 32]).unwrap();
        assert_eq!(long.take(at(61), &1), Err(ChallengeError::Expired));
    }

    #[test]
    fn s0_09_without_a_pending_challenge_there_is_none() {
        assert_eq!(book().take(at(0), &7), Err(ChallengeError::None));
    }

    #[test]
    fn s0_10_memory_is_flat_under_a_million_requests_from_one_peer_and_full_is_refused() {
        let mut book = book();
        for n in 0..1_000_000u32 {
            book.issue(at(0), 1, [n as u8; 32]).unwrap();
        }
        assert_eq!(book.len(), 1);
        for key in 2..=4 {
            book.issue(at(0), key, [0; 32]).unwrap();
        }
        assert_eq!(book.issue(at(1), 5, [0; 32]), Err(ChallengeError::Full));
        assert_eq!(book.len(), 4);
        assert!(book.issue(at(31), 5, [0; 32]).is_ok(), "the swept room is used again");
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn s0_11_a_challenge_of_one_peer_leaves_the_others_alone() {
        let mut book = book();
        let victim = book.issue(at(0), 1, [1; 32]).unwrap();
        book.issue(at(0), 2, [2; 32]).unwrap();
        assert_eq!(book.take(at(1), &1), Ok(victim));
    }
}
