//! The closed loop that drives every peer alike, and its clock.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::message::Driven;

/// Replies that take longer count as this long.
const LONGEST_NS: u64 = 60_000_000_000;

/// One thing that is done over and over: a request and its reply.
pub trait Call: Clone + Send + 'static {
    /// Sends `payload` and waits for the end. What comes back is as long as an answer must be.
    fn call(&self, payload: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// Length of the answer to a payload of `size` bytes.
    fn answer_len(&self, size: usize) -> usize {
        size
    }
}

/// How long to drive, and how hard.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Callers.
    pub callers: u32,
    /// Before anything is counted.
    pub warm: Duration,
    /// What is counted.
    pub window: Duration,
}

/// Times of replies.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

struct Shared {
    phase: AtomicU8,
    found: Mutex<Found>,
}

struct Found {
    times: Times,
    failed: u64,
    why: Option<String>,
}

const WARMS: u8 = 0;
const COUNTS: u8 = 1;
const ENDS: u8 = 2;

impl Times {
    /// No times.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Self(histogram.expect("the bounds are in order and three digits are allowed"))
    }

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS));
    }

    /// What they say about a window.
    #[must_use]
    pub fn driven(&self, window: Duration) -> Driven {
        #[expect(clippy::cast_precision_loss, reason = "minutes in nanoseconds are exact enough")]
        let us = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Driven {
            done: self.0.len(),
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            ..Driven::default()
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

/// Random bytes of the operating system.
///
/// # Errors
/// When it gives none.
pub fn payload(size: impl Into<u64>) -> Result<Bytes, String> {
    let mut bytes = vec![0; usize::try_from(size.into()).unwrap_or(0)];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(bytes.into())
}

/// Drives `call` from as many tasks as `pace` says, each with one call at a time.
///
/// # Arguments
/// `begun` is called when counting begins.
pub async fn closed_loop<C: Call>(
    call: C,
    payload: Bytes,
    pace: Pace,
    begun: impl FnOnce(),
) -> Driven {
    let found = Found { times: Times::new(), failed: 0, why: None };
    let shared = Arc::new(Shared { phase: AtomicU8::new(WARMS), found: Mutex::new(found) });
    let callers: Vec<_> = (0..pace.callers)
        .map(|_| tokio::spawn(caller(call.clone(), payload.clone(), Arc::clone(&shared))))
        .collect();
    tokio::time::sleep(pace.warm).await;
    begun();
    let from = Instant::now();
    shared.phase.store(COUNTS, Ordering::Relaxed);
    tokio::time::sleep(pace.window).await;
    shared.phase.store(ENDS, Ordering::Relaxed);
    let window = from.elapsed();
    for caller in callers {
        if let Err(error) = caller.await {
            shared.note(format!("a caller ended: {error}"));
        }
    }
    let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
    let why = found.why.take();
    Driven { failed: found.failed, why, ..found.times.driven(window) }
}

async fn caller<C: Call>(call: C, payload: Bytes, shared: Arc<Shared>) {
    let expected = call.answer_len(payload.len());
    while shared.phase.load(Ordering::Relaxed) != ENDS {
        let from = Instant::now();
        match call.call(payload.clone()).await {
            Ok(answer) if answer.len() == expected => {
                if shared.phase.load(Ordering::Relaxed) == COUNTS {
                    let took = from.elapsed();
                    let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.times.add(took);
                }
            }
            Ok(answer) => {
                shared.note(format!("an answer of {} bytes instead of {expected}", answer.len()));
            }
            Err(why) => {
                shared.note(why);
                // Whatever failed must have a chance to come about.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Shared {
    fn note(&self, why: String) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.failed += 1;
        found.why.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Answers(Result<usize, &'static str>);

    impl Call for Answers {
        async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
            tokio::task::yield_now().await;
            self.0.map(|len| payload.slice(..len)).map_err(str::to_owned)
        }
    }

    async fn driven(answers: Answers) -> Driven {
        let (warm, window) = (Duration::from_millis(2), Duration::from_millis(20));
        let pace = Pace { callers: 3, warm, window };
        closed_loop(answers, payload(8u32).expect("random bytes"), pace, || {}).await
    }

    #[tokio::test]
    async fn replies_are_counted_and_timed() {
        let driven = driven(Answers(Ok(8))).await;
        assert!(driven.done > 0 && driven.failed == 0, "{driven:?}");
        assert!(driven.window_ns >= 20_000_000);
        assert!(0.0 < driven.p50_us && driven.p50_us <= driven.p99_us, "{driven:?}");
    }

    #[tokio::test]
    async fn what_is_no_answer_counts_as_failure_and_not_as_reply() {
        let short = driven(Answers(Ok(7))).await;
        assert_eq!(short.done, 0);
        assert_eq!(short.why.as_deref(), Some("an answer of 7 bytes instead of 8"));
        let refused = driven(Answers(Err("no"))).await;
        assert!(refused.done == 0 && refused.failed >= 3, "{refused:?}");
        assert_eq!(refused.why.as_deref(), Some("no"));
    }
}
