//! A kit that is not as it was signed, in every way.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use cellbus_kits::{
    check::Outcome,
    kit::{Kit, examine},
};

use crate::place::{DAY, NOW, Place, STUDY, open, tree};

const SIGNED: [&str; 8] = [
    "cell.crt",
    "cell.key",
    "revocations.list",
    "root.crt",
    "roster.json",
    "roster.list",
    "roots.list",
    "topology.toml",
];

/// What the refusal of the kit says, for people.
fn refusal(kit: &Path, what: &str) -> String {
    let before = tree(kit);
    let refused = match open(kit) {
        Ok(_) => panic!("{what}: it is used"),
        Err(refused) => refused.to_string(),
    };
    assert_eq!(tree(kit), before, "{what}: examined, not changed");
    refused
}

#[test]
fn s3_06_atk_148_one_changed_byte_in_any_file_is_named() {
    let place = Place::provisioned();
    let kit = place.kit("site-1");
    for file in SIGNED.into_iter().chain(["manifest.json", "manifest.sig"]) {
        let path = kit.join("startup").join(file);
        let good = fs::read(&path).unwrap();
        for at in [0, good.len() / 2, good.len() - 2] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let said = refusal(&kit, file);
            assert!(said.contains(file) || said.contains("manifest"), "{file} at {at}: {said}");
        }
        fs::write(&path, good).unwrap();
    }
    open(&kit).unwrap();
}

#[test]
fn s3_06_atk_148_what_is_added_deleted_renamed_or_swapped_is_named() {
    let place = Place::provisioned();
    let kit = place.kit("site-1");
    let startup = kit.join("startup");
    for file in SIGNED {
        let path = startup.join(file);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(refusal(&kit, "deleted").contains(file), "{file}");
        fs::write(startup.join("other.name"), &content).unwrap();
        fs::set_permissions(startup.join("other.name"), fs::Permissions::from_mode(0o600)).unwrap();
        let said = refusal(&kit, "renamed");
        assert!(said.contains(file), "{said}");
        fs::rename(startup.join("other.name"), &path).unwrap();
        open(&kit).unwrap();
    }
    let added = startup.join("start.sh");
    fs::write(&added, "reboot").unwrap();
    fs::set_permissions(&added, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(&kit, "added").contains("start.sh"));
    fs::remove_file(&added).unwrap();
    fs::create_dir(startup.join("lib")).unwrap();
    fs::set_permissions(startup.join("lib"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(refusal(&kit, "a directory").contains("lib"));
    fs::remove_dir(startup.join("lib")).unwrap();

    let (one, two) = (startup.join("roster.json"), startup.join("topology.toml"));
    fs::rename(&one, startup.join("x")).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(startup.join("x"), &two).unwrap();
    assert!(refusal(&kit, "swapped").contains("roster.json"));
}

#[test]
fn s3_06_v_27_another_mode_link_or_owner_is_named() {
    let place = Place::provisioned();
    let kit = place.kit("site-1");
    let file = kit.join("startup/topology.toml");
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    for bad in [0o666, 0o644, 0o640, 0o700, 0o400, 0o602] {
        mode(&file, bad);
        assert!(refusal(&kit, "mode").contains("topology.toml"), "{bad:o}");
    }
    mode(&file, 0o600);
    for dir in [kit.clone(), kit.join("startup"), kit.join("local")] {
        mode(&dir, 0o755);
        assert!(refusal(&kit, "directory").contains("KIT_DIRECTORY"), "{}", dir.display());
        mode(&dir, 0o700);
    }
    mode(&kit.join("local/policy.toml"), 0o666);
    assert!(refusal(&kit, "local").contains("local/policy.toml"));
    mode(&kit.join("local/policy.toml"), 0o644);
    open(&kit).expect("what a site writes may be read by others");

    fs::hard_link(&file, place.dir().join("again")).unwrap();
    assert!(refusal(&kit, "hard link").contains("topology.toml"));
    fs::remove_file(place.dir().join("again")).unwrap();
    let key = kit.join("startup/cell.key");
    fs::rename(&key, place.dir().join("key")).unwrap();
    symlink(place.dir().join("key"), &key).unwrap();
    assert!(refusal(&kit, "symbolic link").contains("cell.key"));
    fs::remove_file(&key).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, 0o600.into()).unwrap();
    assert!(refusal(&kit, "pipe").contains("cell.key"));
}

#[test]
fn v_27_atk_159_no_word_of_the_topology_is_changed_at_a_site() {
    let (place, second) = (Place::provisioned(), Place::provisioned());
    for (name, from, to) in [
        ("site-1", "parent = \"relay-a\"", "parent = \"server\""),
        ("site-1", "relay.example.org", "relay.example.net"),
        ("relay-a", "parent = \"relay-a\"", "parent = \"server\""),
        (
            "site-1",
            "[[allow]]",
            "[[allow]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"x\"\ntopics = [\"y\"]\n[[allow]]",
        ),
    ] {
        let kit = place.kit(name);
        let path = kit.join("startup/topology.toml");
        let good = fs::read_to_string(&path).unwrap();
        assert!(good.contains(from), "{from}: {good}");
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        assert!(refusal(&kit, to).contains("topology.toml"));
        fs::write(&path, good).unwrap();
        open(&kit).unwrap();
    }
    // Everything that is signed, by the authority of a project of the same name.
    let (kit, other) = (place.kit("site-1"), second.kit("site-1"));
    let fingerprint = open(&kit).unwrap().manifest.root_sha256;
    for file in SIGNED.into_iter().chain(["manifest.json", "manifest.sig"]) {
        fs::copy(other.join("startup").join(file), kit.join("startup").join(file)).unwrap();
    }
    let refused = Kit::open(&kit, Some(&fingerprint), NOW).unwrap_err().to_string();
    assert!(refused.contains("KIT_SIGNATURE"), "{refused}");
}

#[test]
fn v_15_the_manifest_of_another_cell_is_of_no_use() {
    let place = Place::provisioned();
    let other = Place::provisioned();
    for (from, what) in
        [(place.kit("site-2"), "another cell"), (other.kit("site-1"), "another project")]
    {
        let kit = place.kit("site-1");
        let files = ["manifest.json", "manifest.sig"].map(|file| format!("startup/{file}"));
        let kept: Vec<Vec<u8>> =
            files.iter().map(|file| fs::read(kit.join(file)).unwrap()).collect();
        for file in &files {
            fs::copy(from.join(file), kit.join(file)).unwrap();
        }
        refusal(&kit, what);
        // With the certificate and key, too, the topology still is another cell's: nothing can be put together.
        for (file, content) in files.iter().zip(&kept) {
            fs::write(kit.join(file), content).unwrap();
        }
        open(&kit).unwrap();
    }
}

#[test]
fn v_27_a_kit_signed_by_somebody_else_is_told_by_the_fingerprint() {
    let (place, other) = (Place::provisioned(), Place::provisioned());
    let fingerprint = open(&place.kit("site-1")).unwrap().manifest.root_sha256;
    let expecting = |kit: &Path| Kit::open(kit, Some(&fingerprint), NOW);
    expecting(&place.kit("site-1")).unwrap();
    Kit::open(&place.kit("site-1"), Some(&fingerprint.to_uppercase()), NOW).unwrap();
    let refused = expecting(&other.kit("site-1")).unwrap_err().to_string();
    assert!(refused.contains("KIT_SIGNATURE"), "{refused}");
    // The other authority beside the right manifest.
    fs::copy(
        other.kit("site-1").join("startup/root.crt"),
        place.kit("site-1").join("startup/root.crt"),
    )
    .unwrap();
    assert!(refusal(&place.kit("site-1"), "root").contains("root.crt"));
}

#[test]
fn k_02_a_certificate_that_ends_soon_is_warned_about_and_one_that_has_ended_is_refused() {
    let place = Place::provisioned();
    let kit = place.kit("site-1");
    let dates = |now: u64| {
        let examined = examine(&kit, None, now);
        let dates = examined.findings.iter().find(|finding| finding.code == "KIT_DATES").unwrap();
        (dates.outcome, examined.kit.is_some())
    };
    assert_eq!(dates(NOW), (Outcome::Ok, true));
    assert_eq!(dates(NOW + 61 * DAY), (Outcome::Warn, true));
    assert_eq!(dates(NOW + 91 * DAY), (Outcome::Fail, false));
    assert_eq!(dates(NOW - DAY), (Outcome::Fail, false));
}

#[test]
fn k_02_everything_that_breaks_has_one_code() {
    type Break = dyn Fn(&Path);
    let cases: [(&str, &Break); 7] = [
        ("KIT_DIRECTORY", &|kit| fs::rename(kit.join("local"), kit.join("lokal")).unwrap()),
        ("KIT_MANIFEST", &|kit| fs::write(kit.join("startup/manifest.json"), "{}").unwrap()),
        ("KIT_SIGNATURE", &|kit| fs::write(kit.join("startup/manifest.sig"), "AAAA").unwrap()),
        ("KIT_FILES", &|kit| {
            fs::write(kit.join("startup/roster.json"), "{\"children\": []}").unwrap()
        }),
        ("KIT_LOCAL", &|kit| fs::write(kit.join("local/policy.toml"), "[[allow]]\n").unwrap()),
        ("KIT_LOCAL", &|kit| {
            fs::write(kit.join("local/join.toml"), "[join]\nlisten = \"0.0.0.0:1\"\n").unwrap();
        }),
        ("KIT_LOCAL", &|kit| {
            fs::write(kit.join("local/limits.toml"), "[limits]\nhops_max = 99\n").unwrap()
        }),
    ];
    for (code, break_it) in cases {
        let place = Place::provisioned();
        let kit = place.kit("relay-a");
        break_it(&kit);
        let examined = examine(&kit, None, NOW);
        let failed: Vec<&str> = examined
            .findings
            .iter()
            .filter(|finding| finding.outcome == Outcome::Fail)
            .map(|finding| finding.code.as_str())
            .collect();
        assert_eq!(failed, [code]);
        assert!(examined.kit.is_none());
        assert!(examined.findings.iter().all(|finding| !finding.found.contains("PRIVATE")), "k_03");
    }
}

#[test]
fn s3_18_what_one_site_decides_changes_its_own_topology_only() {
    let place = Place::provisioned();
    let policy =
        "[[deny]]\nfrom = \"*\"\nto = \"site-1\"\nchannel = \"task\"\ntopics = [\"run\"]\n";
    fs::write(place.kit("site-1").join("local/policy.toml"), policy).unwrap();
    assert_eq!(open(&place.kit("site-1")).unwrap().topology.rules.len(), 2);
    assert_eq!(open(&place.kit("site-2")).unwrap().topology.rules.len(), 1);
    assert!(STUDY.contains("[[allow]]"));
}
