//! Parts in a directory, from before a restart.

use std::{
    io,
    path::{Path, PathBuf},
};

use cellbus_proto::transfer::{PartState, SignedReference, Stage, TransferId};

use super::{super::error::SinkError, beside::Beside};

/// A fetch that a restart has found, and that can be gone on with: fetch its reference into a
/// [`Sink::file`](super::Sink::file) at its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPart {
    /// The file that it is a part of.
    pub target: PathBuf,
    /// What was being fetched; it was verified when that began.
    pub reference: SignedReference,
    /// Bytes of it that are there.
    pub durable: u64,
    /// Whether everything is there and verified, and only the receipt may be missing.
    pub is_whole: bool,
}

/// The parts in `directory`. What is damaged, or not ours, is not among them.
pub(in crate::transfer) fn find(directory: &Path) -> Result<Vec<FoundPart>, SinkError> {
    let entries = std::fs::read_dir(directory).map_err(SinkError::io("list", directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry: io::Result<std::fs::DirEntry> = entry;
        let name = entry.map_err(SinkError::io("list", directory))?.file_name();
        let Some((target, id)) = name.to_str().and_then(named) else { continue };
        let target = directory.join(target);
        let Ok(beside) = Beside::open(&target, &id) else { continue };
        let Ok(Some(state)) = beside.read_state(PartState::BYTES_MAX) else { continue };
        let Ok(PartState { reference, durable, stage, .. }) = PartState::decode(&state) else {
            continue;
        };
        if reference.reference.id == id {
            let is_whole = matches!(stage, Stage::Verified(_));
            found.push(FoundPart { target, reference, durable, is_whole });
        }
    }
    found.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(found)
}

/// Target and id in the name of a state.
fn named(name: &str) -> Option<(&str, TransferId)> {
    let (target, id) = name.strip_prefix('.')?.strip_suffix(".state")?.rsplit_once('.')?;
    Some((target, id.parse().ok()?))
}
