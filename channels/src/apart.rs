//! Handlers beside the thread of their cell.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    handler::{Delivery, Failure, Handler, Reply},
    trace,
    transport::BoxFuture,
};

/// `handler`, polled on a thread of its own for each message, so that its cell goes on whatever it does, heartbeats
/// included: for async code that may block where nobody expects it.
///
/// What it awaits, it awaits as any other handler does, and it is dropped when nobody waits any longer, as soon as it
/// awaits something. Each message that is handled takes one of the threads on which blocking work runs, 512 where the
/// runtime says nothing else, so register it with a bound; and two changes of threads, so not for what has to be fast.
///
/// # Panics
/// Its messages are answered as those of any handler that panics, where it does; and where it is called outside of a
/// tokio runtime.
pub fn apart(handler: impl Handler) -> impl Handler {
    Apart(Arc::new(handler))
}

struct Apart<H>(Arc<H>);

impl<H: Handler> Handler for Apart<H> {
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        let (handler, trace, runtime) = (Arc::clone(&self.0), trace::current(), Handle::current());
        let (waits, nobody_waits) = oneshot::channel::<()>();
        let work = tokio::task::spawn_blocking(move || {
            runtime.block_on(trace::carried(trace, async move {
                tokio::select! {
                    biased;
                    outcome = async { handler.handle(delivery).await } => outcome,
                    // For nobody: who waited was dropped.
                    _ = nobody_waits => Ok(Reply::default()),
                }
            }))
        });
        Box::pin(async move {
            let _waits = waits;
            crate::handler::joined(work.await)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{Mutex, mpsc},
    };

    use super::*;
    use crate::{
        TraceContext, from_fn,
        handler::{Delivery, Origin},
    };

    fn delivery() -> Delivery {
        let origin = Origin {
            name: "site-1".parse().unwrap(),
            kind: cellbus_proto::identity::CellKind::Client,
            org: "org".parse().unwrap(),
            job: None,
        };
        Delivery::new(origin, "task/slow".parse().unwrap(), "x")
    }

    #[tokio::test]
    async fn f_20_a_handler_that_blocks_before_and_after_it_awaits_keeps_nobody() {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let blocking = apart(from_fn(move |_| {
            // Before there is a future, ..
            gate.lock().unwrap().recv().unwrap();
            let gate = Arc::clone(&gate);
            async move {
                tokio::task::yield_now().await;
                // .. and in the middle of it.
                gate.lock().unwrap().recv().unwrap();
                Ok(Reply::from(format!("{:?}", trace::current()).into_bytes()))
            }
        }));
        let trace = TraceContext([7; 25]);
        let handling = tokio::spawn(trace::within(Some(trace), || blocking.handle(delivery())));
        for _ in 0..2 {
            tokio::task::yield_now().await;
            assert!(!handling.is_finished());
            open.send(()).unwrap();
        }
        let reply = handling.await.unwrap().unwrap();
        assert_eq!(reply.payload, format!("{:?}", Some(trace)));
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_is_dropped_and_one_that_panics_panics() {
        let (held, dropped) = oneshot::channel::<()>();
        let held = Mutex::new(Some(held));
        let endless = apart(from_fn(move |_| {
            let held = held.lock().unwrap().take();
            async move {
                pending::<()>().await;
                drop(held);
                Ok(Reply::default())
            }
        }));
        drop(endless.handle(delivery()));
        assert!(dropped.await.is_err(), "it is dropped with what it has");
        let panics = apart(from_fn(|delivery: Delivery| async move {
            assert!(!delivery.expects_reply, "on purpose");
            Ok(Reply::default())
        }));
        assert!(tokio::spawn(panics.handle(delivery())).await.unwrap_err().is_panic());
    }
}
