//! `provision`: from a project file to kits.

use std::path::{Path, PathBuf};

use cellbus_cells::config::{self, ConfigReport};
use cellbus_kits::{
    nvflare::{self, TakenOver},
    provision::{Action, Order, ProvisionError, Report, Wanted, provision},
    seal::WORK_FACTOR,
};
use cellbus_proto::{
    causes::with_sources,
    name::Segment,
    topology::{
        Problem,
        project::{self, ParsedProject, Project},
    },
};
use clap::{Args, Subcommand};

use crate::{
    codes::CliCode,
    files,
    output::{Failure, Outcome, Success},
    passphrase::PassphraseFrom,
    table::{self, Table},
};

/// Arguments of `provision`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Provision {
    /// What else than everything.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// The project file, or a `project.yml` of NVIDIA FLARE
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// Directory of the project; made the first time
    #[arg(long, value_name = "DIR", required = true)]
    pub out: Option<PathBuf>,
    /// Treat warnings as errors
    #[arg(long)]
    pub deny_warnings: bool,
    /// The passphrase of the authority's key.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// Verbs of `provision`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes the kit of one participant, and touches no other
    Add {
        /// Its name in the project file
        name: Segment,
        /// The project.
        #[command(flatten)]
        all: All,
    },
}

/// Which project, and where its kits go.
#[derive(Args, Debug)]
pub struct All {
    /// The project file, or a `project.yml` of NVIDIA FLARE
    pub file: PathBuf,
    /// Directory of the project; made the first time
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Treat warnings as errors
    #[arg(long)]
    pub deny_warnings: bool,
    /// The passphrase of the authority's key.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `provision`.
pub fn run(args: Provision) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    let Provision { verb, file, out, deny_warnings, passphrase } = args;
    let (all, only) = match (verb, file.zip(out)) {
        (Some(Verb::Add { name, all }), _) => (all, Some(name)),
        (None, given) => {
            let (file, out) = given.expect("the command line demands both without a verb");
            (All { file, out, deny_warnings, passphrase }, None)
        }
    };
    let project = load(&all.file, all.deny_warnings)?;
    let now_unix = table::now_unix();
    let out = std::path::absolute(&all.out)
        .map_err(|error| Failure::new(CliCode::Input, error.to_string()))?;
    let order = Order {
        project: &project,
        out: &out,
        only: only.as_ref(),
        key: None,
        now_unix,
        work_factor: WORK_FACTOR,
    };
    let mut passphrase = |wanted| match wanted {
        Wanted::New => all.passphrase.read("New passphrase for the authority's key", true),
        Wanted::Existing => all.passphrase.read("Passphrase of the authority's key", false),
    };
    let report = provision(&order, &mut passphrase).map_err(|error| failed(&error))?;
    let human = render(&report, &all.out);
    Ok(Success::new(&report, human))
}

/// Reads a project file of either form.
pub fn load(file: &Path, deny_warnings: bool) -> Result<Project, Box<Failure>> {
    let name = file.display().to_string();
    let text = config::read_text(file).map_err(|report| files::refused(&report))?;
    let read = if nvflare::is_meant(&name) {
        nvflare::read(&text).map(|TakenOver { parsed, .. }| parsed)
    } else {
        project::parse(&text)
    };
    let report = |problems: Vec<Problem>| ConfigReport::new(&name, &text, problems);
    match read {
        Ok(ParsedProject { project, warnings }) => {
            let warnings = (!warnings.is_empty()).then(|| report(warnings));
            files::show_warnings(warnings.as_ref(), deny_warnings)?;
            Ok(project)
        }
        Err(problems) => Err(files::refused(&report(problems))),
    }
}

fn failed(error: &ProvisionError) -> Box<Failure> {
    let failure = Failure::new(CliCode::Kit, with_sources(error));
    let is_nobody = matches!(error, ProvisionError::Nobody(_));
    failure.hint(if is_nobody { "add it to the project file first" } else { "nothing was written" })
}

fn render(report: &Report, out: &Path) -> String {
    let mut text = String::new();
    let mut rows = Table::new(["PARTICIPANT", "KIND", "KIT", "ENDS", "PATH", "WHY"]);
    for row in &report.participants {
        let action = match row.action {
            Action::New => "new",
            Action::Renewed => "renewed",
            Action::Replaced => "replaced",
            Action::Updated => "update",
            Action::Kept => "kept",
            Action::Removed => "removed",
        };
        let ends = table::ahead(row.not_after);
        let path = row.path.as_deref().unwrap_or("-");
        rows.row([row.name.as_str(), row.kind.as_str(), action, &ends, path, &row.detail]);
    }
    text.push_str(&rows.render());
    text.push_str(&format!("\n\nauthority of {}: {}\n", report.project, report.root_sha256));
    if report.new_authority {
        text.push_str(
            "Tell the participants this fingerprint by another way than the kits; `cellbus kit verify --root` compares it.\n",
        );
    }
    match &report.written {
        Some(kits) => text.push_str(&format!("written: {}\n", out.join(kits).display())),
        None => text.push_str("nothing to do\n"),
    }
    for one in &report.revoked {
        text.push_str(&format!("taken back: {} ({})\n", one.name, one.reason));
    }
    text
}
