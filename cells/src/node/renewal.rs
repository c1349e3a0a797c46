//! Certificates that are renewed while their cell runs: by itself when that is due, and by whoever replaces the files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_proto::{
    causes::with_sources,
    codec::body,
    name::Fqcn,
    trust::{BanList, Bundle, List, ListKind, RevocationList, RootsList, RosterList, Signed},
};
use cellbus_runtime::{
    authority::{Credentials, CredentialsError, renewed::NewPair},
    cell::CellState,
    host::{RenewError, Renewing, RunningCell},
    lists::file_name,
    secret_file::SecretFileError,
};
use tokio::{sync::Notify, time::Instant};

use super::sources::Sources;
use crate::list_files::read_bundle;

/// How often the files are looked at without anybody asking, and how much that varies.
const LOOK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(60));

/// The credentials of a cell that runs, and the files that they were read from.
#[derive(Clone, Debug)]
pub(super) struct OnDisk {
    running: RunningCell,
    credentials: Credentials,
    sources: Sources,
    /// The kit that the cell was given, with signed lists beside its credentials.
    given: Option<PathBuf>,
    /// Somebody wants the files looked at now.
    asked: Arc<Notify>,
}

/// Why files that were replaced are not used.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    /// They are no credentials of this cell.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The cell does not go on with them.
    #[error(transparent)]
    Renew(#[from] RenewError),
}

impl OnDisk {
    pub(super) fn new(running: &RunningCell, credentials: &Credentials, sources: Sources) -> Self {
        let (running, credentials) = (running.clone(), credentials.clone());
        Self { running, credentials, sources, given: None, asked: Arc::default() }
    }

    /// The same, which looks into a kit, too.
    pub(super) fn given(self, dir: Option<&Path>) -> Self {
        Self { given: dir.map(Path::to_owned), ..self }
    }

    /// Has the files looked at now. It takes longer than whoever asks waits: the log has what comes of it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    fn cell(&self) -> &Fqcn {
        &self.running.own().name
    }

    /// Renews the certificate whenever that is due, and looks at the files now and then, until the cell ends.
    pub(super) async fn watch(self) {
        let mut renewing = Renewing::new(&self.running);
        let mut look = next_look();
        loop {
            let due = renewing.wait();
            tokio::select! {
                biased;
                () = self.running.wait_for(CellState::Stopped) => return,
                () = self.asked.notified() => {}
                () = self.is_due(due), if self.sources.renews() => {
                    self.renew(&mut renewing).await;
                    continue;
                }
                () = tokio::time::sleep_until(look) => {}
            }
            look = next_look();
            for change in self.take_up().await {
                tracing::info!(target: "audit", change, "credentials read again");
            }
            self.warn_if_old();
        }
    }

    /// Waits until the certificate is to be renewed, and somebody can be asked.
    async fn is_due(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
        self.running.wait_for(CellState::Ready).await;
    }

    async fn renew(&self, renewing: &mut Renewing) {
        let keep = async |pair: Arc<NewPair>| {
            let sources = self.sources.clone();
            let kept = tokio::task::spawn_blocking(move || sources.keep(&pair)).await;
            kept.unwrap_or_else(|error| {
                let (path, source) = (self.sources.given().to_owned(), error.into());
                Err(SecretFileError::Io { action: "renew what is in", path, source })
            })
        };
        let Some((certificate, renewal)) = renewing.attempt(keep).await else { return };
        self.credentials.presented().show(certificate);
        let (cell, again) = (self.cell(), renewal.again.len());
        tracing::info!(%cell, again, "the certificate is renewed");
        let sources = self.sources.clone();
        // Fails only when the process ends; what is left is removed the next time.
        let _ = tokio::task::spawn_blocking(move || sources.prune()).await;
    }

    fn warn_if_old(&self) {
        let (own, dates) = (self.running.own(), self.running.own().certificate().dates());
        let (life, now) = (dates.life(), own.wall.unix());
        let hours_left = |not_after: u64| not_after.saturating_sub(now) / 3600;
        if life.is_late(now) {
            tracing::warn!(
                cell = %own.name, hours_left = hours_left(dates.not_after),
                "the certificate has used up three quarters of its life; put a new one into its place"
            );
        }
        if let Some(issuer) = own.issuer()
            && issuer.dates().life().is_late(now)
        {
            tracing::warn!(
                cell = %own.name, hours_left = hours_left(issuer.dates().not_after),
                "the issuing authority has used up three quarters of its life; give the server a new kit"
            );
        }
    }

    /// Goes on with what the files say now, where that differs. Says what has changed.
    async fn take_up(&self) -> Vec<String> {
        match self.try_take_up().await {
            Ok(changes) => changes,
            Err(error) => {
                let error = with_sources(&error);
                tracing::warn!(cell = %self.cell(), error, "new credentials are not used");
                vec![format!("credentials of {}: not used: {error}", self.cell())]
            }
        }
    }

    async fn try_take_up(&self) -> Result<Vec<String>, NotTaken> {
        let own = self.running.own();
        let (sources, now) = (self.sources.clone(), own.wall.unix());
        let loaded = tokio::task::spawn_blocking(move || sources.best(now)).await;
        let Ok(loaded) = loaded else { return Ok(Vec::new()) };
        let loaded = loaded?;
        let mut changes = self.take_up_lists().await;
        let roots = loaded.roots().ders();
        // Where a signed list says which authorities count, the files do not.
        if own.lists.view().roots.is_none() && roots != own.roots.ders() {
            let count = roots.len();
            own.roots.replace(roots).map_err(RenewError::Chain)?;
            tracing::info!(target: "audit", cell = %self.cell(), count, "other roots are trusted");
            changes.push(format!("{}: trusts {count} roots", self.cell()));
        }
        let next = loaded.certificate();
        if next.hash() != own.certificate().hash() {
            let until = next.dates().not_after;
            let renewed = self.running.renew(next.clone()).await?;
            self.credentials.presented().show(next);
            let again = renewed.again.len();
            changes.push(format!(
                "{}: shows another certificate, until {until} (seconds since 1970); {again} links made again",
                self.cell()
            ));
        }
        Ok(changes)
    }

    /// Takes over the signed lists of the kit that are newer than those that are held.
    async fn take_up_lists(&self) -> Vec<String> {
        let Some(dir) = self.given.clone() else { return Vec::new() };
        let read = move || {
            let read = |kind| read_bundle(&dir.join(file_name(kind))).ok();
            ListKind::ALL.into_iter().filter_map(read).collect::<Vec<Bundle>>()
        };
        let found = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let mut changes = Vec::new();
        for bundle in found {
            let held = self.running.own().lists.view().versions();
            let is_newer =
                bundle.clone().lists().any(|(kind, list)| stated(kind, &list) > held.of(kind));
            if !is_newer {
                continue;
            }
            // A refusal is in the log.
            if let Ok(taken) = self.running.take_lists(bundle).await {
                let these = taken.taken.iter();
                changes.extend(these.map(|one| {
                    format!("{}: {} of version {} in force", self.cell(), one.kind, one.version)
                }));
            }
        }
        changes
    }
}

/// The version that a list states, whoever has signed it; 0 where it is no list.
fn stated(kind: ListKind, list: &Signed) -> u64 {
    let content = &list.content.0;
    match kind {
        ListKind::Roots => version::<RootsList>(content),
        ListKind::Revocations => version::<RevocationList>(content),
        ListKind::Bans => version::<BanList>(content),
        ListKind::Roster => version::<RosterList>(content),
    }
}

fn version<L: List>(content: &[u8]) -> u64 {
    body::decode_exact::<L>(content).map_or(0, |list| list.version())
}

fn next_look() -> Instant {
    let (every, spread) = LOOK;
    // Without randomness all cells of a machine look at once, which harms nobody.
    let share = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    Instant::now() + every + spread.mul_f64(share)
}
