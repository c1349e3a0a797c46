//! When a cell asks for another certificate, and how often it is given one: arithmetic over dates.
//!
//! ```text
//!  0          1/2       60 %   2/3   73 %   3/4                1
//!  |-----------|----------|-----|-----|------|------------------|
//!  not before  may be     asks, by its       is warned about    not after
//!              asked for  own share
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{status::Status, transcript::sha256};

/// Where the next certificate of a cell comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RenewedBy {
    /// The server, which has an issuing authority and is asked while the cell runs.
    Server,
    /// Whoever provisions, who has to hand over another one.
    People,
}

/// When a certificate counts, in seconds since 1970; both ends are inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl Life {
    /// Its length in seconds.
    #[must_use]
    pub fn length(self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// From when on another one is asked for, in seconds since 1970: at two thirds, a fifteenth of the life sooner
    /// or later, so that cells that were provisioned together do not ask together.
    ///
    /// # Arguments
    /// `seed`: the hash of the certificate: whoever sees the certificate knows when it will be renewed.
    #[must_use]
    pub fn due(self, seed: &[u8; 32]) -> u64 {
        let life = self.length();
        let (earliest, spread) = (part(life, 3, 5), part(life, 2, 15));
        let late = (u128::from(spread) * u128::from(share(seed, 0))) >> 32;
        self.not_before.saturating_add(earliest).saturating_add(whole(late))
    }

    /// From when on one may be asked for at all: at half of it.
    #[must_use]
    pub fn askable(self) -> u64 {
        self.not_before.saturating_add(self.length() / 2)
    }

    /// Whether people should know that it has not been renewed: less than a quarter of it is left.
    #[must_use]
    pub fn is_late(self, now_unix: u64) -> bool {
        self.not_after.saturating_sub(now_unix) < self.length() / 4
    }

    /// How long a cell that is started when its renewal is overdue waits before it asks: half a minute at most, so that
    /// cells that are started together do not ask together.
    #[must_use]
    pub fn overdue(self, seed: &[u8; 32]) -> Duration {
        const LONGEST: Duration = Duration::from_secs(30);
        let most = LONGEST.min(Duration::from_secs(self.length()) / 1000);
        most.mul_f64(f64::from(share(seed, u32::MAX)) / f64::from(u32::MAX))
    }

    /// How long to wait after the `failures`th attempt in a row that came to nothing, from 1: twice as long each
    /// time, between half of that and all of it, and never so long that only a few attempts are left.
    #[must_use]
    pub fn retry(self, now_unix: u64, failures: u32, seed: &[u8; 32]) -> Duration {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(3600);
        const ATTEMPTS: u32 = 8;
        let doubled = 1u32 << failures.saturating_sub(1).min(16);
        let first = Duration::from_secs(self.length()) / 10_000;
        let left = Duration::from_secs(self.not_after.saturating_sub(now_unix));
        // Once it has ended nothing is urgent any more: only people can help.
        let most = if left.is_zero() { LONGEST } else { left / ATTEMPTS };
        let ceiling = first.max(SHORTEST).saturating_mul(doubled).min(most.min(LONGEST));
        let half = ceiling.max(SHORTEST) / 2;
        let jitter = half.mul_f64(f64::from(share(seed, failures)) / f64::from(u32::MAX));
        half + jitter
    }
}

/// A number that is another one for each certificate and attempt, evenly spread.
fn share(seed: &[u8; 32], attempt: u32) -> u32 {
    let hash = sha256(&[&seed[..], &attempt.to_be_bytes()].concat());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn part(life: u64, times: u128, of: u128) -> u64 {
    whole(u128::from(life) * times / of)
}

fn whole(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// How often each cell was given a certificate of late.
#[derive(Debug, Default)]
pub struct Grants {
    given: BTreeMap<String, VecDeque<u64>>,
}

/// Why a cell is given none for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Less than half of the life of the certificate that it has is over.
    #[error("less than half of the life of its certificate is over")]
    TooEarly,
    /// It was given as many as it can need.
    #[error("it was given {} certificates of late", Grants::MAX)]
    TooMany,
}

impl From<NotYet> for Status {
    fn from(_: NotYet) -> Self {
        Self::RateLimit
    }
}

impl Grants {
    /// Certificates that one cell is given within a tenth of the life of the one that it has: the replies to all but
    /// the last may have been lost.
    pub const MAX: usize = 5;

    /// Notes that the holder of a certificate with this life is given another one.
    ///
    /// # Errors
    /// [`NotYet`]; nothing is noted then.
    pub fn take(&mut self, name: &str, held: Life, now_unix: u64) -> Result<(), NotYet> {
        if now_unix < held.askable() {
            return Err(NotYet::TooEarly);
        }
        let since = now_unix.saturating_sub(held.length() / 10);
        if let Some(given) = self.given.get_mut(name) {
            given.retain(|at| *at >= since);
            if given.len() >= Self::MAX {
                return Err(NotYet::TooMany);
            }
        }
        self.given.entry(name.to_owned()).or_default().push_back(now_unix);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;
    const LIFE: Life = Life { not_before: 1_800_000_000, not_after: 1_800_000_000 + 90 * DAY };

    fn seed(number: u64) -> [u8; 32] {
        sha256(&number.to_be_bytes())
    }

    #[test]
    fn g_52_a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_all_at_once() {
        let dues: Vec<u64> = (0..1000).map(|number| LIFE.due(&seed(number))).collect();
        let (first, last) = (dues.iter().min().unwrap(), dues.iter().max().unwrap());
        let day = |unix: u64| (unix - LIFE.not_before) / DAY;
        assert_eq!((day(*first), day(*last)), (54, 65));
        let mean = dues.iter().map(|due| due - LIFE.not_before).sum::<u64>() / 1000;
        assert!((59 * DAY..61 * DAY).contains(&mean), "{mean}");
        assert_eq!(LIFE.due(&seed(7)), LIFE.due(&seed(7)), "everybody computes the same");
    }

    #[test]
    fn g_52_attempts_that_fail_are_made_again_less_and_less_often_until_the_end() {
        let (mut now, mut attempts) = (LIFE.due(&seed(1)), 0);
        let mut late = 0;
        while now < LIFE.not_after {
            attempts += 1;
            late += u32::from(LIFE.is_late(now));
            now += LIFE.retry(now, attempts, &seed(1)).as_secs().max(1);
        }
        assert!((100..2000).contains(&attempts), "{attempts}");
        assert!(late > 100, "it goes on trying when it becomes urgent: {late}");
        let after = LIFE.retry(LIFE.not_after + DAY, 9, &seed(1));
        assert!(after >= Duration::from_secs(1800), "what has ended is not asked about for ever");
    }

    #[test]
    fn a_certificate_that_was_just_given_is_not_renewed_and_none_is_given_without_end() {
        let mut grants = Grants::default();
        let half = LIFE.askable();
        assert_eq!(grants.take("a", LIFE, half - 1), Err(NotYet::TooEarly));
        for _ in 0..Grants::MAX {
            assert_eq!(grants.take("a", LIFE, half), Ok(()));
        }
        assert_eq!(grants.take("a", LIFE, half + 8 * DAY), Err(NotYet::TooMany));
        assert_eq!(grants.take("b", LIFE, half), Ok(()), "each for itself");
        assert_eq!(grants.take("a", LIFE, half + 10 * DAY), Ok(()), "once those are old");
    }

    proptest! {
        #[test]
        fn dates_of_any_kind_give_a_date_within_the_life(a in any::<u64>(), b in any::<u64>(), number in any::<u64>()) {
            let life = Life { not_before: a.min(b), not_after: a.max(b) };
            let due = life.due(&seed(number));
            prop_assert!((life.not_before..=life.not_after).contains(&due));
            prop_assert!(life.askable() <= due.saturating_add(1));
        }

        #[test]
        fn nobody_waits_for_nothing_or_longer_than_an_hour(a in any::<u64>(), b in any::<u64>(), now in any::<u64>(), failures in 1u32..) {
            let life = Life { not_before: a.min(b), not_after: a.max(b) };
            let wait = life.retry(now, failures, &seed(now));
            prop_assert!(wait >= Duration::from_millis(500));
            prop_assert!(wait <= Duration::from_secs(3600));
        }
    }
}
