//! What a topology may not say otherwise than the manifest does, even where both are signed.

use cellbus_proto::topology;

use super::*;

const STUDY: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:8002"
[[cell]]
name = "relay-a"
kind = "relay"
parent = "server"
listen = "127.0.0.1:8003"
[[cell]]
name = "relay-b"
kind = "relay"
parent = "server"
listen = "127.0.0.1:8004"
[[cell]]
name = "site-1"
kind = "client"
parent = "relay-a"
org = "st-mary"
"#;

fn parsed(text: &str) -> Topology {
    topology::parse(text).expect("a good topology").topology
}

/// What was signed for a participant of [`STUDY`].
fn signed(name: &str) -> (Manifest, Roster) {
    let topology = parsed(STUDY);
    let cell = topology.cell(name).expect("it is in there");
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        project: topology.project.clone(),
        name: cell.name.clone(),
        cell: cell.fqcn.clone(),
        kind: cell.kind,
        org: cell.org.clone(),
        role: None,
        parent: cell.parent.clone(),
        serial: 1,
        issued_unix: 0,
        root_sha256: String::new(),
        certificate_sha256: String::new(),
        renewed_by: None,
        files: Vec::new(),
    };
    (manifest, Roster::of(&topology, name))
}

#[test]
fn v_27_atk_159_a_topology_that_says_something_else_than_the_manifest_is_of_no_use() {
    for (name, from, to, named) in [
        ("site-1", "name = \"study\"", "name = \"other\"", "project other"),
        ("site-1", "name = \"study\"", "name = \"study\"\ndev = true", "development certificates"),
        ("site-1", "parent = \"relay-a\"", "parent = \"relay-b\"", "another parent"),
        ("site-1", "parent = \"relay-a\"", "parent = \"server\"", "something else"),
        ("site-1", "org = \"st-mary\"", "org = \"st-john\"", "something else"),
        ("site-1", "name = \"site-1\"", "name = \"site-7\"", "no cell `site-1`"),
        ("relay-a", "parent = \"relay-a\"", "parent = \"relay-b\"", "other children"),
        ("relay-b", "parent = \"relay-a\"", "parent = \"relay-b\"", "other children"),
        ("relay-a", "org = \"st-mary\"", "org = \"st-john\"", "other children"),
    ] {
        let (manifest, roster) = signed(name);
        let plain = disagreements(&manifest, Some(&roster), &parsed(STUDY));
        assert!(plain.is_empty(), "{name}: {plain:?}");
        assert!(STUDY.contains(from), "{from}");
        let said = disagreements(&manifest, Some(&roster), &parsed(&STUDY.replacen(from, to, 1)));
        assert!(said.iter().any(|said| said.contains(named)), "{name}, {to}: {said:?}");
    }
    let (manifest, _) = signed("relay-a");
    let said = disagreements(&manifest, None, &parsed(STUDY));
    assert!(said.iter().any(|said| said.contains("other children")), "no roster: {said:?}");
}
