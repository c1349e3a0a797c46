use std::{fs, os::unix::fs::PermissionsExt};

use cellbus_proto::topology::project;
use cellbus_runtime::{
    authority::{Issued, IssuingAuthority},
    certificate::CertDates,
};

use super::*;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;
/// Of 90 days two thirds are over.
const LATER: u64 = NOW + 70 * 24 * HOUR;
const STUDY: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:8002"
[[cell]]
name = "site-9"
kind = "client"
parent = "server"
org = "st-mary"
[[admin]]
name = "alice"
role = "project_admin"
"#;

fn project(text: &str) -> Project {
    project::parse(text).unwrap().project
}

fn passphrase(_: Wanted) -> Result<Passphrase, PassphraseError> {
    Passphrase::new(Zeroizing::new("correct horse battery".to_owned()))
}

struct World {
    dir: tempfile::TempDir,
    /// The project with the site that is to join.
    project: Project,
    invitation: Invitation,
}

impl World {
    fn new() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let before = STUDY.replace("site-9", "site-8");
        let name = "site-9".parse().unwrap();
        Self::invited(dir, &before, STUDY, &name, NOW)
    }

    /// A project with an issuing authority, whose server is invited when two thirds of its certificate's life are over.
    fn of_a_server() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let text = format!("{STUDY}[certificates]\nissuer_days = 180\n");
        Self::invited(dir, &text, &text, &"server".parse().unwrap(), LATER)
    }

    fn invited(
        dir: tempfile::TempDir,
        before: &str,
        text: &str,
        name: &Segment,
        now_unix: u64,
    ) -> Self {
        let out = dir.path().join("fed");
        let order = Order {
            project: &project(before),
            out: &out,
            only: None,
            key: None,
            now_unix: NOW,
            work_factor: 2,
        };
        provision(&order, &mut passphrase).unwrap();
        let project = project(text);
        let invitation = invite(&project, &out, name, now_unix, HOUR, None).unwrap();
        Self { dir, project, invitation }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("fed")
    }

    fn kit(&self) -> PathBuf {
        self.dir.path().join("kit")
    }

    fn begin(&self) -> Vec<u8> {
        begin(&self.invitation, &self.kit(), NOW).unwrap()
    }

    fn approve(&self, request: &[u8]) -> Result<(Report, Vec<u8>), JoinError> {
        approve(&self.project, &self.out(), request, NOW, &mut passphrase)
    }

    /// Asserts that a request is refused and that nothing was issued for it.
    fn refused(&self, request: &[u8]) -> JoinError {
        let error = match self.approve(request) {
            Ok(_) => panic!("it was approved"),
            Err(error) => error,
        };
        let (number, records) = latest(&self.out()).unwrap().unwrap();
        assert_eq!(number, 1, "{error}");
        assert!(!records.participants.contains_key("site-9"), "{error}");
        error
    }

    /// A request that a hostile participant, who has the invitation, makes by hand.
    fn forged(&self, made: &Issued, change: impl FnOnce(&mut Request)) -> Vec<u8> {
        let certificate = made.chain().swap_remove(0);
        let key = FileEntry::of(KEY, b"key");
        let invitation = &self.invitation;
        let facts = (&invitation.project, &invitation.name, NOW);
        let signed = signable(&invitation.root_sha256, facts, (&certificate, &key), None);
        let mut request = Request {
            project: invitation.project.clone(),
            name: invitation.name.clone(),
            made_unix: NOW,
            certificate: STANDARD.encode(&certificate),
            key,
            issuing: None,
            signature: STANDARD.encode(made.prove(&signed).unwrap()),
        };
        change(&mut request);
        invitation.put(REQUEST, &request).unwrap()
    }

    fn made(&self, uri: &str) -> Issued {
        self_sign(&Identity::from_uri(uri).unwrap(), NOW).unwrap()
    }
}

const SITE: &str = "cell://study/client/site-9?org=st-mary";

#[test]
fn v_22_a_site_joins_with_a_key_that_never_leaves_it() {
    let world = World::new();
    let line = Invitation::parse(&world.invitation.line()).unwrap();
    let request = begin(&line, &world.kit(), NOW).unwrap();
    let key = fs::read(world.kit().join("startup/cell.key")).unwrap();
    assert!(Kit::open(&world.kit(), None, NOW).is_err(), "not before the reply");
    let (report, reply) = world.approve(&request).unwrap();
    let site = report.participants.iter().find(|row| row.name.as_str() == "site-9").unwrap();
    assert_eq!(site.action, crate::provision::Action::New);
    let kit = finish(&world.kit(), &reply, NOW).unwrap();
    assert_eq!(kit.credentials.certificate().identity().to_uri(), SITE);
    assert_eq!(fs::read(world.kit().join("startup/cell.key")).unwrap(), key);
    assert!(!world.kit().join(PENDING).exists(), "the secret is spent");
    Kit::open(&world.kit(), None, NOW).unwrap();
    // The key is nowhere else, and in no file that travelled.
    let body = std::str::from_utf8(&key).unwrap().lines().nth(1).unwrap().to_owned();
    for bytes in [&request, &reply] {
        assert!(!String::from_utf8_lossy(bytes).contains(&body));
    }
    assert!(!world.out().join("kits-0002/site-9/startup/cell.key").exists());
    let local = |file| fs::read_to_string(world.kit().join(LOCAL).join(file)).unwrap();
    assert_eq!((local(PROGRAMS).as_str(), local(POLICY).as_str()), (NEW_PROGRAMS, NEW_POLICY));
    let rows = invitations(&world.out(), NOW).unwrap();
    assert_eq!((rows.len(), rows[0].state), (1, State::Used));
}

#[test]
fn v_22_atk_150_what_a_request_asks_for_beyond_the_project_file_is_refused() {
    let world = World::new();
    for uri in [
        "cell://study/client/site-8?org=st-mary",
        "cell://study/client/site-9?org=other",
        "cell://other/client/site-9?org=st-mary",
        "cell://study/relay/site-9?org=st-mary",
        "cell://study/admin/site-9?org=st-mary&role=project_admin",
    ] {
        let request = world.forged(&world.made(uri), |_| {});
        assert!(matches!(world.refused(&request), JoinError::Refused(_)), "{uri}");
    }
    // One with a host name, made by an authority of the attacker's own.
    let own = cellbus_runtime::authority::Authority::create("study".parse().unwrap(), NOW).unwrap();
    let relay = Identity::from_uri("cell://study/relay/site-9?org=st-mary").unwrap();
    let hosts = ["evil.example.org".to_owned()];
    let made =
        own.issue(&relay, &hosts, CertDates::lasting(NOW, std::time::Duration::from_secs(HOUR)));
    assert!(matches!(world.refused(&world.forged(&made.unwrap(), |_| {})), JoinError::Refused(_)));
    // The certificate of an authority.
    let root = STANDARD.encode(own.root());
    let request = world.forged(&world.made(SITE), |request| request.certificate = root);
    assert!(matches!(world.refused(&request), JoinError::Refused(_)));
    let request =
        world.forged(&world.made(SITE), |request| request.key.path = "../cell.crt".to_owned());
    assert!(matches!(world.refused(&request), JoinError::Refused(_)));
}

#[test]
fn v_22_atk_150_without_the_key_the_invitation_or_in_time_nothing_is_certified() {
    let world = World::new();
    let (one, two) = (world.made(SITE), world.made(SITE));
    // The certificate of another key.
    let other = STANDARD.encode(&two.chain()[0]);
    let request = world.forged(&one, |request| request.certificate = other);
    assert!(matches!(world.refused(&request), JoinError::Refused(_)));
    let request = world.forged(&one, |request| request.made_unix += 1);
    assert!(matches!(world.refused(&request), JoinError::Refused(_)));

    // By another invitation of the same name: another secret.
    let stranger = World::new();
    assert!(matches!(world.refused(&stranger.begin()), JoinError::Letter(_)));
    // Changed on the way.
    let request = world.begin();
    let text = String::from_utf8(request.clone()).unwrap();
    let other_name = text.replace("site-9", "site-7");
    assert!(matches!(world.refused(other_name.as_bytes()), JoinError::NotInvited(_)));
    let at = text.find("\"sealed\":\"").unwrap() + 200;
    let mut bytes = request.clone();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    world.refused(&bytes);
    world.refused(b"{}");
    // Too late.
    let late = approve(&world.project, &world.out(), &request, NOW + HOUR + 1, &mut passphrase);
    assert!(matches!(late, Err(JoinError::Spent("expired"))));
    assert!(matches!(
        begin(&world.invitation, &world.dir.path().join("late"), NOW + HOUR + 1),
        Err(JoinError::Spent(_))
    ));
    // Withdrawn.
    reject(&world.out(), &world.invitation.name).unwrap();
    assert!(matches!(world.refused(&request), JoinError::Spent("withdrawn")));
}

#[test]
fn v_22_atk_150_a_request_is_approved_once() {
    let world = World::new();
    let request = world.begin();
    world.approve(&request).unwrap();
    let again = world.approve(&request);
    assert!(matches!(again, Err(JoinError::Spent("used already"))));
    // A new invitation does not help as long as there is a certificate that is good.
    let name = world.invitation.name.clone();
    let second = invite(&world.project, &world.out(), &name, NOW, HOUR, None).unwrap();
    let request = begin(&second, &world.dir.path().join("second"), NOW).unwrap();
    let again = world.approve(&request);
    assert!(matches!(again, Err(JoinError::Provision(ProvisionError::AlreadyThere(_)))));
    assert_eq!(latest(&world.out()).unwrap().unwrap().0, 2);
}

#[test]
fn v_23_a_reply_of_somebody_else_or_changed_makes_no_kit() {
    let world = World::new();
    let request = world.begin();
    let (_, reply) = world.approve(&request).unwrap();
    let other = World::new();
    let (_, foreign) = other.approve(&other.begin()).unwrap();
    assert!(matches!(finish(&world.kit(), &foreign, NOW), Err(JoinError::Letter(_))));
    // Whoever knows the secret cannot make a kit of another authority of it.
    let stranger: Reply = other.invitation.take(&letter(&foreign, REPLY).unwrap()).unwrap();
    let forged = world.invitation.put(REPLY, &stranger).unwrap();
    assert!(matches!(finish(&world.kit(), &forged, NOW), Err(JoinError::Refused(_))));
    let mut more: Reply = world.invitation.take(&letter(&reply, REPLY).unwrap()).unwrap();
    more.files.insert("../../x".to_owned(), String::new());
    let forged = world.invitation.put(REPLY, &more).unwrap();
    assert!(matches!(finish(&world.kit(), &forged, NOW), Err(JoinError::Form)));
    assert_eq!(fs::read_dir(world.kit().join("startup")).unwrap().count(), 1, "the key alone");
    finish(&world.kit(), &reply, NOW).unwrap();
}

#[test]
fn an_invitation_does_not_print_its_secret_and_a_line_is_read_whole_or_not_at_all() {
    let world = World::new();
    let line = world.invitation.line();
    let shown = format!("{:?}", world.invitation);
    assert!(!shown.contains(world.invitation.secret.0.as_str()), "{shown}");
    for bad in ["", "cellbus-join-1.", &line[..line.len() - 4], &line[1..], "cellbus-join-2.e30"] {
        assert!(matches!(Invitation::parse(bad), Err(JoinError::Line)), "{bad}");
    }
    Invitation::parse(&format!("  {}\n", *line)).unwrap();
    assert!(
        invite(&world.project, &world.out(), &"nobody".parse().unwrap(), NOW, 1, None).is_err()
    );
    assert!(invite(&world.project, &world.kit(), &world.invitation.name, NOW, 1, None).is_err());
}

fn door() -> DoorPlace {
    DoorPlace { cell: "server".parse().unwrap(), address: "127.0.0.1:1".to_owned() }
}

#[test]
fn v_22_joining_is_taken_up_again_with_the_same_key_and_request() {
    let world = World::new();
    let name = world.invitation.name.clone();
    let invited = invite(&world.project, &world.out(), &name, NOW, HOUR, Some(door())).unwrap();
    let line = Invitation::parse(&invited.line()).unwrap();
    assert_eq!(line.door, Some(door()));
    assert!(online::pending(&world.kit()).unwrap().is_none());
    let request = begin(&line, &world.kit(), NOW).unwrap();
    let one = online::pending(&world.kit()).unwrap().unwrap();
    let two = online::pending(&world.kit()).unwrap().unwrap();
    assert!(
        one.is_by(&line) && !one.is_by(&world.invitation),
        "another secret, another invitation"
    );
    let (one, two) = (one.knocker().unwrap(), two.knocker().unwrap());
    assert_eq!((&one.request, &one.certificate), (&request, &two.certificate));
    assert_eq!((&two.request, one.access), (&request, invited.access()));
    assert!(begin(&line, &world.kit(), NOW).is_err(), "a second key is not made in its place");
    let (_, reply) = world.approve(&request).unwrap();
    finish(&world.kit(), &reply, NOW).unwrap();
    assert!(online::pending(&world.kit()).unwrap().is_none());
    assert!(!world.kit().join(MADE_REQUEST).exists());
}

#[test]
fn v_22_atk_150_a_reply_that_was_made_is_given_again_for_its_own_request_only() {
    let world = World::new();
    let request = world.begin();
    let name = world.invitation.name.clone();
    assert!(online::kept_reply(&world.out(), &name, &request).unwrap().is_none());
    let (_, reply) = world.approve(&request).unwrap();
    assert_eq!(online::kept_reply(&world.out(), &name, &request).unwrap(), Some(reply));
    assert!(online::kept_reply(&world.out(), &name, b"another").unwrap().is_none());
    // Whoever is invited anew is not given it.
    invite(&world.project, &world.out(), &name, NOW, HOUR, None).unwrap();
    assert!(online::kept_reply(&world.out(), &name, &request).unwrap().is_none());
}

#[test]
fn v_22_what_lies_in_the_way_of_joining_is_left_alone() {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, world.kit()).unwrap();
    assert!(begin(&world.invitation, &world.kit(), NOW).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(world.kit().symlink_metadata().unwrap().file_type().is_symlink());
    // A link in a kit that has begun is replaced, and what it leads to stays.
    fs::remove_file(world.kit()).unwrap();
    let request = world.begin();
    let (_, reply) = world.approve(&request).unwrap();
    let target = outside.join("target");
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, world.kit().join("startup/cell.crt")).unwrap();
    finish(&world.kit(), &reply, NOW).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    Kit::open(&world.kit(), None, NOW).unwrap();
}

#[test]
fn v_22_a_kill_at_any_file_of_the_reply_leaves_no_kit_and_the_reply_is_taken_again() {
    let world = World::new();
    let request = world.begin();
    let (_, reply) = world.approve(&request).unwrap();
    finish(&world.kit(), &reply, NOW).unwrap();
    let saved = |file: &str| fs::read(world.kit().join(STARTUP).join(file)).unwrap();
    let whole: Vec<(String, Vec<u8>)> =
        replied(false).into_iter().map(|file| (file.clone(), saved(&file))).collect();
    let remembered = serde_json::to_vec(&world.invitation).unwrap();
    for written in 0..whole.len() {
        write_secret_file(&world.kit().join(PENDING), &remembered).unwrap();
        for (file, _) in &whole[written..] {
            fs::remove_file(world.kit().join(STARTUP).join(file)).unwrap();
        }
        assert!(Kit::open(&world.kit(), None, NOW).is_err(), "{written} of {}", whole.len());
        finish(&world.kit(), &reply, NOW).unwrap();
        Kit::open(&world.kit(), None, NOW).unwrap();
    }
}

#[test]
fn v_22_v_19_a_server_that_joins_makes_the_key_to_issue_with_itself_too() {
    let world = World::of_a_server();
    assert!(world.invitation.issues);
    let line = Invitation::parse(&world.invitation.line()).unwrap();
    let request = begin(&line, &world.kit(), LATER).unwrap();
    let startup = world.kit().join(STARTUP);
    let key = |file: &str| fs::read_to_string(startup.join(file)).unwrap();
    assert_ne!(key(KEY), key(ISSUER_KEY));
    let mode = fs::metadata(startup.join(ISSUER_KEY)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (report, reply) =
        approve(&world.project, &world.out(), &request, LATER, &mut passphrase).unwrap();
    let kit = finish(&world.kit(), &reply, LATER).unwrap();
    assert_eq!(kit.manifest.renewed_by, Some(cellbus_proto::renewal::RenewedBy::Server));
    let project = "study".parse().unwrap();
    let issuer = IssuingAuthority::load(&startup, &project, BTreeMap::new()).unwrap();
    assert!(issuer.is_some_and(|issuer| issuer.dates().not_after > LATER + 170 * 24 * HOUR));
    let records = latest(&world.out()).unwrap().unwrap().1;
    assert!(records.participants["server"].issuer.is_some());
    let written = world.out().join(report.written.unwrap()).join("server/startup");
    for file in [KEY, ISSUER_KEY] {
        assert!(!written.join(file).exists(), "{file} travels");
        let body = key(file).lines().nth(1).unwrap().to_owned();
        for bytes in [&request, &reply] {
            assert!(!String::from_utf8_lossy(bytes).contains(&body), "{file}");
        }
    }
    // A manifest that names the key holds the server to it.
    fs::write(startup.join(ISSUER_KEY), key(KEY)).unwrap();
    assert!(Kit::open(&world.kit(), None, LATER).is_err());
}

#[test]
fn v_22_atk_150_an_issuing_authority_is_for_a_server_that_proves_a_second_key() {
    let world = World::of_a_server();
    let invitation = &world.invitation;
    let identity = invitation.identity();
    let refused = |change: &dyn Fn(&mut Request)| {
        let request = begin(invitation, &world.dir.path().join("one"), LATER).unwrap();
        fs::remove_dir_all(world.dir.path().join("one")).unwrap();
        let mut made: Request = invitation.take(&letter(&request, REQUEST).unwrap()).unwrap();
        change(&mut made);
        let request = invitation.put(REQUEST, &made).unwrap();
        let refused = approve(&world.project, &world.out(), &request, LATER, &mut passphrase);
        assert!(matches!(refused, Err(JoinError::Refused(_))), "{refused:?}");
        assert_eq!(latest(&world.out()).unwrap().unwrap().0, 1, "nothing was issued");
    };
    refused(&|request| request.issuing = None);
    let other = self_sign(&identity, LATER).unwrap().chain().swap_remove(0);
    refused(&|request| {
        // A key whose holder has signed nothing.
        request.issuing.as_mut().unwrap().certificate = STANDARD.encode(&other);
    });
    refused(&|request| {
        let (certificate, signature) = (request.certificate.clone(), request.signature.clone());
        let key = FileEntry { path: ISSUER_KEY.to_owned(), ..request.key.clone() };
        request.issuing = Some(IssuingRequest { certificate, key, signature });
    });
    refused(&|request| request.issuing.as_mut().unwrap().key.path = KEY.to_owned());
    // A site is certified for nothing of the kind, whatever it asks for.
    let site = World::new();
    let made = site.made(SITE);
    let second = site.made(SITE);
    let request = site.forged(&made, |request| {
        request.issuing = Some(IssuingRequest {
            certificate: STANDARD.encode(&second.chain()[0]),
            key: FileEntry::of(ISSUER_KEY, b"key"),
            signature: request.signature.clone(),
        });
    });
    assert!(matches!(site.refused(&request), JoinError::Refused(_)));
}
