//! The arrows of `docs/ARCHITECTURE.md`, held by a test: who may import whom, and what must not come in at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The crates of the product, lowest first, and whom of them each may name. Absent means forbidden.
const ARROWS: [(&str, &[&str]); 10] = [
    ("cellbus-proto", &[]),
    ("cellbus-channels", &["cellbus-proto"]),
    ("cellbus-runtime", &["cellbus-proto", "cellbus-channels"]),
    ("cellbus-kits", &["cellbus-proto", "cellbus-runtime", "cellbus-launch"]),
    ("cellbus-launch", &["cellbus-proto"]),
    ("cellbus-slurm", &["cellbus-proto", "cellbus-runtime", "cellbus-launch"]),
    ("cellbus-cells", &["cellbus-proto", "cellbus-channels", "cellbus-runtime", "cellbus-launch"]),
    ("cellbus-bench", &["cellbus-proto", "cellbus-channels", "cellbus-runtime", "cellbus-cells"]),
    ("cellbus-otel", &["cellbus-channels", "cellbus-runtime", "cellbus-cells"]),
    (
        "cellbus",
        &[
            "cellbus-proto",
            "cellbus-channels",
            "cellbus-runtime",
            "cellbus-cells",
            "cellbus-kits",
            "cellbus-launch",
            "cellbus-slurm",
            "cellbus-bench",
            "cellbus-otel",
        ],
    ),
];

/// Crates that must not reach the core by any way: no runtime, no transport, no actor, no socket.
const NOT_IN_PROTO: [&str; 11] = [
    "actix",
    "actix-rt",
    "async-io",
    "getrandom",
    "mio",
    "quinn",
    "quinn-proto",
    "rustls",
    "rustix",
    "socket2",
    "tokio",
];

/// Crates that must not reach the bus of applications by any way.
const NOT_IN_CHANNELS: [&str; 6] =
    ["actix", "actix-rt", "quinn", "quinn-proto", "quinn-udp", "rustls"];

/// Crates that, among the crates of the product, only the runtime names.
const ONLY_IN_RUNTIME: [&str; 9] = [
    "actix",
    "aws-lc-rs",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "rcgen",
    "rustls",
    "rustls-webpki",
    "x509-parser",
];

/// Who names one of them nevertheless, and which: the benchmark holds cells against plain quinn.
const EXCEPT: [(&str, &str); 1] = [("cellbus-bench", "quinn")];

/// A member of the workspace.
struct Member {
    name: String,
    manifest: PathBuf,
    /// What it names itself; `true` where only tests of it do.
    names: BTreeMap<String, bool>,
}

impl Member {
    fn is_for_tests(&self) -> bool {
        let inside = self.manifest.strip_prefix(root()).expect("a member is below the root");
        inside.starts_with("tests")
    }

    /// What the crate names outside of its tests.
    fn production_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|(_, only_tests)| !**only_tests).map(|(name, _)| name.as_str())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels down").to_owned()
}

fn cargo(args: &[&str]) -> String {
    let run = Command::new(env!("CARGO")).current_dir(root()).args(args).output();
    let run = run.expect("cargo runs the test, so it is there");
    assert!(run.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("cargo prints text")
}

fn members() -> Vec<Member> {
    let text = cargo(&["metadata", "--offline", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let member = |package: &Value| {
        let mut names = BTreeMap::new();
        for named in package["dependencies"].as_array().expect("a list of dependencies") {
            let name = named["name"].as_str().expect("a name").to_owned();
            let only_tests = named["kind"] == "dev";
            names.entry(name).and_modify(|all| *all &= only_tests).or_insert(only_tests);
        }
        Member {
            name: package["name"].as_str().expect("a name").to_owned(),
            manifest: package["manifest_path"].as_str().expect("a path").into(),
            names,
        }
    };
    packages.iter().map(member).collect()
}

/// Everything that `package` reaches outside of its tests, on this platform.
fn reached_by(package: &str) -> BTreeSet<String> {
    let edges = "--edges=normal,build";
    let text =
        cargo(&["tree", "--offline", "--locked", edges, "--prefix=none", "--package", package]);
    let names = text.lines().skip(1).filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn crates_import_downwards_only() {
    let members = members();
    for (name, allowed) in ARROWS {
        let member = members.iter().find(|member| member.name == name).expect("a member");
        for named in member.names.keys() {
            let is_ours = members.iter().any(|other| other.name == *named);
            assert!(!is_ours || allowed.contains(&&**named), "{name} must not import {named}");
        }
    }
}

#[test]
fn every_member_is_a_crate_of_the_product_or_of_its_tests() {
    for member in members() {
        let product = ARROWS.iter().any(|(name, _)| *name == member.name);
        assert!(product != member.is_for_tests(), "{} has no place in the arrows", member.name);
    }
}

#[test]
fn the_core_reaches_no_runtime_and_no_transport() {
    let reached = reached_by("cellbus-proto");
    assert!(reached.contains("bytes"), "the list of what is reached is empty or not understood");
    for banned in NOT_IN_PROTO {
        assert!(!reached.contains(banned), "cellbus-proto reaches {banned}");
    }
}

#[test]
fn the_bus_of_applications_reaches_no_actor_and_no_transport() {
    let reached = reached_by("cellbus-channels");
    assert!(reached.contains("cellbus-proto"));
    for banned in NOT_IN_CHANNELS {
        assert!(!reached.contains(banned), "cellbus-channels reaches {banned}");
    }
}

#[test]
fn only_the_runtime_names_the_transport_and_the_actors() {
    for member in members().iter().filter(|member| !member.is_for_tests()) {
        for named in member.production_names() {
            let allowed = member.name == "cellbus-runtime"
                || EXCEPT.contains(&(member.name.as_str(), named))
                || !ONLY_IN_RUNTIME.contains(&named);
            assert!(allowed, "{} must not name {named}", member.name);
        }
    }
}

#[test]
fn every_crate_has_the_lints_of_the_workspace_and_a_name_of_the_family() {
    for member in members() {
        let manifest = fs::read_to_string(&member.manifest).expect("the manifest of a member");
        let has_lints = manifest.contains("[lints]\nworkspace = true\n");
        assert!(has_lints, "{} does not take the lints of the workspace", member.name);
        let is_family = member.name == "cellbus" || member.name.starts_with("cellbus-");
        assert!(is_family, "{} is not called cellbus-*", member.name);
    }
}
