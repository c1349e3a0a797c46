use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use cellbus_proto::{
    codec::{Octets, body::Blob},
    identity::Identity,
    joining::{COLLECT_S, Knock, knock_signable},
};
use cellbus_runtime::{authority::self_sign, joining::JoinKey};

use super::*;

const NOW: u64 = 1_800_000_000;
const ACCESS: [u8; 32] = [3; 32];
const EXPORTER: [u8; 32] = [4; 32];

fn site() -> Segment {
    "site-9".parse().unwrap()
}

struct Place {
    dir: tempfile::TempDir,
}

/// Somebody with a key.
struct Knocking {
    certificate: Vec<u8>,
    key: JoinKey,
}

impl Knocking {
    fn new() -> Self {
        let identity = Identity::from_uri("cell://study/client/site-9?org=hq").unwrap();
        let made = self_sign(&identity, NOW).unwrap();
        let certificate = made.chain().swap_remove(0).to_vec();
        let key = JoinKey::new(&certificate, made.key_pem().as_bytes()).unwrap();
        Self { certificate, key }
    }

    fn asks(&self, access: [u8; 32], request: &[u8]) -> Asked {
        let signable = knock_signable(&site(), &EXPORTER, &self.certificate, request);
        let knock = Knock {
            name: site(),
            access: Octets(access),
            certificate: Blob(self.certificate.clone()),
            request: Blob(request.to_vec()),
            signature: Blob(self.key.sign(&signable).unwrap()),
        };
        Asked { knock, exporter: EXPORTER, from: ([127, 0, 0, 1], 1).into() }
    }
}

impl Place {
    fn new() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        Self { dir: tempfile::Builder::new().permissions(private).tempdir().unwrap() }
    }

    fn join(&self) -> PathBuf {
        self.dir.path().join("join")
    }

    /// As the process has it after a start at this time.
    fn desk_at(&self, now: u64) -> Desk {
        let sign = Sign {
            cell: "server".parse().unwrap(),
            project: "study".parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
        };
        Desk::open(&self.join(), sign, WallClock::starting_at(now)).unwrap()
    }

    fn desk(&self) -> Desk {
        self.desk_at(NOW)
    }

    fn invited(&self) -> Desk {
        let desk = self.desk();
        ask(&desk, invite()).unwrap();
        desk
    }

    fn files(&self) -> Vec<String> {
        let listed = fs::read_dir(self.join()).unwrap();
        let mut names: Vec<String> =
            listed.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn invite() -> JoinVerb {
    JoinVerb::Invite {
        name: site(),
        access_sha256: hex(&sha256(&ACCESS)),
        expires_unix: NOW + 3600,
    }
}

fn ask(desk: &Desk, verb: JoinVerb) -> Result<JoinReply, ControlError> {
    desk.control(&JoinAsk { verb, by: None })
}

fn answer(desk: &Desk, request: &[u8], reply: &str) -> Result<JoinReply, ControlError> {
    let request_sha256 = hex(&sha256(request));
    let reply = Payload::Utf8(reply.to_owned());
    ask(desk, JoinVerb::Answer { name: site(), request_sha256, reply, rule: None })
}

#[test]
fn v_22_what_was_said_to_anybody_holds_after_a_kill_at_any_step() {
    let (place, first, second) = (Place::new(), Knocking::new(), Knocking::new());
    drop(place.invited());
    let waits = Answer::Waiting { after_s: ASK_AGAIN_S };
    assert_eq!(place.desk().decide(&first.asks(ACCESS, b"request")), waits);
    // Another process, which knows what lies on the disk alone.
    let taken = Answer::Refused(Refusal::Taken);
    assert_eq!(place.desk().decide(&second.asks(ACCESS, b"request")), taken);
    let fetched = ask(&place.desk(), JoinVerb::Fetch { name: site() }).unwrap();
    assert_eq!(fetched.request, Some(Payload::Utf8("request".to_owned())));
    assert_eq!(fetched.rows[0].stage, "waiting");
    answer(&place.desk(), b"request", "reply").unwrap();
    let granted = Answer::Granted { reply: b"reply".to_vec() };
    for _ in 0..2 {
        assert_eq!(place.desk().decide(&first.asks(ACCESS, b"request")), granted);
        assert_eq!(place.desk().decide(&second.asks(ACCESS, b"request")), taken);
    }
    // As if it had been killed after the reply was written, and before the entry was.
    let place = Place::new();
    place.invited().decide(&first.asks(ACCESS, b"request"));
    fs::write(place.join().join("site-9.reply"), "forged").unwrap();
    assert_eq!(place.desk().decide(&first.asks(ACCESS, b"request")), waits);
}

#[test]
fn v_22_atk_150_without_secret_and_key_nothing_is_kept_and_nothing_is_given() {
    let (place, knocking) = (Place::new(), Knocking::new());
    let desk = place.invited();
    let before = place.files();
    let unknown = Answer::Refused(Refusal::Unknown);
    assert_eq!(desk.decide(&knocking.asks([9; 32], b"request")), unknown);
    let mut other = knocking.asks(ACCESS, b"request");
    other.knock.name = "site-8".parse().unwrap();
    assert_eq!(desk.decide(&other), unknown);
    let mut replayed = knocking.asks(ACCESS, b"request");
    replayed.exporter = [5; 32];
    assert_eq!(desk.decide(&replayed), Answer::Refused(Refusal::NoProof));
    let mut changed = knocking.asks(ACCESS, b"request");
    changed.knock.request = Blob(b"another".to_vec());
    assert_eq!(desk.decide(&changed), Answer::Refused(Refusal::NoProof));
    assert_eq!(
        (place.files(), ask(&desk, JoinVerb::Ls).unwrap().rows[0].stage.as_str()),
        (before, "invited")
    );

    desk.decide(&knocking.asks(ACCESS, b"request"));
    let again = Answer::Refused(Refusal::Changed);
    assert_eq!(desk.decide(&knocking.asks(ACCESS, b"another")), again);
    let late = place.desk_at(NOW + 3601);
    // It was swept away, and so is a name like any other.
    assert_eq!(late.decide(&knocking.asks(ACCESS, b"request")), unknown);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn v_22_a_reply_is_handed_out_for_the_request_that_was_approved_only() {
    let (place, knocking) = (Place::new(), Knocking::new());
    let desk = place.invited();
    assert_eq!(answer(&desk, b"request", "reply").unwrap_err().code, "JOIN_REFUSED");
    desk.decide(&knocking.asks(ACCESS, b"request"));
    assert_eq!(answer(&desk, b"another", "reply").unwrap_err().code, "JOIN_REFUSED");
    let large = "x".repeat(REPLY_MAX_BYTES + 1);
    assert_eq!(answer(&desk, b"request", &large).unwrap_err().code, "JOIN_REFUSED");
    answer(&desk, b"request", "reply").unwrap();
    // Whoever is invited anew has nothing to do with what was before.
    ask(&desk, invite()).unwrap();
    assert_eq!(place.files(), ["site-9.entry"]);
    assert_eq!(ask(&desk, JoinVerb::Fetch { name: site() }).unwrap_err().code, "JOIN_REFUSED");
    let waits = Answer::Waiting { after_s: ASK_AGAIN_S };
    assert_eq!(desk.decide(&Knocking::new().asks(ACCESS, b"request")), waits);
}

#[test]
fn v_22_whoever_was_rejected_is_told_and_leaves_nothing_behind() {
    let (place, knocking) = (Place::new(), Knocking::new());
    let desk = place.invited();
    desk.decide(&knocking.asks(ACCESS, b"request"));
    ask(&desk, JoinVerb::Reject { name: site() }).unwrap();
    let rejected = Answer::Refused(Refusal::Rejected);
    assert_eq!(place.desk().decide(&knocking.asks(ACCESS, b"request")), rejected);
    assert_eq!(answer(&desk, b"request", "reply").unwrap_err().code, "JOIN_REFUSED");
    assert_eq!(place.files(), ["site-9.entry"]);
}

#[test]
fn v_22_s2_04_links_fifos_and_damage_in_the_directory_let_nobody_in() {
    let (place, knocking) = (Place::new(), Knocking::new());
    drop(place.invited());
    // A link where a letter is to lie: what it leads to stays as it is.
    let outside = place.dir.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    std::os::unix::fs::symlink(&outside, place.join().join("site-9.request")).unwrap();
    let desk = place.desk();
    let waits = Answer::Waiting { after_s: ASK_AGAIN_S };
    assert_eq!(desk.decide(&knocking.asks(ACCESS, b"request")), waits);
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    let kept = place.join().join("site-9.request");
    assert!(kept.symlink_metadata().unwrap().is_file());
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A FIFO instead of a letter, and an entry that is cut: neither stops the door, and neither is believed.
    let entry = place.join().join("site-9.entry");
    fs::remove_file(&kept).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &kept,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let unknown = Answer::Refused(Refusal::Unknown);
    assert_eq!(place.desk().decide(&knocking.asks(ACCESS, b"request")), unknown);
    let bytes = fs::read(&entry).unwrap();
    fs::write(&entry, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(place.desk().decide(&knocking.asks(ACCESS, b"request")), unknown);
    assert_eq!(fs::read(&entry).unwrap().len(), bytes.len() - 1, "it is left as it is");
    // The directory itself is a link.
    let elsewhere = Place::new();
    std::os::unix::fs::symlink(place.join(), elsewhere.join()).unwrap();
    let sign = (*elsewhere_sign()).clone();
    assert!(Desk::open(&elsewhere.join(), sign, WallClock::starting_at(NOW)).is_err());
}

fn elsewhere_sign() -> Arc<Sign> {
    Place::new().desk().sign
}

#[test]
fn v_22_a_reply_can_be_collected_for_a_day_past_the_end_of_its_invitation() {
    let (place, knocking) = (Place::new(), Knocking::new());
    let desk = place.invited();
    desk.decide(&knocking.asks(ACCESS, b"request"));
    answer(&desk, b"request", "reply").unwrap();
    let last = NOW + 3600 + COLLECT_S;
    let granted = Answer::Granted { reply: b"reply".to_vec() };
    assert_eq!(place.desk_at(last).decide(&knocking.asks(ACCESS, b"request")), granted);
    let unknown = Answer::Refused(Refusal::Unknown);
    assert_eq!(place.desk_at(last + 1).decide(&knocking.asks(ACCESS, b"request")), unknown);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn what_is_asked_of_a_door_is_read_exactly() {
    let desk = Place::new().desk();
    let verb = |access: &str| JoinVerb::Invite {
        name: site(),
        access_sha256: access.to_owned(),
        expires_unix: NOW + 1,
    };
    for bad in ["", "00", &"g".repeat(64), &"ä".repeat(32)] {
        assert_eq!(ask(&desk, verb(bad)).unwrap_err().code, "CONTROL_BAD_REQUEST");
    }
    assert_eq!(ask(&desk, JoinVerb::Reject { name: site() }).unwrap_err().code, "JOIN_REFUSED");
    assert!(ask(&desk, JoinVerb::Ls).unwrap().rows.is_empty());
}
