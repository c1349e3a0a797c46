use std::{fs, os::unix::fs::PermissionsExt};

use cellbus_proto::trust::{Reason, RevokedName, RosterCell};

use super::*;
use crate::authority::{Authority, Issued, OwnCertificate};
use crate::certificate::CertDates;

const NOW: u64 = 1_800_000_000;
const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

fn segment(text: &str) -> Segment {
    text.parse().unwrap()
}

fn identity(kind: CellKind, name: &str, role: Option<&str>) -> Identity {
    Identity {
        project: segment("study"),
        kind,
        name: name.parse().unwrap(),
        org: segment("org"),
        role: role.map(segment),
    }
}

struct World {
    authority: Authority,
    lists: Lists,
    dir: tempfile::TempDir,
}

fn signer_of(issued: &Issued) -> ListSigner {
    ListSigner::from_pem(&issued.chain_pem(), &issued.key_pem()).unwrap()
}

impl World {
    fn new() -> Self {
        let authority = Authority::create(segment("study"), NOW).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let roots = Roots::new(vec![authority.root().clone()]).unwrap();
        Self { lists: lists_of(Arc::new(roots)), authority, dir }
    }

    fn again(&self) -> Lists {
        lists_of(Arc::new(Roots::new(vec![self.authority.root().clone()]).unwrap()))
    }

    fn issue(&self, identity: &Identity) -> Issued {
        self.authority.issue(identity, &[], CertDates::lasting(NOW, YEAR)).unwrap()
    }

    fn root(&self) -> ListSigner {
        ListSigner::from_pem(self.authority.root_pem(), &self.authority.key_pem()).unwrap()
    }

    fn open(&self, lists: &Lists, needed: Versions) -> Result<(), ListsError> {
        lists.open(&self.dir.path().join("lists"), &self.dir.path().join("given"), needed)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("lists").join("revocations.list")
    }
}

fn lists_of(roots: Arc<Roots>) -> Lists {
    let (site, server) = ("site-1".parse().unwrap(), "server".parse().unwrap());
    let site_identity = identity(CellKind::Client, "site-1", None);
    Lists::new(&site, &server, Some(&server), &site_identity, &roots, WallClock::starting_at(NOW))
}

fn revoking(version: u64, name: &str) -> RevocationList {
    let mut list = RevocationList::empty(segment("study"));
    list.revoke_name(RevokedName { name: segment(name), reason: Reason::Ceased, until: None });
    RevocationList { version, issued: NOW, ..list }
}

fn take(world: &World, signer: &ListSigner, list: &RevocationList) -> Result<bool, ListRefused> {
    let signed = signer.sign(list).unwrap();
    world.lists.take(ListKind::Revocations, signed).map(|taken| taken.is_some())
}

#[test]
fn v_21_a_root_and_who_it_made_a_signer_sign_revocations_and_nobody_else_does() {
    let world = World::new();
    let signer = signer_of(&world.issue(&identity(CellKind::Admin, "ada", Some("signer"))));
    let others = [
        identity(CellKind::Admin, "eve", Some("lead")),
        identity(CellKind::Admin, "eve", None),
        identity(CellKind::Server, "server", None),
        identity(CellKind::Client, "site-9", None),
        identity(CellKind::Client, "site-9", Some("signer")),
    ];
    for other in &others {
        // A cell that has a role is refused by whoever issues certificates, or here.
        let Ok(issued) = world.authority.issue(other, &[], CertDates::lasting(NOW, YEAR)) else {
            continue;
        };
        let Ok(eve) = ListSigner::from_pem(&issued.chain_pem(), &issued.key_pem()) else {
            continue;
        };
        assert_eq!(
            take(&world, &eve, &revoking(9, "site-2")),
            Err(ListRefused::Signer),
            "{other:?}"
        );
    }
    let stranger = World::new();
    for eve in [stranger.root(), {
        signer_of(&stranger.issue(&identity(CellKind::Admin, "ada", Some("signer"))))
    }] {
        assert_eq!(take(&world, &eve, &revoking(9, "site-2")), Err(ListRefused::Signer));
    }
    assert_eq!((world.lists.mark(), world.lists.view().versions()), (0, Versions::default()));
    assert_eq!(take(&world, &world.root(), &revoking(1, "site-2")), Ok(true));
    assert_eq!(take(&world, &signer, &revoking(2, "site-2")), Ok(true));
    assert_eq!(world.lists.mark(), 2);
}

#[test]
fn h_04_an_older_list_a_changed_one_and_one_of_another_project_change_nothing() {
    let world = World::new();
    let root = world.root();
    assert_eq!(take(&world, &root, &revoking(5, "site-2")), Ok(true));
    assert_eq!(take(&world, &root, &revoking(5, "site-2")), Ok(false), "it is held");
    let other = RevocationList { project: segment("other"), ..revoking(9, "site-3") };
    for (list, why) in [
        (revoking(4, "site-3"), ListRefused::Stale { held: 5, got: 4 }),
        (revoking(5, "site-3"), ListRefused::Conflict { held: 5 }),
        (other, ListRefused::Project),
    ] {
        assert_eq!(take(&world, &root, &list), Err(why));
    }
    let mut changed = root.sign(&revoking(6, "site-3")).unwrap();
    *changed.content.0.last_mut().unwrap() ^= 1;
    let got = world.lists.take(ListKind::Revocations, changed);
    assert!(matches!(got, Err(ListRefused::Signer | ListRefused::Malformed)), "{got:?}");
    let (view, list) = (world.lists.view(), revoking(5, "site-2"));
    assert_eq!(view.revocations.as_deref(), Some(&list));
}

#[test]
fn a_signer_that_was_revoked_signs_nothing_more() {
    let world = World::new();
    let issued = world.issue(&identity(CellKind::Admin, "ada", Some("signer")));
    let signer = signer_of(&issued);
    assert_eq!(take(&world, &signer, &revoking(1, "site-2")), Ok(true));
    assert_eq!(take(&world, &world.root(), &revoking(2, "ada")), Ok(true));
    assert_eq!(take(&world, &signer, &revoking(3, "site-2")), Err(ListRefused::Signer));
}

#[test]
fn only_the_server_signs_bans_and_it_signs_nothing_else() {
    let world = World::new();
    let own = |name: &str, kind| {
        let issued = world.issue(&identity(kind, name, None));
        ListSigner::of_cell(&OwnCertificate::try_from(&issued).unwrap()).unwrap()
    };
    let server = own("server", CellKind::Server);
    let change = || BanChange::Ban { name: segment("site-2"), reason: "asked to".into() };
    let bans = |signer: &ListSigner| world.lists.changed_bans(change(), signer).unwrap();
    for eve in [own("relay-a", CellKind::Relay), own("hub", CellKind::Server), world.root()] {
        let got = world.lists.take(ListKind::Bans, bans(&eve));
        assert_eq!(got.unwrap_err(), ListRefused::Signer);
    }
    assert!(world.lists.take(ListKind::Bans, bans(&server)).unwrap().is_some());
    assert_eq!(take(&world, &server, &revoking(1, "site-2")), Err(ListRefused::Signer));
}

#[test]
fn a_roster_without_this_cell_is_not_taken_over() {
    let world = World::new();
    let cell = |name: &str, kind, parent: Option<&str>| RosterCell {
        name: segment(name),
        kind,
        parent: parent.map(segment),
        org: segment("org"),
    };
    let server = || cell("server", CellKind::Server, None);
    let list =
        |version, cells| RosterList { project: segment("study"), version, issued: NOW, cells };
    let take = |list: &RosterList| {
        world
            .lists
            .take(ListKind::Roster, world.root().sign(list).unwrap())
            .map(|taken| taken.is_some())
    };
    let without = list(1, vec![server(), cell("site-2", CellKind::Client, Some("server"))]);
    assert_eq!(take(&without), Err(ListRefused::WithoutSelf));
    let relay = || cell("relay-a", CellKind::Relay, Some("server"));
    let moved = list(1, vec![relay(), server(), cell("site-1", CellKind::Client, Some("relay-a"))]);
    assert_eq!(take(&moved), Err(ListRefused::WithoutSelf));
    let with = list(1, vec![server(), cell("site-1", CellKind::Client, Some("server"))]);
    assert_eq!(take(&with), Ok(true));
}

#[test]
fn what_was_taken_over_is_there_at_the_next_start_and_its_signer_may_have_ended_since() {
    let world = World::new();
    world.open(&world.lists, Versions::default()).unwrap();
    assert!(take(&world, &world.root(), &revoking(3, "site-2")).unwrap());
    world.lists.keep(ListKind::Revocations).unwrap();
    assert_eq!(world.file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let next = world.again();
    world.open(&next, Versions { revocations: 3, ..Versions::default() }).unwrap();
    assert_eq!(next.view().versions().revocations, 3);
    assert_eq!(next.mark(), 3);
    let too_old = world.open(&world.again(), Versions { revocations: 4, ..Versions::default() });
    assert!(matches!(too_old, Err(ListsError::TooOld { needed: 4, held: 3, .. })));
}

#[test]
fn p_25_a_list_that_is_damaged_or_missing_where_one_is_needed_keeps_the_cell_from_starting() {
    let world = World::new();
    world.open(&world.lists, Versions::default()).unwrap();
    let needed = Versions { revocations: 1, ..Versions::default() };
    let missing = world.open(&world.again(), needed);
    assert!(matches!(missing, Err(ListsError::TooOld { needed: 1, held: 0, .. })));
    assert!(take(&world, &world.root(), &revoking(3, "site-2")).unwrap());
    world.lists.keep(ListKind::Revocations).unwrap();
    let good = fs::read(world.file()).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [&good[..good.len() - 1], &flipped, b"", b"revocations"] {
        fs::write(world.file(), bad).unwrap();
        let next = world.again();
        let got = world.open(&next, Versions::default());
        assert!(matches!(got, Err(ListsError::Bad { .. })), "{got:?}");
    }
    fs::write(world.file(), &good).unwrap();
    fs::set_permissions(world.file(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(world.open(&world.again(), needed), Err(ListsError::File(_))));
}

#[test]
fn p_26_a_list_of_a_wrong_signer_or_project_or_cut_anywhere_keeps_the_cell_from_starting_wherever_it_lies()
 {
    let world = World::new();
    let stranger = World::new();
    let lead = signer_of(&world.issue(&identity(CellKind::Admin, "eve", Some("lead"))));
    let file = |signer: &ListSigner, list: &RevocationList| {
        body::encode(&Bundle::of(ListKind::Revocations, signer.sign(list).unwrap())).to_vec()
    };
    let other = RevocationList { project: segment("other"), ..revoking(9, "site-3") };
    let good = file(&world.root(), &revoking(9, "site-3"));
    let mut bad = vec![
        file(&stranger.root(), &revoking(9, "site-3")),
        file(&lead, &revoking(9, "site-3")),
        file(&world.root(), &other),
    ];
    bad.extend((0..good.len()).step_by(11).map(|len| good[..len].to_vec()));
    for place in ["lists", "given"] {
        let dir = world.dir.path().join(place);
        create_private_dir(&dir).unwrap();
        let path = dir.join("revocations.list");
        for bad in &bad {
            write_secret_file(&path, bad).unwrap();
            let got = world.open(&world.again(), Versions::default());
            assert!(
                matches!(&got, Err(ListsError::Bad { path: named, .. }) if *named == path),
                "{got:?}"
            );
            assert_eq!(fs::read(&path).unwrap(), *bad, "it is left for whoever looks into it");
        }
        write_secret_file(&path, &good).unwrap();
        world.open(&world.again(), Versions::default()).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn v_21_a_list_that_came_with_the_credentials_counts_where_it_is_newer() {
    let world = World::new();
    let given = world.dir.path().join("given");
    create_private_dir(&given).unwrap();
    let give = |list: &RevocationList| {
        let bundle = Bundle::of(ListKind::Revocations, world.root().sign(list).unwrap());
        write_secret_file(&given.join("revocations.list"), &body::encode(&bundle)).unwrap();
    };
    give(&revoking(4, "site-2"));
    world.open(&world.lists, Versions::default()).unwrap();
    assert_eq!(world.lists.view().versions().revocations, 4);
    assert!(take(&world, &world.root(), &revoking(6, "site-2")).unwrap());
    world.lists.keep(ListKind::Revocations).unwrap();
    let next = world.again();
    world.open(&next, Versions::default()).unwrap();
    assert_eq!(next.view().versions().revocations, 6, "what is kept is newer");
    give(&revoking(7, "site-1"));
    let revoked = world.again();
    world.open(&revoked, Versions::default()).unwrap();
    assert!(matches!(revoked.expect_own(&[0; 32]), Err(ListsError::Revoked)));
}

#[test]
fn a_key_that_is_not_the_certificates_signs_nothing() {
    let world = World::new();
    let other = World::new();
    let got = ListSigner::from_pem(world.authority.root_pem(), &other.authority.key_pem());
    assert!(matches!(got, Err(SignListError::Mismatch)));
    assert!(matches!(ListSigner::from_pem("", ""), Err(SignListError::Certificate)));
    let no_key = ListSigner::from_pem(world.authority.root_pem(), "no key");
    assert!(matches!(no_key, Err(SignListError::Key)));
    let shown = format!("{:?}", world.root());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
