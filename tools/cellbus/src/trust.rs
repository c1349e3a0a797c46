//! Signed lists: what running cells hold, what they are given, and whom the server lets in.

use std::path::Path;

use cellbus_cells::{
    control::{BanAsk, BanVerb, ListsReply, Request},
    list_files::read_bundle,
};
use cellbus_proto::{
    codec::body,
    transcript::sha256,
    trust::{BanList, ListKind, RevocationList, RootsList, RosterList},
};
use serde_json::json;

use crate::{
    codes::CliCode,
    output::{Failure, Outcome, Success, printable, say},
    table::Table,
    target::ask,
};

pub mod args;
mod push;
pub mod sign;

use self::args::{CellVerb, OneOf, TrustVerb};

/// `cell`.
pub async fn cell(verb: CellVerb) -> Outcome {
    let (verb, cell, reason, target) = match verb {
        CellVerb::Ban { cell, reason, target } => (BanVerb::Ban, cell, reason, target),
        CellVerb::Unban(OneOf { cell, target }) => (BanVerb::Unban, cell, String::new(), target),
        CellVerb::Remove(OneOf { cell, target }) => (BanVerb::Remove, cell, String::new(), target),
        CellVerb::Bans(at) => {
            let reply: Box<ListsReply> = ask(&at.target, Request::Lists).await?;
            return Ok(Success::new(&reply.bans, bans(&reply)));
        }
    };
    let asked = BanAsk { verb, cell, reason, by: None };
    let reply: Box<ListsReply> = ask(&target, Request::Ban(asked)).await?;
    Ok(changed(&reply))
}

/// `trust`.
pub async fn lists(verb: TrustVerb) -> Outcome {
    match verb {
        TrustVerb::Ls(at) => {
            let reply: Box<ListsReply> = ask(&at.target, Request::Lists).await?;
            Ok(Success::new(&reply, held(&reply)))
        }
        TrustVerb::Show { file } => show(&file),
        TrustVerb::Push { file, forget, target } => push::push(&file, forget, &target).await,
    }
}

fn changed(reply: &ListsReply) -> Success {
    if let Some(warning) = &reply.warning {
        say(&printable(&format!("warning: {warning}")));
    }
    let lines: Vec<String> = reply
        .changed
        .iter()
        .map(|change| format!("{} {} -> {}", change.list, change.from, change.to))
        .collect();
    let text = if lines.is_empty() { "held already".to_owned() } else { lines.join("\n") };
    Success::new(reply, text)
}

fn held(reply: &ListsReply) -> String {
    let mut table = Table::new(["LIST", "VERSION", "ENTRIES", "SIGNED"]);
    for row in &reply.lists {
        let (version, entries) = (row.version.to_string(), row.entries.to_string());
        table.row([row.list.as_str(), &version, &entries, &row.issued_unix.to_string()]);
    }
    let mut text = table.render();
    for row in &reply.revoked {
        let what = row.name.as_deref().or(row.leaf.as_deref()).unwrap_or("?");
        text.push_str(&printable(&format!("\nrevoked {what}: {}", row.reason)));
    }
    for row in &reply.bans {
        text.push_str(&printable(&format!("\nbanned {}: {}", row.name, row.reason)));
    }
    text
}

fn bans(reply: &ListsReply) -> String {
    let mut table = Table::new(["CELL", "SINCE", "REASON"]);
    for row in &reply.bans {
        table.row([row.name.as_str(), &row.since_unix.to_string(), &printable(&row.reason)]);
    }
    table.render()
}

/// What a file says. Nobody vouches for it here: a cell checks the signatures.
fn show(file: &Path) -> Outcome {
    let bundle = read_bundle(file).map_err(sign::of_file)?;
    let mut lists = Vec::new();
    for (kind, signed) in bundle.lists() {
        let content = &signed.content.0;
        let said = match kind {
            ListKind::Roots => body::decode_exact::<RootsList>(content).map(|list| {
                let roots: Vec<_> = list
                    .roots
                    .iter()
                    .map(|root| json!({ "sha256": sign::hex(&sha256(&root.der.0)), "state": root.state }))
                    .collect();
                json!({ "project": list.project, "version": list.version, "issued_unix": list.issued,
                    "roots": roots })
            }),
            ListKind::Revocations => body::decode_exact::<RevocationList>(content).map(|list| {
                let names: Vec<&str> = list.names.iter().map(|entry| entry.name.as_str()).collect();
                let leaves: Vec<String> =
                    list.leaves.iter().map(|entry| sign::hex(&entry.leaf.0)).collect();
                json!({ "project": list.project, "version": list.version, "issued_unix": list.issued,
                    "names": names, "leaves": leaves })
            }),
            ListKind::Bans => body::decode_exact::<BanList>(content).map(|list| {
                let names: Vec<&str> = list.bans.iter().map(|ban| ban.name.as_str()).collect();
                json!({ "project": list.project, "version": list.version, "issued_unix": list.issued,
                    "names": names })
            }),
            ListKind::Roster => body::decode_exact::<RosterList>(content).map(|list| {
                let cells: Vec<&str> = list.cells.iter().map(|cell| cell.name.as_str()).collect();
                json!({ "project": list.project, "version": list.version, "issued_unix": list.issued,
                    "names": cells })
            }),
        };
        let said = said.map_err(|_| {
            Failure::new(CliCode::Config, format!("{}: no well-formed {kind} list", file.display()))
        })?;
        lists
            .push(json!({ "list": kind, "signed_by_root": signed.chain.is_empty(), "says": said }));
    }
    let data = json!({ "file": file.display().to_string(), "lists": lists });
    let human = serde_json::to_string_pretty(&data).expect("plain data is JSON");
    Ok(Success::new(&data, printable(&human)))
}
