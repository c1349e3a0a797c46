//! From one authority to the next, as far as files go: what each step writes, refuses, and what kits take.

use std::fs;

use cellbus_kits::{
    ca::{CaError, SeenCell, Step, change, generations},
    kit::Kit,
    passphrase::Passphrase,
    provision::{Action, Order, ProvisionError, Report},
    records::latest,
    update::{UpdateError, update},
};
use cellbus_proto::{
    codec::body,
    trust::{Bundle, RootState, RootsList},
};
use cellbus_runtime::certificate::{certificates_in_pem, leaf_hash};
use zeroize::Zeroizing;

use crate::place::{DAY, NOW, Place, STUDY, project, row, tree};

const ALL: [&str; 6] = ["server", "relay-a", "site-1", "site-2", "alice", "bob"];

fn step(place: &Place, step: Step, seen: &[SeenCell]) -> Result<Report, CaError> {
    let (project, out) = (project(STUDY), place.out());
    let order = Order {
        project: &project,
        out: &out,
        only: None,
        key: None,
        now_unix: NOW + DAY,
        work_factor: 2,
    };
    change(&order, step, seen, &mut |_| {
        Passphrase::new(Zeroizing::new("correct horse battery".to_owned()))
    })
}

/// Every cell, with certificates of the authority that issues now.
fn all_over(place: &Place) -> Vec<SeenCell> {
    let root = latest(&place.out()).expect("it is read").expect("it was made").1.root_sha256;
    let cells = ["server", "relay-a", "site-1", "site-2"];
    let seen = |name: &str| SeenCell {
        name: name.parse().expect("a name"),
        root_sha256: Some(root.clone()),
    };
    cells.map(seen).to_vec()
}

fn states(place: &Place) -> Vec<(RootState, usize)> {
    let rows = generations(&place.out()).expect("they are read");
    rows.into_iter().map(|row| (row.state.expect("it has one"), row.count)).collect()
}

fn roots_list(place: &Place, kits: &str) -> RootsList {
    let bytes = fs::read(place.out().join(kits).join("roots.list")).expect("the test made it so");
    let bundle: Bundle = body::decode_exact(&bytes).expect("the test made it so");
    body::decode_exact(&bundle.roots.expect("the test made it so").content.0)
        .expect("the test made it so")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn v_19_v_20_a_project_goes_to_the_next_authority_in_four_steps_and_keeps_every_key() {
    let place = Place::provisioned();
    let first = latest(&place.out()).expect("it is read").expect("it was made").1.root_sha256;
    let before = place.tree();

    let report = step(&place, Step::Prepare, &[]).unwrap();
    assert_eq!(report.root_sha256, first, "the first one goes on issuing");
    assert_eq!(states(&place), [(RootState::Active, 6), (RootState::Prepared, 0)]);
    let sealed = fs::read(place.out().join("kits-0002/authority/root.key.age")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt "), "v_09: at rest as the first");
    let listed = roots_list(&place, "kits-0002");
    assert_eq!(listed.roots.len(), 2);
    assert!(!place.out().join("kits-0002/updates").exists(), "the list is all that cells need");

    step(&place, Step::Activate, &[]).unwrap();
    assert_eq!(states(&place), [(RootState::Former, 6), (RootState::Active, 0)]);
    let more = format!("{STUDY}[[admin]]\nname = \"carol\"\nrole = \"lead\"\n");
    place.run_with(&more, NOW + DAY, Some("carol"), "correct horse battery").unwrap();
    assert_eq!(states(&place), [(RootState::Former, 6), (RootState::Active, 1)], "it issues");
    Kit::open(&place.out().join("kits-0004/carol"), None, NOW + DAY).unwrap();
    let pem = fs::read(place.out().join("kits-0004/carol/startup/root.crt")).unwrap();
    let second = hex(&leaf_hash(&certificates_in_pem(&pem)[0]));
    assert_eq!(certificates_in_pem(&pem).len(), 2, "both are believed");

    let refused = step(&place, Step::Taint, &[]);
    assert!(
        matches!(refused, Err(CaError::Provision(ProvisionError::Pending(_)))),
        "carol is not in this file: {refused:?}"
    );
    place.run(STUDY, NOW + DAY).unwrap();
    let report = step(&place, Step::Taint, &[]).unwrap();
    assert_eq!(report.root_sha256, second);
    assert_eq!(states(&place), [(RootState::Tainted, 0), (RootState::Active, 6)]);
    let updates = place.out().join("kits-0006/updates");
    for name in ALL {
        assert_eq!(row(&report, name).action, Action::Updated, "{name}");
        let kit = place.kit(name);
        let key = fs::read(kit.join("startup/cell.key")).unwrap();
        update(&kit, &updates.join(name), NOW + DAY)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::read(kit.join("startup/cell.key")).unwrap(), key, "{name}");
        let opened = Kit::open(&kit, Some(&second), NOW + DAY).unwrap();
        assert_eq!(opened.manifest.root_sha256, second, "{name}");
        update(&kit, &updates.join(name), NOW + DAY).expect("twice is as good as once");
    }
    for entry in before.iter().filter(|(path, ..)| !path.starts_with(place.out().join("kits-0001")))
    {
        assert!(place.tree().contains(entry), "{} was touched", entry.0.display());
    }

    let refused = step(&place, Step::Revoke, &[]).unwrap_err();
    let CaError::Left(left) = &refused else { panic!("{refused}") };
    assert_eq!(left.len(), 4, "nobody has seen any cell: {refused}");
    let mut seen = all_over(&place);
    seen[2].root_sha256 = Some(first.clone());
    let refused = step(&place, Step::Revoke, &seen).unwrap_err();
    assert!(refused.to_string().contains("site-1 (it shows a certificate of the former one)"));
    seen.remove(2);
    let refused = step(&place, Step::Revoke, &seen).unwrap_err();
    assert!(refused.to_string().contains("site-1 (it is not registered"), "{refused}");
    assert_eq!(states(&place), [(RootState::Tainted, 0), (RootState::Active, 6)]);

    step(&place, Step::Revoke, &all_over(&place)).unwrap();
    assert_eq!(states(&place), [(RootState::Active, 6)]);
    let listed = roots_list(&place, "kits-0007");
    assert_eq!(hex(&leaf_hash(&listed.roots[0].der.0)), second);
    assert_eq!(listed.roots.len(), 1);
    fs::remove_dir_all(place.out().join("authority")).unwrap();
    let more = format!("{STUDY}[[admin]]\nname = \"dora\"\nrole = \"lead\"\n");
    place.run_with(&more, NOW + DAY, Some("dora"), "correct horse battery").unwrap();
    let pem = fs::read(place.out().join("kits-0008/dora/startup/root.crt")).unwrap();
    assert_eq!(certificates_in_pem(&pem).len(), 1, "the first is not needed for anything");
}

#[test]
fn v_20_steps_out_of_turn_change_nothing() {
    let place = Place::provisioned();
    let refused = |wanted: Step| {
        let before = place.tree();
        let refused = step(&place, wanted, &all_over(&place));
        assert!(matches!(refused, Err(CaError::OutOfTurn(_))), "{wanted:?}: {refused:?}");
        assert_eq!(place.tree(), before, "{wanted:?}");
    };
    [Step::Activate, Step::Taint, Step::Revoke].into_iter().for_each(refused);
    step(&place, Step::Prepare, &[]).unwrap();
    [Step::Prepare, Step::Taint, Step::Revoke].into_iter().for_each(refused);
    step(&place, Step::Activate, &[]).unwrap();
    [Step::Prepare, Step::Activate, Step::Revoke].into_iter().for_each(refused);
    step(&place, Step::Taint, &[]).unwrap();
    [Step::Prepare, Step::Activate, Step::Taint].into_iter().for_each(refused);
    let nothing = Place::new();
    assert!(matches!(step(&nothing, Step::Prepare, &[]), Err(CaError::NothingYet)));
}

#[test]
fn v_20_a_kit_takes_the_next_authority_from_its_own_and_from_nobody_else() {
    let (place, strange) = (Place::provisioned(), Place::provisioned());
    for one in [&place, &strange] {
        for wanted in [Step::Prepare, Step::Activate, Step::Taint] {
            step(one, wanted, &[]).unwrap();
        }
    }
    let kit = place.kit("site-1");
    let before = tree(&kit);
    let theirs = strange.out().join("kits-0004/updates/site-1");
    let refused = update(&kit, &theirs, NOW + DAY).unwrap_err();
    assert!(matches!(refused, UpdateError::Refused(_)), "{refused}");
    let ours = place.out().join("kits-0004/updates/site-1");
    // A list that some other authority has signed makes no successor.
    let list = ours.join("roots.list");
    let good = fs::read(&list).unwrap();
    fs::copy(theirs.join("roots.list"), &list).unwrap();
    assert!(matches!(update(&kit, &ours, NOW + DAY), Err(UpdateError::Refused(_))));
    fs::write(&list, &good).unwrap();
    // Nor does a certificate of another key.
    let certificate = ours.join("cell.crt");
    let own = fs::read(&certificate).unwrap();
    fs::copy(place.out().join("kits-0004/updates/site-2/cell.crt"), &certificate).unwrap();
    assert!(matches!(update(&kit, &ours, NOW + DAY), Err(UpdateError::Refused(_))));
    assert_eq!(tree(&kit), before, "nothing of it was taken");
    fs::write(&certificate, own).unwrap();
    update(&kit, &ours, NOW + DAY).unwrap();
}
