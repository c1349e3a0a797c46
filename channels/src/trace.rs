//! The trace to which a message belongs that is sent while a handler works on another one.
//!
//! While a handler is polled, what it sends belongs to the trace of the message that it was given, unless
//! [`trace`](crate::RequestBuilder::trace) says otherwise. A task that it starts is another matter: it passes
//! [`Delivery::trace`](crate::Delivery::trace) on itself, or wraps its work in [`carried`].

use std::{cell::Cell, future::poll_fn, pin::pin};

use crate::TraceContext;

thread_local! {
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// What is sent now belongs to this trace. `None` outside of handlers, and in handlers of messages without one.
#[must_use]
pub fn current() -> Option<TraceContext> {
    CURRENT.get()
}

/// Runs `work`; what it sends meanwhile belongs to `trace`, or to none.
pub fn within<T>(trace: Option<TraceContext>, work: impl FnOnce() -> T) -> T {
    struct Restored(Option<TraceContext>);
    impl Drop for Restored {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restored = Restored(CURRENT.replace(trace));
    work()
}

/// The same for a future: whenever it is polled, by whatever task.
///
/// # Cancellation
/// As that of `work`.
pub async fn carried<F: Future>(trace: Option<TraceContext>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|poller| within(trace, || work.as_mut().poll(poller))).await
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const ONE: TraceContext = TraceContext([1; 25]);
    const OTHER: TraceContext = TraceContext([2; 25]);

    #[test]
    fn what_was_before_holds_again_afterwards_also_after_a_panic() {
        assert_eq!(current(), None);
        within(Some(ONE), || {
            assert_eq!(current(), Some(ONE));
            let panicked = catch_unwind(AssertUnwindSafe(|| within(Some(OTHER), || panic!("x"))));
            assert!(panicked.is_err());
            within(None, || assert_eq!(current(), None));
            assert_eq!(current(), Some(ONE));
        });
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn futures_that_take_turns_keep_their_own() {
        async fn twice(expected: TraceContext) {
            assert_eq!(current(), Some(expected));
            tokio::task::yield_now().await;
            assert_eq!(current(), Some(expected));
        }
        let (one, other) = (carried(Some(ONE), twice(ONE)), carried(Some(OTHER), twice(OTHER)));
        futures_util::future::join(one, other).await;
        assert_eq!(current(), None);
    }
}
