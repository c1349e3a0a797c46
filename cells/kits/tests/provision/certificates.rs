//! The certificates of kits, as another program reads them. Needs `openssl`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::place::Place;

fn openssl(arguments: &[&str]) -> (bool, String) {
    let run = Command::new("openssl").args(arguments).output();
    let run = run.expect("this test needs the program `openssl`");
    let text = [run.stdout, run.stderr].concat();
    (run.status.success(), String::from_utf8(text).expect("it prints text"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Certificates that are good today.
fn place() -> (Place, PathBuf) {
    let place = Place::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("the clock is past 1970").as_secs();
    place.run(crate::place::STUDY, now).expect("it is a good project");
    let root = place.out().join("authority/root.crt");
    (place, root)
}

fn extensions(certificate: &Path) -> String {
    let all = "basicConstraints,keyUsage,extendedKeyUsage,subjectAltName,nameConstraints";
    let (ok, shown) = openssl(&["x509", "-in", text(certificate), "-noout", "-ext", all]);
    assert!(ok, "{shown}");
    let lines: Vec<&str> =
        shown.lines().map(str::trim).filter(|line| !line.starts_with("No ext")).collect();
    lines.join("\n")
}

#[test]
fn v_10_the_authority_is_what_openssl_calls_one_and_for_its_project_only() {
    let (_place, root) = place();
    assert_eq!(
        extensions(&root),
        "X509v3 Key Usage: critical\nCertificate Sign, CRL Sign\n\
         X509v3 Basic Constraints: critical\nCA:TRUE, pathlen:0\n\
         X509v3 Name Constraints: critical\nPermitted:\nURI:study"
    );
    let (ok, shown) = openssl(&["verify", "-x509_strict", "-CAfile", text(&root), text(&root)]);
    assert!(ok, "{shown}");
}

#[test]
fn v_12_v_13_leaves_have_the_form_of_their_kind() {
    let (place, _) = place();
    let form = |names: &str, usage: &str| {
        format!(
            "X509v3 Subject Alternative Name:\n{names}\n\
             X509v3 Key Usage: critical\nDigital Signature\n\
             X509v3 Extended Key Usage:\n{usage}\n\
             X509v3 Basic Constraints: critical\nCA:FALSE"
        )
    };
    let both = "TLS Web Client Authentication, TLS Web Server Authentication";
    let client = "TLS Web Client Authentication";
    for (name, expected) in [
        (
            "server",
            form(
                "URI:cell://study/server/server?org=hq, DNS:server.example.org, IP Address:192.0.2.7",
                both,
            ),
        ),
        ("relay-a", form("URI:cell://study/relay/relay-a?org=hq, DNS:relay.example.org", both)),
        ("site-1", form("URI:cell://study/client/site-1?org=st-mary", client)),
        ("bob", form("URI:cell://study/admin/bob?org=st-mary&role=auditor", client)),
    ] {
        let certificate = place.kit(name).join("startup/cell.crt");
        assert_eq!(extensions(&certificate), expected, "{name}");
        let (_, shown) = openssl(&["x509", "-in", text(&certificate), "-noout", "-text"]);
        for wanted in ["NIST CURVE: P-256", "ecdsa-with-SHA256", "Version: 3"] {
            assert!(shown.contains(wanted), "{name}: no {wanted} in {shown}");
        }
        let (lasts, _) =
            openssl(&["x509", "-in", text(&certificate), "-noout", "-checkend", "7689600"]);
        let (lasts_longer, _) =
            openssl(&["x509", "-in", text(&certificate), "-noout", "-checkend", "7862400"]);
        assert!(lasts && !lasts_longer, "{name}: 89 days, and not 91");
    }
}

#[test]
fn v_12_openssl_verifies_every_leaf_for_what_it_is_for_and_nothing_else() {
    let (place, root) = place();
    let (_other, other_root) = self::place();
    let verify = |root: &Path, purpose: &str, name: &str| {
        let certificate = place.kit(name).join("startup/cell.crt");
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            text(root),
            text(&certificate),
        ])
        .0
    };
    for name in ["server", "relay-a", "site-1", "site-2", "alice", "bob"] {
        assert!(verify(&root, "sslclient", name), "{name}");
        let is_dialled = matches!(name, "server" | "relay-a");
        assert_eq!(verify(&root, "sslserver", name), is_dialled, "{name}");
        assert!(!verify(&other_root, "sslclient", name), "{name} by another authority");
        assert!(!verify(&root, "smimesign", name), "{name} for mail");
    }
}

#[test]
fn v_09_the_key_of_a_kit_is_that_of_its_certificate() {
    let (place, _) = place();
    let startup = place.kit("site-1").join("startup");
    let (_, of_key) = openssl(&["pkey", "-in", text(&startup.join("cell.key")), "-pubout"]);
    let (_, of_cert) =
        openssl(&["x509", "-in", text(&startup.join("cell.crt")), "-noout", "-pubkey"]);
    assert!(of_key.contains("BEGIN PUBLIC KEY"), "{of_key}");
    assert_eq!(of_key, of_cert);
}
