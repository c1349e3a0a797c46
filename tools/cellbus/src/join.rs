//! `invite`, `join`, `requests`: joining a project with a key that never leaves the participant's machine.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use cellbus_kits::{
    join::{self, Invitation, JoinError, LETTER_MAX_BYTES},
    provision::Wanted,
};
use cellbus_proto::{causes::with_sources, name::Segment};
use cellbus_runtime::secret_file::{read_bounded_file, read_secret_file, write_secret_file};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    codes::CliCode,
    output::{Failure, Outcome, Success},
    passphrase::PassphraseFrom,
    provision::load,
    table::{self, Table},
};

/// Bytes in the longest line of an invitation.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Arguments of `invite`.
#[derive(Args, Debug)]
pub struct Invite {
    /// The participant, as the project file calls it
    pub name: Segment,
    /// The project file
    pub file: PathBuf,
    /// Directory of the project
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Hours for which the invitation is good
    #[arg(long, value_name = "N", default_value_t = 72)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=24 * 30))]
    pub hours: u64,
}

/// Arguments of `join`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("step").required(true).args(["invitation", "reply"]))]
pub struct Join {
    /// Directory of the kit; made by the first step
    #[arg(long, value_name = "DIR")]
    pub kit: PathBuf,
    /// First step: the file with the line of the invitation, or - for standard input
    #[arg(long, value_name = "FILE", requires = "request")]
    pub invitation: Option<PathBuf>,
    /// The file to write, for whoever invited
    #[arg(long, value_name = "FILE", requires = "invitation")]
    pub request: Option<PathBuf>,
    /// Second step: the file that came back
    #[arg(long, value_name = "FILE")]
    pub reply: Option<PathBuf>,
}

/// Verbs of `requests`.
#[derive(Debug, Subcommand)]
pub enum Requests {
    /// Lists who is invited, and what became of it
    Ls {
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Certifies the key of a request, as what the project file says
    Approve {
        /// The request
        request: PathBuf,
        /// The project file
        file: PathBuf,
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The file to write, for whoever joins
        #[arg(long, value_name = "FILE")]
        reply: PathBuf,
        /// The passphrase of the authority's key.
        #[command(flatten)]
        passphrase: PassphraseFrom,
    },
    /// Withdraws an invitation; requests that were made with it are worth nothing
    Reject {
        /// The participant
        name: Segment,
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

fn failed(error: &JoinError) -> Box<Failure> {
    Failure::new(CliCode::Kit, with_sources(error))
}

fn input(error: &(dyn std::error::Error + 'static)) -> Box<Failure> {
    Failure::new(CliCode::Input, with_sources(error))
}

fn absolute(path: &Path) -> Result<PathBuf, Box<Failure>> {
    std::path::absolute(path).map_err(|error| input(&error))
}

/// `invite`.
pub fn invite(args: &Invite) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    let project = load(&args.file, false)?;
    let (now, life) = (table::now_unix(), args.hours * 3600);
    let invitation = join::invite(&project, &absolute(&args.out)?, &args.name, now, life)
        .map_err(|error| failed(&error))?;
    let line = invitation.line();
    let data = json!({
        "name": args.name,
        "expires_unix": invitation.expires_unix,
        "line": line.as_str(),
    });
    Ok(Success::new(&data, line.to_string()))
}

/// `join`.
pub fn join(args: &Join) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    let dir = absolute(&args.kit)?;
    if let Some(reply) = &args.reply {
        let reply = read_bounded_file(reply, LETTER_MAX_BYTES).map_err(|error| input(&error))?;
        let kit = join::finish(&dir, &reply, table::now_unix()).map_err(|error| failed(&error))?;
        let data = json!({ "kit": args.kit.display().to_string(), "cell": kit.manifest.cell });
        let shown = args.kit.display();
        let human = format!(
            "kit: {shown}\n`cellbus doctor --kit {shown}`, then `cellbus up --kit {shown}`"
        );
        return Ok(Success::new(&data, human));
    }
    let (Some(from), Some(to)) = (&args.invitation, &args.request) else {
        return Err(Failure::new(CliCode::Usage, "join needs --invitation and --request"));
    };
    let invitation = Invitation::parse(&line(from)?).map_err(|error| failed(&error))?;
    let request =
        join::begin(&invitation, &dir, table::now_unix()).map_err(|error| failed(&error))?;
    write_secret_file(&absolute(to)?, &request).map_err(|error| input(&error))?;
    let data = json!({
        "kit": args.kit.display().to_string(),
        "request": to.display().to_string(),
        "project": invitation.project,
        "name": invitation.name,
        "root_sha256": invitation.root_sha256,
    });
    let human = format!(
        "request: {}\nCompare the authority by another way: {}\nThen `cellbus join --kit {} --reply FILE` with what comes back.",
        to.display(),
        invitation.root_sha256,
        args.kit.display()
    );
    Ok(Success::new(&data, human))
}

/// The line is a secret for as long as it is good, so it comes from no argument.
fn line(from: &Path) -> Result<Zeroizing<String>, Box<Failure>> {
    if from == Path::new("-") {
        let mut text = Zeroizing::new(String::new());
        let stdin = std::io::stdin().lock();
        stdin
            .take(LINE_MAX_BYTES as u64)
            .read_to_string(&mut text)
            .map_err(|error| input(&error))?;
        return Ok(text);
    }
    let bytes = read_secret_file(from, LINE_MAX_BYTES).map_err(|error| input(&error))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => Err(input(&error)),
    }
}

/// `requests`.
pub fn requests(args: Requests) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    match args {
        Requests::Ls { out } => {
            let rows = join::invitations(&absolute(&out)?, table::now_unix())
                .map_err(|error| failed(&error))?;
            let mut shown = Table::new(["PARTICIPANT", "KIND", "STATE", "ENDS"]);
            for row in &rows {
                let state = format!("{:?}", row.state).to_lowercase();
                let ends = table::ahead(row.expires_unix);
                shown.row([row.name.as_str(), row.kind.as_str(), &state, &ends]);
            }
            Ok(Success::new(&rows, shown.render()))
        }
        Requests::Approve { request, file, out, reply, passphrase } => {
            let project = load(&file, false)?;
            let request =
                read_bounded_file(&request, LETTER_MAX_BYTES).map_err(|error| input(&error))?;
            let mut ask = |_: Wanted| passphrase.read("Passphrase of the authority's key", false);
            let (report, letter) =
                join::approve(&project, &absolute(&out)?, &request, table::now_unix(), &mut ask)
                    .map_err(|error| failed(&error).hint("nothing was certified"))?;
            write_secret_file(&absolute(&reply)?, &letter).map_err(|error| input(&error))?;
            let human = format!("certified; send back {}", reply.display());
            Ok(Success::new(&report, human))
        }
        Requests::Reject { name, out } => {
            join::reject(&absolute(&out)?, &name).map_err(|error| failed(&error))?;
            Ok(Success::new(&json!({ "name": name }), format!("{name} is no longer invited")))
        }
    }
}
