//! The issuing authority that a server is given where the project file asks for one.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use cellbus_kits::{
    kit::Kit,
    provision::{Action, ProvisionError},
    records::latest,
};
use cellbus_proto::{codec::body, identity::CellKind, trust};
use cellbus_runtime::{
    authority::{
        Authority, Credentials, ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS, IssuingAuthority,
        OwnCertificate,
        renewed::{self, NewPair},
    },
    certificate::{CertDates, certificates_in_pem, profile::CertProfile},
};

use crate::place::{DAY, NOW, Place, STUDY, row};

fn study() -> String {
    format!("{STUDY}[certificates]\nissuer_days = 180\n")
}

fn provisioned() -> Place {
    let place = Place::new();
    place.run(&study(), NOW).expect("it is a good project");
    place
}

fn profile(path: &std::path::Path) -> CertProfile {
    let pem = fs::read(path).expect("it was made");
    CertProfile::read(&certificates_in_pem(&pem)[0]).expect("it is of a cell")
}

#[test]
fn v_10_an_issuing_authority_lies_in_the_kit_of_the_server_and_nowhere_else() {
    let place = provisioned();
    let root = profile(&place.out().join("authority/root.crt"));
    assert_eq!((root.path_length, root.permitted_uri_hosts), (Some(1), vec!["study".to_owned()]));
    let startup = place.kit("server").join("startup");
    let issuer = profile(&startup.join(ISSUER_CERTIFICATE));
    assert_eq!((issuer.is_authority, issuer.path_length), (Some(true), Some(0)));
    assert_eq!((issuer.key_usage, issuer.uris.len()), (vec!["keyCertSign"], 0));
    assert_eq!(issuer.dates.not_after, NOW + 180 * DAY);
    let key = fs::metadata(startup.join(ISSUER_KEY)).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let found = place.tree().into_iter().filter(|(path, _, _)| path.ends_with(ISSUER_KEY)).count();
    assert_eq!(found, 1);
    let kit = Kit::open(&place.kit("server"), None, NOW).unwrap();
    for file in [ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS] {
        assert!(kit.manifest.file(file).is_some(), "{file} is signed");
    }
    let hosts = BTreeMap::new();
    let loaded = IssuingAuthority::load(&startup, &kit.manifest.project, hosts).unwrap();
    assert_eq!(loaded.unwrap().dates(), issuer.dates);
    // One byte of it, and the kit starts nothing.
    let terms = fs::read_to_string(startup.join(ISSUER_TERMS)).unwrap();
    fs::write(startup.join(ISSUER_TERMS), terms.replace("7776000", "9776000")).unwrap();
    let refused = Kit::open(&place.kit("server"), None, NOW).unwrap_err();
    assert!(refused.to_string().contains(ISSUER_TERMS), "{refused}");
}

#[test]
fn v_19_kits_of_cells_that_renew_themselves_are_not_made_again_for_their_age() {
    let place = provisioned();
    let report = place.run(&study(), NOW + 61 * DAY).unwrap();
    for name in ["server", "relay-a", "site-1", "site-2"] {
        assert_eq!(row(&report, name).action, Action::Kept, "{name}");
    }
    assert_eq!(row(&report, "alice").action, Action::Renewed, "people do not run");
    // Whoever was away for too long is given one when that is asked for.
    let late = NOW + 100 * DAY;
    let asked = place.run_with(&study(), late, Some("site-1"), "correct horse battery").unwrap();
    assert_eq!(row(&asked, "site-1").action, Action::Renewed);
    // The issuing authority itself is renewed in time, with a kit for the server.
    let report = place.run(&study(), NOW + 121 * DAY).unwrap();
    assert_eq!(row(&report, "server").action, Action::Renewed);
    assert_eq!(row(&report, "relay-a").action, Action::Kept);
    assert_eq!(report.revoked, [], "what the old one has issued counts until its end");
    let (_, records) = latest(&place.out()).unwrap().unwrap();
    let issuer = records.participants["server"].issuer.clone().unwrap();
    assert_eq!(issuer.not_after, NOW + 301 * DAY);
}

#[test]
fn v_21_who_is_removed_is_revoked_by_name_since_its_last_certificate_is_not_known_here() {
    let place = provisioned();
    let gone = "[[cell]]\nname = \"site-2\"\nkind = \"client\"\nparent = \"server\"\n";
    place.run(&study().replace(gone, ""), NOW + DAY).unwrap();
    let bytes = fs::read(place.out().join("kits-0002/revocations.list")).unwrap();
    let bundle: trust::Bundle = body::decode_exact(&bytes).unwrap();
    let signed = bundle.get(trust::ListKind::Revocations).unwrap();
    let list: trust::RevocationList = body::decode_exact(&signed.content.0).unwrap();
    assert!(list.names("site-2", NOW + 90 * DAY));
    assert!(!list.names("site-1", NOW + DAY));
    // Who comes back is let in again.
    place.run(&study(), NOW + 2 * DAY).unwrap();
    let bytes = fs::read(place.out().join("kits-0003/revocations.list")).unwrap();
    let bundle: trust::Bundle = body::decode_exact(&bytes).unwrap();
    let signed = bundle.get(trust::ListKind::Revocations).unwrap();
    let list: trust::RevocationList = body::decode_exact(&signed.content.0).unwrap();
    assert!(!list.names("site-2", NOW + 2 * DAY));
}

#[test]
fn an_issuing_authority_is_added_only_where_there_is_room_and_taken_back_when_it_is_dropped() {
    let old = Place::provisioned();
    let refused = old.run(&study(), NOW + DAY);
    assert!(matches!(refused, Err(ProvisionError::NoIssuers)), "{refused:?}");
    assert!(!old.out().join("kits-0002").exists());
    let place = provisioned();
    let (_, records) = latest(&place.out()).unwrap().unwrap();
    let issuer = records.participants["server"].issuer.clone().unwrap();
    let report = place.run(STUDY, NOW + DAY).unwrap();
    assert_eq!(row(&report, "server").action, Action::Replaced);
    let taken_back: Vec<_> = report.revoked.iter().map(|one| &one.certificate_sha256).collect();
    assert!(taken_back.contains(&&issuer.certificate_sha256), "{report:?}");
    assert!(!place.out().join("kits-0002/server/startup").join(ISSUER_KEY).exists());
}

#[test]
fn s3_06_a_kit_whose_certificate_has_ended_starts_with_the_one_that_was_renewed() {
    let place = provisioned();
    let (kit, state) = (place.kit("site-1"), place.dir().join("state"));
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let late = NOW + 91 * DAY;
    let known = |_: &cellbus_proto::topology::Topology, _: &str| Some(state.clone());
    let refused = Kit::open_with(&kit, None, &known, late).unwrap_err();
    assert!(refused.to_string().contains("KIT_DATES"), "{refused}");

    let opened = Kit::open(&kit, None, NOW).unwrap();
    let server = place.kit("server").join("startup");
    let text = |file: &str| fs::read_to_string(server.join(file)).unwrap();
    let (certificate, key) = (text(ISSUER_CERTIFICATE), text(ISSUER_KEY));
    let project = opened.manifest.project.clone();
    let issuer = Authority::restore(project, &certificate, &key).unwrap();
    let dates = CertDates::lasting(NOW + 60 * DAY, std::time::Duration::from_secs(90 * DAY));
    let made = issuer.issue(&opened.manifest.identity(), &[], dates).unwrap();
    let chain = [made.chain(), vec![issuer.root().clone()]].concat();
    let pair = NewPair::new(OwnCertificate::new(chain, &made.key()).unwrap(), &made);
    renewed::keep(&state, &kit.join("startup"), &pair).unwrap();

    let opened = Kit::open_with(&kit, None, &known, late).unwrap();
    assert_eq!(opened.credentials.certificate().hash(), pair.certificate().hash());
    assert_eq!(opened.manifest.kind, CellKind::Client);
    assert!(Kit::open(&kit, None, late).is_err(), "not without its state");
    // Everything else about the kit is examined as ever.
    fs::write(kit.join("startup/topology.toml"), "").unwrap();
    assert!(Kit::open_with(&kit, None, &known, late).is_err());
    assert!(Credentials::load(&kit.join("startup"), NOW).is_ok());
}
