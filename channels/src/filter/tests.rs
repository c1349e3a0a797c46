use std::sync::Mutex;

use super::*;

fn message(point: Point, target: &str, payload: &[u8]) -> FilterMessage {
    let payload = Bytes::copy_from_slice(payload);
    FilterMessage::new(point, "site-1".parse().unwrap(), target.parse().unwrap(), payload)
}

fn typed(payload: &[u8], content_type: &str) -> FilterMessage {
    message(Point::ReplyOut, "task/train", payload).with_content_type(Some(content_type.into()))
}

struct Note(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Filter for Note {
    fn name(&self) -> &str {
        self.0
    }

    fn filter(&self, _: &mut FilterMessage) -> Result<(), String> {
        self.1.lock().unwrap().push(self.0);
        if self.0 == "stops" { Err("as asked".to_owned()) } else { Ok(()) }
    }
}

struct Panics;

impl Filter for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    #[expect(clippy::panic_in_result_fn, reason = "that is the test")]
    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        message.payload = Bytes::from_static(b"half done");
        panic!("a filter that breaks down");
    }
}

fn one(filter: impl Filter, message: FilterMessage) -> Result<FilterMessage, FilterError> {
    let filters = Filters::default();
    filters.add(Point::ALL, Selector::All, filter);
    filters.apply(message)
}

#[test]
fn all_that_match_run_in_order_and_none_hides_another() {
    let (filters, seen) = (Filters::default(), Arc::new(Mutex::new(Vec::new())));
    let note = |name| Note(name, Arc::clone(&seen));
    let exact = |text: &str| Selector::Exact(text.parse().unwrap());
    filters.add([Point::RequestIn], Selector::All, note("all"));
    filters.add([Point::RequestIn], exact("task/train"), note("exact"));
    filters.add([Point::RequestIn], exact("task/train"), note("exact again"));
    filters.add([Point::RequestIn], Selector::Channel("task".parse().unwrap()), note("channel"));
    filters.add([Point::RequestIn], exact("task/other"), note("other topic"));
    filters.add([Point::ReplyOut], Selector::All, note("other point"));
    filters.clone().add([Point::RequestIn], Selector::All, note("last"));
    filters.apply(message(Point::RequestIn, "task/train", b"")).unwrap();
    let ran = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(ran, ["all", "exact", "exact again", "channel", "last"]);
}

#[test]
fn f_03_an_error_or_a_panic_stops_the_message_and_says_which_filter_it_was() {
    let (filters, seen) = (Filters::default(), Arc::new(Mutex::new(Vec::new())));
    filters.add(Point::ALL, Selector::All, Note("stops", Arc::clone(&seen)));
    filters.add(Point::ALL, Selector::All, Note("behind", Arc::clone(&seen)));
    let stopped = filters.apply(message(Point::RequestIn, "task/train", b"x")).unwrap_err();
    assert_eq!(stopped.status(), Status::FilterError);
    assert_eq!(stopped.detail(), "filter stops: as asked");
    assert_eq!(*seen.lock().unwrap(), ["stops"]);
    let panicked = one(Panics, message(Point::RequestIn, "task/train", b"x")).unwrap_err();
    assert_eq!(panicked.detail(), "filter panics: it panicked");
}

#[test]
fn no_status_says_that_work_was_not_done_which_was() {
    use cellbus_proto::status::Class;
    let classes = Point::ALL.map(|point| point.status().class());
    assert_eq!(classes, [Class::Refused, Class::Refused, Class::Failed, Class::Failed]);
}

#[test]
fn messages_of_the_system_pass_no_filter() {
    let filters = Filters::default();
    filters.add(Point::ALL, Selector::All, size_limit(0));
    assert!(!filters.applies(Point::RequestIn, &"cell/ping".parse().unwrap()));
    assert!(filters.applies(Point::RequestIn, &"task/train".parse().unwrap()));
    assert!(filters.apply(message(Point::RequestIn, "cell/ping", b"x")).is_ok());
}

#[test]
fn size_limit_counts_bytes() {
    let at = |len: usize| one(size_limit(4), message(Point::RequestOut, "a/b", &vec![0; len]));
    assert!(at(4).is_ok());
    assert_eq!(at(5).unwrap_err().reason, "5 bytes, the limit is 4");
}

#[test]
fn finite_check_reads_what_is_declared_as_numbers() {
    let f32s =
        |numbers: &[f32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    let check = |payload: &[u8], kind: &str| one(finite_check(), typed(payload, kind)).err();
    assert_eq!(check(&f32s(&[1.0, -0.0, f32::MAX]), CONTENT_TYPE_F32), None);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = check(&f32s(&[1.0, bad]), CONTENT_TYPE_F32).unwrap();
        assert_eq!(error.reason, "element 1 is not finite");
    }
    let error = check(&f64::NAN.to_le_bytes(), CONTENT_TYPE_F64).unwrap();
    assert_eq!(error.reason, "element 0 is not finite");
    assert!(check(&[0; 7], CONTENT_TYPE_F64).is_some());
    assert_eq!(check(&f32s(&[f32::NAN]), "application/octet-stream"), None);
}

#[test]
fn redact_replaces_values_in_json_and_leaves_every_other_byte() {
    let json = r#" {"name":"x" , "a":[{"na\u006de": {"deep":[1,"}"]}}, 1e400, "name"], "ssn" :12 , "b":"name: 1"}"#;
    let out =
        one(redact(["name", "ssn"]), typed(json.as_bytes(), "application/json; q=1")).unwrap();
    let wanted =
        r#" {"name":null , "a":[{"na\u006de": null}, 1e400, "name"], "ssn" :null , "b":"name: 1"}"#;
    assert_eq!(std::str::from_utf8(&out.payload).unwrap(), wanted);
    let same = one(redact(["z"]), typed(json.as_bytes(), "application/problem+json")).unwrap();
    assert_eq!(same.payload, json.as_bytes());
}

#[test]
fn redact_replaces_values_in_msgpack_and_leaves_every_other_byte() {
    // {"id": {"k": 1}, "v": [{"id": "secret"}, 2.0]}
    let packed = b"\x82\xa2id\x81\xa1k\x01\xa1v\x92\x81\xa2id\xa6secret\xcb\x40\0\0\0\0\0\0\0";
    let wanted = b"\x82\xa2id\xc0\xa1v\x92\x81\xa2id\xc0\xcb\x40\0\0\0\0\0\0\0";
    let out = one(redact(["id"]), typed(packed, "application/vnd.msgpack")).unwrap();
    assert_eq!(&out.payload[..], wanted);
    let as_bytes = one(redact(["id"]), typed(b"\x81\xc4\x02id\x05", "application/msgpack"));
    assert_eq!(&as_bytes.unwrap().payload[..], b"\x81\xc4\x02id\xc0");
}

#[test]
fn redact_stops_what_it_cannot_read() {
    let stopped = |payload: &[u8], kind: &str| one(redact(["k"]), typed(payload, kind)).is_err();
    assert!(stopped(br#"{"k":1"#, "application/json"));
    assert!(stopped(br#"{"k":1} 2"#, "application/json"));
    assert!(stopped("[".repeat(100_000).as_bytes(), "application/json"));
    assert!(stopped(b"\x81\xa1k", "application/msgpack"));
    assert!(stopped(b"\x81\xa1k\x01\x02", "application/msgpack"));
    assert!(stopped(&[0x91; 100_000], "application/msgpack"));
    assert!(stopped(b"\xdd\xff\xff\xff\xff", "application/msgpack"));
    assert!(stopped(br#"{"k":1}"#, "text/plain"));
    assert!(!stopped(b"", "text/plain"));
    let unread = redact(["k"]).pass_other_types();
    assert!(one(unread, message(Point::ReplyOut, "a/b", br#"{"k":1}"#)).is_ok());
}
