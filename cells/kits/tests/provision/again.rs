//! A second run: what is kept, what is made anew, and what is taken back.

use std::fs;

use cellbus_kits::{
    kit::Kit,
    provision::Action,
    records::latest,
    update::{UpdateError, update},
};

use crate::place::{DAY, NOW, Place, STUDY, open, row};

#[test]
fn v_25_nothing_is_done_where_nothing_has_changed() {
    let place = Place::provisioned();
    let before = place.tree();
    let report = place.run(STUDY, NOW + DAY).unwrap();
    assert_eq!((report.written, report.revoked.len()), (None, 0));
    assert!(report.participants.iter().all(|row| row.action == Action::Kept));
    assert_eq!(place.tree(), before);
    assert!(place.asked.borrow().is_empty(), "nothing had to be signed");
}

#[test]
fn v_25_the_same_project_gives_the_same_files_of_configuration() {
    let (one, two) = (Place::provisioned(), Place::provisioned());
    for name in ["server", "relay-a", "site-1", "alice"] {
        for file in [
            "startup/topology.toml",
            "startup/roster.json",
            "local/policy.toml",
            "local/limits.toml",
        ] {
            let read = |place: &Place| fs::read(place.kit(name).join(file)).unwrap();
            assert_eq!(read(&one), read(&two), "{name}/{file}");
        }
    }
}

#[test]
fn v_11_a_participant_that_changed_gets_a_new_certificate_and_the_old_one_is_taken_back() {
    for (from, to, name) in [
        ("org = \"st-mary\"\n[[cell]]", "org = \"mercy\"\n[[cell]]", "site-1"),
        ("role = \"auditor\"", "role = \"lead\"", "bob"),
        ("\"relay.example.org\"", "\"relay.example.net\"", "relay-a"),
    ] {
        let place = Place::provisioned();
        let text = STUDY.replace(from, to);
        assert_ne!(text, STUDY, "{from}");
        let old = latest(&place.out()).unwrap().unwrap().1.participants[name].clone();
        let report = place.run(&text, NOW + DAY).unwrap();
        assert_eq!(row(&report, name).action, Action::Replaced, "{name}");
        assert_eq!(report.revoked.len(), 1, "{name}");
        assert_eq!(report.revoked[0].certificate_sha256, old.certificate_sha256);
        let (_, records) = latest(&place.out()).unwrap().unwrap();
        assert_ne!(records.participants[name].certificate_sha256, old.certificate_sha256);
        assert_eq!(records.revoked, report.revoked, "it is remembered");
        Kit::open(&place.out().join("kits-0002").join(name), None, NOW + DAY).unwrap();
    }
}

#[test]
fn v_11_a_certificate_that_is_about_to_end_is_not_used_again() {
    let place = Place::provisioned();
    let early = place.run(STUDY, NOW + 59 * DAY).unwrap();
    assert_eq!(early.written, None, "two thirds of 90 days are not over");
    let report = place.run(STUDY, NOW + 61 * DAY).unwrap();
    assert!(report.participants.iter().all(|row| row.action == Action::Renewed));
    assert!(report.revoked.is_empty(), "what runs out needs no revocation");
    let late = Place::provisioned();
    let report = late.run(STUDY, NOW + 200 * DAY).unwrap();
    assert!(report.participants.iter().all(|row| row.action == Action::Renewed), "long ended");
}

#[test]
fn v_11_no_certificate_outlives_its_issuer() {
    let place = Place::new();
    let text = format!("{STUDY}[certificates]\nleaf_days = 90\nauthority_days = 100\n");
    place.run(&text, NOW).unwrap();
    let report = place.run(&text, NOW + 61 * DAY).unwrap();
    assert_eq!(row(&report, "server").not_after, NOW + 100 * DAY);
    assert!(
        place.run(&text, NOW + 101 * DAY).is_err(),
        "an authority that has ended issues nothing"
    );
}

#[test]
fn who_is_removed_from_the_project_is_taken_back() {
    let place = Place::provisioned();
    let text =
        STUDY.replace("[[cell]]\nname = \"site-2\"\nkind = \"client\"\nparent = \"server\"\n", "");
    let report = place.run(&text, NOW + DAY).unwrap();
    assert_eq!(row(&report, "site-2").action, Action::Removed);
    assert_eq!(report.revoked[0].name.as_str(), "site-2");
    assert!(!latest(&place.out()).unwrap().unwrap().1.participants.contains_key("site-2"));
    assert!(open(&place.kit("site-2")).is_ok(), "earlier kits stay as they are");
    assert!(!place.out().join("kits-0002/site-2").exists());
}

#[test]
fn v_18_a_kit_takes_an_update_and_keeps_its_key() {
    let place = Place::provisioned();
    let more =
        format!("{STUDY}[[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"relay-a\"\n");
    place.add(&more, "site-9").unwrap();
    let updates = place.out().join("kits-0002/updates");
    for name in ["server", "relay-a", "site-1", "site-2"] {
        let (kit, from) = (place.kit(name), updates.join(name));
        assert!(!from.join("cell.key").exists());
        let key = fs::read(kit.join("startup/cell.key")).unwrap();
        let done = update(&kit, &from, NOW).unwrap();
        assert!(done.to > done.from, "{name}");
        assert_eq!(fs::read(kit.join("startup/cell.key")).unwrap(), key, "{name}");
        let opened = open(&kit).unwrap();
        assert!(opened.topology.cell("site-9").is_some(), "{name}");
        update(&kit, &from, NOW).unwrap();
    }
}

#[test]
fn v_18_an_update_of_another_kit_or_of_before_is_refused() {
    let place = Place::provisioned();
    let add = |text: &str, name: &str| {
        format!("{text}[[cell]]\nname = \"{name}\"\nkind = \"client\"\nparent = \"relay-a\"\n")
    };
    let one = add(STUDY, "site-8");
    place.add(&one, "site-8").unwrap();
    place.add(&add(&one, "site-9"), "site-9").unwrap();
    let (first, second) =
        (place.out().join("kits-0002/updates"), place.out().join("kits-0003/updates"));
    let kit = place.kit("relay-a");
    let before = crate::place::tree(&kit);
    let refused = |from: &std::path::Path| update(&kit, from, NOW).unwrap_err();
    assert!(matches!(refused(&first.join("site-1")), UpdateError::Refused(_)), "of another kit");
    let strange = Place::provisioned();
    strange.add(&one, "site-8").unwrap();
    let foreign = strange.out().join("kits-0002/updates/relay-a");
    assert!(matches!(refused(&foreign), UpdateError::Refused(_)), "of another authority");
    let changed = first.join("relay-a/topology.toml");
    let text = fs::read_to_string(&changed).unwrap();
    fs::write(&changed, text.replace("fetch", "fetsh")).unwrap();
    assert!(matches!(refused(&first.join("relay-a")), UpdateError::Refused(_)), "changed");
    assert_eq!(crate::place::tree(&kit), before);
    fs::write(&changed, text).unwrap();
    update(&kit, &second.join("relay-a"), NOW).unwrap();
    assert!(matches!(refused(&first.join("relay-a")), UpdateError::Refused(_)), "older");
    assert!(open(&kit).unwrap().topology.cell("site-9").is_some());
}
