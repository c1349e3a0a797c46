//! `kit`: what is done with a kit before its cell runs. Also how every command takes a kit for use.

use std::path::{Path, PathBuf};

use cellbus_cells::config::{self, ConfigReport, Loaded};
use cellbus_kits::{
    archive::{self, ArchiveError},
    check::{Finding, Outcome as Found},
    compare::{Difference, compare},
    kit::{self, Refused},
    layout::{STARTUP, TOPOLOGY},
    manifest::Manifest,
    seal::{OpenWith, SealError, SealWith, WORK_FACTOR},
    update::update,
};
use cellbus_proto::causes::with_sources;
use cellbus_runtime::secret_file::read_secret_file;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    codes::CliCode,
    output::{Failure, Outcome, Success},
    passphrase::PassphraseFrom,
    table::{self, Table},
};

/// Bytes in the largest identity file.
const IDENTITY_MAX_BYTES: usize = 64 * 1024;

/// Verbs of `kit`.
#[derive(Debug, Subcommand)]
pub enum Kit {
    /// Packs a kit into one sealed file
    Seal {
        /// The kit
        dir: PathBuf,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Seal to this public key of age instead of a passphrase; may be repeated
        #[arg(long, value_name = "AGE1", conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
        recipient: Vec<String>,
        /// The passphrase.
        #[command(flatten)]
        passphrase: PassphraseFrom,
    },
    /// Opens a sealed kit into a new directory
    Open {
        /// The sealed file
        file: PathBuf,
        /// The directory to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Open with the secret key of age in this file instead of a passphrase
        #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
        identity: Option<PathBuf>,
        /// The passphrase.
        #[command(flatten)]
        passphrase: PassphraseFrom,
    },
    /// Says whether a kit is as it was signed
    Verify {
        /// The kit
        dir: PathBuf,
        /// Fingerprint that the authority must have
        #[arg(long, value_name = "SHA256")]
        root: Option<String>,
    },
    /// Shows what a kit is, without any secret
    Inspect {
        /// The kit
        dir: PathBuf,
    },
    /// Shows what differs between two kits, without any secret
    Diff {
        /// One kit
        first: PathBuf,
        /// Another one
        second: PathBuf,
    },
    /// Brings a kit up to date; its key stays
    Update {
        /// The kit
        dir: PathBuf,
        /// The update, as `provision` has written it
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
    },
}

/// What `kit verify` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// The kit.
    pub kit: String,
    /// Whether it can be used.
    pub ok: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// `kit`.
pub fn run(args: Kit) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    match args {
        Kit::Seal { dir, out, recipient, passphrase } => seal(&dir, &out, recipient, &passphrase),
        Kit::Open { file, out, identity, passphrase } => {
            unseal(&file, &out, identity.as_deref(), &passphrase)
        }
        Kit::Verify { dir, root } => verify(&dir, root.as_deref()),
        Kit::Inspect { dir } => inspect(&dir),
        Kit::Diff { first, second } => diff(&first, &second),
        Kit::Update { dir, from } => updated(&dir, &from),
    }
}

/// Takes the kit in `dir` for use.
///
/// # Errors
/// A failure with everything that is wrong with it.
pub fn open(dir: &Path, root: Option<&str>) -> Result<kit::Kit, Box<Failure>> {
    kit::Kit::open(dir, root, table::now_unix()).map_err(|refused| refusal(dir, &refused))
}

/// As [`open`], for a cell whose state is known: it may have renewed the certificate of the kit.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    dir: &Path,
    root: Option<&str>,
    state: kit::StateOf<'_>,
) -> Result<kit::Kit, Box<Failure>> {
    kit::Kit::open_with(dir, root, state, table::now_unix())
        .map_err(|refused| refusal(dir, &refused))
}

/// The file of the topology that was signed.
pub fn topology_file(dir: &Path) -> PathBuf {
    dir.join(STARTUP).join(TOPOLOGY)
}

/// Reads the topology of a kit again, while its cell runs.
///
/// # Errors
/// What is wrong with the kit.
pub fn load_again(
    dir: &Path,
    root: Option<&str>,
    state: kit::StateOf<'_>,
) -> Result<Loaded, ConfigReport> {
    match kit::Kit::open_with(dir, root, state, table::now_unix()) {
        Ok(kit) => Ok(Loaded { topology: kit.topology, warnings: None }),
        Err(refused) => {
            let name = topology_file(dir).display().to_string();
            let help = "`cellbus doctor --kit DIR` says what is wrong and what helps";
            Err(config::unusable(&name, refused.to_string(), help))
        }
    }
}

fn refusal(dir: &Path, refused: &Refused) -> Box<Failure> {
    let text = format!("the kit {} is not used: {refused}", dir.display());
    let failure = Failure::new(CliCode::Kit, text).data(&json!({ "findings": refused.0 }));
    match refused.0.first().and_then(|finding| finding.fix.clone()) {
        Some(fix) => failure.hint(fix),
        None => failure,
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Box<Failure> {
    Failure::new(CliCode::Kit, with_sources(error))
}

fn seal(dir: &Path, out: &Path, recipients: Vec<String>, from: &PassphraseFrom) -> Outcome {
    let with = if recipients.is_empty() {
        refuse_together(out, from)?;
        let passphrase = from.read("New passphrase for the sealed kit", true);
        let passphrase = passphrase.map_err(|error| failed(&error))?;
        SealWith::Passphrase { passphrase, work_factor: WORK_FACTOR }
    } else {
        SealWith::Recipients(recipients)
    };
    archive::seal_kit(dir, out, &with, table::now_unix()).map_err(|error| {
        if let ArchiveError::Kit(refused) = &error { refusal(dir, refused) } else { failed(&error) }
    })?;
    let data = json!({ "kit": dir.display().to_string(), "sealed": out.display().to_string() });
    let human =
        format!("sealed: {}\nHand the file and its passphrase over by two ways.", out.display());
    Ok(Success::new(&data, human))
}

/// A passphrase that lies beside what it opens protects nothing.
fn refuse_together(out: &Path, from: &PassphraseFrom) -> Result<(), Box<Failure>> {
    let above = |path: &Path| {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        above.unwrap_or_else(|| Path::new(".")).canonicalize().ok()
    };
    let beside = from.passphrase_file.as_deref().and_then(above);
    if beside.is_some() && beside == above(out) {
        let text = "the sealed kit would lie in the directory of its passphrase";
        return Err(
            Failure::new(CliCode::Kit, text).hint("choose another directory for one of them")
        );
    }
    Ok(())
}

fn unseal(file: &Path, out: &Path, identity: Option<&Path>, from: &PassphraseFrom) -> Outcome {
    let with = match identity {
        Some(path) => {
            let bytes =
                read_secret_file(path, IDENTITY_MAX_BYTES).map_err(|error| failed(&error))?;
            let text = std::str::from_utf8(&bytes).map_err(|_| failed(&SealError::NoIdentity))?;
            OpenWith::Identity(Zeroizing::new(text.to_owned()))
        }
        None => {
            let passphrase = from.read("Passphrase of the sealed kit", false);
            OpenWith::Passphrase(passphrase.map_err(|error| failed(&error))?)
        }
    };
    let to = std::path::absolute(out)
        .map_err(|error| Failure::new(CliCode::Input, error.to_string()))?;
    archive::open_kit(file, &to, &with)
        .map_err(|error| failed(&error).hint("nothing was written"))?;
    let data = json!({ "kit": out.display().to_string() });
    let human = format!(
        "kit: {0}\nCompare the authority with `cellbus kit verify {0} --root FINGERPRINT`.",
        out.display()
    );
    Ok(Success::new(&data, human))
}

fn verify(dir: &Path, root: Option<&str>) -> Outcome {
    let examined = kit::examine(dir, root, table::now_unix());
    let ok = examined.kit.is_some();
    let verified = Verified { kit: dir.display().to_string(), ok, findings: examined.findings };
    let human = findings_table(&verified.findings);
    if ok {
        return Ok(Success::new(&verified, human));
    }
    let bad = verified.findings.iter().find(|finding| finding.outcome == Found::Fail);
    let text = bad.map_or_else(|| "the kit cannot be used".to_owned(), Finding::to_string);
    let failure = Failure::new(CliCode::CheckFailed, text).data(&verified);
    let hint = bad.and_then(|finding| finding.fix.clone());
    Err(Box::new(Failure { human: Some(human), hint, ..*failure }))
}

/// Findings for people.
pub fn findings_table(findings: &[Finding]) -> String {
    let mut rows = Table::new(["CHECK", "OUTCOME", "FOUND"]);
    for finding in findings {
        rows.row([&finding.code, &finding.outcome.to_string(), &finding.found]);
        if let Some(fix) = &finding.fix {
            rows.row(["", "", &format!("-> {fix}")]);
        }
    }
    rows.render()
}

fn inspect(dir: &Path) -> Outcome {
    let kit = open(dir, None)?;
    let manifest: &Manifest = &kit.manifest;
    let mut text = format!(
        "{} {} of {} ({})\nserial {}, signed {}\nauthority {}\ncertificate {}, ends {}\n\n",
        manifest.kind,
        manifest.cell,
        manifest.project,
        manifest.org,
        manifest.serial,
        table::ago(manifest.issued_unix),
        manifest.root_sha256,
        manifest.certificate_sha256,
        table::ahead(kit.credentials.certificate().dates().not_after),
    );
    let mut rows = Table::new(["FILE", "MODE", "BYTES", "SHA-256"]);
    for file in &manifest.files {
        rows.row([&file.path, &file.mode, &file.size.to_string(), &file.sha256]);
    }
    text.push_str(&rows.render());
    let data = json!({
        "manifest": manifest,
        "not_after_unix": kit.credentials.certificate().dates().not_after,
        "warnings": kit.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    Ok(Success::new(&data, text))
}

fn diff(first: &Path, second: &Path) -> Outcome {
    let found: Vec<Difference> = compare(first, second).map_err(|error| failed(&error))?;
    let mut text = String::new();
    for Difference { path, how, lines } in &found {
        text.push_str(&format!("{path}: {how}\n"));
        for line in lines {
            text.push_str(&format!("  {}\n", crate::output::printable(line)));
        }
    }
    if found.is_empty() {
        text.push_str("no difference\n");
    }
    Ok(Success::new(&found, text))
}

fn updated(dir: &Path, from: &Path) -> Outcome {
    let done = update(dir, from, table::now_unix()).map_err(|error| failed(&error))?;
    let data = json!({ "kit": dir.display().to_string(), "from": done.from, "to": done.to });
    let human = format!(
        "serial {} -> {}; rules are taken by `cellbus reload`, everything else by the next start",
        done.from, done.to
    );
    Ok(Success::new(&data, human))
}
