//! How signed lists come to a cell, take effect there, and go on to its neighbours.
//!
//! A list that is taken over goes to every other neighbour at once. What was lost on the way is noticed by the
//! mark in the parent's echo; a cell that registers compares versions with its parent first of all. Lists go up as
//! well as down: a server that was restored from a backup hears of the lists that its cells hold.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Handler, Message};
use bytes::Bytes;
use cellbus_channels::Outgoing;
use cellbus_proto::{
    admission::Admitted,
    codec::body,
    envelope::Kind,
    identity::CellKind,
    name::Fqcn,
    registry::Record,
    route::LinkId,
    status::Status,
    trust::{BanChange, Bundle, ListKind, ListRefused, ListsHeld, Signed, Subject},
    well_known::{self, SystemTopic},
};

use super::{Cell, Holder};
use crate::{
    certificate::leaf_hash,
    clock,
    filter::SetLists,
    lists::{ChangeRefused, ListSigner, Taken},
    secret_file::SecretFileError,
};

/// What a cell remembers of how lists came.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Neighbours that brought what nobody who may has signed, and since when they are not listened to.
    refused: BTreeMap<LinkId, Instant>,
}

impl Listing {
    /// How long a neighbour that brought a bad list is not listened to.
    const SULK: Duration = Duration::from_secs(10);

    fn hears(&self, link: LinkId, now: Instant) -> bool {
        let since = self.refused.get(&link);
        since.is_none_or(|at| now.saturating_duration_since(*at) >= Self::SULK)
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.refused.remove(&link);
    }
}

/// Lists that were taken over by a person's wish, or were held already.
#[derive(Debug, Default)]
pub struct ListsTaken {
    /// Those that were taken over.
    pub taken: Vec<Taken>,
    /// Why one of them was not written, so that it will not be in force after the next start.
    pub not_kept: Option<SecretFileError>,
}

/// Lists that a person gives this cell.
#[derive(Debug, Message)]
#[rtype(result = "Result<ListsTaken, ChangeRefused>")]
pub struct TakeLists(pub Bundle);

/// A person wants the ban list changed; only the server has one.
#[derive(Debug, Message)]
#[rtype(result = "Result<ListsTaken, ChangeRefused>")]
pub struct ChangeBans(pub BanChange);

/// The parent on this link seems to hold other lists.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CompareLists(pub LinkId);

impl Cell {
    /// Lists from a neighbour.
    pub(super) fn take_lists(&mut self, admitted: &Admitted) {
        let Some(from) = self.neighbour_that_sent(admitted) else { return };
        let now = clock::now();
        if !self.listing.hears(from, now) {
            self.own.counters.refuse(Status::RateLimit);
            return;
        }
        let bundle: Bundle = match body::decode_exact(&admitted.envelope().payload) {
            Ok(bundle) => bundle,
            Err(error) => {
                self.own.counters.refuse(error.status);
                return;
            }
        };
        for (kind, list) in bundle.lists() {
            match self.take_list(kind, list, Some(from)) {
                Ok(_) => {}
                Err(refused) => {
                    let status = refused.status();
                    self.own.counters.refuse(status);
                    self.listing.refused.insert(from, now);
                    tracing::warn!(
                        cell = %self.own.name, peer = %admitted.header().origin.name, code = status.code(),
                        list = %kind, why = %refused, "a signed list was refused"
                    );
                }
            }
        }
        // A server without its state hears of its own list from others.
        self.resign_bans();
    }

    /// At the server: signs the ban list with the certificate that is shown now, where another one has signed it. A cell that is given
    /// the list has to find its signer good at that moment, and the certificate before ends or is revoked.
    pub(super) fn resign_bans(&mut self) {
        if self.root.is_none() {
            return;
        }
        let certificate = self.own.certificate();
        let Some(held) = self.own.lists.signed(ListKind::Bans) else { return };
        if held.chain.first().map(|der| leaf_hash(&der.0)) == Some(certificate.hash()) {
            return;
        }
        let signed = ListSigner::of_cell(&certificate).ok_or(ChangeRefused::NotServer);
        let taken = signed
            .and_then(|signer| self.own.lists.changed_bans(BanChange::Resign, &signer))
            .and_then(|list| self.take_given(std::iter::once((ListKind::Bans, list))));
        let cell = &self.own.name;
        match taken {
            Ok(ListsTaken { not_kept: Some(error), .. }) => {
                tracing::error!(%cell, %error, "the ban list was signed again and was not written");
            }
            Ok(_) => {
                tracing::info!(target: "audit", %cell, "the ban list was signed with the certificate that is shown now");
            }
            Err(error) => {
                tracing::error!(%cell, %error, "the ban list was not signed with the certificate that is shown now");
            }
        }
    }

    /// What a neighbour holds: it gets what is newer here, and is told when it has what is newer there.
    pub(super) fn take_lists_held(&mut self, admitted: &Admitted) {
        let Some(link) = self.neighbour_that_sent(admitted) else { return };
        let theirs: ListsHeld = match body::decode_exact(&admitted.envelope().payload) {
            Ok(held) => held,
            Err(error) => {
                self.own.counters.refuse(error.status);
                return;
            }
        };
        let ours = self.own.lists.view().versions();
        let of = |kind: ListKind| (ours.of(kind), theirs.versions.of(kind));
        for kind in ListKind::ALL.into_iter().filter(|kind| of(*kind).0 > of(*kind).1) {
            self.give_list(kind, link);
        }
        let behind = ListKind::ALL.into_iter().any(|kind| of(kind).0 < of(kind).1);
        if theirs.ask && behind {
            self.say_held(link, false);
        }
    }

    /// The neighbour that made a message about lists. Nobody speaks about them for another.
    fn neighbour_that_sent(&self, admitted: &Admitted) -> Option<LinkId> {
        let origin = &admitted.header().origin.name;
        let found = self.links.iter().find(|(_, info)| info.name == *origin);
        let is_publish = admitted.header().kind == Kind::Publish;
        let link = found.map(|(id, _)| *id).filter(|_| is_publish);
        if link.is_none() {
            self.own.counters.refuse(Status::NotDirect);
            tracing::info!(
                cell = %self.own.name, sender = %origin, code = Status::NotDirect.code(),
                topic = %admitted.header().target, "only a neighbour speaks about signed lists"
            );
            if !is_publish {
                self.answer_failed(admitted.header(), Status::NotDirect, Bytes::new());
            }
        }
        link
    }

    /// Tells the parent which lists are held here, and asks for what it has.
    pub(super) fn compare_lists(&self, parent: LinkId) {
        self.say_held(parent, true);
    }

    fn say_held(&self, link: LinkId, ask: bool) {
        let held = ListsHeld { versions: self.own.lists.view().versions(), ask };
        self.tell_neighbour(link, well_known::LISTS_HELD, body::encode(&held));
    }

    fn give_list(&self, kind: ListKind, link: LinkId) {
        let Some(list) = self.own.lists.signed(kind) else { return };
        let payload = body::encode(&Bundle::of(kind, list));
        if payload.len() > self.settings.payload_max {
            tracing::error!(
                cell = %self.own.name, list = %kind, bytes = payload.len(), code = Status::TooLarge.code(),
                "a signed list is too large for a message, so that no other cell hears of it"
            );
            return;
        }
        self.tell_neighbour(link, well_known::LISTS, payload);
    }

    fn tell_neighbour(&self, link: LinkId, topic: SystemTopic, payload: Bytes) {
        const BUDGET_MS: u32 = 30_000;
        let Some(info) = self.links.get(&link).filter(|info| info.kind != CellKind::Job) else {
            return;
        };
        let outgoing = Outgoing { payload, ..Outgoing::new(topic.into()) };
        let sequence = self.own.next_sequence();
        self.emit(self.own.envelope(Kind::Publish, sequence, &info.name, &outgoing, BUDGET_MS));
    }

    /// Takes a list over and hands it on, to everybody but the neighbour that it came from.
    fn take_list(
        &mut self,
        kind: ListKind,
        list: Signed,
        from: Option<LinkId>,
    ) -> Result<Option<Taken>, ListRefused> {
        let Some(taken) = self.own.lists.take(kind, list)? else { return Ok(None) };
        tracing::info!(
            target: "audit", cell = %self.own.name, list = %kind, version = taken.version,
            before = taken.before, "a signed list is in force"
        );
        self.put_lists_in_force();
        let others: Vec<LinkId> =
            self.links.keys().copied().filter(|link| Some(*link) != from).collect();
        others.into_iter().for_each(|link| self.give_list(kind, link));
        if from.is_some() {
            let own = Arc::clone(&self.own);
            actix::spawn(async move {
                let keeping = Arc::clone(&own);
                let kept = tokio::task::spawn_blocking(move || keeping.lists.keep(kind)).await;
                if let Ok(Err(error)) = kept {
                    tracing::error!(
                        cell = %own.name, list = %kind, %error,
                        "a signed list is in force and could not be written: it will be asked for again"
                    );
                }
            });
        }
        Ok(Some(taken))
    }

    /// Has the filter, and what is registered here, follow the lists.
    fn put_lists_in_force(&mut self) {
        let lists = self.own.lists.view();
        self.to_filter(SetLists(lists.clone()));
        let now = self.own.wall.unix();
        let listed: Vec<Fqcn> = self
            .registry
            .iter()
            .filter(|(name, record)| {
                let subject = Subject { kind: record.kind, name, leaf: &record.leaf };
                lists.refuses(subject, now).is_some()
                    || self.roster.kind_of(name).is_none()
                    || self.lost_its_root(record)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in listed {
            let removed = self.registry.remove_below(&name);
            self.notice_down(&removed);
            if let Some(root) = &self.root {
                root.forget_jobs_at(&name);
            }
            tracing::info!(cell = %self.own.name, peer = %name, "the registration of a cell was ended by a list");
            self.own.notices.tell_turned_out(name);
        }
        let leaf = self.own.certificate().hash();
        let (kind, name) = (self.own.kind(), &self.own.name);
        if lists.refuses(Subject { kind, name, leaf: &leaf }, now).is_some() {
            self.own.notices.tell_turned_out(name.clone());
        }
    }

    /// Whether the authority of a registered cell's certificate counts no more.
    fn lost_its_root(&self, record: &Record<Holder>) -> bool {
        let Some(list) = &self.own.lists.view().roots else { return false };
        let root = self.own.protection.leaf(&record.leaf).and_then(|leaf| leaf.root());
        root.is_some_and(|root| list.state_of(&root).is_none())
    }

    /// Whether a list keeps this cell from being registered.
    pub(super) fn check_lists(
        &self,
        kind: CellKind,
        name: &Fqcn,
        leaf: &[u8; 32],
    ) -> Result<(), Status> {
        let subject = Subject { kind, name, leaf };
        match self.own.lists.view().refuses(subject, self.own.wall.unix()) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    /// Takes over what a person gives, and writes it before this is said to be done.
    fn take_given(
        &mut self,
        lists: impl Iterator<Item = (ListKind, Signed)>,
    ) -> Result<ListsTaken, ChangeRefused> {
        let mut outcome = ListsTaken::default();
        for (kind, list) in lists {
            if let Some(taken) = self.take_list(kind, list, None)? {
                // Blocks for as long as a file takes to be on the disk; a person waits for it.
                if let Err(error) = self.own.lists.keep(kind) {
                    outcome.not_kept = Some(error);
                }
                outcome.taken.push(taken);
            }
        }
        Ok(outcome)
    }
}

impl Handler<TakeLists> for Cell {
    type Result = Result<ListsTaken, ChangeRefused>;

    fn handle(&mut self, TakeLists(bundle): TakeLists, _: &mut Self::Context) -> Self::Result {
        self.take_given(bundle.lists()).inspect_err(|refused| {
            if let ChangeRefused::Refused(refused) = refused {
                self.own.counters.refuse(refused.status());
                tracing::warn!(
                    cell = %self.own.name, code = refused.status().code(), why = %refused,
                    "a signed list was refused"
                );
            }
        })
    }
}

impl Handler<ChangeBans> for Cell {
    type Result = Result<ListsTaken, ChangeRefused>;

    fn handle(&mut self, ChangeBans(change): ChangeBans, _: &mut Self::Context) -> Self::Result {
        let signer =
            ListSigner::of_cell(&self.own.certificate()).ok_or(ChangeRefused::NotServer)?;
        let root = self.root.as_mut().ok_or(ChangeRefused::NotServer)?;
        let change = match change {
            // Tokens of this second count no more; the next ones are of a later one.
            BanChange::End { name, until } => {
                let full = self.registry.iter().map(|(full, _)| full);
                let full = full.filter(|full| full.base() == name.as_str());
                let until = full.map(|full| root.note_quit(full, until)).max().unwrap_or(until);
                BanChange::End { name, until }
            }
            change @ (BanChange::Ban { .. } | BanChange::Unban { .. } | BanChange::Resign) => {
                change
            }
        };
        let list = self.own.lists.changed_bans(change, &signer)?;
        self.take_given(std::iter::once((ListKind::Bans, list)))
    }
}

impl Handler<CompareLists> for Cell {
    type Result = ();

    fn handle(&mut self, CompareLists(link): CompareLists, _: &mut Self::Context) {
        if self.links.contains_key(&link) {
            self.compare_lists(link);
        }
    }
}
