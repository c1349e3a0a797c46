//! `ca`: from one authority of a project to the next, while its cells run.

use std::path::{Path, PathBuf};

use cellbus_cells::control::Request;
use cellbus_kits::{
    ca::{CaError, Generation, SeenCell, Step, change, generations},
    provision::{Order, Report, Wanted},
    seal::WORK_FACTOR,
};
use cellbus_proto::{causes::with_sources, name::Fqcn};
use cellbus_runtime::secret_file::read_bounded_file;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    args::Target,
    codes::CliCode,
    output::{Failure, Outcome, Success},
    passphrase::PassphraseFrom,
    provision::load,
    table::{self, Table},
    target::ask,
};

/// Bytes in the largest file of cells that were seen.
const SEEN_MAX_BYTES: usize = 16 << 20;

/// Verbs of `ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Lists the authorities of a project, and how many certificates each has issued
    Ls {
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Asks the running server which authority the certificate of each cell is of
    Cells {
        /// The running server.
        #[command(flatten)]
        target: Target,
    },
    /// Makes the next authority; cells that are given the list believe both
    Prepare(Common),
    /// Issues by the next authority from now on
    Activate(Common),
    /// Makes updates with certificates of the next authority for all that have one of the former
    Taint(Common),
    /// Ends the former authority; refused while a cell is left on it
    Revoke {
        /// What all steps need.
        #[command(flatten)]
        common: Common,
        /// What `ca cells -o json` has printed at the server; without it the running server is asked
        #[arg(long, value_name = "FILE")]
        seen: Option<PathBuf>,
        /// The running server.
        #[command(flatten)]
        target: Target,
    },
}

/// What every step needs.
#[derive(Args, Debug)]
pub struct Common {
    /// The project file
    pub file: PathBuf,
    /// Directory of the project
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The passphrase of the authority's key; the next one lies under the same.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// What `ca cells` prints.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cells {
    /// One row for each authority of which a certificate was seen.
    pub generations: Vec<Generation>,
    /// Every registered cell, and the server.
    pub cells: Vec<SeenCell>,
}

/// `ca`.
pub async fn run(verb: Ca) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    match verb {
        Ca::Ls { out } => {
            let rows = generations(&absolute(&out)?).map_err(|error| failed(&error))?;
            Ok(Success::new(&rows, render(&rows)))
        }
        Ca::Cells { target } => {
            let cells = seen_now(&target).await?;
            let human = render(&cells.generations);
            Ok(Success::new(&cells, human))
        }
        Ca::Prepare(common) => step(&common, Step::Prepare, &[]),
        Ca::Activate(common) => step(&common, Step::Activate, &[]),
        Ca::Taint(common) => step(&common, Step::Taint, &[]),
        Ca::Revoke { common, seen, target } => {
            let seen = match seen {
                Some(file) => seen_before(&file)?,
                None => seen_now(&target).await?.cells,
            };
            step(&common, Step::Revoke, &seen)
        }
    }
}

fn step(common: &Common, step: Step, seen: &[SeenCell]) -> Outcome {
    let project = load(&common.file, false)?;
    let out = absolute(&common.out)?;
    let order = Order {
        project: &project,
        out: &out,
        only: None,
        key: None,
        now_unix: table::now_unix(),
        work_factor: WORK_FACTOR,
    };
    let mut passphrase =
        |_: Wanted| common.passphrase.read("Passphrase of the authority's key", false);
    let report = change(&order, step, seen, &mut passphrase).map_err(|error| failed(&error))?;
    let rows = generations(&out).map_err(|error| failed(&error))?;
    let human = format!("{}\n{}", render(&rows), next(step, &report, &common.out));
    Ok(Success::new(&report, human))
}

/// What comes after a step, as commands.
fn next(step: Step, report: &Report, out: &Path) -> String {
    let kits = out.join(report.written.as_deref().unwrap_or_default());
    let push = format!("cellbus trust push {}", kits.join("trust.list").display());
    let updates = kits.join("updates");
    match step {
        Step::Prepare => format!("{push}   # at the server; then `cellbus ca activate`"),
        Step::Activate => format!("{push}   # at the server; then `cellbus ca taint`"),
        Step::Taint => format!(
            "{push}   # at the server\nhand over {}; at each: `cellbus kit update KIT --from UPDATE`, `cellbus reload`\n\
             `cellbus ca cells` counts who has gone over; then `cellbus ca revoke`",
            updates.display()
        ),
        Step::Revoke => format!("{push}   # at the server; the former authority counts no more"),
    }
}

/// The cells as the running server has them registered.
async fn seen_now(target: &Target) -> Result<Cells, Box<Failure>> {
    let report: Value = ask(target, Request::Inspect).await?;
    if report["kind"] != "server" {
        let text = "only the server knows the certificates of all cells";
        return Err(Failure::new(CliCode::Input, text).hint("ask it: `--at` with its name"));
    }
    let registered = report["registered"].as_array().map_or(&[][..], Vec::as_slice);
    let provisioned = registered.iter().filter(|row| row["kind"] != "job");
    let own = (&report["cell"], &report["root"]);
    let rows = provisioned.map(|row| (&row["name"], &row["root"])).chain([own]);
    let mut cells: Vec<SeenCell> = rows.filter_map(|(name, root)| seen(name, root)).collect();
    cells.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Cells { generations: counted(&cells), cells })
}

fn seen(name: &Value, root: &Value) -> Option<SeenCell> {
    let name: Fqcn = name.as_str()?.parse().ok()?;
    let root_sha256 = root.as_str().map(str::to_owned);
    Some(SeenCell { name: name.base().parse().ok()?, root_sha256 })
}

fn counted(cells: &[SeenCell]) -> Vec<Generation> {
    let mut rows: Vec<Generation> = Vec::new();
    for cell in cells {
        let sha256 = cell.root_sha256.clone().unwrap_or_else(|| "unknown".to_owned());
        let name = cell.name.to_string();
        match rows.iter_mut().find(|row| row.sha256 == sha256) {
            Some(row) => {
                row.count += 1;
                row.names.push(name);
            }
            None => {
                let (state, not_after) = (None, None);
                rows.push(Generation { sha256, state, not_after, count: 1, names: vec![name] });
            }
        }
    }
    rows
}

/// What `ca cells -o json` has written elsewhere.
fn seen_before(file: &Path) -> Result<Vec<SeenCell>, Box<Failure>> {
    let failed = |text: String| Failure::new(CliCode::Input, text);
    let bytes =
        read_bounded_file(file, SEEN_MAX_BYTES).map_err(|error| failed(with_sources(&error)))?;
    let wrong =
        || failed(format!("{} is not what `cellbus ca cells -o json` prints", file.display()));
    let envelope: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let cells: Cells = serde_json::from_value(envelope["data"].clone()).map_err(|_| wrong())?;
    Ok(cells.cells)
}

fn absolute(path: &Path) -> Result<PathBuf, Box<Failure>> {
    std::path::absolute(path).map_err(|error| Failure::new(CliCode::Input, error.to_string()))
}

fn failed(error: &CaError) -> Box<Failure> {
    let text = with_sources(error);
    match error {
        CaError::Left(left) => Failure::new(CliCode::CheckFailed, text)
            .hint("give each the update that `cellbus ca taint` has made; `cellbus ca cells` shows who has it")
            .data(left),
        CaError::Provision(_) | CaError::NothingYet | CaError::OutOfTurn(_) | _ => {
            Failure::new(CliCode::Kit, text).hint("nothing was written")
        }
    }
}

fn render(rows: &[Generation]) -> String {
    const SHOWN: usize = 8;
    let mut shown = Table::new(["AUTHORITY", "STATE", "ENDS", "COUNT", "WHO"]);
    for row in rows {
        let state = row.state.map_or("-", |state| state.as_str());
        let ends = row.not_after.map_or_else(|| "-".to_owned(), table::ahead);
        let mut names = row.names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" ");
        if row.names.len() > SHOWN {
            names.push_str(" ..");
        }
        let sha256 = row.sha256.get(..16).unwrap_or(&row.sha256);
        shown.row([sha256, state, &ends, &row.count.to_string(), &names]);
    }
    shown.render()
}
