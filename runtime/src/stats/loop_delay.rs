//! How late the event loop of a thread is: every actor of the thread waits for whoever does not give way.

use std::{
    cell::RefCell,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use cellbus_proto::name::ChannelTopic;
use serde::{Deserialize, Serialize};

use super::{Histogram, HistogramReport, micros, starved::Starved};
use crate::clock;

/// The event loop of one thread, looked at a hundred times a second.
#[derive(Debug, Default)]
pub struct LoopDelay {
    delay_us: Histogram,
    last_us: AtomicU64,
    recent: Mutex<Recent>,
}

/// The greatest delay of this half of a minute, and of the one before.
#[derive(Debug, Default)]
struct Recent {
    since: Option<Instant>,
    now: Worst,
    before: Worst,
}

/// A delay, and the handler that it is put down to.
#[derive(Clone, Debug, Default)]
struct Worst {
    us: u64,
    handler: Option<ChannelTopic>,
}

/// What a [`LoopDelay`] said at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoopReport {
    /// Microseconds by which the last look came too late.
    pub last_us: u64,
    /// The greatest of the last half minute, at least.
    pub recent_max_us: u64,
    /// The handler that this one is put down to: the longest of those that kept the thread meanwhile, where it is one
    /// that is logged.
    #[serde(default)]
    pub kept_by: Option<String>,
    /// Whether one of them was above 5 s: the cell cannot answer its neighbours in time.
    pub is_red: bool,
    /// All of them.
    pub delay_us: HistogramReport,
}

thread_local! {
    static OF_THIS_THREAD: RefCell<Weak<LoopDelay>> = const { RefCell::new(Weak::new()) };
    /// What has kept this thread for too long since the last look.
    static KEPT: RefCell<Option<(Duration, ChannelTopic)>> = const { RefCell::new(None) };
}

impl LoopDelay {
    /// Time between two looks.
    const EVERY: Duration = Duration::from_millis(10);
    /// A delay that is logged.
    pub const LOGGED: Duration = Duration::from_millis(250);
    /// A delay that makes [`LoopReport::is_red`] true.
    pub const RED: Duration = Duration::from_secs(5);
    /// How long the greatest delay is remembered, at least.
    const REMEMBERED: Duration = Duration::from_secs(30);

    /// The one of this thread, which must be one of actix; it looks for as long as somebody has it.
    #[must_use]
    pub fn of_this_thread() -> Arc<Self> {
        OF_THIS_THREAD.with_borrow_mut(|known| {
            if let Some(known) = known.upgrade() {
                return known;
            }
            let delay = Arc::new(Self::default());
            *known = Arc::downgrade(&delay);
            actix::spawn(watch(Arc::downgrade(&delay)));
            delay
        })
    }

    /// What there is to say.
    #[must_use]
    pub fn report(&self) -> LoopReport {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let worst = if recent.now.us >= recent.before.us { &recent.now } else { &recent.before };
        let recent_max_us = worst.us;
        LoopReport {
            last_us: self.last_us.load(Ordering::Relaxed),
            recent_max_us,
            kept_by: worst.handler.as_ref().map(ToString::to_string),
            is_red: recent_max_us > micros(Self::RED),
            delay_us: self.delay_us.report(),
        }
    }

    fn note(&self, now: Instant, delay: Duration, handler: Option<&ChannelTopic>) {
        let delay_us = micros(delay);
        self.delay_us.record(delay_us);
        self.last_us.store(delay_us, Ordering::Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *recent.since.get_or_insert(now);
        if now.saturating_duration_since(since) > Self::REMEMBERED {
            let before = std::mem::take(&mut recent.now);
            *recent = Recent { since: Some(now), now: Worst::default(), before };
        }
        if delay_us > recent.now.us {
            recent.now = Worst { us: delay_us, handler: handler.cloned() };
        }
    }
}

async fn watch(delay: Weak<LoopDelay>) {
    let mut starved = Starved::of_this_thread();
    loop {
        let due = clock::now() + LoopDelay::EVERY;
        tokio::time::sleep_until(due.into()).await;
        let Some(of_thread) = delay.upgrade() else { return };
        let now = clock::now();
        let late = now.saturating_duration_since(due);
        let (kept, starved) = (KEPT.take(), starved.since_last());
        let kept = kept.filter(|_| late >= LoopDelay::LOGGED);
        of_thread.note(now, late, kept.as_ref().map(|(_, handler)| handler));
        if late < LoopDelay::LOGGED {
            continue;
        }
        let delay_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        if late.saturating_sub(starved) < LoopDelay::LOGGED {
            let starved_ms = u64::try_from(starved.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(delay_ms, starved_ms, "the machine has no processor for the event loop");
            continue;
        }
        match kept {
            Some((_, handler)) => {
                tracing::warn!(delay_ms, %handler, "a handler kept the event loop from all others");
            }
            None => tracing::warn!(delay_ms, "the event loop was kept from its work"),
        }
    }
}

/// Remembers, until the loop is looked at, that a handler kept the thread for `span`, where that is long.
pub(crate) fn note_kept(handler: &ChannelTopic, span: Duration) {
    if span < LoopDelay::LOGGED {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(longest, _)| *longest < span) {
            *kept = Some((span, handler.clone()));
        }
    });
}

/// Polls a handler; what takes it long is put down to it.
pub(crate) fn watched<T>(
    handler: &ChannelTopic,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> impl Future<Output = T> {
    std::future::poll_fn(move |cx| {
        let begun = clock::now();
        let polled = poll(cx);
        note_kept(handler, clock::now().saturating_duration_since(begun));
        polled
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_26_the_greatest_delay_is_remembered_for_half_a_minute_and_then_forgotten() {
        let (delay, start) = (LoopDelay::default(), clock::now());
        let handler: ChannelTopic = "task/train".parse().unwrap();
        delay.note(start, Duration::from_secs(6), Some(&handler));
        delay.note(start + Duration::from_secs(29), Duration::from_millis(1), None);
        let report = delay.report();
        assert_eq!((report.last_us, report.recent_max_us), (1000, 6_000_000));
        assert!(report.is_red);
        delay.note(start + Duration::from_secs(31), Duration::from_millis(2), None);
        assert!(delay.report().is_red, "it is of the half minute before");
        assert_eq!(delay.report().kept_by.as_deref(), Some("task/train"));
        delay.note(start + Duration::from_secs(62), Duration::from_millis(2), None);
        let report = delay.report();
        assert_eq!((report.recent_max_us, report.is_red, report.kept_by), (2000, false, None));
        assert_eq!((report.delay_us.count, report.delay_us.max), (4, 6_000_000));
    }

    #[test]
    fn g_26_what_keeps_the_thread_is_known_by_its_handler() {
        let handler: ChannelTopic = "task/train".parse().unwrap();
        note_kept(&handler, Duration::from_millis(249));
        assert_eq!(KEPT.take(), None, "not for long enough");
        note_kept(&"task/short".parse().unwrap(), Duration::from_millis(260));
        note_kept(&handler, Duration::from_millis(300));
        note_kept(&"task/short".parse().unwrap(), Duration::from_millis(270));
        assert_eq!(KEPT.take(), Some((Duration::from_millis(300), handler)));
    }

    #[test]
    fn g_26_a_loop_that_is_kept_waiting_measures_how_long() {
        actix::System::new().block_on(async {
            let delay = LoopDelay::of_this_thread();
            assert!(Arc::ptr_eq(&delay, &LoopDelay::of_this_thread()), "one for each thread");
            tokio::time::sleep(LoopDelay::EVERY).await;
            let begun = clock::now();
            while clock::now().saturating_duration_since(begun) < LoopDelay::LOGGED {
                std::hint::spin_loop();
            }
            while delay.report().recent_max_us < 200_000 {
                tokio::time::sleep(LoopDelay::EVERY).await;
            }
        });
    }
}
