//! What one run leaves on disk, and what it leaves alone.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use cellbus_kits::provision::{Action, ProvisionError, Wanted};
use cellbus_proto::identity::CellKind;

use crate::place::{NOW, Place, STUDY, open, row, tree};

#[test]
fn v_08_every_directory_is_0700_and_every_file_0600() {
    let place = Place::provisioned();
    let tree = place.tree();
    assert!(tree.len() > 50, "{}", tree.len());
    for (path, mode, _) in tree {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", path.display());
    }
}

#[test]
fn every_participant_has_a_kit_that_can_be_used() {
    let place = Place::provisioned();
    for name in ["server", "relay-a", "site-1", "site-2", "alice", "bob"] {
        let kit = open(&place.kit(name)).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        assert_eq!(kit.manifest.name.as_str(), name);
        assert_eq!(kit.cell().is_none(), kit.manifest.kind == CellKind::Admin);
    }
    let relay = open(&place.kit("relay-a")).unwrap();
    assert_eq!(relay.manifest.parent.unwrap().as_str(), "server");
    let site = open(&place.kit("site-1")).unwrap();
    assert_eq!(site.manifest.cell.as_str(), "relay-a.site-1");
    let roster = fs::read_to_string(place.kit("relay-a").join("startup/roster.json")).unwrap();
    assert!(roster.contains("cell://study/client/site-1?org=st-mary"), "{roster}");
    assert!(!roster.contains("site-2"), "exactly its children: {roster}");
}

#[test]
fn v_09_private_keys_lie_in_the_kits_and_nowhere_else() {
    let place = Place::provisioned();
    for (path, _, content) in place.tree() {
        let holds = content.windows(11).any(|bytes| bytes == b"PRIVATE KEY");
        let is_key = path.file_name().is_some_and(|name| name == "cell.key");
        assert_eq!(holds, is_key, "{}", path.display());
    }
    let sealed = fs::read(place.out().join("authority/root.key.age")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt "));
}

#[test]
fn v_17_no_kit_holds_anything_that_could_be_run() {
    let place = Place::provisioned();
    for (path, mode, content) in place.tree() {
        assert!(path.is_dir() || mode & 0o111 == 0, "{}", path.display());
        assert!(!content.starts_with(b"#!"), "{}", path.display());
    }
}

#[test]
fn v_07_a_run_that_fails_leaves_nothing_of_itself() {
    let place = Place::new();
    let refused = place.run_with(STUDY, NOW, None, "");
    assert!(matches!(refused, Err(ProvisionError::Passphrase(_))));
    assert!(place.tree().is_empty());

    let place = Place::provisioned();
    let before = place.tree();
    let more = STUDY.replace("site-2", "site-3");
    let refused = place.run_with(&more, NOW, None, "another passphrase");
    assert!(matches!(refused, Err(ProvisionError::Seal(_))), "{refused:?}");
    assert_eq!(place.tree(), before);
}

#[test]
fn v_07_a_directory_of_something_else_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.out()).unwrap();
    fs::write(place.out().join("thesis.txt"), "years of work").unwrap();
    let before = place.tree();
    assert!(matches!(place.run(STUDY, NOW), Err(ProvisionError::Foreign { .. })));
    assert_eq!(place.tree(), before);
    assert!(place.asked.borrow().is_empty(), "no passphrase is asked for in vain");
    // An empty one is as good as none.
    fs::remove_file(place.out().join("thesis.txt")).unwrap();
    place.run(STUDY, NOW).unwrap();
    let other = STUDY.replace("name = \"study\"", "name = \"other\"");
    assert!(matches!(place.run(&other, NOW), Err(ProvisionError::OtherProject { .. })));
}

#[test]
fn v_08_a_link_pipe_or_directory_that_was_planted_is_refused_and_left_alone() {
    let victim = Place::new();
    fs::write(victim.dir().join("file"), "content").unwrap();
    for name in ["kits-0002", ".cellbus-new-kits-0002"] {
        let place = Place::provisioned();
        let planted = place.out().join(name);
        symlink(victim.dir(), &planted).unwrap();
        let refused = place.run(&STUDY.replace("site-2", "site-3"), NOW);
        assert!(refused.is_err(), "{name}");
        assert_eq!(tree(victim.dir()).len(), 1, "{name}");
        assert!(planted.symlink_metadata().unwrap().is_symlink(), "{name}");
    }
    let place = Place::new();
    symlink(victim.dir(), place.out()).unwrap();
    assert!(place.run(STUDY, NOW).is_err());
    assert_eq!(tree(victim.dir()).len(), 1);

    let place = Place::provisioned();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.out().join("kits-0002"), 0o600.into()).unwrap();
    assert!(place.run(&STUDY.replace("site-2", "site-3"), NOW).is_err());

    // The directory above must not be one in which others can exchange names.
    let place = Place::new();
    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(place.run(STUDY, NOW).is_err());
    assert!(place.tree().is_empty());
}

#[test]
fn v_18_adding_one_makes_one_kit_and_touches_no_other() {
    let place = Place::provisioned();
    let before = place.tree();
    let more = format!(
        "{STUDY}[[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"relay-a\"\n[[cell]]\nname = \"site-10\"\nkind = \"client\"\nparent = \"server\"\n"
    );
    let report = place.add(&more, "site-9").unwrap();
    assert_eq!(*place.asked.borrow(), [Wanted::Existing]);
    assert_eq!(row(&report, "site-9").action, Action::New);
    assert!(report.participants.iter().all(|row| row.name.as_str() != "site-10"), "not asked for");
    let after = place.tree();
    for entry in &before {
        assert!(after.contains(entry), "{} was touched", entry.0.display());
    }
    let new = place.out().join("kits-0002");
    let kits: Vec<_> =
        fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(
        kits.len(),
        7,
        "one kit, the updates, the records, three lists, and all in one: {kits:?}"
    );
    open(&new.join("site-9")).unwrap();

    assert!(matches!(place.add(&more, "site-9"), Err(ProvisionError::AlreadyThere(_))));
    assert!(matches!(place.add(&more, "site-11"), Err(ProvisionError::Nobody(_))));
    let empty = Place::new();
    assert!(matches!(empty.add(&more, "site-9"), Err(ProvisionError::NothingYet { .. })));
    assert!(empty.tree().is_empty());
}

#[test]
fn s3_17_a_person_who_is_added_changes_nothing_for_any_cell() {
    let place = Place::provisioned();
    let more = format!("{STUDY}[[admin]]\nname = \"carol\"\nrole = \"lead\"\n");
    let report = place.add(&more, "carol").unwrap();
    for row in &report.participants {
        let wanted = if row.name.as_str() == "carol" { Action::New } else { Action::Kept };
        assert_eq!(row.action, wanted, "{}", row.name);
    }
    assert!(!place.out().join("kits-0002/updates").exists());
    let kit = open(&place.out().join("kits-0002/carol")).unwrap();
    assert_eq!(kit.manifest.role.unwrap().as_str(), "lead");
}

#[test]
fn the_example_of_the_documents_is_good() {
    let example = include_str!("../../../../docs/examples/project.toml");
    let place = Place::new();
    let report = place.run(example, NOW).unwrap();
    assert_eq!(report.participants.len(), 8);
    assert!(open(&place.out().join("kits-0001/server")).is_ok());
}
