//! The signed lists that a cell holds: who vouches for them, and where they are kept between two runs.
//!
//! | file in the cell's state | content |
//! |---|---|
//! | `lists/roots.list`, `lists/revocations.list`, `lists/bans.list`, `lists/roster.list` | a bundle of that one list, signed |

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    clock::WallClock,
    secret_file::{
        SecretFileError, create_private_dir, read_secret_file, read_trusted_file, write_secret_file,
    },
    tls::{ChainError, Direction, Roots, verify_path},
};
use cellbus_proto::{
    codec::body,
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    status::Status,
    trust::{
        BanChange, BanError, BanList, Bundle, LIST_MAX_BYTES, List, ListKind, ListRefused,
        RevocationList, RootsList, Roster, RosterList, Signed, Subject, Taking, Versions, View,
        judge, read,
    },
};
use rustls_pki_types::CertificateDer;

mod sign;
mod vouch;

pub use self::sign::{ListSigner, SignListError};
use self::vouch::{Moment, is_vouched_for, is_vouched_for_by_itself};

/// The lists of one cell.
#[derive(Debug)]
pub struct Lists {
    project: Segment,
    server: Fqcn,
    own: (Fqcn, CellKind, Option<Fqcn>),
    roots: Arc<Roots>,
    wall: WallClock,
    held: Mutex<Held>,
    /// One writer at a time, so that an older list is never written over a newer one.
    writing: Mutex<()>,
    mark: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    signed: Bundle,
    dir: Option<PathBuf>,
    /// The authorities of the cell's own files, before any list: what they signed once may lie in a file.
    of_files: Option<Arc<Roots>>,
}

/// A list that was taken over.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Which.
    pub kind: ListKind,
    /// Its version.
    pub version: u64,
    /// The version of the one before it; 0 for none.
    pub before: u64,
}

/// Why the lists of a cell cannot be used; then it does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListsError {
    /// A file or directory is not as it must be.
    #[error("signed lists")]
    File(#[from] SecretFileError),
    /// A file holds no list that this cell may take over.
    #[error(
        "{path}: {problem}; put the list there that the project's signer has signed last, or have it signed again"
    )]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: ListRefused,
    },
    /// The configuration demands a list that is not there.
    #[error(
        "version {needed} of the {kind} list or a later one must be there, and {held} is what {dir} holds; \
         put the list there as {kind}.list"
    )]
    TooOld {
        /// Which list.
        kind: ListKind,
        /// The version that the configuration names.
        needed: u64,
        /// The version that is there; 0 for none.
        held: u64,
        /// Where it is looked for.
        dir: PathBuf,
    },
    /// The revocation list names this very cell.
    #[error(
        "this cell or its certificate has been revoked; ask the administrator of the project why"
    )]
    Revoked,
    /// The certificate of this cell was issued by an authority that counts no more.
    #[error(
        "the authority that issued this cell's certificate counts no more; ask whoever provisions the project for a \
         new certificate"
    )]
    Authority(#[source] ChainError),
}

impl Lists {
    /// The lists of the cell `name`: none yet.
    pub(crate) fn new(
        name: &Fqcn,
        server: &Fqcn,
        parent: Option<&Fqcn>,
        identity: &Identity,
        roots: &Arc<Roots>,
        wall: WallClock,
    ) -> Self {
        Self {
            project: identity.project.clone(),
            server: server.clone(),
            own: (name.clone(), identity.kind, parent.cloned()),
            roots: Arc::clone(roots),
            wall,
            held: Mutex::default(),
            writing: Mutex::default(),
            mark: AtomicU64::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force.
    #[must_use]
    pub fn view(&self) -> View {
        self.roots.lists()
    }

    /// One number that changes with every list that is taken over; 0 while there is none.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }

    /// The list of this kind, as it was signed.
    #[must_use]
    pub fn signed(&self, kind: ListKind) -> Option<Signed> {
        self.held().signed.get(kind).cloned()
    }

    /// Takes up what `dir` has kept, and what lies in `given` where that is newer, and keeps there what is taken
    /// over from now on. Call it before the cell starts.
    ///
    /// # Arguments
    /// `given`: where whoever provisions the cell puts lists, with the names that they have in `dir`.
    /// `needed`: versions that must be there at least; 0 where there is no such list yet.
    ///
    /// # Errors
    /// [`ListsError`]: a list that is damaged, was changed, or is older than what is needed is no reason to go on
    /// without it.
    pub fn open(&self, dir: &Path, given: &Path, needed: Versions) -> Result<(), ListsError> {
        create_private_dir(dir)?;
        self.held().of_files = Some(Arc::new(self.roots.separate()));
        for kind in ListKind::ALL {
            let name = file_name(kind);
            for (path, is_kept) in [(dir.join(&name), true), (given.join(&name), false)] {
                let bytes = match read_file(&path, is_kept) {
                    Ok(bytes) => bytes,
                    Err(SecretFileError::Missing { .. }) => continue,
                    Err(error) => return Err(error.into()),
                };
                let bad = |problem| ListsError::Bad { path: path.clone(), problem };
                let bundle: Bundle =
                    body::decode_exact(&bytes).map_err(|_| bad(ListRefused::Malformed))?;
                let list = bundle.get(kind).ok_or_else(|| bad(ListRefused::Malformed))?;
                let moment = if is_kept { Moment::Own } else { Moment::Kept };
                match self.judge_and_set(kind, list.clone(), moment) {
                    // What was given at first has been replaced since.
                    Ok(_) | Err(ListRefused::Stale { .. }) => {}
                    Err(problem) => return Err(bad(problem)),
                }
            }
            let (held, needed) = (self.view().versions().of(kind), needed.of(kind));
            if held < needed {
                return Err(ListsError::TooOld { kind, needed, held, dir: dir.to_owned() });
            }
        }
        self.held().dir = Some(dir.to_owned());
        Ok(())
    }

    /// Refuses to go on as a cell that has been revoked. A ban may end; the cell waits for that.
    ///
    /// # Errors
    /// [`ListsError::Revoked`].
    pub fn expect_own(&self, leaf: &[u8; 32]) -> Result<(), ListsError> {
        let (name, kind, _) = &self.own;
        let subject = Subject { kind: *kind, name, leaf };
        match self.view().refuses(subject, self.wall.unix()) {
            Some(Status::CertRevoked) => Err(ListsError::Revoked),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses to go on with a certificate of an authority that counts no more: nobody would accept it.
    ///
    /// # Errors
    /// [`ListsError::Authority`].
    pub fn expect_authority(&self, chain: &[CertificateDer<'_>]) -> Result<(), ListsError> {
        let checked = verify_path(&self.roots, chain, Direction::Dials, self.wall.unix());
        checked.map(drop).map_err(ListsError::Authority)
    }

    /// Takes a list over, if it is newer than what is held and somebody vouches for it who may. It is in force
    /// when this returns; [`Self::keep`] writes it.
    ///
    /// # Errors
    /// [`ListRefused`]; nothing has changed then.
    pub fn take(&self, kind: ListKind, list: Signed) -> Result<Option<Taken>, ListRefused> {
        self.judge_and_set(kind, list, Moment::Comes)
    }

    fn judge_and_set(
        &self,
        kind: ListKind,
        signed: Signed,
        moment: Moment,
    ) -> Result<Option<Taken>, ListRefused> {
        let mut held = self.held();
        let of_files = held.of_files.clone();
        let of_files = of_files.as_deref();
        let mut view = self.view();
        let before = view.versions().of(kind);
        let is_newer = match kind {
            ListKind::Roots => {
                let list: RootsList = self.read(&signed)?;
                let taking =
                    self.weigh(view.roots.as_deref(), &list, &signed, (moment, of_files))?;
                if taking == Taking::Newer {
                    let roots =
                        list.roots.iter().map(|root| CertificateDer::from(root.der.0.clone()));
                    self.roots.replace(roots.collect()).map_err(|_| ListRefused::Malformed)?;
                }
                view.roots = Some(Arc::new(list));
                taking
            }
            ListKind::Revocations => {
                let list: RevocationList = self.read(&signed)?;
                let taking =
                    self.weigh(view.revocations.as_deref(), &list, &signed, (moment, of_files))?;
                view.revocations = Some(Arc::new(list));
                taking
            }
            ListKind::Bans => {
                let list: BanList = self.read(&signed)?;
                if list.server != self.server {
                    return Err(ListRefused::Project);
                }
                let taking =
                    self.weigh(view.bans.as_deref(), &list, &signed, (moment, of_files))?;
                view.bans = Some(Arc::new(list));
                taking
            }
            ListKind::Roster => {
                let list: RosterList = self.read(&signed)?;
                let known = view.roster.as_deref().map(Roster::list);
                let taking = self.weigh(known, &list, &signed, (moment, of_files))?;
                let roster = Roster::new(list).ok_or(ListRefused::Malformed)?;
                let (name, kind, parent) = &self.own;
                if !roster.has(name, *kind, parent.as_ref()) {
                    return Err(ListRefused::WithoutSelf);
                }
                view.roster = Some(Arc::new(roster));
                taking
            }
        };
        if is_newer == Taking::Same {
            return Ok(None);
        }
        let versions = view.versions();
        self.roots.set_lists(view);
        *held.signed.place(kind) = Some(signed);
        self.mark.store(versions.mark(), Ordering::Release);
        Ok(Some(Taken { kind, version: versions.of(kind), before }))
    }

    fn read<L: List>(&self, signed: &Signed) -> Result<L, ListRefused> {
        read(signed, &self.project)
    }

    fn weigh<L: List + PartialEq>(
        &self,
        known: Option<&L>,
        list: &L,
        signed: &Signed,
        (moment, of_files): (Moment, Option<&Roots>),
    ) -> Result<Taking, ListRefused> {
        let taking = judge(known, list)?;
        if taking == Taking::Same {
            return Ok(taking);
        }
        let at = moment.at(list.issued(), self.wall.unix());
        let by = |roots: &Roots| {
            is_vouched_for(roots, L::KIND, signed, (&self.project, &self.server), at)
        };
        let vouched = match moment {
            Moment::Comes => by(&self.roots),
            Moment::Kept => by(&self.roots) || of_files.is_some_and(by),
            Moment::Own if L::KIND == ListKind::Roots => is_vouched_for_by_itself(signed),
            Moment::Own => by(&self.roots) || of_files.is_some_and(by),
        };
        if vouched { Ok(taking) } else { Err(ListRefused::Signer) }
    }

    /// The ban list as an operator wants it changed, signed by the server itself.
    pub(crate) fn changed_bans(
        &self,
        change: BanChange,
        signer: &ListSigner,
    ) -> Result<Signed, ChangeRefused> {
        let now = self.wall.unix();
        let next = match &self.view().bans {
            Some(list) => list.changed(change, now)?,
            None => {
                BanList::empty(self.project.clone(), self.server.clone()).changed(change, now)?
            }
        };
        Ok(signer.sign(&next)?)
    }

    /// Writes the list of this kind where the next run finds it. Blocks.
    ///
    /// # Errors
    /// [`SecretFileError`]: the list is in force, and will not be after the next start.
    pub fn keep(&self, kind: ListKind) -> Result<(), SecretFileError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (dir, list) = {
            let held = self.held();
            (held.dir.clone(), held.signed.get(kind).cloned())
        };
        let (Some(dir), Some(list)) = (dir, list) else { return Ok(()) };
        write_secret_file(&dir.join(file_name(kind)), &body::encode(&Bundle::of(kind, list)))
    }
}

/// Why the ban list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeRefused {
    /// It cannot be changed so.
    #[error(transparent)]
    Change(#[from] BanError),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignListError),
    /// This cell is not the server.
    #[error("only the server keeps a ban list")]
    NotServer,
    /// The list was not taken over.
    #[error(transparent)]
    Refused(#[from] ListRefused),
    /// The cell is ending.
    #[error("the cell is ending")]
    Ending,
}

/// What a cell has kept is for its owner alone; what it was given need not be.
fn read_file(path: &Path, is_kept: bool) -> Result<Vec<u8>, SecretFileError> {
    const MAX_LEN: usize = LIST_MAX_BYTES + 64;
    if is_kept {
        return read_secret_file(path, MAX_LEN).map(|bytes| bytes.to_vec());
    }
    read_trusted_file(path, MAX_LEN)
}

/// The name of the file that holds a list of this kind.
#[must_use]
pub fn file_name(kind: ListKind) -> String {
    format!("{kind}.list")
}

#[cfg(test)]
mod tests;
