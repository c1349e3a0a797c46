//! What one stream of a program has printed: the last of it, taken at a bounded rate.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::Printed;

/// Bytes that are kept; older ones are dropped.
const KEPT_MAX: usize = 256 << 10;
/// Bytes that are given at a time.
const GIVEN_MAX: usize = 64 << 10;
/// Bytes a second that are taken; a program that prints more waits.
const RATE: u64 = 1 << 20;
/// Bytes that may be ahead of the rate.
const AHEAD: u64 = 1 << 20;

/// The last of what a stream has printed.
pub(super) struct Log {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How many bytes came before those that are kept.
    before: u64,
    is_end: bool,
}

impl Log {
    /// Reads `fd` until its end, in the background.
    pub(super) fn read(fd: OwnedFd) -> io::Result<Arc<Self>> {
        let receiver = Receiver::from_owned_fd(fd)?;
        let log = Arc::new(Self { kept: Mutex::default(), news: Notify::new() });
        tokio::spawn(Arc::clone(&log).take(receiver));
        Ok(log)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: Arc<Self>, mut from: Receiver) {
        const CHUNK: usize = 16 << 10;
        let mut chunk = vec![0; CHUNK];
        // When everything so far would have come at the rate.
        let mut paid_until = Instant::now();
        loop {
            let now = Instant::now();
            let ahead = Duration::from_millis(AHEAD * 1000 / RATE);
            paid_until = paid_until.max(now);
            if paid_until > now + ahead {
                sleep_until(paid_until - ahead).await;
            }
            match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    paid_until += Duration::from_micros(len as u64 * 1_000_000 / RATE);
                    self.kept().push(&chunk[..len]);
                    self.news.notify_waiters();
                }
            }
        }
        self.kept().is_end = true;
        self.news.notify_waiters();
    }

    /// What came from byte `from` on; waits until there is something.
    pub(super) async fn from(&self, from: u64) -> Printed {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Heard from now on: what comes after the look is not missed.
            news.as_mut().enable();
            if let Some(printed) = self.kept().from(from) {
                return printed;
            }
            news.await;
        }
    }
}

impl Kept {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Moved seldom, so that each byte is moved at most twice.
        if self.bytes.len() > 2 * KEPT_MAX {
            let surplus = self.bytes.len() - KEPT_MAX;
            self.bytes.drain(..surplus);
            self.before += surplus as u64;
        }
    }

    fn from(&self, from: u64) -> Option<Printed> {
        let surplus = self.bytes.len().saturating_sub(KEPT_MAX);
        let start = usize::try_from(from.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let start = start.max(surplus).min(self.bytes.len());
        let end = self.bytes.len().min(start + GIVEN_MAX);
        if start == end && !self.is_end {
            return None;
        }
        let is_end = self.is_end && end == self.bytes.len();
        let bytes = self.bytes[start..end].to_vec();
        Some(Printed { bytes, from: self.before + start as u64, is_end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j_32_a_flood_leaves_its_last_bytes_and_a_gap_that_can_be_seen() {
        let mut kept = Kept::default();
        assert_eq!(kept.from(0), None);
        for round in 0..64u8 {
            kept.push(&vec![round; 64 << 10]);
            assert!(kept.bytes.len() <= 2 * KEPT_MAX + (64 << 10));
        }
        let all = 64 * (64 << 10);
        let printed = kept.from(0).expect("there is something");
        assert_eq!(printed.from, all - KEPT_MAX as u64);
        assert_eq!((printed.bytes.len(), printed.bytes[0]), (GIVEN_MAX, 60));
        assert_eq!(kept.from(all), None);
        kept.is_end = true;
        assert_eq!(kept.from(all), Some(Printed { bytes: vec![], from: all, is_end: true }));
    }
}
