//! What a join door keeps: for each invitation an entry, and up to two sealed letters, each written whole.
//!
//! ```text
//! <state of the cell>/join/<name>.entry     who has come, and how far it is
//! <state of the cell>/join/<name>.request   the request that waits, or was answered
//! <state of the cell>/join/<name>.reply     the reply
//! ```
//!
//! An entry names its letters by their hashes, so a letter without its entry counts for nothing.

use std::path::{Path, PathBuf};

use cellbus_proto::{
    codec::body,
    joining::{Door, Entry, REPLY_MAX_BYTES, REQUEST_MAX_BYTES},
    name::Segment,
    transcript::sha256,
};
use cellbus_runtime::secret_file::{
    SecretFileError, create_private_dir, read_secret_file, remove_leftovers, write_secret_file,
};

const ENTRY: &str = "entry";
const REQUEST: &str = "request";
const REPLY: &str = "reply";
/// Bytes in the largest entry.
const ENTRY_MAX_BYTES: usize = 4096;

/// The directory of a door.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens `dir`, and reads the entries in it.
    pub(super) fn open(dir: &Path) -> Result<(Self, Door), SecretFileError> {
        create_private_dir(dir)?;
        remove_leftovers(dir)?;
        let store = Self { dir: dir.to_owned() };
        let mut door = Door::default();
        let listed = std::fs::read_dir(dir).map_err(|source| SecretFileError::Io {
            action: "list",
            path: dir.to_owned(),
            source,
        })?;
        for file in listed.flatten() {
            let file = file.file_name();
            let name = file.to_str().and_then(|name| name.strip_suffix(".entry"));
            let Some(name) = name.and_then(|name| name.parse::<Segment>().ok()) else { continue };
            match store.entry(&name) {
                Ok(entry) => door.put(name, entry),
                Err(why) => tracing::warn!(%name, why, "an entry of the join door cannot be used"),
            }
        }
        Ok((store, door))
    }

    fn place(&self, name: &Segment, what: &str) -> PathBuf {
        self.dir.join(format!("{name}.{what}"))
    }

    /// An entry whose letters are there.
    fn entry(&self, name: &Segment) -> Result<Entry, String> {
        let bytes = read_secret_file(&self.place(name, ENTRY), ENTRY_MAX_BYTES);
        let bytes = bytes.map_err(|error| error.to_string())?;
        let entry: Entry = body::decode_exact(&bytes).map_err(|_| "it is damaged".to_owned())?;
        if let Some(claim) = entry.claim() {
            self.request(name, &claim.request_sha256.0).map_err(|error| error.to_string())?;
        }
        Ok(entry)
    }

    pub(super) fn keep_entry(&self, name: &Segment, entry: &Entry) -> Result<(), SecretFileError> {
        write_secret_file(&self.place(name, ENTRY), &body::encode(entry))
    }

    pub(super) fn keep_request(&self, name: &Segment, bytes: &[u8]) -> Result<(), SecretFileError> {
        write_secret_file(&self.place(name, REQUEST), bytes)
    }

    pub(super) fn keep_reply(&self, name: &Segment, bytes: &[u8]) -> Result<(), SecretFileError> {
        write_secret_file(&self.place(name, REPLY), bytes)
    }

    pub(super) fn request(
        &self,
        name: &Segment,
        expected: &[u8; 32],
    ) -> Result<Vec<u8>, SecretFileError> {
        self.letter(self.place(name, REQUEST), REQUEST_MAX_BYTES, expected)
    }

    pub(super) fn reply(
        &self,
        name: &Segment,
        expected: &[u8; 32],
    ) -> Result<Vec<u8>, SecretFileError> {
        self.letter(self.place(name, REPLY), REPLY_MAX_BYTES, expected)
    }

    fn letter(
        &self,
        path: PathBuf,
        max: usize,
        expected: &[u8; 32],
    ) -> Result<Vec<u8>, SecretFileError> {
        let bytes = read_secret_file(&path, max)?;
        if sha256(&bytes) == *expected {
            return Ok(bytes.to_vec());
        }
        let source = std::io::Error::other("it is not the one that its entry names");
        Err(SecretFileError::Io { action: "use", path, source })
    }

    /// Removes the letters of an invitation. One that stays counts for nothing.
    pub(super) fn forget_letters(&self, name: &Segment) {
        self.remove(name, &[REQUEST, REPLY]);
    }

    /// Removes all of an invitation, its entry first: letters without one count for nothing.
    pub(super) fn forget(&self, name: &Segment) {
        self.remove(name, &[ENTRY, REQUEST, REPLY]);
    }

    fn remove(&self, name: &Segment, what: &[&str]) {
        for what in what {
            match std::fs::remove_file(self.place(name, what)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%name, what, %error, "a file of the join door cannot be removed");
                }
            }
        }
    }
}
