use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    codec::Octets,
    envelope::{Address, Common, Envelope, Extras, Flags, Header, Incarnation, Kind, Lane},
    identity::{CellKind, Identity},
    name::Fqcn,
    status::Status,
    token::Claims,
    well_known,
};

use super::{Leaf, message};
use crate::{
    authority::{Authority, OwnCertificate, mint_job},
    certificate::CertDates,
    clock::WallClock,
    own::Own,
    tls::Roots,
};

mod golden;

const NOW: u64 = 1_900_000_000;
const SECRET: &[u8] = b"what nobody but the destination may read";

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

/// Whether this was in the moment that a test takes.
fn is_now(unix_ms: u64) -> bool {
    (NOW * 1000..(NOW + 60) * 1000).contains(&unix_ms)
}

struct Project {
    authority: Authority,
    roots: Arc<Roots>,
}

impl Project {
    fn new() -> Self {
        let authority = Authority::create("study".parse().unwrap(), NOW).unwrap();
        let roots = Arc::new(Roots::new(vec![authority.root().clone()]).unwrap());
        Self { authority, roots }
    }

    fn cell(&self, full: &str, kind: CellKind) -> Own {
        let full = name(full);
        let of = if kind == CellKind::Job { full.clone() } else { name(full.base()) };
        let (project, org) = ("study".parse().unwrap(), "hq".parse().unwrap());
        let identity = Identity { project, kind, name: of, org, role: None };
        let issued = if kind == CellKind::Job {
            mint_job(&identity, NOW)
        } else {
            let dates = CertDates::lasting(NOW, Duration::from_secs(3600));
            self.authority.issue(&identity, &[], dates)
        };
        let certificate = OwnCertificate::try_from(&issued.unwrap()).unwrap();
        self.own(full, certificate)
    }

    fn own(&self, full: Fqcn, certificate: OwnCertificate) -> Own {
        let incarnation = Incarnation { counter: 2, nonce: 7 };
        let wall = WallClock::starting_at(NOW);
        let roots = Arc::clone(&self.roots);
        Own::new(full, name("server"), Some(name("server")), incarnation, certificate, roots, wall)
    }
}

/// What the server says of a registered cell.
fn claims(own: &Own) -> Claims {
    Claims {
        version: Claims::VERSION,
        issuer: name("server"),
        project: own.identity.project.clone(),
        subject: own.name.clone(),
        kind: own.identity.kind,
        org: own.identity.org.clone(),
        via: name("server"),
        server_counter: 1,
        server_nonce: 1,
        issued: NOW,
        expires: NOW + 900,
        id: Octets([1; 16]),
        leaf: Octets(own.certificate().hash()),
        job: None,
    }
}

fn leaf(verifier: &Own, own: &Own) -> Leaf {
    Leaf::verify(verifier, own.certificate().chain(), &claims(own)).unwrap()
}

fn header(from: &Own, to: &Own) -> Header {
    Header {
        kind: Kind::Request,
        sequence: 7,
        common: Arc::new(Common {
            origin: Arc::clone(&from.address),
            destination: Address::any(to.name.clone()),
            target: "task/fetch".parse().unwrap(),
            token: None,
            lane: Lane::Interactive,
            flags: Flags::SEALED,
        }),
        budget_ms: 5000,
        hops_left: 4,
        extras: None,
    }
}

fn sealed(from: &Own, to: &Own) -> Envelope {
    let header = header(from, to);
    let payload = message::seal(from, &header, SECRET, &leaf(from, to)).unwrap();
    Envelope { header, payload }
}

fn refusal(to: &Own, envelope: &Envelope, claims: &Claims) -> Status {
    message::open(to, envelope, claims).unwrap_err()
}

#[test]
fn p_28_only_the_destination_reads_what_is_sealed_and_knows_who_sealed_it() {
    let project = Project::new();
    let cells = [
        project.cell("site-1", CellKind::Client),
        project.cell("relay.site-2", CellKind::Client),
        project.cell("server", CellKind::Server),
        project.cell("site-1.job-7", CellKind::Job),
    ];
    for (from, to) in cells.iter().zip(cells.iter().cycle().skip(1)) {
        let envelope = sealed(from, to);
        assert!(!envelope.payload.windows(8).any(|part| SECRET.windows(8).any(|s| s == part)));
        let opened = message::open(to, &envelope, &claims(from)).unwrap();
        assert_eq!(opened.payload, SECRET);
        assert_eq!(opened.leaf.hash(), from.certificate().hash());
        assert!(is_now(opened.unix_ms));
        // Not for any other cell, whatever the header says.
        for other in cells.iter().filter(|cell| cell.name != to.name) {
            assert_eq!(refusal(other, &envelope, &claims(from)), Status::SealKey);
        }
    }
}

/// Everything about a message that a relay could change.
fn altered(envelope: &Envelope, other: &Own) -> Vec<(&'static str, Envelope)> {
    let with = |change: &dyn Fn(&mut Header)| {
        let mut altered = envelope.clone();
        change(&mut altered.header);
        altered
    };
    let extras = |change: &dyn Fn(&mut Extras)| with(&|h| change(h.extras.get_or_insert_default()));
    let at = |at: usize| {
        let mut payload = envelope.payload.to_vec();
        let at = at % payload.len();
        payload[at] ^= 1;
        Envelope { payload: payload.into(), ..envelope.clone() }
    };
    let last = envelope.payload.len() - 1;
    vec![
        ("destination", with(&|h| h.destination = Arc::clone(&other.address))),
        ("origin", with(&|h| h.origin = Arc::clone(&other.address))),
        (
            "start",
            with(&|h| {
                let start = Incarnation { counter: 3, nonce: 7 };
                h.origin = Address::exact(h.origin.name.clone(), start);
            }),
        ),
        ("topic", with(&|h| h.target = "task/submit".parse().unwrap())),
        ("channel", with(&|h| h.target = "share/fetch".parse().unwrap())),
        ("sequence", with(&|h| h.sequence = 8)),
        ("kind", with(&|h| h.kind = Kind::Publish)),
        ("reply", with(&|h| h.kind = Kind::Reply { to: 7 })),
        ("flags", with(&|h| h.flags = Flags::SEALED.with(Flags::RETRY))),
        ("content type", extras(&|extras| extras.content_type = Some("a/b".into()))),
        ("headers", extras(&|extras| extras.headers = Bytes::from_static(b"h"))),
        ("suite", at(0)),
        ("encapsulated key", at(40)),
        ("ciphertext", at(150)),
        ("last byte", at(last)),
        ("shortened", Envelope { payload: envelope.payload.slice(..last), ..envelope.clone() }),
        ("nothing", Envelope { payload: Bytes::new(), ..envelope.clone() }),
    ]
}

#[test]
fn p_28_a_sealed_message_that_was_changed_in_any_field_is_not_opened() {
    let project = Project::new();
    let (from, to) =
        (project.cell("site-1", CellKind::Client), project.cell("server", CellKind::Server));
    let other = project.cell("site-2", CellKind::Client);
    let envelope = sealed(&from, &to);
    for (what, altered) in altered(&envelope, &other) {
        assert_eq!(refusal(&to, &altered, &claims(&from)), Status::SealBroken, "{what}");
    }
    let mut to_another = envelope.clone();
    to_another.payload =
        [&envelope.payload[..1], &[0; 32], &envelope.payload[33..]].concat().into();
    assert_eq!(refusal(&to, &to_another, &claims(&from)), Status::SealKey);
    assert!(message::open(&to, &envelope, &claims(&from)).is_ok());
}

#[test]
fn p_28_what_another_has_sealed_in_a_cells_name_is_not_opened() {
    let project = Project::new();
    let (from, to) =
        (project.cell("site-1", CellKind::Client), project.cell("server", CellKind::Server));
    let relay = project.cell("relay", CellKind::Relay);
    // Anybody can encrypt to a certificate; the signature within is the sender's.
    let forged = |claimed: &Own| {
        let header = header(claimed, &to);
        let payload = message::seal(&relay, &header, SECRET, &leaf(&relay, &to)).unwrap();
        Envelope { header, payload }
    };
    assert_eq!(refusal(&to, &forged(&from), &claims(&from)), Status::SealBroken);
    // Nor with a certificate of the same name from another project's authority.
    let elsewhere = Project::new().cell("site-1", CellKind::Client);
    let payload =
        message::seal(&elsewhere, &header(&from, &to), SECRET, &leaf(&from, &to)).unwrap();
    let envelope = Envelope { header: header(&from, &to), payload };
    assert_eq!(refusal(&to, &envelope, &claims(&from)), Status::SealBroken);
    assert_eq!(refusal(&to, &envelope, &claims(&elsewhere)), Status::SealBroken);
    assert!(message::open(&to, &forged(&relay), &claims(&relay)).is_ok());
}

#[test]
fn p_28_a_destination_cannot_pass_on_what_was_sealed_to_it_as_if_it_were_sealed_to_another() {
    let project = Project::new();
    let (from, relay) =
        (project.cell("site-1", CellKind::Client), project.cell("relay", CellKind::Relay));
    let to = project.cell("server", CellKind::Server);
    let header = header(&from, &to);
    // Sealed to the relay's key, with the header of a message to the server.
    let payload = message::seal(&from, &header, SECRET, &leaf(&from, &relay)).unwrap();
    let envelope = Envelope { header, payload };
    assert!(message::open(&relay, &envelope, &claims(&from)).is_ok());
    assert_eq!(refusal(&to, &envelope, &claims(&from)), Status::SealKey);
}

#[test]
fn p_28_the_certificate_of_a_liar_is_not_taken_for_another_cells() {
    let project = Project::new();
    let me = project.cell("site-1", CellKind::Client);
    let (server, site) =
        (project.cell("server", CellKind::Server), project.cell("site-2", CellKind::Client));
    let other = Project::new().cell("server", CellKind::Server);
    let job = project.cell("site-2.job-7", CellKind::Job);
    let refused = |shown: &Own, claims: &Claims| {
        Leaf::verify(&me, shown.certificate().chain(), claims).unwrap_err()
    };
    let of = |subject: &Own, leaf: &Own| Claims {
        leaf: Octets(leaf.certificate().hash()),
        ..claims(subject)
    };
    // Another leaf than the one that the server has named.
    assert_eq!(refused(&site, &claims(&server)), Status::BadSignature);
    // A leaf that the server has named and the project's authority has not issued.
    assert_eq!(refused(&other, &of(&server, &other)), Status::BadSignature);
    assert_eq!(refused(&job, &of(&site, &job)), Status::BadSignature);
    // Of another name, and of another kind.
    let third = project.cell("site-3", CellKind::Client);
    assert_eq!(refused(&third, &of(&site, &third)), Status::CertName);
    assert_eq!(refused(&server, &of(&site, &server)), Status::CertKind);
    let job_of_another = project.cell("site-3.job-7", CellKind::Job);
    assert_eq!(refused(&job_of_another, &of(&job, &job_of_another)), Status::CertName);
    let none: [&[u8]; 0] = [];
    assert_eq!(Leaf::verify(&me, &none, &claims(&site)).unwrap_err(), Status::BadSignature);
    assert!(Leaf::verify(&me, job.certificate().chain(), &claims(&job)).is_ok());
}

#[test]
fn p_12_a_control_message_is_the_origins_or_nobodys() {
    let project = Project::new();
    let (server, site) =
        (project.cell("server", CellKind::Server), project.cell("site-1", CellKind::Client));
    let relay = project.cell("relay", CellKind::Relay);
    let start = |signer: Option<&Own>| {
        let mut header = header(&server, &site);
        (header.target, header.flags) = (well_known::JOB_START.into(), Flags::default());
        let mut envelope = Envelope { header, payload: Bytes::from_static(b"start") };
        if let Some(signer) = signer {
            message::sign(signer, &mut envelope).unwrap();
        }
        envelope
    };
    let verify = |envelope: &Envelope| message::verify(&site, envelope, &claims(&server));
    let signed = start(Some(&server));
    // Before the server's certificate is known from the registration.
    assert_eq!(verify(&signed), Err(Status::BadSignature));
    site.protection.keep(Arc::new(leaf(&site, &server)), Default::default);
    site.protection.keep(Arc::new(leaf(&site, &relay)), Default::default);
    assert!(verify(&signed).is_ok_and(is_now));
    assert_eq!(verify(&start(None)), Err(Status::BadSignature));
    assert_eq!(verify(&start(Some(&relay))), Err(Status::BadSignature));
    let of_relay = message::verify(&site, &start(Some(&relay)), &claims(&relay));
    assert_eq!(of_relay, Err(Status::BadSignature), "its own signature in the server's name");
    for (what, altered) in altered(&signed, &relay) {
        assert_eq!(verify(&altered), Err(Status::BadSignature), "{what}");
    }
    let mut later = signed.clone();
    if let Some(proof) = later.header.extras.as_mut().and_then(|e| e.proof.as_mut()) {
        proof.unix_ms += 1;
    }
    assert_eq!(verify(&later), Err(Status::BadSignature));
}
