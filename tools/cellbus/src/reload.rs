//! `reload`: has running cells decide by the rules that their topology file has now.

use std::collections::BTreeSet;

use cellbus_cells::control::{
    ControlClient, LocalCode, ProblemRow, ReloadAsk, ReloadOutcome, ReloadReply, Request,
};
use cellbus_proto::name::Fqcn;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::Target,
    ask::word,
    codes::CliCode,
    output::{Failure, Outcome, Success, printable, say},
    table::Table,
    target::{not_running, sockets},
};

/// Arguments of `reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Which running cells; all of the project, if none is named.
    #[command(flatten)]
    pub target: Target,
}

/// What `reload` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reloaded {
    /// One answer for each process.
    pub processes: Vec<ReloadReply>,
}

/// `reload`. Every process says first what it would do: where one refuses its file, none takes it.
pub async fn run(args: Reload) -> Outcome {
    let Reload { dry_run, target } = args;
    let mut reloaded = ask_all(&target, true).await?;
    let is_good = |reply: &ReloadReply| reply.outcome != ReloadOutcome::Refused;
    if !dry_run && reloaded.processes.iter().all(is_good) {
        reloaded = ask_all(&target, false).await?;
    }
    let human = render(&reloaded);
    let Some(refused) = reloaded.processes.iter().find(|reply| !is_good(reply)) else {
        for other in unique(&reloaded, |reply| &reply.needs_restart) {
            say(&printable(&format!("needs a restart: {other}")));
        }
        return Ok(Success::new(&reloaded, human));
    };
    let report: Vec<String> = refused.problems.iter().map(|row| line(&refused.file, row)).collect();
    let text = format!("{} is not good; the rules are those of before", refused.file);
    let report = printable(&format!("error: {text}\n{}", report.join("\n")));
    let hint = format!("`cellbus policy check {}` shows every problem in its place", refused.file);
    let failure = Failure::new(CliCode::Config, text).hint(hint).data(&reloaded);
    Err(Box::new(Failure { human: Some(human), report: Some(report), ..*failure }))
}

/// Asks every process once, whichever of its cells answers.
async fn ask_all(target: &Target, dry_run: bool) -> Result<Reloaded, Box<Failure>> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut processes: Vec<ReloadReply> = Vec::new();
    let mut silent = None;
    for (cell, socket) in sockets(target).await? {
        if cell.is_some_and(|cell| known.contains(&cell)) {
            continue;
        }
        let client = match ControlClient::connect(&socket).await {
            Ok(client) => client,
            // What a cell that died has left; where nothing else is there, it is what was meant.
            Err(error) if error.code == LocalCode::CellNotRunning.code() => {
                silent = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let ask = Request::Reload(ReloadAsk { dry_run, by: None });
        let reply: ReloadReply = client.ask(ask).await?;
        known.extend(reply.cells.iter().map(|cell: &Fqcn| cell.base().to_owned()));
        processes.push(reply);
    }
    match (processes.is_empty(), silent) {
        (false, _) => Ok(Reloaded { processes }),
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(not_running("no cell runs there".to_owned())),
    }
}

fn unique<'a>(
    reloaded: &'a Reloaded,
    list: impl Fn(&'a ReloadReply) -> &'a Vec<String>,
) -> BTreeSet<&'a String> {
    reloaded.processes.iter().flat_map(list).collect()
}

fn line(file: &str, row: &ProblemRow) -> String {
    let ProblemRow { code, severity, message, line, column, help } = row;
    let place = |place: &Option<u64>| place.map(|place| format!(":{place}")).unwrap_or_default();
    let help = help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
    format!("{file}{}{}: {severity} {code}: {message}{help}", place(line), place(column))
}

fn render(reloaded: &Reloaded) -> String {
    let mut table = Table::new(["CELLS", "OUTCOME", "REVISION"]);
    for ReloadReply { outcome, from, to, cells, .. } in &reloaded.processes {
        let cells: Vec<&str> = cells.iter().map(Fqcn::as_str).collect();
        let revision = if from == to { from.to_string() } else { format!("{from} -> {to}") };
        table.row([&cells.join(","), &word(outcome), &revision]);
    }
    let mut text = table.render();
    for change in unique(reloaded, |reply| &reply.changes) {
        text.push_str(&format!("\n{}", printable(change)));
    }
    text
}

/// The line that people read when the cells of a process were told to read their file again.
pub fn reloaded(
    by: &str,
    (from, to): (u64, u64),
    changes: &[String],
    needs_restart: &[String],
) -> String {
    let mut text = if from == to {
        format!("the rules are as before, revision {to} ({by})")
    } else {
        format!("rules of revision {to} instead of {from} ({by})")
    };
    for change in changes {
        text.push_str(&format!("\n  {change}"));
    }
    for other in needs_restart {
        text.push_str(&format!("\n  needs a restart: {other}"));
    }
    text
}
