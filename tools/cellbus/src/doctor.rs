//! `doctor`: examines a kit and this machine before a cell is started, and changes nothing.

use std::path::PathBuf;

use cellbus_kits::{
    check::{Finding, Outcome as Found},
    doctor::{self, Examine, Subject, read_bundle, write_bundle},
};
use cellbus_proto::{causes::with_sources, name::Segment, topology::Topology};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    codes::CliCode,
    files, kit,
    output::{Failure, Outcome, Success},
    table, up,
};

/// Directory below a cell's state in which its own credentials lie.
const CREDENTIALS: &str = "credentials";

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["kit", "topology", "from"]))]
pub struct Doctor {
    /// Examine this kit
    #[arg(long, value_name = "DIR")]
    pub kit: Option<PathBuf>,
    /// Fingerprint that the authority of the kit must have
    #[arg(long, value_name = "SHA256", requires = "kit")]
    pub root: Option<String>,
    /// Examine a cell of this topology file
    #[arg(long, value_name = "FILE", requires = "only")]
    pub topology: Option<PathBuf>,
    /// The cell
    #[arg(long, value_name = "CELL", requires = "topology")]
    pub only: Option<Segment>,
    /// State directory of the project; as for `up`
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Do not dial the parent
    #[arg(long)]
    pub offline: bool,
    /// Also write what was found to this file, for somebody else; it holds no secret
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub bundle: Option<PathBuf>,
    /// Show what such a file says, instead of examining this machine
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// What `doctor` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnosis {
    /// What was examined.
    pub subject: String,
    /// Whether a cell could be started and reach its parent.
    pub ok: bool,
    /// One finding for each check.
    pub findings: Vec<Finding>,
}

/// `doctor`.
pub fn run(args: Doctor) -> Outcome {
    if let Some(from) = &args.from {
        let bundle = read_bundle(from)
            .map_err(|error| Failure::new(CliCode::Input, with_sources(&error)))?;
        let about =
            bundle.about().map(|(kind, cell, project)| format!("{kind} {cell} of {project}"));
        let subject = format!("{} (seen {})", about.unwrap_or_default(), table::ago(bundle.unix));
        return told(subject, bundle.findings);
    }
    let now_unix = table::now_unix();
    let given = args.state.clone();
    let state = move |topology: &Topology, cell: &str| -> Option<PathBuf> {
        up::state_of(given.clone(), topology, cell)
    };
    let (subject, findings) = match (&args.kit, &args.topology, &args.only) {
        (Some(dir), _, _) => {
            let dir = std::path::absolute(dir)
                .map_err(|error| Failure::new(CliCode::Input, error.to_string()))?;
            let subject = Subject::Kit { dir: &dir, root: args.root.as_deref() };
            let how = Examine { subject, state: &state, network: !args.offline, now_unix };
            (dir.display().to_string(), crate::block_on(doctor::examine(&how)))
        }
        (None, Some(file), Some(cell)) => {
            let topology = files::load(file)?.topology;
            let credentials = state(&topology, cell.as_str()).unwrap_or_default().join(CREDENTIALS);
            let subject = Subject::Files {
                topology: &topology,
                cell: cell.as_str(),
                credentials: &credentials,
            };
            let how = Examine { subject, state: &state, network: !args.offline, now_unix };
            let name = format!("{} {cell}", file.display());
            (name, crate::block_on(doctor::examine(&how)))
        }
        (None, _, _) => {
            let text = "doctor needs --kit DIR, or --topology FILE --only CELL, or --from FILE";
            return Err(Failure::new(CliCode::Usage, text));
        }
    };
    if let Some(to) = &args.bundle {
        write_bundle(to, args.kit.as_deref(), &findings, now_unix)
            .map_err(|error| Failure::new(CliCode::Input, with_sources(&error)))?;
    }
    told(subject, findings)
}

fn told(subject: String, findings: Vec<Finding>) -> Outcome {
    let ok = doctor::is_good(&findings);
    let count = |outcome: Found| findings.iter().filter(|one| one.outcome == outcome).count();
    let (bad, odd) = (count(Found::Fail), count(Found::Warn));
    let human = format!(
        "{subject}\n\n{}\n\n{bad} failed, {odd} to look at",
        kit::findings_table(&findings)
    );
    let first = findings.iter().find(|finding| finding.outcome == Found::Fail).cloned();
    let diagnosis = Diagnosis { subject, ok, findings };
    let Some(first) = first else { return Ok(Success::new(&diagnosis, human)) };
    let failure = Failure::new(CliCode::CheckFailed, first.to_string()).data(&diagnosis);
    let hint =
        format!("`cellbus errors explain {}`; {}", first.code, first.fix.unwrap_or_default());
    Err(Box::new(Failure { human: Some(human), hint: Some(hint), ..*failure }))
}
