//! Certificates and roots whose files were replaced while their cell runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_proto::{causes::with_sources, name::Fqcn};
use cellbus_runtime::{
    authority::{Credentials, CredentialsError},
    cell::CellState,
    host::{RenewError, RunningCell},
};
use tokio::sync::Notify;

/// How often the files are looked at without anybody asking, and how much that varies.
const LOOK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(60));

/// The credentials of a cell that runs, and the files that they were read from.
#[derive(Clone, Debug)]
pub(super) struct OnDisk {
    running: RunningCell,
    credentials: Credentials,
    dir: PathBuf,
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
    pub(super) fn new(running: &RunningCell, credentials: &Credentials, dir: &Path) -> Self {
        let (running, credentials) = (running.clone(), credentials.clone());
        Self { running, credentials, dir: dir.to_owned(), asked: Arc::default() }
    }

    /// Has the files looked at now. It takes longer than whoever asks waits: the log has what comes of it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    fn cell(&self) -> &Fqcn {
        &self.running.own().name
    }

    /// Looks at the files now and then until the cell ends, and says when the certificate should be renewed.
    pub(super) async fn watch(self) {
        loop {
            let (every, spread) = LOOK;
            // Without randomness all cells of a machine look at once, which harms nobody.
            let share = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
            tokio::select! {
                biased;
                () = self.running.wait_for(CellState::Stopped) => return,
                () = self.asked.notified() => {}
                () = tokio::time::sleep(every + spread.mul_f64(share)) => {}
            }
            for change in self.take_up().await {
                tracing::info!(target: "audit", change, "credentials read again");
            }
            self.warn_if_old();
        }
    }

    fn warn_if_old(&self) {
        let (own, dates) = (self.running.own(), self.running.own().certificate().dates());
        let life = dates.not_after.saturating_sub(dates.not_before);
        let left = dates.not_after.saturating_sub(own.wall.unix());
        if left < life / 4 {
            tracing::warn!(
                cell = %own.name, hours_left = left / 3600,
                "the certificate has used up three quarters of its life; put a new one into its place"
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
        let (dir, now) = (self.dir.clone(), own.wall.unix());
        let loaded = tokio::task::spawn_blocking(move || Credentials::load(&dir, now)).await;
        let Ok(loaded) = loaded else { return Ok(Vec::new()) };
        let loaded = loaded?;
        let mut changes = Vec::new();
        let roots = loaded.roots().ders();
        if roots != own.roots.ders() {
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
}
