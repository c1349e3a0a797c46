//! Requests with ids of their own, and the contract that each of them has to end by.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{Class, RequestError};
use cellbus_harness::net::TestCell;
use tokio::{sync::Notify, time::Instant};

use crate::{figures::Spans, ledger::Ledger};

/// Time after its budget by which a request must have ended.
const GRACE: Duration = Duration::from_millis(250);

/// The requests of one scenario. Clones are one load.
#[derive(Clone, Debug, Default)]
pub struct Load(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ledger: Ledger,
    next: AtomicU64,
    open: AtomicUsize,
    ended: Notify,
    outcomes: Mutex<Vec<Outcome>>,
}

/// How one request ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its id, of which there is no other.
    pub id: String,
    /// Who sent it.
    pub from: String,
    /// When it was sent.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// What it was given.
    pub budget: Duration,
    /// `Ok` when the reply was what was sent.
    pub result: Result<(), RequestError>,
}

/// What came of a load: every request has ended, and as it must.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests that were answered.
    pub ok: usize,
    /// Requests that were certainly not executed.
    pub refused: usize,
    /// Requests that may have been executed.
    pub unknown: usize,
    /// The codes of both, with their numbers.
    pub codes: BTreeMap<&'static str, usize>,
    /// How long those that were answered took.
    pub spans: Spans,
    /// All of them.
    pub outcomes: Vec<Outcome>,
}

impl Load {
    /// What its requests made the cells do.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Sends a request and does not wait for it.
    pub fn send(&self, from: &TestCell, to: &str, target: &str, budget: Duration) {
        self.send_padded(from, to, target, budget, 0);
    }

    /// Sends a request of at least `bytes` and does not wait for it.
    pub fn send_padded(
        &self,
        from: &TestCell,
        to: &str,
        target: &str,
        budget: Duration,
        bytes: usize,
    ) {
        let request = self.clone().request(from.clone(), to, target, budget, bytes);
        actix_rt::spawn(request);
    }

    /// Sends a request and waits for its end.
    pub async fn ask(&self, from: &TestCell, to: &str, target: &str, budget: Duration) {
        self.clone().request(from.clone(), to, target, budget, 0).await;
    }

    fn request(
        self,
        from: TestCell,
        to: &str,
        target: &str,
        budget: Duration,
        bytes: usize,
    ) -> impl Future<Output = ()> + use<> {
        let id = format!("r{}", self.0.next.fetch_add(1, Ordering::Relaxed));
        let payload = Bytes::from(format!("{id} {}", "x".repeat(bytes)));
        let to = to.parse().expect("a cell name");
        let target = target.parse().expect("a channel and topic");
        let bus = from.running.bus();
        let begun = Instant::now();
        self.0.open.fetch_add(1, Ordering::Relaxed);
        async move {
            let sent = bus.request(to, target).payload(payload.clone()).budget(budget).send().await;
            let result = sent.map(|reply| assert_eq!(reply.payload, payload, "the reply to {id}"));
            let (took, from) = (begun.elapsed(), bus.name().to_string());
            self.lock().push(Outcome { id, from, begun, took, budget, result });
            self.0.open.fetch_sub(1, Ordering::Relaxed);
            self.0.ended.notify_waiters();
        }
    }

    /// Requests that have not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Waits until every request has ended, and holds each to the contract: one end, by its budget;
    /// answered means executed once, refused means never executed, and nothing is executed twice.
    ///
    /// # Panics
    /// When one breaks it.
    pub async fn verdict(&self) -> Verdict {
        while self.open() > 0 {
            let ended = self.0.ended.notified();
            if self.open() > 0 {
                ended.await;
            }
        }
        let outcomes = self.lock().clone();
        let mut verdict = Verdict::default();
        for outcome in &outcomes {
            let Outcome { id, from, took, budget, result, .. } = outcome;
            let executed = self.0.ledger.executions(id);
            assert!(executed <= 1, "{id} of {from} was executed {executed} times: {result:?}");
            assert!(*took <= *budget + GRACE, "{id} of {from} ended after {took:?} of {budget:?}");
            match result {
                Ok(()) => {
                    assert_eq!(executed, 1, "{id} of {from} was answered and never executed");
                    verdict.ok += 1;
                }
                Err(error) => {
                    *verdict.codes.entry(error.status().code()).or_default() += 1;
                    match error.class() {
                        Class::Refused => {
                            assert_eq!(executed, 0, "{id} of {from} was executed: {error}");
                            verdict.refused += 1;
                        }
                        Class::Unknown => verdict.unknown += 1,
                        Class::Failed => panic!("{id} of {from} failed in its handler: {error}"),
                    }
                }
            }
        }
        verdict.spans = outcomes.iter().filter(|o| o.result.is_ok()).map(|o| o.took).collect();
        verdict.outcomes = outcomes;
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    /// All requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there was no request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// How long the answered requests took that `which` names.
    pub fn spans_of(&self, which: impl Fn(&Outcome) -> bool) -> Spans {
        let answered = self.outcomes.iter().filter(|outcome| outcome.result.is_ok());
        answered.filter(|outcome| which(outcome)).map(|outcome| outcome.took).collect()
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ok, refused, unknown, codes, spans, .. } = self;
        write!(f, "{ok} ok, {refused} refused, {unknown} unknown {codes:?}; answered: {spans}")
    }
}
