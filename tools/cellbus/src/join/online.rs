//! `invite`, `join` and `requests` at a join door: the letters travel by the network, the authority's key stays where it is.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cellbus_cells::{
    control::{JoinAsk, JoinReply, JoinRow, JoinVerb, ListsAsk, ListsReply, Payload, Request},
    door::hex,
    list_files::read_bundle,
};
use cellbus_kits::{
    join::{self, DoorPlace, Invitation, InvitationRow, JoinError, online},
    kit::Kit,
    layout::kits_dir,
    lists::file_names,
    passphrase::{Passphrase, PassphraseError},
    provision::{ProvisionError, Report, Wanted},
    records,
};
use cellbus_proto::{
    causes::with_sources,
    codec::body,
    joining::{Answer, Refusal},
    name::Segment,
    topology::project::Project,
    transcript::sha256,
};
use cellbus_runtime::{
    clock::WallClock,
    joining::{KnockError, Knocker},
    secret_file::write_secret_file,
};
use serde::Serialize;
use serde_json::json;

use super::{Join, absolute, failed, input, joined};
use crate::{
    args::Target,
    codes::CliCode,
    output::{Failure, Format, Outcome, Success, print_event, say},
    passphrase::PassphraseFrom,
    table::{self, Table},
    target::ask,
};

async fn at_door(target: &Target, verb: JoinVerb) -> Result<Box<JoinReply>, Box<Failure>> {
    ask(target, Request::Join(JoinAsk { verb, by: None })).await
}

/// The door of a running server, which must be of this project and authority.
pub(super) async fn door(
    target: &Target,
    project: &Project,
    out: &Path,
) -> Result<DoorPlace, Box<Failure>> {
    let found = at_door(target, JoinVerb::Ls).await?;
    let ours = &project.topology.project;
    let records = records::latest(out).map_err(|error| failed(&error.into()))?;
    let is_ours = records.is_none_or(|(_, records)| found.roots.contains(&records.root_sha256));
    if found.project != *ours || !is_ours {
        let text = format!(
            "the server `{}` of project {} is not that of {}",
            found.cell,
            found.project,
            out.display()
        );
        return Err(Failure::new(CliCode::CellAmbiguous, text)
            .hint("name the state directory of this project's server"));
    }
    Ok(DoorPlace { cell: found.cell, address: found.address })
}

/// Lets whoever has the invitation leave a request.
pub(super) async fn let_in(target: &Target, invitation: &Invitation) -> Result<(), Box<Failure>> {
    let verb = JoinVerb::Invite {
        name: invitation.name.clone(),
        access_sha256: invitation.access_sha256(),
        expires_unix: invitation.expires_unix,
    };
    at_door(target, verb).await.map(drop)
}

/// One row of `requests ls` at a door.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    invitation: InvitationRow,
    at_door: Option<JoinRow>,
}

/// `requests ls`, with what the door knows.
pub(super) async fn list(target: &Target, out: &Path) -> Outcome {
    let rows = join::invitations(out, table::now_unix()).map_err(|error| failed(&error))?;
    let door = at_door(target, JoinVerb::Ls).await?;
    let mut shown = Table::new(["PARTICIPANT", "KIND", "STATE", "ENDS", "AT THE DOOR", "KEY"]);
    let mut listed = Vec::with_capacity(rows.len());
    for invitation in rows {
        let at_door = door.rows.iter().find(|row| row.name == invitation.name).cloned();
        let state = format!("{:?}", invitation.state).to_lowercase();
        let ends = table::ahead(invitation.expires_unix);
        let stage = at_door.as_ref().map_or("-", |row| row.stage.as_str());
        let key = at_door.as_ref().and_then(|row| row.key_sha256.as_deref()).unwrap_or("-");
        let (name, kind) = (invitation.name.as_str(), invitation.kind.as_str());
        shown.row([name, kind, &state, &ends, stage, key]);
        listed.push(Listed { invitation, at_door });
    }
    Ok(Success::new(&listed, shown.render()))
}

/// `requests approve`, of a request that waits at a door.
///
/// Whatever of it was done before a crash is not done again: the same reply goes to the same request.
pub(super) async fn approve(
    target: &Target,
    name: &Path,
    project: &Project,
    out: &Path,
    file: Option<&Path>,
    passphrase: &PassphraseFrom,
) -> Outcome {
    let name = name.to_str().and_then(|name| name.parse::<Segment>().ok()).ok_or_else(|| {
        let text = format!("`{}` is no name of a participant", name.display());
        Failure::new(CliCode::Usage, text).hint("at a door, requests are named by who made them")
    })?;
    let mut wanted = |_: Wanted| passphrase.read("Passphrase of the authority's key", false);
    let letters = Letters { target, out, file };
    let approved = letters.approve(&name, project, &mut wanted, None).await;
    let (NotApproved::Request(failure) | NotApproved::Other(failure)) = match approved {
        Ok(data) => {
            return Ok(Success::new(&data, format!("{name} may join; the cells that run know it")));
        }
        Err(not) => not,
    };
    Err(failure)
}

/// Those who wait at a door, each with the hash of the request.
pub(super) async fn waiting(
    target: &Target,
) -> Result<Vec<(Segment, Option<String>)>, Box<Failure>> {
    let rows = at_door(target, JoinVerb::Ls).await?.rows.into_iter();
    let waits = rows.filter(|row| row.stage == "waiting");
    Ok(waits.map(|row| (row.name, row.request_sha256)).collect())
}

/// Between a door and the directory of the project.
pub(super) struct Letters<'a> {
    pub(super) target: &'a Target,
    pub(super) out: &'a Path,
    /// Where the reply is written, too.
    pub(super) file: Option<&'a Path>,
}

/// Why a request at a door was not approved.
pub(super) enum NotApproved {
    /// It cannot be, whatever else is so.
    Request(Box<Failure>),
    /// Something else failed.
    Other(Box<Failure>),
}

impl From<Box<Failure>> for NotApproved {
    fn from(failure: Box<Failure>) -> Self {
        Self::Other(failure)
    }
}

type Ask<'a> = dyn FnMut(Wanted) -> Result<Passphrase, PassphraseError> + 'a;

impl Letters<'_> {
    /// Approves the request that `name` has left, and hands out the reply. `rule` is what the log of the server has.
    pub(super) async fn approve(
        &self,
        name: &Segment,
        project: &Project,
        wanted: &mut Ask<'_>,
        rule: Option<String>,
    ) -> Result<serde_json::Value, NotApproved> {
        let Letters { target, out, file } = *self;
        let fetched = at_door(target, JoinVerb::Fetch { name: name.clone() }).await?;
        let request = fetched.request.as_ref().and_then(|request| request.to_bytes().ok());
        let request = request.ok_or_else(|| {
            Failure::new(CliCode::Kit, format!("the door of {} gives no request", fetched.cell))
        })?;
        let named = online::name_of(&request);
        if named.map_err(|error| NotApproved::Request(failed(&error)))? != *name {
            let text = format!("what {name} has left at the door is the request of somebody else");
            let failure = Failure::new(CliCode::Kit, text).hint("nothing was certified");
            return Err(NotApproved::Request(failure));
        }
        let kept = online::kept_reply(out, name, &request).map_err(|error| failed(&error))?;
        let (report, letter) = match kept {
            Some(letter) => (None, letter),
            None => {
                let (report, letter) = certified(project, out, &request, wanted)?;
                (Some(report), letter)
            }
        };
        if let Some(file) = file {
            write_secret_file(&absolute(file)?, &letter).map_err(|error| input(&error))?;
        }
        // The cells that run know it before it can come.
        let lists = push_lists(target, out).await?;
        let verb = JoinVerb::Answer {
            name: name.clone(),
            request_sha256: hex(&sha256(&request)),
            reply: Payload::from_bytes(&letter),
            rule,
        };
        at_door(target, verb).await?;
        Ok(json!({ "name": name, "report": report, "lists": lists }))
    }
}

fn certified(
    project: &Project,
    out: &Path,
    request: &[u8],
    wanted: &mut Ask<'_>,
) -> Result<(Report, Vec<u8>), NotApproved> {
    let certified = join::approve(project, out, request, table::now_unix(), wanted);
    certified.map_err(|error| {
        let failure = failed(&error).hint("nothing was certified");
        let is_its_own = matches!(
            error,
            JoinError::Letter(_)
                | JoinError::Form
                | JoinError::Refused(_)
                | JoinError::Spent(_)
                | JoinError::NotInvited(_)
                | JoinError::Certificate(_)
                | JoinError::Provision(ProvisionError::AlreadyThere(_))
        );
        if is_its_own { NotApproved::Request(failure) } else { NotApproved::Other(failure) }
    })
}

/// Gives the server the latest signed lists of the project, which it hands on. Says what has changed.
async fn push_lists(target: &Target, out: &Path) -> Result<Vec<String>, Box<Failure>> {
    let latest = records::latest(out).map_err(|error| failed(&error.into()))?;
    let Some((number, _)) = latest else { return Ok(Vec::new()) };
    let mut changed = Vec::new();
    for name in file_names() {
        let path = out.join(kits_dir(number)).join(name);
        let bundle = read_bundle(&path).map_err(|error| input(&error))?;
        let lists = Payload::from_bytes(&body::encode(&bundle));
        let taken = Request::TakeLists(ListsAsk { lists, by: None });
        let reply: Box<ListsReply> = ask(target, taken).await.map_err(|failure| {
            failure.hint("the certificate is made; run the same again to go on from here")
        })?;
        changed.extend(reply.changed.iter().map(|one| format!("{} {}", one.list, one.to)));
    }
    Ok(changed)
}

/// `requests reject`, at the door too.
pub(super) async fn turn_away(target: &Target, name: &Segment) -> Result<(), Box<Failure>> {
    at_door(target, JoinVerb::Reject { name: name.clone() }).await.map(drop)
}

/// `join` at a door: makes the key, or goes on with the one that was made, and waits for the reply.
pub(super) async fn join(
    format: Format,
    args: &Join,
    dir: &Path,
    given: Option<Invitation>,
) -> Outcome {
    let begun = online::pending(dir).map_err(|error| failed(&error))?;
    let pending = match (begun, given) {
        (Some(begun), Some(given)) if !begun.is_by(&given) => {
            let text = format!("{} was begun with another invitation", dir.display());
            let hint = "name another directory, or leave --invitation out to go on";
            return Err(Failure::new(CliCode::Kit, text).hint(hint));
        }
        (Some(begun), _) => begun,
        (None, Some(given)) => {
            if given.door.is_none() {
                let text = "the invitation names no join door";
                let hint = "write the request to a file with --request FILE, for whoever invited";
                return Err(Failure::new(CliCode::Usage, text).hint(hint));
            }
            join::begin(&given, dir, table::now_unix()).map_err(|error| failed(&error))?;
            let made = online::pending(dir).map_err(|error| failed(&error))?;
            made.ok_or_else(|| Failure::new(CliCode::Kit, "what was made is gone"))?
        }
        (None, None) => {
            // Killed after its last step, it is done.
            if let Ok(kit) = Kit::open(dir, None, table::now_unix()) {
                return Ok(joined(&args.kit, &kit));
            }
            let text = format!("nothing was begun in {}", dir.display());
            return Err(Failure::new(CliCode::Usage, text).hint("begin with --invitation FILE"));
        }
    };
    let knocker = pending.knocker().map_err(|error| failed(&error))?;
    let waits = || {
        let (name, door) = (&pending.invitation.name, &knocker.address);
        let (key, authority) = (pending.key_sha256(), &pending.invitation.root_sha256);
        match format {
            Format::Jsonl => print_event(&json!({
                "event": "waiting", "name": name, "door": door,
                "key_sha256": key, "root_sha256": authority,
            })),
            Format::Table => say(&format!(
                "{name} waits at {door} until somebody approves. To be compared with who invited:\n  \
                 key       {key}\n  authority {authority}"
            )),
            Format::Json => {}
        }
    };
    let reply = wait(args, &knocker, waits).await?;
    let kit = join::finish(dir, &reply, table::now_unix()).map_err(|error| failed(&error))?;
    Ok(joined(&args.kit, &kit))
}

/// Knocks until there is a reply, or time is up. `waits` is told once, when the request has been taken.
async fn wait(args: &Join, knocker: &Knocker, waits: impl Fn()) -> Result<Vec<u8>, Box<Failure>> {
    /// Between two attempts to reach a door that does not answer.
    const AGAIN: Duration = Duration::from_secs(2);
    let begun = Instant::now();
    let mut is_kept = false;
    loop {
        let again = match knocker.knock(WallClock::system()).await {
            Ok(Answer::Granted { reply }) => return Ok(reply),
            Ok(Answer::Waiting { after_s }) => {
                if !is_kept {
                    waits();
                }
                is_kept = true;
                // What the other side says is a wish.
                Duration::from_secs(after_s.clamp(1, 60).into())
            }
            Ok(Answer::Refused(refusal)) if refusal.is_transient() && is_kept => AGAIN,
            Ok(Answer::Refused(refusal)) => return Err(refused(args, refusal)),
            // It was there a moment ago: it may be starting again.
            Err(KnockError::Unanswered { .. } | KnockError::Resolve { .. }) if is_kept => AGAIN,
            Err(error) => return Err(unanswered(&error)),
        };
        if begun.elapsed() + again > args.wait {
            let text = format!("nobody has approved {} yet; the request is kept", knocker.name);
            let hint = format!("go on with `cellbus join --kit {}`", args.kit.display());
            return Err(Failure::new(CliCode::JoinWaiting, text).hint(hint));
        }
        tokio::time::sleep(again).await;
    }
}

fn refused(args: &Join, refusal: Refusal) -> Box<Failure> {
    let failure = Failure::new(CliCode::NotInvited, refusal.to_string());
    if refusal.is_transient() {
        let hint = format!("try `cellbus join --kit {}` in a moment", args.kit.display());
        return failure.hint(hint);
    }
    failure.hint(format!("ask for a new invitation, and remove {}", args.kit.display()))
}

fn unanswered(error: &KnockError) -> Box<Failure> {
    let is_another = matches!(error, KnockError::NotTheDoor { .. });
    let (code, hint) = if is_another {
        (CliCode::NotTheDoor, "nothing was said to them; ask who invited where the door is")
    } else {
        (CliCode::DoorUnreachable, "the key and the request are kept; run the same again")
    };
    Failure::new(code, with_sources(error)).hint(hint)
}
