//! What is signed, from its fields to the signature; and tokens, good and bad.

use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, Verifier};
use serde_json::{Value, json};

use super::{Vector, example, model, name};
use crate::{
    codec::body,
    envelope::{Address, Common, Extras, Flags, Header, Incarnation, Kind, Lane},
    proof::control_signable,
    sealing,
    status::Status,
    token::{Claims, ServerKey, Token, TokenSigner, TokenVerifier},
    transcript::{Purpose, Transcript, sha256},
    well_known,
};

pub(super) fn bytes(bytes: &[u8]) -> Value {
    json!({ "hex": hex::encode(bytes) })
}

/// One transcript: the product's bytes, and fields from which the document's rule makes the same.
pub(super) fn transcript(
    purpose: Purpose,
    seed: u8,
    signable: Vec<u8>,
    fields: &[(&str, Value)],
) -> Vector {
    let key = example::key(seed);
    let raw = |value: &Value| match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Number(number) => number.as_u64().unwrap().to_be_bytes().to_vec(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            hex::decode(value["hex"].as_str().unwrap()).unwrap()
        }
    };
    let by_rule = fields
        .iter()
        .fold(Transcript::new(purpose), |transcript, (_, value)| transcript.field(&raw(value)))
        .finish();
    assert_eq!(by_rule, signable, "{purpose:?}");
    let signature = key.sign(&signable);
    assert!(key.verifying_key().verify(&signable, &signature).is_ok());
    let fields: Vec<Value> =
        fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    Vector {
        name: format!("signed-{}", purpose.label().rsplit_once('/').unwrap().1),
        json: json!({
            "about": "the fields in order; the other file is what is signed",
            "label": purpose.label(),
            "fields": fields,
            "secret_key": bytes(&key.to_bytes()),
            "public_key": bytes(&key.verifying_key().to_bytes()),
            "signature": bytes(&signature.to_bytes()),
        }),
        bytes: signable,
    }
}

pub(super) fn transcripts() -> Vec<Vector> {
    let register: [(&str, Value); 11] = [
        ("project", example::PROJECT.into()),
        ("child", "site-1".into()),
        ("child_kind", "client".into()),
        ("parent", "server".into()),
        ("parent_kind", "server".into()),
        ("child_nonce", bytes(&example::child_nonce())),
        ("parent_nonce", bytes(&example::parent_nonce())),
        ("challenge", example::CHALLENGE.into()),
        ("child_leaf", bytes(&example::leaf("site-1"))),
        ("parent_leaf", bytes(&example::leaf("server"))),
        ("exporter", bytes(&example::exporter())),
    ];
    let end_to_end: [(&str, Value); 6] = [
        ("project", example::PROJECT.into()),
        ("child", "site-1".into()),
        ("parent", "server".into()),
        ("server", "server".into()),
        ("server_nonce", bytes(&example::parent_nonce())),
        ("child_leaf", bytes(&example::leaf("site-1"))),
    ];
    let token_public = example::key(example::TOKEN_SEED).verifying_key().to_bytes();
    let token_key: [(&str, Value); 6] = [
        ("project", example::PROJECT.into()),
        ("server", "server".into()),
        ("counter", example::SERVER.counter.into()),
        ("nonce", example::SERVER.nonce.into()),
        ("key", bytes(&token_public)),
        ("server_leaf", bytes(&example::leaf("server"))),
    ];
    let [control, sealed, header] = protected();
    let claims = rmp_serde::to_vec(&example::claims()).unwrap();
    let token = Transcript::new(Purpose::Token).field(&claims).finish();
    let (site, server) = (example::SITE_SEED, example::SERVER_SEED);
    let by_register =
        |purpose, seed| transcript(purpose, seed, example::register(purpose), &register);
    vec![
        by_register(Purpose::Register, site),
        by_register(Purpose::RegisterAck, server),
        transcript(Purpose::RegisterEndToEnd, site, example::end_to_end(), &end_to_end),
        transcript(Purpose::TokenKey, server, example::token_key(), &token_key),
        transcript(Purpose::Token, example::TOKEN_SEED, token, &[("claims", bytes(&claims))]),
        control,
        sealed,
        header,
    ]
}

/// What the server signs of a request to start a job, and what a site signs of a sealed reply, and binds
/// it to.
fn protected() -> [Vector; 3] {
    let routing = |header: &Header, kind: u64, to: u64, content_type: Value| -> Vec<_> {
        let start = header.origin.incarnation.unwrap();
        vec![
            ("project", Value::from(example::PROJECT)),
            ("origin", header.origin.name.as_str().into()),
            ("counter", start.counter.into()),
            ("nonce", start.nonce.into()),
            ("destination", header.destination.name.as_str().into()),
            ("channel", header.target.channel().as_str().into()),
            ("topic", header.target.topic().as_str().into()),
            ("sequence", header.sequence.into()),
            ("kind", kind.into()),
            ("to", to.into()),
            ("status", 0.into()),
            ("by", "".into()),
            ("flags", bytes(&[header.flags.bits()])),
            ("content_type", content_type),
            ("headers", bytes(&[])),
        ]
    };
    let after = |fields: Vec<(&'static str, Value)>, more: &[(&'static str, Value)]| {
        [fields, more.to_vec()].concat()
    };
    let unix_ms = example::NOW * 1000 + 250;
    let address = |text: &str, start| Address::exact(name(text), start);
    let start = Header {
        kind: Kind::Request,
        sequence: 300,
        common: Arc::new(Common {
            origin: address("server", example::SERVER),
            destination: Address::any(name("site-1")),
            target: well_known::JOB_START.into(),
            token: None,
            lane: Lane::Control,
            flags: Flags::RETRY,
        }),
        budget_ms: 5000,
        hops_left: 16,
        extras: None,
    };
    let body = body::JobStart {
        job: "job-7".parse().unwrap(),
        program: "train".parse().unwrap(),
        parameters: body::Blob(b"{}".to_vec()),
    };
    let body = body::encode(&body);
    let control = transcript(
        Purpose::ControlMessage,
        example::SERVER_SEED,
        control_signable(example::PROJECT, &start, &body, unix_ms),
        &after(
            routing(&start, 1, 0, "".into()),
            &[("payload_sha256", bytes(&sha256(&body))), ("unix_ms", unix_ms.into())],
        ),
    );
    let content_type = Some("text/plain".into());
    let reply = Header {
        kind: Kind::Reply { to: 41 },
        common: Arc::new(Common {
            origin: address("site-1", example::SITE),
            destination: address("server", example::SERVER),
            target: "task/fetch".parse().unwrap(),
            flags: Flags::SEALED.with(Flags::MORE),
            ..Common::clone(&start.common)
        }),
        extras: Extras { content_type, ..Extras::default() }.boxed(),
        ..start
    };
    let payload = b"the weights";
    let recipient = example::leaf("server");
    let fields = || routing(&reply, 2, 41, bytes(b"\x01text/plain"));
    let sealed = transcript(
        Purpose::SealedMessage,
        example::SITE_SEED,
        sealing::signable(example::PROJECT, &reply, &recipient, payload, unix_ms),
        &after(
            fields(),
            &[
                ("recipient", bytes(&recipient)),
                ("payload_sha256", bytes(&sha256(payload))),
                ("unix_ms", unix_ms.into()),
            ],
        ),
    );
    let header = transcript(
        Purpose::SealedHeader,
        example::SITE_SEED,
        sealing::associated_data(example::PROJECT, &reply),
        &fields(),
    );
    [control, sealed, header]
}

fn verifier() -> TokenVerifier {
    let mut verifier = TokenVerifier::new(example::PROJECT.parse().unwrap());
    verifier.set_server(ServerKey {
        server: "server".parse().unwrap(),
        incarnation: example::SERVER,
        key: example::key(example::TOKEN_SEED).verifying_key().to_bytes(),
    });
    verifier
}

fn outcome(bytes: &[u8], now: u64) -> Result<(), Status> {
    let token = Token::from_bytes(Bytes::copy_from_slice(bytes)).ok_or(Status::BadToken)?;
    verifier().verify(&token, now).map(drop).map_err(Status::from)
}

fn sign(claims: &Claims) -> Vec<u8> {
    TokenSigner::new(&[example::TOKEN_SEED; 32]).sign(claims).as_bytes().to_vec()
}

/// Any bytes under a good signature.
fn sign_bytes(claims: &[u8]) -> Vec<u8> {
    let signable = Transcript::new(Purpose::Token).field(claims).finish();
    let signature = example::key(example::TOKEN_SEED).sign(&signable);
    [claims, &signature.to_bytes()].concat()
}

/// What the verifier of every token vector holds.
fn setting(now: u64) -> Value {
    let key = example::key(example::TOKEN_SEED);
    json!({
        "project": example::PROJECT,
        "server": "server",
        "incarnation": [example::SERVER.counter, example::SERVER.nonce],
        "public_key": bytes(&key.verifying_key().to_bytes()),
        "now": now,
    })
}

pub(super) fn good_tokens() -> Vec<Vector> {
    let job = Claims {
        subject: "site-1.job-7".parse().unwrap(),
        kind: crate::identity::CellKind::Job,
        via: "site-1".parse().unwrap(),
        job: Some("job-7".parse().unwrap()),
        ..example::claims()
    };
    let vector = |name: &str, about, claims: &Claims, now| {
        let token = sign(claims);
        assert_eq!(outcome(&token, now), Ok(()), "{name}");
        let at = token.len() - Signature::BYTE_SIZE;
        let named = model::named("token", &token[..at]);
        assert_eq!(model::write_body("token", &named), token[..at], "{name}");
        let json = json!({ "about": about, "verifier": setting(now), "claims": named });
        Vector { name: name.to_owned(), bytes: token, json }
    };
    let end = example::NOW + 900 + TokenVerifier::SKEW_S;
    vec![
        vector("token", "claims, then 64 bytes of signature", &example::claims(), example::NOW),
        vector("token-of-a-job", "the job is named", &job, example::NOW),
        vector("token-in-its-last-second", "clocks may differ by 30 s", &example::claims(), end),
    ]
}

pub(super) fn bad_tokens() -> Vec<Vector> {
    let claims = example::claims;
    let plain = rmp_serde::to_vec(&claims()).unwrap();
    let flip = |mut token: Vec<u8>, at: usize| {
        token[at] ^= 1;
        token
    };
    let by_another = TokenSigner::new(&[9; 32]).sign(&claims()).as_bytes().to_vec();
    let unlabelled = {
        let signature = example::key(example::TOKEN_SEED).sign(&plain);
        [&plain[..], &signature.to_bytes()].concat()
    };
    let earlier = Incarnation { counter: 4, nonce: 1 };
    let stale = {
        let claims =
            Claims { server_counter: earlier.counter, server_nonce: earlier.nonce, ..claims() };
        TokenSigner::new(&[9; 32]).sign(&claims).as_bytes().to_vec()
    };
    let other_project = Claims { project: "other".parse().unwrap(), ..claims() };
    let other_issuer = Claims { issuer: "relay-a".parse().unwrap(), ..claims() };
    let second_spelling = [&[0x9e, 0xcc], &plain[1..]].concat();
    let end = example::NOW + 900 + TokenVerifier::SKEW_S + 1;
    let early = example::NOW - TokenVerifier::SKEW_S - 1;
    let now = example::NOW;
    let last = sign(&claims()).len() - 1;
    let cases: Vec<(&str, &str, Vec<u8>, u64, Status)> = vec![
        ("token-empty", "no bytes", Vec::new(), now, Status::BadToken),
        ("token-signature-only", "64 bytes and no claims", vec![0; 64], now, Status::BadToken),
        ("token-claims-changed", "one bit", flip(sign(&claims()), 5), now, Status::BadToken),
        ("token-signature-changed", "one bit", flip(sign(&claims()), last), now, Status::BadToken),
        (
            "token-zero-signature",
            "64 zeros",
            [plain.clone(), vec![0; 64]].concat(),
            now,
            Status::BadToken,
        ),
        ("token-by-another-key", "not the server's", by_another, now, Status::BadToken),
        (
            "token-without-label",
            "the claims themselves were signed",
            unlabelled,
            now,
            Status::BadToken,
        ),
        (
            "token-version",
            "form 2",
            sign(&Claims { version: 2, ..claims() }),
            now,
            Status::BadToken,
        ),
        ("token-project", "of another project", sign(&other_project), now, Status::BadToken),
        ("token-issuer", "in the name of a relay", sign(&other_issuer), now, Status::BadToken),
        (
            "token-trailing",
            "a byte behind the claims, signed",
            sign_bytes(&[&plain[..], &[0xc0]].concat()),
            now,
            Status::BadToken,
        ),
        (
            "token-second-spelling",
            "the version as uint8, signed",
            sign_bytes(&second_spelling),
            now,
            Status::BadToken,
        ),
        ("token-expired", "31 s after its end", sign(&claims()), end, Status::TokenExpired),
        (
            "token-not-yet",
            "31 s before its beginning",
            sign(&claims()),
            early,
            Status::TokenExpired,
        ),
        (
            "token-of-an-earlier-start",
            "of the server, whose key died with it",
            stale,
            now,
            Status::TokenRevoked,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, about, bytes, now, code)| {
            assert_eq!(outcome(&bytes, now), Err(code), "{name}");
            let json = json!({ "about": about, "verifier": setting(now), "code": code.code() });
            Vector { name: name.to_owned(), bytes, json }
        })
        .collect()
}
