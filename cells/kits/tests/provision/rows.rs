//! What a project file cannot ask for, one test for each requirement; the corpus of bad files is in `proto`.

use std::{fs, process::Command};

use cellbus_kits::local::NEW_PROGRAMS;
use cellbus_proto::topology::project;

use crate::place::{NOW, Place, STUDY, open};

/// What is said of a file, one text for each problem.
fn said(text: &str) -> Vec<String> {
    match project::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
            let told = |one: &cellbus_proto::topology::Problem| {
                format!("{}:{}: {}", line(one.span.start), one.code.as_str(), one.message)
            };
            problems.iter().map(told).collect()
        }
    }
}

/// Asserts that each of these instead of `what` is refused, with a line.
fn refused(what: &str, instead: &[&str]) {
    assert!(STUDY.contains(what), "{what}");
    assert!(said(STUDY).is_empty());
    for other in instead {
        let problems = said(&STUDY.replacen(what, other, 1));
        assert!(!problems.is_empty(), "{other:?} is taken");
        assert!(problems.iter().all(|one| !one.starts_with("0:")), "{problems:?}");
    }
}

#[test]
fn v_02_atk_149_names_are_whole_lower_case_and_nobodys_device() {
    let long = format!("name = \"{}\"", "a".repeat(64));
    refused(
        "name = \"site-2\"",
        &[
            "name = \"Site-2\"",
            "name = \"site-2.\"",
            "name = \"site-2\\n\"",
            "name = \"xn--site\"",
            "name = \"..\"",
            "name = \"root_cert\"",
            "name = \"nul\"",
            "name = \"site 2\"",
            "name = \"\"",
            &long,
        ],
    );
}

#[test]
fn v_03_s3_01_there_is_one_server_and_one_project_admin() {
    let server = "[[cell]]\nname = \"hub\"\nkind = \"server\"\nlisten = \"0.0.0.0:9\"\n";
    assert!(!said(&format!("{STUDY}{server}")).is_empty(), "two servers");
    let admin = "[[admin]]\nname = \"eve\"\nrole = \"project_admin\"\n";
    assert!(!said(&format!("{STUDY}{admin}")).is_empty(), "two project admins");
    refused("role = \"project_admin\"", &["role = \"lead\""]);
    refused("kind = \"relay\"", &["kind = \"overseer\"", "kind = \"job\"", "kind = \"admin\""]);
}

#[test]
fn v_04_atk_149_relays_are_a_tree_of_bounded_depth() {
    let relay = |name: &str, parent: &str| {
        format!(
            "[[cell]]\nname = \"{name}\"\nkind = \"relay\"\nparent = \"{parent}\"\nlisten = \"0.0.0.0:9\"\n"
        )
    };
    let circle = format!("{STUDY}{}{}", relay("one", "two"), relay("two", "one"));
    assert!(!said(&circle).is_empty(), "a circle");
    refused(
        "parent = \"relay-a\"",
        &["parent = \"site-2\"", "parent = \"alice\"", "parent = \"site-1\""],
    );
    let mut deep = format!("{STUDY}{}", relay("r1", "server"));
    for level in 2..10 {
        deep.push_str(&relay(&format!("r{level}"), &format!("r{}", level - 1)));
    }
    assert!(!said(&deep).is_empty(), "deeper than a job fits below");
}

#[test]
fn s3_04_atk_149_no_two_participants_have_one_name_however_it_is_spelled() {
    refused("name = \"site-2\"", &["name = \"site-1\"", "name = \"SITE-1\"", "name = \" site-1\""]);
    refused("name = \"bob\"", &["name = \"alice\"", "name = \"site-1\"", "name = \"Alice\""]);
}

#[test]
fn v_05_v_06_a_project_file_names_no_program_and_no_other_file() {
    for table in [
        "[[program]]\nname = \"x\"\ncells = [\"*\"]\nargv = [\"/bin/sh\"]\n",
        "[[builders]]\npath = \"a.b.C\"\n",
        "[packager]\npath = \"a.b.C\"\n",
        "include = \"../../etc/passwd\"\n",
    ] {
        let text = if table.starts_with('[') {
            format!("{STUDY}{table}")
        } else {
            format!("{table}{STUDY}")
        };
        assert!(!said(&text).is_empty(), "{table}");
    }
    let place = Place::provisioned();
    let own = fs::read_to_string(place.kit("site-1").join("local/programs.toml")).unwrap();
    assert_eq!(own, NEW_PROGRAMS);
    assert!(open(&place.kit("site-1")).unwrap().topology.programs.is_empty());
}

#[test]
fn v_05_what_a_site_runs_stands_in_its_own_files_and_changes_no_other_site() {
    let place = Place::provisioned();
    let file = place.kit("site-1").join("local/programs.toml");
    let program = "[[program]]\nname = \"train\"\ncells = [\"site-1\"]\nargv = [\"/opt/train\"]\n";
    fs::write(&file, program).unwrap();
    assert_eq!(open(&place.kit("site-1")).unwrap().topology.programs.len(), 1);
    assert!(open(&place.kit("site-2")).unwrap().topology.programs.is_empty());
    fs::write(&file, program.replace("argv", "command")).unwrap();
    let refused = open(&place.kit("site-1")).unwrap_err().to_string();
    assert!(refused.contains("local/programs.toml:4"), "{refused}");
}

#[test]
fn v_14_s3_10_role_and_org_stand_in_the_one_uri_name_and_the_life_is_bounded() {
    let place = Place::provisioned();
    let bob = open(&place.kit("bob")).unwrap().credentials.certificate();
    let identity = bob.identity();
    assert_eq!(identity.org.as_str(), "st-mary");
    assert_eq!(identity.role.as_ref().map(|role| role.as_str()), Some("auditor"));
    assert_eq!(identity.to_uri(), "cell://study/admin/bob?org=st-mary&role=auditor");
    let days = (bob.dates().not_after - NOW) / (24 * 3600);
    assert_eq!(days, 90);
    let life = |days: u32| format!("{STUDY}[certificates]\nleaf_days = {days}\n");
    assert!(said(&life(360)).is_empty());
    assert!(!said(&life(361)).is_empty() && !said(&life(0)).is_empty());
    // The subject has one attribute, which says nothing that anybody decides on.
    let certificate = place.kit("bob").join("startup/cell.crt");
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-subject", "-in", certificate.to_str().unwrap()])
        .output()
        .expect("this test needs the program `openssl`");
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), "subject=CN = bob");
}
