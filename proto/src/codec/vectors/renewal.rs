//! A cell that gets another certificate and goes on with it: bodies, and what is signed with the new key.

use serde_json::Value;

use super::{
    Vector,
    bodies::{bad_one, good_one},
    counting, example, files,
    signed::{bytes, transcript},
};
use crate::{
    codec::body::{self, Blob},
    transcript::{IssueCertificateFacts, Purpose, RenewCertificateFacts, RenewLinkFacts},
};

/// Seed of the new key.
const NEW_SEED: u8 = 5;
/// Stands for the leaf hash of the new certificate.
const NEW_LEAF: [u8; 32] = [7; 32];

pub(super) fn good() -> Vec<Vector> {
    let request = files::certificate("site-1");
    let issue = body::IssueCertificate {
        request: Blob(request.clone()),
        signature: Blob(counting::<64>(0).to_vec()),
    };
    let chain = vec![Blob(files::certificate("site-1")), Blob(files::certificate("root"))];
    let issued = body::IssuedCertificate { chain: chain.clone() };
    let renewed = body::NewCertificate { chain, signature: issue.signature.clone() };
    let (old_leaf, exporter) = (example::leaf("site-1"), example::exporter());
    let by_new = |purpose, signable, fields: &[(&str, Value)]| {
        let begin = [("project", Value::from(example::PROJECT)), ("cell", "site-1".into())];
        transcript(purpose, NEW_SEED, signable, &[&begin, fields].concat())
    };
    vec![
        good_one("issue_certificate", "of a cell/issue_certificate request", &issue),
        good_one("issued_certificate", "of the reply to it", &issued),
        good_one(
            "new_certificate",
            "of a cell/renew_certificate and of a cell/renew_link request",
            &renewed,
        ),
        by_new(
            Purpose::IssueCertificate,
            IssueCertificateFacts {
                project: example::PROJECT,
                cell: "site-1",
                server: "server",
                held: &old_leaf,
                request: &request,
            }
            .signable(),
            &[
                ("server", "server".into()),
                ("held", bytes(&old_leaf)),
                ("request", bytes(&request)),
            ],
        ),
        by_new(
            Purpose::RenewCertificate,
            RenewCertificateFacts {
                project: example::PROJECT,
                cell: "site-1",
                server: "server",
                old_leaf: &old_leaf,
                new_leaf: &NEW_LEAF,
            }
            .signable(),
            &[
                ("server", "server".into()),
                ("old_leaf", bytes(&old_leaf)),
                ("new_leaf", bytes(&NEW_LEAF)),
            ],
        ),
        by_new(
            Purpose::RenewLink,
            RenewLinkFacts {
                project: example::PROJECT,
                cell: "site-1",
                neighbour: "server",
                old_leaf: &old_leaf,
                new_leaf: &NEW_LEAF,
                exporter: &exporter,
            }
            .signable(),
            &[
                ("neighbour", "server".into()),
                ("old_leaf", bytes(&old_leaf)),
                ("new_leaf", bytes(&NEW_LEAF)),
                ("exporter", bytes(&exporter)),
            ],
        ),
    ]
}

pub(super) fn bad() -> Vec<Vector> {
    let certificate = [0xc4, 1, 7];
    let chain = |head: &[u8], count| [head, &certificate.repeat(count)].concat();
    let issued = |chain: Vec<u8>| [&[0x91], &chain[..]].concat();
    let renewed = |chain: Vec<u8>| [&[0x92], &chain[..], &certificate].concat();
    vec![
        bad_one::<body::IssueCertificate>(
            "request-without-signature",
            "issue_certificate",
            [&[0x91][..], &certificate].concat(),
        ),
        bad_one::<body::IssueCertificate>(
            "request-that-wants-a-name",
            "issue_certificate",
            [&[0x93][..], &certificate, &certificate, &[0xa6], b"site-2"].concat(),
        ),
        bad_one::<body::IssuedCertificate>(
            "five-certificates-issued",
            "issued_certificate",
            issued(chain(&[0x95], 5)),
        ),
        bad_one::<body::IssuedCertificate>(
            "certificates-of-4-gib-issued",
            "issued_certificate",
            issued(vec![0xdd, 255, 255, 255, 255]),
        ),
        bad_one::<body::NewCertificate>(
            "five-certificates-renewed",
            "new_certificate",
            renewed(chain(&[0x95], 5)),
        ),
        bad_one::<body::NewCertificate>(
            "text-for-a-certificate",
            "new_certificate",
            renewed(vec![0x91, 0xa1, b'x']),
        ),
    ]
}
