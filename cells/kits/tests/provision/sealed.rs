//! Kits as sealed files.

use std::fs;

use cellbus_kits::{
    archive::{ArchiveError, open_kit, seal_kit},
    compare::compare,
    passphrase::Passphrase,
    seal::{OpenWith, SealError, SealWith},
};
use zeroize::Zeroizing;

use crate::place::{NOW, Place, open, tree};

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).expect("long enough")
}

fn sealed() -> (Place, std::path::PathBuf) {
    let place = Place::provisioned();
    let to = place.dir().join("site-1.kit");
    let with = SealWith::Passphrase { passphrase: passphrase("two ways"), work_factor: 2 };
    seal_kit(&place.kit("site-1"), &to, &with, NOW).expect("it is a whole kit");
    (place, to)
}

#[test]
fn v_16_a_kit_survives_being_sealed_and_opened() {
    let (place, sealed) = sealed();
    let to = place.dir().join("here");
    open_kit(&sealed, &to, &OpenWith::Passphrase(passphrase("two ways"))).unwrap();
    open(&to).unwrap();
    assert_eq!(compare(&place.kit("site-1"), &to).unwrap(), []);
    let text = fs::read(&sealed).unwrap();
    assert!(!text.windows(11).any(|bytes| bytes == b"PRIVATE KEY"));
    let again = open_kit(&sealed, &to, &OpenWith::Passphrase(passphrase("two ways")));
    assert!(matches!(again, Err(ArchiveError::File(_))), "nothing is overwritten");
}

#[test]
fn v_16_a_wrong_passphrase_or_a_cut_file_gives_no_part_of_the_kit() {
    let (place, sealed) = sealed();
    let to = place.dir().join("here");
    let wrong = open_kit(&sealed, &to, &OpenWith::Passphrase(passphrase("one way")));
    assert!(matches!(wrong, Err(ArchiveError::Seal(SealError::WrongKey))), "{wrong:?}");
    assert!(!to.exists());
    let whole = fs::read(&sealed).unwrap();
    for at in [10, 200, whole.len() / 2, whole.len() - 1] {
        fs::write(&sealed, &whole[..at]).unwrap();
        assert!(open_kit(&sealed, &to, &OpenWith::Passphrase(passphrase("two ways"))).is_err());
        assert!(!to.exists(), "cut at {at}");
    }
    let names: Vec<_> =
        fs::read_dir(place.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left over: {names:?}");
}

#[test]
fn v_16_a_kit_that_was_changed_is_not_sealed() {
    let place = Place::provisioned();
    fs::write(place.kit("site-1").join("startup/roster.json"), "{}").unwrap();
    let to = place.dir().join("site-1.kit");
    let with = SealWith::Passphrase { passphrase: passphrase("two ways"), work_factor: 2 };
    let refused = seal_kit(&place.kit("site-1"), &to, &with, NOW);
    assert!(matches!(refused, Err(ArchiveError::Kit(_))));
    assert!(!to.exists());
}

#[test]
fn k_09_two_kits_are_compared_without_their_keys() {
    let place = Place::provisioned();
    let before = tree(place.dir());
    let found = compare(&place.kit("site-1"), &place.kit("site-2")).unwrap();
    let paths: Vec<&str> = found.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        paths,
        ["startup/cell.crt", "startup/cell.key", "startup/manifest.json", "startup/manifest.sig"]
    );
    assert_eq!(found[0].lines.len(), 2, "a fingerprint each");
    assert!(found[1].lines.is_empty());
    fs::write(place.kit("site-2").join("local/limits.toml"), "[limits]\nhops_max = 3\n").unwrap();
    let found = compare(&place.kit("site-1"), &place.kit("site-2")).unwrap();
    assert!(found[0].lines.contains(&"+ hops_max = 3".to_owned()), "{found:?}");
    fs::write(place.kit("site-2").join("local/limits.toml"), cellbus_kits::local::NEW_LIMITS)
        .unwrap();
    assert_eq!(tree(place.dir()), before);
}
