//! The commands about kits: what they print.

use std::{fs, os::unix::fs::PermissionsExt};

use cellbus_cells::control::JoinRow;
use cellbus_kits::{
    ca::Generation,
    check::Finding,
    compare::Difference,
    join::{InvitationRow, State},
    manifest::Manifest,
    provision::{Action, Report},
};
use serde::{Deserialize, Serialize};

use super::{Place, exactly};

const PROJECT: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:8002"
[[cell]]
name = "site-1"
kind = "client"
parent = "server"
[[admin]]
name = "alice"
role = "project_admin"
"#;

/// What `kit verify` and `doctor` say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Examined {
    #[serde(skip_serializing_if = "Option::is_none")]
    kit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    ok: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inspected {
    manifest: Manifest,
    not_after_unix: u64,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    subject: Vec<String>,
    issuer: Vec<String>,
    serial: String,
    not_before_unix: u64,
    not_after_unix: u64,
    key: String,
    uris: Vec<String>,
    hosts: Vec<String>,
    is_authority: bool,
    path_length: Option<u32>,
    key_usage: Vec<String>,
    extended_key_usage: Vec<String>,
    permitted_projects: Vec<String>,
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    file: String,
    needs_renewal: bool,
    not_after_unix: u64,
    used_percent: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invited {
    name: String,
    expires_unix: u64,
    line: String,
    door: Option<String>,
}

/// One row of `requests ls` where a join door is asked, too.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    #[serde(flatten)]
    invitation: InvitationRow,
    at_door: Option<JoinRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    kit: String,
    request: String,
    project: String,
    name: String,
    root_sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paths {
    kit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

/// Provisions, joins, seals, examines.
pub fn make_use_and_examine_kits(place: &Place) {
    let dir = place.dir.path();
    let write = |name: &str, text: &str| {
        fs::write(dir.join(name), text).expect("a temporary file");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).expect("it is ours");
    };
    write("project.toml", PROJECT);
    fs::create_dir(dir.join("secret")).expect("a temporary directory");
    write("secret/p", "correct horse battery\n");
    let secret = "--passphrase-file secret/p";
    let report: Report = place.data(&format!("provision project.toml --out fed {secret}"));
    assert!(report.new_authority && report.participants.len() == 3);
    let authorities: Vec<Generation> = place.data("ca ls --out fed");
    assert_eq!((authorities.len(), authorities[0].count), (1, 3));
    let early = place.failure("ca activate project.toml --out fed");
    assert_eq!((early.exit_code, early.error_code.as_str()), (4, "KIT"));
    let nobody = place.failure("ca cells");
    assert_eq!(nobody.exit_code, 4, "what answers is no server");
    let again: Report = place.data(&format!("provision project.toml --out fed {secret}"));
    assert_eq!(again.written, None);
    let failed = place.failure(&format!("provision bad.toml --out fed {secret}"));
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CONFIG"));

    write(
        "more.toml",
        &format!("{PROJECT}[[cell]]\nname = \"site-2\"\nkind = \"client\"\nparent = \"server\"\n"),
    );
    let invited: Invited = place.data("invite site-2 more.toml --out fed");
    write("line", &invited.line);
    let begun: Begun = place.data("join --kit k2 --invitation line --request site-2.request");
    assert_eq!((begun.name.as_str(), begun.root_sha256), ("site-2", report.root_sha256));
    let rows: Vec<InvitationRow> = place.data("requests ls --out fed");
    assert_eq!(rows[0].state, State::Open);
    let approve = format!(
        "requests approve site-2.request more.toml --out fed --reply site-2.reply {secret}"
    );
    let approved: Report = place.data(&approve);
    assert!(approved.participants.iter().any(|row| row.action == Action::Updated));
    let joined: Paths = place.data("join --kit k2 --reply site-2.reply");
    assert_eq!(joined.cell.as_deref(), Some("site-2"));
    let failed = place.failure(&approve);
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "KIT"));
    let failed = place.failure("requests reject site-2 --out fed");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "KIT"));

    // At a join door.
    let rows: Vec<Listed> = place.data("requests ls --out fed --at server");
    assert_eq!(rows[0].invitation.state, State::Used);
    assert_eq!(rows[0].at_door.as_ref().expect("it waits").stage, "waiting");
    let failed = place.failure("invite site-2 more.toml --out fed --at server");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CELL_AMBIGUOUS"));
    let failed =
        place.failure(&format!("requests approve site-2 more.toml --out fed --at server {secret}"));
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (1, "JOIN_REFUSED"));
    let failed = place.failure("join --kit k9 --invitation line");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "USAGE"), "it names no door");

    let verified: Examined = place.data("kit verify k2");
    assert!(verified.ok);
    let inspected: Inspected = place.data("kit inspect k2");
    assert_eq!(inspected.manifest.name.as_str(), "site-2");
    let updated: Paths =
        place.data("kit update fed/kits-0001/server --from fed/kits-0002/updates/server");
    assert!(updated.to > updated.from);
    let sealed: Paths = place.data(&format!("kit seal k2 --out site-2.kit {secret}"));
    assert_eq!(sealed.sealed.as_deref(), Some("site-2.kit"));
    place.data::<Paths>(&format!("kit open site-2.kit --out k3 {secret}"));
    assert!(place.data::<Vec<Difference>>("kit diff k2 k3").is_empty());

    let certificates: Vec<Certificate> = place.data("cert inspect k2/startup/cell.crt");
    assert_eq!(certificates[0].uris, ["cell://study/client/site-2?org=study"]);
    assert!(
        place
            .data::<Renewal>("cert needs-renewal k2/startup/cell.crt --expires-in 0%")
            .needs_renewal
    );
    let failed = place.failure("cert needs-renewal k2/startup/cell.crt");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (1, "CHECK_FAILED"));
    exactly::<Renewal>("cert needs-renewal", failed.data.expect("the dates"));

    let examined: Examined = place.data("doctor --kit k2 --offline");
    assert!(examined.ok && examined.subject.is_some());
    fs::write(dir.join("k3/startup/roster.json"), "{}").expect("it is ours");
    let failed = place.failure("doctor --kit k3 --offline");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (1, "CHECK_FAILED"));
    exactly::<Examined>("doctor", failed.data.expect("the findings"));
    let failed = place.failure("up --kit k3");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "KIT"));
}
