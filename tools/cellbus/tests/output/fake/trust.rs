//! Signed lists of a cell that answers with fixed replies.

use cellbus_cells::control::{
    BanAsk, BanRow, BanVerb, ControlError, ListChange, ListRow, ListsAsk, ListsReply, Reply,
    RevokedRow,
};
use cellbus_channels::{Fqcn, Status};

pub fn lists(cell: Fqcn) -> ListsReply {
    let row = |list: &str, version, entries| ListRow {
        list: list.to_owned(),
        version,
        issued_unix: 1_800_000_000,
        entries,
    };
    ListsReply {
        cell,
        lists: vec![row("revocations", 7, 1), row("bans", 3, 1), row("roster", 0, 0)],
        changed: Vec::new(),
        bans: vec![BanRow {
            name: "site-9".to_owned(),
            since_unix: 1_800_000_000,
            reason: "\x1b[31mfloods".to_owned(),
        }],
        revoked: vec![RevokedRow {
            name: Some("site-8".to_owned()),
            leaf: None,
            reason: "ceased".to_owned(),
            until_unix: None,
        }],
        warning: None,
    }
}

pub fn take(cell: Fqcn, ask: &ListsAsk) -> Result<Reply, ControlError> {
    assert!(ask.by.is_some(), "the cell knows who asks");
    let change = ListChange { list: "revocations".to_owned(), from: 7, to: 8 };
    Ok(Reply::Lists(Box::new(ListsReply { changed: vec![change], ..lists(cell) })))
}

pub fn ban(cell: Fqcn, ask: &BanAsk) -> Result<Reply, ControlError> {
    if ask.cell.as_str() == "denied" {
        return Err(ControlError::status(Status::Forbidden, "not this one"));
    }
    let warning = (ask.verb == BanVerb::Ban).then(|| "in force, and not written".to_owned());
    let change = ListChange { list: "bans".to_owned(), from: 3, to: 4 };
    Ok(Reply::Lists(Box::new(ListsReply { changed: vec![change], warning, ..lists(cell) })))
}
