//! `invite`, `join`, `requests`: joining a project with a key that never leaves the participant's machine.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_kits::{
    join::{self, Invitation, JoinError, LETTER_MAX_BYTES, policy::Policy},
    kit::Kit,
    provision::Wanted,
};
use cellbus_proto::{causes::with_sources, name::Segment};
use cellbus_runtime::secret_file::{read_bounded_file, read_secret_file, write_secret_file};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    args::Target,
    codes::CliCode,
    output::{Failure, Format, Outcome, Success},
    passphrase::PassphraseFrom,
    provision::load,
    table::{self, Table},
};

mod apply;
mod online;

use self::apply::Apply;

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
    /// The server at whose join door the request can be left.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `join`.
#[derive(Args, Debug)]
pub struct Join {
    /// Directory of the kit, which is made; alone, it goes on with what was begun there
    #[arg(long, value_name = "DIR")]
    pub kit: PathBuf,
    /// The file with the line of the invitation, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "reply")]
    pub invitation: Option<PathBuf>,
    /// How long to wait until somebody approves; it can be taken up again
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = patience)]
    #[arg(conflicts_with_all = ["request", "reply"])]
    pub wait: Duration,
    /// By files: the file to write, for whoever invited
    #[arg(long, value_name = "FILE", requires = "invitation")]
    pub request: Option<PathBuf>,
    /// By files: the file that came back
    #[arg(long, value_name = "FILE")]
    pub reply: Option<PathBuf>,
}

/// A time to wait, of at most a week.
fn patience(text: &str) -> Result<Duration, String> {
    const MAX_S: u64 = 7 * 24 * 3600;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let seconds = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    match seconds {
        Some(seconds) if seconds <= MAX_S => Ok(Duration::from_secs(seconds)),
        Some(_) => Err("at most 7d".to_owned()),
        None => Err("a number and s, m, h or d, as in `15m`".to_owned()),
    }
}

/// Whether a running server is named, whose door is meant.
fn is_at_a_door(target: &Target) -> bool {
    let Target { at, state, topology, project, socket } = target;
    at.is_some() || state.is_some() || topology.is_some() || project.is_some() || socket.is_some()
}

/// Verbs of `requests`.
#[derive(Debug, Subcommand)]
pub enum Requests {
    /// Lists who is invited, and what became of it
    Ls {
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The server whose join door is asked, too.
        #[command(flatten)]
        target: Target,
    },
    /// Certifies the key of a request, as what the project file says
    Approve {
        /// The file of the request; with --at or --state, who has left one at the join door
        request: PathBuf,
        /// The project file
        file: PathBuf,
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The file to write, for whoever joins; without it, the reply is left at the join door
        #[arg(long, value_name = "FILE", required_unless_present_any = ["at", "state", "topology", "project", "socket"])]
        reply: Option<PathBuf>,
        /// The passphrase of the authority's key.
        #[command(flatten)]
        passphrase: PassphraseFrom,
        /// The server at whose join door the request waits.
        #[command(flatten)]
        target: Target,
    },
    /// Approves those who wait at a join door and are named by a policy; all others go on waiting for a person
    Apply {
        /// The project file
        file: PathBuf,
        /// The policy: `[[approve]]` tables with name, kind and org
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long to go on looking at the door; the policy is read once
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = patience)]
        wait: Duration,
        /// The passphrase of the authority's key.
        #[command(flatten)]
        passphrase: PassphraseFrom,
        /// The server at whose join door they wait.
        #[command(flatten)]
        target: Target,
    },
    /// Withdraws an invitation; requests that were made with it are worth nothing
    Reject {
        /// The participant
        name: Segment,
        /// Directory of the project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The server whose join door is told.
        #[command(flatten)]
        target: Target,
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
pub async fn invite(args: &Invite) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    let project = load(&args.file, false)?;
    let out = absolute(&args.out)?;
    let (now, life) = (table::now_unix(), args.hours * 3600);
    let door = if is_at_a_door(&args.target) {
        Some(online::door(&args.target, &project, &out).await?)
    } else {
        None
    };
    let invitation = join::invite(&project, &out, &args.name, now, life, door)
        .map_err(|error| failed(&error))?;
    if invitation.door.is_some() {
        online::let_in(&args.target, &invitation).await?;
    }
    let line = invitation.line();
    let data = json!({
        "name": args.name,
        "expires_unix": invitation.expires_unix,
        "line": line.as_str(),
        "door": invitation.door.as_ref().map(|door| &door.address),
    });
    Ok(Success::new(&data, line.to_string()))
}

/// `join`.
pub async fn join(format: Format, args: &Join) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    let dir = absolute(&args.kit)?;
    if let Some(reply) = &args.reply {
        let reply = read_bounded_file(reply, LETTER_MAX_BYTES).map_err(|error| input(&error))?;
        let kit = join::finish(&dir, &reply, table::now_unix()).map_err(|error| failed(&error))?;
        return Ok(joined(&args.kit, &kit));
    }
    let given = args.invitation.as_deref().map(line).transpose()?;
    let given = given.map(|line| Invitation::parse(&line)).transpose();
    let given = given.map_err(|error| failed(&error))?;
    let Some(to) = &args.request else {
        return online::join(format, args, &dir, given).await;
    };
    let Some(invitation) = given else {
        return Err(Failure::new(CliCode::Usage, "--request needs --invitation"));
    };
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

/// What is said of a kit that is whole.
fn joined(given: &Path, kit: &Kit) -> Success {
    let data = json!({ "kit": given.display().to_string(), "cell": kit.manifest.cell });
    let shown = given.display();
    let human =
        format!("kit: {shown}\n`cellbus doctor --kit {shown}`, then `cellbus up --kit {shown}`");
    Success::new(&data, human)
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
pub async fn requests(format: Format, args: Requests) -> Outcome {
    cellbus_cells::up::keep_to_owner();
    match args {
        Requests::Ls { out, target } if is_at_a_door(&target) => {
            online::list(&target, &absolute(&out)?).await
        }
        Requests::Ls { out, .. } => {
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
        Requests::Approve { request, file, out, reply, passphrase, target }
            if is_at_a_door(&target) =>
        {
            let project = load(&file, false)?;
            let (out, reply) = (absolute(&out)?, reply.as_deref());
            online::approve(&target, &request, &project, &out, reply, &passphrase).await
        }
        Requests::Approve { request, file, out, reply, passphrase, .. } => {
            let Some(reply) = reply else {
                return Err(Failure::new(CliCode::Usage, "approving a file needs --reply"));
            };
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
        Requests::Apply { file, policy, out, wait, passphrase, target } => {
            let project = load(&file, false)?;
            let rules = Policy::read(&policy).map_err(|error| {
                let hint = "nobody was approved; docs/PROVISIONING.md shows a policy";
                input(&error).hint(hint)
            })?;
            let apply = Apply {
                project: &project,
                out: &absolute(&out)?,
                policy: (&policy, &rules),
                wait,
                passphrase: &passphrase,
                target: &target,
            };
            apply.run(format).await
        }
        Requests::Reject { name, out, target } => {
            join::reject(&absolute(&out)?, &name).map_err(|error| failed(&error))?;
            if is_at_a_door(&target) {
                online::turn_away(&target, &name).await?;
            }
            Ok(Success::new(&json!({ "name": name }), format!("{name} is no longer invited")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_is_waited_has_a_unit_and_a_ceiling() {
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
        assert_eq!(patience("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(patience("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        for bad in ["", "5", "m", "-1s", "1.5h", "8d", "99999999999999999999s", "213503982334602d"]
        {
            assert!(patience(bad).is_err(), "{bad}");
        }
    }
}
