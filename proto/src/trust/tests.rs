use proptest::prelude::*;

use super::*;
use crate::{codec::Octets, codec::body::Blob, name::Segment};

const NOW: u64 = 1_800_000_000;

fn segment(text: &str) -> Segment {
    text.parse().unwrap()
}

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn named(text: &str) -> RevokedName {
    RevokedName { name: segment(text), reason: Reason::Ceased, until: None }
}

fn list(version: u64, names: &[&str]) -> RevocationList {
    let mut list = RevocationList::empty(segment("study"));
    names.iter().for_each(|name| list.revoke_name(named(name)));
    RevocationList { version, issued: NOW, ..list }
}

fn view(list: RevocationList) -> View {
    View { revocations: Some(Arc::new(list)), ..View::default() }
}

fn asks(view: &View, kind: CellKind, who: &str, leaf: u8) -> Option<Status> {
    view.refuses(Subject { kind, name: &name(who), leaf: &[leaf; 32] }, NOW)
}

#[test]
fn p_26_a_revoked_identity_is_refused_with_every_certificate_and_its_jobs_with_it() {
    let view = view(list(1, &["site-1"]));
    for who in ["site-1", "relay-a.site-1"] {
        assert_eq!(asks(&view, CellKind::Client, who, 9), Some(Status::CertRevoked), "{who}");
    }
    assert_eq!(asks(&view, CellKind::Job, "relay-a.site-1.job-7", 9), Some(Status::CertRevoked));
    for (kind, who) in [
        (CellKind::Client, "site-11"),
        (CellKind::Client, "site-2"),
        (CellKind::Job, "site-2.site-1"),
        (CellKind::Client, "site-1.site-2"),
    ] {
        assert_eq!(asks(&view, kind, who, 9), None, "{who}");
    }
}

#[test]
fn p_26_a_revoked_certificate_is_refused_and_another_of_the_same_cell_is_not() {
    let mut revoked = list(1, &[]);
    let entry = |until| RevokedLeaf { leaf: Octets([1; 32]), reason: Reason::KeyCompromise, until };
    revoked.revoke_leaf(entry(Some(NOW)));
    let of = |list: &RevocationList| view(list.clone());
    assert_eq!(asks(&of(&revoked), CellKind::Client, "site-1", 1), Some(Status::CertRevoked));
    assert_eq!(asks(&of(&revoked), CellKind::Client, "site-1", 2), None);
    revoked.revoke_leaf(entry(Some(NOW - 1)));
    assert_eq!(asks(&of(&revoked), CellKind::Client, "site-1", 1), None, "its time is over");
    assert_eq!(revoked.leaves.len(), 1, "said again, not twice");
    assert!(revoked.next(NOW).leaves.is_empty(), "the next list does without it");
}

#[test]
fn h_04_only_a_higher_version_takes_the_place_of_what_is_held() {
    let held = list(5, &["site-1"]);
    assert_eq!(judge(None, &held), Ok(Taking::Newer));
    assert_eq!(judge(Some(&held), &list(6, &[])), Ok(Taking::Newer));
    assert_eq!(judge(Some(&held), &held.clone()), Ok(Taking::Same));
    assert_eq!(judge(Some(&held), &list(5, &[])), Err(ListRefused::Conflict { held: 5 }));
    for got in [1, 4] {
        let stale = Err(ListRefused::Stale { held: 5, got });
        assert_eq!(judge(Some(&held), &list(got, &["site-1"])), stale);
    }
}

#[test]
fn a_list_of_another_project_of_version_zero_or_out_of_order_is_none() {
    let signed = |list: &RevocationList| Signed::unsigned(list, Vec::new());
    let ours = segment("study");
    assert!(read::<RevocationList>(&signed(&list(1, &["a", "b"])), &ours).is_ok());
    let theirs = read::<RevocationList>(&signed(&list(1, &[])), &segment("other"));
    assert_eq!(theirs, Err(ListRefused::Project));
    let mut swapped = list(1, &["a", "b"]);
    swapped.names.swap(0, 1);
    let mut twice = list(1, &["a"]);
    twice.names.push(named("a"));
    for bad in [list(0, &[]), swapped, twice] {
        let got = read::<RevocationList>(&signed(&bad), &ours);
        assert_eq!(got, Err(ListRefused::Malformed), "{bad:?}");
    }
    let mut long = signed(&list(1, &[]));
    long.signature = Blob(vec![0; LIST_MAX_BYTES]);
    assert_eq!(read::<RevocationList>(&long, &ours), Err(ListRefused::TooLarge));
}

#[test]
fn one_list_does_not_pass_for_another() {
    let (revoked, bans) = (list(1, &[]), BanList::empty(segment("study"), name("server")));
    let signables = ListKind::ALL.map(|kind| Signed::unsigned(&revoked, Vec::new()).signable(kind));
    assert!(signables[0] != signables[1] && signables[1] != signables[2]);
    let bans = Signed::unsigned(&BanList { version: 1, ..bans }, Vec::new());
    let got = read::<RevocationList>(&bans, &segment("study"));
    assert_eq!(got, Err(ListRefused::Malformed));
}

#[test]
fn p_25_a_banned_cell_is_refused_until_it_is_let_in_again() {
    let none = BanList::empty(segment("study"), name("server"));
    let ban = |reason: &str| BanChange::Ban { name: segment("site-1"), reason: reason.into() };
    let banned = none.changed(ban("asked to"), NOW).unwrap();
    assert_eq!(banned.version, 1);
    let of = |list: &BanList| View { bans: Some(Arc::new(list.clone())), ..View::default() };
    assert_eq!(asks(&of(&banned), CellKind::Client, "site-1", 1), Some(Status::Disabled));
    assert_eq!(asks(&of(&banned), CellKind::Job, "site-1.job", 1), Some(Status::Disabled));
    assert_eq!(asks(&of(&banned), CellKind::Client, "site-2", 1), None);
    assert_eq!(banned.changed(ban("again"), NOW), Err(BanError::Already));
    let back = banned.changed(BanChange::Unban { name: segment("site-1") }, NOW).unwrap();
    assert_eq!(asks(&of(&back), CellKind::Client, "site-1", 1), None);
    assert_eq!(back.version, 2, "it takes the place of the ban everywhere");
    let twice = back.changed(BanChange::Unban { name: segment("site-1") }, NOW);
    assert_eq!(twice, Err(BanError::NotBanned));
    let own = BanChange::Ban { name: segment("server"), reason: String::new() };
    assert_eq!(none.changed(own, NOW), Err(BanError::Server));
    for bad in ["a\nb", &"x".repeat(REASON_MAX + 1)] {
        assert_eq!(none.changed(ban(bad), NOW), Err(BanError::Reason));
    }
}

#[test]
fn p_25_who_was_removed_needs_a_new_token_and_nothing_else() {
    let none = BanList::empty(segment("study"), name("server"));
    let end = |until| BanChange::End { name: segment("site-1"), until };
    let ended = none.changed(end(NOW), NOW).unwrap();
    let view = View { bans: Some(Arc::new(ended.clone())), ..View::default() };
    assert_eq!(asks(&view, CellKind::Client, "site-1", 1), None, "it may come back");
    let claims = |subject: &str, kind, issued| Claims {
        version: Claims::VERSION,
        issuer: name("server"),
        project: segment("study"),
        subject: name(subject),
        kind,
        org: segment("org"),
        via: name("server"),
        server_counter: 1,
        server_nonce: 1,
        issued,
        expires: issued + 900,
        id: Octets([0; 16]),
        leaf: Octets([1; 32]),
        job: None,
    };
    let old = claims("site-1", CellKind::Client, NOW);
    assert_eq!(view.refuses_token(&old, NOW), Some(Status::TokenRevoked));
    let of_job = claims("site-1.job", CellKind::Job, NOW);
    assert_eq!(view.refuses_token(&of_job, NOW), Some(Status::TokenRevoked));
    assert_eq!(view.refuses_token(&claims("site-1", CellKind::Client, NOW + 1), NOW), None);
    assert_eq!(view.refuses_token(&claims("site-2", CellKind::Client, NOW), NOW), None);
    let again = ended.changed(end(NOW + 5), NOW + 5).unwrap();
    assert_eq!(again.ended, [Ended { name: segment("site-1"), until: NOW + 5 }]);
    let later = again.changed(BanChange::Resign, NOW + 10_000).unwrap();
    assert!(later.ended.is_empty(), "no such token lives any more");
}

fn cell(text: &str, kind: CellKind, parent: Option<&str>) -> RosterCell {
    let parent = parent.map(segment);
    RosterCell { name: segment(text), kind, parent, org: segment("org") }
}

fn roster(cells: Vec<RosterCell>) -> RosterList {
    RosterList { project: segment("study"), version: 1, issued: NOW, cells }
}

#[test]
fn p_10_a_roster_says_who_attaches_below_whom() {
    let roster = Roster::new(roster(vec![
        cell("relay-a", CellKind::Relay, Some("server")),
        cell("server", CellKind::Server, None),
        cell("site-1", CellKind::Client, Some("relay-a")),
        cell("site-2", CellKind::Client, Some("server")),
    ]))
    .unwrap();
    let child = |parent: &str, child: &str| roster.child_kind(&name(parent), &name(child));
    assert_eq!(child("server", "relay-a"), Some(CellKind::Relay));
    assert_eq!(child("relay-a", "relay-a.site-1"), Some(CellKind::Client));
    assert_eq!(child("server", "site-2"), Some(CellKind::Client));
    assert_eq!(child("site-2", "site-2.job"), Some(CellKind::Job));
    for (parent, other) in [
        ("server", "site-1"),
        ("relay-a", "relay-a.site-2"),
        ("relay-a", "site-2"),
        ("server", "site-3"),
        ("server", "server"),
        ("relay-a", "relay-a.job"),
    ] {
        assert_eq!(child(parent, other), None, "{parent} {other}");
    }
    assert!(roster.has(&name("relay-a.site-1"), CellKind::Client, Some(&name("relay-a"))));
    assert!(!roster.has(&name("relay-a.site-1"), CellKind::Relay, Some(&name("relay-a"))));
    assert!(roster.has(&name("server"), CellKind::Server, None));
    let view = View { roster: Some(Arc::new(roster)), ..View::default() };
    assert_eq!(view.versions(), Versions { roster: 1, ..Versions::default() });
}

#[test]
fn what_is_no_tree_below_one_server_is_no_roster() {
    let server = || cell("server", CellKind::Server, None);
    let client = |name, parent| cell(name, CellKind::Client, parent);
    for (why, cells) in [
        ("nobody", vec![]),
        ("no server", vec![client("a", Some("b"))]),
        ("two", vec![cell("a", CellKind::Server, None), server()]),
        ("an orphan", vec![client("a", Some("b")), server()]),
        ("no parent", vec![client("a", None), server()]),
        ("below a site", vec![client("a", Some("server")), client("b", Some("a")), server()]),
        (
            "a circle",
            vec![
                cell("a", CellKind::Relay, Some("b")),
                cell("b", CellKind::Relay, Some("a")),
                server(),
            ],
        ),
        ("a job", vec![cell("a", CellKind::Job, Some("server")), server()]),
        ("a parent of the server", vec![cell("server", CellKind::Server, Some("server"))]),
        ("out of order", vec![server(), client("a", Some("server"))]),
    ] {
        assert!(!roster(cells).is_well_formed(), "{why}");
    }
}

#[test]
fn the_roster_of_a_topology_has_its_directory() {
    let text = "[project]\nname = \"study\"\ndev = true\n\
        [[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:0\"\n\
        [[cell]]\nname = \"relay-a\"\nkind = \"relay\"\nparent = \"server\"\nlisten = \"127.0.0.1:0\"\n\
        [[cell]]\nname = \"site-1\"\nkind = \"client\"\nparent = \"relay-a\"\norg = \"acme\"\n";
    let topology = crate::topology::parse(text).unwrap().topology;
    let roster = Roster::new(RosterList::of(&topology, 3, NOW)).unwrap();
    assert_eq!(**roster.directory(), topology.directory());
    assert!(roster.beyond(&topology.directory()).is_empty());
}

#[test]
fn a_mark_changes_with_every_list_and_lists_come_revocations_first() {
    let versions = Versions { revocations: 3, bans: 2, roster: 7, roots: 5 };
    assert_eq!(versions.mark(), 17);
    assert_eq!(ListKind::ALL.map(|kind| versions.of(kind)), [5, 3, 2, 7]);
    let signed = Signed::unsigned(&list(1, &[]), Vec::new());
    let mut bundle = Bundle::of(ListKind::Roster, signed.clone());
    *bundle.place(ListKind::Revocations) = Some(signed);
    let kinds: Vec<ListKind> = bundle.lists().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [ListKind::Revocations, ListKind::Roster]);
}

proptest! {
    #[test]
    fn h_04_whatever_comes_the_version_that_is_held_never_falls(versions in prop::collection::vec(1u64..20, 1..40)) {
        let mut held: Option<RevocationList> = None;
        for version in versions {
            let before = held.as_ref().map_or(0, |list| list.version);
            let new = list(version, &["a"]);
            if judge(held.as_ref(), &new) == Ok(Taking::Newer) {
                held = Some(new);
            }
            let after = held.as_ref().map_or(0, |list| list.version);
            prop_assert_eq!(after, before.max(version));
        }
    }

    #[test]
    fn entries_stay_in_order_however_they_come(names in prop::collection::vec("[a-z]{1,4}", 0..30)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let list = list(1, &names);
        prop_assert!(list.is_well_formed());
        prop_assert!(names.iter().all(|name| list.names(name, NOW)));
    }
}

#[test]
fn v_20_a_list_of_roots_has_one_that_issues_and_none_twice() {
    use crate::codec::body::Blob;
    let root = |byte: u8, state| ListedRoot { der: Blob(vec![byte]), state };
    let list =
        |roots| RootsList { project: "study".parse().unwrap(), version: 1, issued: 1, roots };
    let (active, former) = (RootState::Active, RootState::Former);
    for good in [
        vec![root(1, active)],
        vec![root(1, former), root(2, active)],
        vec![root(1, RootState::Tainted), root(2, active), root(3, RootState::Prepared)],
    ] {
        assert!(list(good.clone()).is_well_formed(), "{good:?}");
    }
    let many = (0..=ROOTS_MAX as u8).map(|n| root(n, if n == 0 { active } else { former }));
    let large = ListedRoot { der: Blob(vec![0; ROOT_MAX_BYTES + 1]), state: active };
    for bad in [
        vec![],
        vec![root(1, former)],
        vec![root(1, active), root(2, active)],
        vec![root(1, active), root(1, former)],
        many.collect(),
        vec![large],
    ] {
        assert!(!list(bad.clone()).is_well_formed(), "{bad:?}");
    }
    let both = list(vec![root(1, RootState::Tainted), root(2, active)]);
    let state = |byte: u8| both.state_of(&crate::transcript::sha256(&[byte]));
    assert_eq!([state(1), state(2), state(3)], [Some(RootState::Tainted), Some(active), None]);
}
