//! A second implementation of the writing side, from the document alone: named values to bytes.
//!
//! It knows msgpack, the order of the fields and the tables, and nothing of the codec. Byte strings
//! stand in JSON as `{"hex": ".."}`.

use serde_json::{Map, Value, json};

use crate::{
    codec::{Frame, body},
    envelope::{Address, Envelope, HopRecord, Kind},
};

/// The fields of a control frame or body, in order. `name:Body` says that the value is itself a body, `name?` that the
/// last one may be left out.
pub(super) fn fields(body: &str) -> &'static [&'static str] {
    match body {
        "HELLO" => {
            &["version_min", "version_max", "features", "name", "parent", "incarnation", "nonce"]
        }
        "HELLO_OK" => &[
            "version",
            "name",
            "kind",
            "incarnation",
            "challenge:challenge",
            "payload_max",
            "beat_ms",
            "silence_ms",
            "unix_ms?",
        ],
        "BEAT" => &["number"],
        "ECHO" => &["number", "epoch", "revocations", "renewal"],
        "LANE" => &["lane"],
        "DRAIN" => &["retry_after_ms"],
        "ANSWER" => &["to", "status", "body"],
        "CONDUIT" => &["share", "priority", "data"],
        "challenge" => &["id", "nonce", "server", "server_nonce"],
        "register" => &["signature", "end_to_end"],
        "registered" => &["signature", "token", "server_key:server_key", "epoch"],
        "server_key" => &["server", "incarnation", "key", "chain", "signature"],
        "challenge_child" => &["child"],
        "child_challenge" => &["nonce"],
        "register_child" => &["child", "incarnation", "chain", "signature", "job"],
        "child_registered" => &["token", "server_key:server_key"],
        "renew_child" | "detach_child" => &["child", "incarnation"],
        "certificate" => &["chain", "token"],
        "cancel" => &["requests"],
        "new_certificate" => &["chain", "signature"],
        "issue_certificate" => &["request", "signature"],
        "issued_certificate" => &["chain"],
        "job_start" => &["job", "program", "parameters"],
        "job_stop" => &["job"],
        "job_ended" => &["job", "completed", "detail"],
        "token" => &[
            "version",
            "issuer",
            "project",
            "subject",
            "kind",
            "org",
            "via",
            "server_counter",
            "server_nonce",
            "issued",
            "expires",
            "id",
            "leaf",
            "job",
        ],
        _ => panic!("no body is called {body}"),
    }
}

const FRAMES: [&str; 9] =
    ["HELLO", "HELLO_OK", "MESSAGE", "BEAT", "ECHO", "LANE", "DRAIN", "ANSWER", "CONDUIT"];
const KINDS: [&str; 4] = ["publish", "request", "reply", "return"];

/// Named values of the msgpack array `bytes`.
pub(super) fn named(body: &str, bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let value = read(&mut rest);
    assert!(rest.is_empty());
    with_names(body, value)
}

fn with_names(body: &str, value: Value) -> Value {
    let Value::Array(values) = value else { panic!("{body} is no array") };
    let names = fields(body);
    let needed = names.iter().filter(|name| !name.ends_with('?')).count();
    assert!((needed..=names.len()).contains(&values.len()), "{body}");
    let named = names.iter().zip(values).map(|(name, value)| match name.split_once(':') {
        Some((name, inner)) => (name.to_owned(), with_names(inner, value)),
        None => (name.trim_end_matches('?').to_owned(), value),
    });
    Value::Object(named.collect())
}

/// The msgpack array of named values.
pub(super) fn write_body(body: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&without_names(body, value), &mut out);
    out
}

fn without_names(body: &str, value: &Value) -> Value {
    let is_there = |name: &&&str| {
        let last = name.strip_suffix('?');
        last.is_none_or(|name| value.get(name).is_some())
    };
    let values = fields(body).iter().filter(is_there).map(|name| match name.split_once(':') {
        Some((name, inner)) => without_names(inner, &value[name]),
        None => value[name.trim_end_matches('?')].clone(),
    });
    Value::Array(values.collect())
}

fn head(out: &mut Vec<u8>, marker: u8, width: usize, value: u64) {
    out.push(marker);
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
}

/// Appends a value in the shortest msgpack form.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Number(number) => match number.as_u64().expect("numbers are unsigned") {
            n @ 0..=0x7f => out.push(n as u8),
            n @ ..=0xff => head(out, 0xcc, 1, n),
            n @ ..=0xffff => head(out, 0xcd, 2, n),
            n @ ..=0xffff_ffff => head(out, 0xce, 4, n),
            n => head(out, 0xcf, 8, n),
        },
        Value::String(text) => {
            match text.len() as u64 {
                n @ ..=31 => out.push(0xa0 | n as u8),
                n @ ..=0xff => head(out, 0xd9, 1, n),
                n => head(out, 0xda, 2, n),
            }
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(values) => {
            match values.len() as u64 {
                n @ ..=15 => out.push(0x90 | n as u8),
                n => head(out, 0xdc, 2, n),
            }
            values.iter().for_each(|value| write(value, out));
        }
        Value::Object(_) => {
            let bytes = bytes_of(value);
            match bytes.len() as u64 {
                n @ ..=0xff => head(out, 0xc4, 1, n),
                n => head(out, 0xc5, 2, n),
            }
            out.extend_from_slice(&bytes);
        }
    }
}

fn bytes_of(value: &Value) -> Vec<u8> {
    hex::decode(value["hex"].as_str().expect("bytes stand as hex")).unwrap()
}

/// Reads one msgpack value from the front of `r`.
fn read(r: &mut &[u8]) -> Value {
    fn split<'b>(r: &mut &'b [u8], len: usize) -> &'b [u8] {
        let (taken, rest) = r.split_at(len);
        *r = rest;
        taken
    }
    fn number(r: &mut &[u8], width: usize) -> u64 {
        split(r, width).iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
    let len = |r: &mut &[u8], width| number(r, width) as usize;
    let text = |bytes: &[u8]| Value::String(String::from_utf8(bytes.to_vec()).unwrap());
    let list = |r: &mut &[u8], len| (0..len).map(|_| read(r)).collect::<Vec<_>>().into();
    match split(r, 1)[0] {
        0xc0 => Value::Null,
        0xc2 => false.into(),
        0xc3 => true.into(),
        n @ 0..=0x7f => n.into(),
        marker @ 0xcc..=0xcf => number(r, 1 << (marker - 0xcc)).into(),
        n @ 0xa0..=0xbf => text(split(r, usize::from(n & 0x1f))),
        marker @ (0xd9 | 0xda) => {
            let len = len(r, usize::from(marker - 0xd8));
            text(split(r, len))
        }
        n @ 0x90..=0x9f => list(r, usize::from(n & 0x0f)),
        0xdc => {
            let len = len(r, 2);
            list(r, len)
        }
        marker @ (0xc4 | 0xc5) => {
            let len = len(r, usize::from(marker - 0xc3));
            json!({ "hex": hex::encode(split(r, len)) })
        }
        marker => panic!("marker {marker:#x} is not used"),
    }
}

/// What one direction of one stream has introduced.
#[derive(Default)]
struct Tables {
    addresses: Vec<Value>,
    targets: Vec<Value>,
    tokens: Vec<Value>,
}

/// The number of `value` in `table`, or its introduction.
fn refer(table: &mut Vec<Value>, max: usize, value: &Value, parts: Vec<Value>) -> Value {
    if let Some(handle) = table.iter().position(|known| known == value) {
        return handle.into();
    }
    assert!(table.len() < max, "no vector fills a table");
    table.push(value.clone());
    let mut introduction = vec![Value::from(table.len() - 1)];
    introduction.extend(parts);
    introduction.into()
}

/// The bytes of a stream with these frames.
pub(super) fn encode_stream(frames: &[Value]) -> Vec<u8> {
    let mut tables = Tables::default();
    let mut stream = Vec::new();
    for frame in frames {
        let kind = frame["type"].as_str().unwrap();
        let number = FRAMES.iter().position(|name| *name == kind).unwrap() + 1;
        let (header, payload) = match kind {
            "MESSAGE" => (message_header(&mut tables, frame), bytes_of(&frame["payload"])),
            _ => (write_body(kind, frame), Vec::new()),
        };
        stream.push(number as u8);
        stream.extend((header.len() as u16).to_be_bytes());
        stream.extend((payload.len() as u32).to_be_bytes());
        stream.extend([header, payload].concat());
    }
    stream
}

fn message_header(tables: &mut Tables, message: &Value) -> Vec<u8> {
    let field = |name: &str| message[name].clone();
    let mut address = |value: Value| {
        let mut parts = vec![value["name"].clone()];
        parts.extend(value["incarnation"].as_array().cloned().unwrap_or_default());
        refer(&mut tables.addresses, 1024, &value, parts)
    };
    let kind = KINDS.iter().position(|kind| message["kind"] == *kind).unwrap();
    let mut elements = vec![kind.into(), field("sequence")];
    elements.extend([address(field("origin")), address(field("destination"))]);
    let target = vec![field("channel"), field("topic")];
    elements.push(refer(&mut tables.targets, 256, &target.clone().into(), target));
    let token = field("token");
    elements.push(if token.is_null() {
        Value::Null
    } else {
        refer(&mut tables.tokens, 1024, &token, vec![token.clone()])
    });
    elements.extend(["budget_ms", "hops_left", "lane", "flags", "to"].map(field));
    let failure = field("failure");
    elements.push(if failure.is_null() {
        Value::Null
    } else {
        json!([failure["status"], failure["by"]])
    });
    elements.extend(["content_type", "trace", "headers"].map(field));
    let mut extensions = Vec::new();
    let mut extend = |number: u8, value: Value| {
        let mut bytes = Vec::new();
        write(&value, &mut bytes);
        extensions.push(json!([number, { "hex": hex::encode(bytes) }]));
    };
    if let Value::Array(fan) = field("fan") {
        let targets: Vec<Value> =
            fan.iter().map(|t| json!([t["sequence"], address(t["destination"].clone())])).collect();
        extend(2, targets.into());
    }
    for (number, name) in [(4, "path"), (6, "proof")] {
        if !field(name).is_null() {
            extend(number, field(name));
        }
    }
    elements.push(if extensions.is_empty() { Value::Null } else { extensions.into() });
    while elements.len() > 10 && elements.last().is_some_and(Value::is_null) {
        elements.pop();
    }
    let mut out = Vec::new();
    write(&Value::Array(elements), &mut out);
    out
}

/// Named values of a frame.
pub(super) fn json_of(frame: &Frame) -> Value {
    let bytes = match frame {
        Frame::Message(envelope) => return json_of_message(envelope),
        Frame::Hello(hello) => body::encode(hello),
        Frame::HelloOk(ok) => body::encode(ok),
        Frame::Beat(beat) => body::encode(beat),
        Frame::Echo(echo) => body::encode(echo),
        Frame::Lane(lane) => body::encode(&(*lane as u8,)),
        Frame::Drain(drain) => body::encode(drain),
        Frame::Answer(answer) => body::encode(answer),
        Frame::Conduit(conduit) => body::encode(conduit),
    };
    let mut json = named(frame.name(), &bytes);
    json["type"] = frame.name().into();
    json
}

fn json_of_message(Envelope { header, payload }: &Envelope) -> Value {
    let address = |address: &Address| {
        let incarnation = address.incarnation.map(|inc| json!([inc.counter, inc.nonce]));
        json!({ "name": address.name, "incarnation": incarnation })
    };
    let bytes = |bytes: &[u8]| json!({ "hex": hex::encode(bytes) });
    let (to, failure) = match &header.kind {
        Kind::Publish | Kind::Request => (None, None),
        Kind::Reply { to } => (Some(*to), None),
        Kind::Return { to, status, by } => {
            let status = json!({ "status": *status as u8, "code": status.code(), "by": by });
            (Some(*to), Some(status))
        }
    };
    let extras = header.extras.as_deref().cloned().unwrap_or_default();
    let headers = (!extras.headers.is_empty()).then(|| bytes(&extras.headers));
    let fan: Vec<Value> = extras
        .fan
        .iter()
        .map(|t| json!({ "sequence": t.sequence, "destination": address(&t.destination) }))
        .collect();
    let hop = |hop: &HopRecord| json!([hop.cell, hop.rule, hop.queue_us, hop.wire_us]);
    let path: Vec<Value> = extras.path.iter().map(hop).collect();
    let proof = extras.proof.as_ref().map(|p| json!([p.unix_ms, bytes(&p.signature.0)]));
    let some = |list: Vec<Value>| (!list.is_empty()).then_some(list);
    let fields: [(&str, Value); 20] = [
        ("type", "MESSAGE".into()),
        ("kind", header.kind.as_str().into()),
        ("sequence", header.sequence.into()),
        ("origin", address(&header.origin)),
        ("destination", address(&header.destination)),
        ("channel", header.target.channel().as_str().into()),
        ("topic", header.target.topic().as_str().into()),
        ("token", header.token.as_ref().map(|token| bytes(token.as_bytes())).into()),
        ("budget_ms", header.budget_ms.into()),
        ("hops_left", header.hops_left.into()),
        ("lane", (header.lane as u8).into()),
        ("flags", header.flags.bits().into()),
        ("to", to.into()),
        ("failure", failure.into()),
        ("content_type", extras.content_type.as_deref().into()),
        ("trace", extras.trace.map(|trace| bytes(&trace.0)).into()),
        ("headers", headers.into()),
        ("fan", some(fan).into()),
        ("path", some(path).into()),
        ("proof", proof.into()),
    ];
    let mut json: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    json.insert("payload".to_owned(), bytes(payload));
    json.into()
}
