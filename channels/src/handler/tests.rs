use std::{
    sync::Mutex,
    task::{Poll, Waker},
};

use super::*;
use crate::call::{Call, Outcome, Step};

fn delivery() -> Delivery {
    let origin = Origin {
        name: "site-1".parse().unwrap(),
        kind: CellKind::Client,
        org: "org".parse().unwrap(),
        job: None,
    };
    Delivery::new(origin, "task/train".parse().unwrap(), "x")
}

fn start<F, Fut>(function: F) -> Call
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    Call::new(&from_fn(function), delivery(), Line::default())
}

fn now(call: &mut Call) -> Option<Step> {
    match call.poll_step(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(step) => Some(step),
        Poll::Pending => None,
    }
}

fn replied(text: &'static str) -> Outcome {
    Outcome::Replied(Reply::from(Bytes::from_static(text.as_bytes())))
}

type Kept<T> = Arc<Mutex<Option<T>>>;

/// Keeps what a handler hands out.
fn keep<T>() -> (Kept<T>, Kept<T>) {
    let kept = Arc::new(Mutex::new(None));
    (Arc::clone(&kept), kept)
}

#[test]
fn a_handler_that_is_ready_at_once_has_ended_when_it_is_first_polled() {
    let mut call = start(|delivery| async move { Ok(delivery.payload.into()) });
    assert_eq!(now(&mut call), Some(Step::End(replied("x"))));
    let line = call.into_line().expect("nobody holds on to it");
    assert!(!line.defer().is_gone(), "it is as new");
}

#[test]
fn a_line_over_which_anything_was_asked_or_may_be_is_not_handed_on() {
    let mut call = start(|delivery| async move {
        drop(delivery.cancelled());
        Ok(Reply::default())
    });
    assert_eq!(now(&mut call), Some(Step::End(replied(""))));
    assert!(call.into_line().is_none(), "it has been used");
    let (given, kept) = keep();
    let mut call = start(move |delivery| {
        *given.lock().unwrap() = Some(delivery);
        async { Ok(Reply::default()) }
    });
    assert_eq!(now(&mut call), Some(Step::End(replied(""))));
    assert!(call.into_line().is_none(), "a handler may still ask");
    let kept: Delivery = kept.lock().unwrap().take().unwrap();
    assert!(kept.defer().is_gone(), "it asks too late");
    let only_one =
        Call::new(&from_fn(|_| async { Ok(Reply::default()) }), delivery(), Line::for_one_reply());
    assert!(only_one.into_line().is_none(), "it is not as every line");
}

#[test]
fn g_40_a_panic_is_an_outcome_wherever_it_happens() {
    let mut call = start(|_| async { panic!("while it runs") });
    assert_eq!(now(&mut call), Some(Step::End(Outcome::Panicked)));
    let mut call = start(|_| {
        assert!(std::env::args().count() == usize::MAX, "before it runs");
        async { Ok(Reply::default()) }
    });
    assert_eq!(now(&mut call), Some(Step::End(Outcome::Panicked)));
}

#[test]
fn a_token_answers_after_the_handler_has_returned() {
    let (given, token) = keep();
    let mut call = start(move |delivery| {
        *given.lock().unwrap() = Some(delivery.defer());
        async { Ok(Reply::later()) }
    });
    assert_eq!(now(&mut call), None);
    let token = token.lock().unwrap().take().unwrap();
    assert!(!token.is_gone());
    token.reply(Bytes::from_static(b"later")).unwrap();
    assert_eq!(now(&mut call), Some(Step::End(replied("later"))));
}

#[test]
fn a_token_that_is_dropped_answers_that_the_handler_is_gone() {
    let mut call = start(|delivery| async move {
        drop(delivery.defer());
        Ok(Reply::later())
    });
    let gone = Outcome::Failed(Failure::Unknown(Status::HandlerGone));
    assert_eq!(now(&mut call), Some(Step::End(gone)));
}

#[test]
fn an_error_of_the_handler_counts_before_its_token() {
    let (given, token) = keep();
    let mut call = start(move |delivery| {
        *given.lock().unwrap() = Some(delivery.defer());
        async { Err(Status::Draining.into()) }
    });
    let refused = Outcome::Failed(Failure::Refused(Status::Draining));
    assert_eq!(now(&mut call), Some(Step::End(refused)));
    drop(call);
    let token = token.lock().unwrap().take().unwrap();
    assert_eq!(token.reply(Bytes::new()), Err(ReplyGone));
}

#[test]
fn several_replies_leave_in_order_before_the_last_one() {
    let mut call = start(|delivery| async move {
        let replies = delivery.replies();
        for text in ["1", "2", "3", "4", "5", "6"] {
            replies.send(Bytes::from(text)).await.unwrap();
        }
        Ok(Bytes::from_static(b"last").into())
    });
    let mut seen = Vec::new();
    let end = loop {
        match now(&mut call).expect("it always goes on") {
            Step::Reply(reply) => seen.push(reply.payload),
            Step::End(outcome) => break outcome,
        }
    };
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(end, replied("last"));
}

#[test]
fn a_handler_waits_when_its_replies_do_not_leave() {
    let sent = Arc::new(Mutex::new(0));
    let count = Arc::clone(&sent);
    let mut call = start(move |delivery| {
        let count = Arc::clone(&count);
        async move {
            let replies = delivery.replies();
            loop {
                replies.send(Bytes::new()).await.unwrap();
                *count.lock().unwrap() += 1;
            }
        }
    });
    assert!(matches!(now(&mut call), Some(Step::Reply(_))));
    assert_eq!(*sent.lock().unwrap(), 4, "as many as may wait");
    assert!(matches!(now(&mut call), Some(Step::Reply(_))));
    assert_eq!(*sent.lock().unwrap(), 5);
}

#[test]
fn a_way_for_one_reply_takes_no_more() {
    let (given, result) = keep();
    let handler = from_fn(move |delivery: Delivery| {
        let given = Arc::clone(&given);
        async move {
            *given.lock().unwrap() = Some(delivery.replies().send(Bytes::new()).await);
            Ok(Reply::default())
        }
    });
    let mut call = Call::new(&handler, delivery(), Line::for_one_reply());
    assert!(matches!(now(&mut call), Some(Step::End(_))));
    assert_eq!(result.lock().unwrap().take(), Some(Err(ReplyGone)));
}

#[tokio::test]
async fn who_asks_is_told_when_nobody_waits_and_may_clean_up() {
    let (given, cleaned) = keep();
    let mut call = start(move |delivery| {
        let given = Arc::clone(&given);
        async move {
            delivery.cancelled().await;
            *given.lock().unwrap() = Some(());
            Ok(Reply::default())
        }
    });
    assert_eq!(now(&mut call), None);
    assert!(call.cancel(), "it has asked");
    assert!(matches!(now(&mut call), Some(Step::End(_))));
    assert!(cleaned.lock().unwrap().is_some());

    let mut deaf = start(|_| std::future::pending());
    assert_eq!(now(&mut deaf), None);
    assert!(!deaf.cancel(), "it is dropped at once");
}

#[tokio::test]
async fn what_is_asked_for_after_the_end_comes_too_late() {
    let (given, kept) = keep();
    let mut call = start(move |delivery| {
        *given.lock().unwrap() = Some(delivery);
        async { Ok(Reply::default()) }
    });
    assert!(matches!(now(&mut call), Some(Step::End(_))));
    drop(call);
    let delivery = kept.lock().unwrap().take().unwrap();
    assert!(delivery.defer().is_gone());
    assert_eq!(delivery.replies().send(Bytes::new()).await, Err(ReplyGone));
    delivery.cancelled().await;
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler_and_tells_whoever_listens() {
    let (given, kept) = keep();
    let mut call = start(move |delivery| {
        *given.lock().unwrap() = Some(delivery.cancelled());
        std::future::pending()
    });
    assert_eq!(now(&mut call), None);
    drop(call);
    let cancelled = kept.lock().unwrap().take().unwrap();
    cancelled.await;
}
