//! A file that is fetched: a part beside it, a state from which a restart goes on, and one step that puts it in
//! place.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, FileMark, PartState, SignedReference, Stage};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{
    super::{error::SinkError, source::read_at},
    Found, Store, Syncing,
    beside::Beside,
};

/// The file that is to be at a path.
#[derive(Debug)]
pub(super) struct FileStore {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    beside: Arc<Beside>,
    /// `None` once it has taken its place.
    part: Option<Arc<File>>,
    signed: SignedReference,
    written: u64,
}

impl FileStore {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    fn opened(&mut self) -> Result<&mut Open, SinkError> {
        self.open.as_mut().ok_or(SinkError::BrokenOff)
    }
}

/// What a state says, where it is good and of this transfer.
fn usable(state: &[u8], signed: &SignedReference) -> Option<PartState> {
    let state = PartState::decode(state).ok()?;
    let (old, new) = (&state.reference.reference, &signed.reference);
    let is_same = old.id == new.id
        && old.holder == new.holder
        && old.target == new.target
        && old.generation == new.generation
        && old.size == new.size
        && old.digest == new.digest
        && old.seal == new.seal;
    is_same.then_some(state)
}

impl Store for FileStore {
    fn open(&mut self, signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        let beside = Beside::open(&self.path, &signed.reference.id)?;
        let state = beside.read_state(PartState::BYTES_MAX)?;
        let state = state.and_then(|state| usable(&state, signed));
        let mut open =
            Open { beside: Arc::new(beside), part: None, signed: signed.clone(), written: 0 };
        if let Some(PartState { durable, stage: stage @ Stage::Verified(_), file, .. }) = state
            && open.was_verified(durable, file)?
        {
            open.written = durable;
            self.open = Some(open);
            return Ok(Some(Found { durable, stage }));
        }
        let part = open.beside.open_part(true)?;
        let path = || open.beside.path(&open.beside.part);
        let len = part.metadata().map_err(SinkError::io("examine", path()))?.len();
        let durable = match state {
            Some(PartState { durable, stage: Stage::Receiving, .. }) if durable <= len => durable,
            Some(_) | None => 0,
        };
        part.set_len(durable).map_err(SinkError::io("cut off", path()))?;
        open.written = durable;
        open.part = Some(Arc::new(part));
        open.beside.write_state(&open.state(durable), durable > 0)?;
        self.open = Some(open);
        Ok((durable > 0).then_some(Found { durable, stage: Stage::Receiving }))
    }

    fn change(&mut self, signed: &SignedReference) {
        if let Some(open) = &mut self.open {
            open.signed = signed.clone();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let open = self.opened()?;
        let part = open.part.as_ref().ok_or(SinkError::BrokenOff)?;
        let written = part.write_all_at(bytes, open.written);
        written.map_err(SinkError::io("write", open.beside.path(&open.beside.part)))?;
        open.written += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self, to: u64) -> Option<Syncing> {
        let open = self.open.as_ref()?;
        let (beside, part) = (Arc::clone(&open.beside), Arc::clone(open.part.as_ref()?));
        let state = open.state(to);
        Some(Box::new(move || {
            part.sync_data().map_err(SinkError::io("flush", beside.path(&beside.part)))?;
            beside.write_state(&state, true)
        }))
    }

    fn probe(&mut self, bytes: u64) -> Result<(), SinkError> {
        let open = self.opened()?;
        let part = open.part.as_ref().ok_or(SinkError::BrokenOff)?;
        let allocated = rustix::fs::fallocate(part, FallocateFlags::KEEP_SIZE, open.written, bytes);
        match allocated {
            // Not every file system can say so beforehand.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => {
                Err(SinkError::io("reserve room in", open.beside.path(&open.beside.part))(error))
            }
        }
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        let open = self.opened()?;
        let Some(part) = &open.part else { return Err(SinkError::NoWayBack) };
        part.set_len(to).map_err(SinkError::io("cut off", open.beside.path(&open.beside.part)))?;
        open.written = to;
        // A state that says more than there is would have a restart begin anew.
        match open.beside.write_state(&open.state(to), true) {
            // What it says of another content must not be believed of this one. That takes no room.
            Err(_) if to == 0 => open.beside.unlink(&open.beside.state),
            // It is believed up to what there is.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        let open = self.opened()?;
        let part = open.part.as_ref().ok_or(SinkError::BrokenOff)?;
        read_at(part, offset, want)
            .map_err(SinkError::io("read", open.beside.path(&open.beside.part)))
    }

    fn commit(&mut self, size: u64, digest: Digest) -> Result<(), SinkError> {
        let open = self.opened()?;
        let part = open.part.as_ref().ok_or(SinkError::BrokenOff)?;
        let beside = &open.beside;
        part.sync_all().map_err(SinkError::io("flush", beside.path(&beside.part)))?;
        let verified = PartState {
            reference: open.signed.clone(),
            durable: size,
            stage: Stage::Verified(digest),
            file: Some(beside.mark(part)?),
        };
        beside.write_state(&verified.encode(), true)?;
        if !beside.is_at(part, &beside.part) {
            let path = beside.path(&beside.part);
            return Err(SinkError::Foreign { path, why: "it was exchanged for another file" });
        }
        beside.put_in_place()?;
        open.part = None;
        Ok(())
    }

    fn settle(&mut self) {
        if let Some(open) = &self.open {
            // What is left behind says of a file in its place that it is there.
            let _ = open.beside.unlink(&open.beside.state);
        }
    }

    fn discard(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.part.is_none() {
            return;
        }
        let beside = &open.beside;
        for name in [&beside.part, &beside.state, &format!("{}~", beside.state)] {
            // What cannot be removed is found as a part later.
            let _ = beside.unlink(name);
        }
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

impl Open {
    fn state(&self, durable: u64) -> Bytes {
        let (reference, stage) = (self.signed.clone(), Stage::Receiving);
        PartState { reference, durable, stage, file: None }.encode()
    }

    /// Whether everything was verified before a restart: it is in its place, which another `file` may have taken since,
    /// or is put there now.
    fn was_verified(&self, size: u64, file: Option<FileMark>) -> Result<bool, SinkError> {
        match self.beside.open_part(false) {
            Ok(part) => {
                let is_whole = part.metadata().is_ok_and(|metadata| metadata.len() == size);
                if is_whole {
                    self.beside.put_in_place()?;
                }
                Ok(is_whole)
            }
            Err(SinkError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(file.is_some() && self.beside.target_mark() == file)
            }
            Err(error) => Err(error),
        }
    }
}
