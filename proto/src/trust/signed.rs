//! A list with its signature, and whether it takes the place of the one that is held.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{LIST_MAX_BYTES, ListKind};
use crate::{
    codec::body::{self, Blob, CHAIN_MAX, at_most},
    name::Segment,
    status::Status,
    transcript::{Signable, Transcript},
};

/// What can be signed and handed on.
pub trait List: Serialize + DeserializeOwned {
    /// Which list it is.
    const KIND: ListKind;

    /// The project that it is for.
    fn project(&self) -> &Segment;

    /// Its version, from 1.
    fn version(&self) -> u64;

    /// When it was signed, in seconds since 1970.
    fn issued(&self) -> u64;

    /// Whether its entries are in their one order, and all else is as it must be.
    fn is_well_formed(&self) -> bool;
}

/// A list as it travels and lies in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The list, as [`body::encode`] writes it.
    pub content: Blob,
    /// Certificates of who signed it, DER, leaf first; none where a root of the project did.
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
    /// For the purpose of the list.
    pub signature: Blob,
}

/// Some of the lists: a message, or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The revocation list.
    pub revocations: Option<Signed>,
    /// The ban list.
    pub bans: Option<Signed>,
    /// The roster.
    pub roster: Option<Signed>,
    /// The list of roots.
    pub roots: Option<Signed>,
}

/// Why a list was not taken over. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListRefused {
    /// It is larger than any list may be.
    #[error("larger than {LIST_MAX_BYTES} bytes")]
    TooLarge,
    /// It is no list, or is spelled or ordered otherwise than a list is.
    #[error("no well-formed list")]
    Malformed,
    /// It is another project's, or another server's.
    #[error("a list of another project")]
    Project,
    /// Who signed it may not, or the signature does not verify.
    #[error("not signed by who may sign it")]
    Signer,
    /// It is older than the one that is held.
    #[error("version {got} is older than version {held}, which is held")]
    Stale {
        /// The version that is held.
        held: u64,
        /// That of the list.
        got: u64,
    },
    /// It has the version of the one that is held, and says something else.
    #[error("another list of version {held} is held")]
    Conflict {
        /// The version of both.
        held: u64,
    },
    /// It leaves out the cell that was to take it over.
    #[error("this cell is not on the roster, or stands elsewhere on it")]
    WithoutSelf,
}

impl ListRefused {
    /// The code to count and log it under.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::TooLarge => Status::TooLarge,
            Self::Malformed => Status::BadFrame,
            Self::Project | Self::WithoutSelf => Status::Forbidden,
            Self::Signer => Status::BadSignature,
            Self::Stale { .. } | Self::Conflict { .. } => Status::StaleList,
        }
    }
}

/// What becomes of a list whose signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It takes the place of the one that is held.
    Newer,
    /// It is the one that is held.
    Same,
}

impl Bundle {
    /// A bundle of one list.
    #[must_use]
    pub fn of(kind: ListKind, list: Signed) -> Self {
        let mut bundle = Self::default();
        *bundle.place(kind) = Some(list);
        bundle
    }

    /// Where the list of this kind stands.
    pub fn place(&mut self, kind: ListKind) -> &mut Option<Signed> {
        match kind {
            ListKind::Roots => &mut self.roots,
            ListKind::Revocations => &mut self.revocations,
            ListKind::Bans => &mut self.bans,
            ListKind::Roster => &mut self.roster,
        }
    }

    /// The list of this kind.
    #[must_use]
    pub fn get(&self, kind: ListKind) -> Option<&Signed> {
        match kind {
            ListKind::Roots => self.roots.as_ref(),
            ListKind::Revocations => self.revocations.as_ref(),
            ListKind::Bans => self.bans.as_ref(),
            ListKind::Roster => self.roster.as_ref(),
        }
    }

    /// The lists that are there, roots and revocations first: what they say holds for who signed the others.
    pub fn lists(self) -> impl Iterator<Item = (ListKind, Signed)> {
        let Self { revocations, bans, roster, roots } = self;
        ListKind::ALL
            .into_iter()
            .zip([roots, revocations, bans, roster])
            .filter_map(|(k, l)| Some((k, l?)))
    }
}

impl Signed {
    /// Joins a list with its signature. Not signed yet: the caller signs [`Self::signable`].
    #[must_use]
    pub fn unsigned<L: List>(list: &L, chain: Vec<Blob>) -> Self {
        Self { content: Blob(body::encode(list).to_vec()), chain, signature: Blob(Vec::new()) }
    }

    /// What who vouches for it signs.
    #[must_use]
    pub fn signable(&self, kind: ListKind) -> Signable {
        Transcript::new(kind.purpose()).field(&self.content.0).finish()
    }

    fn len(&self) -> usize {
        let chain: usize = self.chain.iter().map(|der| der.0.len()).sum();
        self.content.0.len() + chain + self.signature.0.len()
    }
}

/// What a signed list says, if it is a list of `project`. Says nothing of who signed it.
///
/// # Errors
/// [`ListRefused::TooLarge`], [`ListRefused::Malformed`] and [`ListRefused::Project`].
pub fn read<L: List>(signed: &Signed, project: &Segment) -> Result<L, ListRefused> {
    if signed.len() > LIST_MAX_BYTES {
        return Err(ListRefused::TooLarge);
    }
    let list: L = body::decode_exact(&signed.content.0).map_err(|_| ListRefused::Malformed)?;
    if list.version() == 0 || !list.is_well_formed() {
        return Err(ListRefused::Malformed);
    }
    if list.project() != project {
        return Err(ListRefused::Project);
    }
    Ok(list)
}

/// Whether `new` takes the place of `held`: only a higher version does.
///
/// # Errors
/// [`ListRefused::Stale`] and [`ListRefused::Conflict`].
pub fn judge<L: List + PartialEq>(held: Option<&L>, new: &L) -> Result<Taking, ListRefused> {
    let (Some(list), got) = (held, new.version()) else { return Ok(Taking::Newer) };
    let held = list.version();
    match got.cmp(&held) {
        std::cmp::Ordering::Greater => Ok(Taking::Newer),
        std::cmp::Ordering::Equal if list == new => Ok(Taking::Same),
        std::cmp::Ordering::Equal => Err(ListRefused::Conflict { held }),
        std::cmp::Ordering::Less => Err(ListRefused::Stale { held, got }),
    }
}
