//! Requests that go on.

use super::*;
use crate::control::{Ended, Event, Next, Payload, Say, ServeAsk, TapAsk};

/// A tap tells until the gate opens and then ends; whoever serves gets every answer told back.
pub(super) async fn run(
    cell: Arc<Fake>,
    request: Request,
    talk: Talk,
) -> Result<Reply, ControlError> {
    let ready = || Event::Ready { cell: status().cell, of: "task/*".to_owned() };
    let (events, mut said) = talk.split();
    if let Request::Tap(_) = request {
        let _held = Held(&cell.handled);
        for _ in 0..3 {
            events.send(ready()).await.unwrap();
        }
        let _open = cell.gate.acquire().await.unwrap();
        return Ok(Reply::Ended(Ended { events: 3, elapsed_us: 1 }));
    }
    loop {
        events.send(ready()).await.unwrap();
        match said.recv().await {
            Some(Say::Answer { number, .. }) if number < 3 => {}
            Some(_) | None => return Err(ControlError::status(Status::Forbidden, "enough")),
        }
    }
}

/// Counts those that have begun and not been dropped.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(100, Ordering::SeqCst);
        assert!(self.count() >= 100);
    }
}

fn tap() -> Request {
    Request::Tap(TapAsk { of: "task/*".to_owned(), sample: 1, payload: false })
}

fn serve() -> Request {
    Request::Serve(ServeAsk { of: "task/*".to_owned(), concurrency: 1 })
}

fn answer(number: u64) -> Say {
    let payload = Payload::Utf8("x".repeat(100_000));
    Say::Answer { number, payload, content_type: None }
}

#[tokio::test]
async fn events_come_before_the_end_and_in_order() {
    let served = Served::start();
    let mut talk = served.connect().await.converse(tap()).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(talk.next().await, Ok(Next::Event(Event::Ready { .. }))));
    }
    served.cell.gate.add_permits(1);
    let end = talk.next().await.unwrap();
    assert_eq!(end, Next::End(Reply::Ended(Ended { events: 3, elapsed_us: 1 })));
}

#[tokio::test]
async fn both_sides_speak_until_the_cell_has_heard_enough() {
    let served = Served::start();
    let mut talk = served.connect().await.converse(serve()).await.unwrap();
    for number in 1..=3 {
        assert!(matches!(talk.next().await, Ok(Next::Event(_))));
        talk.say(&answer(number)).await.unwrap();
    }
    let error = talk.next().await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("FORBIDDEN", "enough"));
}

#[tokio::test]
async fn who_hangs_up_ends_the_work_of_the_cell() {
    let served = Served::start();
    let mut talk = served.connect().await.converse(tap()).await.unwrap();
    assert!(matches!(talk.next().await, Ok(Next::Event(_))));
    drop(talk);
    while served.handled() < 100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_not_understood_ends_the_conversation_with_a_code() {
    let served = Served::start();
    let mut stream = UnixStream::connect(served.path()).await.unwrap();
    let ask = r#"{"version":1,"request":{"serve":{"of":"task/*","concurrency":1}}}"#;
    stream.write_all(format!("{ask}\n").as_bytes()).await.unwrap();
    let mut first = [0; 10];
    stream.read_exact(&mut first).await.unwrap();
    stream.write_all(b"{\"dance\":1}\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("CONTROL_BAD_REQUEST"), "{rest}");
}

#[tokio::test]
async fn conversations_leave_room_for_other_requests() {
    let served = Served::start();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut talk = served.connect().await.converse(tap()).await.unwrap();
        assert!(matches!(talk.next().await, Ok(Next::Event(_))));
        open.push(talk);
    }
    let mut refused = served.connect().await.converse(tap()).await.unwrap();
    assert_eq!(refused.next().await.unwrap_err().code, "OVERLOADED");
    let status: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(status.children, 2);
}

#[test]
fn what_is_asked_for_is_checked_by_field() {
    let tap = |of: &str, sample| {
        Request::Tap(TapAsk { of: of.to_owned(), sample, payload: false }).check()
    };
    assert!(tap("task/*", 1).is_ok());
    assert!(tap("task/*", 0).unwrap_err().message.contains("sample"));
    assert!(tap("task", 1).unwrap_err().message.contains("task"));
    let many = Request::Serve(ServeAsk { of: "*/*".to_owned(), concurrency: 33 });
    assert!(many.check().unwrap_err().message.contains("concurrency"));
}
