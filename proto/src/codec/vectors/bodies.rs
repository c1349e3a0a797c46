//! Bodies of the system's own messages, good and bad.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Vector, counting, exact, example, files, model, name};
use crate::{
    codec::{
        Octets,
        body::{self, Blob},
    },
    status::Status,
};

pub(super) fn good_one<T>(body: &str, about: &str, value: &T) -> Vector
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = body::encode(value).to_vec();
    assert_eq!(exact::<T>(&bytes).as_ref(), Ok(value), "{body}");
    let named = model::named(body, &bytes);
    assert_eq!(model::write_body(body, &named), bytes, "{body}");
    let in_code: Value = serde_json::to_value(value).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&named), names(&in_code), "{body}: names of fields");
    let json = json!({ "about": about, "body": body, "value": named });
    Vector { name: format!("body-{}", body.replace('_', "-")), bytes, json }
}

pub(super) fn good() -> Vec<Vector> {
    let child = || name("relay-a.site-2");
    let incarnation = example::SITE.into();
    let job = || "job-7".parse().unwrap();
    let site = || vec![Blob(files::certificate("site-1"))];
    let challenge = body::WireChallenge {
        id: 2,
        nonce: Octets(counting(0x40)),
        server: name("server"),
        server_nonce: Octets(counting(0x60)),
    };
    let register_child = body::RegisterChild {
        child: name("site-1.job-7"),
        incarnation,
        chain: site(),
        signature: Blob(counting::<64>(0).to_vec()),
        job: Some(job()),
    };
    let not_a_job =
        body::RegisterChild { child: child(), job: None, chain: vec![], ..register_child.clone() };
    let child_registered = body::ChildRegistered {
        token: example::registered().token,
        server_key: example::server_key(),
    };
    let start = body::JobStart {
        job: job(),
        program: "train".parse().unwrap(),
        parameters: Blob(b"{}".to_vec()),
    };
    let ended = body::JobEnded { job: job(), completed: false, detail: "exit code 3".into() };
    let mut vectors = vec![
        good_one("challenge", "of an ANSWER to a challenge, and within HELLO_OK", &challenge),
        good_one("register", "of a register request", &example::proof()),
        good_one("registered", "of an ANSWER to a register", &example::registered()),
        good_one("server_key", "the server announces its token key", &example::server_key()),
        good_one(
            "challenge_child",
            "of a cell/challenge_child request",
            &body::ChallengeChild { child: child() },
        ),
        good_one(
            "child_challenge",
            "of the reply to it",
            &body::ChildChallenge { nonce: Octets(counting(0)) },
        ),
        good_one("register_child", "of a cell/register_child request", &register_child),
        good_one("child_registered", "of the reply to it", &child_registered),
        good_one(
            "renew_child",
            "of a cell/renew_child request",
            &body::RenewChild { child: child(), incarnation },
        ),
        good_one(
            "detach_child",
            "of a cell/detach_child publish",
            &body::DetachChild { child: child(), incarnation },
        ),
        good_one(
            "cancel",
            "of a cell/cancel publish",
            &body::Cancel { requests: vec![1, 127, 128, u64::MAX] },
        ),
        good_one(
            "certificate",
            "of the reply to a cell/certificate request",
            &body::Certificate { chain: site(), token: example::registered().token },
        ),
        good_one("job_start", "of a cell/job_start request", &start),
        good_one("job_stop", "of a cell/job_stop request", &body::JobStop { job: job() }),
        good_one("job_ended", "of a cell/job_ended request", &ended),
    ];
    let mut without = good_one("register_child", "nil for a cell that is no job", &not_a_job);
    without.name.push_str("-without-job");
    vectors.push(without);
    vectors
}

pub(super) fn bad_one<T: Serialize + DeserializeOwned>(
    name: &str,
    body: &str,
    bytes: Vec<u8>,
) -> Vector {
    let outcome = exact::<T>(&bytes).map(drop);
    assert_eq!(outcome, Err(Status::BadFrame), "{name}");
    let json = json!({ "body": body, "code": Status::BadFrame.code() });
    Vector { name: format!("body-{name}"), bytes, json }
}

pub(super) fn bad() -> Vec<Vector> {
    let proof = body::encode(&example::proof()).to_vec();
    let swap = |at: usize, with: &[u8]| [&proof[..at], with, &proof[at + 1..]].concat();
    let with_chain = |chain: Vec<u8>| {
        let start = body::encode(&body::RenewChild {
            child: name("a.b"),
            incarnation: example::SITE.into(),
        });
        [&[0x95], &start[1..], &chain, &[0xc4, 1, 0, 0xc0]].concat()
    };
    let certificate = [0xc4, 1, 7];
    assert!(
        exact::<body::RegisterChild>(&with_chain([&[0x94][..], &certificate.repeat(4)].concat()))
            .is_ok()
    );
    let deep = [vec![0x91; 100_000], vec![0xc0]].concat();
    vec![
        bad_one::<body::Register>("empty", "register", Vec::new()),
        bad_one::<body::Register>("trailing", "register", [&proof[..], &[0]].concat()),
        bad_one::<body::Register>("cut", "register", proof[..proof.len() - 1].to_vec()),
        bad_one::<body::Register>(
            "one-field-more",
            "register",
            [&[0x93], &proof[1..], &[0xc0]].concat(),
        ),
        bad_one::<body::Register>("one-field-less", "register", [&[0x91], &proof[1..67]].concat()),
        bad_one::<body::Register>("map", "register", swap(0, &[0x82])),
        bad_one::<body::Register>("long-array", "register", swap(0, &[0xdc, 0, 2])),
        bad_one::<body::Register>("long-bin", "register", swap(1, &[0xc5, 0])),
        bad_one::<body::Register>("text-for-bytes", "register", swap(1, &[0xd9])),
        bad_one::<body::Register>("deep", "register", deep),
        bad_one::<body::ChallengeChild>("bad-name", "challenge_child", vec![0x91, 0xa1, b'A']),
        bad_one::<body::ChildChallenge>(
            "short-nonce",
            "child_challenge",
            [vec![0x91, 0xc4, 31], vec![0; 31]].concat(),
        ),
        bad_one::<body::ChildChallenge>(
            "long-nonce",
            "child_challenge",
            [vec![0x91, 0xc4, 33], vec![0; 33]].concat(),
        ),
        bad_one::<body::RegisterChild>(
            "five-certificates",
            "register_child",
            with_chain([&[0x95][..], &certificate.repeat(5)].concat()),
        ),
        bad_one::<body::RegisterChild>(
            "certificates-of-4-gib",
            "register_child",
            with_chain(vec![0xdd, 255, 255, 255, 255]),
        ),
        bad_one::<body::Cancel>(
            "requests-of-4-gib",
            "cancel",
            vec![0x91, 0xdd, 255, 255, 255, 255],
        ),
        bad_one::<body::JobEnded>(
            "number-for-bool",
            "job_ended",
            [&[0x93, 0xa1, b'j', 1, 0xa0][..]].concat(),
        ),
    ]
}
