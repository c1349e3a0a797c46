//! What the control socket says and changes of the signed lists of a cell.

use cellbus_proto::{
    codec::body,
    name::{Fqcn, Segment},
    status::Status,
    trust::{BanChange, Bundle, ListKind, View},
};
use cellbus_runtime::{cell::ListsTaken, lists::ChangeRefused};

use super::{controlled::ControlledCell, observed::bad};
use crate::control::{
    BanAsk, BanRow, BanVerb, ControlError, ListChange, ListRow, ListsAsk, ListsReply, LocalCode,
    Reply, RevokedRow,
};

/// What stands on lists, as people are told it.
pub(super) fn reply_of(cell: Fqcn, view: &View) -> ListsReply {
    let row = |kind: ListKind, issued, entries: usize| ListRow {
        list: kind.to_string(),
        version: view.versions().of(kind),
        issued_unix: issued,
        entries: entries as u64,
    };
    let (revocations, bans, roster) =
        (view.revocations.as_deref(), view.bans.as_deref(), view.roster.as_deref());
    let revoked = revocations.map_or_else(Vec::new, |list| {
        let names = list.names.iter().map(|entry| RevokedRow {
            name: Some(entry.name.to_string()),
            leaf: None,
            reason: entry.reason.as_str().to_owned(),
            until_unix: entry.until,
        });
        let leaves = list.leaves.iter().map(|entry| RevokedRow {
            name: None,
            leaf: Some(entry.leaf.0.iter().map(|byte| format!("{byte:02x}")).collect()),
            reason: entry.reason.as_str().to_owned(),
            until_unix: entry.until,
        });
        names.chain(leaves).collect()
    });
    ListsReply {
        cell,
        lists: vec![
            row(ListKind::Revocations, revocations.map_or(0, |list| list.issued), revoked.len()),
            row(
                ListKind::Bans,
                bans.map_or(0, |list| list.issued),
                bans.map_or(0, |list| list.bans.len()),
            ),
            row(
                ListKind::Roster,
                roster.map_or(0, |roster| roster.list().issued),
                roster.map_or(0, |roster| roster.list().cells.len()),
            ),
            row(
                ListKind::Roots,
                view.roots.as_ref().map_or(0, |list| list.issued),
                view.roots.as_ref().map_or(0, |list| list.roots.len()),
            ),
        ],
        changed: Vec::new(),
        bans: bans.map_or_else(Vec::new, |list| {
            let row = |ban: &cellbus_proto::trust::Ban| BanRow {
                name: ban.name.to_string(),
                since_unix: ban.since,
                reason: ban.reason.clone(),
            };
            list.bans.iter().map(row).collect()
        }),
        revoked,
        warning: None,
    }
}

fn explained(refused: &ChangeRefused) -> ControlError {
    match refused {
        ChangeRefused::Refused(list) => {
            let error = ControlError::status(list.status(), refused.to_string());
            error.hint("`cellbus trust ls` shows the versions that are held")
        }
        ChangeRefused::Change(_) => {
            let hint = "`cellbus cell bans` shows whom the server does not let in";
            bad(refused.to_string()).hint(hint)
        }
        ChangeRefused::NotServer => {
            bad(refused.to_string()).hint("ask the server: `--at` with its name")
        }
        ChangeRefused::Ending => ControlError::status(Status::ShuttingDown, refused.to_string()),
        ChangeRefused::Sign(_) => ControlError::local(LocalCode::ControlIo, refused.to_string()),
    }
}

impl ControlledCell {
    pub(super) fn lists(&self) -> ListsReply {
        reply_of(self.name(), &self.running.own().lists.view())
    }

    pub(super) async fn take_lists(&self, ask: ListsAsk) -> Result<Reply, ControlError> {
        let bytes = ask.lists.to_bytes().map_err(|error| bad(error.to_string()))?;
        let bundle: Bundle = body::decode_exact(&bytes)
            .map_err(|_| bad("this is no file of signed lists".to_owned()))?;
        let taken = self.running.take_lists(bundle).await;
        let by = ask.by.as_deref().unwrap_or("a control socket");
        self.listed(by, "signed lists were given", taken)
    }

    pub(super) async fn change_bans(&self, ask: BanAsk) -> Result<Reply, ControlError> {
        let name: Segment =
            ask.cell.base().parse().map_err(|_| bad("this is no name of a cell".to_owned()))?;
        let directory = self.directory();
        let known = directory.iter().any(|(known, _)| known.base() == name.as_str());
        let stands = self.lists().bans.iter().any(|ban| ban.name == name.as_str());
        if !known && !stands {
            let text = format!("the project has no cell `{name}`");
            return Err(bad(text).hint("`cellbus cells` lists them"));
        }
        let change = match ask.verb {
            BanVerb::Ban => BanChange::Ban { name, reason: ask.reason },
            BanVerb::Unban => BanChange::Unban { name },
            BanVerb::Remove => BanChange::End { name, until: self.running.own().wall.unix() },
        };
        let what = format!("{:?} {}", ask.verb, ask.cell).to_lowercase();
        let taken = self.running.change_bans(change).await;
        let by = ask.by.as_deref().unwrap_or("a control socket");
        self.listed(by, &what, taken)
    }

    fn listed(
        &self,
        by: &str,
        what: &str,
        taken: Result<ListsTaken, ChangeRefused>,
    ) -> Result<Reply, ControlError> {
        let taken = taken.map_err(|refused| explained(&refused))?;
        let changed: Vec<ListChange> = taken
            .taken
            .iter()
            .map(|taken| ListChange {
                list: taken.kind.to_string(),
                from: taken.before,
                to: taken.version,
            })
            .collect();
        tracing::info!(target: "audit", cell = %self.name(), %by, what, ?changed, "lists were changed");
        let warning = taken.not_kept.map(|error| {
            tracing::error!(cell = %self.name(), %error, "a list is in force and was not written");
            format!("in force, and not after the next start: {error}")
        });
        Ok(Reply::Lists(Box::new(ListsReply { changed, warning, ..self.lists() })))
    }
}
