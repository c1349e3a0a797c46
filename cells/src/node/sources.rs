//! Where the credentials of a cell lie, and which of them it shows.

use std::path::{Path, PathBuf};

use cellbus_proto::identity::Identity;
use cellbus_runtime::{
    authority::{
        Credentials, CredentialsError,
        renewed::{self, NewPair},
    },
    secret_file::SecretFileError,
};

/// The places of the credentials of one cell.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// What was handed over.
    given: PathBuf,
    /// What somebody has put into the state directory since, which counts where it is newer.
    since: Option<PathBuf>,
    /// Where the cell keeps what it has renewed itself; none for one that renews nothing.
    state: Option<PathBuf>,
    wanted: Identity,
}

impl Sources {
    /// Credentials in one directory, which others look after.
    pub(super) fn fixed(given: PathBuf, wanted: Identity) -> Self {
        Self { given, since: None, state: None, wanted }
    }

    /// Credentials that were handed over in `given`, for a cell that renews them in its state directory.
    pub(super) fn renewed_in(
        state: &Path,
        given: PathBuf,
        since: Option<PathBuf>,
        wanted: Identity,
    ) -> Self {
        Self { given, since, state: Some(state.to_owned()), wanted }
    }

    /// Where those lie that were handed over.
    pub(super) fn given(&self) -> &Path {
        &self.given
    }

    /// Whether the cell renews them itself.
    pub(super) fn renews(&self) -> bool {
        self.state.is_some()
    }

    /// The newest credentials that count at `now_unix`. What was handed over has to be whole, and may have ended where
    /// something newer has not.
    pub(super) fn best(&self, now_unix: u64) -> Result<Credentials, CredentialsError> {
        let load = |dir: &Path| {
            let own = Credentials::load(dir, now_unix)?;
            own.expect_holder(dir, &self.wanted)?;
            Ok(own)
        };
        let issued = |own: &Credentials| own.certificate().dates().not_before;
        let since = self.since.as_deref().and_then(|dir| load(dir).ok());
        let renewed = self
            .state
            .as_deref()
            .and_then(|state| renewed::latest(state, &self.given, &self.wanted, now_unix));
        let newer = since.into_iter().chain(renewed).max_by_key(issued);
        match (load(&self.given), newer) {
            (Ok(given), Some(newer)) if issued(&newer) > issued(&given) => Ok(newer),
            (Err(CredentialsError::OutOfDate { .. }), Some(newer)) => Ok(newer),
            (given, _) => given,
        }
    }

    /// Writes what the cell has renewed, durable on return.
    pub(super) fn keep(&self, pair: &NewPair) -> Result<(), SecretFileError> {
        match &self.state {
            Some(state) => renewed::keep(state, &self.given, pair),
            None => Ok(()),
        }
    }

    /// Removes what was renewed before the last time.
    pub(super) fn prune(&self) {
        if let Some(state) = &self.state {
            renewed::prune(state);
        }
    }
}
