//! What the cell makes of job code that keeps to the protocol, and of job code that does not.

use bytes::Bytes;

use super::*;
use crate::local::Secret;

type Side = CellSide<&'static str, &'static str>;

fn side() -> Side {
    let limits = Limits {
        payload_max: 100,
        requests_max: 2,
        bytes_max: 150,
        handlers_max: 1,
        ..Limits::default()
    };
    Side::new(limits)
}

fn request(id: u64, to: &str, channel: &str, bytes: usize) -> ToCell {
    ToCell::Request {
        id,
        to: to.into(),
        channel: channel.into(),
        topic: "fetch".into(),
        budget_ms: None,
        body: Body::inline(vec![0; bytes]),
        options: None,
    }
}

fn handle(id: u64, channel: Option<&str>, topic: Option<&str>) -> ToCell {
    let (channel, topic) = (channel.map(Into::into), topic.map(Into::into));
    ToCell::Handle { id, channel, topic, concurrency: None }
}

fn hello() -> ToCell {
    ToCell::Hello(Hello::new(Secret::take(&mut [1; 32])))
}

#[test]
fn nothing_comes_before_hello_and_hello_comes_once() {
    assert!(greet(hello()).is_ok());
    let early = greet(ToCell::Ping { token: 1 });
    assert_eq!(early, Err(Violation::NoHello("PING")));
    assert_eq!(early.map_err(Violation::status), Err(Status::NoHello));
    assert_eq!(side().handle_frame(hello()), Err(Violation::SecondHello));
}

#[test]
fn the_version_is_the_highest_that_both_sides_speak() {
    let hello = |version_min, version_max| Hello {
        version_min,
        version_max,
        secret: Secret::take(&mut [1; 32]),
    };
    assert_eq!(hello(1, 1).common_version(), Some(1));
    assert_eq!(hello(0, 9).common_version(), Some(2));
    assert_eq!(hello(2, 9).common_version(), Some(2));
    assert_eq!(hello(3, 9).common_version(), None);
    assert_eq!(hello(0, 0).common_version(), None);
    assert_eq!(hello(2, 1).common_version(), None);
}

#[test]
fn what_exceeds_the_limits_is_refused_and_not_kept() {
    let mut side = side();
    assert!(matches!(
        side.handle_frame(request(1, "server", "task", 100)),
        Ok(Step::Request { id: 1, .. })
    ));
    let too_many_bytes = side.handle_frame(request(2, "server", "task", 51));
    assert_eq!(too_many_bytes, Ok(Step::Refuse { id: 2, status: Status::Overloaded }));
    assert_eq!(side.outstanding(), (1, 100));
    assert!(matches!(
        side.handle_frame(request(3, "server", "task", 50)),
        Ok(Step::Request { id: 3, .. })
    ));
    let too_many = side.handle_frame(request(4, "server", "task", 0));
    assert_eq!(too_many, Ok(Step::Refuse { id: 4, status: Status::Overloaded }));

    assert_eq!(side.end_request(1), Some(None));
    assert_eq!(side.end_request(1), None);
    assert_eq!(side.outstanding(), (1, 50));
}

#[test]
fn an_id_is_never_used_again() {
    let mut side = side();
    side.handle_frame(request(5, "server", "task", 0)).unwrap();
    for id in [5, 4, 0] {
        let stale = Violation::StaleId { id, last: 5 };
        assert_eq!(side.handle_frame(request(id, "server", "task", 0)), Err(stale));
        assert_eq!(side.handle_frame(handle(id, None, None)), Err(stale));
    }
    assert_eq!(side.outstanding().0, 1);
}

#[test]
fn a_name_that_is_none_costs_the_message_and_not_the_connection() {
    let mut side = side();
    let bad_name = side.handle_frame(request(1, "Server", "task", 0));
    assert_eq!(bad_name, Ok(Step::Refuse { id: 1, status: Status::BadFqcn }));
    let bad_channel = side.handle_frame(request(2, "server", "Task", 0));
    assert_eq!(bad_channel, Ok(Step::Refuse { id: 2, status: Status::BadHeader }));
    let bad_selector = side.handle_frame(handle(3, None, Some("fetch")));
    let outcome = Outcome::BadSelector;
    assert_eq!(bad_selector, Ok(Step::RefuseHandler { id: 3, outcome }));
    assert_eq!(side.outstanding(), (0, 0));
}

#[test]
fn c_05_job_code_cannot_speak_for_its_cell() {
    let mut side = Side::new(Limits::default());
    for (id, system) in (1..).zip(well_known::ALL) {
        let frame = ToCell::Publish {
            id,
            to: "server".into(),
            channel: system.channel.into(),
            topic: system.topic.into(),
            body: Body::default(),
            options: None,
        };
        let step = side.handle_frame(frame).unwrap();
        if system == well_known::PING {
            assert!(matches!(step, Step::Publish { .. }));
        } else {
            assert_eq!(step, Step::Refuse { id, status: Status::Forbidden }, "{system:?}");
        }
    }
    let unknown = side.handle_frame(request(100, "server", well_known::PING.channel, 0));
    assert_eq!(unknown, Ok(Step::Refuse { id: 100, status: Status::Forbidden }));
}

#[test]
fn handlers_are_counted_until_one_is_forgotten() {
    let mut side = side();
    let first = side.handle_frame(handle(1, Some("task"), None)).unwrap();
    let channel = "task".parse().unwrap();
    let registration = Registration::Channel(channel);
    assert_eq!(first, Step::Handle { id: 1, registration, concurrency: NonZeroU32::MIN });
    assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Nothing));
    side.end_request(1);
    let second = side.handle_frame(handle(2, None, None));
    assert_eq!(second, Ok(Step::RefuseHandler { id: 2, outcome: Outcome::TooMany }));
    side.forget_handler();
    assert!(matches!(side.handle_frame(handle(3, None, None)), Ok(Step::Handle { .. })));
}

#[test]
fn a_delivery_is_answered_once() {
    let mut side = side();
    let id = side.begin_delivery("ticket");
    let reply = ToCell::DeliverReply { id, body: Body::default() };
    let step = side.handle_frame(reply.clone()).unwrap();
    assert!(matches!(step, Step::Answered { ticket: "ticket", .. }));
    assert_eq!(side.handle_frame(reply), Err(Violation::Unsolicited(id)));
    let never = ToCell::DeliverFail { id: 9, status: Status::Draining, detail: Bytes::new() };
    assert_eq!(side.handle_frame(never), Err(Violation::Unsolicited(9)));
    assert_eq!(side.deliveries(), 0);
}

#[test]
fn a_cancel_that_crosses_the_answer_is_no_error() {
    let mut side = side();
    side.handle_frame(request(1, "server", "task", 0)).unwrap();
    assert_eq!(side.attach(1, "work"), None);
    assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Cancel { id: 1 }));
    assert_eq!(side.end_request(1), Some(Some("work")));
    assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Nothing));
    assert_eq!(side.attach(1, "late"), Some("late"));
}

fn attached(id: u64, size: u64) -> ToCell {
    ToCell::Publish {
        id,
        to: "server".into(),
        channel: "task".into(),
        topic: "fetch".into(),
        body: Body { attached: Some(size), ..Body::default() },
        options: None,
    }
}

fn bounded(attached_max: u64) -> Side {
    Side::new(Limits { attachment_max: 1 << 20, attached_max, ..Limits::default() })
}

#[test]
fn c_13_what_is_attached_is_bounded_in_all() {
    let mut side = bounded(3 << 20);
    for id in 1..=3 {
        assert!(matches!(side.handle_frame(attached(id, 1 << 20)), Ok(Step::Publish { .. })));
    }
    let refused = side.handle_frame(attached(4, 1));
    assert_eq!(refused, Ok(Step::Refuse { id: 4, status: Status::Overloaded }));
    assert_eq!((side.attached(), side.outstanding().0), (3 << 20, 3));

    // It has been taken, and is on its way: its bytes are not free yet.
    side.hold_attached(1 << 20);
    side.end_request(1);
    assert_eq!(side.attached(), 3 << 20);
    side.release_attached(1 << 20);
    assert!(matches!(side.handle_frame(attached(5, 1 << 20)), Ok(Step::Publish { .. })));
}

#[test]
fn a_part_belongs_to_a_delivery_that_is_outstanding() {
    let mut side = side();
    let id = side.begin_delivery("ticket");
    let part = |id| ToCell::DeliverPart { id, body: Body::default() };
    let step = side.handle_frame(part(id));
    assert_eq!(step, Ok(Step::Part { id, body: Body::default() }));
    assert_eq!(side.delivery(id), Some(&"ticket"));
    side.handle_frame(ToCell::DeliverReply { id, body: Body::default() }).unwrap();
    assert_eq!(side.handle_frame(part(id)), Err(Violation::Unsolicited(id)));
}

#[test]
fn c_05_a_message_to_many_and_a_file_are_not_for_the_system() {
    let mut side = Side::new(Limits::default());
    for (id, system) in (1..).step_by(2).zip(well_known::ALL) {
        let (channel, topic) = (system.channel.to_owned(), system.topic.to_owned());
        let multicast = ToCell::Multicast {
            id,
            to: None,
            channel: channel.clone(),
            topic: topic.clone(),
            publish: true,
            budget_ms: None,
            body: Body::default(),
            options: None,
        };
        let refused = Step::Refuse { id, status: Status::Forbidden };
        assert_eq!(side.handle_frame(multicast), Ok(refused), "{system:?}");
        let id = id + 1;
        let serve = Serve {
            id,
            to: None,
            channel,
            topic,
            lifetime_s: None,
            content_type: None,
            headers: Bytes::new(),
            size: 1,
        };
        let refused = Step::Refuse { id, status: Status::Forbidden };
        assert_eq!(side.handle_frame(ToCell::Serve(serve)), Ok(refused), "{system:?}");
    }
    assert_eq!(side.outstanding(), (0, 0));
}

#[test]
fn one_bad_name_among_many_costs_the_message() {
    let mut side = side();
    let multicast = ToCell::Multicast {
        id: 1,
        to: Some(vec!["site-1".into(), "Site-2".into()]),
        channel: "task".into(),
        topic: "fetch".into(),
        publish: false,
        budget_ms: None,
        body: Body::default(),
        options: None,
    };
    let refused = Step::Refuse { id: 1, status: Status::BadFqcn };
    assert_eq!(side.handle_frame(multicast), Ok(refused));
    assert_eq!(side.outstanding(), (0, 0));
}

#[test]
fn events_and_fetches_count_as_outstanding() {
    let mut side = side();
    assert_eq!(side.handle_frame(ToCell::Events { id: 1 }), Ok(Step::Events { id: 1 }));
    let reference = Bytes::from_static(b"reference");
    let fetch =
        |id| ToCell::Fetch { id, size_max: None, patience_s: None, reference: reference.clone() };
    let size_max = Limits::default().attachment_max;
    let step = side.handle_frame(fetch(2));
    let expected = Step::Fetch { id: 2, reference: reference.clone(), size_max, patience: None };
    assert_eq!(step, Ok(expected));
    let refused = Step::Refuse { id: 3, status: Status::Overloaded };
    assert_eq!(side.handle_frame(fetch(3)), Ok(refused));
    assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Cancel { id: 1 }));
}
